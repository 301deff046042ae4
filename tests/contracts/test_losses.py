"""What every registered loss must hold, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features
from rechub_ray.losses import LOSSES, Loss
from rechub_ray.schema import Label, Schema

Array = np.ndarray[Any, np.dtype[np.float64]]
SCHEMA = Schema(features=(), labels=(Label("click"),))
ROWS = 12


def _bce(logit: Array, label: Array, weight: Array, *, label_smoothing: float = 0.0) -> float:
    p = 1 / (1 + np.exp(-logit))
    z = np.where(label == 1, 1 - label_smoothing / 2, label_smoothing / 2)
    return float((-(z * np.log(p) + (1 - z) * np.log(1 - p)) * weight).sum() / (weight != 0).sum())


# a loss that is not here fails: a new one brings its own reference
REFERENCES: dict[str, Callable[..., float]] = {"bce": _bce}
VARIANTS: dict[str, list[dict[str, Any]]] = {"bce": [{"label_smoothing": 0.2}]}
CASES = [
    pytest.param({"name": name, **arguments}, id="-".join([name, *(f"{k}={v}" for k, v in arguments.items())]))
    for name in LOSSES.names()
    for arguments in [{}, *VARIANTS.get(name, [])]
]


def draw(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, labels of both classes, and weights, one of which is 0."""
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.2, 3, ROWS)
    weight[3] = 0
    arrays = rng.normal(size=ROWS) * 2, (np.arange(ROWS) % 3 == 0).astype(float), weight
    logit, label, weights = (torch.from_numpy(array).to(dtype) for array in arrays)
    return logit, label, weights


def value(loss: Loss, logit: Tensor, label: Tensor, weight: Tensor | None) -> Tensor:
    features = Features(torch.zeros(len(logit), 0, dtype=torch.int64), torch.zeros(len(logit), 0))
    batch = Batch(features, label.unsqueeze(1), weight)
    total: Tensor = loss({loss.output: logit}, batch)
    return total / loss.count(batch)


@pytest.mark.parametrize("node", CASES)
def test_it_equals_numpy(node: dict[str, Any]) -> None:
    loss = LOSSES.build(node, SCHEMA)
    arguments = {key: argument for key, argument in node.items() if key != "name"}
    logit, label, weight = draw()
    for weights in (weight, None):
        ones = np.ones(ROWS) if weights is None else weights.numpy()
        expected = REFERENCES[node["name"]](logit.numpy(), label.numpy(), ones, **arguments)
        assert value(loss, logit, label, weights).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("node", CASES)
def test_its_gradient_is_the_difference_quotient(node: dict[str, Any]) -> None:
    loss = LOSSES.build(node, SCHEMA)
    logit, label, weight = draw()
    assert torch.autograd.gradcheck(lambda s: value(loss, s, label, weight), (logit.requires_grad_(),))


@pytest.mark.parametrize("node", CASES)
def test_huge_logits_give_finite_losses_and_gradients(node: dict[str, Any]) -> None:
    loss = LOSSES.build(node, SCHEMA)
    logit, label, weight = draw(torch.float32)
    logit = (logit.sign() * 1e4).requires_grad_()
    result = value(loss, logit, label, weight)
    result.backward()
    assert torch.isfinite(result)
    assert logit.grad is not None
    assert torch.isfinite(logit.grad).all()


@pytest.mark.parametrize("node", CASES)
def test_a_weight_of_zero_removes_the_row(node: dict[str, Any]) -> None:
    loss = LOSSES.build(node, SCHEMA)
    logit, label, weight = draw()
    kept = weight != 0
    without = value(loss, logit[kept], label[kept], weight[kept])
    torch.testing.assert_close(value(loss, logit, label, weight), without)
    logit[~kept] = 77.0
    torch.testing.assert_close(value(loss, logit, label, weight), without)


@pytest.mark.parametrize("node", CASES)
def test_it_scales_with_the_weights(node: dict[str, Any]) -> None:
    loss = LOSSES.build(node, SCHEMA)
    logit, label, weight = draw()
    torch.testing.assert_close(value(loss, logit, label, 3 * weight), 3 * value(loss, logit, label, weight))
    torch.testing.assert_close(
        value(loss, logit, label, torch.ones_like(weight)), value(loss, logit, label, None), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("node", CASES)
def test_the_order_of_rows_does_not_matter(node: dict[str, Any]) -> None:
    loss = LOSSES.build(node, SCHEMA)
    logit, label, weight = draw()
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(1))
    shuffled = value(loss, logit[order], label[order], weight[order])
    torch.testing.assert_close(shuffled, value(loss, logit, label, weight))
