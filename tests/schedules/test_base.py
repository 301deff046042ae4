from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rechub_ray.saved_state import check_like
from rechub_ray.schedules import SCHEDULES, Schedule

ARGUMENTS = {
    "exponential": {"decay": 0.5, "decay_steps": 10},
    "manual_step": {"boundaries": [50], "rates": [0.1]},
    "transformer": {"hidden_size": 4},
}
# schedules with their arguments: every name, and a second form of some
VARIANTS = [
    *({"name": name, **ARGUMENTS.get(name, {})} for name in SCHEDULES.names()),
    {"name": "warmup_cosine", "cycle_steps": 7, "cycle_factor": 1.5},
    {"name": "torch.optim.lr_scheduler.StepLR", "step_size": 7, "gamma": 0.5},
    {"name": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 30},
    {"name": "torch.optim.lr_scheduler.ReduceLROnPlateau", "patience": 0},
]
# of a widely used implementation (golden/schedules.json): its name for the case, ours, and the base rate
GOLDEN = [
    ("exp(base=.1,ds=10,f=.5,burn_lr=.01,burn=10,min=.02,stair)", 0.1,
     {"name": "exponential", "decay": 0.5, "decay_steps": 10, "staircase": True, "min_lr": 0.02, "warmup_steps": 10,
      "warmup_lr": 0.01}),
    ("cos(base=.1,total=100,wlr=.01,w=10,hold=10)", 0.1,
     {"name": "cosine", "warmup_steps": 10, "warmup_lr": 0.01, "hold_steps": 10}),
    ("manual warmup([5,10],[.1,.2,.001])", 0.1,
     {"name": "manual_step", "boundaries": [5, 10], "rates": [0.2, 0.001], "warmup": True}),
    ("poly(.1,total=100,end=.01,p=2)", 0.1, {"name": "poly", "end_lr": 0.01, "power": 2}),
]  # fmt: skip


def test_every_golden_value(golden: Callable[[str], Any]) -> None:
    values = golden("schedules.json")
    assert {case for case, _, _ in GOLDEN} == set(values)
    for case, lr, node in GOLDEN:
        schedule = SCHEDULES.build(node, 100, lr)
        mine = {step: lr * schedule.factor(int(step)) for step in values[case]}
        assert mine == pytest.approx(values[case], rel=1e-5, abs=1e-8), case


def label(node: dict[str, Any]) -> str:
    return "-".join(str(value) for value in node.values())


@pytest.mark.parametrize("node", [node for node in VARIANTS if node["name"] != "transformer"], ids=label)
def test_every_schedule_takes_a_linear_warmup(node: dict[str, Any]) -> None:
    schedule = SCHEDULES.build({"warmup_steps": 4, "warmup_lr": 0.2, **node}, 100, 1.0)
    bare = SCHEDULES.build(node, 96, 1.0)
    assert [schedule.factor(step) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    if node["name"] != "manual_step":  # its boundaries are counted from the start of the run
        after = [schedule.factor(step) for step in range(4, 104)]
        assert after == pytest.approx([bare.factor(step) for step in range(100)])


@pytest.mark.parametrize("name", SCHEDULES.names())
@pytest.mark.parametrize(("total", "lr"), [(1, 1.0), (100, 0.0), (3, 0.1)])
def test_factors_are_finite_at_the_edges(name: str, total: int, lr: float) -> None:
    schedule = SCHEDULES.build({"name": name, "warmup_steps": 5, **ARGUMENTS.get(name, {})}, total, lr)
    assert all(0 <= schedule.factor(step) <= 1 for step in (0, 1, 4, 5, 6, 99, 100, 1000))


@pytest.mark.parametrize("node", VARIANTS, ids=label)
@pytest.mark.parametrize("at", [1, 20, 35])
def test_an_interrupted_run_has_the_rates_of_an_undisturbed_one(node: dict[str, Any], at: int) -> None:
    def run(schedule: Schedule, start: int, stop: int) -> list[float]:
        rates = []
        for step in range(start, stop):
            rates.append(0.3 * schedule.factor(step))
            if step % 10 == 9:
                schedule.observe(0.9 - step / 100, mode="max")
        return rates

    whole = run(SCHEDULES.build(node, 40, 0.3), 0, 40)
    first, second = SCHEDULES.build(node, 40, 0.3), SCHEDULES.build(node, 40, 0.3)
    rates = run(first, 0, at)
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))
    check_like(state, second.state_dict(), "'state'")
    second.load_state_dict(state)
    assert rates + run(second, at, 40) == whole


@pytest.mark.parametrize("node", VARIANTS, ids=label)
def test_a_checked_node_reads_back_the_same(node: dict[str, Any]) -> None:
    checked = SCHEDULES.validate(node)
    assert checked["per"] == "step"
    assert json.dumps(SCHEDULES.validate(json.loads(json.dumps(checked)))) == json.dumps(checked)
