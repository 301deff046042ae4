"""Steps of every ranking model that torch-rechub has, too: its trainer and ours, on batches that are ready."""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

from benchmarks.compare import OTHER, answer, missing_torch_rechub, ratio
from benchmarks.ranking_side import MODELS
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, IDS, middle

THREADS, STEPS, WARM_UP = 2, 16, 4
SIDES = {"theirs": "torch-rechub", "ours": "ours"}


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second of both sides of each model, one after the other, `repeats` times."""
    skipped = missing_torch_rechub()
    speeds: dict[str, dict[str, list[float]]] = {}
    for _ in range(settings.repeats):
        for model in MODELS:
            for key, side in SIDES.items():
                if key == "theirs" and skipped is not None:
                    continue
                command = ["ranking_side", side, model, "--threads", str(THREADS)]
                command += ["--steps", str(settings.pick(STEPS, 2)), "--warm-up", str(settings.pick(WARM_UP, 1))]
                value = answer(settings, command)["rows_per_second"]
                speeds.setdefault(model, {}).setdefault(key, []).append(value)
                load = os.getloadavg()[0]
                print(f"  {model}, {key}: {value:,.0f} rows/s (load {load:.1f})", file=sys.stderr, flush=True)
    found = {model: {key: middle(values) for key, values in sides.items()} for model, sides in speeds.items()}
    return {"speeds": found, "skipped": skipped}


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
        f"{IDS:,} ids, {BATCH:,} rows a step, {THREADS} threads, batches in memory and cut beforehand; the same call "
        "builds both models."
    )
    skipped = f"\n\ntorch-rechub was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped
