"""Models for retrieval on MovieLens 1M and Amazon Beauty, leave-one-out, three seeds each, ranked among all items.

Every finished run is written into `matching.json` under `--work`: after an interruption the same command goes on.
"""

from __future__ import annotations

import dataclasses
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
AT_ONCE = 2  # runs at the same time, of one thread each
ALL = {"recall@10": "recall@10_without_seen", "ndcg@10": "ndcg@10_without_seen"}  # column: the metric's key
GIVEN = {"HR@10 among 99": "hit@10_among_negatives", "NDCG@10 among 99": "ndcg@10_among_negatives"}


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set and the models that are compared on it.

    Args:
        recipe: in configs/data. folder: of the raw files, below $RECHUB_DATA. config: in configs, of all runs.
        columns: of the table. published: what others report. models: name in the table, and node of the model.
        own: name in the table, and the configuration of a model that has its own.
        negatives: name in the table, and what that model learns from in place of the items of other rows.
    """

    recipe: str
    folder: str
    config: str
    columns: dict[str, str]
    published: str
    models: dict[str, dict[str, Any]]
    own: dict[str, str] = dataclasses.field(default_factory=dict)
    negatives: dict[str, list[str]] = dataclasses.field(default_factory=dict)


DATA = {
    "MovieLens 1M": Data(
        "ml_1m_retrieval",
        "ml-1m",
        "dssm_ml_1m",
        {**GIVEN, **ALL},
        "among the 99 most popular .4531 and .2542, ItemKNN .6596 and .3900, UserKNN .6705 and .3908, NeuMF .6725 and "
        ".4011, PureSVD .6896 and .4294, a well-tuned factorisation about .729 and .452",
        {
            "DSSM": {"name": "dssm", "embedding_dim": 32},
            "DSSM-SENet": {"name": "dssm_senet", "embedding_dim": 32},
            "FaceBookDSSM": {"name": "facebook_dssm", "embedding_dim": 32},
            "YoutubeDNN": {"name": "youtube_dnn", "embedding_dim": 64},
        },
        {"MF": "mf_ml_1m", "SASRec": "sasrec_full_softmax_amazon_beauty", "GRU4Rec": "gru4rec_amazon_beauty"},
        {"FaceBookDSSM": ["uniform"]},
    ),
    "Amazon Beauty": Data(
        "amazon_beauty_retrieval",
        "amazon-beauty",
        "mind_amazon_beauty",
        ALL,
        "GRU4Rec .0283 and .0137, SASRec .0605 and .0318",
        {
            "MF": {"name": "mf", "embedding_dim": 64},
            "YoutubeDNN": {"name": "youtube_dnn", "embedding_dim": 64},
            "MIND": {"name": "mind", "embedding_dim": 64, "user_features": ["history"]},
            "ComiRec-SA": {"name": "comirec_sa", "embedding_dim": 64},
            "ComiRec-DR": {"name": "comirec_dr", "embedding_dim": 64},
            "ComiRec-DR (a matrix an interest)": {"name": "comirec_dr", "embedding_dim": 64, "positions": False},
            "SINE": {"name": "sine", "embedding_dim": 64},
            "NARM": {"name": "narm", "embedding_dim": 64},
            "STAMP": {"name": "stamp", "embedding_dim": 64},
        },
    ),
}


def prepared(settings: Settings, data: Data) -> Path | None:
    """An encoded data set, written where it is not there yet; None without its source."""
    source = Path(os.environ.get("RECHUB_DATA", ROOT.parent / "shared" / "data")) / data.folder
    if not source.is_dir():
        return None
    out = settings.work / data.recipe
    if not (out / "schema.json").exists():
        recipe = ROOT / "configs" / "data" / f"{data.recipe}.yaml"
        command = [sys.executable, "-m", "rechub_ray.cli", "prepare", str(recipe), f"source={source}", f"out={out}"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return out


def config(root: Path, data: Data, model: str, *, seed: int, quick: bool = False) -> dict[str, Any]:
    """One run: the published configuration with another model.

    Args:
        root: from `prepared`. data: its data set. model: key of its models. seed: of the run. quick: one epoch.
    """
    given = read_yaml(ROOT / "configs" / f"{data.own.get(model, data.config)}.yaml")
    given["data"] = {**given["data"], "root": str(root)}
    given["train"] = {**given["train"], "threads": 1, "initial_evaluation": False}
    if model in data.models:
        given["model"] = data.models[model]
    else:
        given["metrics"] = [{"name": name, "exclude": "seen"} for name in ("recall@10", "ndcg@10")]
        given["train"]["epochs"] = min(60, given["train"]["epochs"])
    if model in data.negatives:
        given["negatives"] = data.negatives[model]
    if quick:
        given["train"] |= {"epochs": 1, "evaluate_every_epochs": 1}
        given["data"]["train"] = "windows"  # fewer rows
    if data.models.get(model, {}).get("name") == "mf":  # it has tables alone
        given["optimizers"] = [{"name": "rowwise_adagrad", "lr": given["optimizers"][0]["lr"]}]
    if GIVEN.items() <= data.columns.items():
        given["metrics"] += [{"name": name, "candidates": "negatives"} for name in ("hit@10", "ndcg@10")]
    return {**given, "seed": seed, "trackers": ["jsonl"], "scaling": {"num_workers": 0}, "export": {"onnx": False}}


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet; nothing of a data set that is not there."""
    seeds = SEEDS[: settings.pick(len(SEEDS), 1)]
    roots = {name: root for name, data in DATA.items() if (root := prepared(settings, data)) is not None}

    def one(name: str, model: str, seed: int) -> dict[str, float]:
        data = DATA[name]
        given = config(roots[name], data, model, seed=seed, quick=settings.quick)
        found = run_training(settings, f"{data.folder}-{model}-{seed}", given, go_on=True)
        return {key: found.test_metrics[key] for key in data.columns.values()}

    cells = {
        _name(name, model, seed): functools.partial(one, name, model, seed)
        for seed in seeds
        for name in roots
        for model in (*DATA[name].models, *DATA[name].own)
    }
    own = {name: config(Path(), DATA[cell.args[0]], cell.args[1], seed=cell.args[2]) for name, cell in cells.items()}
    skipped = [data.folder for name, data in DATA.items() if name not in roots]
    kept = settings.work / "matching.json"
    done = finished(kept, {"quick": settings.quick}, cells, at_once=AT_ONCE, own=own) if cells else {}
    return {"cells": done, "seeds": seeds, "skipped": skipped}


def _name(data: str, model: str, seed: int) -> str:
    return f"{data}, {model}, {seed}"


def table(result: dict[str, Any]) -> str:
    parts = [
        "Ranks of the users' last items among all items without those that they have had before, and among the 99 that "
        "come with MovieLens 1M's files: test figures of the epoch that is best in validation, mean over the seeds "
        "(largest less smallest)."
    ]
    for name, data in DATA.items():
        if data.folder in result["skipped"]:
            parts.append(f"{name} is left out: set RECHUB_DATA to a folder with {data.folder}.")
            continue
        lines = [f"| {name} | seeds | {' | '.join(data.columns)} |", "|---" * (2 + len(data.columns)) + "|"]
        for model in (*data.models, *data.own):
            runs = [found for seed in result["seeds"] if (found := result["cells"].get(_name(name, model, seed)))]
            if runs:
                numbers = [mean_and_spread([found[key] for found in runs]) for key in data.columns.values()]
                lines.append(f"| {model} | {len(runs)} | {' | '.join(numbers)} |")
        if lines[2:]:
            parts += ["\n".join(lines), f"Published: {data.published}."]
    return "\n\n".join(parts)
