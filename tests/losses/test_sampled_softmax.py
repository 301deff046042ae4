"""The softmax over candidates, in NumPy: corrected in all columns, without a row's own item among its negatives."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Candidates, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES, vectors
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World
from tests.losses.vector_references import mean_by_count, towers
from tests.worlds import on_ranks

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
VARIANTS: list[dict[str, Any]] = [{"similarity": "cosine", "temperature": 0.5}, {"similarity": "cosine"}]

OUTPUTS = (Output("user", "vector", part="user"), Output("item", "vector", part="item"))
NO_LABEL = Schema((), (), weight="w")


def reference(
    s: np.ndarray,
    y: np.ndarray,
    w: np.ndarray,
    group: np.ndarray,
    *,
    temperature: float | None = None,
    **arguments: Any,
) -> float:
    """Without candidates: all rows, uncorrected."""
    default = 0.05 if arguments.get("similarity") == "cosine" else 1.0
    _, sims = towers(s, temperature=temperature or default, **arguments)
    chosen = np.array([np.log(np.exp(row - row[i]).sum()) for i, row in enumerate(sims)])
    return mean_by_count(chosen, w * (y > 0))


def of_candidates(
    u: np.ndarray,
    v: np.ndarray,
    own: np.ndarray,
    drawn: np.ndarray,
    log_q: np.ndarray,
    w: np.ndarray,
    *,
    temperature: float,
    in_batch: bool,
) -> float:
    """The loss, one row and one column after the other; columns are all rows' items, then the drawn ones."""
    ids = np.concatenate([own, drawn])
    losses, counted = [], 0
    for i, mine in enumerate(own):
        columns = [j for j in range(len(ids)) if ids[j] >= 0 and ids[j] != mine and (in_batch or j >= len(own))]
        z = {j: float(u[i] @ v[j]) / temperature - log_q[j] for j in [i, *columns]}
        if mine >= 0 and columns and w[i] != 0:
            losses.append(w[i] * (np.log(sum(np.exp(value) for value in z.values())) - z[i]))
            counted += 1
    return sum(losses) / max(counted, 1)


@dataclasses.dataclass
class Step:
    """A step of six rows, of which two share an item and one has none that is known, and four drawn items.

    `item` and `log_q` are those of the items, in the order of their ids.
    """

    user: Tensor
    item: Tensor
    own: Tensor
    drawn: Tensor
    log_q: Tensor
    weight: Tensor

    @classmethod
    def draw(cls, dtype: torch.dtype = torch.float64) -> Step:
        rng = np.random.default_rng(4)
        values = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)), -rng.uniform(1, 5, 6), rng.uniform(0.5, 2, 6)
        user, item, log_q, weight = (torch.from_numpy(value).to(dtype) for value in values)
        weight[4] = 0
        return cls(user, item, torch.tensor([5, 2, 5, -1, 9, 8]), torch.tensor([2, 7, 7, 5]), log_q, weight)

    def places(self, rows: slice = slice(0, 6), drawn: slice = slice(0, 4)) -> Tensor:
        """Of the columns' items."""
        ids = torch.cat([self.own[rows], self.drawn[drawn]])
        return torch.searchsorted(torch.tensor([-1, 2, 5, 7, 8, 9]), ids)

    def batch(self, rows: slice = slice(0, 6), drawn: slice = slice(0, 4), *, in_batch: bool = True) -> Batch:
        count = rows.stop - rows.start
        columns = self.log_q[self.places(rows, drawn)]
        nothing = Features(torch.zeros(count, 0, dtype=torch.int64), torch.zeros(count, 0))
        candidates = Candidates(torch.cat([self.own[rows], self.drawn[drawn]]), nothing, columns, in_batch)
        return Batch(nothing, torch.zeros(count, 0), self.weight[rows], candidates=candidates)

    def columns(self, rows: slice = slice(0, 6), drawn: slice = slice(0, 4)) -> Tensor:
        return self.item[self.places(rows, drawn)]

    def expected(self, *, temperature: float = 1.0, in_batch: bool = True, logq: bool = True) -> float:
        log_q = self.log_q[self.places()].numpy() if logq else np.zeros(10)
        arrays = (
            self.user.numpy(),
            self.columns().numpy(),
            self.own.numpy(),
            self.drawn.numpy(),
            log_q,
            self.weight.numpy(),
        )
        return of_candidates(*arrays, temperature=temperature, in_batch=in_batch)


def build(**arguments: Any) -> TowerLoss:
    loss = LOSSES.build({"name": "sampled_softmax", **arguments}, NO_LABEL)
    assert isinstance(loss, TowerLoss)
    loss.bind(OUTPUTS, where="losses.0")
    return loss


def mean(loss: TowerLoss, user: Tensor, item: Tensor, batch: Batch) -> Tensor:
    return loss({"user": user, "item": item}, batch) / torch.as_tensor(loss.count(batch)).clamp(min=1)


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("logq", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_it_equals_numpy(in_batch: bool, logq: bool, temperature: float) -> None:
    step = Step.draw()
    found = mean(build(logq=logq, temperature=temperature), step.user, step.columns(), step.batch(in_batch=in_batch))
    assert found.item() == pytest.approx(
        step.expected(temperature=temperature, in_batch=in_batch, logq=logq), rel=1e-12
    )


def test_its_gradient_is_the_difference_quotient_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, step, found = build(temperature=0.7), Step.draw(), []
    for block in (2**21, 10):
        monkeypatch.setattr(vectors, "_BLOCK", block)
        user, item = step.user.clone().requires_grad_(), step.item.clone().requires_grad_()

        def of(user: Tensor, item: Tensor) -> Tensor:
            return mean(loss, user, item[step.places()], step.batch())

        assert torch.autograd.gradcheck(of, (user, item))
        found.append(torch.autograd.grad(of(user, item), (user, item)))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", ["sampled_softmax", "info_nce"])
def test_columns_of_one_item_are_as_good_as_one_with_their_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random, found = torch.Generator().manual_seed(1), []
    own, drawn = (torch.randint(-1, 9, (n,), generator=random) for n in (40, 25))
    step = Step(
        torch.randn(40, 5, generator=random, dtype=torch.float64),
        torch.randn(6, 5, generator=random, dtype=torch.float64),
        torch.tensor([-1, 2, 5, 7, 8, 9])[own.clamp(max=4) + 1],
        torch.tensor([2, 5, 7, 8, 9])[drawn.clamp(0, 4)],
        torch.randn(6, generator=random, dtype=torch.float64),
        torch.rand(40, generator=random, dtype=torch.float64),
    )
    for takes_counts in (True, False):
        loss = LOSSES.build({"name": name, "temperature": 0.7}, NO_LABEL)
        assert isinstance(loss, TowerLoss)
        loss.bind(OUTPUTS, where="losses.0")
        assert type(loss).takes_counts
        with monkeypatch.context() as patch:
            patch.setattr(type(loss), "takes_counts", takes_counts)
            user, item = step.user.clone().requires_grad_(), step.item.clone().requires_grad_()
            every = slice(0, 40), slice(0, 25)
            value = loss({"user": user, "item": item[step.places(*every)]}, step.batch(*every))
            found.append((value.detach(), *torch.autograd.grad(value, (user, item))))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def test_rows_without_negatives_lose_nothing_and_do_not_count() -> None:
    step = Step.draw()
    step.own[:] = 5
    step.drawn[:] = 5
    loss, user, item = build(), step.user.clone().requires_grad_(), step.columns().clone().requires_grad_()
    value = loss({"user": user, "item": item}, step.batch())
    value.backward()
    assert value.item() == 0
    assert loss.count(step.batch()) == 0
    assert torch.equal(torch.as_tensor(user.grad), torch.zeros_like(user))
    step.own[1] = 7  # it has the others for negatives, and they have it
    assert loss.count(step.batch()) == 5
    assert mean(loss, step.user, step.columns(), step.batch()).item() == pytest.approx(step.expected(), rel=1e-12)


@pytest.mark.parametrize("in_batch", [True, False])
def test_ranks_compute_the_whole_step_and_its_gradient(in_batch: bool) -> None:
    step = Step.draw()
    user, item = step.user.clone().requires_grad_(), step.item.clone().requires_grad_()
    whole = mean(build(temperature=0.5), user, item[step.places()], step.batch(in_batch=in_batch))
    whole.backward()
    assert whole.item() == pytest.approx(step.expected(temperature=0.5, in_batch=in_batch), rel=1e-12)
    shares = [(slice(0, 2), slice(0, 3)), (slice(2, 6), slice(3, 4))]  # unequal

    def work(world: World) -> tuple[Tensor, Tensor, Tensor]:
        loss, (rows, drawn) = build(temperature=0.5), shares[world.rank]
        mine, theirs = step.user[rows].clone().requires_grad_(), step.columns(rows, drawn).clone().requires_grad_()
        batch = step.batch(rows, drawn, in_batch=in_batch)
        count = world.sum_(torch.as_tensor(loss.count(batch, world), dtype=torch.float64)) / world.size
        total = loss({"user": mine, "item": theirs}, batch, world) / count
        total.backward()
        return total.detach(), torch.as_tensor(mine.grad), torch.as_tensor(theirs.grad)

    totals, of_users, of_items = zip(*on_ranks(2, work), strict=True)
    torch.testing.assert_close(torch.stack(totals).mean(), whole.detach())
    torch.testing.assert_close(torch.cat(of_users) / 2, user.grad)
    places = [step.places(rows, drawn) for rows, drawn in shares]
    back = torch.zeros_like(item).index_add(0, torch.cat(places), torch.cat(of_items) / 2)
    torch.testing.assert_close(back, item.grad)


def test_the_correction_makes_the_sampled_gradient_that_of_the_full_softmax_on_average() -> None:
    """With many drawn items the corrected loss nears the full softmax (up to a constant), the plain one does not."""
    rng = np.random.default_rng(0)
    items, count = 50, 60_000
    q = rng.dirichlet(np.ones(items) * 3)
    table, user = torch.from_numpy(rng.normal(size=(items, 4))), torch.from_numpy(rng.normal(size=(1, 4)))
    drawn = torch.from_numpy(rng.choice(items, count, p=q))
    own = torch.tensor([3])
    ids = torch.cat([own, drawn])
    nothing = Features(torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 0))
    gradients = []
    for logq in (True, False):
        u = user.clone().requires_grad_()
        candidates = Candidates(ids, nothing, torch.from_numpy(np.log(q * count))[ids], False)
        batch = Batch(nothing, torch.zeros(1, 0), candidates=candidates)
        mean(build(logq=logq), u, table[ids], batch).backward()
        gradients.append(torch.as_tensor(u.grad))
    u = user.clone().requires_grad_()
    others = [j for j in range(items) if j != 3]
    # the row's own column is corrected like the others, so that it stands for one in `count * q` of its kind
    full = torch.cat([(u @ table[3] - np.log(q[3] * count)), (u @ table[others].T).squeeze(0)])
    torch.nn.functional.cross_entropy(full.unsqueeze(0), torch.tensor([0])).backward()
    distance = [float((g - torch.as_tensor(u.grad)).norm()) for g in gradients]
    assert distance[0] < 0.05
    assert distance[1] > 5 * distance[0]


@pytest.mark.parametrize(
    ("units", "similarity", "expected"), [(True, "dot", 0.05), (False, "cosine", 0.05), (False, "dot", 1.0)]
)
def test_the_default_temperature_is_that_of_the_similarity(units: bool, similarity: str, expected: float) -> None:
    loss = LOSSES.build({"name": "in_batch_softmax", "similarity": similarity}, NO_LABEL)
    assert isinstance(loss, TowerLoss)
    loss.bind([dataclasses.replace(output, is_unit=units) for output in OUTPUTS], where="losses.0")
    assert loss.temperature == expected


def test_a_label_says_which_rows_count() -> None:
    step, schema = Step.draw(), Schema((), (Label("click"),), weight="w")
    batch = step.batch()
    batch.labels = torch.tensor([[1.0], [0.0], [1.0], [1.0], [1.0], [0.0]], dtype=torch.float64)
    loss = LOSSES.build("sampled_softmax", schema)
    assert isinstance(loss, TowerLoss)
    loss.bind(OUTPUTS, where="losses.0")
    step.weight[[1, 5]] = 0
    assert mean(loss, step.user, step.columns(), batch).item() == pytest.approx(step.expected(), rel=1e-12)


def test_what_cannot_be_compared_is_named() -> None:
    step = Step.draw()
    with pytest.raises(ConfigError, match=r"\(B, D\) and \(10, D\).*\(6, 3\) and \(9, 3\)"):
        build(logq=False)({"user": step.user, "item": step.columns()[:9]}, step.batch())
