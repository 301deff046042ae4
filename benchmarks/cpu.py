"""What each entry of `rechub_ray/cpu/` gives: the same training with all of them and without one, side by side."""

from __future__ import annotations

import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

from benchmarks.process import run_process
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, ROWS, config, criteo_like, middle, run_training
from rechub_ray.cpu import ENTRIES, SWITCH

BOUND = 0.05


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second without each entry, each beside a run with all: they take turns, `repeats` times."""
    data = criteo_like(settings, rows=settings.pick(ROWS, 40 * BATCH))
    sides = {entry: {SWITCH: entry} for entry in ENTRIES}
    speeds: dict[str, dict[str, list[float]]] = {}
    for number in range(settings.repeats):
        print(f"  round {number + 1} of {settings.repeats}", file=sys.stderr, flush=True)
        for name, changes in sides.items():
            with_, without = (_speed(settings, data, name, c) for c in _turns(number, changes))
            if number % 2:
                with_, without = without, with_
            found = speeds.setdefault(name, {"with": [], "without": []})
            found["with"].append(with_)
            found["without"].append(without)
            print(f"    {name}: {with_:,.0f} with, {without:,.0f} without", file=sys.stderr, flush=True)
    return {name: {side: middle(values) for side, values in found.items()} for name, found in speeds.items()}


def _turns(number: int, changes: dict[str, str]) -> list[dict[str, str]]:
    """The side that comes first changes from round to round."""
    return [changes, {}] if number % 2 else [{}, changes]


def _speed(settings: Settings, data: Path, name: str, changes: dict[str, str]) -> float:
    """Return rows a second: of steps in memory with two threads, or on two Ray workers for what they exchange."""
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        if name == "exchange":
            lengths = {"train__epochs": settings.pick(2, 1), "train__log_every_steps": settings.pick(32, 10)}
            return run_training(settings, "cpu", config(data, workers=2, threads=1, **lengths)).steady
        found, log = settings.work / "step.json", settings.work / "step.txt"
        command = ["--threads", "2", "--ids", "criteo", "--batch-norm", "--steps", str(settings.pick(60, 5))]
        run_process([sys.executable, "-m", "benchmarks.step", *command, "--json", str(found)], log=log)
        (result,) = json.loads(found.read_text())["results"]
        return float(BATCH / result["sides"]["ours"]["wall_median"] * 1e3)
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def table(result: dict[str, Any]) -> str:
    lines = [
        "DeepFM in float32: steps in memory with two threads; `exchange` by a run on two Ray workers. The gain is the "
        f"median of each round's own; under {BOUND:.0%} an entry has to go.",
        "",
        "| entry | with, rows/s, median (range) | without | gain | done without it |",
        "|---|---|---|---|---|",
    ]
    for name, sides in result.items():
        on, off = sides["with"], sides["without"]
        gain = statistics.median(a / b for a, b in zip(on["values"], off["values"], strict=True)) - 1
        cells = [f"{s['median']:,.0f} ({s['low']:,.0f} - {s['high']:,.0f})" for s in (on, off)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {gain:+.1%} | {ENTRIES.get(name, '')} |")
    return "\n".join(lines)
