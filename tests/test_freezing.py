"""Frozen parameters and tables: not moved, not counted, nothing kept of them, and the rest trains as without them."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rechub_ray import config
from rechub_ray.batch import Batch, Features, PaddedSequences, RaggedSequences
from rechub_ray.checkpoint import read
from rechub_ray.errors import ConfigError, TrainingError
from rechub_ray.freezing import freeze
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.learner import Learner, Progress
from rechub_ray.models import MODELS
from rechub_ray.runtime.memory import needs
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature
from rechub_ray.sweeps.objectives import model_size
from rechub_ray.table_format import pack_tables
from rechub_ray.task import shared_task_layers
from rechub_ray.world import World
from tests.worlds import on_ranks

FEATURES = (
    SparseFeature("user", 12),
    SparseFeature("item", 9),
    SparseFeature("city", 4),
    SequenceFeature("history", 9, max_length=4, shared_with="item"),
    DenseFeature("age"),
)
ONE = Schema(FEATURES, (Label("click"),))
TWO = Schema(FEATURES, (Label("click"), Label("buy")))
DEEPFM = {"name": "deepfm", "embedding_dim": 4, "init_std": 0.3, "hidden_units": [6], "batch_norm": True}
SHARED = {"name": "shared_bottom", "embedding_dim": 4, "init_std": 0.3, "bottom_units": [6], "tower_units": [3]}
ROWS = [{"name": "rowwise_adagrad", "params": "*embedding.*", "lr": 0.1}, {"name": "sgd", "lr": 0.1}]


def draw(step: int, schema: Schema = ONE, rows: int = 16) -> Batch:
    random = torch.Generator().manual_seed(step)
    sparse = torch.stack([torch.randint(f.vocab_size, (rows,), generator=random) for f in schema.sparse], 1)
    lengths = torch.randint(4, (rows,), generator=random)
    values = torch.randint(9, (int(lengths.sum()),), generator=random)
    sequences = RaggedSequences(values, torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]))
    labels = torch.randint(2, (rows, len(schema.labels)), generator=random).float()
    return Batch(Features(sparse, torch.randn(rows, 1, generator=random), sequences), labels)


def learner(schema: Schema = ONE, **given: Any) -> Learner:
    content = {"model": DEEPFM, "optimizers": ROWS, **given}
    return Learner(config.load(content), schema, world=World(), device=torch.device("cpu"), total_steps=100)


def train(run: Learner, steps: int, start: int = 0) -> dict[str, float]:
    for step in range(start, start + steps):
        run.train_step(draw(step, run.schema), step=step)
    return run.drain_log(step=start + steps)


def weights(run: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in pack_tables(run.model, run.model.state_dict()).items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


TRAINED = {
    *(f"{prefix}embedding.tables.{name}" for prefix in ("", "linear.") for name in ("user", "item", "city")),
    "linear.dense.weight",
}


@pytest.mark.parametrize(
    "optimizers",
    [
        ROWS,
        ["adam"],
        [{"name": "adamw", "lr": 0.1, "weight_decay": 0.5}],  # which would shrink rows without a gradient
        [{"name": "ftrl", "lr": 0.1, "l1": 0.1}],  # which would set them to 0
        [{"name": "lazy_adam", "params": "*embedding.*", "lr": 0.1}, {"name": "lion", "weight_decay": 0.5}],
    ],
)
def test_what_is_frozen_stays_and_all_else_moves(optimizers: list[Any]) -> None:
    penalties = dict.fromkeys(("embedding_l1", "embedding_l2", "dense_l1", "dense_l2"), 0.01)
    patterns = ["embedding.tables.item", "linear.embedding.tables.[uc]*", "mlp.*"]
    run = learner(optimizers=optimizers, regularization=penalties, train={"freeze": patterns, "ema_decay": 0.9})
    before = weights(run)
    train(run, 5)
    frozen = set(run.frozen)
    assert {"embedding.tables.item", "linear.embedding.tables.user", "linear.embedding.tables.city"} < frozen
    assert moved(before, weights(run)) == TRAINED - frozen
    with run._averaged():
        assert moved(before, weights(run)) == TRAINED - frozen
    kept = {id(p) for optimizer in run._stateful() for p in optimizer.state}
    names = {name for name, p in run.model.named_parameters() if id(p) in kept}
    assert names == {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert "embedding.weights.4" in names
    assert "embedding.weights.4_frozen" not in names


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rowwise_adagrad"])
def test_the_rest_trains_as_if_the_frozen_rows_had_no_gradient(optimizer: str) -> None:
    """Against a run of the whole weight whose gradients are masked, with the norm and the clipping of what is left."""
    nodes = [{"name": optimizer, "params": "*embedding.*", "lr": 0.05}, {"name": "sgd", "lr": 0.05}]
    run = learner(optimizers=nodes, train={"freeze": "embedding.tables.item", "clip_norm": 0.05})
    other = learner(optimizers=nodes, train={"clip_norm": 0.05})
    weight = other.model.embedding.weights["4"]  # type: ignore[union-attr, index]
    rows = other.model.embedding.tables["item"].rows  # type: ignore[union-attr, index]

    def masked(gradient: Tensor) -> Tensor:
        dense = gradient.to_dense() if gradient.is_sparse else gradient.clone()
        dense[rows.start : rows.stop] = 0
        return dense.to_sparse(1) if gradient.is_sparse else dense

    weight.register_hook(masked)
    ours, theirs = train(run, 6), train(other, 6)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours["train/grad_norm"] > 0.05
    torch.testing.assert_close(weights(run), weights(other))


@pytest.mark.parametrize("optimizers", [ROWS, ["adam"]])
def test_two_ranks_with_half_the_rows_are_one(optimizers: list[Any]) -> None:
    content = {"model": DEEPFM, "optimizers": optimizers, "train": {"freeze": ["embedding.tables.item", "mlp.*"]}}
    building = threading.Lock()  # ranks are threads here, and share torch's generator

    def work(world: World) -> dict[str, Tensor]:
        with building:
            run = Learner(config.load(content), ONE, world=world, device=torch.device("cpu"), total_steps=9)
        world.barrier()  # a step seeds it, too
        rows = 16 // world.size
        for step in range(3):
            features, labels = draw(step).features, draw(step).labels[world.rank * rows :][:rows]
            sequences = features.sequences
            assert isinstance(sequences, RaggedSequences)
            mine = sequences.offsets[world.rank * rows :][: rows + 1]
            part = RaggedSequences(sequences.values[int(mine[0]) : int(mine[-1])], mine - mine[0])
            at = slice(world.rank * rows, (world.rank + 1) * rows)
            run.train_step(Batch(Features(features.sparse[at], features.dense[at], part), labels), step=step)
        return weights(run)

    (one,) = on_ranks(1, work)
    first, second = on_ranks(2, work)
    assert not moved(first, second)
    torch.testing.assert_close(first, one, rtol=1e-4, atol=1e-6)


def test_whole_weights_stay_where_they_are() -> None:
    run = learner(train={"freeze": "embedding.weights.*"}, optimizers=["adam"])
    assert list(run.model.embedding.weights) == ["4"]  # type: ignore[union-attr, arg-type]
    assert run.frozen == [f"embedding.tables.{name}" for name in ("user", "item", "city")]
    before = weights(run)
    train(run, 3)
    assert not moved(before, weights(run)) & set(run.frozen)


@pytest.mark.parametrize("by_rows", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_bank_in_two_weights_gives_the_same(padded: bool, by_rows: bool) -> None:
    model = nn.Module()
    model.bank = bank = EmbeddingBank(ONE, dim=4, init_std=1.0)
    model.view = view = bank.view(Schema((FEATURES[1], FEATURES[2]), (Label("click"),)), ["item", "city"])
    model.other = nn.Linear(1, 1)
    bank.sparse_grad = by_rows
    features, part = draw(0).features, Features(draw(0).features.sparse[:, 1:], torch.zeros(16, 0))
    if padded:
        features = Features(features.sparse, features.dense, PaddedSequences((torch.tensor([[3, -1]] * 16),)))

    def outputs() -> list[Tensor]:
        whole = [bank(features), bank.flat(features), bank.sum(features), *bank.sequence(features, "history")]
        rows = [bank.rows(name, ids) for name in ("user", "item", "history") for ids in (None, torch.tensor([[1, 2]]))]
        return [*whole, *rows, view(part), view.flat(part)]

    before = [value.detach().clone() for value in outputs()]
    assert freeze(model, ["bank.tables.item", "bank.tables.user"]) == ["bank.tables.user", "bank.tables.item"]
    assert {name: tuple(p.shape) for name, p in model.named_parameters() if "bank" in name} == {
        "bank.weights.4": (4, 4),
        "bank.weights.4_frozen": (21, 4),
    }
    after = outputs()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    after[0].sum().backward()
    assert bank.weights["4_frozen"].grad is None
    gradient = bank.weights["4"].grad
    assert gradient is not None
    assert gradient.is_sparse == by_rows
    assert float(gradient.sum()) == 16 * 4  # a city a row


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("embeding.*", r"'train.freeze.0': the pattern 'embeding.\*' matches no .*Did you mean 'embedding.\*'"),
        ("embedding.tables.itm", "Did you mean 'embedding.tables.item'"),
        ("*", "freezes every parameter"),
    ],
)
def test_patterns_that_are_wrong(pattern: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        learner(train={"freeze": [pattern]})


def test_what_is_left_takes_no_part_in_the_loss() -> None:
    run = learner(TWO, model=SHARED, losses=[{"name": "bce", "label": "click"}, {"name": "bce", "label": "buy"}])
    for parameter in run.model.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match=r"takes part in the losses.*train.freeze"):
        run.train_step(draw(0, TWO), step=0)


def test_an_optimizer_without_parameters_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'optimizers.0.params' gets no parameter.*frozen: leave"):
        learner(train={"freeze": ["*embedding.*"]})


def test_a_frozen_batch_norm_runs_as_in_evaluation() -> None:
    run = learner(optimizers=["adam"], train={"freeze": "mlp.*"})
    (norm,) = [module for module in run.model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert isinstance(norm.running_mean, Tensor)
    norm.running_mean.fill_(0.5)
    seen: list[tuple[Tensor, Tensor]] = []
    norm.register_forward_hook(lambda _, given, result: seen.append((given[0].detach().clone(), result.clone())))
    train(run, 2)
    assert torch.equal(norm.running_mean, torch.full_like(norm.running_mean, 0.5))
    assert norm.num_batches_tracked == 0
    for given, result in seen:
        torch.testing.assert_close(result, (given - 0.5) / (1 + norm.eps) ** 0.5)
    free = learner(optimizers=["adam"], train={"freeze": "embedding.*"})
    train(free, 2)
    (norm,) = [module for module in free.model.modules() if isinstance(module, nn.BatchNorm1d)]
    assert norm.num_batches_tracked == 2


def test_a_checkpoint_has_the_tables_and_a_resumed_run_the_same_bits(tmp_path: Path) -> None:
    given = {"train": {"freeze": ["embedding.tables.item", "linear.embedding.tables.item"], "ema_decay": 0.9}}
    whole, first = learner(**given), learner(**given)
    train(whole, 6)
    train(first, 3)
    (tmp_path / "step").mkdir()
    first.write(tmp_path / "step", Progress(step=3))
    saved = read(tmp_path / "step", optimizers=True)
    names = {name for state in saved.optimizers or [] for name in state["state"]}
    assert "embedding.tables.user" in names
    assert not names & set(first.frozen)
    plain = MODELS.build(DEEPFM, ONE)
    plain_names = set(pack_tables(plain, plain.state_dict()))
    assert set(saved.model) == plain_names
    with first._averaged():
        torch.testing.assert_close(
            saved.build_model()(draw(9).features), first.model.eval()(draw(9).features), rtol=0, atol=1e-6
        )
    second = learner(**given)
    second.restore(saved)
    train(second, 3, start=3)
    assert not moved(weights(whole), weights(second))
    assert learner(**given).config.fingerprint() != learner().config.fingerprint()
    assert "train.freeze" not in learner().config.fingerprint()


@pytest.mark.parametrize("name", ["gradnorm", "metabalance", "pcgrad", "uwl"])
def test_balanced_tasks_with_a_frozen_table(name: str) -> None:
    run = learner(TWO, model=SHARED, balancing=name, train={"freeze": "embedding.tables.item"})
    before = weights(run)
    train(run, 3)
    assert moved(before, weights(run)) == set(before) - {"embedding.tables.item"}


def test_metabalance_of_each_table_is_that_of_the_whole_weight() -> None:
    """Tables have norms of their own there, so the others' factors do not change when one is frozen."""
    node = {"name": "metabalance", "relax_factor": 1.0}
    nodes = [{"name": "sgd", "lr": 0.1}]
    run = learner(TWO, model=SHARED, balancing=node, optimizers=nodes, train={"freeze": "embedding.tables.item"})
    other = learner(TWO, model=SHARED, balancing=node, optimizers=nodes)
    train(run, 1)
    train(other, 1)
    ours, theirs = weights(run), weights(other)
    assert moved(ours, theirs) == {"embedding.tables.item"} | {
        n for n in ours if not torch.allclose(ours[n], theirs[n])
    }
    for table in ("user", "city"):
        torch.testing.assert_close(ours[f"embedding.tables.{table}"], theirs[f"embedding.tables.{table}"])


@pytest.mark.parametrize("balancing", [None, "pcgrad"])
def test_one_tower_alone(balancing: str | None) -> None:
    """The other task's loss has no gradient at all then."""
    freezing = ["embedding.*", "bottom.*", "towers.click.*"]
    run = learner(TWO, model=SHARED, balancing=balancing, optimizers=["adam"], train={"freeze": freezing})
    before = weights(run)
    train(run, 3)
    after = moved(before, weights(run))
    assert after
    assert all(name.startswith("towers.buy.") for name in after)
    shared, own = shared_task_layers(run.model)
    assert (shared, len(own)) == ([], len(after))


def test_memory_and_size_count_what_is_trained() -> None:
    run = config.load({"model": DEEPFM, "train": {"freeze": "embedding.tables.item"}})
    free = config.load({"model": DEEPFM})
    assert model_size(free, ONE)["num_parameters"] - model_size(run, ONE)["num_parameters"] == 9 * 4
    one = learner(train={"freeze": "embedding.tables.item"}, optimizers=["adam"])
    parts = {need.name: need for need in needs(one.config, one.model, one.built)}
    frozen, trained = parts["embedding.weights.4_frozen"], parts["embedding.weights.4"]
    assert (frozen.weights, frozen.total) == (9 * 4 * 4, 9 * 4 * 4)
    assert trained.weights == 16 * 4 * 4
    assert trained.optimizer >= 2 * trained.weights
    assert sum(need.weights for need in parts.values()) == sum(p.numel() * 4 for p in one.model.parameters())


def test_a_frozen_bank_can_be_copied() -> None:
    run = learner(train={"freeze": "embedding.tables.item"})
    again = copy.deepcopy(run.model)
    assert torch.equal(again.eval()(draw(0).features)["logit"], run.model.eval()(draw(0).features)["logit"])
