"""The checks of a run before a worker starts."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import sys
from pathlib import Path

import pyarrow.fs as pafs
import torch

from rechub_ray.config import RunConfig, ScalingSection
from rechub_ray.cpu import switched_off
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.groups import Groups
from rechub_ray.data.manifest import Manifest, remarks
from rechub_ray.data.plan import geometry
from rechub_ray.defaults import build_task, evaluation_lists, resolved, retrieves
from rechub_ray.device import pick_device
from rechub_ray.errors import ConfigError, ResourceError, named, nearest
from rechub_ray.evaluation.profile import segment_of
from rechub_ray.export.index import checked as check_index
from rechub_ray.files import absolute, check_writable, exists, join, join_all, masked, open_filesystem
from rechub_ray.fine_tuning import Start, check_start, start_of
from rechub_ray.freezing import freeze
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.negatives.completer import Completer, lists_of
from rechub_ray.optimizers import BuiltOptimizer, build_optimizers
from rechub_ray.outputs import evaluated
from rechub_ray.runtime.memory import check_fits, gpu_memory, host_memory, missing_bfloat16_flags, needs
from rechub_ray.runtime.same_encoding import check_encoding
from rechub_ray.schedules import SCHEDULES, Schedule
from rechub_ray.schema import Schema
from rechub_ray.tracking import check_trackers
from rechub_ray.world import World

_log = logging.getLogger(__name__)

_LARGEST_GROUP = 16
"""Rows of a group are at most this many times `data.batch_size`: memory has to hold them."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked run: what every worker needs, and nothing that only the driver needs.

    Args:
        config: the run.
        schema: the features in use.
        train: the row groups of the training split.
        valid: the row groups of the validation split, if there is one.
        test: the row groups of the test split, if there is one.
        groups: those of the training split, with `data.group_by`.
        start: what the model takes from `init_from`, with that.
    """

    config: RunConfig
    schema: Schema
    train: Manifest
    valid: Manifest | None
    test: Manifest | None
    groups: Groups | None = None
    start: Start | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of a whole epoch, on every rank."""
        workers = self.config.processes
        rows = self.config.rows_per_step
        return geometry(self.train, self.groups, global_batch=rows, world_size=workers)[1]

    @property
    def rows_per_step(self) -> float:
        """Rows of an optimizer step over all workers; with groups their mean, as an epoch holds all rows."""
        return self.config.rows_per_step if self.groups is None else self.train.rows / self.steps_per_epoch


def check(config: RunConfig, *, like: Job | None = None) -> Job:
    """Check a run against its data and components, in seconds and without Ray.

    Args:
        config: the run.
        like: a checked run; where both have the same data, its files are not looked at again.

    Returns:
        The run with absolute paths and all defaults filled in.

    Raises:
        ConfigError: a setting or component does not fit the data or this machine.
        SchemaError: the schema cannot be read, or does not fit a component.
        DataError: a split cannot be read, or does not fit the schema.
        CheckpointError: there is no checkpoint at `init_from`, or it does not fit the model.
        ExportError: `export.index` needs faiss, which is not installed.
        ResourceError: the model does not fit into memory.
    """
    config = _anchored(config)
    _warn_of_keys(config)
    data, evaluates = config.data, config.train.eval_method != "none"
    schema = Schema.load(join(data.root, data.schema_file))
    schema = _selected(schema, config)
    config = _check_components(config, schema)
    check_device(config)
    if like is None:
        _warn_of_bfloat16(config)
        if config.train.freeze and config.init_from is None:
            _log.warning("train.freeze without init_from: what it names stays at its random initial values")
    if like is not None and like.schema == schema and _places(like.config) == _places(config):
        job = dataclasses.replace(like, config=config)
    else:
        asked = schema.with_lists(evaluation_lists(config, schema))
        job = Job(
            config=config,
            schema=schema,
            train=_scan(config, "train", schema.with_lists(lists_of(config.negatives or []))),
            valid=_scan(config, "valid", asked) if data.valid and evaluates else None,
            test=_scan(config, "test", asked) if data.test and evaluates else None,
        )
        places = {f"data.{split}": getattr(data, split) for split in ("train", "valid", "test")}
        check_encoding(schema, config, places, of=data.root)
        if retrieves(config):
            Completer(schema, Catalogue.read(data.root, schema), config.negatives or [], rows=config.rows_per_step)
        _warn_of_repeated(config)
        for line in remarks({"data.train": job.train, "data.valid": job.valid, "data.test": job.test}):
            _log.warning("%s", line)
    if config.rows_per_step > job.train.rows:
        raise ConfigError(
            f"'data.batch_size': one step takes {config.rows_per_step} rows (batch_size {data.batch_size} x "
            f"accumulate_steps {config.train.accumulate_steps} x workers {config.processes})",
            expected=f"at most the {job.train.rows} rows of the training split",
        )
    job = dataclasses.replace(job, groups=_groups(job) if data.group_by else None)
    _check_start(config)
    if config.init_from is not None:  # from here on one checkpoint: a run that is still training may save others
        config = config.model_copy(update={"init_from": start_of(config.init_from, best=config.init_best)})
        job = dataclasses.replace(job, config=config, start=_start(config, schema))
    check_writable(config.directory(), what="'model_dir'")
    return job


def _anchored(config: RunConfig) -> RunConfig:
    """Return the run with absolute paths: workers do not share the driver's working folder."""
    places = {
        "model_dir": absolute(config.directory()),
        "init_from": config.init_from and absolute(config.init_from),
        "init_map": config.init_map and absolute(config.init_map),
        "data": config.data.model_copy(update={"root": absolute(config.data.root)}),
    }
    return config.model_copy(update=places)


def _warn_of_keys(config: RunConfig) -> None:
    """Warn of paths that hold keys: files and trackers get them masked, process lists and shell histories do not."""
    data = config.model_dump(mode="json")
    data |= {f"data.{key}": value for key, value in data.pop("data").items()}
    named = [key for key, value in data.items() if (text := json.dumps(value)) != masked(text)]
    if named:
        _log.warning(
            "keys in a URI ('%s'): written files hold *** in their place. Set them in the environment instead "
            "(AWS_ACCESS_KEY_ID and the like), on every host",
            "', '".join(named),
        )


def _places(config: RunConfig) -> tuple[object, ...]:
    """Return where a run's data lies, and whether all of it is read."""
    data = config.data
    return data.root, data.train, data.valid, data.test, config.train.eval_method == "none"


def _scan(config: RunConfig, split: str, schema: Schema) -> Manifest:
    places: str | list[str] = getattr(config.data, split)
    return Manifest.scan(join_all(config.data.root, places), schema, key=f"data.{split}")


def _groups(job: Job) -> Groups:
    """Return the groups of the training split, after checking that a worker can train each one at once."""
    if job.schema.group is None:
        raise ConfigError(
            "'data.group_by' keeps groups whole, but the schema has no group column",
            hint="Name one as `cluster_by` in the recipe of `rechub-ray prepare`.",
        )
    groups = job.groups or Groups.scan(job.train, job.schema.group)
    largest, limit = groups.largest, _LARGEST_GROUP * job.config.data.batch_size
    if largest.rows > limit:
        raise ConfigError(
            f"'data.batch_size': the group {largest.value} of column '{job.schema.group}' has {largest.rows:,} rows, "
            f"which are to be trained at once ({largest.file})",
            expected=f"at most {_LARGEST_GROUP} x batch_size {job.config.data.batch_size} = {limit:,} rows a group",
            hint=f"Set data.batch_size to {-(-largest.rows // _LARGEST_GROUP)} or more, or leave such groups out.",
        )
    workers = job.config.scaling.num_workers
    if groups.count < workers:
        raise ConfigError(
            f"'scaling.num_workers': {workers} workers, of which each needs a group in every step",
            expected=f"at most the {groups.count} groups of the training split",
        )
    return groups


def _selected(schema: Schema, config: RunConfig) -> Schema:
    """Return the schema with the features and labels in use."""
    known = {"features": schema.feature_names, "labels": [label.name for label in schema.labels]}
    for key, names in known.items():
        given: list[str] = getattr(config.data, key) or []
        for i, name in enumerate(given):
            if name not in names:
                raise ConfigError(f"'data.{key}.{i}': the schema has no {key[:-1]} '{name}'", hint=nearest(name, names))
            if name in given[:i]:
                raise ConfigError(f"'data.{key}.{i}': '{name}' is there already")
    losses = config.losses or []
    teachers = {node["teacher"] for node in losses if node.get("teacher")} - {node.get("label") for node in losses}
    return schema.select(config.data.features, config.data.labels, teachers=teachers)


def _check_components(config: RunConfig, schema: Schema) -> RunConfig:
    """Build everything without memory for weights, check that the parts fit each other, and fill in the defaults."""
    with named("model"):
        model = _build_without_memory(config, schema)
    given, config = config.model, resolved(config, schema, built=model)
    if config.export.index is not None:
        check_index(config.export.index, where="export.index")
        if not retrieves(config):
            raise ConfigError("'export.index' is for models for retrieval", got=f"model {config.model['name']}")
    if config.model != given:
        model = _build_without_memory(config, schema)
    freeze(model, config.train.freeze)
    task = build_task(config, schema, model, world=World())
    metrics = MetricSet(schema, config.metrics or [])
    metrics.bind(evaluated(model.outputs, schema, task.links), model.outputs)
    segment_of(schema, config.report.segment)
    listeners = ["train.early_stopping.patience"] if config.train.early_stopping.patience is not None else []
    optimizers = build_optimizers(config.optimizers, model, also=task.objective_parameters())
    if config.scaling.num_workers == 0:
        beside = int(config.train.eval_method == "separate")
        parts = needs(config, model, optimizers)
        check_fits(parts, host_memory(), evaluators=beside, where="the memory of this host")
    _check_gpu(config, model, optimizers)
    for i, built in enumerate(optimizers):
        with named(f"optimizers.{i}.schedule"):
            schedule = SCHEDULES.build(built.schedule_node, 1, 1.0, where=f"optimizers.{i}.schedule")
        if type(schedule).observe is not Schedule.observe:
            listeners.append(f"optimizers.{i}.schedule")
    _check_evaluation(config, metrics, listeners)
    check_trackers(config.trackers)
    return config


def _build_without_memory(config: RunConfig, schema: Schema) -> Model:
    """Return the model on the meta device; raise ResourceError where its weights cannot be counted."""
    try:
        with torch.device("meta"):
            model = MODELS.build(config.model, schema, where="model")
        sizes = {name: weight.numel() * weight.element_size() for name, weight in model.named_parameters()}
    except RuntimeError as error:
        if "overflow" not in str(error).lower():
            raise
        sizes = {"a table": sys.maxsize}
    if sum(sizes.values()) >= sys.maxsize:
        raise ResourceError("'model': its tables are larger than any memory", got=f"model {config.model}")
    return model


def _check_gpu(config: RunConfig, model: Model, optimizers: list[BuiltOptimizer]) -> None:
    """Raise ResourceError where a worker does not fit this process's GPUs; those of other hosts are not checked."""
    wants_gpu = config.scaling.use_gpu or pick_device(config.train.device).type == "cuda"
    have = gpu_memory() if wants_gpu and (config.scaling.use_gpu or config.scaling.num_workers == 0) else None
    if have is not None:
        check_fits(needs(config, model, optimizers), have, where="the memory of a GPU")


def check_memory(job: Job, nodes: list[Node], *, at_once: int = 1) -> None:
    """Check that the workers' share of a host fits the smallest one.

    Args:
        job: the run.
        nodes: the hosts.
        at_once: runs of this size at the same time (trials).

    Raises:
        ResourceError: it does not fit; shows the sizes, largest first.
    """
    memory = min((node.memory for node in nodes), default=math.inf)
    if job.config.scaling.use_gpu or memory == math.inf:  # weights are on the GPUs
        return
    model = _build_without_memory(job.config, job.schema)
    freeze(model, job.config.train.freeze)
    own = build_task(job.config, job.schema, model, world=World()).objective_parameters()
    parts = needs(job.config, model, build_optimizers(job.config.optimizers, model, also=own))
    workers = -(-job.config.processes * at_once // len(nodes))
    beside = int(job.config.train.eval_method == "separate") * at_once
    evaluators = -(-beside // len(nodes))
    check_fits(parts, memory, workers=workers, evaluators=evaluators, where="the memory of the smallest host")


def _warn_of_repeated(config: RunConfig) -> None:
    """Warn where a model of sequences gets rows that repeat each other's histories, and others are there."""
    filesystem, windows = open_filesystem(join(config.data.root, "windows"))
    is_each = config.model.get("positions") == "all" and config.data.train == "train"
    if is_each and exists(filesystem, windows, kind=pafs.FileType.Directory):
        _log.warning(
            "data.train: the model learns at every position of a history, and rows of 'train' repeat those of the rows "
            "before; 'windows' has each item once"
        )


def _warn_of_bfloat16(config: RunConfig) -> None:
    """Warn where bfloat16 is slower than float32: on a CPU that has to emulate it."""
    on_gpu = config.scaling.use_gpu or (
        config.scaling.num_workers == 0 and pick_device(config.train.device).type == "cuda"
    )
    if config.train.precision != "bfloat16" or on_gpu:
        return
    try:
        missing = missing_bfloat16_flags(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        return
    if missing is not None:
        _log.warning(
            "'train.precision' is bfloat16, which this host's CPU does not compute in (it lacks %s): float32 was 2.4 "
            "times as fast on such a CPU",
            missing,
        )


def _check_evaluation(config: RunConfig, metrics: MetricSet, listeners: list[str]) -> None:
    """Check that there will be scores for the settings that use them, and that their direction is the metric's.

    Args:
        listeners: keys of the configuration that need scores.
    """
    train, stopping = config.train, config.train.early_stopping
    with named("train.early_stopping.metric"):
        metric = metrics.resolve(stopping.metric) if stopping.metric is not None else None
    if config.data.valid is not None:
        metric = metric or metrics.default_key()
        try:
            own = metrics.mode(metric)
        except ConfigError as error:  # neither larger nor smaller is better, unless the user says so
            if stopping.mode is None:
                raise ConfigError(
                    f"'train.early_stopping.metric': {error.message}", expected=error.expected, hint=error.hint
                ) from None
            own = stopping.mode
        if stopping.mode not in (None, own):
            raise ConfigError(
                f"'train.early_stopping.mode' is {stopping.mode}, so the worst model by '{metric}' would be kept",
                expected=f"{own}, or null for the metric's own",
            )
    never = train.evaluate_every_epochs == 0 and train.evaluate_every_steps is None
    is_off = train.eval_method == "none"
    if listeners and (config.data.valid is None or never or is_off):
        raise ConfigError(
            f"'{listeners[0]}' goes by the validation's scores, and there are none",
            got="train.eval_method is none"
            if is_off
            else "data.valid is null"
            if config.data.valid is None
            else "train.evaluate_every_epochs is 0",
        )


def check_device(config: RunConfig) -> None:
    """Check that the run will have the device that it asks for, and that there is what is switched off of the CPU's.

    Raises:
        ConfigError: it will not, or there is not.
    """
    switched_off()
    device, scaling = config.train.device, config.scaling
    if scaling.num_workers > 0:
        if device.startswith("cuda") and not scaling.use_gpu:
            raise ConfigError(
                f"'train.device' is {device}, but the workers reserve no GPU", hint="Set scaling.use_gpu=true."
            )
        if ":" in device:
            raise ConfigError(f"'train.device' is {device}, but Ray gives each worker its GPU", expected="cuda or auto")
    if device == "cpu" and scaling.use_gpu:
        raise ConfigError("'train.device' is cpu, but 'scaling.use_gpu' is true", expected="one of them")
    wants_gpu = scaling.use_gpu or device.startswith("cuda")
    if scaling.num_workers == 0 and wants_gpu and int(device.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ConfigError(
            "'scaling.use_gpu' is true" if scaling.use_gpu else f"'train.device' is {device}",
            expected="a CUDA device that this process can see",
            got=f"{torch.cuda.device_count()} of them (torch {torch.__version__})",
            hint="train.device=auto and scaling.use_gpu=false take what there is.",
        )


def _check_start(config: RunConfig) -> None:
    """Check that the settings of the run's start fit each other."""
    if config.init_from is None:
        given = {"init_map": config.init_map, "init_best": config.init_best, "init_resize": config.init_resize}
        for key in (key for key, value in given.items() if value not in (None, False, "error")):
            raise ConfigError(f"'{key}' says how to take weights from 'init_from', which is null")
    elif config.init_map is not None and not os.path.isfile(config.init_map):
        raise ConfigError(f"'init_map': there is no file '{config.init_map}'")


def _start(config: RunConfig, schema: Schema) -> Start:
    model = _build_without_memory(config, schema)
    return check_start(config, model, freeze(model, config.train.freeze))


@dataclasses.dataclass(frozen=True)
class Node:
    """One host's resources; the memory in bytes."""

    cpus: float
    gpus: float
    memory: float = math.inf


def cpus_per_worker(scaling: ScalingSection) -> float:
    """Return the logical CPUs that one worker reserves."""
    if scaling.cpus_per_worker is not None:
        return scaling.cpus_per_worker
    return 0.0 if scaling.use_gpu else 0.5


def evaluating_cpus(config: RunConfig) -> float:
    """Return the logical CPUs that the actor that evaluates beside training reserves; 0 where there is none."""
    is_separate = config.train.eval_method == "separate" and config.data.valid is not None
    return config.scaling.eval_cpus if is_separate else 0.0


def local_cpus() -> int:
    """Return the logical CPUs of a Ray started here: the usable cores, at least 2 (one worker and the data)."""
    return max(len(os.sched_getaffinity(0)), 2)


def check_resources(scaling: ScalingSection, nodes: list[Node], *, evaluating: float = 0.0) -> None:
    """Check that the workers fit and leave Ray Data its share: workers that take every CPU starve it, and nothing runs.

    Args:
        scaling: the workers.
        nodes: the hosts.
        evaluating: logical CPUs of the actor that evaluates beside them, on one host.

    Raises:
        ResourceError: they do not; shows the arithmetic.
    """
    share, workers = cpus_per_worker(scaling), scaling.num_workers
    rest = scaling.data_cpus + evaluating
    need = workers * share + rest
    have = sum(node.cpus for node in nodes)
    beside = f" + {evaluating:g} CPU for evaluating" if evaluating else ""
    arithmetic = f"{workers} workers x {share:g} CPU + {scaling.data_cpus:g} CPU for reading{beside} = {need:g} CPU"
    if need > have + 1e-9:
        fitting = max(math.floor((have - rest) / share), 0) if share else workers
        raise ResourceError(
            "the run does not fit the cluster",
            expected=f"at most {have:g} CPU on {len(nodes)} host(s)",
            got=arithmetic,
            hint=f"Use scaling.num_workers={fitting}, or a smaller scaling.cpus_per_worker"
            + (" or scaling.eval_cpus." if evaluating else "."),
        )
    gpus = 1.0 if scaling.use_gpu else 0.0
    places = 0
    for node in nodes:
        by_cpu = math.floor(node.cpus / share + 1e-9) if share else workers
        by_gpu = math.floor(node.gpus / gpus + 1e-9) if gpus else workers
        places += min(by_cpu, by_gpu)
    if places < workers:
        raise ResourceError(
            f"only {places} of {workers} workers find a host with {share:g} CPU" + (" and 1 GPU" if gpus else ""),
            got="; ".join(f"host {i}: {n.cpus:g} CPU, {n.gpus:g} GPU" for i, n in enumerate(nodes)),
            hint=f"Use scaling.num_workers={places}" + (" or scaling.use_gpu=false." if gpus else "."),
        )
    free = [node.cpus for node in nodes]
    spread = workers if evaluating and not scaling.use_gpu else 0
    for _ in range(spread):  # each on the emptiest host, as Ray places them
        free[free.index(max(free))] -= share
    if evaluating > max(free, default=0.0) + 1e-9:
        raise ResourceError(
            f"no host has {evaluating:g} CPU left beside the workers for evaluating",
            expected=f"at most {max(free):g} (scaling.eval_cpus)",
            got=arithmetic,
            hint="Set a smaller scaling.eval_cpus, or train.eval_method=workers.",
        )
