"""The figures of a sweep's page."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rechub_ray.reports.chart import Bars, Dots, Line, Scale, Shape, chart
from rechub_ray.reports.importance import Importance
from rechub_ray.reports.kit import figure, thinned
from rechub_ray.reports.read import Parameter, SweepData, TrialData

STATUS = {"finished": "finished", "stopped_early": "stopped", "failed": "failed"}
WORDS = {"stopped": "stopped early", "other": "running or pending"}
MOST_POINTS = 30  # of a curve
MOST_SLICES = 18
MOST_PAIRED = 3
RANKS = 5
_FIFTHS = ("worst fifth", "4th", "3rd", "2nd", "best fifth")
MOST_NAMED_LABELS = 12
_LONGEST_NAME = 34


def curves(data: SweepData) -> list[str]:
    """Draw for each metric its values in each trial over training."""
    unit = "epochs trained" if data.unit == "epochs" else "optimizer step"
    best, many, found = data.ranked()[:1], len(data.trials) > 60, []
    for metric in data.shown:
        trials = [trial for trial in data.trials if trial.curves.get(metric)]
        shapes: list[Shape] = []
        for trial in sorted(trials, key=lambda t: t in best):
            is_best = trial in best
            colour = "best" if is_best else STATUS.get(trial.status, "other")
            width, opacity = (2.6, 1.0) if is_best else (0.8, 0.4) if many else (1.2, 0.9)
            points = thinned(trial.curves[metric], MOST_POINTS)
            shapes.append(Line(points, colour, WORDS.get(colour, colour), width, opacity=opacity, mark=trial.number))
        for status, symbol in (("stopped_early", "dot"), ("failed", "cross")):
            ended = [trial for trial in trials if trial.status == status]
            shapes.append(
                Dots(
                    [t.curves[metric][-1] for t in ended],
                    STATUS[status],
                    symbol=symbol,
                    size=2.0 if many else 3.0,
                    marks=[t.number for t in ended],
                )
            )
        if not trials:
            continue
        mode = data.mode(metric)
        scale = _limited("", [value for trial in trials for _, value in trial.curves[metric]], mode)
        goal = {"max": ", higher is better", "min": ", lower is better"}.get(mode or "", "")
        drawing = chart(
            shapes,
            Scale(unit, whole=data.unit == "epochs"),
            scale,
            name="curves" if metric == data.metrics[0] else f"curves-{metric}",
            description=f"Validation {metric} of each trial over training{goal}.",
        )
        text = f"Of each trial{goal}. A dot marks where a trial was stopped early, a cross where it failed."
        found.append(figure(f"{metric}, validation", drawing, shapes, text))
    return found


def history(data: SweepData) -> str:
    """Draw the score of each trial in their order, and the best one so far."""
    trials = [trial for trial in data.trials if trial.score is not None]
    if not trials:
        return ""
    better = max if data.modes[0] == "max" else min
    best: list[Any] = [trials[0].score]
    for trial in trials[1:]:
        best.append(better(best[-1], trial.score))
    shapes: list[Shape] = [
        Line([(t.number, b) for t, b in zip(trials, best, strict=True)], "best", "best so far", 1.4, steps=True)
    ]
    shapes += _scatter(trials, [float(t.number) for t in trials], [t.score for t in trials], data.ranked()[0])
    scale = _limited("", [t.score for t in trials], data.modes[0])
    drawing = chart(
        shapes,
        Scale("trial", whole=True),
        scale,
        name="history",
        description=f"Best {data.metrics[0]} of each trial in the order of their numbers.",
    )
    return figure(f"Best {data.metrics[0]} by trial", drawing, shapes)


def pareto(data: SweepData) -> str:
    """Draw the first two objectives against each other, with the front."""
    trials = [trial for trial in data.trials if None not in trial.values]
    if len(data.metrics) < 2 or not trials:
        return ""
    best = data.front()
    shapes = _scatter(trials, [t.values[1] for t in trials], [t.values[0] for t in trials], best[0])
    points = sorted((float(t.values[1] or 0), float(t.values[0] or 0), t.number) for t in best)
    if len(data.metrics) == 2:  # between two trials, the score of the worse one is what is reached
        steps = [p[:2] for p in points]
        if data.modes[1] != "min":
            steps = [q for a, b in itertools.pairwise(points) for q in (a[:2], (a[0], b[1]))] + [points[-1][:2]]
        shapes.insert(0, Line(steps, "best", "front", 1.4, steps=data.modes[1] == "min"))
    shapes.append(
        Dots(
            [p[:2] for p in points],
            "best",
            symbol="ring",
            size=6,
            tips=[f"trial {p[2]}" for p in points],
            marks=[p[2] for p in points],
        )
    )
    drawing = chart(
        shapes,
        Scale(f"{data.metrics[1]} ({_goal(data.modes[1])})"),
        _limited(f"{data.metrics[0]} ({_goal(data.modes[0])})", [t.values[0] for t in trials], data.modes[0]),
        name="pareto",
        description=f"{' against '.join(data.metrics[:2])}, with the front.",
    )
    return figure(
        "Pareto front", drawing, shapes, "Trials on the front, which no other one beats in all objectives, are ringed."
    )


def importances(data: SweepData, shares: Importance) -> str:
    """Draw the share of each hyperparameter."""
    order = sorted(zip(shares.shares, data.parameters, strict=True), key=lambda item: item[0])
    spans = [(0.0, share, y - 0.36, y + 0.36) for y, (share, _) in enumerate(order)]
    ticks = [(float(y), f"{shortened(p.path, 28)} {share:.0%}") for y, (share, p) in enumerate(order)]
    shapes = [Bars(spans, "finished", tips=[f"{p.path}: {share:.1%}" for share, p in order])]
    drawing = chart(
        shapes,
        Scale("share of the importance", low=0.0, high=max(max(s for s, _ in order), 0.01)),
        Scale(low=-0.6, high=len(order) - 0.4, ticks=ticks),
        name="importance",
        height=52.0 + 26.0 * len(order),
        description="Share of each hyperparameter of the importance.",
    )
    text = "Share of what a random forest loses in predicting a trial's rank when the hyperparameter is shuffled."
    return figure("Importance of hyperparameters", drawing, text=text)


def slices(data: SweepData) -> list[str]:
    """Draw the scores of trials against each hyperparameter."""
    ranked, found = data.ranked(), []
    for i, parameter in enumerate(data.parameters[:MOST_SLICES] if ranked else ()):
        trials = [t for t in data.trials if t.score is not None and parameter.path in t.params]
        shapes = _scatter(trials, [_slice_place(parameter, t) for t in trials], [t.score for t in trials], ranked[0])
        scale = _limited(data.metrics[0], [t.score for t in ranked], data.modes[0])
        drawing = chart(
            shapes,
            _scale(parameter),
            scale,
            name=f"slice-{i}",
            description=f"{data.metrics[0]} against {parameter.path}.",
        )
        found.append(figure(shortened(parameter.path), drawing))
    return found


def pairs(data: SweepData, shares: Importance | None) -> list[str]:
    """Draw the trials' ranks over pairs of the most important hyperparameters, with the smoothed rank between them."""
    ranked = data.ranked()
    if len(ranked) < 6 or len(data.parameters) < 2:
        return []
    order = list(data.parameters)
    if shares is not None:
        weight = {p.path: share for p, share in zip(data.parameters, shares.shares, strict=True)}
        order.sort(key=lambda p: -weight[p.path])
    chosen, found = order[:MOST_PAIRED], []
    for i, first in enumerate(chosen):
        for second in chosen[i + 1 :]:
            trials = [t for t in ranked if first.path in t.params and second.path in t.params]
            if len(trials) < 6:
                continue
            points = [(_slice_place(first, t), _slice_place(second, t)) for t in trials]
            fifth = [(len(trials) - 1 - k) * RANKS // len(trials) for k in range(len(trials))]
            is_smooth = "category" not in (first.scale, second.scale) and len(trials) >= 10
            shapes: list[Shape] = list(_surface(first, second, trials, fifth)) if is_smooth else []
            for level in range(RANKS):
                own = [k for k in range(len(trials)) if fifth[k] == level]
                tips = [f"rank {k + 1}: {data.metrics[0]} {trials[k].score:.4f}" for k in own]
                shapes.append(
                    Dots(
                        [points[k] for k in own],
                        f"rank{level}",
                        _FIFTHS[level],
                        size=3.0 + 0.5 * level,
                        tips=tips,
                        marks=[trials[k].number for k in own],
                    )
                )
            shapes.append(Dots(points[:1], "best", "best", symbol="star", size=5.0, marks=[trials[0].number]))
            scale = dataclasses.replace(_scale(second), title=shortened(second.path))
            drawing = chart(
                shapes,
                dataclasses.replace(_scale(first), title=shortened(first.path)),
                scale,
                name=f"pair-{first.path}-{second.path}",
                description=f"Ranks of trials over {first.path} and {second.path}.",
            )
            found.append(
                figure(
                    f"{shortened(first.path, 24)} and {shortened(second.path, 24)}",
                    drawing,
                    [s for s in shapes if isinstance(s, Dots)],
                )
            )
    return found


def _surface(first: Parameter, second: Parameter, trials: Sequence[TrialData], fifth: Sequence[int]) -> list[Bars]:
    """Return the mean fifth around each place, weighted by nearness, as tiles of five colours."""
    places = np.array([[p.position(t.params) or 0.0 for p in (first, second)] for t in trials])
    low, span = places.min(0), np.ptp(places, axis=0)
    if (span <= 0).any():
        return []
    unit, columns, rows = (places - low) / span, 22, 15
    grid = np.stack(np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows), -1)
    near = np.exp(-np.square((grid[:, :, None] - unit) / 0.14).sum(-1) / 2) + 1e-9
    level = np.floor((near * np.array(fifth)).sum(-1) / near.sum(-1) + 0.5).astype(int)

    def real(parameter: Parameter, k: int, share: float) -> float:
        value = float(low[k] + span[k] * share)
        return 10**value if parameter.scale == "log" else value

    tiles: list[list[tuple[float, float, float, float]]] = [[] for _ in range(RANKS)]
    for y in range(rows):
        start = 0
        for x in range(1, columns + 1):  # neighbours of one colour are one tile
            if x == columns or level[y, x] != level[y, start]:
                tiles[level[y, start]].append(
                    (
                        real(first, 0, start / columns),
                        real(first, 0, x / columns),
                        real(second, 1, y / rows),
                        real(second, 1, (y + 1) / rows),
                    )
                )
                start = x
    return [Bars(spans, f"rank{i}", opacity=0.3) for i, spans in enumerate(tiles) if spans]


def exploits(data: SweepData) -> list[str]:
    """Draw each hyperparameter that changed during training: its value in each trial over the optimizer steps."""
    best, found = data.ranked()[:1], []
    for parameter in changed_paths(data):
        shapes: list[Shape] = []
        for trial in data.trials:
            steps, values = course(trial, parameter.path)
            if values:
                points = list(zip(map(float, steps), values, strict=True))
                colour = "best" if trial in best else "finished"
                shapes.append(
                    Line(
                        points,
                        colour,
                        "best trial" if trial in best else "trials",
                        2.4 if trial in best else 1.1,
                        steps=True,
                        mark=trial.number,
                    )
                )
                shapes.append(Dots(points[1:-1], colour, marks=[trial.number] * len(points[1:-1])))
            copied = [
                (float(e["at_step"]), e["donor"][parameter.path])
                for e in trial.record.get("exploits") or []
                if e.get("donor", {}).get(parameter.path) is not None
            ]
            shapes.append(Dots(copied, "muted", "value of the copied one", symbol="ring", size=5))
        drawing = chart(
            shapes,
            Scale("optimizer step"),
            Scale(log=parameter.scale == "log"),
            name=f"exploits-{parameter.path}",
            description=f"{parameter.path} of each trial over training.",
        )
        found.append(figure(parameter.path, drawing, shapes))
    return found


def changed_paths(data: SweepData, most: int = 6) -> list[Parameter]:
    """Return the numeric hyperparameters that some trial changed during training, at most so many."""
    changed = {
        path for t in data.trials for exploit in t.record.get("exploits") or [] for path in exploit.get("new", {})
    }
    return [p for p in data.parameters if p.path in changed and p.scale != "category"][:most]


def course(trial: TrialData, path: str) -> tuple[list[int], list[Any]]:
    """Return the steps at which a hyperparameter was set, with its values; the trial's last step closes the list."""
    last = trial.record.get("params") or {}
    if path not in last:
        return [], []
    found = trial.record.get("exploits") or []
    values = [last[path]]
    for exploit in reversed(found):  # back from the last value; a path that is not named did not change
        values.insert(0, exploit.get("old", {}).get(path, values[0]))
    steps = [0, *(int(exploit["at_step"]) for exploit in found), int(trial.record.get("steps") or 0)]
    return steps, [*values, values[-1]]


def time(data: SweepData) -> str:
    """Draw when each trial ran, packed into as few rows as they overlap."""
    spans = []
    for trial in data.trials:
        start, end = seconds(trial.record.get("started")), seconds(trial.record.get("ended"))
        if start is not None:
            lasted = float(trial.record.get("seconds") or 0)
            spans.append((start, max(end if end is not None else start + lasted, start), trial))
    if not spans:
        return ""
    spans.sort(key=lambda span: span[:2])
    origin = spans[0][0]
    scale, unit = _time_unit(max(end for _, end, _ in spans) - origin)
    free: list[float] = []  # when each row is free again
    best = data.ranked()[:1]
    bars: dict[str, list[tuple[tuple[float, float, float, float], TrialData]]] = {}
    for start, end, trial in spans:
        row = next((i for i, time in enumerate(free) if time <= start), len(free))
        free[row : row + 1] = [end]
        left, right = (start - origin) / scale, (max(end, start + 0.5) - origin) / scale
        colour = "best" if trial in best else STATUS.get(trial.status, "other")
        bars.setdefault(colour, []).append(((left, right, -row - 0.4, -row + 0.4), trial))
    shapes = [
        Bars([span for span, _ in own], colour, WORDS.get(colour, colour), marks=[t.number for _, t in own])
        for colour, own in bars.items()
    ]
    drawing = chart(
        shapes,
        Scale(f"{unit} since the first trial", low=0.0),
        Scale(ticks=[], low=-len(free) + 0.4, high=0.6),
        name="time",
        width=1060.0,
        height=min(60.0 + 24.0 * len(free), 400.0),
        description="When each trial ran.",
    )
    return figure("When each trial ran, pauses included", drawing, shapes, wide=True)


def _scale(parameter: Parameter) -> Scale:
    if parameter.scale != "category":
        return Scale(log=parameter.scale == "log")
    every = math.ceil(len(parameter.labels) / MOST_NAMED_LABELS)
    ticks = [(float(i), shortened(name, 14)) for i, name in enumerate(parameter.labels) if i % every == 0]
    return Scale(low=-0.5, high=len(parameter.labels) - 0.5, ticks=ticks)


def _slice_place(parameter: Parameter, trial: TrialData) -> float:
    if parameter.scale != "category":
        return float(trial.params[parameter.path])
    spread = (trial.number * 0.618034) % 1 - 0.5  # even over any run of numbers, and the same at each drawing
    return (parameter.position(trial.params) or 0.0) + 0.5 * spread


def _scatter(trials: Sequence[TrialData], xs: Sequence[Any], ys: Sequence[Any], best: TrialData) -> list[Shape]:
    """Return points coloured by status, the best one a star."""
    shapes: list[Shape] = []
    for colour in ("other", "stopped", "finished", "failed", "best"):
        own = [i for i, t in enumerate(trials) if colour == ("best" if t is best else STATUS.get(t.status, "other"))]
        symbol = {"best": "star", "failed": "cross", "stopped": "square"}.get(colour, "dot")
        size = 5.0 if colour == "best" else 3.0 if len(trials) <= 100 else 2.0
        if own:
            shapes.append(
                Dots(
                    [(float(xs[i]), float(ys[i])) for i in own],
                    colour,
                    WORDS.get(colour, colour),
                    symbol,
                    size,
                    marks=[trials[i].number for i in own],
                )
            )
    return shapes


def bounds(values: list[Any], mode: str) -> tuple[float, float]:
    """Return the range to show: all of it, unless a few bad values would press the good ones together."""
    ordered = sorted(values, reverse=mode == "min")  # from bad to good
    good, bad = ordered[-1], ordered[0]
    usual = ordered[len(ordered) // 20]
    middle = ordered[len(ordered) // 2]
    if abs(middle - bad) > 4 * abs(good - middle) > 0 and abs(good - bad) > 3 * abs(good - usual) > 0:
        bad = usual
    return min(bad, good), max(bad, good)


def _limited(title: str, values: list[Any], mode: str | None) -> Scale:
    if mode is None:
        return Scale(title)
    low, high = bounds(values, mode)
    if (low, high) == (min(values), max(values)):
        return Scale(title)
    margin = 0.05 * (high - low)
    return Scale(title, low=low - margin, high=high + margin)


def _goal(mode: str) -> str:
    return "higher is better" if mode == "max" else "lower is better"


def shortened(name: str, length: int = _LONGEST_NAME) -> str:
    """Return a name with its middle left out where it is longer than that."""
    return name if len(name) <= length else f"{name[: length // 3]}…{name[1 - length + length // 3 :]}"


def seconds(moment: Any) -> float | None:
    """Return a moment, ISO text or a number, as seconds since 1970; None for anything else."""
    if isinstance(moment, (int, float)):
        return float(moment)
    try:
        return datetime.datetime.fromisoformat(moment).timestamp()
    except (TypeError, ValueError):
        return None


def _time_unit(span: float) -> tuple[float, str]:
    return (3600, "hours") if span > 7200 else (60, "minutes") if span > 180 else (1, "seconds")
