"""The losses of a step become one number and one gradient, whole, in parts and over ranks."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rechub_ray.batch import Batch, Features, Outputs, split
from rechub_ray.errors import ConfigError
from rechub_ray.gradients import Gradients
from rechub_ray.models import MODELS, Model
from rechub_ray.optimizers import build_optimizers
from rechub_ray.outputs import Output
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature
from rechub_ray.task import Task, shared_parameters, shared_task_layers
from rechub_ray.world import World
from tests.worlds import on_ranks

FEATURES = (SparseFeature("user", 30), SparseFeature("item", 20), DenseFeature("age", dim=3))
ONE = Schema(FEATURES, (Label("click"),), group="user", weight="w")
TWO = Schema(FEATURES, (Label("click"), Label("rating", "regression", optional=True)), group="user", weight="w")
CHAIN = dataclasses.replace(TWO, labels=(Label("click"), Label("buy")))
THREE = dataclasses.replace(TWO, labels=(*TWO.labels, Label("stars", "multiclass", num_classes=4)))
SEEDING = threading.Lock()
SMALL = {"name": "shared_bottom", "embedding_dim": 4, "bottom_units": [8], "tower_units": [], "init_std": 0.3}


def draw(schema: Schema, rows: int, *, weighted: bool = False, seed: int = 0) -> Batch:
    """Random rows whose groups lie together; every third optional label is missing."""
    generator = torch.Generator().manual_seed(seed)
    sparse = torch.stack([torch.randint(0, f.vocab_size, (rows,), generator=generator) for f in schema.sparse], 1)
    labels = []
    for label in schema.labels:
        drawn = torch.randint(0, label.num_classes or 2, (rows,), generator=generator).float()
        if label.kind == "regression":
            drawn = torch.randn(rows, generator=generator)
        labels.append(torch.where(torch.arange(rows) % 3 == 0, torch.nan, drawn) if label.optional else drawn)
    weight = torch.rand(rows, generator=generator) * (torch.arange(rows) % 4 > 0) if weighted else None
    dense = torch.randn(rows, schema.dense_dim, generator=generator)
    return Batch(Features(sparse, dense), torch.stack(labels, 1), weight, torch.arange(rows) // 4)


def take(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(
        Features(batch.features.sparse[start:stop], batch.features.dense[start:stop]),
        batch.labels[start:stop],
        None if batch.weight is None else batch.weight[start:stop],
        None if batch.group is None else batch.group[start:stop],
    )


def build(schema: Schema, losses: list[Any], balancing: Any = None, *, model: Any = None, **settings: Any) -> Task:
    with SEEDING:  # ranks are threads here, and share torch's generator
        torch.manual_seed(0)
        built = MODELS.build(model or SMALL, schema)
    return Task(built, schema, losses, balancing, **settings)


def step(task: Task, parts: list[Batch], *, by_rows: bool = False) -> tuple[float, dict[str, Tensor]]:
    """The total and every parameter's gradient, as the optimizers get them."""
    tables = {"name": "rowwise_adagrad", "params": "embedding.*"}
    own = task.objective_parameters()
    build_optimizers([tables, "adam"] if by_rows else ["adam"], task.model, also=own)
    gradients = Gradients(task.model, task.world, objective=own)
    terms, averaged = task.backward(parts, gradients, seed=3)
    gradients.put(averaged)
    total = float(task.world.sum_(terms.total.clone()) / task.world.size)
    named = {name.removeprefix("model."): p.grad for name, p in task.named_parameters()}
    return total, {name: g.to_dense() if g.is_sparse else g for name, g in named.items() if g is not None}


BOTH = ["bce", {"name": "mse", "label": "rating", "weight": 0.5}]
LEARNED = {"name": "bce", "learn_loss_weight": True, "weight": 7.0}
JRC = {"name": "jrc", "session_name": "user"}
ZILN = {"name": "ziln", "label": "rating"}
HEADS = {"classes": {"click": "classes"}, "sums": {"rating": "distribution"}}
CASES = {
    "one": (ONE, ["bce"], None),
    "two": (TWO, BOTH, None),
    "all kinds": (THREE, [*BOTH, {"name": "cross_entropy", "label": "stars"}], None),
    "uwl": (TWO, BOTH, "uwl"),
    "pcgrad": (THREE, [*BOTH, {"name": "cross_entropy", "label": "stars"}], "pcgrad"),
    "learned": (TWO, [LEARNED, {"name": "mse", "label": "rating", "learn_loss_weight": True}, "bce"], None),
    "learned under pcgrad": (TWO, [LEARNED, *BOTH], "pcgrad"),
    "fixed": (TWO, BOTH, {"name": "fixed", "task_weights": {"rating": 3.0}}),
    "random": (TWO, BOTH, "random"),
    "metabalance": (THREE, [*BOTH, {"name": "cross_entropy", "label": "stars"}], "metabalance"),
    "gradnorm": (THREE, [*BOTH, {"name": "cross_entropy", "label": "stars"}], "gradnorm"),
    "groups": (TWO, [*BOTH, {"name": "pairwise_logistic", "session_name": "user"}], None),
    "groups under uwl": (TWO, [*BOTH, {"name": "pairwise_logistic", "session_name": "user"}], "uwl"),
    "groups of two classes": (TWO, [{**JRC, "loss_weight_strategy": "random_normal"}, BOTH[1]], None),
    "groups of two classes, learned": (TWO, [{**JRC, "loss_weight_strategy": "uncertainty"}, BOTH[1]], "pcgrad"),
    "several sums": (TWO, ["bce", ZILN], None),
    "groups, several sums": (TWO, ["bce", {**ZILN, "learn_loss_weight": True}], "pcgrad"),
    "pairs": (TWO, [*BOTH, "pairwise_logistic"], None),
    "whole steps: f1": (TWO, [*BOTH, {"name": "f1_reweighted", "f1_beta_square": 0.6}], None),
    "whole steps: the hardest rows": (TWO, [*BOTH, {"name": "binary_focal", "ohem_ratio": 0.3}], "pcgrad"),
    "pairs, the hardest": (TWO, [*BOTH, {"name": "pairwise_hinge", "label": "rating", "ohem_ratio": 0.3}], None),
    "pairs under pcgrad": (TWO, [*BOTH, "pairwise_logistic"], "pcgrad"),
}


def settings_of(name: str) -> dict[str, Any]:
    settings: dict[str, Any] = {"grouped": True} if name.startswith("groups") else {}
    heads = {label: head for word in HEADS if word in name for label, head in HEADS[word].items()}
    return {**settings, "model": {**SMALL, "heads": heads}} if heads else settings


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_have_the_whole_batchs_loss_and_gradient(name: str, weighted: bool, by_rows: bool) -> None:
    schema, losses, balancing = CASES[name]
    batch = draw(schema, 24, weighted=weighted)
    expected, gradients = step(build(schema, losses, balancing, **settings_of(name)), [batch], by_rows=by_rows)
    cuts = [(0, 8), (8, 24)] if name.startswith("groups") else [(0, 12), (12, 24)]

    def work(world: World) -> tuple[float, dict[str, Tensor]]:
        task = build(schema, losses, balancing, world=world, **settings_of(name))
        return step(task, [take(batch, *cuts[world.rank])], by_rows=by_rows)

    for total, found in on_ranks(2, work):
        assert total == pytest.approx(expected, rel=1e-5)
        for key, gradient in gradients.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith(("pairs", "whole"))])
def test_parts_on_two_ranks_have_them_too(name: str, weighted: bool, by_rows: bool) -> None:
    schema, losses, balancing = CASES[name]
    batch = draw(schema, 24, weighted=weighted)
    expected, gradients = step(build(schema, losses, balancing, **settings_of(name)), [batch], by_rows=by_rows)

    def work(world: World) -> tuple[float, dict[str, Tensor]]:
        task = build(schema, losses, balancing, world=world, parts=2, **settings_of(name))
        start = 12 * world.rank
        return step(task, [take(batch, start, start + 4), take(batch, start + 4, start + 12)], by_rows=by_rows)

    for total, found in on_ranks(2, work):
        assert total == pytest.approx(expected, rel=1e-5)
        for key, gradient in gradients.items():
            torch.testing.assert_close(found[key], gradient, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("balancing", ["uwl", "pcgrad"])
def test_every_rank_has_the_same_bits(balancing: str) -> None:
    batch = draw(TWO, 24)

    def work(world: World) -> dict[str, Tensor]:
        task = build(TWO, BOTH, balancing, world=world)
        return step(task, [take(batch, 12 * world.rank, 12 * world.rank + 12)], by_rows=True)[1]

    first, second = on_ranks(2, work)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_loss_over_the_whole_batch_takes_no_parts() -> None:
    """Half and half, its value is another one, so it is refused."""
    batch = draw(ONE, 24)
    whole = step(build(ONE, ["pairwise_logistic"]), [batch])[0]
    halves = [step(build(ONE, ["pairwise_logistic"]), [part])[0] for part in split(batch, 2)]
    assert sum(halves) / 2 != pytest.approx(whole, rel=1e-3)
    with pytest.raises(ConfigError, match=r"'losses.0'.*2 accumulated parts.*train.accumulate_steps=1"):
        build(ONE, ["pairwise_logistic"], parts=2)


def test_a_loss_within_groups_wants_steps_of_whole_groups() -> None:
    node = {"name": "pairwise_logistic", "session_name": "user"}
    with pytest.raises(ConfigError, match=r"'losses.0'.*data.group_by=true"):
        build(ONE, [node])
    with pytest.raises(ConfigError, match=r"'session_name' is 'session'.*'user'"):
        build(ONE, [{**node, "session_name": "session"}], grouped=True)


def test_random_numbers_of_losses_follow_the_steps_seed() -> None:
    losses = [{**JRC, "loss_weight_strategy": "random_uniform"}, BOTH[1]]
    task, batch = build(TWO, losses, **settings_of("groups of two classes")), draw(TWO, 24)
    gradients = Gradients(task.model, task.world)
    found = [task.backward([batch], gradients, seed=seed)[0].total.item() for seed in (5, 6, 5)]
    assert found[0] == found[2] != found[1]


class Fixed(Model):
    """Gives what the test says, whatever the rows."""

    def __init__(self, schema: Schema, outputs: tuple[Output, ...], values: Callable[[int], Outputs]) -> None:
        super().__init__(schema)
        self.outputs, self.values = outputs, values
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, features: Features) -> Outputs:
        return {name: value * self.scale for name, value in self.values(features.rows).items()}


def test_total_is_the_weighted_sum_and_parts_are_before_the_weights() -> None:
    batch = draw(TWO, 10)
    task = build(TWO, BOTH)
    terms = task(batch)
    outputs = task.model(batch.features)
    there = ~batch.labels[:, 1].isnan()
    click = nn.functional.binary_cross_entropy_with_logits(outputs["logit/click"], batch.labels[:, 0])
    rating = nn.functional.mse_loss(outputs["value/rating"][there], batch.labels[there, 1])
    torch.testing.assert_close(terms.parts, {"bce/click": click.detach(), "mse/rating": rating.detach()})
    torch.testing.assert_close(terms.total, click + 0.5 * rating)


@pytest.mark.parametrize("balancing", [None, "uwl"])
def test_the_models_own_losses_are_added_by_rows_and_logged(balancing: str | None) -> None:
    outputs = (Output("logit"), Output("balance", "loss"))
    model = Fixed(ONE, outputs, lambda rows: {"logit": torch.zeros(rows), "balance": torch.tensor(0.5)})
    batch = draw(ONE, 10)
    task = Task(model, ONE, ["bce"], balancing)
    terms = task(batch)
    assert set(terms.parts) == {"bce", "balance"}
    assert terms.total.item() == pytest.approx(terms.parts["bce"].item() + 0.5)
    parts = [take(batch, 0, 2), take(batch, 2, 10)]
    size = task.size(parts)
    assert [float(task(part, size).parts["balance"]) for part in parts] == pytest.approx([0.1, 0.4])
    assert step(task, parts)[0] == pytest.approx(terms.total.item())


def test_the_models_own_losses_stay_outside_of_balanced_gradients() -> None:
    def both(rows: int) -> Outputs:
        return {"logit/click": torch.ones(rows), "value/rating": torch.ones(rows), "own": torch.tensor(7.0)}

    outputs = (Output("logit/click", label="click"), Output("value/rating", "value", "rating"), Output("own", "loss"))
    batch = draw(TWO, 12)
    with_own = step(Task(Fixed(TWO, outputs, both), TWO, BOTH, "pcgrad"), [batch])[1]["scale"]
    silent = tuple(dataclasses.replace(o) for o in outputs[:2])
    without = Fixed(TWO, silent, lambda rows: {k: v for k, v in both(rows).items() if k != "own"})
    torch.testing.assert_close(with_own, step(Task(without, TWO, BOTH, "pcgrad"), [batch])[1]["scale"] + 7)


def test_the_models_own_loss_weighs_by_rows_where_ranks_differ_in_them() -> None:
    outputs = (Output("logit"), Output("own", "loss"))
    shares = [(0, 20, 1.0), (20, 24, 0.0)]
    batch = draw(ONE, 24)

    def work(world: World) -> float:
        start, stop, own = shares[world.rank]
        model = Fixed(ONE, outputs, lambda rows: {"logit": torch.zeros(rows), "own": torch.tensor(own)})
        terms = Task(model, ONE, ["bce"], world=world, grouped=True)(take(batch, start, stop))
        return float(terms.parts["own"].detach())

    assert sum(on_ranks(2, work)) / 2 == pytest.approx(20 / 24)


def test_names_are_unique() -> None:
    three = (Output("a"), Output("b"), Output("c"))
    model = Fixed(ONE, three, lambda rows: {})
    assert Task(model, ONE, [{"name": "bce", "output": o.name} for o in three]).names == ["bce", "bce_2", "bce_3"]


def test_nothing_to_count_gives_zero_and_no_nan() -> None:
    batch = dataclasses.replace(draw(TWO, 4), labels=torch.full((4, 2), torch.nan), weight=torch.zeros(4))
    batch.labels[:, 0] = 1
    total, gradients = step(build(TWO, BOTH), [batch])
    assert total == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients.values())


@pytest.mark.parametrize(
    ("schema", "losses", "message"),
    [
        (ONE, ["bce", {"name": "bce", "output": "logits"}], r"'losses.1.output'.*Did you mean 'logit'"),
        (ONE, ["bce", {"name": "bce", "smoothing": 0.1}], r"'losses\.1'.*'smoothing'.*label_smoothing"),
        (ONE, [], "'losses' is empty"),
        (
            CHAIN,
            ["bce", {"name": "order_calibrate", "label": "buy", "relations": ["click"]}],
            "no loss trains label 'buy'",
        ),
        (TWO, ["bce"], r"no loss trains label 'rating'. Add a loss with label: rating, or .*data.labels=\['click'\]"),
        (
            TWO,
            [*BOTH, {"name": "bce", "output": "value/rating", "label": "click"}],
            "predicts label 'rating', not 'click'",
        ),
        (
            TWO,
            [*BOTH, {"name": "mse", "label": "click"}],
            "'losses.2': 'mse' and 'bce' read the output of label 'click'",
        ),
        (THREE, [*BOTH, {"name": "bce", "label": "stars"}], r"'bce' cannot learn label 'stars'.*multiclass"),
        (TWO, ["bce", {"name": "bce", "output": "value/rating"}], r"cannot learn label 'rating'|cannot read output"),
    ],
)
def test_what_does_not_fit_together_is_named(schema: Schema, losses: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(schema, losses)


def test_a_model_of_one_output_trains_one_label() -> None:
    with pytest.raises(ConfigError, match=r"no loss trains label 'rating'.*data.labels=\['click'\]"):
        build(TWO, ["bce"], model="fm")
    with pytest.raises(ConfigError, match=r"'losses.1': no output of the model predicts label 'rating'"):
        build(TWO, BOTH, model="fm")


def test_a_models_own_loss_may_not_have_the_name_of_a_loss() -> None:
    model = Fixed(ONE, (Output("logit"), Output("bce", "loss")), lambda rows: {})
    with pytest.raises(ConfigError, match="own loss 'bce'"):
        Task(model, ONE, ["bce"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda rows: {"logit": torch.zeros(rows, 1)}, r"'logit' of kind logit has a wrong shape.*\(6,\).*\(6, 1\)"),
        (lambda rows: {"score": torch.zeros(rows)}, "does not give the outputs that it declares.*logit.*score"),
    ],
)
def test_a_model_that_gives_something_else_is_told_at_the_first_step(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Task(Fixed(ONE, (Output("logit"),), values), ONE, ["bce"])(draw(ONE, 6))


def test_parameters_of_balancing_are_saved_and_taken_back_but_are_not_the_models() -> None:
    task = build(TWO, BOTH, "uwl")
    assert list(task.objective_parameters()) == list(task.objective_state()) == ["balancing.log_variance"]
    with torch.no_grad():
        task.objective_parameters()["balancing.log_variance"].copy_(torch.tensor([1.0, 2.0]))
    other = build(TWO, BOTH, "uwl")
    other.load_objective_state({name: value.clone() for name, value in task.objective_state().items()})
    assert other.objective_parameters()["balancing.log_variance"].tolist() == [1, 2]
    assert not [name for name in task.model.state_dict() if "variance" in name]
    with pytest.raises(ConfigError, match=r"balancing\.log_variance"):
        build(TWO, BOTH).load_objective_state(task.objective_state())


def test_shared_layers_are_those_of_several_labels() -> None:
    shared = shared_parameters(build(TWO, BOTH).model)
    names = [name for name, _ in build(TWO, BOTH).model.named_parameters()]
    assert set(shared) == {name for name in names if not name.startswith("towers.")}


def test_shared_task_layers_are_the_models_own_parameters_each_once() -> None:
    model = build(TWO, BOTH, model={"name": "ple", "embedding_dim": 4, "num_layers": 1}).model
    shared, own = shared_task_layers(model)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names[id(p)] for p in (*shared, *own)) == sorted(names.values())
    assert {names[id(p)] for p in own} == {name for name in names.values() if name.startswith("towers.")}
    assert any("experts" in names[id(p)] for p in own)
    model.embedding.requires_grad_(False)
    assert not {id(p) for p in model.embedding.parameters()} & {id(p) for p in shared_task_layers(model)[0]}


def test_a_learned_weight_is_that_of_the_paper() -> None:
    """c exp(-a) L + a / 2, c = 1/2 of a squared error; `weight` is left out; the gradient in a is -c e^-a L + 1/2."""
    nodes = [LEARNED, {"name": "mse", "label": "rating", "learn_loss_weight": True}, "bce"]
    task, batch = build(TWO, nodes), draw(TWO, 12)
    with torch.no_grad():
        for loss, value in zip(task.losses, (0.5, -1.0), strict=False):
            loss.log_variance.fill_(value)  # type: ignore[union-attr, operator]
    terms = task(batch)
    click, rating, plain = (float(terms.parts[name]) for name in ("bce/click", "mse/rating", "bce/click_2"))
    expected = np.exp(-0.5) * click + 0.25 + 0.5 * np.exp(1.0) * rating - 0.5 + plain
    assert float(terms.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert task.loss_weights() == pytest.approx({"bce/click": np.exp(-0.5), "mse/rating": np.exp(1.0) / 2})
    terms.total.backward()
    found = [float(loss.log_variance.grad) for loss in task.losses if loss.log_variance is not None]  # type: ignore
    assert found == pytest.approx([0.5 - np.exp(-0.5) * click, 0.5 - 0.5 * np.exp(1.0) * rating], rel=1e-5)
