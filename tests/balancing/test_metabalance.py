from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.balancing import BALANCING, MetaBalance
from rechub_ray.errors import ConfigError
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.schema import Label, Schema, SparseFeature
from tests.test_task import BOTH, TWO, build, draw, step, take
from tests.worlds import on_ranks

TASKS = tuple(Label(name) for name in "abc")
GENERATOR = torch.Generator()


class Directly:
    """Algorithm 1 on the gradients themselves."""

    def __init__(self, relax: float, beta: float, strategy: str = "C", target: int = 0) -> None:
        self.relax, self.beta, self.strategy, self.target = relax, beta, strategy, target
        self.averages: dict[str, np.ndarray] = {}

    def __call__(self, name: str, gradients: np.ndarray) -> np.ndarray:
        norms = np.linalg.norm(gradients.reshape(len(gradients), -1), axis=1)
        self.averages[name] = self.beta * self.averages.get(name, 0.0) + (1 - self.beta) * norms
        total = np.zeros_like(gradients[0])
        for mine, gradient in zip(self.averages[name], gradients, strict=True):
            aim = self.averages[name][self.target]
            if aim > 0 and mine > 0 and {"A": mine > aim, "B": mine < aim, "C": True}[self.strategy]:
                gradient = self.relax * gradient * aim / mine + (1 - self.relax) * gradient
            total += gradient
        return total


def balancing(tasks: int = 3, **arguments: Any) -> MetaBalance:
    built = MetaBalance(TASKS[:tasks], **arguments)
    built.bind(torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(5)) for name in ("x", "y")}))
    return built


@pytest.mark.parametrize("strategy", ["A", "B", "C"])
def test_steps_are_those_of_the_paper(strategy: str) -> None:
    built = balancing(relax_factor=0.7, beta=0.9, strategy=strategy, target="b")
    directly, drawn = Directly(0.7, 0.9, strategy, target=1), np.random.default_rng(0)
    for _ in range(6):
        gradients = {name: drawn.normal(size=(3, 5)) * drawn.lognormal(0, 2, size=(3, 1)) for name in ("x", "y")}
        products = {name: torch.from_numpy(g @ g.T) for name, g in gradients.items()}
        found = built.coefficients(products, torch.ones(3), GENERATOR)
        for name, g in gradients.items():
            np.testing.assert_allclose(found[name].numpy() @ g, directly(name, g), rtol=1e-5)


def test_known_magnitudes() -> None:
    """Norms 2 and 8: the second becomes r 2 + (1 - r) 8, or stays where the strategy leaves larger ones."""
    gram = {"x": torch.tensor([[4.0, 3.0], [3.0, 64.0]], dtype=torch.float64)}
    for relax, strategy, expected in ((0, "C", 8), (0.5, "C", 5), (1, "C", 2), (1, "A", 2), (1, "B", 8)):
        built = balancing(2, relax_factor=relax, strategy=strategy)
        for _ in range(3):
            factors = built.coefficients(gram, torch.ones(2), GENERATOR)["x"]
            assert (factors * torch.tensor([2.0, 8.0])).tolist() == pytest.approx([2, expected], rel=1e-6)
    assert "x" not in balancing(2).coefficients({}, torch.ones(2), GENERATOR)


def test_beta_is_how_long_a_norm_is_remembered() -> None:
    built = balancing(2, relax_factor=1.0, beta=0.75)
    for second in (1.0, 0.0, 0.0):
        gram = {"x": torch.diag(torch.tensor([1.0, second], dtype=torch.float64))}
        factors = built.coefficients(gram, torch.ones(2), GENERATOR)["x"]
    aim, mine = 1 - 0.75**3, 0.25 * 0.75**2
    assert factors.tolist() == pytest.approx([1, aim / mine], rel=1e-6)


def test_where_the_target_or_a_task_has_no_gradient_the_factors_are_one() -> None:
    built = balancing(relax_factor=1.0)
    gram = {
        "x": torch.diag(torch.tensor([0.0, 4.0, 9.0], dtype=torch.float64)),
        "y": torch.diag(torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)),
    }
    found = built.coefficients(gram, torch.ones(3), GENERATOR)
    assert found["x"].tolist() == [1, 1, 1]
    assert found["y"].tolist() == pytest.approx([1, 2, 1])


NODE = {"name": "metabalance", "relax_factor": 0.7, "beta": 0.5}


@pytest.mark.parametrize("by_rows", [False, True])
def test_tables_of_one_weight_are_balanced_apart(by_rows: bool) -> None:
    """Against the algorithm on the gradients of each task alone, over two steps; towers keep theirs."""
    batches = [draw(TWO, 24, seed=seed) for seed in range(2)]
    task, directly = build(TWO, BOTH, NODE), Directly(0.7, 0.5)
    unread = {"name": "mse", "label": "rating", "weight": 0.0}
    alone = [build(TWO, ["bce", unread]), build(TWO, [{"name": "bce", "weight": 0.0}, BOTH[1]])]
    users = 30
    for batch in batches:
        found = step(task, [batch], by_rows=by_rows)[1]
        each = [step(one, [batch])[1] for one in alone]
        for name, gradient in found.items():
            both = np.stack([gradients[name].numpy() for gradients in each])
            if name.startswith("towers."):
                expected = both.sum(0)
            elif name.startswith("embedding."):
                assert len(gradient) == 50
                parts = [directly("user", both[:, :users]), directly("item", both[:, users:])]
                expected = np.concatenate(parts)
                assert np.abs(expected - Directly(0.7, 0.0)("whole", both)).max() > 1e-4
            else:
                expected = directly(name, both)
            np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-6, err_msg=name)
        for one in (task, *alone):
            one.zero_grad()


def test_how_large_the_other_tasks_loss_is_makes_no_difference_to_what_is_shared() -> None:
    batch, node = draw(TWO, 24), {"name": "metabalance", "relax_factor": 1.0}
    small, large = (step(build(TWO, ["bce", {**BOTH[1], "weight": w}], node), [batch])[1] for w in (1.0, 1e3))
    for name, gradient in small.items():
        torch.testing.assert_close(large[name], gradient * (1e3 if name.startswith("towers.rating") else 1.0))


@pytest.mark.parametrize("parts", [1, 2])
def test_every_rank_has_the_same_bits_and_the_whole_batchs_norms(parts: int) -> None:
    batches = [draw(TWO, 24, seed=seed, weighted=True) for seed in range(3)]
    whole = build(TWO, BOTH, NODE)
    gradients = [step(whole, [batch], by_rows=True)[1] for batch in batches]

    def work(world: Any) -> tuple[list[dict[str, Tensor]], Tensor]:
        task = build(TWO, BOTH, NODE, world=world, parts=parts)
        found = []
        for batch in batches:
            mine = take(batch, 12 * world.rank, 12 * world.rank + 12)
            cut = [take(mine, 0, 4), take(mine, 4, 12)] if parts == 2 else [mine]
            found.append(step(task, cut, by_rows=True)[1])
            task.zero_grad()
        return found, task.objective_state()["balancing.norms"]

    (first, norms), (second, others) = on_ranks(2, work)
    assert torch.equal(norms, others)
    torch.testing.assert_close(norms, whole.objective_state()["balancing.norms"])
    for mine, theirs in zip(first, second, strict=True):
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    torch.testing.assert_close(first[0], gradients[0])


def test_it_goes_on_from_what_was_saved_bit_for_bit() -> None:
    batches = [draw(TWO, 24, seed=seed) for seed in range(3)]
    through, after = build(TWO, BOTH, NODE), build(TWO, BOTH, NODE)
    for batch in batches[:2]:
        step(through, [batch], by_rows=True)
        through.zero_grad()
    saved = {name: value.clone() for name, value in through.objective_state().items()}
    assert {name: tuple(value.shape) for name, value in saved.items()} == {"balancing.norms": (8, 2)}
    after.load_objective_state(saved)
    expected, found = (step(task, [batches[2]], by_rows=True)[1] for task in (through, after))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert torch.equal(after.objective_state()["balancing.norms"], through.objective_state()["balancing.norms"])
    fresh = step(build(TWO, BOTH, NODE), [batches[2]], by_rows=True)[1]
    assert not torch.equal(fresh["embedding.weights.4"], expected["embedding.weights.4"])


def test_each_width_has_the_norms_of_its_own_tables() -> None:
    features = (SparseFeature("a", 4), SparseFeature("b", 5, embed_dim=2), SparseFeature("c", 6))
    bank = EmbeddingBank(Schema(features, TWO.labels), dim=3)
    built = MetaBalance(TASKS[:2])
    built.bind(torch.nn.ModuleDict({"embedding": bank}))
    starts = {name: where.tolist() for name, where in built.table_starts.items()}
    assert starts == {"embedding.weights.3": [0, 4], "embedding.weights.2": [0]}
    assert built.norms.shape == (3, 2)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"target": "bb"}, r"'balancing.target': no task is called 'bb'"),
        ({"relax_factor": 1.5}, r"relax_factor"),
        ({"beta": 1.0}, r"beta"),
        ({"strategy": "D"}, r"strategy"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BALANCING.build({"name": "metabalance", **node}, TASKS)


def test_one_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 2 labels with losses. Got: a"):
        BALANCING.build("metabalance", TASKS[:1])
