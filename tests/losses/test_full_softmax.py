"""The softmax over all items, next to torch's cross entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch, Candidates, Features
from rechub_ray.errors import ConfigError
from rechub_ray.losses import LOSSES, full_softmax
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.outputs import Output
from rechub_ray.schema import Schema

LABEL_KIND = "binary"
NEEDS_CANDIDATES = True
VARIANTS: list[dict[str, Any]] = []
ROWS, ITEMS, DIM = 23, 40, 5
OUTPUTS = (Output("user", "vector", part="user"), Output("item", "vector", part="item"))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_softmax, "_ROWS", 7)
    monkeypatch.setattr(full_softmax, "_COLUMNS", 9)


def build(**arguments: Any) -> TowerLoss:
    loss = LOSSES.build({"name": "full_softmax", **arguments}, Schema((), (), weight="w"))
    assert isinstance(loss, TowerLoss)
    loss.bind(OUTPUTS, where="losses.0")
    return loss


def draw(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Batch]:
    rng = np.random.default_rng(3)
    user, item = (torch.from_numpy(rng.normal(size=(n, DIM)) * scale).to(dtype) for n in (ROWS, ITEMS))
    own = torch.from_numpy(rng.integers(0, ITEMS, ROWS))
    own[4] = -1
    weight = torch.from_numpy(rng.uniform(0.5, 2, ROWS)).to(dtype)
    weight[7] = 0
    nothing = Features(torch.zeros(ROWS, 0, dtype=torch.int64), torch.zeros(ROWS, 0))
    ids = torch.arange(ITEMS) * 3 + 1
    candidates = Candidates(ids, nothing, torch.zeros(ITEMS), in_batch=False, own=own)
    return user, item, Batch(nothing, torch.zeros(ROWS, 0), weight, candidates=candidates)


def expected(user: Tensor, item: Tensor, batch: Batch, temperature: float = 1.0) -> Tensor:
    assert batch.candidates is not None
    assert batch.candidates.own is not None
    assert batch.weight is not None
    own = batch.candidates.own
    losses = F.cross_entropy(user @ item.T / temperature, own.clamp(min=0), reduction="none")
    counts = torch.where(own >= 0, batch.weight, 0)
    return (losses * counts).sum() / (counts != 0).sum()


def mean(loss: TowerLoss, user: Tensor, item: Tensor, batch: Batch) -> Tensor:
    return loss({"user": user, "item": item}, batch) / torch.as_tensor(loss.count(batch))


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_it_and_its_gradient_equal_torch(temperature: float) -> None:
    loss, (user, item, batch) = build(temperature=temperature), draw()
    user.requires_grad_()
    item.requires_grad_()
    assert loss.count(batch) == ROWS - 2
    found, right = mean(loss, user, item, batch), expected(user, item, batch, temperature)
    assert found.item() == pytest.approx(right.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(found, (user, item)), torch.autograd.grad(right, (user, item)))
    assert torch.autograd.gradcheck(lambda u, v: mean(loss, u, v, batch), (user, item))


def test_large_products_stay_finite() -> None:
    user, item, batch = draw(100, torch.float32)
    user.requires_grad_()
    value = mean(build(), user, item, batch)
    torch.testing.assert_close(value, expected(user, item, batch))
    value.backward()
    assert torch.isfinite(torch.as_tensor(user.grad)).all()


def test_cosines_are_those_of_all_items() -> None:
    user, item, batch = draw()
    found = mean(build(similarity="cosine", temperature=0.1), user, item, batch)
    right = expected(F.normalize(user), F.normalize(item), batch, 0.1)
    assert found.item() == pytest.approx(right.item(), rel=1e-12)


def test_without_all_items_it_says_so() -> None:
    user, item, batch = draw()
    batch.candidates = None
    with pytest.raises(ConfigError, match=r"negatives: \[all\]"):
        mean(build(), user, item, batch)


def test_it_keeps_one_number_a_row() -> None:
    """What autograd holds between forward and backward is the inputs and a number a row, never a block of products."""
    user, item, batch = draw()
    user.requires_grad_()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
        mean(build(), user, item, batch)
    assert max(kept) <= max(ROWS, ITEMS) * DIM


def test_of_several_vectors_a_row_has_the_one_that_suits_its_item() -> None:
    user, item, batch = draw()
    assert batch.candidates is not None
    assert batch.candidates.own is not None
    interests = torch.stack([user, user.roll(1, 0), -user], 1)
    products = (interests * item[batch.candidates.own.clamp(min=0)].unsqueeze(1)).sum(2)
    one = interests[torch.arange(ROWS), products.argmax(1)]
    loss = build()
    found = loss({"user": interests, "item": item}, batch) / loss.count(batch)
    torch.testing.assert_close(found, expected(one, item, batch))
