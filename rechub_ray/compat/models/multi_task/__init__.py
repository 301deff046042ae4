"""Multi-task models with Torch-RecHub's arguments; each function returns a model of rechub_ray.

Features are those of `rechub_ray.compat.basic.features`, or names of columns: then `MTLTrainer.fit` builds the model
once it has seen the data. Layers are given by Torch-RecHub's dictionaries (`bottom_params`, `tower_params_list`), or by
their widths (`hidden_units`, `task_hidden_units`, `expert_units`, `tower_units`). Tasks of several classes have their
numbers in `num_classes`, which has one entry a task, None for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rechub_ray.compat.missing import refuse
from rechub_ray.compat.models.build import Feature, build, mlp_arguments
from rechub_ray.errors import ConfigError
from rechub_ray.models.base import Model
from rechub_ray.trainers.mtl_trainer import label_kinds
from rechub_ray.trainers.unbuilt import Unbuilt, labels_of

__all__ = ["AITM", "ESMM", "MMOE", "PLE", "MMoE", "SharedBottom"]

Params = Mapping[str, Any]
Features = Sequence[Feature] | Sequence[str]


def SharedBottom(
    features: Features,
    task_types: Sequence[str] | None = None,
    bottom_params: Params | None = None,
    tower_params_list: Sequence[Params] | None = None,
    *,
    hidden_units: Sequence[int] | None = None,
    task_hidden_units: Sequence[int] | None = None,
    num_tasks: int | None = None,
    task_names: Sequence[str] | None = None,
    num_classes: Sequence[int | None] | None = None,
    **others: Any,
) -> Model | Unbuilt:
    """Return `rechub_ray.models.SharedBottom` on these features.

    Args:
        features: of all tasks, or their names.
        task_types: `classification`, `binary`, `multiclass` or `regression`, one a task; None makes all tasks binary.
        bottom_params: dims, activation, dropout of the shared layers.
        tower_params_list: the same of the towers, one a task, all alike.
        hidden_units: widths of the shared layers, in place of `bottom_params`.
        task_hidden_units: widths of a tower's layers, in place of `tower_params_list`.
        num_tasks: number of tasks; None takes that of `task_types` or `tower_params_list`, or 2.
        task_names: the labels' columns where the data is a table; None takes `task_0`, `task_1`, ...
        num_classes: one a task, of a `multiclass` one; None of all others.
        others: more arguments of `rechub_ray.models.SharedBottom`.
    """
    layers = _layers({"bottom_units": bottom_params, "tower_units": tower_params_list})
    units = {"bottom_units": hidden_units, "tower_units": task_hidden_units}
    tasks = (task_types, tower_params_list, num_tasks, task_names, num_classes)
    return _model("shared_bottom", features, tasks, layers, units, others)


def MMoE(
    features: Features,
    task_types: Sequence[str] | None = None,
    n_expert: int | None = None,
    expert_params: Params | None = None,
    tower_params_list: Sequence[Params] | None = None,
    *,
    expert_units: Sequence[int] | None = None,
    num_experts: int | None = None,
    task_hidden_units: Sequence[int] | None = None,
    num_tasks: int | None = None,
    task_names: Sequence[str] | None = None,
    num_classes: Sequence[int | None] | None = None,
    expert_activation: str | None = None,
    gate_activation: str = "softmax",
    **others: Any,
) -> Model | Unbuilt:
    """Return `rechub_ray.models.MMoE` on these features.

    Args:
        features: of all tasks, or their names.
        task_types: `classification`, `binary`, `multiclass` or `regression`, one a task; None makes all tasks binary.
        n_expert: number of experts.
        expert_params: dims, activation, dropout of the experts.
        tower_params_list: the same of the towers, one a task, all alike.
        expert_units: widths of an expert's layers, in place of `expert_params`.
        num_experts: in place of `n_expert`.
        task_hidden_units: widths of a tower's layers, in place of `tower_params_list`.
        num_tasks: number of tasks; None takes that of `task_types` or `tower_params_list`, or 2.
        task_names: the labels' columns where the data is a table; None takes `task_0`, `task_1`, ...
        expert_activation: activation of all hidden layers.
        gate_activation: must be `softmax`.
        num_classes: one a task, of a `multiclass` one; None of all others.
        others: more arguments of `rechub_ray.models.MMoE`.
    """
    _softmax(gate_activation)
    layers = _layers({"expert_units": expert_params, "tower_units": tower_params_list})
    units = {
        "expert_units": expert_units,
        "tower_units": task_hidden_units,
        "num_experts": _one("n_expert", n_expert, "num_experts", num_experts),
        "activation": expert_activation,
    }
    tasks = (task_types, tower_params_list, num_tasks, task_names, num_classes)
    return _model("mmoe", features, tasks, layers, units, others)


MMOE = MMoE


def PLE(
    features: Features,
    task_types: Sequence[str] | None = None,
    n_level: int | None = None,
    n_expert_specific: int | None = None,
    n_expert_shared: int | None = None,
    expert_params: Params | None = None,
    tower_params_list: Sequence[Params] | None = None,
    *,
    expert_units: Sequence[int] | None = None,
    num_layers: int | None = None,
    num_experts: int | None = None,
    num_shared_experts: int | None = None,
    task_hidden_units: Sequence[int] | None = None,
    num_tasks: int | None = None,
    task_names: Sequence[str] | None = None,
    num_classes: Sequence[int | None] | None = None,
    **others: Any,
) -> Model | Unbuilt:
    """Return `rechub_ray.models.PLE` on these features.

    Args:
        features: of all tasks, or their names.
        task_types: `classification`, `binary`, `multiclass` or `regression`, one a task; None makes all tasks binary.
        n_level: number of levels.
        n_expert_specific: experts of one task, a task and level.
        n_expert_shared: shared experts a level.
        expert_params: dims, activation, dropout of the experts.
        tower_params_list: the same of the towers, one a task, all alike.
        expert_units: widths of an expert's layers, in place of `expert_params`.
        num_layers: in place of `n_level`.
        num_experts: in place of `n_expert_specific`.
        num_shared_experts: in place of `n_expert_shared`.
        task_hidden_units: widths of a tower's layers, in place of `tower_params_list`.
        num_tasks: number of tasks; None takes that of `task_types` or `tower_params_list`, or 2.
        task_names: the labels' columns where the data is a table; None takes `task_0`, `task_1`, ...
        num_classes: one a task, of a `multiclass` one; None of all others.
        others: more arguments of `rechub_ray.models.PLE`.
    """
    layers = _layers({"expert_units": expert_params, "tower_units": tower_params_list})
    units = {
        "expert_units": expert_units,
        "tower_units": task_hidden_units,
        "num_layers": _one("n_level", n_level, "num_layers", num_layers),
        "num_experts": _one("n_expert_specific", n_expert_specific, "num_experts", num_experts),
        "num_shared_experts": _one("n_expert_shared", n_expert_shared, "num_shared_experts", num_shared_experts),
    }
    tasks = (task_types, tower_params_list, num_tasks, task_names, num_classes)
    return _model("ple", features, tasks, layers, units, others)


def AITM(
    features: Features,
    n_task: int | None = None,
    bottom_params: Params | None = None,
    tower_params_list: Sequence[Params] | None = None,
    *,
    hidden_units: Sequence[int] | None = None,
    task_hidden_units: Sequence[int] | None = None,
    task_types: Sequence[str] | None = None,
    num_tasks: int | None = None,
    task_names: Sequence[str] | None = None,
    num_classes: Sequence[int | None] | None = None,
    **others: Any,
) -> Model | Unbuilt:
    """Return `rechub_ray.models.AITM` on these features; as in Torch-RecHub, without the paper's calibrator.

    Args:
        features: of all tasks, or their names.
        n_task: number of tasks; None takes that of `task_types` or `tower_params_list`, or 2.
        bottom_params: dims, activation, dropout of each task's layers below the transfer.
        tower_params_list: the same of the towers, one a task, all alike.
        hidden_units: widths of the layers below the transfer, in place of `bottom_params`.
        task_hidden_units: widths of a tower's layers, in place of `tower_params_list`.
        task_types: `classification`, `binary`, `multiclass` or `regression`, one a task; None makes all tasks binary.
        num_tasks: in place of `n_task`.
        task_names: the labels' columns where the data is a table, in the order of the conversion; None takes
            `task_0`, `task_1`, ...
        num_classes: one a task, of a `multiclass` one; None of all others.
        others: more arguments of `rechub_ray.models.AITM`; `calibrator_weight` is 0 unless it is given.
    """
    layers = _layers({"bottom_units": bottom_params, "tower_units": tower_params_list})
    units = {"bottom_units": hidden_units, "tower_units": task_hidden_units}
    tasks = (task_types, tower_params_list, _one("n_task", n_task, "num_tasks", num_tasks), task_names, num_classes)
    return _model("aitm", features, tasks, layers, units, {"calibrator_weight": 0.0, **others})


def ESMM(
    user_features: Features | None = None,
    item_features: Features | None = None,
    cvr_params: Params | None = None,
    ctr_params: Params | None = None,
    *,
    features: Features | None = None,
    hidden_units: Sequence[int] | None = None,
    tower_units: Sequence[int] | None = None,
    num_tasks: int | None = None,
    task_types: Sequence[str] | None = None,
    task_names: Sequence[str] | None = None,
    **others: Any,
) -> Model | Unbuilt:
    """Return `rechub_ray.models.ESMM` on these features: its tasks are the click, then the click with a conversion.

    Torch-RecHub has a task before them, the conversion given a click, on which nothing is trained. `MTLTrainer` with
    three `task_types` takes its three columns of labels, and evaluates and predicts three tasks.

    Args:
        user_features: or their names.
        item_features: or their names.
        cvr_params: dims, activation, dropout of the conversion's tower.
        ctr_params: the same of the click's tower: as `cvr_params`.
        features: all features, in place of the two lists.
        hidden_units: widths of layers that the towers share; None shares the embeddings alone.
        tower_units: widths of a tower's layers, in place of the two dictionaries.
        num_tasks: length of the chain; None takes that of `task_types`, or 2.
        task_types: all binary.
        task_names: the labels' columns where the data is a table; None takes `task_0`, `task_1`, ..., or with
            `user_features` that are objects `task_1`, `task_2`, ..., their places in Torch-RecHub.
        others: more arguments of `rechub_ray.models.ESMM`.

    Raises:
        ConfigError: no features, or both forms of them.
    """
    both: list[Any] = [*(user_features or ()), *(item_features or ())]
    if bool(both) == bool(features):
        raise ConfigError("ESMM takes 'features', or 'user_features' and 'item_features'", got="both or none")
    layers = _layers({"tower_units": [params for params in (cvr_params, ctr_params) if params is not None]})
    units = {"bottom_units": hidden_units, "tower_units": tower_units}
    if task_names is None and both and not isinstance(both[0], str):
        task_names = [f"task_{i + 1}" for i in range(num_tasks or len(task_types or "12"))]
    return _model("esmm", features or both, (task_types, None, num_tasks, task_names, None), layers, units, others)


Tasks = tuple[
    Sequence[str] | None, Sequence[Params] | None, int | None, Sequence[str] | None, Sequence[int | None] | None
]


def _model(
    name: str, features: Features, tasks: Tasks, layers: dict[str, Any], units: Params, others: Params
) -> Model | Unbuilt:
    """Return the model, or, where all features are names, what `fit` builds it from."""
    arguments = dict(layers)
    for key, value in {**units, **others}.items():
        if value is None:
            continue
        if key in layers:
            raise ConfigError(f"'{key}' of {name} is given twice", got=f"{layers[key]} and {value}")
        arguments[key] = list(value) if isinstance(value, tuple) else value
    task_types, towers, num_tasks, task_names, num_classes = tasks
    counts = [len(given) for given in (task_types, towers, task_names, num_classes) if given is not None]
    counts += [] if num_tasks is None else [num_tasks]
    count = counts[0] if counts else 2
    if count < 1 or set(counts) - {count}:
        raise ConfigError(
            "the numbers of tasks differ",
            expected="as many in task_types, tower_params_list, num_tasks, task_names and num_classes",
            got=", ".join(map(str, counts)),
        )
    kinds = label_kinds(["binary"] * count if task_types is None else task_types)
    by_name = [feature for feature in features if isinstance(feature, str)]
    if by_name and len(by_name) == len(features):
        names = None if task_names is None else list(task_names)
        unbuilt = Unbuilt(name, by_name, kinds, names, arguments, num_classes)
        unbuilt.example()  # a wrong argument is an error here, not in `fit`
        return unbuilt
    labels = labels_of(task_names or [f"task_{i}" for i in range(count)], kinds, num_classes)
    objects = [feature for feature in features if not isinstance(feature, str)]
    if by_name:
        raise ConfigError("'features' are given by name or as objects", got=f"both; by name: {', '.join(by_name)}")
    return build(name, objects, labels=labels, **arguments)


def _layers(parts: Mapping[str, Params | Sequence[Params] | None]) -> dict[str, Any]:
    """Return the house's arguments for the dictionaries of a model's parts, by the argument for a part's widths.

    Raises:
        ConfigError: parts differ in what is one argument here.
    """
    found: dict[str, Any] = {}
    for key, given in parts.items():
        for params in [] if given is None else [given] if isinstance(given, Mapping) else given:
            mine = mlp_arguments(params)
            mine[key] = mine.pop("hidden_units")
            for argument, value in mine.items():
                if found.setdefault(argument, value) != value:
                    raise ConfigError(
                        f"the parts of a model share '{argument}' here, and these differ",
                        got=f"{found[argument]} and {value}",
                        hint="Give all parts the same; towers of one model have the same layers.",
                    )
    return found


def _one(first: str, one: Any, second: str, other: Any) -> Any:
    """Return the one of two arguments that is given."""
    if one is not None and other is not None:
        raise ConfigError(f"'{first}' and '{second}' are one argument", got=f"{one} and {other}")
    return other if one is None else one


def _softmax(gate_activation: str) -> None:
    if gate_activation != "softmax":
        raise ConfigError("'gate_activation': gates are a softmax", expected="softmax", got=gate_activation)


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=())
