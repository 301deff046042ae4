from __future__ import annotations

import numpy as np
import pytest
import torch

from rechub_ray.balancing import BALANCING, GradNorm
from rechub_ray.errors import ConfigError
from rechub_ray.schema import Label

TASKS = (Label("a"), Label("b"))


def balancing(**arguments: float) -> GradNorm:
    built = GradNorm(TASKS, **arguments)
    built.tables = frozenset({"embedding", "table"})
    return built


def take(built: GradNorm, norms: tuple[float, ...] | list[float], losses: list[float]) -> None:
    built.observe(torch.diag(torch.tensor(norms, dtype=torch.float64).square()), torch.tensor(losses))


def test_the_layer_is_the_last_shared_one() -> None:
    assert balancing().watched(["embedding", "first", "last", "table"]) == ["last"]
    assert balancing().watched(["table"]) == []


def test_a_step_is_that_of_the_paper() -> None:
    built = balancing(alpha=1.5, lr=0.1)
    weights, first = np.ones(2), np.array([0.7, 2.0])
    for losses, norms in (([0.7, 2.0], [3.0, 1.0]), ([0.5, 1.9], [2.0, 1.5]), ([0.4, 0.6], [1.0, 0.5])):
        assert built.combine(torch.tensor(losses), 1.0).item() == pytest.approx(float(weights @ losses))
        take(built, norms, losses)
        ratios = np.array(losses) / first
        scaled = weights * np.array(norms)
        target = scaled.mean() * (ratios / ratios.mean()) ** 1.5
        # the difference quotient of the paper's loss, whose target is constant
        slope = [
            (np.abs((weights + d) * norms - target).sum() - np.abs((weights - d) * norms - target).sum()) / 2e-6
            for d in 1e-6 * np.eye(2)
        ]
        moved = np.maximum(weights - 0.1 * np.array(slope), 1e-3)
        weights = 2 * moved / moved.sum()
        assert built.weights().tolist() == pytest.approx(weights.tolist(), rel=1e-5)


def test_equal_rates_end_with_equal_norms() -> None:
    """A known answer: losses fall alike, and one gradient is four times the other: w = (2/5, 8/5)."""
    built = balancing(lr=0.002)
    for step in range(2000):
        left = 0.999**step
        take(built, [4.0, 1.0], [left, 3 * left])
    assert built.weights().tolist() == pytest.approx([0.4, 1.6], abs=0.02)


def test_a_task_that_lags_behind_gains_weight_and_alpha_says_how_much() -> None:
    ends = []
    for alpha in (0.0, 0.5, 1.5):
        built = balancing(lr=0.002, alpha=alpha)
        take(built, [1.0, 1.0], [1.0, 1.0])
        for _ in range(2000):
            take(built, [1.0, 1.0], [1.0, 0.25])
        ends.append(built.weights()[0].item())
    # r = (1.6, 0.4), so the second task's gradient ends at its target, 0.4^alpha; the first has what is left of the sum
    assert ends == pytest.approx([2 - 0.4**alpha for alpha in (0.0, 0.5, 1.5)], abs=0.02)


def test_its_state_is_saved() -> None:
    built = balancing()
    take(built, [4.0, 1.0], [1.0, 3.0])
    again = balancing()
    again.load_state_dict(built.state_dict())
    for one in (built, again):
        take(one, [2.0, 1.0], [0.5, 2.9])
    assert torch.equal(again.weights(), built.weights())
    assert set(built.state_dict()) == {"task_weights", "first_losses"}


def test_losses_of_zero_leave_the_weights_finite() -> None:
    built = balancing()
    take(built, [0.0, 0.0], [0.0, 0.0])
    take(built, [1.0, 0.0], [-1.0, 0.0])
    assert built.weights().isfinite().all()
    assert built.weights().sum().item() == pytest.approx(2)


def test_one_task_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 2 labels with losses. Got: a"):
        BALANCING.build("gradnorm", TASKS[:1])
