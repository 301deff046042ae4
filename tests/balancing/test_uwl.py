from __future__ import annotations

import math

import pytest
import torch

from rechub_ray.balancing import UncertaintyWeighting
from rechub_ray.schema import Label

TASKS = (Label("click"), Label("price", "regression"))


def test_it_is_kendalls_formula() -> None:
    balancing = UncertaintyWeighting(TASKS)
    with torch.no_grad():
        balancing.log_variance.copy_(torch.tensor([0.4, -0.3]))
    losses = torch.tensor([0.7, 2.0], requires_grad=True)
    total = balancing.combine(losses, 1.0)
    expected = math.exp(-0.4) * 0.7 + 0.4 / 2 + 0.5 * math.exp(0.3) * 2.0 - 0.3 / 2
    assert total.item() == pytest.approx(expected)
    total.backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == pytest.approx([math.exp(-0.4), 0.5 * math.exp(0.3)])
    assert balancing.log_variance.grad is not None
    slopes = [-math.exp(-0.4) * 0.7 + 0.5, -0.5 * math.exp(0.3) * 2.0 + 0.5]
    assert balancing.log_variance.grad.tolist() == pytest.approx(slopes)
    assert balancing.weights().tolist() == pytest.approx([math.exp(-0.4), 0.5 * math.exp(0.3)])


def test_parts_add_up() -> None:
    balancing = UncertaintyWeighting(TASKS)
    with torch.no_grad():
        balancing.log_variance.copy_(torch.tensor([0.4, -0.3]))
    losses = torch.tensor([0.7, 2.0])
    parts = balancing.combine(0.25 * losses, 0.25) + balancing.combine(0.75 * losses, 0.75)
    torch.testing.assert_close(parts, balancing.combine(losses, 1.0))


def test_constant_losses_are_weighted_down_to_the_known_optimum() -> None:
    """Where the losses do not move, the best exp(-a) is 1 / (2 c L)."""
    balancing, losses = UncertaintyWeighting(TASKS), torch.tensor([0.2, 3.0])
    optimizer = torch.optim.Adam(balancing.parameters(), lr=0.05)
    for _ in range(1500):
        optimizer.zero_grad()
        balancing.combine(losses, 1.0).backward()
        optimizer.step()
    assert balancing.weights().tolist() == pytest.approx([1 / (2 * 0.2), 1 / (2 * 3.0)], rel=1e-3)
