from __future__ import annotations

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.schedules import ManualStep

# rates 0.1 -> 0.2 over the first 5 steps, 0.2 until step 10, then 0.001: TensorFlow's values
GOLDEN = {0: 0.1, 1: 0.12, 5: 0.2, 10: 0.001, 11: 0.001, 50: 0.001, 101: 0.001}


def test_golden_values() -> None:
    schedule = ManualStep(100, 0.2, boundaries=[10], rates=[0.001], warmup_steps=5, warmup_lr=0.1)
    assert {step: 0.2 * schedule.factor(step) for step in GOLDEN} == pytest.approx(GOLDEN)


def test_the_rate_changes_at_the_boundary() -> None:
    schedule = ManualStep(100, 1.0, boundaries=[3, 6], rates=[0.5, 2.0])
    assert [schedule.factor(step) for step in range(8)] == [1, 1, 1, 0.5, 0.5, 0.5, 2, 2]


@pytest.mark.parametrize(("boundaries", "rates"), [([3, 6], [0.5]), ([6, 3], [0.5, 0.1]), ([3, 3], [0.5, 0.1])])
def test_boundaries_and_rates_that_do_not_fit(boundaries: list[int], rates: list[float]) -> None:
    with pytest.raises(ConfigError, match="ascending boundaries"):
        ManualStep(100, 1.0, boundaries=boundaries, rates=rates)


def test_one_warmup_only() -> None:
    with pytest.raises(ConfigError, match="warmup, or warmup_steps"):
        ManualStep(100, 1.0, boundaries=[10], rates=[0.5], warmup=True, warmup_steps=3)
