"""The space of a sweep: which paths of the base configuration vary, and over which values."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rechub_ray.errors import ConfigError, nearest

Point = dict[str, Any]  # variable's name -> a number, or the label of an option
RANGES = {"uniform": 2, "loguniform": 2, "quniform": 3, "randint": 2}
LISTS = ("choice", "grid")


@dataclasses.dataclass(frozen=True)
class Variable:
    """One path of the configuration that varies.

    Args:
        name: unique in the space: its path, with the component it belongs to (`model=deepfm.dropout`).
        path: what it sets in the base configuration.
        kind: `uniform`, `loguniform`, `quniform`, `randint` (the upper bound is left out), `choice` or `grid`.
        low: lower end of a range.
        high: upper end of a range.
        step: distance of the values of a `quniform` range.
        options: label -> value, of a list.
        parent: the variable and the label under which this one has an effect; None: under all.
    """

    name: str
    path: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    step: float = 0.0
    options: Mapping[Any, Any] = dataclasses.field(default_factory=dict)
    parent: tuple[str, Any] | None = None

    @property
    def is_range(self) -> bool:
        return self.kind in RANGES

    def sample(self, rng: np.random.Generator) -> Any:
        """Return a value drawn from `rng`."""
        if not self.is_range:
            return list(self.options)[int(rng.integers(len(self.options)))]
        if self.kind == "randint":
            return int(rng.integers(int(self.low), int(self.high)))
        if self.kind == "loguniform":
            return self.clip(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.clip(float(rng.uniform(self.low, self.high)))

    def clip(self, value: Any) -> Any:
        """Return the nearest value in the range; the label of an option is returned as it is."""
        if not self.is_range:
            return value
        if self.kind == "randint":
            return min(max(round(float(value)), int(self.low)), int(self.high) - 1)
        if self.kind == "quniform":
            value = round(float(value) / self.step) * self.step
        return min(max(float(value), self.low), self.high)

    def extremes(self) -> list[Any]:
        """Return the values to check: both ends of a range, every option of a list."""
        if not self.is_range:
            return list(self.options)
        return [self.clip(self.low), self.clip(self.high)]

    def value(self, chosen: Any) -> Any:
        """Return the configuration's value for a chosen number or label."""
        return chosen if self.is_range else self.options[chosen]


@dataclasses.dataclass(frozen=True)
class Space:
    """All variables of a sweep; one that belongs to a component follows the variable that chooses it."""

    variables: tuple[Variable, ...]

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Space:
        """Return the space of a sweep file.

        Args:
            raw: dotted path -> `{kind: arguments}`. An option of `choice` or `grid` may be a component with a space of
                its own: `{name: deepfm, space: {dropout: {uniform: [0, 0.5]}}}`.

        Raises:
            ConfigError: an entry is not a space, or lies in another one; names its path.

        Example:
            >>> Space.parse({"seed": {"choice": [1, 2]}}).variables[0].options
            {1: 1, 2: 2}
        """
        variables = tuple(_parse(raw, "", "", None))
        if not variables:
            raise ConfigError("'space' is empty", expected="paths of the configuration, as in optimizers.0.lr")
        paths = {v.path: v for v in variables if v.parent is None}
        for variable in variables:
            for other in paths:
                if variable.parent is None and variable.path.startswith(f"{other}."):
                    raise ConfigError(
                        f"'space': '{variable.path}' lies in '{other}', which varies as a whole",
                        hint=f"Write it into the space of the options of '{other}'.",
                    )
        return cls(variables)

    def sample(self, rng: np.random.Generator, *, turn: int = 0) -> Point:
        """Return a random point; it also has values for components that were not chosen, without effect.

        Args:
            turn: number of the point; variables of kind `grid` take their combinations in turn, so that each gets
                equally many points.
        """
        point = {v.name: v.sample(rng) for v in self.variables}
        for v in self.variables[::-1]:
            if v.kind == "grid":
                turn, place = divmod(turn, len(v.options))
                point[v.name] = list(v.options)[place]
        return point

    def grid(self) -> list[Point]:
        """Return every combination of a space of lists, each once.

        Raises:
            ConfigError: a variable is a range.
        """
        for variable in self.variables:
            if variable.is_range:
                raise ConfigError(
                    f"'space.{variable.name}' has no list of values, which search: grid needs",
                    expected="choice or grid",
                    got=variable.kind,
                )
        points, seen = [], set()
        for values in itertools.product(*(v.options for v in self.variables)):
            point = dict(zip((v.name for v in self.variables), values, strict=True))
            key = json.dumps(self.overrides(point), sort_keys=True)
            if key not in seen:
                seen.add(key)
                points.append(point)
        return points

    def active(self, point: Point) -> list[Variable]:
        """Return the variables that have an effect at `point`."""
        return [v for v in self.variables if v.parent is None or point.get(v.parent[0]) == v.parent[1]]

    def overrides(self, point: Point) -> dict[str, Any]:
        """Return path -> value: what `point` changes in the base configuration."""
        return {v.path: v.value(point[v.name]) for v in self.active(point)}

    def params(self, point: Point) -> dict[str, Any]:
        """Return path -> value to show; a component is its name, or its whole node where several have the name."""
        shown = {}
        for v in self.active(point):
            value = v.value(point[v.name])
            shown[v.path] = point[v.name] if isinstance(value, dict) else value
        return shown

    def encode(self, params: Mapping[str, Any], *, where: str) -> Point:
        """Return the point at which the paths have the values of `params`.

        Args:
            params: path -> value; of a component its name is enough.
            where: the place of `params` in the sweep file, for messages.

        Raises:
            ConfigError: a value is missing or outside of its variable, or a path is not in the space.
        """
        point: Point = {}
        rng = np.random.default_rng(0)
        used: set[str] = set()
        for variable in self.variables:
            point[variable.name] = variable.sample(rng)
            if variable.parent is not None and point[variable.parent[0]] != variable.parent[1]:
                continue
            if variable.path not in params:
                raise ConfigError(f"'{where}' has no value for '{variable.path}'")
            used.add(variable.path)
            point[variable.name] = _chosen(variable, params[variable.path], where)
        for path in params:
            if path not in used:
                known = [v.path for v in self.active(point)]
                raise ConfigError(f"'{where}': '{path}' is not in the space", hint=nearest(path, known))
        return point

    def probes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (what is tried, the overrides) for every value that is checked before a sweep starts."""
        for variable in self.variables:
            for value in variable.extremes():
                overrides: dict[str, Any] = {}
                if variable.parent is not None:
                    parent = next(v for v in self.variables if v.name == variable.parent[0])
                    overrides[parent.path] = parent.value(variable.parent[1])
                overrides[variable.path] = variable.value(value)
                yield f"space.{variable.name} = {variable.value(value)!r}", overrides

    def domains(self) -> dict[str, Any]:
        """Return the variables as Ray Tune's domains, for its search algorithms."""
        from ray import tune

        made: dict[str, Any] = {}
        for v in self.variables:
            if v.kind == "randint":
                made[v.name] = tune.randint(int(v.low), int(v.high))
            elif v.kind == "quniform":
                made[v.name] = tune.quniform(v.low, v.high, v.step)
            elif v.is_range:
                made[v.name] = getattr(tune, v.kind)(v.low, v.high)
            else:
                made[v.name] = tune.choice(list(v.options))
        return made


def _parse(raw: Any, prefix: str, path: str, parent: tuple[str, Any] | None) -> Iterator[Variable]:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"'space{prefix and '.' + prefix}' is not a space", expected="paths and {kind: arguments}")
    for key, node in raw.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if not isinstance(node, Mapping) or len(node) != 1:
            raise ConfigError(
                f"'space.{name}'", expected=f"one of {{{', '.join([*RANGES, *LISTS])}: ...}}", got=repr(node)
            )
        kind, arguments = next(iter(node.items()))
        full = f"{path}.{key}" if path else str(key)
        if kind in RANGES:
            yield _range(name, full, kind, arguments, parent)
        elif kind in LISTS:
            yield from _list(name, full, kind, arguments, parent)
        else:
            raise ConfigError(f"'space.{name}': unknown kind '{kind}'", hint=nearest(str(kind), [*RANGES, *LISTS]))


def _range(name: str, path: str, kind: str, arguments: Any, parent: tuple[str, Any] | None) -> Variable:
    count = RANGES[kind]
    try:
        numbers = [float(x) for x in arguments]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != count or not all(map(math.isfinite, numbers)) or any(isinstance(x, bool) for x in arguments):
        wanted = "[low, high, step]" if count == 3 else "[low, high]"
        raise ConfigError(f"'space.{name}.{kind}'", expected=wanted, got=repr(arguments))
    low, high, step = [*numbers, 0.0][:3]
    if low >= high or (kind == "loguniform" and low <= 0) or (kind == "quniform" and step <= 0):
        positive = {"loguniform": " > 0", "quniform": ", step > 0"}.get(kind, "")
        raise ConfigError(f"'space.{name}.{kind}'", expected=f"low < high{positive}", got=repr(arguments))
    if kind == "randint" and any(x != int(x) for x in (low, high)):
        raise ConfigError(f"'space.{name}.randint'", expected="whole numbers", got=repr(arguments))
    return Variable(name=name, path=path, kind=kind, low=low, high=high, step=step, parent=parent)


def _list(name: str, path: str, kind: str, arguments: Any, parent: tuple[str, Any] | None) -> Iterator[Variable]:
    if not isinstance(arguments, list) or not arguments:
        raise ConfigError(f"'space.{name}.{kind}'", expected="a list of values", got=repr(arguments))
    options: dict[Any, Any] = {}
    inner: list[tuple[Any, Any]] = []
    names = [item.get("name") if isinstance(item, Mapping) else item for item in arguments]
    for item in arguments:
        value, label = item, item
        if isinstance(item, Mapping):
            value = {k: v for k, v in item.items() if k != "space"}
            label = str(item["name"]) if names.count(item.get("name")) == 1 else json.dumps(value, sort_keys=True)
            if "space" in item:
                inner.append((label, item["space"]))
        elif isinstance(item, list) or item is None:
            label = json.dumps(item)
        if label in options and type(label) is type(next(k for k in options if k == label)):
            raise ConfigError(f"'space.{name}.{kind}' holds {label!r} twice")
        options[label] = value
    yield Variable(name=name, path=path, kind=kind, options=options, parent=parent)
    for label, space in inner:
        if parent is not None:
            raise ConfigError(f"'space.{name}': a component's space holds another component with a space")
        yield from _parse(space, f"{name}={label}", path, (name, label))


def _chosen(variable: Variable, value: Any, where: str) -> Any:
    if variable.is_range:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not variable.low <= value <= variable.high or variable.clip(value) != value:
            raise ConfigError(
                f"'{where}': '{variable.path}' is not in its range",
                expected=f"{variable.kind} [{variable.low:g}, {variable.high:g}]",
                got=repr(value),
            )
        return variable.clip(value)  # 1 is 1.0 where any number is allowed
    for label, option in variable.options.items():
        if value in (label, option):
            return label
    raise ConfigError(
        f"'{where}': '{variable.path}' has no such option", expected=", ".join(map(str, variable.options)), got=value
    )
