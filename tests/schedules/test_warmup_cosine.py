from __future__ import annotations

import pytest

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
