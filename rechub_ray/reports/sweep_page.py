"""The page on a sweep."""

from __future__ import annotations

import html
import json
import math
import re
import statistics
import time
from collections import Counter
from typing import Any

from rechub_ray.reports import sweep_figures
from rechub_ray.reports.importance import FEWEST_TRIALS, LEAST_R2, SURE_TRIALS, Importance
from rechub_ray.reports.kit import Cell, duration, facts, figures, label, note, number, page, table
from rechub_ray.reports.parallel import parallel
from rechub_ray.reports.read import SweepData, TrialData

_WORDS = {"stopped_early": "stopped early"}
_MOST_METRICS = 6  # columns of a trial's metrics beside the objectives


def sweep_page(data: SweepData, shares: Importance | None, *, refresh: int | None = None) -> str:
    """Return the page on a sweep.

    Args:
        data: the sweep.
        shares: the importance of its hyperparameters, where it was estimated.
        refresh: of a sweep that runs: seconds after which a browser loads the page again.
    """
    coordinates, script = parallel(data)
    important = sweep_figures.importances(data, shares) if shares is not None else ""
    slices = sweep_figures.slices(data)
    content: dict[str, Any] = {"trials": {str(t.number): _tip(data, t) for t in data.trials}}
    if script is not None:
        content["parallel"] = script
    exploits = _exploits(data)
    sections = [
        _facts(data),
        _winner(data),
        _front(data),
        _titled(
            "Learning curves",
            figures([*sweep_figures.curves(data), sweep_figures.history(data), sweep_figures.pareto(data)]),
        ),
        _models(data),
        _rungs(data),
        _trials(data),
        _titled(
            "Hyperparameters",
            (figures([important]) + _limits(data, shares) if data.parameters and data.ranked() else "")
            + figures([*sweep_figures.pairs(data, shares), coordinates]),
        ),
        _titled(
            f"{data.metrics[0]} against each hyperparameter",
            figures(slices)
            + (
                f"<p>The first {sweep_figures.MOST_SLICES} of {len(data.parameters)}.</p>"
                if len(data.parameters) > sweep_figures.MOST_SLICES
                else ""
            ),
        ),
        _titled(
            "Exploits",
            exploits
            and "<p>The hyperparameters of each trial over its training. A dot is where it went on from a copy of "
            "another trial, a ring the value of the copied one.</p>"
            + figures(sweep_figures.exploits(data))
            + exploits,
        ),
        _titled("Time", figures([sweep_figures.time(data)]) + _resources(data)),
        _failures(data),
    ]
    footer = (
        "Point at a trial to see it in all figures; click to keep it, Escape to let it go. Settings of the sweep: "
        "sweep.yaml; its trials: trials.jsonl, beside this file."
    )
    return page(data.name, "sweep report", _subtitle(data), sections, footer=footer, data=content, refresh=refresh)


def _titled(title: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{content}" if content else ""


def _tip(data: SweepData, trial: TrialData) -> str:
    lines = [f"{trial.name}: {_WORDS.get(trial.status, trial.status)}", f"{data.metrics[0]} {number(trial.score)}"]
    lines += [f"{p.path} = {label(trial.params[p.path])}" for p in data.parameters if p.path in trial.params]
    return "\n".join(lines + ([trial.reason[:200]] if trial.reason else []))


def _subtitle(data: SweepData) -> str:
    search, scheduler = (
        node.get("name") if isinstance(node := data.sweep.get(key) or data.info.get(key), dict) else node
        for key in ("search", "scheduler")
    )
    goals = ", ".join(f"{metric} ({mode})" for metric, mode in zip(data.metrics, data.modes, strict=True))
    because = data.info.get("ended_because")
    state = f" It ended because {because}." if because else ""
    if not data.info.get("finished", True):
        state = " The sweep has not ended yet."
    return f"{len(data.trials)} trials, compared by {goals}; search: {search}, scheduler: {scheduler}.{state}"


def _facts(data: SweepData) -> str:
    counts = Counter(trial.status for trial in data.trials)
    ranked = data.ranked()
    items = [
        ("Best " + data.metrics[0], number(ranked[0].score) if ranked else "none", ranked[0].name if ranked else "")
    ]
    test = (ranked[0].record.get("test_metrics") or {}) if ranked else {}
    if data.metrics[0] in test:
        items.append(("Its test " + data.metrics[0], number(test[data.metrics[0]]), ""))
    refit = data.info.get("refit") or {}
    if data.metrics[0] in refit.get("test_metrics", {}):
        value = number(refit["test_metrics"][data.metrics[0]])
        items.append((f"Test {data.metrics[0]} of the refit", value, refit["trial_id"]))
    if len(data.metrics) > 1:
        items.append(("On the front", f"{len(data.front())}", f"of {len(data.trials)} trials"))
    items += [(_WORDS.get(s, s).capitalize(), f"{counts[s]}", f"of {len(data.trials)} trials") for s in counts]
    items.append(("Wall time", duration(_wall(data)), ""))
    share = _training_share(data)
    if share is not None:
        items.append(("Training", f"{share:.0%}", "of wall time × concurrent trials"))
    return facts(items)


def _wall(data: SweepData) -> Any:
    """Return the seconds that the sweep has taken; of one that runs, those since its first trial began."""
    if data.info.get("finished", True) or not data.trials:
        return data.info.get("wall_seconds")
    starts = [start for t in data.trials if (start := sweep_figures.seconds(t.record.get("started"))) is not None]
    return max(time.time() - min(starts), 0.0) if starts else None


def _winner(data: SweepData) -> str:
    ranked = data.ranked()
    if not ranked:
        return note("No trial has a score.")
    # exact, to be copied as overrides; a text is its own YAML
    pairs = [
        f"{path}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for path, value in ranked[0].params.items()
    ]
    by = f" by {data.metrics[0]}, the first objective" if len(data.metrics) > 1 else ""
    title = html.escape(f"Best trial{by}: {ranked[0].name}")
    changed = ""
    if ranked[0].record.get("exploits"):
        changed = "<p>The values at its best score; they changed during training, see Exploits.</p>"
    return f"<h2>{title}</h2><pre><code>{html.escape(chr(10).join(pairs))}</code></pre>{changed}"


def _trials(data: SweepData) -> str:
    ranked = data.ranked()
    others = [trial for trial in data.trials if trial.score is None]
    more = [name for name in data.shown if name not in data.metrics][:_MOST_METRICS]
    tested = list(
        dict.fromkeys(
            key for t in ranked for key in t.record.get("test_metrics") or {} if key in (*data.metrics, *more)
        )
    )
    heads = [
        "rank",
        "trial",
        "status",
        *data.metrics,
        *more,
        *(f"test {key}" for key in tested),
        "epochs",
        "seconds",
        *(p.path for p in data.parameters),
        "reason",
    ]
    rows = []
    for rank, trial in enumerate([*ranked, *others], start=1):
        lasted = float(trial.record.get("seconds") or 0.0)
        status, found, test = (
            html.escape(trial.status),
            trial.record.get("metrics") or {},
            trial.record.get("test_metrics") or {},
        )
        rows.append(
            [
                rank if trial.score is not None else None,
                Cell(f'<button type="button" aria-pressed="false">{html.escape(trial.name)}</button>'),
                Cell(f'<span class="status {status}"></span>{_WORDS.get(status, status)}'),
                trial.score,
                *trial.values[1:],
                *(found.get(key) for key in more),
                *(test.get(key) for key in tested),
                trial.record.get("epochs"),
                Cell(f"{lasted:,.1f}", lasted, "number"),
                *(trial.params.get(p.path) for p in data.parameters),
                Cell(html.escape((trial.reason or "")[:300]), kind="text"),
            ]
        )
    if not rows:
        return ""
    constants = "; ".join(f"{path} = {value}" for path, value in data.constants.items())
    same = f"<p>The same in all trials: {html.escape(constants)}.</p>" if constants else ""
    whole = table(
        "Best first; a heading sorts by its column, a trial's name shows it in all figures.",
        heads,
        rows,
        name="trials",
        marks=[trial.number for trial in [*ranked, *others]],
    )
    return (
        '<h2>Trials</h2><div class="controls"><label>Search <input id="search" type="search"></label>'
        f'<button type="button" id="more" hidden></button></div>{whole}{same}'
    )


def _limits(data: SweepData, shares: Importance | None) -> str:
    """Return the note on the limits of the importances."""
    if shares is None:
        scored = len(data.ranked())
        why = "the sweep still runs, scikit-learn is not installed, or all trials have the same score"
        if scored < FEWEST_TRIALS:
            why = f"it takes {FEWEST_TRIALS} trials with a score, and there {'is' if scored == 1 else 'are'} {scored}"
        return note(f"Importance is not estimated: {why}.")
    notes = [
        f"From {shares.trials} trials; on trials it has not seen the forest explains {max(shares.r2, 0):.0%} of the "
        "variation of the ranks. It says what mattered within the space that was searched and for trials as long as "
        "these were; a trial stopped early counts with the score it had reached. Hyperparameters that go together "
        "share their importance. With a search that learns, bad regions hold few trials."
    ]
    if shares.trials < SURE_TRIALS:
        notes.append(f"Take it as a hint only: fewer than {SURE_TRIALS} trials are few.")
    elif shares.r2 < LEAST_R2:
        notes.append("Take it as a hint only: the forest explains little.")
    if any(trial.record.get("exploits") for trial in data.trials):
        notes.append("Hyperparameters that changed during training count with the values they had at the best score.")
    return note(" ".join(notes))


def _front(data: SweepData) -> str:
    if len(data.metrics) < 2:
        return ""
    rows = [[t.name, *t.values, _settings(t.params)] for t in data.front()]
    return table("Trials on the Pareto front", ["trial", *data.metrics, "settings"], rows)


def _models(data: SweepData) -> str:
    """Return the best trial of each model, best first; nothing where all trials have one model."""
    mine: dict[str, list[TrialData]] = {}
    for trial in (*data.ranked(), *(t for t in data.trials if t.score is None)):  # best first, failed ones last
        if "model" in trial.params:
            mine.setdefault(label(trial.params["model"]), []).append(trial)
    if len(mine) < 2:
        return ""
    metric, rows = data.metrics[0], []
    for name, trials in mine.items():
        best, size = trials[0], trials[0].record.get("num_parameters")
        test = (best.record.get("test_metrics") or {}).get(metric)
        epochs = " ".join(f"{float(t.record.get('epochs') or 0):g}" for t in trials)
        seconds = duration(sum(float(t.record.get("train_seconds") or 0) for t in trials))
        rows.append([name, best.score, test, best.name, f"{size:,}" if size else "", epochs, seconds])
    heads = [
        "model",
        metric,
        f"test {metric}",
        "its best trial",
        "parameters",
        "epochs of its trials",
        "their training",
    ]
    hint = (
        "<p>A model whose trials were stopped early may have been slow at first: equally many epochs of each "
        "(scheduler=fifo) compare what they come to.</p>"
    )
    note = hint if data.info.get("rungs") else ""
    return _titled("Best of each model", table("By the best trial of each", heads, rows) + note)


def _rungs(data: SweepData) -> str:
    """Return for each rung how many trials came to it, their scores there, and how many ended there; and why."""
    stopped = [t for t in data.trials if t.status == "stopped_early"]
    rows = []
    better, worse = (max, min) if data.modes[0] == "max" else (min, max)
    rungs = data.info.get("rungs") or []
    for place, rung in enumerate(rungs, start=1):
        there = [t for t in data.trials if float(t.record.get("epochs") or 0) >= rung]
        if not there:
            continue
        curves = [t.curves.get(data.metrics[0], ()) for t in there] if data.unit == "epochs" else []
        scores = [better(v for x, v in curve if x <= rung) for curve in curves if any(x <= rung for x, _ in curve)]
        ended = sum(t.record.get("rung") == place for t in stopped)
        row = [better(scores), statistics.median(scores), worse(scores)] if scores else [None] * 3
        rows.append([f"{rung:g}", len(there), *row, ended])
    counts = Counter((t.record.get("rung"), re.sub(r" with .*", "", t.reason or "")) for t in stopped)
    why = [
        ["" if rung is None else f"{rung:g}", reason, f"{count}"]
        for (rung, reason), count in sorted(counts.items(), key=lambda item: (item[0][0] or 0, item[0][1]))
    ]
    metric = data.metrics[0]
    heads = ["epochs", "trials that came here", f"best {metric}", f"median {metric}", f"worst {metric}", "stopped here"]
    parts = table("Trials at each rung, by their best score until then", heads, rows) if rows else ""
    parts += table("Trials stopped at each rung", ["rung", "reason", "trials"], why) if why and not rungs else ""
    return _titled("Rungs and early stops", parts)


def _exploits(data: SweepData) -> str:
    found = [(t, e) for t in data.trials for e in t.record.get("exploits") or []]
    if not found:
        return ""
    found.sort(key=lambda item: item[1]["at_step"])
    paths = list(dict.fromkeys(path for _, e in found for path in e["new"]))
    rows = [
        [
            f"{e['at_step']}",
            t.name,
            e["score"],
            e["from_trial"],
            e["donor_score"],
            *(_change(e, path) for path in paths),
        ]
        for t, e in found
    ]
    metric = data.metrics[0]
    caption = f"{len(rows)} times a trial went on from a copy of another one, its donor; values are before → after"
    return table(caption, ["at step", "trial", f"its {metric}", "copied from", f"its {metric}", *paths], rows)


def _change(exploit: dict[str, Any], path: str) -> str:
    if path not in exploit["new"]:
        return "unchanged"
    values = (exploit[which].get(path) for which in ("old", "new", "donor"))
    old, new, donor = (f"{v:.3g}" if isinstance(v, float) else label(v) for v in values)
    return f"{old} → {new} (donor {donor})"


def _failures(data: SweepData) -> str:
    rows = [[t.name, t.reason or "unknown", _settings(t.params)] for t in data.trials if t.status == "failed"]
    return "<h2>Failed trials</h2>" + table("Why trials failed", ["trial", "reason", "settings"], rows) if rows else ""


def _resources(data: SweepData) -> str:
    records = [trial.record for trial in data.trials]
    busy, training, rows, steps, epochs = (
        math.fsum(float(r.get(key) or 0) for r in records)
        for key in ("seconds", "train_seconds", "rows", "steps", "epochs")
    )
    share = _training_share(data)
    items = [
        ["wall time", duration(_wall(data))],
        ["trials at the same time", str(data.info.get("concurrency", "unknown"))],
        ["time of all trials together", duration(busy)],
        ["of which training steps", duration(training)],
        ["training, of wall time × concurrent trials", "unknown" if share is None else f"{share:.1%}"],
        ["rows trained", f"{rows:,.0f}"],
        ["optimizer steps", f"{steps:,.0f}"],
        ["epochs", f"{epochs:,.1f}"],
    ]
    return table("Resources", ["what", "amount"], items)


def _training_share(data: SweepData) -> float | None:
    room = float(data.info.get("wall_seconds") or 0) * float(data.info.get("concurrency") or 0)
    if not room:
        return None
    return math.fsum(float(t.record.get("train_seconds") or 0) for t in data.trials) / room


def _settings(params: dict[str, Any]) -> str:
    return "; ".join(f"{path} = {label(value)}" for path, value in params.items())
