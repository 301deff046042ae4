"""What each entry of `rechub_ray/cpu/` gives: the same training with all of them and without one, side by side.

Usage: python -m benchmarks cpu, or python -m benchmarks.cpu ENTRY: rows a second with and without one entry, in one
process whose steps take turns.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.process import run_process
from benchmarks.settings import Settings
from benchmarks.step import batches, learner_of, schema_of
from benchmarks.workload import BATCH, IDS, ROWS, config, criteo_like, middle, run_training
from rechub_ray.cpu import ENTRIES, SWITCH, is_on

BOUND = 0.05
ROUNDS, STEPS = 12, 8
THREADS = dict.fromkeys(ENTRIES, 2) | {"products": 1}  # with more threads the products of both libraries are as fast


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second with all entries and without each, `repeats` times."""
    data = criteo_like(settings, rows=settings.pick(ROWS, 40 * BATCH))
    speeds: dict[str, dict[str, list[float]]] = {}
    for number in range(settings.repeats):
        print(f"  round {number + 1} of {settings.repeats}", file=sys.stderr, flush=True)
        for name in ENTRIES:
            if name == "exchange":
                found = {"with": _on_workers(settings, data, ""), "without": _on_workers(settings, data, name)}
            elif name == "freed_memory":  # of a whole process
                found = {"with": _in_memory(settings, "", ""), "without": _in_memory(settings, "", name)}
            else:
                found = _steps(settings, name, "")
            for side, speed in found.items():
                speeds.setdefault(name, {}).setdefault(side, []).append(speed)
            print(
                f"    {name}: {found['with']:,.0f} with, {found['without']:,.0f} without", file=sys.stderr, flush=True
            )
    return {name: {side: middle(values) for side, values in found.items()} for name, found in speeds.items()}


def _on_workers(settings: Settings, data: Path, off: str) -> float:
    """Return rows a second of a run on two Ray workers."""
    lengths = {"train__epochs": settings.pick(2, 1), "train__log_every_steps": settings.pick(32, 10)}
    before = os.environ.get(SWITCH, "")
    os.environ[SWITCH] = off
    try:
        return run_training(settings, "cpu", config(data, workers=2, threads=1, **lengths)).steady
    finally:
        os.environ[SWITCH] = before


def _in_memory(settings: Settings, entry: str, off: str) -> float:
    return statistics.median(_steps(settings, entry, off)["with"] for _ in range(settings.pick(3, 1)))


def _steps(settings: Settings, entry: str, off: str) -> dict[str, float]:
    """Return what `python -m benchmarks.cpu` prints."""
    log, before = settings.work / "cpu.txt", os.environ.get(SWITCH, "")
    os.environ[SWITCH] = off
    try:
        command = [sys.executable, "-m", "benchmarks.cpu", entry, str(settings.pick(ROUNDS, 2))]
        run_process(command, log=log)
    finally:
        os.environ[SWITCH] = before
    found: dict[str, float] = json.loads(log.read_text().splitlines()[-1])
    log.unlink()
    return found


def main() -> None:
    entry, rounds = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(THREADS.get(entry, 2))
    torch.manual_seed(0)
    schema = schema_of(IDS)
    learner, data = learner_of(schema, batch_norm=True), batches(schema, BATCH, "criteo")
    off = os.environ.get(SWITCH, "")
    sides = {"with": off, "without": entry} if entry else {"with": off}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    step = 0
    for number in range(rounds):
        for side in sorted(sides, reverse=number % 2 == 1):
            os.environ[SWITCH] = sides[side]
            is_on.cache_clear()
            for i in range(3 + STEPS):
                began = time.perf_counter()
                learner.train_step(data[step % len(data)], step=step)
                if number and i >= 3:  # the first ones fill the caches
                    seconds[side].append(time.perf_counter() - began)
                step += 1
    print(json.dumps({side: BATCH / statistics.median(values) for side, values in seconds.items()}))


def table(result: dict[str, Any]) -> str:
    lines = [
        "DeepFM in float32: steps in memory; `exchange` by a run on two Ray workers of a thread each. The gain is the "
        f"median of each round's own; under {BOUND:.0%} an entry has to go.",
        "",
        "| entry | threads | with, rows/s, median (range) | without | gain | done without it |",
        "|---" * 6 + "|",
    ]
    for name, sides in result.items():
        on, off = sides["with"], sides["without"]
        gain = statistics.median(a / b for a, b in zip(on["values"], off["values"], strict=True)) - 1
        cells = [f"{s['median']:,.0f} ({s['low']:,.0f} - {s['high']:,.0f})" for s in (on, off)]
        lines.append(f"| {name} | {THREADS[name]} | {cells[0]} | {cells[1]} | {gain:+.1%} | {ENTRIES.get(name, '')} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
