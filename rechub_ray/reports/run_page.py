"""The page on one run, and that on an evaluation."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rechub_ray import config as config_module
from rechub_ray.config import RunConfig
from rechub_ray.errors import RechubError
from rechub_ray.files import absolute, join, open_filesystem
from rechub_ray.preparation.rows import group_numbers
from rechub_ray.preparation.values import to_text
from rechub_ray.reports.chart import Dots, Line, Scale, Shape, chart
from rechub_ray.reports.evidence import Evidence
from rechub_ray.reports.kit import (
    COLOURS,
    Cell,
    duration,
    facts,
    figure,
    figures,
    folded,
    label,
    note,
    number,
    page,
    table,
    thinned,
)
from rechub_ray.reports.predictions import groups, predictions
from rechub_ray.reports.run import COUNTS, RunData, chosen

_MOST_POINTS = 250
_PURPOSES = {"train": "training steps", "data": "waiting for data", "evaluate": "evaluation", "save": "saving"}
_PREDICTIONS_ARE_OFF = (
    "No predictions were counted: report.page was false, the run has not ended, or it is from an earlier version. "
    "`rechub-ray evaluate RUN --report FILE` makes a page with them."
)


def run_page(run: RunData) -> str:
    """Return the page on a run."""
    config, evidence = run.config, run.evidence
    shown = (
        predictions(evidence.predictions, segment_names(config, evidence), evidence.split or "")
        if evidence.predictions
        else ""
    )
    sections = [
        _facts(run),
        _metrics(run),
        _curves(run),
        shown or "<h2>Predictions</h2>" + note(_PREDICTIONS_ARE_OFF) if run.metrics() else "",
        _groups(config, evidence, run.schema),
        _time(run),
        _movement(evidence),
        _data(run),
        settings(config),
        environment(evidence),
    ]
    return page(
        config.name,
        "run",
        _subtitle(run),
        sections,
        footer=f"Made from {run.directory}: config.yaml, "
        "metrics.jsonl, result.json, report.json, and the data's stats.json.",
    )


def evaluation_page(
    config: RunConfig, checkpoint: str, metrics: Mapping[str, float], evidence: Evidence, schema: Mapping[str, Any]
) -> str:
    """Return the page on the evaluation of one checkpoint."""
    names = segment_names(config, evidence)
    counted = {key: value for key, value in metrics.items() if key not in COUNTS}
    rows = metrics.get("rows_seen", 0)
    sections = [
        facts([(key, number(value), "") for key, value in counted.items()] + [("Rows", f"{rows:,.0f}", "")]),
        predictions(evidence.predictions or {}, names, evidence.split or ""),
        _groups(config, evidence, schema),
        settings(config),
        environment(evidence),
    ]
    return page(
        f"{config.name}: {evidence.split}", "evaluation", f"{config.model['name']}, checkpoint {checkpoint}", sections
    )


def segment_names(config: RunConfig, evidence: Evidence) -> dict[int, str]:
    """Return the texts of the ids by which predictions are divided, as the data's vocabulary has them."""
    feature = ((evidence.predictions or {}).get("segments") or {}).get("feature")
    if feature is None:
        return {}
    first = next(_vocabulary(config, feature), None)
    found = {} if first is None else first.slice(0, 1000).to_pydict()
    return dict(zip(found.get("id", ()), map(str, found.get("value", ())), strict=True))


def group_names(config: RunConfig, evidence: Evidence, column: str) -> dict[int, str]:
    """Return the texts of the groups that are shown, where the shards' group column has hashes of a feature's texts."""
    wanted = [int(row["group"]) for rows in evidence.groups.values() for row in rows]
    names: dict[int, str] = {}
    for part in _vocabulary(config, column.removesuffix("_raw")) if wanted else ():
        texts = to_text(part["value"])
        numbers = group_numbers(texts)
        shown = pc.is_in(numbers, pa.array(wanted, pa.int64()))
        names |= zip(numbers.filter(shown).to_pylist(), texts.filter(shown).to_pylist(), strict=True)
    return names


def _vocabulary(config: RunConfig, feature: str) -> Iterator[pa.RecordBatch]:
    """Yield pieces of a feature's vocabulary, `id` and `value`; nothing where there is none."""
    try:
        filesystem, path = open_filesystem(join(absolute(config.data.root), f"vocab/{feature}.parquet"))
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            yield from file.iter_batches(columns=["id", "value"])
    except (OSError, ValueError, KeyError, RechubError):
        return


def _groups(config: RunConfig, evidence: Evidence, schema: Mapping[str, Any]) -> str:
    column = str(schema.get("group") or "group")
    return groups(evidence.groups, column, group_names(config, evidence, column))


def _subtitle(run: RunData) -> str:
    config, details = run.config, run.result.get("details") or {}
    labels = ", ".join(config.data.labels or [one["name"] for one in run.schema.get("labels", []) if "name" in one])
    model = f"{config.model['name']}, trained on {config.data.root}" + (f", labels {labels}" if labels else "")
    if not details:
        return f"{model}. The run has not ended."
    workers = int(details.get("workers") or 1)
    where = (
        "in one process" if config.scaling.num_workers == 0 else f"on {workers} Ray worker{'s' if workers > 1 else ''}"
    )
    stopped = ", stopped early" if details.get("stopped_early") else ""
    return f"{model}, {where}: {details['epochs']} epochs, {details['steps']:,} steps{stopped}."


def watched(run: RunData) -> str | None:
    """Return the metric that the best model was chosen by."""
    keys = run.metrics()
    asked = run.config.train.early_stopping.metric
    return next((key for key in keys if asked is None or key == asked or key.endswith(f"/{asked}")), None)


def _facts(run: RunData) -> str:
    details, key = run.result.get("details") or {}, watched(run)
    seconds = details.get("seconds") or {}
    items = []
    if key is not None and key in (run.result.get("metrics") or {}):
        at = run.best_step
        items.append((f"Best valid {key}", number(run.result["metrics"][key]), f"step {at:,}" if at else ""))
    if key is not None and key in (run.result.get("test_metrics") or {}):
        items.append((f"Its test {key}", number(run.result["test_metrics"][key]), ""))
    if details:
        items.append(("Rows trained", f"{details['rows']:,}", f"{details['steps']:,} steps"))
    if seconds.get("train") and details.get("rows_here"):
        speed = details["rows_here"] / seconds["train"]
        items.append(("Speed", f"{speed:,.0f}", "rows a second of training"))
    if seconds:
        items.append(("Time", duration(seconds.get("run", seconds.get("total"))), "from its last start to its end"))
    return facts(items) if items else note("Nothing has been evaluated yet.")


def _metrics(run: RunData) -> str:
    """Return the table of all metrics: before training, at the best step, last, and on the test split."""
    first = {key: dict(run.values(f"val/{key}")).get(0) for key in run.metrics()}
    last = {key: run.values(f"val/{key}")[-1][1] for key in run.metrics() if run.values(f"val/{key}")}
    best, test = run.result.get("metrics") or {}, run.result.get("test_metrics") or {}
    columns = [("untrained, valid", first), ("best, valid", best), ("last, valid", last), ("best, test", test)]
    columns = [(name, values) for name, values in columns if any(values.get(key) is not None for key in run.metrics())]
    if not columns:
        return ""
    rows = [[key, *(values.get(key) for _, values in columns)] for key in run.metrics()]
    count = {
        split: (run.result.get(name) or {}).get("rows_seen")
        for split, name in (("valid", "metrics"), ("test", "test_metrics"))
    }
    seen = ", ".join(f"{split} {rows:,} rows" for split, rows in count.items() if rows)
    return "<h2>Metrics</h2>" + table(
        f"Each row counted once: {seen}" if seen else "", ["metric", *(name for name, _ in columns)], rows
    )


def _curves(run: RunData) -> str:
    if not run.history:
        return note("There are no curves: the run has no tracker `jsonl`, or has not logged yet.")
    loss = sorted(
        {k for line in run.history for k in line if k.startswith("train/loss")}, key=lambda k: (k.count("/"), k)
    )
    rates = _named(run, "learning_rate/") or _named(run, "learning_rate")
    weights = {key.removeprefix("loss_weight/"): points for key, points in _named(run, "loss_weight/").items()}
    drawn = [
        _plot(
            run, "Training loss", {key.removeprefix("train/loss").strip("/") or "loss": run.values(key) for key in loss}
        )
    ]
    drawn += [metric_figure([(run, "a", "")], key) for key in run.metrics() if run.values(f"val/{key}")]
    learning = {f"optimizer {key.rpartition('/')[2]}" if "/" in key else "": points for key, points in rates.items()}
    drawn += [
        _plot(run, "Learning rate", learning, log=_spans_decades(learning)),
        _plot(run, "Weights of losses", weights),
        _plot(run, "Norm of the gradient", {"": run.values("train/grad_norm")}),
        _plot(run, "Rows a second of training", {"": run.values("rows_per_second")}, low=0.0),
    ]
    return f"<h2>Curves</h2>{figures(drawn)}"


def _named(run: RunData, prefix: str) -> dict[str, list[tuple[float, float]]]:
    keys = sorted({key for line in run.history for key in line if key.startswith(prefix)})
    return {key: run.values(key) for key in keys}


def _spans_decades(series: Mapping[str, Sequence[tuple[float, float]]]) -> bool:
    values = [value for points in series.values() for _, value in points if value > 0]
    return bool(values) and max(values) > 20 * min(values)


def times(run: RunData) -> tuple[float, str]:
    """Return by what steps are divided on a horizontal axis, and its title."""
    every = run.steps_per_epoch
    return (every, "epochs trained") if every else (1.0, "optimizer steps")


def _plot(
    run: RunData,
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    log: bool = False,
    low: float | None = None,
) -> str:
    by, unit = times(run)
    shapes: list[Shape] = []
    for i, (name, points) in enumerate(series.items()):
        scaled = [(step / by, value) for step, value in thinned(points, _MOST_POINTS)]
        if scaled:
            shapes.append(Line(scaled, COLOURS[i % len(COLOURS)], name, dash="" if i < len(COLOURS) else "5 3"))
    if not shapes:
        return ""
    drawing = chart(
        shapes,
        _from_start(shapes, unit),
        Scale(log=log, low=low),
        name=title.replace(" ", "-").lower(),
        description=f"{title} over {unit}.",
    )
    return figure(title, drawing, shapes)


def metric_figure(runs: Sequence[tuple[RunData, str, str]], key: str) -> str:
    """Return the curve of a metric of the validation split, of runs with their colours and names."""
    by, unit = times(runs[0][0])
    if len({times(run)[1] for run, _, _ in runs}) > 1:
        by, unit = 1.0, "optimizer steps"
    shapes: list[Shape] = []
    trained: list[float] = []
    texts = []
    for run, colour, name in runs:
        factor = by if len(runs) == 1 or by == 1.0 else times(run)[0]
        points = [(step / factor, value) for step, value in run.values(f"val/{key}")]
        start = [point for point in points if point[0] == 0]
        own = thinned([point for point in points if point[0] > 0], _MOST_POINTS)
        trained += [value for _, value in own if math.isfinite(value)]
        if start and own:
            shapes.append(Line([start[0], own[0]], colour, width=1.2, dash="3 4"))
        shapes.append(Line(own, colour, name))
        if len(own) <= 40:
            tips = [f"{name + ': ' if name else ''}{number(value)} after {x:.3g} {unit}" for x, value in own]
            shapes.append(Dots(own, colour, tips=tips, size=2.8))
        shapes.append(Dots(start[:1], colour, symbol="ring", tips=[f"untrained: {number(v)}" for _, v in start[:1]]))
        best = run.best_step
        at = [(x, v) for x, v in points if best and abs(x * factor - best) < 0.5]
        shapes.append(
            Dots(at[:1], colour, symbol="star", size=4.5, tips=[f"best model: {number(v)}" for _, v in at[:1]])
        )
        if len(runs) == 1:
            test = (run.result.get("test_metrics") or {}).get(key)
            texts = [
                f"{word} {number(v)}"
                for word, v in (
                    ("untrained (ring)", start[0][1] if start else None),
                    ("best model (star)", at[0][1] if at else None),
                    ("test", test),
                )
                if v is not None
            ]
    values = [v for shape in shapes if isinstance(shape, (Line, Dots)) for _, v in shape.points if math.isfinite(v)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    scale = Scale()
    if trained and max(trained) > min(trained) and high - low > 4 * (max(trained) - min(trained)):
        # the untrained model would press all the others together
        margin = 0.08 * (max(trained) - min(trained))
        scale = Scale(low=min(trained) - margin, high=max(trained) + margin)
        texts.append("The untrained model lies outside.")
    drawing = chart(
        shapes,
        _from_start(shapes, unit),
        scale,
        name=f"metric-{key.replace('/', '-')}",
        description=f"{key} of the validation split over {unit}.",
    )
    return figure(f"{key}, validation", drawing, shapes, "; ".join(texts))


def _from_start(shapes: Sequence[Shape], unit: str) -> Scale:
    """Return an axis that begins a little before 0, so that a mark there is whole."""
    ends = [x for shape in shapes if isinstance(shape, (Line, Dots)) for x, _ in shape.points]
    return Scale(unit, low=-0.025 * max(ends, default=1.0))


def _time(run: RunData) -> str:
    seconds = (run.result.get("details") or {}).get("seconds") or {}
    whole = seconds.get("run", seconds.get("total"))
    if not whole:
        return ""
    parts = [(name, float(seconds.get(key) or 0.0)) for key, name in _PURPOSES.items()]
    rest = whole - sum(value for _, value in parts)
    parts.append(("start, test split, export and the rest", max(rest, 0.0)))
    bar = "".join(
        f'<i style="width:{100 * value / whole:.2f}%;background:var(--{colour})" title="{html.escape(name)}"></i>'
        for (name, value), colour in zip(parts, COLOURS, strict=False)
    )
    rows = [
        [
            Cell(f'<span class="dot" style="background:var(--{colour})"></span>{html.escape(name)}'),
            duration(value),
            f"{value / whole:.1%}",
        ]
        for (name, value), colour in zip(parts, COLOURS, strict=False)
    ]
    return f'<h2>Where the time went</h2><div class="parts" aria-hidden="true">{bar}</div>' + table(
        f"{duration(whole)} since the last start", ["what", "time", "of all"], rows
    )


def _movement(evidence: Evidence) -> str:
    moved = evidence.movement or {}
    if not moved.get("tables"):
        return ""
    tables = sorted(moved["tables"], key=lambda row: -row["mean"])
    names = [row["feature"] for row in tables]
    rows = [
        [
            row["table"] if names.count(row["feature"]) > 1 else row["feature"],
            row["rows"],
            row["before"],
            row["now"],
            row["mean"],
            row["largest"],
            f"{row['still']:.1%}",
        ]
        for row in tables[:40]
    ]
    heads = ["table", "rows", "mean length before", "now", "mean distance", "largest", "rows that did not move"]
    few = any(row["sample"] < row["rows"] for row in tables)
    caption = "How far rows of embedding tables moved in training (Euclidean), farthest first" + (
        "; of at most 4,096 rows a table, evenly spread" if few else ""
    )
    far = table(
        "The rows that moved farthest",
        ["table", "id", "distance"],
        [[row["feature"], f"{row['id']}", row["distance"]] for row in moved["farthest"]],
    )
    return "<h2>Embeddings</h2>" + table(caption, heads, rows) + folded("The rows that moved farthest", far)


def _data(run: RunData) -> str:
    splits = run.statistics.get("splits") or {}
    features = run.schema.get("features") or []
    if not splits:
        if not features:
            return ""
        rows = [[f.get("name"), f.get("kind"), f.get("vocab_size")] for f in features if isinstance(f, dict)]
        return "<h2>Data</h2>" + folded(f"{len(rows)} features", table("Features", ["feature", "kind", "ids"], rows))
    labels = list(next(iter(splits.values())).get("labels") or {})
    overview = [
        [name, own["rows"], *(own["labels"][label].get("mean") for label in labels)] for name, own in splits.items()
    ]
    parts = [table("Splits", ["split", "rows", *(f"mean {label}" for label in labels)], overview)]
    if run.statistics.get("bad_rows"):
        parts.append(note(f"{run.statistics['bad_rows']:,} bad rows were set aside by prepare."))
    parts += [note(str(text)) for text in run.statistics.get("notes") or []]
    if "items" in run.statistics:
        parts.append(f"<p>{run.statistics['items']['rows']:,} items.</p>")
    if "train" in splits:
        own = splits["train"]["features"]
        parts.append(folded(f"{len(own)} features", _features(own, splits)))
    return f"<h2>Data</h2>{''.join(parts)}"


def _features(own: Mapping[str, Any], splits: Mapping[str, Any]) -> str:
    others = [split for split in splits if split not in ("train", "windows")]
    total = max(splits["train"]["rows"], 1)
    rows = []
    for name, column in own.items():
        ends = column.get("length", column)
        unseen = []
        for split in others:
            there = splits[split]["features"].get(name, {})
            of = there.get("values", splits[split]["rows"])
            unseen.append(f"{there['unseen'] / of:.2%}" if "unseen" in there and of else None)
        rows.append(
            [
                name,
                column["kind"],
                column.get("vocab_size"),
                f"{column['nulls'] / total:.2%}",
                *(ends.get(key) for key in ("min", "mean", "max")),
                *unseen,
            ]
        )
    heads = ["feature", "kind", "ids", "missing", "min", "mean", "max", *(f"unseen in {split}" for split in others)]
    return table("Features of the training split; of sequences the lengths", heads, rows)


def settings(config: RunConfig) -> str:
    """Return the part on a configuration: what is chosen, and the whole of it folded."""
    rows = [[path, label(value), "" if usual is ... else label(usual)] for path, value, usual in _short_lists(config)]
    whole = f"<pre><code>{html.escape(config_module.dump(config))}</code></pre>"
    return (
        "<h2>Configuration</h2>"
        + table("What differs from the defaults", ["key", "value", "default"], rows)
        + folded("The whole configuration", whole)
    )


def _short_lists(config: RunConfig) -> Iterator[tuple[str, Any, Any]]:
    """Yield the settings; those of several metrics of one name for several labels as one."""
    for path, value, usual in chosen(config):
        if not path.startswith("metrics."):
            yield path, value, usual
    names = [
        f"{node['label']}/{node['name']}" if node.get("label") else str(node["name"]) for node in config.metrics or []
    ]
    if names:
        yield "metrics", ", ".join(names), ...


def environment(evidence: Evidence) -> str:
    """Return the part on what it ran on."""
    if not evidence.environment:
        return ""
    return "<h2>Environment</h2>" + table(
        "As the first process had it", ["what", "which"], list(evidence.environment.items())
    )
