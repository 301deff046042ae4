"""Torch's classes as nodes, against torch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from rechub_ray.errors import ConfigError
from rechub_ray.optimizers import OPTIMIZERS
from rechub_ray.schedules import SCHEDULES
from rechub_ray.trainers.translate import optimizer_nodes, schedule_node


@pytest.mark.parametrize(
    ("optimizer", "params"),
    [
        (torch.optim.Adam, None),
        (torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"lr": 0.01}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
    ],
)
def test_the_optimizer_moves_weights_as_torchs_own(optimizer: Any, params: dict[str, Any] | None) -> None:
    mine, theirs = (torch.full((3,), 2.0, requires_grad=True) for _ in range(2))
    [node] = optimizer_nodes(optimizer, params)
    steppers = [
        OPTIMIZERS.build(node, [mine]),
        optimizer([theirs], **(params if params is not None else {"lr": 1e-3, "weight_decay": 1e-5})),
    ]
    for step in range(5):
        for weight, stepper in zip((mine, theirs), steppers, strict=True):
            weight.grad = torch.tensor([1.0, -0.5, 0.1]) * (step + 1)
            stepper.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=0)


def test_names_and_nodes_pass_through() -> None:
    assert optimizer_nodes("adagrad", {"lr": 0.1}) == [{"name": "adagrad", "lr": 0.1}]
    nodes = [{"name": "lazy_adam", "params": "embedding.*"}, {"name": "adam"}]
    assert optimizer_nodes(nodes, None) == nodes
    with pytest.raises(ConfigError, match="optimizer_params"):
        optimizer_nodes(nodes, {"lr": 1})


def test_an_unknown_optimizer_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"a class of torch\.optim.*adagrad.*Linear"):
        optimizer_nodes(torch.nn.Linear, None)


def test_any_other_class_of_torch_goes_by_its_dotted_name() -> None:
    assert optimizer_nodes(torch.optim.RAdam, {"lr": 0.1}) == [{"name": "torch.optim.RAdam", "lr": 0.1}]
    with pytest.raises(ConfigError, match=r"'optimizer_fn'.*one gradient a step"):
        optimizer_nodes(torch.optim.LBFGS, None)


@pytest.mark.parametrize(
    ("scheduler", "params"),
    [
        (lr_scheduler.StepLR, {"step_size": 2, "gamma": 0.5}),
        (lr_scheduler.MultiStepLR, {"milestones": [1, 4], "gamma": 0.1}),
        (lr_scheduler.ExponentialLR, {"gamma": 0.9}),
        (lr_scheduler.CosineAnnealingLR, {"T_max": 6, "eta_min": 1e-5}),
        (lr_scheduler.LambdaLR, {"lr_lambda": lambda epoch: 1 / (1 + epoch)}),
    ],
)
def test_each_epoch_has_the_rate_that_torchs_scheduler_gives_it(scheduler: Any, params: dict[str, Any]) -> None:
    epochs, steps, lr = 6, 10, 0.02
    node = schedule_node(scheduler, params, lr=lr, epochs=epochs, steps_per_epoch=steps)
    schedule = SCHEDULES.build(node, epochs * steps, lr)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    stepper = scheduler(optimizer, **params)
    for epoch in range(epochs):
        rate = optimizer.param_groups[0]["lr"]
        for step in (epoch * steps, epoch * steps + steps - 1):
            assert lr * schedule.factor(step) == pytest.approx(rate, rel=1e-12), (epoch, step)
        optimizer.step()
        stepper.step()


def test_a_rate_that_never_changes_needs_no_schedule() -> None:
    common = {"lr": 0.1, "epochs": 3, "steps_per_epoch": 5}
    assert schedule_node(None, None, **common) is None  # type: ignore[arg-type]
    assert schedule_node(lr_scheduler.StepLR, {"step_size": 3}, **common) is None  # type: ignore[arg-type]


def test_plateau_reduces_when_torchs_own_does() -> None:
    scores = [0.7, 0.8, 0.79, 0.78, 0.77, 0.81, 0.8, 0.8, 0.8]
    params = {"factor": 0.5, "patience": 1, "mode": "max"}
    node = schedule_node(lr_scheduler.ReduceLROnPlateau, params, lr=0.1, epochs=9, steps_per_epoch=5)
    schedule = SCHEDULES.build(node, 45, 0.1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    stepper = lr_scheduler.ReduceLROnPlateau(optimizer, **params)
    for score in scores:
        schedule.observe(score, mode="max")
        stepper.step(score)
        assert 0.1 * schedule.factor(10) == pytest.approx(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize(
    ("scheduler", "params", "message"),
    [
        (lr_scheduler.StepLR, {"step": 2}, "scheduler_params.*StepLR"),
        (lr_scheduler.OneCycleLR, {"max_lr": 1.0, "total_steps": 10}, "betas"),
        (lr_scheduler.LinearLR, {}, "does not start.*warmup"),
        (lr_scheduler.ReduceLROnPlateau, {"cooldown": 2}, "cooldown"),
        (torch.optim.Adam, {}, "scheduler_fn.*Adam"),
        (None, {"step_size": 2}, "scheduler_params"),
    ],
)
def test_what_has_no_counterpart_is_refused(scheduler: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule_node(scheduler, params, lr=0.1, epochs=3, steps_per_epoch=5)
