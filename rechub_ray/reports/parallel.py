"""Parallel coordinates of a sweep: an axis a hyperparameter and objective, and a line a trial."""

from __future__ import annotations

import dataclasses
import html
import math
from typing import Any

from rechub_ray.reports.chart import px, short, svg
from rechub_ray.reports.kit import figure, label
from rechub_ray.reports.read import Parameter, SweepData
from rechub_ray.reports.sweep_figures import MOST_NAMED_LABELS, RANKS, bounds, shortened


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
        low, high = bounds(list(values.values()), data.modes[k])
        span = high - low or 1.0
        places = {n: min(max((x - low) / span, 0.0), 1.0) for n, x in values.items()}
        marks = [low + span * i / 4 for i in range(5)]
        axes.append(Axis(data.metrics[k], places, [((x - low) / span, short(x)) for x in marks]))
    return axes


_LOW, _TOP, _BOTTOM, _LEFT, _RIGHT = -0.14, 52.0, 400.0, 40.0, 110.0


def parallel(data: SweepData) -> tuple[str, dict[str, Any] | None]:
    """Draw a line a trial through an axis a hyperparameter; return it with what page.js filters trials by."""
    ranked = data.ranked()
    if not ranked or not data.parameters:
        return "", None
    axes = parallel_axes(data)
    width = max(1060.0, 150.0 * len(axes))
    xs = [_LEFT + (width - _LEFT - _RIGHT) * i / (len(axes) - 1) for i in range(len(axes))]

    def height(place: float) -> float:
        return _TOP + (_BOTTOM - _TOP) * (1 - (place - _LOW) / (1 - _LOW))

    parts = []
    for i, trial in reversed(list(enumerate(ranked))):
        colour = "best" if i == 0 else f"rank{(len(ranked) - 1 - i) * RANKS // len(ranked)}"
        stroke = 2.6 if i == 0 else 1.2 if len(ranked) <= 60 else 0.6
        path = "L".join(f"{px(x)} {px(height(axis.places[trial.number]))}" for x, axis in zip(xs, axes, strict=True))
        line = f'<path d="M{path}" fill="none" stroke="var(--{colour})" stroke-width="{stroke:g}"/>'
        parts.append(f'<g data-t="{trial.number}">{line}</g>')
    for i, (x, axis) in enumerate(zip(xs, axes, strict=True)):
        parts.append(f'<path class="axis" d="M{px(x)} {px(_TOP)}V{px(_BOTTOM)}"/>')
        up = 20.0 if i % 2 and len(axes) > 4 else 38.0
        anchor = "start" if i == 0 else "end" if i == len(axes) - 1 else "middle"
        shift = -_LEFT + 4 if i == 0 else _RIGHT - 4 if i == len(axes) - 1 else 0
        place = f'x="{px(x + shift)}" y="{px(up)}" text-anchor="{anchor}"'
        parts.append(f'<text class="strong" {place}>{html.escape(shortened(axis.name, 30))}</text>')
        parts += [
            f'<text x="{px(x + 5)}" y="{px(height(y) + 4)}">{html.escape(shortened(name, 16))}</text>'
            for y, name in axis.ticks
        ]
    drawing = svg(
        "".join(parts),
        width,
        _BOTTOM + 12,
        name="parallel",
        description="Parallel coordinates of all trials with a score.",
    )
    text = (
        "One line a trial; the better its rank, the stronger its colour. Drag along an axis to see only the trials "
        "that pass there; a double "
        "click takes it back. The lowest tick, 'not set', is for trials without that hyperparameter."
    )
    places = {str(t.number): [round(axis.places[t.number], 4) for axis in axes] for t in ranked}
    script = {"x": [round(x, 1) for x in xs], "top": _TOP, "bottom": _BOTTOM, "low": _LOW, "places": places}
    return figure("Parallel coordinates", drawing, text=text, wide=True), script


def _ticks(parameter: Parameter, low: float, high: float) -> list[tuple[float, str]]:
    if parameter.scale == "category":
        every = math.ceil(len(parameter.labels) / MOST_NAMED_LABELS)
        return [(float(i), name) for i, name in enumerate(parameter.labels) if i % every == 0]
    values = [low + (high - low) * i / 4 for i in range(5)]
    return [(x, label(10**x if parameter.scale == "log" else x)) for x in values]
