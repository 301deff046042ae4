"""Which optimizer updates which parameters: by patterns on their names, the first match wins, none is left out."""

from __future__ import annotations

import dataclasses
import fnmatch
import glob
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pydantic
import torch
from annotated_types import Gt
from torch import nn

from rechub_ray.errors import ConfigError, nearest
from rechub_ray.layers.embedding import tables_of
from rechub_ray.layers.towers import tower_key
from rechub_ray.optimizers.base import OPTIMIZERS, takes_row_gradients
from rechub_ray.registry import check_booleans, config_error


@dataclasses.dataclass(frozen=True)
class BuiltOptimizer:
    """An optimizer with its schedule's configuration and its parameters' names.

    Args:
        optimizer: the torch optimizer.
        schedule_node: the configuration of its learning-rate schedule; None keeps the rate.
        parameters: names of the parameters it updates.
        clip_norm: largest norm of their gradients together; None does not clip.
        clip_value: largest absolute value of a gradient's entries; None does not clip.
    """

    optimizer: torch.optim.Optimizer
    schedule_node: Any
    parameters: tuple[str, ...]
    clip_norm: float | None = None
    clip_value: float | None = None


def validate_optimizer(node: Any, *, where: str = "optimizer") -> dict[str, Any]:
    """Return the checked node `{name, params, schedule, clip_norm, clip_value, <arguments>}`, with defaults filled in.

    `params` is a pattern as of fnmatch on parameter names, or a list of them; the default `*` takes all. `schedule`
    comes back as it is: checking it is up to the caller. `clip_norm` and `clip_value` bound the gradients of these
    parameters, > 0; null does not.

    Raises:
        ConfigError: names the key.
    """
    if isinstance(node, str):
        node = {"name": node}
    if not isinstance(node, Mapping):
        raise ConfigError(
            f"'{where}': not an optimizer",
            expected="a name, or a mapping with 'name', 'params', 'schedule', 'clip_norm', 'clip_value' and the "
            "optimizer's arguments",
            got=repr(node),
        )
    own = {key: value for key, value in node.items() if key not in _BESIDE}
    patterns = node.get("params", "*")
    patterns = [patterns] if isinstance(patterns, str) else patterns
    if not isinstance(patterns, Sequence) or not patterns or not all(isinstance(p, str) for p in patterns):
        raise ConfigError(
            f"'{where}.params' does not say which parameters",
            expected="a pattern such as 'embedding.*', or a list of patterns",
            got=repr(node["params"]),
        )
    given = {key: node[key] for key in ("clip_norm", "clip_value") if key in node}
    try:
        limits = _Limits.model_validate(given).model_dump()
    except pydantic.ValidationError as error:
        raise config_error(error, where=where) from None
    check_booleans(given, limits, where=where)
    return {
        **OPTIMIZERS.validate(own, where=where, also=_BESIDE),
        "params": list(patterns),
        "schedule": node.get("schedule"),
        **limits,
    }


def by_task(node: Any, *, where: str = "optimizer") -> list[Any]:
    """Return the nodes that one stands for: with `task_specific_lr: {<label>: <rate>}`, one more a label before it.

    Each is a copy of the node with the label's rate that takes `towers.<label>.*`, what belongs to the label alone.

    Raises:
        ConfigError: `task_specific_lr` is not rates by label.
    """
    if not isinstance(node, Mapping) or "task_specific_lr" not in node:
        return [node]
    rates = node["task_specific_lr"]
    rest = {key: value for key, value in node.items() if key != "task_specific_lr"}
    if rates is None:
        return [rest]
    if not isinstance(rates, Mapping):
        raise ConfigError(
            f"'{where}.task_specific_lr' does not say which label has which rate",
            expected="a mapping such as {click: 0.001}",
            got=repr(rates),
        )
    own = [
        {**rest, "params": [f"towers.{glob.escape(tower_key(str(label)))}.*"], "lr": rate}
        for label, rate in rates.items()
    ]
    return [*own, rest]


_BESIDE = ("params", "schedule", "clip_norm", "clip_value")
"""The keys of a node that are no arguments of the optimizer."""


class _Limits(pydantic.BaseModel):
    clip_norm: Annotated[pydantic.FiniteFloat, Gt(0)] | None = None
    clip_value: Annotated[pydantic.FiniteFloat, Gt(0)] | None = None


def build_optimizers(
    nodes: Any, model: nn.Module, *, also: Mapping[str, nn.Parameter] | None = None, where: str = "optimizers"
) -> list[BuiltOptimizer]:
    """Return the optimizers of a model, in the order of their nodes.

    Each parameter goes to the first node with a matching pattern. A table's optimizer decides whether its gradients
    are sparse, which is set in its embedding bank. Works on a model on the meta device, too.

    The parameters of losses and balancing belong to a node whose patterns name them (`balancing.*`); those that no such
    node names get an Adam of their own, last in the list, at its default rate and without decay.

    Args:
        nodes: one node, or a list of them; see `validate_optimizer` and `by_task`.
        model: has the parameters; those without `requires_grad` are left out.
        also: parameters of losses and balancing, by names that begin with `losses.` or `balancing.`.
        where: the nodes' place in the configuration, for messages.

    Raises:
        ConfigError: a pattern that matches nothing, a node that gets no parameter, a parameter that no node gets, a
            row-gradient optimizer with a parameter that is no embedding table, an optimizer that cannot be made.
    """
    if isinstance(nodes, (str, Mapping)):
        nodes = [nodes]
    nodes = [one for i, node in enumerate(nodes) for one in by_task(node, where=f"{where}.{i}")]
    checked = [validate_optimizer(node, where=f"{where}.{i}") for i, node in enumerate(nodes)]
    also = also or {}
    patterns = [node["params"] for node in checked]
    _check_patterns(patterns, [*(name for name, _ in model.named_parameters()), *also], where)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad} | dict(also)
    claims = _claim(patterns, list(parameters), where)
    tables = tables_of(model)
    built = []
    for i, (node, names) in enumerate(zip(checked, claims, strict=True)):
        node.pop("params")
        schedule, *limits = (node.pop(key) for key in ("schedule", "clip_norm", "clip_value"))
        by_rows = takes_row_gradients(OPTIMIZERS.get(node["name"]))
        others = [name for name in names if name not in tables]
        if by_rows and others:
            raise ConfigError(
                f"'{where}.{i}.params': {node['name']} updates embedding tables only",
                got=_some(others),
                hint=_suggest(names, tables),
            )
        for name in names:
            if name in tables:
                bank, key = tables[name]
                bank.row_gradients[key] = by_rows
        try:
            optimizer = OPTIMIZERS.build(node, [parameters[name] for name in names], where=f"{where}.{i}")
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"'{where}.{i}': {node['name']} does not take its arguments, or the parameters {_some(names)}",
                got=error,
            ) from None
        built.append(BuiltOptimizer(optimizer, schedule, tuple(names), *limits))
    claimed = {name for names in claims for name in names}
    rest = {name: p for name, p in also.items() if name not in claimed}
    if rest:
        built.append(BuiltOptimizer(OPTIMIZERS.build("adam", list(rest.values())), "constant", tuple(rest)))
    return built


def state_shapes(node: Any, parameter: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """Return the shapes of an optimizer's state of a parameter after a step, found by a step on a small one.

    Args:
        node: the optimizer's configuration.
        parameter: of any size, also on the meta device.
    """
    settings = {key: value for key, value in validate_optimizer(node).items() if key not in _BESIDE}
    # in float64, which the compiled loops do not take: they would have to be loaded first
    sizes = [2, 3, 5, 7, 11, 13, 17, 19][: parameter.dim()]  # all different: a state's shape says which it follows
    small = nn.Parameter(torch.zeros(sizes, dtype=torch.float64))
    small.grad = torch.zeros_like(small)
    optimizer = OPTIMIZERS.build(settings, [small])
    if takes_row_gradients(optimizer):
        small.grad = small.grad.to_sparse(1)
    optimizer.step()
    full = dict(zip(sizes, parameter.shape, strict=False))
    return {
        key: tuple(full.get(size, size) for size in value.shape) if isinstance(value, torch.Tensor) else ()
        for key, value in optimizer.state[small].items()
    }


def _check_patterns(patterns: list[list[str]], names: list[str], where: str) -> None:
    """Raise ConfigError for a pattern that matches no parameter, frozen ones included."""
    for i, own in enumerate(patterns):
        for pattern in own:
            if not fnmatch.filter(names, pattern):
                raise ConfigError(
                    f"'{where}.{i}.params': the pattern '{pattern}' matches no parameter", hint=hint_for(pattern, names)
                )


def hint_for(pattern: str, names: Sequence[str]) -> str:
    """Return which pattern on `names` may have been meant by one that matches none of them, and the first names."""
    stems = {name[:at] + ".*" for name in names for at, letter in enumerate(name) if letter == "."}
    meant = nearest(pattern, [*stems, *names])
    return (f"{meant} " if meant.startswith("Did") else "") + f"The parameters are {_some(names)}."


def _claim(patterns: list[list[str]], names: list[str], where: str) -> list[list[str]]:
    """Return for each node the names that it is the first to match."""
    left, claims = list(names), []
    for i, own in enumerate(patterns):
        mine = [name for name in left if _matches(name, own)]
        if not mine:
            taken = [name for name in names if _matches(name, own)]
            raise ConfigError(
                f"'{where}.{i}.params' gets no parameter",
                got=", ".join(own),
                hint=f"All it matches is taken by the optimizers before it: {_some(taken)}. First match wins."
                if taken
                else "All it matches is frozen: leave this optimizer out.",
            )
        claims.append(mine)
        left = [name for name in left if name not in mine]
    left = [name for name in left if not name.startswith(_OBJECTIVE)]
    if left:
        raise ConfigError(
            f"'{where}': no optimizer updates {_some(left)}",
            hint="Add an optimizer with params: '*' as the last one to take all that is left.",
        )
    return claims


_OBJECTIVE = ("losses.", "balancing.")


def _matches(name: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern takes the parameter; those of losses and balancing need a pattern that names them."""
    if name.startswith(_OBJECTIVE):
        patterns = [pattern for pattern in patterns if pattern.startswith(_OBJECTIVE)]
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _suggest(names: list[str], tables: Mapping[str, Any]) -> str:
    claimed = [name for name in names if name in tables]
    known = claimed or list(tables)
    if not known:
        return "This model has no embedding table."
    patterns = sorted({name.rsplit(".", 1)[0] + ".*" for name in known})
    return (
        f"Write params: {patterns if len(patterns) > 1 else patterns[0]}, and an optimizer such as adam for the rest."
    )


def _some(names: Sequence[str], limit: int = 8) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
