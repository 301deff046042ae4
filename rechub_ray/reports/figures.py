"""The report's figures."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Callable, Sequence
from typing import Any

from rechub_ray.reports.drawing import (
    COLOURS,
    STATUS,
    WIDTH,
    Drawn,
    label_log_axis,
    new_figure,
    png,
    style,
    svg,
)
from rechub_ray.reports.exploits import changed_paths, draw_exploits
from rechub_ray.reports.importance import Importance
from rechub_ray.reports.read import Parameter, SweepData, TrialData, label

MOST_POINTS = 30  # of a curve
MOST_SLICES = 18
_RANKS = 5
_MOST_NAMED_LABELS = 12
_LONGEST_NAME = 34


@dataclasses.dataclass(frozen=True)
class Figure:
    """One figure of the page, and its PNG."""

    name: str
    title: str
    text: str
    svg: str
    png: bytes


def draw_all(data: SweepData, shares: Importance | None) -> list[Figure]:
    """Draw every figure for which the sweep has data, in the page's order."""
    ranked = data.ranked()
    goal = "higher is better" if data.modes[0] == "max" else "lower is better"
    metric, params = data.metrics[0], bool(ranked and data.parameters)
    has_front = len(data.metrics) > 1 and any(None not in trial.values for trial in data.trials)
    has_times = any(_seconds(trial.record.get("started")) is not None for trial in data.trials)
    plans: list[tuple[bool, str, str, str, Callable[[], Drawn]]] = [
        (any(t.curve for t in data.trials), "curves", "Learning curves", f"Validation {metric} ({goal}) of each "
         "trial. A dot marks where a trial was stopped early, a cross where it failed.", lambda: _curves(data)),
        (bool(ranked), "history", "Score by trial", f"Best {metric} of each trial in the order of their numbers, with "
         f"the best so far as a line ({goal}).", lambda: _history(data)),
        (has_front, "pareto", "Pareto front", f"{' against '.join(data.metrics[:2])}; trials on the front, which no "
         "other trial beats in all metrics, are ringed, with their numbers.", lambda: _pareto(data)),
        (params, "parallel", "Parallel coordinates", "One line a trial; the better its rank, the stronger its colour. "
         "Drag along an axis to see only the trials that pass there; a double click takes it back. The lowest tick, "
         "'not set', is for trials without that hyperparameter.", lambda: _parallel(data)),
        (shares is not None, "importance", "Importance of hyperparameters", "Share of what a random forest loses in "
         "predicting a trial's rank when the hyperparameter is shuffled.", lambda: _importance(data, shares)),
        (params, "slices", "Slices", f"Best {metric} of each trial against each hyperparameter ({goal})."
         + (f" The first {MOST_SLICES} of {len(data.parameters)}." if len(data.parameters) > MOST_SLICES else ""),
         lambda: _slices(data)),
        (bool(changed_paths(data)), "exploits", "Exploits", "The hyperparameters of each trial over its training. A "
         "dot is where it went on from a copy of another trial, a ring the value of the copied one.",
         lambda: draw_exploits(data)),
        (has_times, "time", "Time", "When each trial ran, pauses included, packed into as few rows as they overlap.",
         lambda: _time(data)),
    ]  # fmt: skip
    figures = []
    with style():
        for is_wanted, name, title, text, draw in plans:
            if is_wanted:
                drawn = draw()
                drawn.figure.draw_without_rendering()
                drawn.figure.set_layout_engine("none")  # it is laid out; not again for SVG and PNG
                vector = svg(drawn.figure, name, f"{title}. {text}", drawn.orders)
                figures.append(Figure(name, title, text, vector, png(drawn.figure)))
    return figures


def _curves(data: SweepData) -> Drawn:
    figure, axes = new_figure(4.2)
    ax = axes[0, 0]
    best = data.ranked()[:1]
    many = len(data.trials) > 60
    shown = [trial for trial in data.trials if trial.curve]
    for trial in sorted(shown, key=lambda t: t in best):
        colour = COLOURS["best" if trial in best else STATUS.get(trial.status, "other")]
        points = _thin(trial.curve)
        width, alpha = (2.4, 1.0) if trial in best else (0.8, 0.35) if many else (1.2, 1.0)
        ax.plot(*zip(*points, strict=True), color=colour, linewidth=width, alpha=alpha, gid=f"trial-{trial.number}",
                zorder=4 if trial in best else 2)  # fmt: skip
    orders = {}
    for status, marker in (("stopped_early", "o"), ("failed", "X")):
        ended = [trial for trial in shown if trial.status == status]
        if ended:
            ends = list(zip(*(trial.curve[-1] for trial in ended), strict=True))
            ax.scatter(*ends, s=14 if many else 24, marker=marker, color=COLOURS[STATUS[status]], gid=f"ends-{status}",
                       linewidths=0, zorder=3)  # fmt: skip
            orders[f"ends-{status}"] = [trial.number for trial in ended]
    _limit(ax, [value for trial in shown for _, value in trial.curve], data.modes[0])
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set_xlabel("epochs trained" if data.unit == "epochs" else "optimizer step")
    ax.set_ylabel(data.metrics[0])
    _legend(ax, [*(("best",) if best else ()), *dict.fromkeys(STATUS.get(t.status, "other") for t in shown)])
    return Drawn(figure, orders)


def _history(data: SweepData) -> Drawn:
    figure, axes = new_figure(3.2)
    ax = axes[0, 0]
    trials = [trial for trial in data.trials if trial.score is not None]
    orders = _scatter(ax, "history", trials, [t.number for t in trials], [t.score for t in trials], data.ranked()[0])
    better = max if data.modes[0] == "max" else min
    best: list[Any] = [trials[0].score]
    for trial in trials[1:]:
        best.append(better(best[-1], trial.score))
    ax.step([t.number for t in trials], best, where="post", color=COLOURS["best"], linewidth=1.4, zorder=1)
    _limit(ax, [t.score for t in trials], data.modes[0])
    ax.set_xlabel("trial")
    ax.set_ylabel(data.metrics[0])
    ax.xaxis.get_major_locator().set_params(integer=True)
    _legend(ax, [*dict.fromkeys(STATUS.get(t.status, "other") for t in trials), "best"])
    return Drawn(figure, orders)


def _pareto(data: SweepData) -> Drawn:
    figure, axes = new_figure(3.8)
    ax = axes[0, 0]
    trials = [trial for trial in data.trials if None not in trial.values]
    best = data.front()
    orders = _scatter(ax, "pareto", trials, [t.values[1] for t in trials], [t.values[0] for t in trials], best[0])
    points = sorted((t.values[1], t.values[0], t.number) for t in best)
    if len(data.metrics) == 2:  # between two trials, the score of the worse one is what is reached
        xs, ys, _ = zip(*points, strict=True)
        ax.step(xs, ys, where="post" if data.modes[1] == "min" else "pre", color=COLOURS["best"], linewidth=1.4)
    for x, y, number in points:
        ax.plot(x, y, color=COLOURS["best"], marker="o", markersize=7, markerfacecolor="none", zorder=4)
        if len(points) <= _MOST_NAMED_LABELS:
            ax.annotate(f"{number}", (x, y), xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
    _limit(ax, [t.values[0] for t in trials], data.modes[0])
    ax.margins(y=0.12)
    if max(t.values[1] or 0 for t in trials) >= 1e4:
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.set_xlabel(f"{data.metrics[1]} ({_goal(data.modes[1])})")
    ax.set_ylabel(f"{data.metrics[0]} ({_goal(data.modes[0])})")
    return Drawn(figure, orders)


@dataclasses.dataclass(frozen=True)
class Axis:
    """A vertical axis of the parallel coordinates: where values lie between 0 and 1, and its ticks' texts."""

    name: str
    places: dict[int, float]
    ticks: list[tuple[float, str]]


def parallel_axes(data: SweepData) -> list[Axis]:
    """Return the axes: hyperparameters, then objectives, the score last; trials without a score have no line."""
    ranked = data.ranked()
    axes = []
    for p in data.parameters:
        found = {t.number: p.position(t.params) for t in ranked}
        known = [x for x in found.values() if x is not None]
        low, high = min(known, default=0.0), max(known, default=1.0)
        span = high - low or 1.0
        places = {n: -0.1 if x is None else (x - low) / span for n, x in found.items()}
        ticks = [((x - low) / span, name) for x, name in _ticks(p, low, high)]
        axes.append(Axis(p.path, places, ticks + ([(-0.1, "not set")] if None in found.values() else [])))
    for k in reversed(range(len(data.metrics))):  # the score is the last one
        values = {trial.number: trial.values[k] or 0.0 for trial in ranked}
        low, high = _bounds(list(values.values()), data.modes[k])
        span = high - low or 1.0
        places = {n: min(max((x - low) / span, 0.0), 1.0) for n, x in values.items()}
        marks = [low + span * i / 4 for i in range(5)]
        ticks = [((x - low) / span, f"{x:,.0f}" if abs(x) >= 1e4 else f"{x:.4g}") for x in marks]
        axes.append(Axis(data.metrics[k], places, ticks))
    return axes


def _parallel(data: SweepData) -> Drawn:
    from matplotlib.figure import Figure as MatplotlibFigure

    axes, ranked = parallel_axes(data), data.ranked()
    figure = MatplotlibFigure(figsize=(max(WIDTH, 1.15 * len(axes)), 4.6))
    ax = figure.add_axes(PARALLEL_PLACE)
    ax.set_axis_off()
    ax.set(xlim=(0, max(len(axes) - 1, 1)), ylim=(PARALLEL_LOW, 1.0))
    for i, trial in reversed(list(enumerate(ranked))):
        rank = (len(ranked) - 1 - i) * _RANKS // len(ranked)
        width = 2.4 if i == 0 else 1.1 if len(ranked) <= 60 else 0.6
        places = [axis.places[trial.number] for axis in axes]
        ax.plot(range(len(axes)), places, linewidth=width, color=COLOURS["best" if i == 0 else f"rank{rank}"],
                gid=f"trial-{trial.number}", clip_on=False)  # fmt: skip
    for x, axis in enumerate(axes):
        ax.plot([x, x], [PARALLEL_LOW, 1], color=COLOURS["muted"], linewidth=1, clip_on=False)
        height = 1.06 + 0.075 * (x % 2) * (len(axes) > 4)
        ax.text(x, height, _short(axis.name, 24), ha=_side(x, len(axes)), fontweight="bold", fontsize=8)
        for y, name in axis.ticks:
            ax.annotate(_short(name, 18), (x, y), xytext=(4, 0), textcoords="offset points", fontsize=7, va="center")
    return Drawn(figure)


PARALLEL_PLACE = (0.06, 0.03, 0.84, 0.8)  # left, bottom, width, height, as parts of the figure
PARALLEL_LOW = -0.14


def _importance(data: SweepData, shares: Importance | None) -> Drawn:
    assert shares is not None
    order = sorted(zip(shares.shares, data.parameters, strict=True), key=lambda item: item[0])
    figure, axes = new_figure(0.8 + 0.32 * len(order))
    ax = axes[0, 0]
    ax.barh(range(len(order)), [share for share, _ in order], color=COLOURS["finished"], height=0.65)
    for y, (share, _) in enumerate(order):
        ax.text(share + 0.01, y, f"{share:.0%}", va="center")
    ax.set_yticks(range(len(order)), [_short(p.path) for _, p in order])
    ax.set(xlim=(0, 1.08), xlabel="share of the importance")
    ax.grid(visible=False, axis="y")
    return Drawn(figure)


def _slices(data: SweepData) -> Drawn:
    parameters = data.parameters[:MOST_SLICES]
    columns = min(3, len(parameters))
    rows = math.ceil(len(parameters) / columns)
    figure, axes = new_figure(2.5 * rows + 0.3, rows, columns)
    orders: dict[str, list[int]] = {}
    best = data.ranked()[0]
    for i, (ax, parameter) in enumerate(zip(axes.flat, parameters, strict=False)):
        trials = [t for t in data.trials if t.score is not None and parameter.path in t.params]
        xs = [_slice_place(parameter, t) for t in trials]
        orders |= _scatter(ax, f"slice-{i}", trials, xs, [t.score for t in trials], best)
        if parameter.scale == "log":
            ax.set_xscale("log")
            label_log_axis(ax.xaxis, xs)
        if parameter.scale == "category":
            few = parameter.labels[:_MOST_NAMED_LABELS]
            ax.set_xticks(range(len(few)), [_short(name, 14) for name in few], rotation=30 if len(few) > 3 else 0)
            ax.set_xlim(-0.5, len(parameter.labels) - 0.5)
        ax.set_xlabel(_short(parameter.path))
        _limit(ax, [t.score for t in data.ranked()], data.modes[0])
        if i % columns == 0:
            ax.set_ylabel(data.metrics[0])
    for ax in axes.flat[len(parameters) :]:
        ax.set_axis_off()
    return Drawn(figure, orders)


def _slice_place(parameter: Parameter, trial: TrialData) -> float:
    if parameter.scale != "category":
        return float(trial.params[parameter.path])
    spread = (trial.number * 0.618034) % 1 - 0.5  # even over any run of numbers, and the same at each drawing
    return (parameter.position(trial.params) or 0.0) + 0.5 * spread


def _time(data: SweepData) -> Drawn:
    spans = []
    for trial in data.trials:
        start, end = _seconds(trial.record.get("started")), _seconds(trial.record.get("ended"))
        if start is not None:
            seconds = float(trial.record.get("seconds") or 0)
            spans.append((start, max(end if end is not None else start + seconds, start), trial))
    spans.sort(key=lambda span: span[:2])
    origin = spans[0][0]
    scale, unit = _time_unit(max(end for _, end, _ in spans) - origin)
    free: list[float] = []  # when each row is free again
    bars = []
    for start, end, trial in spans:
        row = next((i for i, time in enumerate(free) if time <= start), len(free))
        free[row : row + 1] = [end]
        bars.append((row, (start - origin) / scale, max(end - start, 0.5) / scale, trial))
    figure, axes = new_figure(min(0.9 + 0.3 * len(free), 5))
    ax = axes[0, 0]
    best = data.ranked()[:1]
    for row, left, width, trial in bars:
        colour = COLOURS["best" if trial in best else STATUS.get(trial.status, "other")]
        ax.barh(row, width, left=left, height=0.8, color=colour)[0].set_gid(f"trial-{trial.number}")
    ax.set_yticks([])
    ax.invert_yaxis()
    ax.set_xlabel(f"{unit} since the first trial")
    _legend(ax, [*dict.fromkeys(STATUS.get(t.status, "other") for *_, t in spans), *(("best",) if best else ())])
    return Drawn(figure)


def _scatter(
    ax: Any, gid: str, trials: Sequence[TrialData], xs: list[Any], ys: list[Any], best: TrialData
) -> dict[str, list[int]]:
    """Draw points coloured by status, the best one larger; return the trials' numbers of each collection."""
    orders: dict[str, list[int]] = {}
    size = 20 if len(trials) <= 100 else 8
    for colour in ("other", "stopped", "finished", "failed", "best"):
        chosen = [i for i, t in enumerate(trials) if colour == ("best" if t is best else STATUS.get(t.status, "other"))]
        if chosen:
            name = f"{gid}-{colour}"
            ax.scatter([xs[i] for i in chosen], [ys[i] for i in chosen], s=70 if colour == "best" else size, gid=name,
                       marker="*" if colour == "best" else "o", color=COLOURS[colour], linewidths=0,
                       alpha=1 if colour == "best" else 0.8, zorder=5 if colour == "best" else 3)  # fmt: skip
            orders[name] = [trials[i].number for i in chosen]
    return orders


def _ticks(parameter: Parameter, low: float, high: float) -> list[tuple[float, str]]:
    if parameter.scale == "category":
        every = math.ceil(len(parameter.labels) / _MOST_NAMED_LABELS)
        return [(float(i), name) for i, name in enumerate(parameter.labels) if i % every == 0]
    values = [low + (high - low) * i / 4 for i in range(5)]
    return [(x, label(10**x if parameter.scale == "log" else x)) for x in values]


def _bounds(values: list[Any], mode: str) -> tuple[float, float]:
    """Return the range to show: all of it, unless a few bad values would press the good ones together."""
    ordered = sorted(values, reverse=mode == "min")  # from bad to good
    good, bad = ordered[-1], ordered[0]
    usual = ordered[len(ordered) // 20]
    middle = ordered[len(ordered) // 2]
    if abs(middle - bad) > 4 * abs(good - middle) > 0 and abs(good - bad) > 3 * abs(good - usual) > 0:
        bad = usual
    return min(bad, good), max(bad, good)


def _limit(ax: Any, values: list[Any], mode: str) -> None:
    low, high = _bounds(values, mode)
    if (low, high) != (min(values), max(values)):
        margin = 0.05 * (high - low)
        ax.set_ylim(low - margin, high + margin)


def _thin(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most 30 points, with the first and the last."""
    if len(curve) <= MOST_POINTS:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]


def _legend(ax: Any, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    words = {"stopped": "stopped early", "other": "running or pending", "best": "best"}
    lines = [Line2D([], [], color=COLOURS[name], linewidth=3, label=words.get(name, name)) for name in names]
    ax.legend(handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5)


def _goal(mode: str) -> str:
    return "higher is better" if mode == "max" else "lower is better"


def _side(x: int, count: int) -> str:
    return "left" if x == 0 else "right" if x == count - 1 else "center"


def _short(name: str, length: int = _LONGEST_NAME) -> str:
    return name if len(name) <= length else f"{name[: length // 3]}…{name[1 - length + length // 3 :]}"


def _seconds(moment: Any) -> float | None:
    """Return a moment, ISO text or a number, as seconds since 1970; None for anything else."""
    if isinstance(moment, (int, float)):
        return float(moment)
    try:
        return datetime.datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return None


def _time_unit(seconds: float) -> tuple[float, str]:
    return (3600, "hours") if seconds > 7200 else (60, "minutes") if seconds > 180 else (1, "seconds")
