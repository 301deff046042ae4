from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.objective import Objective
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World

ONE = Schema(features=(), labels=(Label("click"),))
TWO = Schema(features=(), labels=(Label("click"), Label("buy")))


def draw(rows: int, *, labels: int = 1, weighted: bool = False, seed: int = 0) -> tuple[Tensor, Batch]:
    generator = torch.Generator().manual_seed(seed)
    features = Features(torch.zeros(rows, 0, dtype=torch.int64), torch.zeros(rows, 0))
    label = torch.randint(0, 2, (rows, labels), generator=generator).float()
    weight = torch.rand(rows, generator=generator) * (torch.arange(rows) % 3 > 0) if weighted else None
    return torch.randn(rows, generator=generator), Batch(features, label, weight)


def take(batch: Batch, rows: slice) -> Batch:
    features = Features(batch.features.sparse[rows], batch.features.dense[rows])
    return Batch(features, batch.labels[rows], None if batch.weight is None else batch.weight[rows])


@dataclasses.dataclass(frozen=True)
class RankOfTwo(World):
    """A rank of two whose partner adds a known number."""

    size: int = 2
    partner: float = 0.0

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.add_(self.partner)


def test_total_is_the_weighted_sum_and_parts_are_before_the_weights() -> None:
    logit, batch = draw(10, labels=2)
    objective = Objective(TWO, ["bce", {"name": "bce", "label": "buy", "output": "other", "weight": 0.25}])
    terms = objective({"logit": logit, "other": -logit}, batch)
    click = torch.nn.functional.binary_cross_entropy_with_logits(logit, batch.labels[:, 0])
    buy = torch.nn.functional.binary_cross_entropy_with_logits(-logit, batch.labels[:, 1])
    torch.testing.assert_close(terms.parts, {"bce/click": click, "bce/buy": buy})
    torch.testing.assert_close(terms.total, click + 0.25 * buy)


def test_the_models_own_losses_are_added_and_logged() -> None:
    logit, batch = draw(10)
    own = torch.tensor(0.5, requires_grad=True)
    terms = Objective(ONE, ["bce"])({"logit": logit, "loss/balance": own}, batch)
    assert set(terms.parts) == {"bce", "balance"}
    assert terms.total.item() == pytest.approx(terms.parts["bce"].item() + 0.5)
    terms.total.backward()
    assert own.grad == 1
    assert not terms.parts["balance"].requires_grad


def test_names_are_unique() -> None:
    three = [{"name": "bce", "output": output} for output in ("a", "b", "c")]
    assert Objective(ONE, three).names == ["bce", "bce_2", "bce_3"]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_over_ranks_is_the_global_batchs(weighted: bool) -> None:
    logit, batch = draw(12, weighted=weighted)
    whole = logit.clone().requires_grad_()
    expected = Objective(ONE, ["bce"])({"logit": whole}, batch).total
    expected.backward()
    totals, gradients = [], []
    halves = [slice(0, 6), slice(6, 12)]
    counts = [0.0 if batch.weight is None else float((batch.weight[rows] != 0).sum()) for rows in halves]
    if weighted:
        halves, counts = [slice(0, 4), slice(4, 12)], [2.0, 6.0]  # unequal ranks, too
    for rank, rows in enumerate(halves):
        mine = logit[rows].clone().requires_grad_()
        objective = Objective(ONE, ["bce"], world=RankOfTwo(rank=rank, partner=counts[1 - rank]))
        total = objective({"logit": mine}, take(batch, rows)).total
        total.backward()
        totals.append(total.detach())
        assert mine.grad is not None
        gradients.append(mine.grad)
    torch.testing.assert_close(torch.stack(totals).mean(), expected.detach())
    torch.testing.assert_close(torch.cat(gradients) / 2, whole.grad)


@dataclasses.dataclass(frozen=True)
class RankAmong(World):
    """A rank whose partners add known numbers."""

    partners: tuple[float, ...] = ()

    def sum_(self, tensor: Tensor) -> Tensor:
        return tensor.add_(torch.tensor(self.partners))


def test_ranks_that_differ_in_rows_have_the_global_batchs_mean() -> None:
    logit, batch = draw(12)
    expected = Objective(ONE, ["bce"])({"logit": logit, "loss/own": torch.tensor(10 / 12)}, batch).total
    totals = []
    for rank, (rows, own) in enumerate([(slice(0, 10), 1.0), (slice(10, 12), 0.0)]):
        other = 12.0 - (rows.stop - rows.start)
        world = RankAmong(rank=rank, size=2, partners=(other, other))
        objective = Objective(ONE, ["bce"], world=world, equal_rows=False)
        totals.append(objective({"logit": logit[rows], "loss/own": torch.tensor(own)}, take(batch, rows)).total)
    torch.testing.assert_close(torch.stack(totals).mean(), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_uneven_parts_of_a_step_add_up_to_the_whole_batch_on_every_rank(weighted: bool) -> None:
    logit, batch = draw(11, weighted=weighted)
    for partner in (0.0, 3.0):
        objective = Objective(ONE, ["bce", {"name": "bce", "weight": 0.5}], world=RankOfTwo(partner=partner))
        whole = logit.clone().requires_grad_()
        own = torch.tensor(2.0)
        expected = objective({"logit": whole, "loss/own": own}, batch)
        expected.total.backward()

        pieces = [slice(0, 2), slice(2, 3), slice(3, 11)]
        size = objective.size([take(batch, rows) for rows in pieces])
        mine = logit.clone().requires_grad_()
        terms = [objective({"logit": mine[rows], "loss/own": own}, take(batch, rows), size) for rows in pieces]
        sum((term.total for term in terms), start=torch.zeros(())).backward()
        torch.testing.assert_close(sum(term.total for term in terms), expected.total)
        torch.testing.assert_close(mine.grad, whole.grad)
        for name, value in expected.parts.items():
            torch.testing.assert_close(sum(term.parts[name] for term in terms), value)


def test_nothing_to_count_gives_zero_and_no_nan() -> None:
    logit, batch = draw(4, weighted=True)
    batch = dataclasses.replace(batch, weight=torch.zeros(4))
    logit.requires_grad_()
    total = Objective(ONE, ["bce"])({"logit": logit}, batch).total
    total.backward()
    assert total.item() == 0
    assert torch.equal(torch.as_tensor(logit.grad), torch.zeros(4))


def test_check_names_the_loss_and_the_nearest_output() -> None:
    objective = Objective(ONE, ["bce", {"name": "bce", "output": "logit/by"}])
    with pytest.raises(ConfigError, match=r"losses\.1\.output.*Did you mean 'logit/buy'"):
        objective.check(("logit", "logit/buy"))


def test_check_finds_a_name_that_two_losses_claim_and_an_empty_list() -> None:
    with pytest.raises(ConfigError, match="loss/bce"):
        Objective(ONE, ["bce"]).check(("logit", "loss/bce"))
    with pytest.raises(ConfigError, match="'losses' is empty"):
        Objective(ONE, []).check(("logit",))
    Objective(ONE, []).check(("logit", "loss/own"))


def test_a_wrong_node_is_named_by_its_place() -> None:
    with pytest.raises(ConfigError, match=r"'losses\.1'.*'smoothing'.*label_smoothing"):
        Objective(ONE, ["bce", {"name": "bce", "smoothing": 0.1}])
