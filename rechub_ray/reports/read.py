"""A finished or interrupted sweep, read from its files."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rechub_ray.errors import DataError
from rechub_ray.reports.front import front
from rechub_ray.reports.kit import label
from rechub_ray.reports.run import COUNTS, is_larger_better
from rechub_ray.space import Space
from rechub_ray.tracking import read_history

_MOST_CURVES = 4  # metrics that have them


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A path of the space that takes at least two values among the trials.

    Args:
        path: dotted path.
        scale: `linear`, `log` or `category`.
        labels: of a category, in the order of the space.
    """

    path: str
    scale: str
    labels: tuple[str, ...] = ()

    def position(self, params: Mapping[str, Any]) -> float | None:
        """Return a trial's place on this axis: the value, its log10 or the label's index; None where it is not set."""
        if self.path not in params:
            return None
        value = params[self.path]
        if self.scale == "category":
            return float(self.labels.index(label(value)))
        return math.log10(value) if self.scale == "log" else float(value)


@dataclasses.dataclass(frozen=True)
class TrialData:
    """One line of trials.jsonl, with the trial's learning curves: by metric, (epoch or step, value).

    `params` are those of its best score; the last ones are in its record.
    """

    number: int
    name: str
    status: str
    reason: str | None
    params: dict[str, Any]
    score: float | None
    values: tuple[float | None, ...]
    record: dict[str, Any]
    curves: dict[str, tuple[tuple[float, float], ...]]


@dataclasses.dataclass(frozen=True)
class SweepData:
    """The data of a report.

    Args:
        name: the sweep's name.
        sweep: content of sweep.yaml.
        info: content of sweep.json.
        metrics: the metric of each objective; the first one is the score.
        modes: `max` or `min`, of each objective.
        trials: all trials, by number.
        parameters: the paths that varied.
        constants: path -> the label of the one value that all trials have.
        unit: of the learning curves: `epochs` trained, or `step`.
        shown: the metrics that have curves: the objectives, then others.
    """

    name: str
    sweep: dict[str, Any]
    info: dict[str, Any]
    metrics: tuple[str, ...]
    modes: tuple[str, ...]
    trials: tuple[TrialData, ...]
    parameters: tuple[Parameter, ...]
    constants: dict[str, str]
    unit: str
    shown: tuple[str, ...]

    def mode(self, metric: str) -> str | None:
        """Return `max` or `min` for a metric; None where neither is known to be better."""
        if metric in self.metrics:
            return self.modes[self.metrics.index(metric)]
        larger = is_larger_better(metric)
        return None if larger is None else "max" if larger else "min"

    def ranked(self) -> list[TrialData]:
        """Return the trials that have a score, best first."""
        sign = -1 if self.modes[0] == "max" else 1
        scored = [(sign * t.score, t.number, t) for t in self.trials if t.score is not None]
        return [trial for _, _, trial in sorted(scored, key=lambda item: item[:2])]

    def front(self) -> list[TrialData]:
        """Return the trials that no other one beats in all objectives, best first by the first one."""
        candidates = [(t, [v for v in t.values if v is not None]) for t in self.trials if None not in t.values]
        places = front([values for _, values in candidates], self.modes)
        on_front = {candidates[i][0].number for i in places}
        return [trial for trial in self.ranked() if trial.number in on_front]


def read(directory: Path) -> SweepData:
    """Read sweep.yaml, sweep.json, trials.jsonl and the trials' metrics.jsonl.

    Raises:
        DataError: a file is missing or damaged; names it.
    """
    sweep, info = _mapping(directory / "sweep.yaml"), _mapping(directory / "sweep.json")
    metrics, modes = _objectives(info, directory / "sweep.json")
    records = _records(directory / "trials.jsonl")
    histories = [_history(directory / "trials" / record["trial_id"] / "metrics.jsonl") for record in records]
    evaluations = [_trained([line for line in history if f"val/{metrics[0]}" in line]) for history in histories]
    logged = [key[4:] for lines in evaluations for line in lines[:1] for key in line if key.startswith("val/")]
    shown = [name for name in dict.fromkeys([*metrics, *logged]) if name in logged and name not in COUNTS]
    epochs = [[line.get("epoch") for line in lines] for lines in evaluations]
    # with several evaluations in an epoch, only the step tells them apart
    unit = "step" if any(None in e or len({*e}) < len(e) for e in epochs) else "epochs"
    trials = [
        TrialData(
            number=record["number"],
            name=record["trial_id"],
            status=record["status"],
            reason=record.get("reason"),
            params=record.get("best_params") or record.get("params") or {},
            score=_finite(record.get("score")),
            values=tuple(_finite(_value(record, name, i)) for i, name in enumerate(metrics)),
            record=record,
            curves={name: _curve(lines, name, unit) for name in shown[:_MOST_CURVES]},
        )
        for record, lines in zip(records, evaluations, strict=True)
    ]
    parameters, constants = _parameters(sweep, trials)
    return SweepData(
        name=str(sweep.get("name", directory.name)),
        sweep=sweep,
        info=info,
        metrics=metrics,
        modes=modes,
        trials=tuple(sorted(trials, key=lambda trial: trial.number)),
        parameters=parameters,
        constants=constants,
        unit=unit,
        shown=tuple(shown[:_MOST_CURVES]),
    )


def _curve(lines: list[dict[str, float]], metric: str, unit: str) -> tuple[tuple[float, float], ...]:
    found = [
        (float(x["step"] if unit == "step" else x["epoch"] + 1), float(x.get(f"val/{metric}", math.nan))) for x in lines
    ]
    return tuple(point for point in found if math.isfinite(point[1]))


def _trained(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Leave out the evaluation before training, which would stretch the axis, unless it is the only one."""
    return [line for line in lines if line["step"] > 0] or lines


def _parameters(sweep: Mapping[str, Any], trials: list[TrialData]) -> tuple[tuple[Parameter, ...], dict[str, str]]:
    variables = Space.parse(sweep.get("space") or {}).variables
    found: list[Parameter] = []
    constants: dict[str, str] = {}
    for path in dict.fromkeys([*(v.path for v in variables), *(p for trial in trials for p in trial.params)]):
        kinds = [v for v in variables if v.path == path]
        values = [trial.params[path] for trial in trials if path in trial.params]
        labels = dict.fromkeys(map(label, [x for v in kinds for x in v.options.values()]))
        used = dict.fromkeys(map(label, values))
        if len(used) + (len(values) < len(trials)) < 2:
            constants.update((path, name) for name in used)
            continue
        numeric = all(isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in values)
        if labels or not numeric:
            order = [*(name for name in labels if name in used), *(name for name in used if name not in labels)]
            found.append(Parameter(path, "category", tuple(order)))
        else:
            is_log = any(v.kind == "loguniform" for v in kinds) and all(x > 0 for x in values)
            found.append(Parameter(path, "log" if is_log else "linear"))
    return tuple(found), constants


def _value(record: Mapping[str, Any], metric: str, i: int) -> Any:
    metrics = record.get("metrics") or {}
    return metrics.get(metric, record.get("score" if i == 0 else metric))


def _finite(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def _objectives(info: Mapping[str, Any], path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    objectives = info.get("objectives") or [{"metric": info.get("metric"), "mode": info.get("mode")}]
    try:
        found = [(o["metric"], o["mode"]) for o in objectives]
        if not all(isinstance(metric, str) and mode in ("max", "min") for metric, mode in found):
            raise ValueError("no names")
    except (TypeError, KeyError, ValueError):
        raise DataError(
            f"{path} does not say what trials are compared by", expected="metric and mode", got=info
        ) from None
    return tuple(metric for metric, _ in found), tuple(mode for _, mode in found)


def _mapping(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"cannot read {path}", got=error, hint="Is it the folder of a run or a sweep?") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} is not a mapping", got=type(data).__name__)
    return data


def _records(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {path}", got=error.strerror or error) from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not {"trial_id", "number", "status"} <= set(record):
                raise ValueError("keys are missing")
        except (ValueError, TypeError):
            raise DataError(f"line {number} of {path} is not a trial", got=line[:120]) from None
        records.append(record)
    return records


def _history(path: Path) -> list[dict[str, float]]:
    return read_history(path) if path.exists() else []
