from __future__ import annotations

import pytest

from rechub_ray.schedules import Transformer


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_is_the_formula(rate: float) -> None:
    schedule = Transformer(100, 0.2, hidden_size=16, warmup_steps=10, step_scaling_rate=rate)
    for step in (0, 3, 9, 10, 11, 99):
        at, rise = rate * step + 1, rate * 10
        assert schedule.factor(step) == pytest.approx(0.25 * min(at / rise**1.5, at**-0.5))


def test_rises_to_its_top_at_the_end_of_the_rise() -> None:
    schedule = Transformer(100, 1.0, hidden_size=1, warmup_steps=10)
    rates = [schedule.factor(step) for step in range(30)]
    assert rates.index(max(rates)) == 9
