"""One run as data: YAML plus dotted overrides, merged before validation, every default filled in, frozen."""

from __future__ import annotations

import hashlib
import importlib
import json
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic_core import PydanticCustomError

from rechub_ray import yaml_text
from rechub_ray.balancing import BALANCING
from rechub_ray.errors import ConfigError, masked, nearest, shown
from rechub_ray.files import absolute, join_all
from rechub_ray.losses import LOSSES
from rechub_ray.metrics import METRICS
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.negatives import NEGATIVES
from rechub_ray.optimizers import OPTIMIZERS, by_task, validate_optimizer
from rechub_ray.registry import KnownKeys, Registry, check_booleans, config_error
from rechub_ray.schedules import SCHEDULES
from rechub_ray.tracking import TRACKERS
from rechub_ray.yaml_text import parse_override as parse_override
from rechub_ray.yaml_text import plain, put
from rechub_ray.yaml_text import read_yaml as read_yaml

Count = Annotated[int, Ge(1)]
Seconds = Annotated[float, Gt(0)]
Factor = Annotated[float, Ge(0)]
Node = dict[str, Any]


def _is_place(value: str) -> str:
    if "\0" in value:
        raise PydanticCustomError("place", "no path holds a NUL character")
    return value


def _is_places(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str) and item for item in items):
        raise PydanticCustomError("places", "it is neither a folder nor a list of folders")
    return [_is_place(item) for item in items] if isinstance(value, list) else _is_place(value)


def _underscored(value: Any) -> Any:
    return value.replace("-", "_") if isinstance(value, str) else value


Place = Annotated[str, MinLen(1), pydantic.AfterValidator(_is_place)]
Patterns = Annotated[list[Place], pydantic.BeforeValidator(lambda given: [given] if isinstance(given, str) else given)]
Places = Annotated[str | list[str], pydantic.PlainValidator(_is_places)]


class Section(KnownKeys):
    """A part of the configuration."""


class DataSection(Section):
    """Where the shards are and how they become batches.

    Args:
        root: the folder (or URI) that `prepare` wrote; holds the schema and a folder a split.
        schema_file: the schema, relative to `root` unless absolute.
        train: split folder relative to `root` (or an absolute path or URI), or a list of them.
        valid: folder of the validation split, or null.
        test: folder of the test split, or null.
        features: names of the features to use; null takes all of the schema.
        labels: names of the labels to train and measure; null takes all of the schema.
        batch_size: rows a worker and forward pass; on average with `group_by`.
        group_by: train whole groups: all rows of one value of the schema's group column come in one step, on one
            worker, in one forward pass. The data needs each group together in one row group (`prepare: cluster_by`).
        eval_batch_size: rows a worker and forward pass in evaluation.
        read_threads: reading threads in the process when Ray does not read (scaling.num_workers = 0).
        keep_bytes: decoded data up to this size, and half of the smallest host's object store, is read once and stays
            in the object store between epochs; more is read again every epoch. 0 keeps nothing. Only with Ray.
    """

    root: Place = "."
    schema_file: Place = "schema.json"
    train: Places = "train"
    valid: Place | None = "valid"
    test: Place | None = "test"
    features: Annotated[list[str], MinLen(1)] | None = None
    labels: Annotated[list[str], MinLen(1)] | None = None
    batch_size: Count = 4096
    group_by: bool = False
    eval_batch_size: Count = 16384
    read_threads: Count = 1
    keep_bytes: Annotated[int, Ge(0)] = 2**30

    @pydantic.model_validator(mode="after")
    def _no_folder_twice(self) -> DataSection:
        """Refuse a training folder given twice (its rows would count twice) or also given as `valid` or `test`."""
        folders = [absolute(place).rstrip("/") for place in join_all(self.root, self.train)]
        for i, folder in enumerate(folders):
            if folder in folders[:i]:
                raise PydanticCustomError("twice", "data.train holds one folder twice: {folder}", {"folder": folder})
        for split in ("valid", "test"):
            place = getattr(self, split)
            if place is not None and absolute(join_all(self.root, place)[0]).rstrip("/") in folders:
                raise PydanticCustomError(
                    "trained",
                    "data.{split} is a folder that data.train holds: {place}",
                    {"split": split, "place": place},
                )
        return self


class EarlyStopping(Section):
    """When to stop, and which model is the best.

    Args:
        metric: key of a metric, without the split's name; null takes the first one that has a direction.
        mode: `max` or `min`; null takes the metric's own.
        patience: stop at the evaluation that makes this many in a row without gain; null never stops.
        min_delta: a gain is more than this.
    """

    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    patience: Count | None = None
    min_delta: Factor = 0.0


class RegularizationSection(Section):
    """Penalties l1 * sum|w| + l2 * sum(w^2); whole tables where gradients are dense, touched rows where sparse.

    Args:
        embedding_l1: l1 of embedding tables, those of the linear term too.
        embedding_l2: l2 of these.
        dense_l1: l1 of all other parameters (weights, biases, normalisation).
        dense_l2: l2 of these.
    """

    embedding_l1: Factor = 0.0
    embedding_l2: Factor = 0.0
    dense_l1: Factor = 0.0
    dense_l2: Factor = 0.0


class TrainSection(Section):
    """The training loop.

    Args:
        epochs: passes over the training data; exactly one of `epochs` and `steps` is set.
        steps: optimizer steps.
        schedule_epochs: epochs over which learning-rate schedules run; null takes the run's length.
        accumulate_steps: forward passes a worker and optimizer step; together one step of the joined batch.
        clip_norm: largest global norm of the gradients; null does not clip. An optimizer's own `clip_norm` and
            `clip_value` bound the gradients of its parameters, before these.
        clip_value: largest absolute value of a gradient's entries; null does not clip.
        freeze: patterns of names, as of an optimizer's `params`, of what is not trained: parameters (`mlp.*`) and
            single embedding tables (`embedding.tables.item`). They get no gradient, penalty or optimizer, and batch
            norms among them run by their saved statistics.
        ema_decay: train beside the weights their moving average, and evaluate, save and export that: each step keeps
            this share of it, in (0, 1). Null has no average.
        precision: `float32`, or `bfloat16` (autocast; weights stay float32).
        device: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda` or `cuda:N`.
        threads: torch threads a worker; null divides the host's cores among its workers.
        initial_evaluation: evaluate before training (epoch -1), as the reference of the curves.
        eval_method: who evaluates the validation split: `workers` (the processes that train, which wait meanwhile),
            `separate` (a process beside them, on the CPU, on Ray an actor with `scaling.eval_cpus`, reads each
            checkpoint while training goes on; early stopping, plateau schedules and the best model go by its scores
            at the next evaluation), or `none` (no evaluation of any split).
        eval_threads: torch threads of that process.
        evaluate_every_epochs: epochs between evaluations; 0 evaluates only by `evaluate_every_steps`, if at all.
        evaluate_every_steps: steps between evaluations; null evaluates by epochs only.
        early_stopping: when to stop and what is best.
        log_every_steps: steps between two log points of the trackers.
        summary_every_steps: least steps between two points of training that TensorBoard, W&B, MLflow and SwanLab get;
            null gives them every log point. Evaluations are always passed on.
        warnings: say at the end what is doubtful about the data and the result: a feature that tells the label alone or
            says nothing, splits that differ, an AUC of about .5.
    """

    epochs: Count | None = None
    steps: Count | None = None
    schedule_epochs: Annotated[float, Gt(0)] | None = None
    accumulate_steps: Count = 1
    clip_norm: Annotated[float, Gt(0)] | None = None
    clip_value: Annotated[float, Gt(0)] | None = None
    freeze: Patterns = []
    ema_decay: Annotated[float, Gt(0), Lt(1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Annotated[str, pydantic.StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    threads: Annotated[int, Ge(1), Le(1024)] | None = None
    initial_evaluation: bool = True
    eval_method: Literal["workers", "separate", "none"] = "workers"
    eval_threads: Annotated[int, Ge(1), Le(1024)] = 1
    evaluate_every_epochs: Annotated[int, Ge(0)] = 1
    evaluate_every_steps: Count | None = None
    early_stopping: EarlyStopping = EarlyStopping()
    log_every_steps: Count = 50
    summary_every_steps: Count | None = None
    warnings: bool = True

    @pydantic.model_validator(mode="before")
    @classmethod
    def _one_length(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            given = [key for key in ("epochs", "steps") if data.get(key) is not None]
            if len(given) == 2:
                raise PydanticCustomError(
                    "length", "set one of train.epochs and train.steps, not both (train.epochs=null unsets the other)"
                )
            if not given:
                return {**data, "epochs": 1}
        return data


class CheckpointSection(Section):
    """When to save and what to keep; evaluations and the end of the run always save.

    Args:
        every_steps: steps between saves; null does not save by steps.
        every_seconds: seconds between saves; null does not save by time.
        keep: newest checkpoints to keep; the best one is kept beside them.
    """

    every_steps: Count | None = None
    every_seconds: Seconds | None = None
    keep: Count = 2


class ScalingSection(Section):
    """How many processes, and what each may use.

    Args:
        num_workers: Ray Train workers; 0 runs in this process without Ray.
        use_gpu: one GPU a worker.
        cpus_per_worker: logical CPUs a worker reserves; null takes 0.5 without and 0 with a GPU.
        data_cpus: logical CPUs left to Ray Data, for all workers together.
        eval_cpus: logical CPUs that the actor of train.eval_method: separate reserves; it uses train.eval_threads.
        max_failures: how often the run may lose workers and recover.
        address: Ray cluster to join; null takes a running one (or RAY_ADDRESS) and starts a local one otherwise.
        start_timeout_seconds: how long to wait for the workers to start.
        collective_timeout_seconds: how long a worker waits for the others (also while one saves a checkpoint) before
            the one that hangs is killed and the run recovers.
    """

    num_workers: Annotated[int, Ge(0), Le(4096)] = 0
    use_gpu: bool = False
    cpus_per_worker: Annotated[float, Ge(0)] | None = None
    data_cpus: Annotated[float, Ge(1)] = 1.0
    eval_cpus: Annotated[float, Ge(0)] = 0.5
    max_failures: Annotated[int, Ge(0)] = 3
    address: Place | None = None
    start_timeout_seconds: Seconds = 300.0
    collective_timeout_seconds: Seconds = 600.0


class ExportSection(Section):
    """The export after training.

    Args:
        onnx: export the best model when training ends.
        probabilities: the outputs are probabilities; false gives logits.
        index: of a model for retrieval, an index of the items' vectors (`flat`, `hnsw` or `ivf`, or a mapping with its
            arguments); null makes none.
    """

    onnx: bool = True
    probabilities: bool = True
    index: str | Node | None = None


class ReportSection(Section):
    """The page on the run, report.html; `report: false` stands for `report: {page: false}`.

    Args:
        page: write it when training ends; false also leaves out the counts of predictions that it is drawn from.
        segment: a feature with one id a row, by whose values the page shows AUC; null takes the largest vocabulary of
            at most 24 ids, where there is one.
    """

    page: bool = True
    segment: str | None = None


class RunConfig(Section):
    """One run; its paths are relative to the folder that the command runs in.

    Args:
        name: the run's name in logs and folders.
        model_dir: where checkpoints, logs and exports go; null takes `runs/<name>`.
        seed: of initialisation, shuffling and dropout.
        imports: modules to import on the driver and on every worker (your own components).
        init_from: checkpoint whose weights start this run (fine-tuning), or a run's folder: its newest. What both
            models have, by name, is taken, unless `init_map` maps names.
        init_best: of a run's folder take the best checkpoint.
        init_map: file of lines `current<TAB>old`: which parameters to take, under which old name. Embedding tables go
            by feature, `<bank>.tables.<feature>`; `<bank>.weights.<width>` stands for all tables of that width.
        init_resize: where shapes differ: `error`, or `copy_overlap` (or `copy-overlap`), which copies the part that
            both have, from row and column 0, and leaves the rest as it is initialised.
        model: a component's node `{name: ..., <arguments>}`, as in all of the following.
        losses: nodes of losses; null gives every label the loss of its kind, and a model for retrieval
            `sampled_softmax`.
        balancing: how the losses of several labels become one gradient; null adds them up.
        negatives: nodes of sources of the items that a step's rows are compared with beside their own, for a model for
            retrieval; null takes `in_batch`.
        metrics: nodes of metrics; null gives every label the metrics of its kind, and a model for retrieval its own.
        optimizers: nodes of optimizers, which also take `params` (patterns of parameter names), `schedule` (a
            schedule's node), `clip_norm` and `clip_value` (bounds of their gradients), and `task_specific_lr` (rates
            by label: such a node becomes several).
        trackers: nodes of trackers.
    """

    name: Annotated[str, pydantic.StringConstraints(pattern=r"^\w[\w.-]*$", max_length=200)] = "run"
    model_dir: Place | None = None
    seed: Annotated[int, Ge(0), Lt(2**63)] = 2026
    imports: list[Place] = []
    init_from: Place | None = None
    init_best: bool = False
    init_map: Place | None = None
    init_resize: Annotated[Literal["error", "copy_overlap"], pydantic.BeforeValidator(_underscored)] = "error"
    data: DataSection = DataSection()
    model: Node
    losses: list[Node] | None = None
    balancing: Node | None = None
    negatives: list[Node] | None = None
    metrics: list[Node] | None = None
    optimizers: list[Node] = [{"name": "adam"}]
    regularization: RegularizationSection = RegularizationSection()
    train: TrainSection = TrainSection(epochs=1)
    checkpoint: CheckpointSection = CheckpointSection()
    trackers: list[Node] = [{"name": "console"}, {"name": "jsonl"}]
    scaling: ScalingSection = ScalingSection()
    export: ExportSection = ExportSection()
    report: ReportSection = ReportSection()

    @property
    def processes(self) -> int:
        """Number of processes that train: the workers, or this one."""
        return max(self.scaling.num_workers, 1)

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimizer step, over all processes; on average with `data.group_by`."""
        return self.data.batch_size * self.train.accumulate_steps * self.processes

    def directory(self) -> str:
        """Return the run's folder or URI."""
        return self.model_dir or f"runs/{self.name}"

    def fingerprint(self) -> dict[str, str]:
        """Return hashes of the parts that a resumed run must share with the run it continues.

        The rest (workers, trackers, intervals, devices, a later end) may change in between.
        """
        data = self.model_dump(mode="json")
        train = {k: data["train"][k] for k in ("accumulate_steps", "clip_norm", "clip_value", "ema_decay", "precision")}
        parts = {
            "seed": data["seed"],
            "model": data["model"],
            "losses": data["losses"],
            "balancing": data["balancing"],
            "optimizers": data["optimizers"],
            "regularization": data["regularization"],
            "train": train,
            "data.features": data["data"]["features"],
            "data.labels": data["data"]["labels"],
        }
        if self.data.group_by:  # only where it is set, so that runs from before it existed can still be resumed
            parts["data.group_by"] = True
        if self.negatives is not None:
            parts["negatives"] = data["negatives"]
        if self.train.freeze:
            parts["train.freeze"] = data["train"]["freeze"]
        return {k: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest()[:16] for k, v in parts.items()}


def load(source: str | Path | Mapping[str, Any], overrides: Sequence[str] | Mapping[str, Any] = ()) -> RunConfig:
    """Return the validated configuration from a YAML file or a mapping.

    Args:
        source: path of the YAML file, or its content.
        overrides: `path=value` strings (the value is read as YAML), or a mapping path -> value.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; names the key and the nearest known one.

    Example:
        >>> load({"model": {"name": "lr"}}, ["optimizers.0.lr=0.01"]).optimizers[0]["lr"]
        0.01
    """
    return validate(merge(read_yaml(source), overrides))


def merge(data: dict[str, Any], overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return `data` with the overrides set; numbers in a path index lists, and missing mappings are made.

    Raises:
        ConfigError: an override is not `path=value`, or its path leads into a value or beyond a list.
    """
    pairs = plain(overrides).items() if isinstance(overrides, Mapping) else map(parse_override, overrides)
    result = typing.cast(dict[str, Any], plain(data))
    for path, value in pairs:
        _set(result, path, value)
    return result


def _set(data: dict[str, Any], path: str, value: Any) -> None:
    # `metrics.0.name=...` changes the default of a list that the file leaves out
    keys = path.split(".")
    field = RunConfig.model_fields.get(keys[0])
    if len(keys) > 1 and data.get(keys[0]) is None and field is not None and keys[0] in _LISTS:
        model = data.get("model")
        usual = {**OF_RETRIEVAL, "losses": usual_losses(model)} if _retrieves(model) else _OF_ONE_BINARY_LABEL
        data[keys[0]] = plain(usual.get(keys[0], field.default))
    if len(keys) > 1 and keys[0] in _LISTS and isinstance(data.get(keys[0]), (str, dict)):
        data[keys[0]] = [data[keys[0]]]  # one component stands for a list of one
    put(data, path, value)


def validate(data: Mapping[str, Any]) -> RunConfig:
    """Return the frozen configuration, with components checked and their defaults filled in.

    Raises:
        ConfigError: a key or component is unknown, a value is missing or wrong, or a module cannot be imported.
    """
    data = dict(data)
    modules = data.get("imports", [])
    if not isinstance(modules, list) or not all(isinstance(module, str) and module for module in modules):
        raise ConfigError("'imports'", expected="a list of modules, as in [my_package.my_model]", got=repr(modules))
    for module in modules:
        _import(module)
    if isinstance(data.get("report"), bool):
        data["report"] = {"page": data["report"]}
    _check_keys(RunConfig, data, "")
    for key, registry in _LISTS.items():
        if data.get(key) is not None:
            data[key] = _component_list(data[key], registry, key)
    if "model" in data:
        data["model"] = MODELS.validate(data["model"], where="model")
    else:
        raise ConfigError("'model' is missing", hint=f"Known models: {', '.join(MODELS.names())}.")
    for key, registry in _LISTS.items():
        default = RunConfig.model_fields[key].default
        if key not in data and default is not None:
            data[key] = _component_list(default, registry, key)
    if data.get("balancing") is not None:
        data["balancing"] = BALANCING.validate(data["balancing"], where="balancing")
    try:
        config = RunConfig.model_validate(data)
    except pydantic.ValidationError as error:
        raise config_error(error) from None
    check_booleans(data, config.model_dump())
    return config


def dump(config: RunConfig) -> str:
    """Return YAML text that `load` reads back as the same configuration, but for keys in URIs, which are masked."""
    return masked(yaml_text.dump(config.model_dump(mode="json")))


def flat(config: RunConfig) -> dict[str, Any]:
    """Return dotted path -> scalar, as overrides name them; keys in URIs are masked."""

    def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
        pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
        if pairs is None:
            yield path, masked(value) if isinstance(value, str) else value
        else:
            for key, inner in pairs:
                yield from leaves(inner, f"{path}.{key}" if path else str(key))

    return dict(leaves(config.model_dump(mode="json"), ""))


def _import(module: Any) -> None:
    try:
        importlib.import_module(str(module))
    except Exception as error:
        raise ConfigError(
            f"'imports': cannot import '{module}'",
            got=f"{type(error).__name__}: {error}",
            hint="It must be importable from where you run, and on every worker.",
        ) from None


def _component_list(nodes: Any, registry: Registry[Any], where: str) -> list[Node]:
    if isinstance(nodes, (str, Mapping)):
        nodes = [nodes]
    if not isinstance(nodes, list):
        raise ConfigError(f"'{where}' is not a list of {registry.kind}s", got=repr(nodes))
    if not nodes and where in ("losses", "optimizers"):
        raise ConfigError(f"'{where}' is empty", expected=f"at least one {registry.kind}")
    if registry is OPTIMIZERS:
        nodes = [one for i, node in enumerate(nodes) for one in by_task(node, where=f"{where}.{i}")]
    check = _optimizer if registry is OPTIMIZERS else registry.validate
    return [check(node, where=f"{where}.{i}") for i, node in enumerate(nodes)]


def _optimizer(node: Any, *, where: str) -> Node:
    checked = validate_optimizer(node, where=where)
    schedule = SCHEDULES.validate(checked["schedule"] or "constant", where=f"{where}.schedule")
    return {**checked, "schedule": schedule}


def _check_keys(section: type[pydantic.BaseModel], data: Any, where: str) -> None:
    """Refuse unknown keys and suggest the nearest known one; pydantic alone says only that they are not permitted."""
    if not isinstance(data, Mapping):
        raise ConfigError(f"'{where}' is not a section", expected="keys and values", got=repr(data))
    for key, value in data.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in section.model_fields:
            raise ConfigError(f"unknown key {shown(path)}", hint=nearest(str(key), section.model_fields))
        inner = section.model_fields[key].annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            _check_keys(inner, value, path)


_OF_ONE_BINARY_LABEL = {"losses": ["bce"], "metrics": ["auc", "log_loss"]}
"""The list that an override such as `metrics.0.name=gauc` changes where the file leaves it out."""

OF_RETRIEVAL = {
    "negatives": ["in_batch"],
    "metrics": ["recall@10", "ndcg@10", "mrr@10"],
}
"""The lists of a model for retrieval, beside its losses, where the file leaves them out."""


def usual_losses(model: Any) -> list[Any]:
    """Return the nodes of the losses of a model for retrieval, by its node, where the file leaves them out."""
    cls = MODELS.get(model["name"] if isinstance(model, Mapping) else model)
    return list(cls.default_losses) if issubclass(cls, Retriever) else []


def _retrieves(model: Any) -> bool:
    name = model.get("name") if isinstance(model, Mapping) else model
    try:
        return isinstance(name, str) and issubclass(MODELS.get(name), Retriever)
    except ConfigError:  # `validate` says that there is no such model
        return False


_LISTS: dict[str, Registry[Any]] = {
    "losses": LOSSES,
    "metrics": METRICS,
    "negatives": NEGATIVES,
    "optimizers": OPTIMIZERS,
    "trackers": TRACKERS,
}
