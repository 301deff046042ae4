"""Negatives that single rows have for themselves, in plain loops: alone, and beside those of all rows."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Candidates, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES, vectors
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World
from tests.losses import test_bpr_max
from tests.losses.test_sampled_softmax import OUTPUTS
from tests.worlds import on_ranks

SCHEMA = Schema((), (Label("y"),), weight="w")
LOSSES_OF_LISTS = ["sampled_softmax", "info_nce", "softmax_cross_entropy", "bpr", "bpr_max", "hinge", "sampled_bce"]
ROWS, DRAWN = 5, 3


@dataclasses.dataclass
class Step:
    """A step of five rows; lists of at most three items, one of which is a row's own and two of which are the same."""

    user: Tensor
    item: Tensor
    ids: Tensor
    log_q: Tensor
    listed: Tensor
    label: Tensor
    weight: Tensor
    in_batch: bool
    drawn: int

    @classmethod
    def draw(cls, *, in_batch: bool, drawn: int) -> Step:
        rng = np.random.default_rng(5)
        own, sampled, lists = [5, 2, 5, -1, 9], [2, 7, 5][:drawn], [11, 12, 5, 13]
        first = ROWS + drawn
        listed = torch.tensor([[0, 1, 2], [0, -1, -1], [-1, -1, -1], [1, 2, 3], [3, 3, 1]])
        count = first + len(lists)
        return cls(
            torch.from_numpy(rng.normal(size=(ROWS, 4))),
            torch.from_numpy(rng.normal(size=(count, 4))),
            torch.tensor([*own, *sampled, *lists]),
            torch.from_numpy(-rng.uniform(1, 4, count))
            if in_batch or drawn
            else torch.zeros(count, dtype=torch.float64),
            torch.where(listed < 0, -1, listed + first),
            torch.tensor([1.0, 1, 1, 1, 0], dtype=torch.float64),
            torch.from_numpy(rng.uniform(0.5, 2, ROWS)),
            in_batch,
            drawn,
        )

    def batch(self, rows: slice = slice(0, ROWS), drawn: slice | None = None) -> tuple[Tensor, Tensor, Batch]:
        """This rank's users and columns: its rows' own, its share of the drawn ones, and all that lists name."""
        drawn = slice(0, self.drawn) if drawn is None else drawn
        every = torch.arange(len(self.ids))
        columns = torch.cat([every[:ROWS][rows], every[ROWS : ROWS + self.drawn][drawn], every[ROWS + self.drawn :]])
        taken = drawn.stop - drawn.start
        moved = self.listed[rows] - (ROWS + self.drawn) + (rows.stop - rows.start) + taken
        nothing = Features(torch.zeros(rows.stop - rows.start, 0, dtype=torch.int64), torch.zeros(0, 0))
        candidates = Candidates(
            self.ids[columns],
            nothing,
            self.log_q[columns],
            self.in_batch,
            taken,
            torch.where(self.listed[rows] < 0, -1, moved),
            self.in_batch or self.drawn > 0,
        )
        batch = Batch(nothing, self.label[rows].unsqueeze(1), self.weight[rows], candidates=candidates)
        return self.user[rows], self.item[columns], batch

    def expected(self, name: str, *, temperature: float) -> float:
        total, count = 0.0, 0
        for i in range(ROWS):
            mine = int(self.ids[i])
            shared = [*(range(ROWS) if self.in_batch else []), *range(ROWS, ROWS + self.drawn)]
            columns = [
                j for j in [*shared, *(int(j) for j in self.listed[i] if j >= 0)] if int(self.ids[j]) not in (-1, mine)
            ]
            dots = {j: float(self.user[i] @ self.item[j]) for j in [i, *columns]}
            corrected = name == "sampled_softmax"
            s = {j: dots[j] / temperature - (float(self.log_q[j]) if corrected else 0) for j in dots}
            loss = self.of_row(name, s[i], [s[j] for j in columns], float(self.label[i]))
            if name == "softmax_cross_entropy" and self.label[i] > 0:
                loss = (loss or 0) + max(0.0, -dots[i])  # also of a row without negatives
            if mine < 0 or loss is None:
                continue
            total += float(self.weight[i]) * loss
            count += 1
        if name == "softmax_cross_entropy":
            counted = [i for i in range(ROWS) if self.label[i] > 0 and self.ids[i] >= 0 and self.has_any(i)]
            return total / float(self.weight[counted].sum())
        return total / count

    def has_any(self, i: int) -> bool:
        others = {int(self.ids[j]) for j in self.listed[i] if j >= 0}
        if self.in_batch or self.drawn:
            others |= {int(j) for j in self.ids[0 if self.in_batch else ROWS : ROWS + self.drawn]}
        return bool(others - {-1, int(self.ids[i])})

    @staticmethod
    def of_row(name: str, own: float, others: list[float], label: float) -> float | None:
        if name == "sampled_bce":
            pair = math.log(1 + math.exp(-own if label > 0 else own))
            return pair + (np.mean([math.log(1 + math.exp(s)) for s in others]) if label > 0 and others else 0.0)
        if label == 0 or not others:
            return None
        if name == "bpr":
            return float(np.mean([math.log(1 + math.exp(s - own)) for s in others]))
        if name == "bpr_max":
            return test_bpr_max.of_row(own, np.array(others))
        if name == "hinge":
            return float(np.mean([max(0.0, 1 + s - own) for s in others]))
        return math.log(sum(math.exp(s) for s in [own, *others])) - own


def build(name: str, **arguments: Any) -> TowerLoss:
    loss = LOSSES.build({"name": name, "temperature": 0.7, **arguments}, SCHEMA)
    assert isinstance(loss, TowerLoss)
    loss.bind(OUTPUTS, where="losses.0")
    return loss


def mean(loss: TowerLoss, user: Tensor, item: Tensor, batch: Batch) -> Tensor:
    return loss({"user": user, "item": item}, batch) / torch.as_tensor(loss.count(batch)).clamp(min=1)


@pytest.mark.parametrize(("in_batch", "drawn"), [(False, 0), (True, 0), (True, DRAWN), (False, DRAWN)])
@pytest.mark.parametrize("name", LOSSES_OF_LISTS)
def test_it_equals_the_loops(name: str, in_batch: bool, drawn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step, loss = Step.draw(in_batch=in_batch, drawn=drawn), build(name)
    expected = step.expected(name, temperature=0.7)
    for block in (2**21, 10):
        monkeypatch.setattr(vectors, "_BLOCK", block)
        assert mean(loss, *step.batch()).item() == pytest.approx(expected, rel=1e-12)
    user, item, batch = step.batch()
    inputs = (user.clone().requires_grad_(), item.clone().requires_grad_())
    assert torch.autograd.gradcheck(lambda u, v: mean(loss, u, v, batch), inputs)


@pytest.mark.parametrize(("in_batch", "drawn"), [(False, 0), (True, DRAWN)])
@pytest.mark.parametrize("name", ["sampled_softmax", "bpr", "sampled_bce"])
def test_ranks_compute_the_whole_step_and_its_gradient(name: str, in_batch: bool, drawn: int) -> None:
    step = Step.draw(in_batch=in_batch, drawn=drawn)
    user, item, batch = step.batch()
    user, item = user.clone().requires_grad_(), item.clone().requires_grad_()
    whole = mean(build(name), user, item, batch)
    whole.backward()
    shares = [(slice(0, 2), slice(0, min(2, drawn))), (slice(2, ROWS), slice(min(2, drawn), drawn))]

    def work(world: World) -> tuple[Tensor, Tensor, Tensor]:
        loss, (rows, sampled) = build(name), shares[world.rank]
        mine, theirs, part = step.batch(rows, sampled)
        mine, theirs = mine.clone().requires_grad_(), theirs.clone().requires_grad_()
        count = world.sum_(torch.as_tensor(loss.count(part, world), dtype=torch.float64)) / world.size
        total = loss({"user": mine, "item": theirs}, part, world) / count
        total.backward()
        return total.detach(), torch.as_tensor(mine.grad), torch.as_tensor(theirs.grad)

    totals, of_users, of_items = zip(*on_ranks(2, work), strict=True)
    torch.testing.assert_close(torch.stack(totals).mean(), whole.detach())
    torch.testing.assert_close(torch.cat(of_users) / 2, user.grad)
    every, back = torch.arange(len(item)), torch.zeros_like(item)
    for (rows, sampled), gradient in zip(shares, of_items, strict=True):
        places = [every[:ROWS][rows], every[ROWS : ROWS + drawn][sampled], every[ROWS + drawn :]]
        back.index_add_(0, torch.cat(places), gradient / 2)
    torch.testing.assert_close(back, item.grad)


@pytest.mark.parametrize("name", LOSSES_OF_LISTS)
def test_lists_without_items_teach_nothing(name: str) -> None:
    step = Step.draw(in_batch=False, drawn=0)
    step.listed = torch.full((ROWS, 2), -1)
    user, item, batch = step.batch()
    loss, user = build(name), user.clone().requires_grad_()
    value = loss({"user": user, "item": item}, batch)
    value.backward()
    assert torch.isfinite(torch.as_tensor(user.grad)).all()
    if name != "sampled_bce":
        assert loss.count(batch) == 0


@pytest.mark.parametrize("name", LOSSES_OF_LISTS)
def test_the_hardest_negatives_alone_are_those_that_stand_alone(name: str) -> None:
    """Of the columns (uncorrected), the two most similar ones: the same as a step whose lists name only these."""
    step = Step.draw(in_batch=True, drawn=DRAWN)
    step.log_q[:] = 0
    similarity, alone = step.user @ step.item.T, Step.draw(in_batch=False, drawn=0)
    first = ROWS + DRAWN
    hardest = torch.full((ROWS, 2), -1)
    for i in range(ROWS):
        mine = int(step.ids[i])
        columns = [*range(first), *(int(j) for j in step.listed[i] if j >= 0)]
        columns = [j for j in columns if int(step.ids[j]) not in (-1, mine)]
        best = sorted(columns, key=lambda j, i=i: -float(similarity[i, j]))[:2]
        hardest[i, : len(best)] = torch.tensor(best)
    alone.item = torch.cat([step.item[:ROWS], step.item])
    alone.ids = torch.cat([step.ids[:ROWS], step.ids])
    alone.log_q = torch.zeros(ROWS + len(step.ids), dtype=torch.float64)
    alone.weight = step.weight
    alone.listed = torch.where(hardest < 0, -1, hardest + ROWS)
    user, item, batch = step.batch()
    found = mean(build(name, hardest_negatives=2), user, item, batch)
    torch.testing.assert_close(found, mean(build(name), *alone.batch()))


def test_losses_of_all_negatives_refuse_a_choice() -> None:
    with pytest.raises(ConfigError, match="'nce' takes all negatives, and no 'hardest_negatives'"):
        build("nce", hardest_negatives=3)
