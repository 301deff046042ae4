"""torch-rechub's DSSM and YoutubeDNN on MovieLens 1M as its examples train and test them, and ours in the same script.

Every finished run is written into `matching_protocol.json` under `--work`: after an interruption the same command goes
on.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

from benchmarks import torch_rechub_protocol
from benchmarks.cells import finished, mean_and_spread
from benchmarks.compare import OTHER, answer, missing_torch_rechub
from benchmarks.settings import ROOT, Settings

USERS, EPOCHS = 1000, 5
SEEDS = (2026, 2027, 2028)
MODELS = ("DSSM", "YoutubeDNN")
# name in the table: arguments of the script
SIDES = {
    f"torch-rechub {OTHER}": ["theirs"],
    "ours, the same script": ["ours"],
    "ours, `in_batch_neg=True`": ["ours", "--in-batch"],
}
COLUMNS = ("hit@10", "hit@100", "seconds")


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet; nothing where the data is not there."""
    folder = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data")) / "ml-1m"
    if not (folder / "ratings.csv.gz").exists():
        return {"skipped": "set RECHUB_DATA to a folder with ml-1m/ratings.csv.gz"}
    skipped = missing_torch_rechub()
    users, epochs, seeds = settings.pick(USERS, 60), settings.pick(EPOCHS, 1), SEEDS[: settings.pick(len(SEEDS), 1)]

    def one(model: str, side: str, seed: int) -> dict[str, float]:
        first, *more = SIDES[side]
        command = ["torch_rechub_protocol", first, model, str(folder), *more]
        command += ["--users", str(users), "--epochs", str(epochs), "--seed", str(seed)]
        return answer(settings, command, name=f"protocol-{model}-{len(more)}-{first}-{seed}")

    cells = {
        _name(model, side, seed): functools.partial(one, model, side, seed)
        for seed in seeds
        for model in MODELS
        for side, (first, *_) in SIDES.items()
        if first == "ours" or skipped is None
    }
    numbers = torch_rechub_protocol
    same = {"numbers": [users, epochs, numbers.DIM, numbers.BATCH, numbers.LR, numbers.WEIGHT_DECAY], "sides": SIDES}
    done = finished(settings.work / "matching_protocol.json", same, cells, at_once=2)
    return {"cells": done, "users": users, "epochs": epochs, "seeds": seeds, "skipped": skipped}


def _name(model: str, side: str, seed: int) -> str:
    return f"{model}, {side}, {seed}"


def table(result: dict[str, Any]) -> str:
    if "cells" not in result:
        return f"Left out: {result['skipped']}."
    lines = [f"| model | side | seeds | {' | '.join(COLUMNS)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    for model in MODELS:
        for side in SIDES:
            runs = [found for seed in result["seeds"] if (found := result["cells"].get(_name(model, side, seed)))]
            if runs:
                numbers = [mean_and_spread([run[key] for run in runs]) for key in COLUMNS[:2]]
                numbers.append(f"{sum(run['seconds'] for run in runs) / len(runs):.0f}")
                lines.append(f"| {model} | {side} | {len(runs)} | {' | '.join(numbers)} |")
    some = next(iter(result["cells"].values()))
    head = (
        f"MovieLens 1M, the first {result['users']:,} users ({some['items']:,.0f} movies), {result['epochs']} epochs: "
        "the share of users whose last movie is among the first 10 or 100 of all, mean over the seeds (largest less "
        "smallest), and seconds of `fit`, two runs at a time with one thread each."
    )
    skipped = f"\n\ntorch-rechub {OTHER} was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped
