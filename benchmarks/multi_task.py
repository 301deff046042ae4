"""Multi-task models on Census-Income under every balancing, beside torch-rechub's own MMOE and PLE, three seeds each.

Every finished run is written into `multi_task.json` under `--work`: after an interruption the same command goes on.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.cells import finished, mean_and_spread
from benchmarks.compare import OTHER, answer, missing_torch_rechub
from benchmarks.settings import ROOT, Settings
from benchmarks.workload import run_training
from rechub_ray.config import read_yaml

BATCH, DIM, LR, WEIGHT_DECAY, EPOCHS = 1024, 4, 5e-3, 1e-5, 5
SEEDS = (2026, 2027, 2028)
INCOME, NEVER, BOTH = "income_over_50k", "never_married", "never_married_with_income"
# name in the table: node of ours
MODELS: dict[str, dict[str, Any]] = {
    "SharedBottom": {"name": "shared_bottom", "bottom_units": [128]},
    "ESMM": {"name": "esmm", "bottom_units": [128]},
    "MMoE": {"name": "mmoe", "num_experts": 8, "expert_units": [16]},
    "PLE": {"name": "ple", "num_layers": 2, "num_experts": 2, "num_shared_experts": 1, "expert_units": [16]},
    "AITM": {"name": "aitm", "bottom_units": [32, 16], "calibrator_weight": 0.0},
}
# test AUC of income and of never married, as Torch-RecHub publishes them (its README; ESMM's tasks are others there)
PUBLISHED = {
    "SharedBottom": (0.9560, 0.9948),
    "ESMM": (0.7223, 0.9906),
    "MMoE": (0.9579, 0.9950),
    "PLE": (0.9583, 0.9951),
    "AITM": (0.9595, 0.9951),
}
TOWER = [8]
BALANCING = {"fixed": "fixed", "UWL": "uwl", "GradNorm": "gradnorm", "PCGrad": "pcgrad"}
OTHERS = {"MMoE": "MMOE", "PLE": "PLE"}  # torch-rechub's name of the same model
# columns of the table: the label, and the label of the rows that count
COLUMNS = {
    "income": (INCOME, None),
    "never married": (NEVER, None),
    "income of those never married": (INCOME, NEVER),
}
AT_ONCE = 2  # runs at the same time, of one thread each


def source() -> Path | None:
    """The folder of the raw files, if it is there."""
    root = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data")) / "census-income"
    return root if (root / "census-income.data.gz").exists() else None


def prepared(settings: Settings) -> Path | None:
    """The encoded data set with a third label for ESMM, written where it is not there yet; None without its source."""
    folder = source()
    if folder is None:
        return None
    data = settings.work / "census_income"
    if not (data / "schema.json").exists():
        recipe = ROOT / "configs" / "data" / "census_income.yaml"
        labels = read_yaml(recipe)["labels"]
        labels.append({"name": BOTH, "expression": " and ".join(f"({label['expression']})" for label in labels)})
        command = [sys.executable, "-m", "rechub_ray.cli", "prepare", str(recipe), f"source={folder}", f"out={data}"]
        command.append(f"labels={json.dumps(labels)}")
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return data


def config(data: Path, model: str, balancing: str, *, seed: int = 0, threads: int = 1, epochs: int) -> dict[str, Any]:
    """One run of ours.

    Args:
        data: from `prepared`. model: key of `MODELS`. balancing: key of `BALANCING`.
        seed, threads, epochs: of the run.
    """
    # ESMM's labels are a chain: each can be 1 only where the one before is
    labels = [NEVER, BOTH] if model == "ESMM" else [INCOME, NEVER]
    last = labels[1] if model == "ESMM" else labels[0]
    of_never = {"label": BOTH, "output": f"conditional/{BOTH}"} if model == "ESMM" else {"label": INCOME}
    return {
        "name": "bench",
        "seed": seed,
        "data": {"root": str(data), "labels": labels, "batch_size": BATCH},
        "model": {**MODELS[model], "embedding_dim": DIM, "tower_units": TOWER, "batch_norm": True},
        "balancing": BALANCING[balancing],
        "optimizers": [{"name": "adam", "lr": LR, "weight_decay": WEIGHT_DECAY}],
        "metrics": [
            *({"name": "auc", "label": label} for label in labels),
            {"name": "auc", "where": NEVER, **of_never},
        ],
        "train": {
            "epochs": epochs,
            "threads": threads,
            "early_stopping": {"metric": f"{last}/auc"},
            "initial_evaluation": False,
        },
        "trackers": ["jsonl"],
        "scaling": {"num_workers": 0},
        "export": {"onnx": False},
    }


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with census-income/census-income.data.gz"}
    skipped = missing_torch_rechub()
    epochs = settings.pick(EPOCHS, 1)
    cells = [
        (model, balancing, seed)
        for seed in SEEDS[: settings.pick(len(SEEDS), 1)]
        for model in MODELS
        for balancing in (*BALANCING, OTHER)
        if balancing in BALANCING or (model in OTHERS and skipped is None)
    ]
    same = {"models": MODELS, "numbers": [BATCH, DIM, LR, WEIGHT_DECAY, epochs], "tower": TOWER}

    def one(cell: tuple[str, str, int]) -> dict[str, float]:
        model, balancing, seed = cell
        if balancing == OTHER:
            command = ["torch_rechub_multi_task", str(data), OTHERS[model], "--epochs", str(epochs)]
            return answer(settings, [*command, "--seed", str(seed)], name=_name(cell))
        given = config(data, model, balancing, seed=seed, epochs=epochs)
        found = run_training(settings, _name(cell), given).test_metrics
        if model == "ESMM":
            return {NEVER: found[f"{NEVER}/auc"], f"{INCOME} of {NEVER}": found[f"{BOTH}/auc_where_{NEVER}"]}
        return {
            INCOME: found[f"{INCOME}/auc"],
            NEVER: found[f"{NEVER}/auc"],
            f"{INCOME} of {NEVER}": found[f"{INCOME}/auc_where_{NEVER}"],
        }

    waiting = {_name(cell): functools.partial(one, cell) for cell in cells}
    done = finished(settings.work / "multi_task.json", same, waiting, at_once=AT_ONCE)
    return {"cells": done, "epochs": epochs, "skipped": skipped}


def _name(cell: tuple[str, str, int]) -> str:
    return "-".join(map(str, cell))


def table(result: dict[str, Any]) -> str:
    if "cells" not in result:
        return f"Left out: {result['skipped']}."
    rows: dict[tuple[str, str], list[dict[str, float]]] = {}
    for name, found in result["cells"].items():
        model, balancing, _ = name.split("-")
        rows.setdefault((model, balancing), []).append(found)
    lines = [f"| model | balancing | seeds | {' | '.join(COLUMNS)} |", "|---" * (3 + len(COLUMNS)) + "|"]
    for (model, balancing), runs in rows.items():
        cells = [f"torch-rechub {OTHER}'s {OTHERS[model]}", "none"] if balancing == OTHER else [model, balancing]
        cells.append(str(len(runs)))
        for label, where in COLUMNS.values():
            values = [
                found[key] for found in runs if (key := label if where is None else f"{label} of {where}") in found
            ]
            cells.append(mean_and_spread(values))
        lines.append(f"| {' | '.join(cells)} |")
    head = (
        f"Test AUC of the best of {result['epochs']} epochs, mean over the seeds (largest less smallest). ESMM is a "
        "chain of labels, never married and, of those, income: it does not predict the income of the others, so its "
        "first column is empty, and the last one compares it."
    )
    skipped = f"\n\ntorch-rechub was left out: {result['skipped']}." if result["skipped"] else ""
    return head + "\n\n" + "\n".join(lines) + skipped
