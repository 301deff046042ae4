from __future__ import annotations

import pytest

from rechub_ray.schedules import Exponential

# base 0.1 halved every 10 steps in stairs, 10 steps from 0.01 before, never below 0.02: TensorFlow's values
GOLDEN = {0: 0.02, 1: 0.02, 5: 0.055, 10: 0.1, 11: 0.1, 20: 0.05, 25: 0.05, 50: 0.02, 99: 0.02, 100: 0.02, 101: 0.02}


def test_golden_values() -> None:
    schedule = Exponential(
        100, 0.1, decay=0.5, decay_steps=10, staircase=True, min_lr=0.02, warmup_steps=10, warmup_lr=0.01
    )
    assert {step: 0.1 * schedule.factor(step) for step in GOLDEN} == pytest.approx(GOLDEN)


def test_without_stairs() -> None:
    schedule = Exponential(100, 0.1, decay=0.25, decay_steps=10)
    assert schedule.factor(5) == pytest.approx(0.5)
    assert schedule.factor(20) == pytest.approx(0.0625)
