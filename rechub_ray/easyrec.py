"""EasyRec's keys by their names here: what `--edit-config-json` and overrides take of its `train_config` and losses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from rechub_ray.errors import ConfigError, nearest, shown

Pair = tuple[str, Any]


def translated(pairs: Iterable[Pair], data: Mapping[str, Any], say: Callable[[str], None]) -> Iterator[Pair]:
    """Yield overrides `(path, value)` with EasyRec's keys replaced by the ones they stand for, in the same order.

    Args:
        pairs: the overrides.
        data: the configuration that they change; its model decides which parameters an optimizer takes.
        say: takes a line with the name here, for each of EasyRec's keys.

    Raises:
        ConfigError: a key of EasyRec's has no counterpart, or its value is not of the form that EasyRec takes.

    Example:
        >>> list(translated([("train_config.num_steps", 100)], {}, print))
        train_config.num_steps is train.steps here
        [('train.steps', 100), ('train.epochs', None)]
    """
    for path, value in pairs:
        if path == "eval_method":  # an option of EasyRec's command
            say("eval_method is train.eval_method here")
            yield "train.eval_method", "workers" if value == "master" else value
            continue
        plain_path = re.sub(r"\[(\d+)\]", r".\1", path)
        if plain_path.partition(".")[0] not in _SECTIONS:
            yield path, value
            continue
        for key, leaf in _leaves(plain_path, value):
            ours = list(_ours(key, leaf, _model_of(data), say))
            if ours:
                say(f"{key} is {ours[0][0]} here")
            yield from ours


_SECTIONS = {
    "train_config": "",
    "eval_config": "Its metrics are `metrics` here, and the validation split is `data.valid`.",
    "data_config": "Here data is encoded first, by the recipe of `rechub-ray prepare`; how it is read is `data`.",
    "feature_config": "Features stand in the recipe of `rechub-ray prepare`, and `data.features` picks some.",
    "model_config": "The model is `model` here: `rechub-ray list models` shows the arguments of each.",
}
"""Sections of EasyRec's configuration: what takes their place."""

_OPTIMIZERS, _LOSSES = "train_config.optimizer_config", "model_config.losses"

_RENAMED: dict[str, tuple[str, ...]] = {
    "train_config.num_steps": ("train.steps", "train.epochs"),
    "train_config.log_step_count_steps": ("train.log_every_steps",),
    "train_config.save_summary_steps": ("train.summary_every_steps",),
    "train_config.save_checkpoints_steps": ("checkpoint.every_steps", "checkpoint.every_seconds"),
    "train_config.save_checkpoints_secs": ("checkpoint.every_seconds", "checkpoint.every_steps"),
    "train_config.keep_checkpoint_max": ("checkpoint.keep",),
    "train_config.fine_tune_checkpoint": ("init_from",),
    "train_config.fine_tune_ckpt_var_map": ("init_map",),
    "data_config.batch_size": ("data.batch_size",),
    "data_config.num_epochs": ("train.epochs", "train.steps"),
}
"""The key here that takes the value, and the one that it excludes."""

_BY_VALUE = ("train_config.sync_replicas", "train_config.train_distribute", "train_config.num_gpus_per_worker")


def _leaves(path: str, value: Any) -> Iterator[Pair]:
    """Yield the keys below a section; optimizers and losses are values as wholes."""
    if isinstance(value, Mapping) and value and path not in (_OPTIMIZERS, _LOSSES):
        for key, inner in value.items():
            yield from _leaves(f"{path}.{key}", inner)
    else:
        yield path, value


def _model_of(data: Mapping[str, Any]) -> str:
    model = data.get("model")
    return str(model.get("name")) if isinstance(model, Mapping) else str(model)


def _ours(key: str, value: Any, model: str, say: Callable[[str], None]) -> Iterator[Pair]:
    """Yield what one key stands for; nothing where there is nothing to set."""
    if key in _RENAMED:
        takes, *excluded = _RENAMED[key]
        yield takes, value
        yield from ((other, None) for other in excluded)
    elif key == _OPTIMIZERS:
        yield "optimizers", _optimizers(value, model)
    elif key.startswith(f"{_OPTIMIZERS}."):
        yield _optimizer_leaf(key), value
    elif key == "model_config.loss_type":
        yield "losses", [{"name": value}]
    elif key == _LOSSES:
        yield "losses", [_loss(item) for item in _listed(value)]
    elif key.startswith(f"{_LOSSES}."):
        yield _loss_leaf(key), value
    elif key == "train_config.num_gpus_per_worker":
        if value not in (0, 1):
            raise ConfigError(
                f"'{key}' is {shown(value)}",
                expected="0 or 1: a worker has one GPU here",
                hint="Set scaling.use_gpu=true, and scaling.num_workers to the number of GPUs.",
            )
        yield "scaling.use_gpu", bool(value)
    elif key == "train_config.sync_replicas":
        say(f"{key}: there is nothing to set, training is always synchronous here")
    elif key == "train_config.train_distribute":
        _check_strategy(key, value)
        say(f"{key}: there is nothing to set, the number of workers is scaling.num_workers here")
    else:
        known = [*_RENAMED, *_BY_VALUE, _OPTIMIZERS, _LOSSES, "model_config.loss_type"]
        meant = nearest(key, known)
        hints = [meant if meant.startswith("Did") else "", _SECTIONS[key.partition(".")[0]], _SEE]
        raise ConfigError(f"EasyRec's key {shown(key)} has no counterpart here", hint=" ".join(filter(None, hints)))


_SEE = "docs/easyrec.md has both side by side."


def _check_strategy(key: str, value: Any) -> None:
    """Refuse asynchronous training, and words that EasyRec does not know."""
    known = ("NoStrategy", "MirroredStrategy", "MultiWorkerMirroredStrategy")
    if value == "PSStrategy":
        raise ConfigError(
            f"'{key}' is PSStrategy, and there are no parameter servers: training is synchronous",
            hint="Set scaling.num_workers to the number of workers, and leave this key out.",
        )
    if value not in known:
        raise ConfigError(f"'{key}' is {shown(value)}", expected=" or ".join(known), hint=nearest(str(value), known))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


# --- optimizers -----------------------------------------------------------------------------------------------------

_FAMILIES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "adam_optimizer": ("adam", {"beta1": "beta1", "beta2": "beta2"}, {}),
    "adagrad_optimizer": (
        "adagrad",
        {"initial_accumulator_value": "initial_accumulator"},
        {"initial_accumulator": 0.1},
    ),
}
"""The name here, arguments by EasyRec's names, and EasyRec's defaults where they are not ours."""

_RATES: dict[str, tuple[str, str, dict[str, str], dict[str, Any]]] = {
    "constant_learning_rate": ("constant", "learning_rate", {}, {}),
    "exponential_decay_learning_rate": (
        "exponential",
        "initial_learning_rate",
        {
            "decay_steps": "decay_steps",
            "decay_factor": "decay",
            "staircase": "staircase",
            "min_learning_rate": "min_lr",
            "burnin_steps": "warmup_steps",
            "burnin_learning_rate": "warmup_lr",
        },
        {"decay_steps": 4_000_000, "decay": 0.95, "staircase": True},
    ),
}
"""The schedule's name here, the key of the rate itself, arguments by EasyRec's names, and EasyRec's defaults."""

_DEFAULT_RATE = 0.002


def _optimizers(value: Any, model: str) -> list[dict[str, Any]]:
    """Return the optimizers' nodes: of two, the first takes the embeddings (or the wide part), of three it is both."""
    nodes = [_optimizer(item) for item in _listed(value)]
    patterns = {
        1: ["*"],
        2: ["linear.*" if model == "wide_deep" else "*embedding.*", "*"],
        3: ["linear.*", "*embedding.*", "*"],
    }.get(len(nodes))
    if patterns is None:
        raise ConfigError(
            f"'{_OPTIMIZERS}' has {len(nodes)} optimizers", expected="1 to 3", hint="Write them as `optimizers`."
        )
    for node, pattern in zip(nodes, patterns, strict=True):
        node["params"] = [pattern]
        if pattern == "*embedding.*" and node["name"] == "adagrad":
            node["name"] = "sparse_adagrad"  # the same numbers, at the cost of the batch's rows
    return nodes


def _optimizer(value: Any) -> dict[str, Any]:
    family, arguments = _only(value, _FAMILIES, _OPTIMIZERS)
    name, names, defaults = _FAMILIES[family]
    node = {"name": name, **defaults}
    for key, given in arguments.items():
        if key == "learning_rate":
            node |= _rate(given, f"{_OPTIMIZERS}.{family}.learning_rate")
        else:
            node[_argument(key, names, f"{_OPTIMIZERS}.{family}")] = given
    return node


def _rate(value: Any, where: str) -> dict[str, Any]:
    """Return `lr` and `schedule` of an optimizer's node."""
    kind, arguments = _only(value, _RATES, where)
    name, base, names, defaults = _RATES[kind]
    given = {_argument(key, names, f"{where}.{kind}"): item for key, item in arguments.items() if key != base}
    return {"lr": arguments.get(base, _DEFAULT_RATE), "schedule": {"name": name, **defaults, **given}}


def _only(value: Any, known: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    """Return the one key of a mapping, which is known, and the mapping below it."""
    if not isinstance(value, Mapping) or len(value) != 1 or not isinstance(next(iter(value.values())), Mapping):
        raise ConfigError(f"'{where}'", expected=f"{{{' or '.join(known)}: {{...}}}}", got=repr(value), hint=_SEE)
    key, inner = next(iter(value.items()))
    if key not in known:
        raise ConfigError(f"'{where}' knows no {shown(str(key))}", hint=f"{nearest(str(key), known)} {_SEE}")
    return key, inner


def _argument(key: Any, names: Mapping[str, str], where: str) -> str:
    if key not in names:
        raise ConfigError(f"'{where}' knows no {shown(str(key))}", hint=f"{nearest(str(key), names)} {_SEE}")
    return names[key]


def _optimizer_leaf(key: str) -> str:
    """Return the path here of one value within `optimizer_config`; it changes that value alone."""
    parts = key.removeprefix(f"{_OPTIMIZERS}.").split(".")
    index = parts.pop(0) if parts[0].isdecimal() else "0"
    match parts:
        case [family, "learning_rate", kind, leaf] if family in _FAMILIES and kind in _RATES:
            _, base, names, _ = _RATES[kind]
            path = "lr" if leaf == base else f"schedule.{_argument(leaf, names, key.rpartition('.')[0])}"
        case [family, leaf] if family in _FAMILIES and leaf != "learning_rate":
            path = _argument(leaf, _FAMILIES[family][1], key.rpartition(".")[0])
        case _:
            raise ConfigError(
                f"EasyRec's key {shown(key)} has no counterpart here",
                expected=f"'{_OPTIMIZERS}' as a whole, or one value in it",
                hint=_SEE,
            )
    return f"optimizers.{index}.{path}"


# --- losses ---------------------------------------------------------------------------------------------------------


def _loss(value: Any) -> dict[str, Any]:
    """Return a loss's node: the parameters of its own block stand beside its name and weight here."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"'{_LOSSES}'", expected="{loss_type: NAME, weight: 1.0, ...}", got=repr(value), hint=_SEE)
    node: dict[str, Any] = {"name": "CLASSIFICATION"}
    for key, given in value.items():
        if isinstance(given, Mapping):
            node |= given
        else:
            node["name" if key == "loss_type" else str(key)] = given
    return node


def _loss_leaf(key: str) -> str:
    """Return the path here of one value of a loss."""
    index, *parts = key.removeprefix(f"{_LOSSES}.").split(".")
    if not index.isdecimal() or len(parts) not in (1, 2):
        raise ConfigError(
            f"EasyRec's key {shown(key)} has no counterpart here",
            expected=f"'{_LOSSES}' as a whole, or {_LOSSES}.0.weight and the like",
            hint=_SEE,
        )
    return f"losses.{index}.{'name' if parts == ['loss_type'] else parts[-1]}"
