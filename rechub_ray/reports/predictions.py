"""Charts of an evaluation's predictions: calibration, ROC, precision and recall, scores, segments, ranks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rechub_ray.reports.chart import Bars, Dots, Line, Scale, Shape, chart
from rechub_ray.reports.kit import COLOURS, Cell, figure, figures, note, number, table

_POINTS, _GROUPS, _BARS = 120, 15, 25
Array = npt.NDArray[np.float64]


def predictions(found: Mapping[str, Any], names: Mapping[int, str], split: str) -> str:
    """Return the part of a page on the predictions of a split.

    Args:
        found: as `Profile.summary` returns it.
        names: texts of the segments' ids.
        split: its name.
    """
    parts = []
    labels = found.get("labels") or {}
    segments = found.get("segments") or {}
    for name, label in labels.items():
        if len(labels) > 1:
            parts.append(f"<h3>{html.escape(name)}</h3>")
        bins = np.asarray(label["bins"], dtype=np.float64).reshape(-1, 3)
        charts = []
        if label["kind"] == "binary":
            charts = _ranking(name, bins)
        if label["is_probability"]:
            charts.insert(0, _calibration(name, bins, label["kind"]))
        if label["kind"] == "binary":
            charts.append(_scores(name, bins) if label["is_probability"] else "")
        parts.append(figures(charts))
        own = (segments.get("labels") or {}).get(name)
        if own:
            parts.append(_segments(segments["feature"], own, names, bool(segments.get("last_is_rest"))))
    if found.get("ranks"):
        parts.append(_hits(found["ranks"]))
    if found.get("failure"):
        parts.append(note(f"Not all predictions could be counted: {found['failure']}"))
    if not any(parts):
        return ""
    step = found.get("step")
    text = f"Of all rows of the {split} split" + (f", by the model of step {step:,}." if isinstance(step, int) else ".")
    return f"<h2>Predictions</h2><p>{html.escape(text)}</p>{''.join(parts)}"


def _calibration(name: str, bins: Array, kind: str) -> str:
    """Return mean label against mean prediction, over groups of about equally many rows."""
    share = (bins[:, 0].cumsum() - bins[:, 0] / 2) / bins[:, 0].sum()
    group = np.minimum((share * _GROUPS).astype(int), _GROUPS - 1)
    sums = np.stack([np.bincount(group, bins[:, i], _GROUPS) for i in range(3)])
    sums = sums[:, sums[0] > 0]
    xs, ys = sums[2] / sums[0], sums[1] / sums[0]
    low, high = float(min(xs.min(), ys.min())), float(max(xs.max(), ys.max()))
    points = list(zip(xs.tolist(), ys.tolist(), strict=True))
    tips = [
        f"predicted {number(x)}, observed {number(y)}, {w:,.0f} rows"
        for (x, y), w in zip(points, sums[0].tolist(), strict=True)
    ]
    shapes: list[Shape] = [
        Line([(low, low), (high, high)], "other", "as it should be", dash="4 4"),
        Line(points, "a", width=1.2),
        Dots(points, "a", "rows by prediction", tips=tips, size=3.6),
    ]
    whole = bins[:, 2].sum() / bins[:, 1].sum() if bins[:, 1].sum() else float("nan")
    words = {
        "binary": ("mean predicted probability", "share with label 1"),
        "regression": ("mean predicted value", "mean label"),
        "multiclass": ("mean probability of the likeliest class", "share where it is right"),
    }[kind]
    drawing = chart(
        shapes,
        Scale(words[0]),
        Scale(words[1]),
        name=f"calibration-{name}",
        description=f"Calibration of {name}: {words[1]} against {words[0]}.",
    )
    text = (
        f"{len(points)} groups of about equally many rows. Predicted / observed over all rows: {number(float(whole))}."
    )
    return figure("Calibration", drawing, shapes, text)


def _ranking(name: str, bins: Array) -> list[str]:
    """Return the ROC curve, and precision against recall."""
    positive = np.concatenate([[0.0], bins[::-1, 1].cumsum()])
    every = np.concatenate([[0.0], bins[::-1, 0].cumsum()])
    negative = every - positive
    if not positive[-1] > 0 or not negative[-1] > 0:
        return []
    rate = positive[-1] / every[-1]
    true, false = positive / positive[-1], negative / negative[-1]
    area = float(np.trapezoid(true, false))
    roc = [
        Line([(0, 0), (1, 1)], "other", "by chance", dash="4 4"),
        Line(_along(false, true), "a", f"AUC {number(area)}", below=True),
    ]
    first = chart(
        roc,
        Scale("share of label 0 above the threshold", low=0.0, high=1.0),
        Scale("share of label 1 above it", low=0.0, high=1.0),
        name=f"roc-{name}",
        description=f"ROC curve of {name}, area {area:.4f}.",
    )
    precision = positive[1:] / every[1:]
    average = float((precision * np.diff(true)).sum())
    curve = [
        Line([(0, rate), (1, rate)], "other", f"by chance {number(rate)}", dash="4 4"),
        Line(_along(true[1:], precision), "c", f"average precision {number(average)}", below=True),
    ]
    second = chart(
        curve,
        Scale("recall: share of label 1 above the threshold", low=0.0, high=1.0),
        Scale("precision: share of label 1 among those", low=0.0, high=1.0),
        name=f"pr-{name}",
        description=f"Precision against recall of {name}, average precision {average:.4f}.",
    )
    return [figure("ROC", first, roc), figure("Precision and recall", second, curve)]


def _along(xs: Array, ys: Array) -> list[tuple[float, float]]:
    """Return at most 120 points of a curve, about equally far from each other along it."""
    way = np.concatenate([[0.0], np.hypot(np.diff(xs), np.diff(ys)).cumsum()])
    wanted = np.searchsorted(way, np.linspace(0, way[-1], _POINTS)).clip(0, len(xs) - 1)
    return [(float(xs[i]), float(ys[i])) for i in np.unique(np.concatenate([[0], wanted, [len(xs) - 1]]))]


def _scores(name: str, bins: Array) -> str:
    """Return the histograms of the predicted probability of the rows with label 1 and 0, each as shares of its rows."""
    mean = bins[:, 2] / bins[:, 0]
    high = min(1.0, max(float(np.max(mean[bins[:, 0] > 0])), 1e-3))
    high = 1.0 if high > 0.5 else high * 1.02
    place = np.minimum((mean / high * _BARS).astype(int), _BARS - 1)
    shapes: list[Bars] = []
    for value, colour, weight in ((0, "a", bins[:, 0] - bins[:, 1]), (1, "b", bins[:, 1])):
        total = weight.sum()
        if total <= 0:
            continue
        shares = np.bincount(place, weight, _BARS) / total
        spans = [(i * high / _BARS, (i + 1) * high / _BARS, 0.0, float(s)) for i, s in enumerate(shares)]
        tips = [f"{left:.2g} to {right:.2g}: {s:.1%} of label {value}" for left, right, _, s in spans]
        shapes.append(Bars(spans, colour, f"label {value} ({total:,.0f} rows)", opacity=0.55, tips=tips))
    drawing = chart(
        shapes,
        Scale("predicted probability", low=0.0, high=high),
        Scale("share of the label's rows", low=0.0),
        name=f"scores-{name}",
        description=f"Histogram of the predicted probability of {name}, by label.",
    )
    return figure("Scores by label", drawing, shapes)


def _segments(feature: str, rows: Sequence[Mapping[str, Any]], names: Mapping[int, str], last_is_rest: bool) -> str:
    """Return the table of a feature's values, those with the most rows first."""
    total = sum(row["rows"] for row in rows)
    lines = []
    for row in sorted(rows, key=lambda row: -row["rows"])[:25]:
        name = names.get(row["id"], f"id {row['id']}") if row["id"] else "not seen in training, or missing"
        if last_is_rest and row is rows[-1]:
            name = "all others"
        auc = row["auc"]
        bar = (
            "" if auc is None else f'<span class="bar" style="width:{max(auc - 0.5, 0) * 120:.0f}px"></span> {auc:.4f}'
        )
        lines.append(
            [
                name,
                row["rows"],
                f"{row['rows'] / total:.1%}",
                Cell(bar or "one class only", auc),
                row["label"],
                row["prediction"],
            ]
        )
    caption = f"AUC by '{feature}'" + (f"; the 25 of {len(rows)} values with the most rows" if len(rows) > 25 else "")
    return table(caption, [feature, "rows", "of all", "AUC (bar from 0.5)", "mean label", "mean prediction"], lines)


def _hits(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return for each ranking the share of rows whose item is among the first k, for every k."""
    shapes: list[Shape] = []
    columns = []
    shown = (1, 5, 10, 20, 50, 100, 200, 500, 1000)
    for (name, ranks), colour in zip(found.items(), COLOURS, strict=False):
        hits, words = ranks["hits"], _ranking_name(name)
        places = sorted({*range(1, 21), *(round(1000 ** (i / 60)) for i in range(61))})
        shapes.append(Line([(float(k), hits[k - 1]) for k in places], colour, words))
        tips = [f"{hits[k - 1]:.2%} of rows among the first {k:,}" for k in shown]
        shapes.append(Dots([(float(k), hits[k - 1]) for k in shown], colour, tips=tips))
        columns.append((words, hits))
    drawing = chart(
        shapes,
        Scale("first k items", log=True),
        Scale("share of rows whose item is among them", low=0.0),
        name="hits",
        description="Share of rows whose item is among the first k.",
    )
    rows = [[f"{k:,}", *(f"{hits[k - 1]:.2%}" for _, hits in columns)] for k in shown]
    count = ", ".join(dict.fromkeys(f"{ranks['rows']:,.0f} rows" for ranks in found.values()))
    return figures([figure("Hits by length of the list", drawing, shapes, f"Of {count}.")]) + table(
        "Rows whose item is among the first k", ["k", *(words for words, _ in columns)], rows
    )


def _ranking_name(name: str) -> str:
    """Return what a ranking is of, by the name of its ranks: `rank`, with a list left out, with a few candidates."""
    words = [
        part.strip("_").replace("_", " ") if part.startswith("_among") else f"without {part}"
        for part in name.split("/")[1:]
    ]
    return ", ".join(words) or "among all items"


def groups(found: Mapping[str, Sequence[Mapping[str, float]]], column: str, names: Mapping[int, str]) -> str:
    """Return the tables of the best and worst groups of metrics by groups.

    Args:
        found: the groups, by metric.
        column: the shards' group column.
        names: texts of groups.
    """
    parts, column = [], column.removesuffix("_raw") if names else column
    for metric, rows in found.items():
        lines = [
            [
                names.get(int(row["group"]), str(row["group"])),
                f"{row['auc']:.4f}",
                f"{row['rows']:,.0f}",
                row["positives"] / row["rows"],
            ]
            for row in rows
        ]
        caption = f"{metric}: the best and the worst of the quarter of groups with the most rows"
        parts.append(table(caption, [column, "AUC", "rows", "mean label"], lines))
    return f"<h2>Groups by '{html.escape(column)}'</h2>{''.join(parts)}" if parts else ""
