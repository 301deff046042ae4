from __future__ import annotations

import pytest

from rechub_ray.schedules import Polynomial

# from 0.1 to 0.01 in 100 steps, power 2: TensorFlow's values
GOLDEN = {
    0: 0.1, 1: 0.098209001, 5: 0.091224998, 10: 0.082899995, 11: 0.081288993, 20: 0.067600004, 25: 0.060625002,
    50: 0.0325, 99: 0.010009, 100: 0.01, 101: 0.01,
}  # fmt: skip


def test_golden_values() -> None:
    schedule = Polynomial(100, 0.1, power=2.0, end_lr=0.01)
    assert {step: 0.1 * schedule.factor(step) for step in GOLDEN} == pytest.approx(GOLDEN, rel=1e-6)


def test_straight_line_after_a_warmup() -> None:
    schedule = Polynomial(110, 1.0, warmup_steps=10)
    assert [schedule.factor(step) for step in (10, 35, 60, 110)] == pytest.approx([1, 0.75, 0.5, 0])
