"""The other side of multi-task models: torch-rechub 0.9.0's own MTLTrainer with its MMOE or PLE, on prepared data.

Usage: python -m benchmarks.torch_rechub_multi_task DATA MMOE|PLE --epochs N --seed N
       python -m benchmarks.torch_rechub_multi_task DATA MMOE --loader ready|own --steps N --warm-up N --threads N

The first trains with its DataGenerator and prints the AUC of the test split for the epoch that is best on the
validation split (its trainer takes those weights back only where it stops early, so this does it). The second prints
rows a second, as torch_rechub_side.py does.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import MMOE, PLE
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator, PredictDataset

from benchmarks.multi_task import BATCH, DIM, INCOME, LR, MODELS, NEVER, TOWER, WEIGHT_DECAY
from benchmarks.torch_rechub_side import Timed
from rechub_ray.schema import Schema

TASKS = ["classification", "classification"]
Columns = dict[str, Any]


def split(data: Path, name: str, schema: Schema) -> tuple[Columns, Any]:
    """The features' columns and the labels (N, 2) of one split."""
    table = pq.read_table(data / name)
    features = {feature.name: table.column(feature.name).to_numpy() for feature in schema.features}
    return features, np.stack([table.column(label).to_numpy() for label in (INCOME, NEVER)], 1)


def trainer_of(name: str, schema: Schema, epochs: int, folder: str) -> MTLTrainer:
    """The model in a trainer, with the settings of our side."""
    features = [SparseFeature(f.name, f.vocab_size, embed_dim=DIM) for f in schema.sparse]
    features += [DenseFeature(f.name) for f in schema.dense]
    towers = [{"dims": TOWER} for _ in TASKS]
    if name == "MMOE":
        ours = MODELS["MMoE"]
        model = MMOE(features, TASKS, ours["num_experts"], {"dims": ours["expert_units"]}, towers)
    else:
        ours = MODELS["PLE"]
        counts = (ours[key] for key in ("num_layers", "num_experts", "num_shared_experts"))
        model = PLE(features, TASKS, *counts, {"dims": ours["expert_units"]}, towers)
    params = {"lr": LR, "weight_decay": WEIGHT_DECAY}
    # patience of all epochs: both sides train as long
    return MTLTrainer(
        model, TASKS, optimizer_params=params, n_epoch=epochs, earlystop_patience=epochs + 1, model_path=folder
    )


def accuracy(options: argparse.Namespace, schema: Schema) -> dict[str, float]:
    """Test AUCs of the best epoch."""
    x, y = split(options.data, "train", schema)
    x_valid, y_valid = split(options.data, "valid", schema)
    x_test, y_test = split(options.data, "test", schema)
    train, valid, _ = DataGenerator(x, y).generate_dataloader(
        x_val=x_valid, y_val=y_valid, x_test=x_test, y_test=y_test, batch_size=BATCH
    )
    test = torch.utils.data.DataLoader(PredictDataset(x_test), batch_size=BATCH)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(options.model, schema, options.epochs, folder)
        trainer.fit(train, valid)
        trainer.model.load_state_dict(trainer.early_stopper.best_weights)
        found = np.array(trainer.predict(trainer.model, test))
    never = y_test[:, 1] > 0
    return {
        INCOME: roc_auc_score(y_test[:, 0], found[:, 0]),
        NEVER: roc_auc_score(y_test[:, 1], found[:, 1]),
        f"{INCOME} of {NEVER}": roc_auc_score(y_test[never, 0], found[never, 0]),
    }


def speed(options: argparse.Namespace, schema: Schema) -> dict[str, float]:
    """Rows a second of one epoch's steps, without the first ones."""
    rows = options.steps * BATCH
    x, y = split(options.data, "train", schema)
    assert len(y) >= rows, "too few rows"
    x, y = {name: values[:rows] for name, values in x.items()}, y[:rows]
    batches: Iterable[Any]
    if options.loader == "ready":
        tensors = {name: torch.tensor(values) for name, values in x.items()}
        targets = torch.tensor(y)
        cuts = [slice(at, at + BATCH) for at in range(0, rows, BATCH)]
        batches = [({name: values[cut].clone() for name, values in tensors.items()}, targets[cut]) for cut in cuts]
    else:
        batches, _, _ = DataGenerator(x, y).generate_dataloader(split_ratio=[1.0, 0.0], batch_size=BATCH)
    timed = Timed(batches, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer_of(options.model, schema, 1, folder).train_one_epoch(timed)
    seconds = timed.asked[-1] - timed.asked[options.warm_up]
    return {"rows_per_second": (options.steps - options.warm_up) * BATCH / seconds}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("model", choices=("MMOE", "PLE"))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loader", choices=("ready", "own"))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--warm-up", type=int)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    schema = Schema.load(options.data / "schema.json")
    print(json.dumps((speed if options.loader else accuracy)(options, schema)))


if __name__ == "__main__":
    main()
