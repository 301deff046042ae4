from __future__ import annotations

import pytest
import torch

from rechub_ray.schedules import WarmupCosine

# base 0.1, 100 steps, warmup from 0.01 in 10 steps, then 10 at the base rate: TensorFlow's values
GOLDEN = {
    0: 0.01, 1: 0.019, 5: 0.055, 10: 0.1, 11: 0.1, 20: 0.1, 25: 0.0990392640, 50: 0.0691341683, 99: 3.8549304e-05,
    100: 0.0, 101: 0.0,
}  # fmt: skip


def test_golden_values() -> None:
    schedule = WarmupCosine(100, 0.1, warmup_steps=10, warmup_lr=0.01, hold_steps=10)
    assert {step: 0.1 * schedule.factor(step) for step in GOLDEN} == pytest.approx(GOLDEN, rel=2e-6, abs=5e-9)


def test_floor() -> None:
    schedule = WarmupCosine(100, 0.1, min_lr=0.02)
    assert 0.1 * schedule.factor(50) == pytest.approx(0.06)
    assert 0.1 * schedule.factor(100) == pytest.approx(0.02)
    assert 0.1 * schedule.factor(500) == pytest.approx(0.02)


@pytest.mark.parametrize("factor", [1, 2])
def test_restarts_are_those_of_torch(factor: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 6, factor, eta_min=0.02)
    mine = WarmupCosine(5, 0.1, cycle_steps=6, cycle_factor=factor, min_lr=0.02)
    for step in range(50):
        assert 0.1 * mine.factor(step) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_tops_of_restarts_may_fall() -> None:
    schedule = WarmupCosine(100, 1.0, warmup_steps=2, hold_steps=1, cycle_steps=10, peak_factor=0.5, min_lr=0.2)
    assert [schedule.factor(step) for step in (3, 13, 23)] == pytest.approx([1.0, 0.6, 0.4])
    assert schedule.factor(18) == pytest.approx(0.4)
