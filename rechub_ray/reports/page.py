"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import importlib.resources
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rechub_ray.reports.figures import PARALLEL_LOW, PARALLEL_PLACE, Figure, parallel_axes
from rechub_ray.reports.importance import FEWEST_TRIALS, LEAST_R2, SURE_TRIALS, Importance
from rechub_ray.reports.read import SweepData, TrialData, label

_WORDS = {"stopped_early": "stopped early"}
_PLACES = 4
# nothing is fetched, and nothing but the page's own script runs, whatever names a sweep holds
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def page(data: SweepData, figures: Sequence[Figure], shares: Importance | None) -> str:
    """Return the whole page."""
    name = html.escape(data.name)
    drawn = {figure.name: _figure(figure) for figure in figures}
    if "importance" in drawn or data.parameters:
        drawn["importance"] = drawn.get("importance", "<h2>Importance of hyperparameters</h2>") + _limits(data, shares)
    sections = [
        _facts(data),
        _winner(data),
        drawn.get("pareto", "") + _front(data),
        drawn.get("curves", ""),
        _trials(data),
        drawn.get("history", ""),
        drawn.get("parallel", ""),
        drawn.get("importance", ""),
        drawn.get("slices", ""),
        drawn.get("time", "") + _resources(data),
        _stops(data),
        drawn.get("exploits", "<h2>Exploits</h2>") + _exploits(data) if _exploits(data) else "",
        _failures(data),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{name}: sweep report</title>
<style>{_asset("page.css")}</style>
</head>
<body>
<header><h1>{name}</h1><p>{html.escape(_subtitle(data))}</p></header>
<main>
{"".join(f"<section>{section}</section>{chr(10)}" for section in sections if section)}</main>
<footer>Point at a trial to see it in all figures; click to keep it, Escape to let it go. Settings of the sweep:
sweep.yaml; its trials: trials.jsonl, beside this file.</footer>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">{_embedded(data, figures)}</script>
<script>{_asset("page.js")}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _embedded(data: SweepData, figures: Sequence[Figure]) -> str:
    """Return the script's data as JSON that cannot close the element around it."""
    content: dict[str, Any] = {"trials": {str(t.number): _tip(data, t) for t in data.trials}}
    if any(figure.name == "parallel" for figure in figures):
        axes = parallel_axes(data)
        width, height = (
            float(x) for x in next(f for f in figures if f.name == "parallel").svg.split('"')[1].split()[2:]
        )
        left, bottom, wide, high = PARALLEL_PLACE
        content["parallel"] = {
            "x": [round(width * (left + wide * i / max(len(axes) - 1, 1)), 1) for i in range(len(axes))],
            "top": height * (1 - bottom - high),
            "bottom": height * (1 - bottom),
            "low": PARALLEL_LOW,
            "places": {n: [round(axis.places[n], 4) for axis in axes] for n in axes[0].places},
        }
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _tip(data: SweepData, trial: TrialData) -> str:
    lines = [f"{trial.name}: {_WORDS.get(trial.status, trial.status)}", f"{data.metrics[0]} {_number(trial.score)}"]
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
    facts = [
        ("Best " + data.metrics[0], _number(ranked[0].score) if ranked else "none", ranked[0].name if ranked else "")
    ]
    test = (ranked[0].record.get("test_metrics") or {}) if ranked else {}
    if data.metrics[0] in test:
        facts.append(("Its test " + data.metrics[0], _number(test[data.metrics[0]]), ""))
    refit = data.info.get("refit") or {}
    if data.metrics[0] in refit.get("test_metrics", {}):
        value = _number(refit["test_metrics"][data.metrics[0]])
        facts.append((f"Test {data.metrics[0]} of the refit", value, refit["trial_id"]))
    if len(data.metrics) > 1:
        facts.append(("On the front", f"{len(data.front())}", f"of {len(data.trials)} trials"))
    facts += [(_WORDS.get(s, s).capitalize(), f"{counts[s]}", f"of {len(data.trials)} trials") for s in counts]
    facts.append(("Wall time", _duration(data.info.get("wall_seconds")), ""))
    share = _training_share(data)
    if share is not None:
        facts.append(("Training", f"{share:.0%}", "of wall time × concurrent trials"))
    items = (
        f"<div><dt>{html.escape(a)}</dt><dd>{html.escape(b)}<small>{html.escape(c)}</small></dd></div>"
        for a, b, c in facts
    )
    return f'<dl class="facts">{"".join(items)}</dl>'


def _winner(data: SweepData) -> str:
    ranked = data.ranked()
    if not ranked:
        return '<p class="note">No trial has a score.</p>'
    # exact, to be copied as overrides; a text is its own YAML
    pairs = [
        f"{path}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for path, value in ranked[0].params.items()
    ]
    by = f" by {data.metrics[0]}, the first objective" if len(data.metrics) > 1 else ""
    title = html.escape(f"Best trial{by}: {ranked[0].name}")
    note = ""
    if ranked[0].record.get("exploits"):
        note = "<p>The values at its best score; they changed during training, see Exploits.</p>"
    return f"<h2>{title}</h2><pre><code>{html.escape(chr(10).join(pairs))}</code></pre>{note}"


def _trials(data: SweepData) -> str:
    ranked = data.ranked()
    others = [trial for trial in data.trials if trial.score is None]
    heads = [
        "rank",
        "trial",
        "status",
        *data.metrics,
        "epochs",
        "seconds",
        *(p.path for p in data.parameters),
        "reason",
    ]
    rows = []
    for rank, trial in enumerate([*ranked, *others], start=1):
        values, status = (trial.score, *trial.values[1:]), html.escape(trial.status)
        cells = [
            _cell(rank if trial.score is not None else None),
            f'<td><button type="button" aria-pressed="false">{html.escape(trial.name)}</button></td>',
            f'<td><span class="status {status}"></span>{_WORDS.get(status, status)}</td>',
            *(_cell(value) for value in values),
            _cell(trial.record.get("epochs")),
            _cell(trial.record.get("seconds")),
            *(_cell(trial.params[p.path]) if p.path in trial.params else _cell(None) for p in data.parameters),
            f'<td class="text">{html.escape((trial.reason or "")[:300])}</td>',
        ]
        rows.append(f'<tr data-t="{trial.number}">{"".join(cells)}</tr>')
    titles = "".join(f'<th scope="col"><button type="button">{html.escape(head)}</button></th>' for head in heads)
    constants = "; ".join(f"{path} = {value}" for path, value in data.constants.items())
    note = f"<p>The same in all trials: {html.escape(constants)}.</p>" if constants else ""
    return (
        '<h2>Trials</h2><div class="controls"><label>Search <input id="search" type="search"></label>'
        '<button type="button" id="more" hidden></button></div>'
        '<div class="scroll" tabindex="0" role="region" aria-label="Trials"><table id="trials">'
        "<caption>Best first; a heading sorts by its column, a trial's name shows it in all figures.</caption>"
        f"<thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>{note}"
    )


def _limits(data: SweepData, shares: Importance | None) -> str:
    """Return the note on the limits of the importances."""
    if shares is None:
        scored = len(data.ranked())
        why = "scikit-learn is not installed, or all trials have the same score"
        if scored < FEWEST_TRIALS:
            why = f"it takes {FEWEST_TRIALS} trials with a score, and there {'is' if scored == 1 else 'are'} {scored}"
        return f'<p class="note">Not estimated: {why}.</p>'
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
    return f'<p class="note">{" ".join(notes)}</p>'


def _front(data: SweepData) -> str:
    if len(data.metrics) < 2:
        return ""
    rows = [[t.name, *map(_number, t.values), _settings(t.params)] for t in data.front()]
    return _table("Trials on the Pareto front", ["trial", *data.metrics, "settings"], rows)


def _stops(data: SweepData) -> str:
    stopped = [t for t in data.trials if t.status == "stopped_early"]
    counts = Counter((t.record.get("rung"), t.reason or "") for t in stopped)
    rows = [
        ["" if rung is None else str(rung), reason, str(count)]
        for (rung, reason), count in sorted(counts.items(), key=lambda item: (item[0][0] or 0, item[0][1]))
    ]
    return (
        "<h2>Early stops</h2>" + _table("Trials stopped at each rung", ["rung", "reason", "trials"], rows)
        if rows
        else ""
    )


def _exploits(data: SweepData) -> str:
    found = [(t, e) for t in data.trials for e in t.record.get("exploits") or []]
    if not found:
        return ""
    found.sort(key=lambda item: item[1]["at_step"])
    paths = list(dict.fromkeys(path for _, e in found for path in e["new"]))
    rows = [
        [str(e["at_step"]), t.name, _number(e["score"]), e["from_trial"], _number(e["donor_score"])]
        + [_change(e, path) for path in paths]
        for t, e in found
    ]
    metric = data.metrics[0]
    caption = f"{len(rows)} times a trial went on from a copy of another one, its donor; values are before → after"
    return _table(caption, ["at step", "trial", f"its {metric}", "copied from", f"its {metric}", *paths], rows)


def _change(exploit: dict[str, Any], path: str) -> str:
    if path not in exploit["new"]:
        return "unchanged"
    values = (exploit[which].get(path) for which in ("old", "new", "donor"))
    old, new, donor = (f"{v:.3g}" if isinstance(v, float) else label(v) for v in values)
    return f"{old} → {new} (donor {donor})"


def _failures(data: SweepData) -> str:
    rows = [[t.name, t.reason or "unknown", _settings(t.params)] for t in data.trials if t.status == "failed"]
    return "<h2>Failed trials</h2>" + _table("Why trials failed", ["trial", "reason", "settings"], rows) if rows else ""


def _resources(data: SweepData) -> str:
    records = [trial.record for trial in data.trials]
    busy, training, rows, steps, epochs = (
        math.fsum(float(r.get(key) or 0) for r in records)
        for key in ("seconds", "train_seconds", "rows", "steps", "epochs")
    )
    share = _training_share(data)
    facts = [
        ["wall time", _duration(data.info.get("wall_seconds"))],
        ["trials at the same time", str(data.info.get("concurrency", "unknown"))],
        ["time of all trials together", _duration(busy)],
        ["of which training steps", _duration(training)],
        ["training, of wall time × concurrent trials", "unknown" if share is None else f"{share:.1%}"],
        ["rows trained", f"{rows:,.0f}"],
        ["optimizer steps", f"{steps:,.0f}"],
        ["epochs", f"{epochs:,.1f}"],
    ]
    return _table("Resources", ["what", "amount"], facts)


def _training_share(data: SweepData) -> float | None:
    room = float(data.info.get("wall_seconds") or 0) * float(data.info.get("concurrency") or 0)
    if not room:
        return None
    return math.fsum(float(t.record.get("train_seconds") or 0) for t in data.trials) / room


def _figure(figure: Figure) -> str:
    return (
        f'<h2>{html.escape(figure.title)}</h2><figure><div class="scroll" tabindex="0" role="region" '
        f'aria-label="{html.escape(figure.title)}">{figure.svg}</div>'
        f"<figcaption>{html.escape(figure.text)}</figcaption></figure>"
    )


def _table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f'<th scope="col">{html.escape(head)}</th>' for head in heads)
    lines = (
        "<tr>" + "".join(f"<td{' class=text' if len(x) > 40 else ''}>{html.escape(x)}</td>" for x in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{html.escape(caption)}"><table>'
        f"<caption>{html.escape(caption)}</caption><thead><tr>{titles}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if value is None:
        return '<td data-v=""></td>'
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class="number" data-v="{value}">{_number(value)}</td>'
    return f"<td>{html.escape(label(value))}</td>"


def _number(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return "none"
    if isinstance(value, int) or 1e4 <= abs(value) < 1e9 or (value.is_integer() and abs(value) < 1e9):
        return f"{value:,.0f}"
    return f"{value:.{_PLACES}f}" if 0.01 <= abs(value) < 1e4 else f"{value:.3g}"


def _settings(params: dict[str, Any]) -> str:
    return "; ".join(f"{path} = {label(value)}" for path, value in params.items())


def _duration(seconds: Any) -> str:
    if not isinstance(seconds, (int, float)):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
