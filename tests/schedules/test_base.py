from __future__ import annotations

import pytest

from rechub_ray.schedules import SCHEDULES

ARGUMENTS = {
    "exponential": {"decay": 0.5, "decay_steps": 10},
    "manual_step": {"boundaries": [50], "rates": [0.1]},
}


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_every_schedule_takes_a_linear_warmup(name: str) -> None:
    node = {"name": name, "warmup_steps": 4, "warmup_lr": 0.2, **ARGUMENTS.get(name, {})}
    schedule = SCHEDULES.build(node, 100, 1.0)
    assert [schedule.factor(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize(("total", "lr"), [(1, 1.0), (100, 0.0), (3, 0.1)])
def test_factors_are_finite_at_the_edges(name: str, total: int, lr: float) -> None:
    schedule = SCHEDULES.build({"name": name, "warmup_steps": 5, **ARGUMENTS.get(name, {})}, total, lr)
    assert all(0 <= schedule.factor(step) <= 1 for step in (0, 1, 4, 5, 6, 99, 100, 1000))


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_state_round_trip(name: str) -> None:
    node = {"name": name, **ARGUMENTS.get(name, {})}
    schedule, other = SCHEDULES.build(node, 100, 1.0), SCHEDULES.build(node, 100, 1.0)
    for score in (0.5, 0.4):
        schedule.observe(score, mode="max")
    other.load_state_dict(schedule.state_dict())
    for each in (schedule, other):
        each.observe(0.3, mode="max")
    assert [schedule.factor(step) for step in range(0, 100, 9)] == [other.factor(step) for step in range(0, 100, 9)]
