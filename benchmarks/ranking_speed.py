"""Steps of every ranking model that torch-rechub has, too: its trainer and ours, on batches that are ready.

Every finished side is written into `ranking_speed.json` under `--work`: after an interruption the same command goes on.
"""

from __future__ import annotations

import functools
import statistics
from typing import Any

from benchmarks.cells import finished
from benchmarks.compare import OTHER, answer, missing_torch_rechub, ratio
from benchmarks.ranking_side import MODELS
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, IDS, middle

STEPS, WARM_UP = 8, 2
SIDES = {"theirs": "torch-rechub", "ours": "ours"}


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second of both sides of each model, one after the other, `repeats` times."""
    skipped = missing_torch_rechub()
    steps, warm_up = settings.pick(STEPS, 2), settings.pick(WARM_UP, 1)
    cells = {}
    for number in range(settings.repeats):
        for model in MODELS:
            for key, side in SIDES.items():
                command = ["ranking_side", side, model, "--steps", str(steps), "--warm-up", str(warm_up)]
                if key == "ours" or skipped is None:
                    cells[f"{model} {key} {number}"] = functools.partial(answer, settings, command)
    done = finished(settings.work / "ranking_speed.json", {"steps": [steps, warm_up]}, cells, at_once=1)
    speeds: dict[str, dict[str, list[float]]] = {}
    for name, found in done.items():
        model, key, _ = name.split()
        speeds.setdefault(model, {}).setdefault(key, []).append(found["rows_per_second"])
    middles = {model: {key: middle(values) for key, values in sides.items()} for model, sides in speeds.items()}
    return {"speeds": middles, "skipped": skipped}


def table(result: dict[str, Any]) -> str:
    lines = [f"| model | torch-rechub {OTHER}, rows/s | ours, rows/s | ours over theirs |", "|---" * 4 + "|"]
    ratios = {}
    for model, sides in result["speeds"].items():
        cells = [f"{sides[key]['median']:,.0f}" if key in sides else "" for key in SIDES]
        if "theirs" in sides:
            ratios[model] = ratio(sides["ours"], sides["theirs"])
        lines.append(f"| {model} | {' | '.join(cells)} | {f'{ratios[model]:.1f}' if model in ratios else ''} |")
    if ratios:
        lines.append(f"| median | | | {statistics.median(ratios.values()):.1f} |")
    head = (
        f"{IDS:,} ids, {BATCH:,} rows a step, one thread, CPU time, batches in memory and cut beforehand; the same "
        "call builds both models. AFM there attends to the sum of the pairs (every weight is 1), here to each of the "
        "325."
    )
    skipped = f"\n\ntorch-rechub was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped
