"""The other side: torch-rechub 0.9.0's own CTRTrainer and DeepFM, with the data in memory before the clock starts.

Usage: python -m benchmarks.torch_rechub_side DATA --steps N --warm-up N --threads N --loader ready|own

`ready` hands the trainer whole batches that were cut beforehand: it neither loads nor collates nor shuffles. `own` is
its DataGenerator, which picks and collates single rows. Its defaults stand, but for weight decay, which is off as it is
on our side.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.ranking import DeepFM
from torch_rechub.trainers import CTRTrainer
from torch_rechub.utils.data import DataGenerator

from benchmarks.workload import BATCH, DIM, HIDDEN
from rechub_ray.schema import Schema


class Timed:
    """The first batches of a loader; when each was asked for tells when the one before was done."""

    def __init__(self, batches: Iterable[Any], steps: int) -> None:
        self._batches, self._steps = batches, steps
        self.asked: list[float] = []

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self._batches)
        for _ in range(self._steps):
            self.asked.append(time.perf_counter())
            yield next(batches)
        self.asked.append(time.perf_counter())


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
    sparse = [SparseFeature(f.name, f.vocab_size, embed_dim=DIM) for f in schema.sparse]
    dense = [DenseFeature(f.name) for f in schema.dense]
    model = DeepFM(dense + sparse, sparse, {"dims": list(HIDDEN), "dropout": 0.0, "activation": "relu"})

    rows = options.steps * BATCH
    table = pq.read_table(options.data / "train").slice(0, rows)
    assert table.num_rows == rows, "too few rows"
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    labels = columns.pop(schema.labels[0].name)
    batches: Iterable[Any]
    if options.loader == "ready":
        tensors = {name: torch.tensor(values) for name, values in columns.items()}
        targets = torch.tensor(labels)
        cuts = [slice(at, at + BATCH) for at in range(0, rows, BATCH)]
        batches = [({name: values[cut].clone() for name, values in tensors.items()}, targets[cut]) for cut in cuts]
    else:
        batches, _, _ = DataGenerator(columns, labels).generate_dataloader(split_ratio=[1.0, 0.0], batch_size=BATCH)
    timed = Timed(batches, options.steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = CTRTrainer(model, optimizer_params={"lr": 1e-3}, n_epoch=1, model_path=folder)
        trainer.fit(timed)
    seconds = timed.asked[-1] - timed.asked[options.warm_up]
    print(json.dumps({"rows_per_second": (options.steps - options.warm_up) * BATCH / seconds}))


if __name__ == "__main__":
    main()
