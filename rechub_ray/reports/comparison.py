"""Runs side by side: what differs in their configuration, their metrics, curves and times."""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from rich.console import Console
from rich.table import Table

from rechub_ray import config as config_module
from rechub_ray.errors import ConfigError, masked
from rechub_ray.reports.chart import Line, Scale, Shape, chart
from rechub_ray.reports.kit import COLOURS, Cell, duration, figure, figures, label, note, number, page, table, thinned
from rechub_ray.reports.run import RunData, is_larger_better, read_run
from rechub_ray.reports.run_page import metric_figure, times, watched

MOST_RUNS = len(COLOURS)
_UNSEEN = ("model_dir", "name", "trackers", "report", "checkpoint")
_POINTS = 200


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Runs with distinct names, and rows of (what, a value a run).

    Args:
        runs: in the order given.
        names: a name each.
        settings: keys of the configuration whose values differ.
        metrics: metric and split, with whether larger is better (None: neither).
        facts: rows, steps, times.
    """

    runs: list[RunData]
    names: list[str]
    settings: list[tuple[str, list[Any]]]
    metrics: list[tuple[str, str, bool | None, list[float | None]]]
    facts: list[tuple[str, list[str]]]


def compare(directories: Sequence[str]) -> Comparison:
    """Read runs and put them side by side.

    Args:
        directories: folders of at least two runs, and at most eight.

    Raises:
        ConfigError: too few or too many, or one twice.
        DataError: a folder is no run.
    """
    if not 2 <= len(directories) <= MOST_RUNS:
        raise ConfigError("compare takes several runs", expected=f"2 to {MOST_RUNS} folders", got=len(directories))
    runs = [read_run(directory) for directory in directories]
    if len({run.directory for run in runs}) < len(runs):
        raise ConfigError("compare was given one run twice", got=", ".join(directories))
    keys = list(dict.fromkeys(key for run in runs for key in run.metrics()))
    metrics: list[tuple[str, str, bool | None, list[float | None]]] = []
    for split, name in (("valid", "metrics"), ("test", "test_metrics")):
        for key in keys:
            values = [(run.result.get(name) or {}).get(key) for run in runs]
            if split == "valid":  # a run that has not ended has no result
                values = [v if v is not None else _last(run, key) for v, run in zip(values, runs, strict=True)]
            if any(value is not None for value in values):
                metrics.append((key, split, is_larger_better(key), values))
    return Comparison(runs, _names(runs), _settings(runs), metrics, _facts(runs))


def _last(run: RunData, key: str) -> float | None:
    found = run.values(f"val/{key}")
    return found[-1][1] if found else None


def _names(runs: Sequence[RunData]) -> list[str]:
    """Return the shortest ends of the runs' paths that tell them apart."""
    paths = [PurePosixPath(run.directory).parts for run in runs]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len({*names}) == len(names):
            return names
    return [run.directory for run in runs]


def _settings(runs: Sequence[RunData]) -> list[tuple[str, list[Any]]]:
    flat = [config_module.flat(run.config) for run in runs]
    found = []
    for key in dict.fromkeys(key for one in flat for key in one):
        values = [one.get(key, "") for one in flat]
        if key.partition(".")[0] not in _UNSEEN and any(value != values[0] for value in values):
            found.append((key, values))
    return found


def _facts(runs: Sequence[RunData]) -> list[tuple[str, list[str]]]:
    def column(run: RunData) -> dict[str, str]:
        details = run.result.get("details") or {}
        if not details:
            return {"state": "not ended"}
        seconds = details["seconds"]
        found = {
            "state": "stopped early" if details["stopped_early"] else "finished",
            "epochs": f"{details['epochs']}",
            "steps": f"{details['steps']:,}",
            "rows trained": f"{details['rows']:,}",
            "workers": f"{details['workers']}",
        }
        if details.get("rows_here") and seconds.get("train"):
            found["rows a second of training"] = f"{details['rows_here'] / seconds['train']:,.0f}"
        names = {
            "run": "time of the last start",
            "train": "of which training steps",
            "data": "waiting for data",
            "evaluate": "evaluation",
            "save": "saving",
        }
        found |= {name: duration(seconds[key]) for key, name in names.items() if key in seconds}
        found |= {
            name: text
            for name, text in run.evidence.environment.items()
            if name in ("torch", "ray", "rechub_ray", "device", "CPU")
        }
        return found

    columns = [column(run) for run in runs]
    return [(name, [one.get(name, "") for one in columns]) for name in dict.fromkeys(k for one in columns for k in one)]


def comparison_page(found: Comparison) -> str:
    """Return the page."""
    dots = [
        f'<span class="dot" style="background:var(--{colour})"></span>{html.escape(name)}'
        for name, colour in zip(found.names, COLOURS, strict=False)
    ]
    key = watched(found.runs[0])
    heads = ["", *found.names]
    settings = [
        [path, *(Cell(html.escape(masked(label(v))), kind="text other" if v != values[0] else "text") for v in values)]
        for path, values in found.settings
    ]
    places = [f"{dot}: {html.escape(masked(run.directory))}" for dot, run in zip(dots, found.runs, strict=True)]
    sections = [
        f"<p>{'<br>'.join(places)}</p>",
        "<h2>What differs in the configuration</h2>"
        + (
            table("Shaded: other than in the first run", ["key", *found.names], settings)
            if settings
            else note("Nothing but names and places.")
        ),
        "<h2>Metrics</h2>"
        + table(
            "Of the best model by validation; the best value of each row is bold",
            ["metric", "split", *found.names],
            [[name, split, *_marked(larger, values)] for name, split, larger, values in found.metrics],
        ),
        "<h2>Curves</h2>" + _curves(found, key),
        "<h2>Course and environment</h2>"
        + table("Times are those of the last start", heads, [[name, *values] for name, values in found.facts]),
    ]
    return page(" / ".join(found.names), "comparison", f"{len(found.runs)} runs side by side.", sections)


def _best(larger: bool | None, values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None and math.isfinite(v)]
    return (
        None if larger is None or len(known) < 2 or min(known) == max(known) else max(known) if larger else min(known)
    )


def _marked(larger: bool | None, values: Sequence[float | None]) -> list[Any]:
    best = _best(larger, values)
    return [Cell(number(v), v, "best") if v is not None and v == best else v for v in values]


def _curves(found: Comparison, key: str | None) -> str:
    runs = list(zip(found.runs, COLOURS, found.names, strict=False))
    keys = dict.fromkeys([*([key] if key else []), *(k for run in found.runs for k in run.metrics())])
    drawn = [metric_figure(runs, k) for k in keys if any(run.values(f"val/{k}") for run in found.runs)]
    loss: list[Shape] = []
    units = {times(run)[1] for run in found.runs}
    for run, colour, name in runs:
        by = times(run)[0] if len(units) == 1 else 1.0
        points = [(step / by, value) for step, value in thinned(run.values("train/loss"), _POINTS)]
        if points:
            loss.append(Line(points, colour, name))
    if loss:
        unit = units.pop() if len(units) == 1 else "optimizer steps"
        drawing = chart(
            loss, Scale(unit, low=0.0), Scale(), name="training-loss", description=f"Training loss over {unit}."
        )
        drawn.insert(0, figure("Training loss", drawing, loss))
    return figures(drawn) or note("No run has curves.")


def print_comparison(found: Comparison) -> None:
    """Print the differing settings, the metrics, and the course of the runs as one table."""
    output = Table(box=None, pad_edge=False)
    output.add_column("")
    for name in found.names:
        output.add_column(name, justify="right", overflow="fold")
    for path, values in found.settings:
        output.add_row(path, *(masked(label(value)) for value in values))
    output.add_section()
    for name, split, larger, numbers in found.metrics:
        best = _best(larger, numbers)
        output.add_row(
            f"{name} ({split})", *("" if v is None else f"{number(v)}{' *' if v == best else '  '}" for v in numbers)
        )
    output.add_section()
    for name, texts in found.facts:
        output.add_row(name, *texts)
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(output)
    console.print("* the best of its row")
