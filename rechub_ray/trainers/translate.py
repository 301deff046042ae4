"""Models, and torch's optimizer and scheduler classes, as nodes of the configuration."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from rechub_ray.errors import ConfigError, named, nearest
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.optimizers import OPTIMIZERS
from rechub_ray.schedules import SCHEDULES

# torch's class -> our name, and our names of its arguments
_OPTIMIZERS: dict[type, tuple[str, dict[str, str]]] = {
    torch.optim.Adam: ("adam", {}),
    torch.optim.AdamW: ("adamw", {}),
    torch.optim.SGD: ("sgd", {}),
    torch.optim.Adagrad: ("adagrad", {"initial_accumulator_value": "initial_accumulator"}),
}
_PLATEAU = {"factor": "decay", "patience": "patience", "min_lr": "min_lr"}


def model_node(model: Any) -> dict[str, Any]:
    """Return the configuration's `model`, from which every worker builds the same model again.

    Raises:
        ConfigError: the model is not registered, or was changed after it was built.
    """
    cls, name = type(model), getattr(model, "registered_name", None)
    if not isinstance(model, Model) or name is None or not _builds(name, cls):
        raise ConfigError(
            f"'model': {cls.__module__}.{cls.__qualname__} is not a registered model",
            expected=f"an instance of one of: {', '.join(MODELS.names())}",
            hint="Make your own a subclass of rechub_ray.models.Model (schema by position, hyperparameters by keyword, "
            "forward(features) returns {'logit': (B,)}) and put @MODELS.register('my_model') above it. Any other "
            "torch.nn.Module, one of your own with Torch-RecHub's features for instance, is a model by "
            "rechub_ray.models.adapted(function that makes it); Torch-RecHub's own are in rechub_ray.compat.models.",
        )
    node = {"name": name, **model.arguments}
    with torch.device("meta"):
        again = MODELS.build(node, model.schema, where="model")
    shapes = {key: tuple(tensor.shape) for key, tensor in again.state_dict().items()}
    differing = [key for key, tensor in model.state_dict().items() if shapes.pop(key, None) != tuple(tensor.shape)]
    differing += [*shapes, *(key for key, weight in model.named_parameters() if not weight.requires_grad)]
    if differing:
        raise ConfigError(
            f"'model': this {name} is not what its constructor builds",
            got=f"layers changed or frozen afterwards: {', '.join(differing[:5])}",
            hint="Workers build it again from its class and arguments: make the change in a class of your own; what is "
            "not to be trained is named in overrides={'train.freeze': [...]}.",
        )
    return node


def _builds(name: str, cls: type) -> bool:
    """Return whether the model of this name is of this class."""
    try:
        return MODELS.get(name) is cls
    except ConfigError:
        return False


def optimizer_nodes(optimizer: Any, params: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Return the configuration's `optimizers`.

    Args:
        optimizer: a class of `torch.optim`, an optimizer of this library or its name, or the list of nodes itself.
        params: its arguments, under torch's names for a class of torch; None takes lr 0.001 and weight_decay 0.00001.

    Raises:
        ConfigError: a class or an argument has no counterpart.
    """
    if isinstance(optimizer, list):
        if params is not None:
            raise ConfigError("'optimizer_params' has no meaning beside a list of optimizers", got=dict(params))
        return optimizer
    arguments: dict[str, Any] = dict(params) if params is not None else {"lr": 1e-3, "weight_decay": 1e-5}
    if isinstance(optimizer, str):
        return [{"name": optimizer, **arguments}]
    if optimizer in _OPTIMIZERS:
        name, names = _OPTIMIZERS[optimizer]
        arguments = {names.get(key, key): value for key, value in arguments.items()}
        if "betas" in arguments:
            arguments["beta1"], arguments["beta2"] = arguments.pop("betas")
        # torch's own defaults count for torch's class
        arguments.setdefault("lr", inspect.signature(optimizer).parameters["lr"].default)
        return [{"name": name, **arguments}]
    if getattr(optimizer, "registered_name", None) in OPTIMIZERS.names():
        return [{"name": optimizer.registered_name, **arguments}]
    if isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer):
        is_torchs = getattr(torch.optim, optimizer.__name__, None) is optimizer
        name = f"{'torch.optim' if is_torchs else optimizer.__module__}.{optimizer.__qualname__}"
        with named("optimizer_fn"):
            OPTIMIZERS.get(name)
        return [{"name": name, **arguments}]
    raise ConfigError(
        "'optimizer_fn': not an optimizer that this trainer knows",
        expected=f"a class of torch.optim, or a name: {', '.join(OPTIMIZERS.names())}",
        got=getattr(optimizer, "__name__", repr(optimizer)),
    )


def schedule_node(
    scheduler: Any, params: Mapping[str, Any] | None, *, lr: float, epochs: int, steps_per_epoch: int
) -> dict[str, Any] | None:
    """Return an optimizer's `schedule` in the configuration, or None where the rate does not change.

    A scheduler of torch that depends on the epoch alone is run through once beforehand, and its rates become those
    of `manual_step`: epoch i has the rate after i calls of `scheduler.step()`.

    Args:
        scheduler: a class of `torch.optim.lr_scheduler`, a schedule of this library or its name; None keeps the rate.
        params: its arguments.
        lr: the optimizer's rate, > 0.
        epochs: epochs of the run.
        steps_per_epoch: optimizer steps of an epoch, >= 1.

    Raises:
        ConfigError: the scheduler has no counterpart among the schedules.
    """
    arguments = dict(params or {})
    if scheduler is None:
        if arguments:
            raise ConfigError("'scheduler_params' without 'scheduler_fn'", got=arguments)
        return None
    if isinstance(scheduler, str):
        return {"name": scheduler, **arguments}
    if getattr(scheduler, "registered_name", None) in SCHEDULES.names():
        return {"name": scheduler.registered_name, **arguments}
    if scheduler is lr_scheduler.ReduceLROnPlateau:
        return _plateau(arguments)
    if not (isinstance(scheduler, type) and issubclass(scheduler, lr_scheduler.LRScheduler)):
        raise ConfigError(
            "'scheduler_fn': not a scheduler that this trainer knows",
            expected=f"a class of torch.optim.lr_scheduler, or a name: {', '.join(SCHEDULES.names())}",
            got=getattr(scheduler, "__name__", repr(scheduler)),
        )
    rates = _rates(scheduler, arguments, lr, epochs)
    changes = [i for i in range(1, epochs) if rates[i] != rates[i - 1]]
    if not changes and rates[0] == lr:
        return None
    if rates[0] != lr:
        raise ConfigError(
            f"'scheduler_fn': {scheduler.__name__} does not start at the optimizer's rate",
            expected=f"lr {lr:g} in the first epoch",
            got=f"{rates[0]:g}",
            hint="A schedule with warmup_steps, such as 'warmup_cosine' or 'constant', starts low.",
        )
    return {
        "name": "manual_step",
        "boundaries": [i * steps_per_epoch for i in changes],
        "rates": [rates[i] for i in changes],
    }


def _plateau(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the node of the schedule, without `mode`: the score and its direction are those of early stopping."""
    arguments.pop("mode", None)
    for key in arguments:
        if key not in _PLATEAU:
            raise ConfigError(
                f"'scheduler_params': ReduceLROnPlateau cannot take '{key}' here",
                hint=f"{nearest(key, _PLATEAU)} The schedule 'reduce_on_plateau' has min_delta and warmup_steps, too.",
            )
    # torch's defaults, where ours differ
    arguments = {"patience": 10, "min_lr": 0.0, **arguments}
    return {"name": "reduce_on_plateau", **{_PLATEAU[key]: value for key, value in arguments.items()}}


def _rates(scheduler: type[Any], arguments: dict[str, Any], lr: float, epochs: int) -> list[float]:
    """Return the rate of each epoch."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr)
    others = {key: value for key, value in optimizer.param_groups[0].items() if key not in ("params", "lr")}
    rates = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stepper = scheduler(optimizer, **arguments)
            for _ in range(epochs):
                rates.append(float(optimizer.param_groups[0]["lr"]))
                optimizer.step()
                stepper.step()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"'scheduler_params': {scheduler.__name__} cannot be run for {epochs} epochs", got=error
        ) from None
    changed = [key for key, value in others.items() if optimizer.param_groups[0][key] != value]
    if changed:
        raise ConfigError(
            f"'scheduler_fn': {scheduler.__name__} changes {', '.join(changed)} beside the learning rate",
            hint="Switch that off (cycle_momentum=False, for instance).",
        )
    return rates
