"""DSSM on MovieLens 1M with the items of the step's other rows: rows a second of torch-rechub's trainer and of ours."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.compare import OTHER, READY, answer, missing_torch_rechub, note, ratio
from benchmarks.matching import DATA, prepared
from benchmarks.settings import Settings
from benchmarks.workload import middle, run_training

BATCH, DIM, UNITS, TEMPERATURE = 4096, 32, (256, 128), 0.05
THREADS = 2
AIM = 20.0
OWN = f"torch-rechub {OTHER}, its own MatchDataGenerator"
OURS = f"ours, in process, {THREADS} threads"
DISTINCT = 1640  # items of a step, of 4,096 rows in a random order
LIMIT = "the layers and products alone, of a step's distinct items"


def config(root: str, *, epochs: int) -> dict[str, Any]:
    """Our run, on the columns and with the widths of the other side."""
    units = {"user_units": list(UNITS), "item_units": list(UNITS), "vector_dim": UNITS[-1] // 2}
    return {
        "name": "matching_speed",
        "data": {
            "root": root,
            "batch_size": BATCH,
            "valid": None,
            "test": None,
            "features": ["user", "item", "history"],
        },
        "model": {"name": "dssm", "embedding_dim": DIM, **units, "batch_norm": True},
        "negatives": ["in_batch"],
        "losses": [{"name": "sampled_softmax", "temperature": TEMPERATURE}],
        "optimizers": [{"name": "adam", "lr": 1e-3, "weight_decay": 1e-5}],
        "train": {"epochs": epochs, "threads": THREADS, "log_every_steps": 20},
        "trackers": ["jsonl"],
        "scaling": {"num_workers": 0},
        "export": {"onnx": False},
    }


def run(settings: Settings) -> dict[str, Any]:
    """Rows a second of every side, all sides in turn, `repeats` times; nothing where the data is not there."""
    root = prepared(settings, DATA["MovieLens 1M"])
    if root is None:
        return {"skipped": "set RECHUB_DATA to a folder with ml-1m"}
    skipped = missing_torch_rechub()
    speeds: dict[str, list[float]] = {}
    for number in range(settings.repeats):
        print(f"  round {number + 1} of {settings.repeats}", file=sys.stderr, flush=True)
        for loader, name in (("ready", READY), ("own", OWN)) if skipped is None else ():
            command = ["torch_rechub_matching", str(root), "--loader", loader, "--threads", str(THREADS)]
            command += ["--steps", str(settings.pick(25, 4)), "--warm-up", str(settings.pick(5, 1))]
            note(speeds, name, answer(settings, command)["rows_per_second"])
        note(speeds, OURS, run_training(settings, "matching_speed", config(str(root), epochs=1)).steady)
        command = ["matching_limit", "--threads", str(THREADS), "--items", str(DISTINCT)]
        note(speeds, LIMIT, answer(settings, command)["rows_per_second"])
    return {"speeds": {name: middle(values) for name, values in speeds.items()}, "skipped": skipped}


def table(result: dict[str, Any]) -> str:
    if "speeds" not in result:
        return f"Left out: {result['skipped']}."
    speeds = result["speeds"]
    lines = [
        f"| | rows/s, median (range) | ms a step | x {OWN} (aim {AIM:g}) | x {READY} |",
        "|---" * 5 + "|",
    ]
    for name, speed in speeds.items():
        cells = [name, f"{speed['median']:,.0f} ({speed['low']:,.0f} - {speed['high']:,.0f})"]
        cells.append(f"{1000 * BATCH / speed['median']:,.0f}")
        cells += [f"{ratio(speed, speeds[other]):.1f}" if other in speeds else "" for other in (OWN, READY)]
        lines.append(f"| {' | '.join(cells)} |")
    head = (
        f"DSSM on MovieLens 1M: user, 50 items of history, item, genres; {BATCH:,} rows a step, each compared with the "
        f"items of all others; {THREADS} threads a side, float32. Ratios are medians of each round's own."
    )
    skipped = f"\n\ntorch-rechub {OTHER} was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped
