"""The other side: torch-rechub 0.9.0's own MatchTrainer and DSSM with negatives of the step's other rows.

Usage: python -m benchmarks.torch_rechub_matching DATA --steps N --warm-up N --threads N --loader ready|own

`ready` hands the trainer whole batches that were cut beforehand: it neither loads nor collates nor shuffles. `own` is
its MatchDataGenerator, which picks and collates single rows, in this process. Its defaults stand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import DSSM
from torch_rechub.trainers import MatchTrainer
from torch_rechub.utils.data import MatchDataGenerator

from benchmarks.matching_speed import BATCH, DIM, TEMPERATURE, UNITS
from benchmarks.torch_rechub_side import Timed
from rechub_ray.schema import Schema


def rectangle(lists: pa.ChunkedArray, width: int) -> npt.NDArray[np.int64]:
    """Lists as a rectangle, filled up with 0 on the right."""
    values = lists.combine_chunks()
    lengths = np.diff(values.offsets.to_numpy())
    found = np.zeros((len(values), width), np.int64)
    found[np.arange(width) < lengths[:, None]] = values.flatten().to_numpy()
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--loader", choices=("ready", "own"), required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    schema = Schema.load(options.data / "schema.json")
    assert schema.items is not None
    sizes = {feature.name: feature.vocab_size for feature in (*schema.all_features,)}  # type: ignore[union-attr]
    users = [
        SparseFeature("user", sizes["user"], embed_dim=DIM),
        SequenceFeature("history", sizes["history"], embed_dim=DIM, pooling="mean", shared_with="item", padding_idx=0),
    ]
    items = [
        SparseFeature("item", sizes["item"], embed_dim=DIM),
        SequenceFeature("genres", sizes["genres"], embed_dim=DIM, pooling="mean", padding_idx=0),
    ]
    tower = {"dims": [*UNITS, UNITS[-1] // 2]}
    model = DSSM(users, items, tower, tower, temperature=TEMPERATURE)

    rows = options.steps * BATCH
    table = pq.read_table(options.data / "train", columns=["user", "item", "history"])
    table = table.take(np.random.default_rng(0).permutation(table.num_rows)[:rows])
    genres = rectangle(pq.read_table(options.data / "items")["genres"], 6)
    ids = table["item"].to_numpy()
    columns = {
        "user": table["user"].to_numpy(),
        "history": rectangle(table["history"], 50),
        "item": ids,
        "genres": genres[ids - 1],
    }
    labels = np.ones(rows)
    batches: Iterable[Any]
    if options.loader == "ready":
        tensors = {name: torch.tensor(values) for name, values in columns.items()}
        cuts = [slice(at, at + BATCH) for at in range(0, rows, BATCH)]
        batches = [({name: values[cut].clone() for name, values in tensors.items()}, torch.ones(BATCH)) for cut in cuts]
    else:
        batches, _, _ = MatchDataGenerator(columns, labels).generate_dataloader(
            columns, {"item": ids}, batch_size=BATCH, num_workers=0
        )
    timed = Timed(batches, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = MatchTrainer(model, mode=2, in_batch_neg=True, n_epoch=1, model_path=folder)
        trainer.fit(timed)
    seconds = timed.asked[-1] - timed.asked[options.warm_up]
    print(json.dumps({"rows_per_second": (options.steps - options.warm_up) * BATCH / seconds}))


if __name__ == "__main__":
    main()
