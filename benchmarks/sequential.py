"""Models of sequences on Amazon Beauty, leave-last-out, three seeds each, ranked among all items.

Every finished run is written into `sequential.json` under `--work`: after an interruption the same command goes on.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.cells import finished, mean_and_spread
from benchmarks.settings import ROOT, Settings
from benchmarks.workload import run_training
from rechub_ray.config import read_yaml

SEEDS = (2026, 2027, 2028)
# name in the table: the configuration
MODELS = {
    "SASRec, its published loss": "sasrec_amazon_beauty.yaml",
    "SASRec, softmax over all items": "sasrec_full_softmax_amazon_beauty.yaml",
    "GRU4Rec": "gru4rec_amazon_beauty.yaml",
    "BERT4Rec": "bert4rec_amazon_beauty.yaml",
    "HSTU": "hstu_amazon_beauty.yaml",
}
# columns of the table: the metric's key
COLUMNS = {f"{name}@{k}": f"{name}@{k}_without_seen" for k in (5, 10) for name in ("recall", "ndcg")}
# recall@5, ndcg@5, recall@10, ndcg@10 as TIGER (NeurIPS 2023, table 1) has them, on the same preprocessing
PUBLISHED = {
    "SASRec": (0.0387, 0.0249, 0.0605, 0.0318),
    "S3-Rec": (0.0387, 0.0244, 0.0647, 0.0327),
    "GRU4Rec": (0.0164, 0.0099, 0.0283, 0.0137),
    "BERT4Rec": (0.0203, 0.0124, 0.0347, 0.0170),
}
AT_ONCE = 2  # runs at the same time, of one thread each


def source() -> Path | None:
    """The folder of the raw files, if it is there."""
    root = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data")) / "amazon-beauty"
    return root if root.exists() else None


def prepared(settings: Settings) -> Path | None:
    """The encoded data set, written where it is not there yet; None without its source."""
    folder = source()
    if folder is None:
        return None
    data = settings.work / "amazon_beauty_retrieval"
    if not (data / "schema.json").exists():
        recipe = ROOT / "configs" / "data" / "amazon_beauty_retrieval.yaml"
        command = [sys.executable, "-m", "rechub_ray.cli", "prepare", str(recipe), f"source={folder}", f"out={data}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return data


def config(data: Path, model: str, *, seed: int, quick: bool = False) -> dict[str, Any]:
    """One run of a published configuration.

    Args:
        data: from `prepared`. model: key of `MODELS`. seed: of the run. quick: one epoch.
    """
    given = read_yaml(ROOT / "configs" / MODELS[model])
    train = {**given["train"], "threads": 1, "initial_evaluation": False}
    if quick:
        train |= {"epochs": 1, "evaluate_every_epochs": 1}
    return {
        **given,
        "seed": seed,
        "data": {**given["data"], "root": str(data)},
        "train": train,
        "trackers": ["jsonl"],
        "scaling": {"num_workers": 0},
        "export": {"onnx": False},
    }


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with amazon-beauty"}
    seeds = SEEDS[: settings.pick(len(SEEDS), 1)]

    def one(model: str, seed: int) -> dict[str, float]:
        name = MODELS[model].removesuffix("_amazon_beauty.yaml")
        found = run_training(
            settings, f"{name}-{seed}", config(data, model, seed=seed, quick=settings.quick), go_on=True
        )
        return {key: found.test_metrics[key] for key in COLUMNS.values()}

    cells = {f"{model} {seed}": functools.partial(one, model, seed) for seed in seeds for model in MODELS}
    own = {name: config(Path(), cell.args[0], seed=cell.args[1]) for name, cell in cells.items()}
    kept, same = settings.work / "sequential.json", {"quick": settings.quick}
    return {"cells": finished(kept, same, cells, at_once=AT_ONCE, own=own)}


def table(result: dict[str, Any]) -> str:
    if "cells" not in result:
        return f"Left out: {result['skipped']}."
    lines = [f"| model | seeds | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for model in MODELS:
        runs = [found for name, found in result["cells"].items() if name.rpartition(" ")[0] == model]
        numbers = [mean_and_spread([found[key] for found in runs]) for key in COLUMNS.values()]
        lines.append(f"| {model} | {len(runs)} | {' | '.join(numbers)} |")
    for model, figures in PUBLISHED.items():
        lines.append(f"| {model}, published (TIGER) | | {' | '.join(f'{figure:.4f}' for figure in figures)} |")
    head = (
        "Amazon Beauty, leave-last-out: the rank of each user's last item among all items, without those that the user "
        "has had before; test figures of the epoch that is best in validation, mean over the seeds (largest less "
        "smallest)."
    )
    return head + "\n\n" + "\n".join(lines)
