from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from rechub_ray.errors import ConfigError
from rechub_ray.schedules import SCHEDULES

LR = 0.3
CASES: list[tuple[str, dict[str, Any]]] = [
    ("StepLR", {"step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [3, 20], "gamma": 0.5}),
    ("ConstantLR", {"factor": 0.5, "total_iters": 4}),
    ("LinearLR", {"start_factor": 0.25, "total_iters": 8}),
    ("ExponentialLR", {"gamma": 0.9}),
    ("PolynomialLR", {"total_iters": 30, "power": 2.0}),
    ("CosineAnnealingLR", {"T_max": 15, "eta_min": 0.01}),
    ("CosineAnnealingWarmRestarts", {"T_0": 6, "T_mult": 2}),
    ("CyclicLR", {"base_lr": 0.01, "max_lr": 0.2, "step_size_up": 5, "cycle_momentum": False}),
    ("OneCycleLR", {"max_lr": 0.5, "total_steps": 40, "cycle_momentum": False}),
]


def torch_rates(name: str, arguments: dict[str, Any], steps: int = 40) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = getattr(lr_scheduler, name)(optimizer, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(("name", "arguments"), CASES, ids=[name for name, _ in CASES])
def test_has_the_rates_of_torch(name: str, arguments: dict[str, Any]) -> None:
    schedule = SCHEDULES.build({"name": f"torch.optim.lr_scheduler.{name}", **arguments}, 40, LR)
    expected = torch_rates(name, arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [LR * schedule.factor(step) for step in range(40)] == pytest.approx(expected, rel=1e-12)
        assert LR * schedule.factor(12) == pytest.approx(expected[12], rel=1e-12)  # also backwards
    if name != "LinearLR":  # the one beyond its end
        assert schedule.factor(1000) <= 1.0


def test_one_cycle_takes_the_length_of_the_run() -> None:
    node = {"name": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.5, "cycle_momentum": False, "warmup_steps": 10}
    schedule = SCHEDULES.build(node, 50, LR)
    expected = torch_rates("OneCycleLR", {"max_lr": 0.5, "total_steps": 40, "cycle_momentum": False})
    assert [LR * schedule.factor(step) for step in range(10, 50)] == pytest.approx(expected)
    assert schedule.factor(500) == schedule.factor(49)


@pytest.mark.parametrize("mode", ["max", "min"])
def test_plateau_has_the_rates_of_torch(mode: str) -> None:
    arguments = {"factor": 0.5, "patience": 1, "cooldown": 1, "threshold": 0.01}
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, **arguments)
    mine = SCHEDULES.build({"name": "torch.optim.lr_scheduler.ReduceLROnPlateau", **arguments}, 40, LR)
    torch.manual_seed(0)
    rates = set()
    for score in torch.rand(30).tolist():
        theirs.step(score)
        mine.observe(score, mode=mode)
        mine.observe(float("nan"), mode=mode)
        assert LR * mine.factor(0) == pytest.approx(optimizer.param_groups[0]["lr"])
        rates.add(mine.factor(0))
    assert len(rates) > 3


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "torch.optim.lr_scheduler.StepLr"}, "Did you mean 'torch.optim.lr_scheduler.StepLR'"),
        ({"name": "torch.optim.lr_schedule.StepLR"}, "unknown schedule"),
        ({"name": "torch.optim.Adam"}, "unknown schedule"),
        ({"name": "../.."}, "unknown schedule"),
        ({"name": ".StepLR"}, "unknown schedule"),
        ({"name": "torch.optim.lr_scheduler.StepLR"}, "'step_size' is missing"),
        ({"name": "torch.optim.lr_scheduler.StepLR", "step_size": 3, "gama": 1}, "no argument 'gama'.*'gamma'"),
        ({"name": "torch.optim.lr_scheduler.StepLR", "step_size": "x"}, "'step_size'.*integer"),
        ({"name": "torch.optim.lr_scheduler.LambdaLR"}, "'lr_lambda', which a configuration cannot give"),
        ({"name": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 1}, "changes momentum.*cycle_momentum: false"),
        ({"name": "torch.optim.lr_scheduler.CosineAnnealingWarmRestarts", "T_0": 0}, "does not take these arguments"),
    ],
)  # fmt: skip
def test_errors(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SCHEDULES.build(node, 40, LR)
