"""Ray Tune's search spaces, TuneConfig and RunConfig, translated into the keys of a sweep file."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
from collections.abc import Mapping
from typing import Any

from rechub_ray.errors import ConfigError, nearest
from rechub_ray.files import absolute, join
from rechub_ray.space import LISTS, RANGES
from rechub_ray.sweeps.sweep import Sweep

_AS_IS = ("metric", "mode", "name", "num_samples", "storage_path", "verbose")
_NO_EFFECT = ("reuse_actors",)  # processes are used again, whether or not it is asked for
_ELSEWHERE = {
    "callbacks": "Trackers are a part of the base: base.trackers.",
    "checkpoint_config": "Checkpoints are a part of the base (base.checkpoint), and 'keep' says whose stay.",
    "log_to_file": "Each trial's folder has its logs.",
    "progress_reporter": "'verbose' says whether there is one.",
    "storage_filesystem": "A sweep's folder is on a local or shared disk.",
    "sync_config": "A sweep's folder is on a local or shared disk.",
    "trial_dirname_creator": "Trials are numbered.",
    "trial_name_creator": "Trials are numbered.",
}


def split_space(param_space: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the paths that vary, as a sweep's space, and those that do not, as overrides of the base.

    Raises:
        ConfigError: a sweep does not have such a space.

    Example:
        >>> split_space({"seed": {"grid_search": [1, 2]}, "train.epochs": 3})
        ({'seed': {'grid': [1, 2]}}, {'train.epochs': 3})
    """
    return _split(param_space, "")


def settings_of(tune_config: Any, run_config: Any, space: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys of a sweep file, and `verbose`, from Ray Tune's two configurations or mappings with their keys.

    Raises:
        ConfigError: a sweep does not have such a setting.
    """
    import ray.tune

    settings: dict[str, Any] = {}
    both = (("run_config", run_config, ray.tune.RunConfig), ("tune_config", tune_config, ray.tune.TuneConfig))
    for what, given, expected in both:
        for key, value in _pairs(what, given, expected).items():
            for name, translated in _setting(what, key, value).items():
                merges = name == "stop" and isinstance(settings.get(name), Mapping)
                settings[name] = {**settings[name], **translated} if merges else translated
    metric, mode = settings.get("metric"), settings.get("mode")
    if isinstance(metric, (list, tuple)):
        modes = mode if isinstance(mode, (list, tuple)) else [mode] * len(metric)
        if len(modes) != len(metric):
            raise ConfigError("'tune_config.mode'", expected=f"{len(metric)} of them, one a metric", got=list(modes))
        settings.update(metric=None, mode=None)
        settings["objectives"] = [{"metric": m, "mode": d} for m, d in zip(metric, modes, strict=True)]
    where = settings.pop("storage_path", None)
    if where is not None:
        settings["sweep_dir"] = join(absolute(os.fspath(where)), settings.get("name", "sweep"))
    _count(settings, space)
    return settings


def _pairs(what: str, given: Any, expected: Any) -> dict[str, Any]:
    if isinstance(given, expected):
        plain = type(given)()  # Ray fills in defaults of its own; a value that equals them was not set
        pairs = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
        return {k: v for k, v in pairs.items() if k == "num_samples" or v != getattr(plain, k)}
    if given is None or isinstance(given, Mapping):
        return dict(given or {})
    raise ConfigError(f"'{what}'", expected=f"ray.tune.{expected.__name__} or a mapping", got=type(given).__name__)


def _setting(what: str, key: str, value: Any) -> dict[str, Any]:
    """Return the sweep's keys for one key of Ray's or of a sweep file."""
    if key in _AS_IS:
        return {key: value}
    if key in _NO_EFFECT:
        return {}
    if key == "max_concurrent_trials":
        return {"max_concurrent": value or None}
    if key == "time_budget_s":
        return {"stop": {"seconds": value.total_seconds() if isinstance(value, datetime.timedelta) else value}}
    if key == "failure_config":
        return {"retries": getattr(value, "max_failures", value)}
    if key in ("search_alg", "search", "scheduler", "stop"):
        name = "search" if key == "search_alg" else key
        if not isinstance(value, (str, Mapping)):
            raise ConfigError(
                f"'{what}.{key}' is an object of Ray's, whose settings count in other units than a sweep's",
                expected=_EXAMPLES[name],
                got=type(value).__name__,
                hint="docs/sweeps.md has all of them.",
            )
        return {name: value}
    if key in _ELSEWHERE:
        raise ConfigError(f"'{what}.{key}': a sweep has no such setting", hint=_ELSEWHERE[key])
    known = [name for name in Sweep.model_fields if name not in ("base", "overrides", "space")]
    if key not in known:
        ray = [*_AS_IS, "max_concurrent_trials", "time_budget_s", "failure_config", "search_alg"]
        raise ConfigError(f"'{what}.{key}': a sweep has no such setting", hint=nearest(key, [*known, *ray]))
    return {key: value}


_EXAMPLES = {
    "search": '"optuna", or {"name": "optuna", "initial_points": 10}',
    "scheduler": '"asha", or {"name": "asha", "grace_epochs": 1, "reduction_factor": 3}',
    "stop": '{"plateau_trials": 10, "seconds": 3600, "budget_epochs": 200}',
}


def _count(settings: dict[str, Any], space: Mapping[str, Any]) -> None:
    """Set the number of trials: Ray draws `num_samples` times, each time with every combination of the grids."""
    samples = settings.pop("num_samples", None)
    grids = [node["grid"] for node in space.values() if "grid" in node]
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise ConfigError("'tune_config.num_samples'", expected="a whole number >= 1", got=repr(samples))
    if not grids:
        settings.update({"trials": samples} if samples is not None else {})
    elif len(grids) == len(space):
        if samples not in (None, 1):
            raise ConfigError(
                "'tune_config.num_samples' would repeat each point of the grid, to the same result",
                got=samples,
                hint="'seeds' repeats them with other seeds, and ranks them by their mean.",
            )
        settings.setdefault("search", "grid")
    else:
        settings["trials"] = (samples or 1) * math.prod(map(len, grids))


def _split(param_space: Mapping[str, Any], prefix: str) -> tuple[dict[str, Any], dict[str, Any]]:
    space: dict[str, Any] = {}
    fixed: dict[str, Any] = {}
    for key, value in param_space.items():
        path = f"{prefix}{key}"
        node = _node(path, value)
        inner, others = _split(value, f"{path}.") if node is None and isinstance(value, Mapping) else ({}, {})
        if node is not None:
            space[path] = node
        elif inner:  # Ray's spaces may be nested
            space.update(inner)
            fixed.update(others)
        else:
            _refuse_inside(path, value)
            fixed[path] = value
    return space, fixed


def _node(path: str, value: Any) -> dict[str, Any] | None:
    """Return our `{kind: arguments}` of a space, or None for anything else."""
    from ray.tune.search.sample import Domain

    if isinstance(value, Domain):
        return _domain(path, value)
    if isinstance(value, Mapping) and len(value) == 1:
        kind, arguments = next(iter(value.items()))
        if kind == "grid_search":
            return {"grid": _options(path, arguments)}
        if kind in (*RANGES, *LISTS):
            return {kind: arguments}
    return None


def _domain(path: str, domain: Any) -> dict[str, Any]:
    from ray.tune.search import sample

    sampler, step = domain.sampler, None
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.sampler, sampler.q
    if isinstance(domain, sample.Categorical) and isinstance(sampler, (sample.Uniform, type(None))):
        return {"choice": _options(path, domain.categories)}
    if isinstance(domain, (sample.Float, sample.Integer)):
        low, high, whole = domain.lower, domain.upper, isinstance(domain, sample.Integer)
        if isinstance(sampler, sample.LogUniform) and step is None and not whole:
            return {"loguniform": [low, high]}
        if isinstance(sampler, sample.Uniform) and whole and step in (None, 1):
            return {"randint": [low, high]}  # Ray's qrandint leaves the upper end out only at q = 1
        if isinstance(sampler, sample.Uniform) and step is not None:
            return {"quniform": [math.ceil(low / step - 1e-9) * step, math.floor(high / step + 1e-9) * step, step]}
        if isinstance(sampler, sample.Uniform):
            return {"uniform": [low, high]}
    raise ConfigError(
        f"'param_space.{path}': a sweep has no such space",
        expected="tune.uniform, quniform, loguniform, randint, qrandint, choice or grid_search",
        got=f"{type(domain).__name__} {domain.domain_str}" + (f", {type(sampler).__name__}" if sampler else ""),
    )


def _options(path: str, values: Any) -> list[Any]:
    """Return a list's values; spaces inside of a component go into the component's own space."""
    options = []
    for i, value in enumerate(values):
        if isinstance(value, Mapping) and "space" not in value:
            nodes = {key: _node(f"{path}.{key}", inner) for key, inner in value.items()}
            value = {key: inner for key, inner in value.items() if nodes[key] is None}
            space = {key: node for key, node in nodes.items() if node is not None}
            value |= {"space": space} if space else {}
        _refuse_inside(f"{path}.{i}", value)
        options.append(value)
    return options


def _refuse_inside(path: str, value: Any) -> None:
    """Refuse a space of Ray's within a value, where it does not have a path of its own."""
    from ray.tune.search.sample import Domain

    if isinstance(value, Domain):
        raise ConfigError(
            f"'param_space.{path}' is a space within a value", hint="Write its path out, as in 'optimizers.0.lr'."
        )
    if isinstance(value, (list, tuple, Mapping)):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            _refuse_inside(f"{path}.{key}", inner)
