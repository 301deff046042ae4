"""A sweep as data: a YAML file around a base configuration, checked before Ray starts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic
import torch
from annotated_types import Ge, Gt

from rechub_ray import builtin, yaml_text
from rechub_ray import config as config_module
from rechub_ray.config import RunConfig, Section
from rechub_ray.errors import ConfigError, RechubError, masked, named, nearest
from rechub_ray.files import absolute, is_uri, join
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.registry import check_booleans, config_error
from rechub_ray.runtime.preflight import Job, check
from rechub_ray.space import LISTS, RANGES, Point, Space
from rechub_ray.sweeps.objectives import SIZES, Objective
from rechub_ray.sweeps.refit import check_refit
from rechub_ray.sweeps.schedulers import (
    SCHEDULERS,
    Asha,
    Bohb,
    Fifo,
    Median,
    Pb2,
    Pbt,
    Scheduler,
    varying,
)
from rechub_ray.sweeps.search import Search, check_packages

Count = Annotated[int, Ge(1)]
DEFAULT_TRIALS = 10
_FIXED = (
    *("name", "model_dir", "data.root", "imports", "trackers", "scaling", "export"),
    *("init_from", "init_best", "init_map", "init_resize"),
)


class Stop(Section):
    """When the whole sweep ends before all its trials have run; running trials are stopped and kept.

    Args:
        plateau_trials: trials in a row that end without a new best score.
        min_delta: a gain is more than this.
        seconds: wall time of this start of the sweep.
        budget_epochs: epochs trained by all trials together.
    """

    plateau_trials: Count | None = None
    min_delta: Annotated[float, Ge(0)] = 0.0
    seconds: Annotated[float, Gt(0)] | None = None
    budget_epochs: Annotated[float, Gt(0)] | None = None


class Resources(Section):
    """What each process of a trial reserves; a trial has one process, or base.scaling.num_workers of them.

    Args:
        cpus: logical CPUs.
        gpus: GPUs, or a share of one; 0 takes 1 with base.scaling.use_gpu.
    """

    cpus: Annotated[float, Gt(0)] = 1.0
    gpus: Annotated[float, Ge(0)] = 0.0


class Sweep(Section):
    """One sweep.

    Args:
        name: the sweep's name in folders and trackers.
        sweep_dir: the sweep's folder, relative to the one that the command runs in; null takes `sweeps/<name>`.
        base: the configuration that every trial starts from, or its file, relative to the sweep file.
        overrides: path -> value, changes to `base`.
        space: path -> the values to try there.
        search: how points are chosen.
        scheduler: which trials go on.
        stop: when the sweep ends early.
        trials: points to try; null takes 10, or with search: grid every combination.
        seeds: runs of each point, with the seeds base.seed, base.seed + 1, ...; points are ranked by their mean.
        max_concurrent: trials at the same time; null takes as many as fit.
        resources: of each process of a trial.
        points_to_evaluate: points to try first, path -> value.
        keep: points whose checkpoints stay, the best ones first; null keeps all.
        refit: train the winner once more, on train + validation, for as many epochs as it took to its best score.
        metric: the metric that trials are compared by; null takes the base's early stopping, or its first metric.
        mode: `max` or `min`; null takes the base's, or the metric's own.
        objectives: several metrics instead, each a name or `{metric: ..., mode: ...}`; `num_parameters` and
            `parameter_bytes` are the model's size. The first one decides which checkpoint of a trial counts.
        seed: seed of the search.
        retries: further starts of a trial after its process was lost.
        share_data: read the data once for all trials, where it fits their hosts' shared memory.
    """

    name: Annotated[str, pydantic.StringConstraints(pattern=r"^\w[\w.-]*$")] = "sweep"
    sweep_dir: str | None = None
    base: dict[str, Any]
    overrides: dict[str, Any] = {}
    space: dict[str, Any]
    search: Search = Search()
    scheduler: Annotated[Scheduler, pydantic.Field(discriminator="name")] = Fifo()
    stop: Stop = Stop()
    trials: Count | None = None
    seeds: Count = 1
    max_concurrent: Count | None = None
    resources: Resources = Resources()
    points_to_evaluate: list[dict[str, Any]] = []
    keep: Count | None = 3
    refit: bool = False
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    objectives: list[Objective] = []
    seed: Annotated[int, Ge(0)] = 2026
    retries: Annotated[int, Ge(0)] = 1
    share_data: bool = True

    def directory(self) -> str:
        """Return the sweep's folder."""
        return absolute(self.sweep_dir or f"sweeps/{self.name}")


@dataclasses.dataclass(frozen=True)
class CheckedSweep:
    """A sweep that passed all checks.

    Args:
        sweep: the sweep's settings.
        job: the base run.
        space: the paths that vary.
        objectives: what is compared, at least one; the first one is the score.
        epochs: epochs of a whole run.
    """

    sweep: Sweep
    job: Job
    space: Space
    objectives: tuple[Objective, ...]
    epochs: float

    @property
    def metric(self) -> str:
        """The metric of the score."""
        return self.objectives[0].metric

    @property
    def mode(self) -> str:
        """The mode of the score, `max` or `min`."""
        return str(self.objectives[0].mode)

    @property
    def workers(self) -> int:
        """Processes of a trial."""
        return self.job.config.processes

    def planned(self) -> list[Point]:
        """Return the points that are known beforehand: those to evaluate first, then all of a random or grid search."""
        sweep = self.sweep
        points = [
            self.space.encode(params, where=f"points_to_evaluate.{i}")
            for i, params in enumerate(sweep.points_to_evaluate)
        ]
        if sweep.search.name == "grid":
            taken = [self.space.overrides(p) for p in points]
            points += [p for p in self.space.grid() if self.space.overrides(p) not in taken]
            return points[: sweep.trials]
        if sweep.search.name == "random":
            # a point depends on its number alone, so that more trials begin with the same ones
            more = range(len(points), sweep.trials or DEFAULT_TRIALS)
            points += [self.space.sample(np.random.default_rng([sweep.seed, k]), turn=k) for k in more]
        return points

    def total_points(self) -> int:
        """Return the number of points of the sweep, over all its starts."""
        known = len(self.planned())
        return (
            known if self.sweep.search.name in ("random", "grid") else max(self.sweep.trials or DEFAULT_TRIALS, known)
        )


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Sweep:
    """Return a sweep from a YAML file or a mapping; `base.<path>` overrides reach into the base configuration.

    Paths that a file holds are relative to the file, those of a mapping and of overrides to the current folder.

    Raises:
        ConfigError: a file cannot be read, or a key or value is wrong; names the key and the nearest known one.
    """
    if not isinstance(source, Mapping):
        source = builtin.located(source, "sweep")
    data = config_module.read_yaml(source, what="sweep")
    written = data.get("base")
    folder = "" if isinstance(source, Mapping) else os.path.dirname(source)
    data = _placed(data, folder)
    inner: list[Any] = []
    for pair in _pairs(overrides):
        path, value = next(iter(pair.items()))
        section, _, rest = path.partition(".")
        if section == "base" and rest:
            inner.append({rest: value})
        elif section in ("space", "overrides") and rest:
            _set_path(data, section, rest, value)
        else:
            data = config_module.merge(data, pair)
    if "base" not in data:
        raise ConfigError("'base' is missing", expected="a configuration, or its file")
    for key in data:
        if key not in Sweep.model_fields:
            raise ConfigError(f"unknown key '{key}'", hint=nearest(str(key), Sweep.model_fields))
    base = data["base"]
    if not isinstance(base, (str, Mapping)):
        raise ConfigError("'base'", expected="a configuration, or its file", got=repr(base))
    try:
        merged = config_module.read_yaml(base)
    except ConfigError as error:
        if folder and isinstance(written, str) and base != absolute(written) and os.path.isfile(written):
            meant = os.path.relpath(written, folder)
            raise ConfigError(
                f"'base': {error.message}",
                got=error.got,
                hint=f"Paths in a sweep file are relative to the file: write base: {meant}",
            ) from None
        raise
    changes = data.pop("overrides", None) or {}
    if not isinstance(changes, Mapping):
        raise ConfigError("'overrides'", expected="path: value", got=repr(changes))
    for change in [changes, *inner]:
        merged = config_module.merge(merged, change)
    data = _placed({**data, "base": merged}, "")
    for key in ("search", "scheduler"):
        if isinstance(data.get(key), str):
            data[key] = {"name": data[key]}
    if isinstance(data.get("objectives"), list):
        data["objectives"] = [{"metric": o} if isinstance(o, str) else o for o in data["objectives"]]
    node = data.get("scheduler")
    if isinstance(node, Mapping) and node.get("name") not in SCHEDULERS:
        raise ConfigError(
            f"'scheduler': there is no '{node.get('name')}'", hint=nearest(str(node.get("name")), SCHEDULERS)
        )
    try:
        sweep = Sweep.model_validate(data)
    except pydantic.ValidationError as error:
        raise config_error(error) from None
    check_booleans({k: v for k, v in data.items() if k not in ("base", "space")}, sweep.model_dump())
    return sweep


_PLACES = ("base", "base.data.root", "base.init_from", "base.init_map")  # data.train and the like lie in data.root


def _placed(data: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the content of a sweep file with its paths, relative to `folder`, made absolute."""

    def placed(node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            return {key: placed(value, f"{path}.{key}") for key, value in node.items()}
        if path in _PLACES and isinstance(node, str) and node and not node.startswith(builtin.PREFIX):
            return absolute(node if node.startswith("~") else join(folder, node))
        return node

    def listed(path: str, node: Any) -> Any:  # {choice: [...]} of a path
        if f"base.{path}" not in _PLACES or not isinstance(node, Mapping):
            return node
        return {key: [placed(x, f"base.{path}") for x in v] if isinstance(v, list) else v for key, v in node.items()}

    result = {**data, "base": placed(data.get("base"), "base")} if "base" in data else dict(data)
    if isinstance(data.get("overrides"), Mapping):
        result["overrides"] = placed(data["overrides"], "base")
    if isinstance(data.get("space"), Mapping):
        result["space"] = {path: listed(path, node) for path, node in data["space"].items()}
    if isinstance(data.get("points_to_evaluate"), list):
        result["points_to_evaluate"] = [placed(point, "base") for point in data["points_to_evaluate"]]
    return result


def _pairs(overrides: Sequence[str] | Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return path -> value of each override, one by one."""
    if isinstance(overrides, Mapping):
        return [{path: value} for path, value in config_module.read_yaml(overrides).items()]  # a plain copy
    return [dict([config_module.parse_override(text)]) for text in overrides]


def _set_path(data: dict[str, Any], section: str, path: str, value: Any) -> None:
    """Set one entry of `space` or `overrides`, whose keys are paths with dots; null removes an entry of `space`."""
    held = data.get(section) or {}
    if not isinstance(held, Mapping):
        raise ConfigError(f"'{section}'", expected="path: value", got=repr(held))
    if section == "space":
        front, _, kind = path.rpartition(".")
        if kind in (*RANGES, *LISTS):
            path, value = front, {kind: value}
        if value is None:
            data[section] = {key: node for key, node in held.items() if key != path}
            return
        if not isinstance(value, Mapping):
            close = nearest(kind, [*RANGES, *LISTS])
            raise ConfigError(
                f"'space.{path}' is not a space",
                expected=f"space.{path}.KIND=..., where KIND is one of {', '.join([*RANGES, *LISTS])}",
                got=repr(value),
                hint=close if close.startswith("Did") else f"For one value in all trials: base.{path}={value}",
            )
    data[section] = {**held, path: value}


def dump(sweep: Sweep) -> str:
    """Return YAML text that `load` reads back as the same sweep, but for keys in URIs, which are masked."""
    return masked(yaml_text.dump(sweep.model_dump(mode="json")))


def trial_config(
    base: Mapping[str, Any], overrides: Mapping[str, Any], *, directory: str, name: str, seed: int
) -> RunConfig:
    """Return a trial's run: the base with overrides, in a folder of its own."""
    data = config_module.merge(dict(base), {**overrides, "model_dir": directory, "name": name})
    if "seed" not in overrides:
        data["seed"] = seed
    return config_module.validate(data)


def check_sweep(sweep: Sweep) -> CheckedSweep:
    """Check the base run, every value of the space in it, and whether the parts of the sweep fit each other.

    Raises:
        ConfigError: a part of the sweep is wrong, or does not fit another one.
        RechubError: the check of the base run fails.
    """
    directory = sweep.directory()
    if is_uri(directory):
        raise ConfigError("'sweep_dir' is not a folder", expected="a local or shared disk", got=sweep.sweep_dir)
    job = check(config_module.validate({**sweep.base, "model_dir": directory}))
    places = {"data.root": job.config.data.root, "init_from": job.config.init_from, "init_map": job.config.init_map}
    base = config_module.merge(sweep.base, {path: place for path, place in places.items() if place is not None})
    resources = _resources(sweep, job)
    sweep = sweep.model_copy(update={"base": base, "resources": resources})  # trials run in folders of their own
    space = Space.parse(sweep.space)
    objectives = _objectives(sweep, job)
    _check_fit(sweep, space)
    if sweep.refit:
        check_refit(job)
    for what, overrides in space.probes():
        _probe(sweep, job, what, overrides, directory)
    epochs = float(job.config.train.epochs or (job.config.train.steps or 1) / job.steps_per_epoch)
    checked = CheckedSweep(sweep=sweep, job=job, space=space, objectives=objectives, epochs=epochs)
    for name in (sweep.search.name, sweep.scheduler.name):
        check_packages(name)
    checked.planned()
    if isinstance(sweep.scheduler, (Pbt, Pb2)):
        _check_exchange(checked)
    return checked


def _resources(sweep: Sweep, job: Job) -> Resources:
    """Return what a process of a trial reserves."""
    scaling, wanted = job.config.scaling, sweep.resources
    if wanted.gpus and scaling.num_workers > 0 and not scaling.use_gpu:
        raise ConfigError(
            "'resources.gpus': the workers would reserve GPUs and train without them",
            got=f"{wanted.gpus:g}, and base.scaling.use_gpu is false",
            hint="Add base.scaling.use_gpu=true.",
        )
    if 0 < wanted.gpus < 1 and scaling.num_workers > 1:
        raise ConfigError("'resources.gpus': the workers of a trial cannot share a GPU", expected="1", got=wanted.gpus)
    return wanted.model_copy(update={"gpus": 1.0}) if scaling.use_gpu and not wanted.gpus else wanted


def _objectives(sweep: Sweep, job: Job) -> tuple[Objective, ...]:
    """Return what is compared, with every mode filled in."""
    config = job.config
    if job.valid is None or (config.train.evaluate_every_epochs == 0 and config.train.evaluate_every_steps is None):
        raise ConfigError("a sweep compares trials by the validation split, and the base does not evaluate it")
    if config.train.eval_method == "separate":
        raise ConfigError(
            "'base.train.eval_method': trials are compared by what they evaluate themselves", expected="workers"
        )
    metrics, stopping = MetricSet(job.schema, config.metrics or []), config.train.early_stopping
    kept_by = metrics.resolve(stopping.metric) if stopping.metric is not None else metrics.default_key()
    wanted, place = sweep.objectives, "objectives.0."
    if not wanted:
        wanted, place = [Objective(metric=sweep.metric or kept_by, mode=sweep.mode)], ""
    elif sweep.metric is not None or sweep.mode is not None:
        raise ConfigError("'objectives' takes the place of 'metric' and 'mode'", hint="Write one of them.")
    kept_mode = stopping.mode or metrics.mode(kept_by)
    modes = {**dict.fromkeys(SIZES, "min"), kept_by: kept_mode}
    first, *others = (_filled(o, f"objectives.{i}." if place else "", metrics, modes) for i, o in enumerate(wanted))
    if place and len({first.metric, *(o.metric for o in others)}) < max(len(wanted), 2):
        raise ConfigError(
            "'objectives'", expected="at least two different ones", got=", ".join(o.metric for o in wanted)
        )
    if first.metric != kept_by:
        raise ConfigError(
            f"'{place}metric' is {first.metric}, but the base keeps its best checkpoint by {kept_by}",
            hint=f"Put {kept_by} first."
            if first.metric in SIZES
            else f"Add base.train.early_stopping.metric={first.metric}.",
        )
    if first.mode != kept_mode:
        raise ConfigError(
            f"'{place}mode' is {first.mode}, but the base keeps the checkpoint with the {kept_mode} of {kept_by}",
            expected=kept_mode,
        )
    return (first, *others)


def _filled(objective: Objective, place: str, metrics: MetricSet, modes: Mapping[str, Any]) -> Objective:
    """Check that the objective is computed, and return it with its full key and its mode.

    Args:
        modes: metric -> mode, where it is not the metric's own.
    """
    metric, sizes = objective.metric, SIZES if place else ()
    if metric not in sizes:
        with named(f"{place}metric"):
            metric = metrics.resolve(metric, also=sizes)
    mode = objective.mode or modes.get(metric) or metrics.mode(metric)
    return objective.model_copy(update={"metric": metric, "mode": mode})


def _check_fit(sweep: Sweep, space: Space) -> None:
    """Check that search, scheduler, space and the rest fit each other."""
    search, scheduler = sweep.search.name, sweep.scheduler
    if (search == "bohb") != isinstance(scheduler, Bohb):
        raise ConfigError("'search: bohb' and 'scheduler: bohb' go together", got=f"{search} and {scheduler.name}")
    for v in space.variables:
        if any(v.path == fixed or v.path.startswith(f"{fixed}.") for fixed in _FIXED):
            raise ConfigError(f"'space.{v.name}': '{v.path}' is the same in all trials", hint="Write it into the base.")
        if v.kind == "grid" and (search not in ("grid", "random") or (search == "random" and v.parent is not None)):
            raise ConfigError(
                f"'space.{v.name}.grid' goes with search: grid, and outside of components with search: random",
                got=f"search: {search}",
                hint="Write choice.",
            )
    if sweep.seeds > 1:
        if search not in ("random", "grid") or not isinstance(scheduler, (Fifo, Asha, Median)):
            raise ConfigError("'seeds' goes with search: random or grid and scheduler: fifo, asha or median")
        if any(v.path == "seed" for v in space.variables):
            raise ConfigError("'seeds' repeats each point with other seeds, but 'seed' is in the space")
    if sweep.objectives:
        _check_several(sweep)
    if isinstance(scheduler, (Pbt, Pb2)):
        varying(scheduler, space)
        if sweep.refit:
            raise ConfigError(
                f"'refit' trains one configuration again, and with {scheduler.name} the winner changed its own",
                hint="Add refit=false.",
            )
        if (sweep.trials or DEFAULT_TRIALS) < 2:
            raise ConfigError("'trials': a population has at least 2", got=sweep.trials)
    limits = {
        v.path for v in space.variables if v.path in ("train.epochs", "train.steps") and not isinstance(scheduler, Fifo)
    }
    if limits:
        raise ConfigError(f"'space.{min(limits)}': the scheduler compares trials of one length", got=scheduler.name)


def _check_several(sweep: Sweep) -> None:
    """Refuse parts that compare trials by one number, with several objectives."""
    several, scheduler, search = f"and the sweep has {len(sweep.objectives)} objectives", sweep.scheduler, sweep.search
    if not isinstance(scheduler, Fifo):
        raise ConfigError(
            f"'scheduler: {scheduler.name}' compares trials by one metric, {several}",
            expected="scheduler: fifo",
            hint="The base's train.early_stopping can still end a trial early.",
        )
    if search.name not in ("optuna", "random", "grid"):
        raise ConfigError(
            f"'search: {search.name}' goes by one metric, {several}", expected="search: optuna, random or grid"
        )
    if sweep.stop.plateau_trials is not None:
        raise ConfigError(f"'stop.plateau_trials' goes by one metric, {several}", hint="Use seconds or budget_epochs.")
    if sweep.seeds > 1:
        raise ConfigError(f"'seeds' ranks points by the mean of one metric, {several}", hint="Use seeds: 1.")


def _probe(sweep: Sweep, base: Job, what: str, overrides: dict[str, Any], directory: str) -> None:
    try:
        run = trial_config(sweep.base, overrides, directory=directory, name=sweep.name, seed=0)
        job = check(run, like=base)
        if sweep.refit:
            check_refit(job)
    except RechubError as error:
        raise ConfigError(f"{what} does not fit the base: {error.message}", expected=error.expected, got=error.got,
                          hint=error.hint) from None  # fmt: skip


def _check_exchange(checked: CheckedSweep) -> None:
    """Refuse to change values during training that change the model's weights or the rows of a step."""
    sweep, scheduler = checked.sweep, checked.sweep.scheduler
    assert isinstance(scheduler, (Pbt, Pb2))
    every = checked.job.config.train.evaluate_every_epochs
    if scheduler.interval_epochs < every:
        raise ConfigError(
            f"'scheduler.interval_epochs': trials are evaluated every {every} epochs only",
            expected=f"at least {every}",
            got=f"{scheduler.interval_epochs:g}",
        )
    names = set(varying(scheduler, checked.space))
    for v in checked.space.variables:
        if v.name not in names:
            continue
        shapes = [
            _shapes(trial_config(sweep.base, {v.path: v.value(x)}, directory="x", name="x", seed=0), checked.job)
            for x in v.extremes()
        ]
        kind = v.path.partition(".")[0]
        if any(s != shapes[0] for s in shapes) or kind == "data" or v.path == "seed" or _is_exchange(v.path):
            raise ConfigError(
                f"'space.{v.name}' changes what a checkpoint holds, so {scheduler.name} cannot change it in training",
                hint="Leave it out of scheduler.paths, or use another scheduler; a dropout has to stay above 0.",
            )


def _is_exchange(path: str) -> bool:
    return path.endswith((".name", ".params")) or path in (
        "optimizers",
        "losses",
        "metrics",
        "train.accumulate_steps",
        "train.freeze",
    )


def _shapes(config: RunConfig, job: Job) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = MODELS.build(config.model, job.schema, where="model")
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
