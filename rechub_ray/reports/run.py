"""A run, finished or not, read from its folder, and its settings that are none of the defaults."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rechub_ray import config as config_module
from rechub_ray.balancing import BALANCING
from rechub_ray.config import RunConfig
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import absolute, is_uri, join, read_text, reason
from rechub_ray.losses import LOSSES
from rechub_ray.metrics import METRICS
from rechub_ray.models import MODELS
from rechub_ray.negatives import NEGATIVES
from rechub_ray.optimizers import validate_optimizer
from rechub_ray.registry import Registry
from rechub_ray.reports.evidence import Evidence
from rechub_ray.schedules import SCHEDULES
from rechub_ray.tracking import TRACKERS, read_history
from rechub_ray.yaml_text import parse, plain

_NODES: dict[str, Registry[Any]] = {
    "model": MODELS,
    "losses": LOSSES,
    "balancing": BALANCING,
    "negatives": NEGATIVES,
    "metrics": METRICS,
    "trackers": TRACKERS,
    "schedule": SCHEDULES,
}
COUNTS = ("rows_expected", "rows_seen", "rows_of_unknown_items")
"""What an evaluation gives beside its metrics."""


@dataclasses.dataclass(frozen=True)
class RunData:
    """What a run's folder holds.

    Args:
        directory: the folder or URI.
        config: the run's.
        history: the lines of metrics.jsonl; empty where the run has no such tracker.
        result: of result.json; empty as long as the run has not ended.
        evidence: of report.json.
        statistics: of the data, as `prepare` left them; empty where it did not.
        schema: the data's schema.json; empty where it is not there any more.
    """

    directory: str
    config: RunConfig
    history: list[dict[str, float]]
    result: dict[str, Any]
    evidence: Evidence
    statistics: dict[str, Any]
    schema: dict[str, Any]

    @property
    def best_step(self) -> int | None:
        """The step of the best checkpoint, as its name says it; None while there is none."""
        digits = str(self.result.get("best_checkpoint") or "").rstrip("/").rpartition("step_")[2]
        return int(digits) if digits.isdecimal() else None

    @property
    def steps_per_epoch(self) -> float | None:
        """Optimizer steps of an epoch, where a whole one was trained."""
        zeros = [line["step"] for line in self.history if line.get("epoch") == 0 and line["step"] > 0]
        epochs = (self.result.get("details") or {}).get("epochs")
        is_whole = bool(epochs) or any(line.get("epoch", 0) >= 1 for line in self.history)
        return float(max(zeros)) if zeros and is_whole else None

    def values(self, key: str) -> list[tuple[float, float]]:
        """Return (step, value) of each line that has a number of this name."""
        return [(line["step"], line[key]) for line in self.history if key in line]

    def metrics(self) -> list[str]:
        """Return the keys of the metrics of any split, in their order, without counts of rows."""
        found = [key[4:] for line in self.history for key in line if key.startswith("val/")]
        for split in ("metrics", "test_metrics"):
            found += self.result.get(split) or {}
        return [key for key in dict.fromkeys(found) if key not in COUNTS]


def read_run(directory: str | Path) -> RunData:
    """Return a run from its folder: config.yaml, and what there is beside it.

    Raises:
        DataError: the folder has no config.yaml, or a file is damaged.
        ConfigError: the configuration is of components that are not known here.
    """
    place = absolute(str(directory))
    try:
        text = read_text(join(place, "config.yaml"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{directory}' is no run: it has no config.yaml that can be read",
            got=reason(error),
            hint="Name a folder that `rechub-ray train` wrote (`model_dir`).",
        ) from None
    content = parse(text, f"{directory}/config.yaml")
    if not isinstance(content, Mapping):
        raise DataError(f"{directory}/config.yaml is no mapping", got=type(content).__name__)
    config = config_module.validate(content)
    root, result = absolute(config.data.root), _json(join(place, "result.json"))
    logs = Path(result.get("log_dir") or f"runs/{config.name}") if is_uri(place) else Path(place)
    if "best_metrics" in result:  # a trial's
        result = {**result, "metrics": result["best_metrics"], "details": result}
    return RunData(
        directory=place,
        config=config,
        history=read_history(logs / "metrics.jsonl") if (logs / "metrics.jsonl").is_file() else [],
        result=result,
        evidence=Evidence.read(place) or Evidence(),
        statistics=_json(join(root, "stats.json")),
        schema=_json(join(root, config.data.schema_file)),
    )


def _json(path: str) -> dict[str, Any]:
    """Return the content of a JSON file, with NaN for null among metrics; empty where there is none."""
    try:
        found = json.loads(read_text(path))
    except (OSError, ValueError, ConfigError):
        return {}
    for split in ("metrics", "test_metrics"):
        if isinstance(found, dict) and isinstance(found.get(split), dict):
            found[split] = {key: math.nan if value is None else value for key, value in found[split].items()}
    return found if isinstance(found, dict) else {}


def chosen(config: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yield the path and value of each setting that is not the default, and the default; `...` where there is none.

    The names of components are always among them.
    """
    content = config.model_dump(mode="json")
    for key, field in RunConfig.model_fields.items():
        value = content[key]
        if key in _NODES or key == "optimizers":
            for i, node in enumerate(value if isinstance(value, list) else [value]):
                if node is not None:
                    yield from _of_node(key, node, f"{key}.{i}" if isinstance(value, list) else key)
        elif isinstance(value, dict):
            default = field.default.model_dump(mode="json")
            yield from _differing(value, default, key)
        elif key != "model_dir" and value != plain(field.default):
            yield key, value, plain(field.default)


def _of_node(kind: str, node: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    yield f"{path}.name", node.get("name"), ...
    try:
        bare = {"name": node["name"]}
        usual = validate_optimizer(bare) if kind == "optimizers" else _NODES[kind].validate(bare)
    except (ConfigError, KeyError):  # it has arguments without a default
        usual = {}
    for key, value in node.items():
        if key == "schedule" and isinstance(value, Mapping):
            if value.get("name") != "constant":
                yield from _of_node("schedule", value, f"{path}.schedule")
        elif key not in ("name", "output", "label"):
            default = plain(usual.get(key, ...)) if key in usual else ...
            if value != default:
                yield f"{path}.{key}", value, default


def _differing(value: Mapping[str, Any], usual: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any, Any]]:
    for key, own in value.items():
        other = usual.get(key)
        if isinstance(own, dict) and isinstance(other, dict):
            yield from _differing(own, other, f"{path}.{key}")
        elif own != other:
            yield f"{path}.{key}", own, other


def is_larger_better(key: str) -> bool | None:
    """Return whether larger numbers of a metric are better, as far as its key says which one it is; None otherwise."""
    stem, at, _ = key.rpartition("/")[2].partition("_where_")[0].partition("@")
    name = f"{stem}_at_k" if at else stem
    known = {alias: own for own in METRICS.names() for alias in (own, *METRICS.aliases(own))}
    mode = METRICS.get(known[name]).mode if name in known else None
    return None if mode is None else mode == "max"
