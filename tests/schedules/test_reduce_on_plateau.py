from __future__ import annotations

import json
import math

import pytest

from rechub_ray.schedules import ReduceOnPlateau


def factors(schedule: ReduceOnPlateau, scores: list[float], mode: str = "max") -> list[float]:
    result = []
    for score in scores:
        schedule.observe(score, mode=mode)
        result.append(schedule.factor(7))
    return result


def test_each_evaluation_without_gain_cuts_the_rate_down_to_the_floor() -> None:
    schedule = ReduceOnPlateau(100, 1e-3)
    scores = [0.70, 0.75, 0.74, 0.75, 0.76, 0.70, 0.70]
    assert factors(schedule, scores) == pytest.approx([1, 1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_best_score_stays_after_a_reduction() -> None:
    assert factors(ReduceOnPlateau(100, 1.0), [0.8, 0.6, 0.7, 0.81]) == pytest.approx([1, 0.1, 0.01, 0.01])


def test_lower_is_better() -> None:
    assert factors(ReduceOnPlateau(100, 1.0), [0.5, 0.4, 0.41], "min") == pytest.approx([1, 1, 0.1])


def test_patience_counts_evaluations_in_a_row() -> None:
    schedule = ReduceOnPlateau(100, 1.0, patience=1, decay=0.5)
    assert factors(schedule, [0.5, 0.4, 0.6, 0.5, 0.5, 0.5, 0.5]) == [1, 1, 1, 1, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(("score", "expected"), [(0.51, 1.0), (0.5099, 0.1)])
def test_the_smallest_gain(score: float, expected: float) -> None:
    assert factors(ReduceOnPlateau(100, 1.0, min_delta=0.01), [0.5, score])[-1] == pytest.approx(expected)


def test_nan_is_passed_over() -> None:
    assert factors(ReduceOnPlateau(100, 1.0), [0.5, math.nan, 0.4]) == pytest.approx([1, 1, 0.1])
    assert factors(ReduceOnPlateau(100, 1.0), [math.nan, 0.5, 0.4]) == pytest.approx([1, 1, 0.1])


def test_a_floor_above_the_rate_does_not_raise_it() -> None:
    assert factors(ReduceOnPlateau(100, 1e-3, min_lr=1.0), [0.5, 0.4]) == [1, 1]


def test_its_state_is_json() -> None:
    schedule = ReduceOnPlateau(100, 1.0, patience=1)
    factors(schedule, [0.5, 0.4])
    other = ReduceOnPlateau(100, 1.0, patience=1)
    other.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert factors(other, [0.5 - 1e-9]) == pytest.approx([0.1])
