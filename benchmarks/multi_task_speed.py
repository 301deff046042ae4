"""MMoE on Census-Income: rows a second of torch-rechub's trainer and of ours, and what balancing costs."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.compare import OTHER, OWN, READY, answer, missing_torch_rechub, note, ratio
from benchmarks.multi_task import BALANCING, BATCH, config, prepared
from benchmarks.settings import Settings
from benchmarks.workload import middle, run_training

THREADS, EPOCHS, STEPS = 2, 6, 190
AIMS = {OWN: 5.0, READY: 1.5}
COST = 1.6


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second of every side, all sides in turn, `repeats` times; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with census-income/census-income.data.gz"}
    skipped = missing_torch_rechub()
    speeds: dict[str, list[float]] = {}
    for number in range(settings.repeats):
        print(f"  round {number + 1} of {settings.repeats}", file=sys.stderr, flush=True)
        for loader, name in (("ready", READY), ("own", OWN)) if skipped is None else ():
            command = ["torch_rechub_multi_task", str(data), "MMOE", "--loader", loader, "--threads", str(THREADS)]
            command += ["--steps", str(settings.pick(STEPS, 20)), "--warm-up", str(settings.pick(10, 2))]
            note(speeds, name, answer(settings, command)["rows_per_second"])
        for balancing in BALANCING:
            given = config(data, "MMoE", balancing, threads=THREADS, epochs=settings.pick(EPOCHS, 1))
            given["data"] |= {"valid": None, "test": None}
            given["train"]["log_every_steps"] = 50
            note(speeds, _ours(balancing), run_training(settings, "multi_task_speed", given).steady)
    return {"speeds": {name: middle(values) for name, values in speeds.items()}, "skipped": skipped}


def _ours(balancing: str) -> str:
    return f"ours, in process, {THREADS} threads, {balancing}"


def table(result: dict[str, Any]) -> str:
    if "speeds" not in result:
        return f"Left out: {result['skipped']}."
    speeds = result["speeds"]
    fixed = speeds[_ours("fixed")]
    lines = [
        f"| | rows/s, median (range) | x {OWN} (aim {AIMS[OWN]:g}) | x {READY} (aim {AIMS[READY]:g}) "
        f"| time of a step, x that with fixed weights (aim under {COST:g}) |",
        "|---" * 5 + "|",
    ]
    for name, speed in speeds.items():
        cells = [name, f"{speed['median']:,.0f} ({speed['low']:,.0f} - {speed['high']:,.0f})"]
        cells += [f"{ratio(speed, speeds[other]):.1f}" if other in speeds else "" for other in AIMS]
        cells.append("" if name in AIMS else f"{ratio(fixed, speed):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    head = (
        f"MMoE of `python -m benchmarks multi_task`, {BATCH:,} rows a step, two tasks, {THREADS} threads a side. "
        "Ratios are medians of each round's own."
    )
    skipped = f"\n\ntorch-rechub {OTHER} was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped
