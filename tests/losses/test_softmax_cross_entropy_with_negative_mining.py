from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features
from rechub_ray.losses.softmax_cross_entropy_with_negative_mining import SoftmaxCrossEntropyWithNegativeMining
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema, SparseFeature
from tests.losses.vector_references import mean_by_count, towers

LABEL_KIND = "binary"
WIDTH = 6
PARTS = ("user", "item")
WEIGHTLESS_ROWS_STAY = True
ORDER_MATTERS = True
VARIANTS: list[dict[str, Any]] = [
    {"num_negative_samples": 7, "margin": 0.1, "gamma": 5.0, "coefficient_of_support_vector": 1.5},
    {"similarity": "dot", "temperature": 3.0, "num_negative_samples": 1},
]
SCHEMA = Schema((SparseFeature("item", 50),), (Label("y", optional=True),))
TOWERS = [Output("user", "vector", part="user"), Output("item", "vector", part="item")]


def reference(
    s: np.ndarray, y: np.ndarray, w: np.ndarray, group: np.ndarray, *, num_negative_samples: int = 4,
    margin: float = 0.0, gamma: float = 1.0, coefficient_of_support_vector: float = 1.0, similarity: str = "cosine",
    temperature: float = 1.0, shifts: list[int] | None = None,
) -> float:  # fmt: skip
    """Before the first step, shifts are spread evenly."""
    _, sims = towers(s, similarity=similarity, temperature=temperature)
    rows, k, t = len(y), num_negative_samples, coefficient_of_support_vector
    losses = np.zeros(rows)
    for i in range(rows):
        p, negatives = sims[i, i] - margin, []
        for shift in shifts or [1 + int((n + 0.5) / k * (rows - 1)) for n in range(k)]:
            n = sims[i, (i - shift) % rows]
            negatives.append(t * n + t - 1 if p < n else n)
        losses[i] = np.log(1 + sum(np.exp(gamma * (n - p)) for n in negatives))
    return mean_by_count(losses, w * (y > 0))


def batch(labels: Tensor, items: Tensor | None = None) -> Batch:
    items = torch.arange(len(labels)) if items is None else items
    return Batch(Features(items.unsqueeze(1), torch.zeros(len(labels), 0)), labels.unsqueeze(1))


def built(**arguments: Any) -> SoftmaxCrossEntropyWithNegativeMining:
    loss = SoftmaxCrossEntropyWithNegativeMining(SCHEMA, **arguments)
    loss.bind(TOWERS, where="losses.0")
    return loss


def test_shifts_are_drawn_from_the_generator_evenly() -> None:
    loss, found = built(num_negative_samples=2), []
    for step in range(2000):
        loss.draw(torch.Generator().manual_seed(step))
        found.append(loss.draws)
    loss.draw(torch.Generator().manual_seed(0))
    assert loss.draws == found[0]
    shifts = 1 + (np.array(found).ravel() * 7).astype(int)
    counts = np.bincount(shifts, minlength=8)
    assert counts[0] == 0
    assert len(counts) == 8
    np.testing.assert_allclose(counts[1:] / 4000, 1 / 7, atol=0.02)


def test_it_follows_the_drawn_shifts() -> None:
    s = np.random.default_rng(0).normal(size=(8, 6))
    y = np.array([1.0, 0, 1, 1, 0, 0, 1, 0])
    user, item = torch.from_numpy(s).chunk(2, 1)
    loss = built(num_negative_samples=3, coefficient_of_support_vector=1.2)
    loss.draw(torch.Generator().manual_seed(5))
    shifts = [1 + int(draw * 7) for draw in loss.draws]
    expected = reference(s, y, np.ones(8), y, coefficient_of_support_vector=1.2, shifts=shifts)
    assert loss({"user": user, "item": item}, batch(torch.from_numpy(y))).item() / 4 == pytest.approx(expected)


def test_few_rows_and_the_same_item_are_no_error() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows, labels in ((1, torch.ones(1)), (3, torch.tensor([1.0, float("nan"), float("nan")]))):
        user, item = (torch.randn(rows, 3, generator=generator).requires_grad_() for _ in range(2))
        loss = built()
        value = loss({"user": user, "item": item}, batch(labels))
        value.backward()
        assert value.item() == 0
        assert torch.equal(torch.as_tensor(user.grad), torch.zeros(rows, 3))
    user, item = (torch.randn(4, 3, generator=generator).requires_grad_() for _ in range(2))
    loss = built(item_id="item")
    value = loss({"user": user, "item": item}, batch(torch.ones(4), torch.zeros(4, dtype=torch.int64)))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(torch.as_tensor(item.grad)).all()
