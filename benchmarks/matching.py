"""Models for retrieval on MovieLens 1M, leave-one-out, three seeds each, ranked among all items.

Every finished run is written into `matching.json` under `--work`: after an interruption the same command goes on.
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
TOWERS, HISTORY = "dssm_ml_1m.yaml", "mind_ml_1m.yaml"
# name in the table: the configuration, and the node of the model in it
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "MF": (TOWERS, {"name": "mf", "embedding_dim": 64}),
    "DSSM": (TOWERS, {"name": "dssm", "embedding_dim": 32}),
    "DSSM-SENet": (TOWERS, {"name": "dssm_senet", "embedding_dim": 32}),
    "FaceBookDSSM": (TOWERS, {"name": "facebook_dssm", "embedding_dim": 32}),
    "YoutubeDNN": (TOWERS, {"name": "youtube_dnn", "embedding_dim": 64}),
    "MIND": (HISTORY, {"name": "mind", "embedding_dim": 64}),
    "ComiRec-SA": (HISTORY, {"name": "comirec_sa", "embedding_dim": 64}),
    "ComiRec-DR": (HISTORY, {"name": "comirec_dr", "embedding_dim": 64}),
    "SINE": (HISTORY, {"name": "sine", "embedding_dim": 64}),
    "NARM": (HISTORY, {"name": "narm", "embedding_dim": 64}),
    "STAMP": (HISTORY, {"name": "stamp", "embedding_dim": 64}),
}
# columns of the table: the metric's key
COLUMNS = {
    "HR@10, 99": "hit@10_among_negatives",
    "NDCG@10, 99": "ndcg@10_among_negatives",
    "recall@10": "recall@10_without_seen",
    "ndcg@10": "ndcg@10_without_seen",
    "recall@10, seen ones too": "recall@10",
    "ndcg@10, seen ones too": "ndcg@10",
}
AT_ONCE = 2  # runs at the same time, of one thread each


def source() -> Path | None:
    """The folder of the raw files, if it is there."""
    root = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data")) / "ml-1m"
    return root if (root / "train.tsv.gz").exists() else None


def prepared(settings: Settings) -> Path | None:
    """The encoded data set, written where it is not there yet; None without its source."""
    folder = source()
    if folder is None:
        return None
    data = settings.work / "ml_1m_retrieval"
    if not (data / "schema.json").exists():
        recipe = ROOT / "configs" / "data" / "ml_1m_retrieval.yaml"
        command = [sys.executable, "-m", "rechub_ray.cli", "prepare", str(recipe), f"source={folder}", f"out={data}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return data


def config(data: Path, model: str, *, seed: int, quick: bool = False) -> dict[str, Any]:
    """One run: the published configuration with another model.

    Args:
        data: from `prepared`. model: key of `MODELS`. seed: of the run. quick: a few steps.
    """
    file, node = MODELS[model]
    given = read_yaml(ROOT / "configs" / file)
    given["data"] = {**given["data"], "root": str(data)}
    given["train"] = {**given["train"], "threads": 1, "initial_evaluation": False}
    if quick:
        given["train"]["epochs"] = 1
        given["data"] |= {"train": "windows"}  # each target once
    if model == "MF":  # it has tables alone
        given["optimizers"] = [{"name": "rowwise_adagrad", "lr": given["optimizers"][0]["lr"]}]
    given["metrics"] += [{"name": name, "candidates": "negatives"} for name in ("hit@10", "ndcg@10")]
    return {
        **given,
        "seed": seed,
        "model": node,
        "trackers": ["jsonl"],
        "scaling": {"num_workers": 0},
        "export": {"onnx": False},
    }


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with ml-1m/train.tsv.gz"}
    seeds = SEEDS[: settings.pick(len(SEEDS), 1)]

    def one(model: str, seed: int) -> dict[str, float]:
        given = config(data, model, seed=seed, quick=settings.quick)
        found = run_training(settings, f"{model}-{seed}", given)
        return {key: found.test_metrics[key] for key in COLUMNS.values()}

    configs = [read_yaml(ROOT / "configs" / file) for file in (TOWERS, HISTORY)]
    same = {"models": MODELS, "configs": configs, "quick": settings.quick}
    cells = {f"{model} {seed}": functools.partial(one, model, seed) for seed in seeds for model in MODELS}
    return {"cells": finished(settings.work / "matching.json", same, cells, at_once=AT_ONCE)}


def table(result: dict[str, Any]) -> str:
    if "cells" not in result:
        return f"Left out: {result['skipped']}."
    lines = [f"| model | seeds | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for model in MODELS:
        runs = [found for name, found in result["cells"].items() if name.rpartition(" ")[0] == model]
        numbers = [mean_and_spread([found[key] for found in runs]) for key in COLUMNS.values()]
        lines.append(f"| {model} | {len(runs)} | {' | '.join(numbers)} |")
    head = (
        "MovieLens 1M, leave-one-out: the rank of each user's test item, among it and the 99 given ones (published: "
        "most popular .4531 and .2542, a well-tuned factorisation about .729 and .452), and among all items without "
        "those that the user has had before. Test figures of the epoch that is best in validation, mean over the seeds "
        "(largest less smallest)."
    )
    return head + "\n\n" + "\n".join(lines)
