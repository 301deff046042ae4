"""Steps of a ranking model with Torch-RecHub's arguments, on one side, with its batches in memory and cut beforehand.

Usage: python -m benchmarks.ranking_side ours|torch-rechub MODEL --steps N --warm-up N

Seconds are CPU time, which on one thread is what steps take on a machine that does nothing else. Both sides build the
model by the same call: ours by `rechub_ray.compat`, theirs by torch-rechub 0.9.0, whose trainer gets the batches as a
loader. Ours takes its optimizers of the other benchmarks, theirs dense Adam without weight decay.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from benchmarks.workload import BATCH, DIM, HIDDEN, IDS
from rechub_ray.batch import Batch, Features, RaggedSequences
from rechub_ray.data.synthetic import table_sizes
from rechub_ray.schema import Schema

NUMBERS, HISTORY, FIELD_AWARE_DIM = 13, 50, 4
Columns = dict[str, torch.Tensor]


class Given:
    """Feature lists of one side.

    Args:
        kinds: its module of features.
    """

    def __init__(self, kinds: Any) -> None:
        self._kinds, self.sizes = kinds, table_sizes(IDS)
        self.sparse = [kinds.SparseFeature(f"C{i}", size, embed_dim=DIM) for i, size in enumerate(self.sizes)]
        self.dense = [kinds.DenseFeature(f"I{i}") for i in range(NUMBERS)]
        # the item and what was had before: the largest column
        largest = int(np.argmax(self.sizes))
        self.target = [self.sparse[largest]]
        self.others = [feature for feature in self.sparse if feature is not self.sparse[largest]]

    def sequence(self, name: str) -> list[Any]:
        """A history of the target, and what else is as long."""
        item = self.target[0]
        return [
            self._kinds.SequenceFeature(
                name, item.vocab_size, embed_dim=DIM, pooling="concat", shared_with=item.name, padding_idx=0
            )
        ]

    def field_aware(self) -> tuple[list[Any], list[Any]]:
        """Linear features, and those whose ids have a vector for each other feature."""
        kind = self._kinds.SparseFeature
        linear = [kind(f"C{i}", size, embed_dim=1) for i, size in enumerate(self.sizes)]
        count = len(self.sizes)
        cross = [kind(f"C{i}", size * count, embed_dim=FIELD_AWARE_DIM) for i, size in enumerate(self.sizes)]
        return linear, cross


def _mlp(**more: Any) -> dict[str, Any]:
    return {"dims": list(HIDDEN), **more}


_RELU = {"activation": "relu"}
# by name: the module of models and the features to a model
MODELS: dict[str, Callable[[Any, Given], Any]] = {
    "WideDeep": lambda m, g: m.WideDeep(g.dense + g.sparse, g.dense + g.sparse, _mlp(**_RELU)),
    "DeepFM": lambda m, g: m.DeepFM(g.dense + g.sparse, g.sparse, _mlp(**_RELU)),
    "DCN": lambda m, g: m.DCN(g.dense + g.sparse, 3, _mlp(**_RELU)),
    "DCNv2": lambda m, g: m.DCNv2(g.dense + g.sparse, 3, _mlp(**_RELU)),
    "EDCN": lambda m, g: m.EDCN(g.dense + g.sparse, 3, _mlp(**_RELU)),
    "AFM": lambda m, g: m.AFM(g.sparse, DIM),
    "AutoInt": lambda m, g: m.AutoInt(g.sparse, g.dense, mlp_params=_mlp(**_RELU)),
    "FiBiNet": lambda m, g: m.FiBiNet(g.sparse, _mlp(**_RELU)),
    "DeepFFM": lambda m, g: m.DeepFFM(*g.field_aware(), FIELD_AWARE_DIM, _mlp(**_RELU)),
    "FatDeepFFM": lambda m, g: m.FatDeepFFM(*g.field_aware(), FIELD_AWARE_DIM, 4, _mlp(**_RELU)),
    "DIN": lambda m, g: m.DIN(g.others, g.sequence("history"), g.target, _mlp(), {"dims": [36]}),
    "DIEN": lambda m, g: m.DIEN(g.others, g.sequence("history"), g.sequence("negatives"), g.target, _mlp()),
    "BST": lambda m, g: m.BST(g.others, g.sequence("history"), g.target, _mlp(**_RELU), nhead=2, dropout=0.0),
}
WITH_LOSS = ("DIEN",)


def columns(rows: int) -> tuple[Columns, torch.Tensor]:
    """Ids that are frequent at the head of each column, numbers, lists of 1 to `HISTORY` ids, padded with 0; labels."""
    draw, sizes = np.random.default_rng(0), table_sizes(IDS)
    found: dict[str, Any] = {f"C{i}": _ids(draw, size, (rows,)) for i, size in enumerate(sizes)}
    found |= {f"I{i}": draw.normal(size=rows).astype(np.float32) for i in range(NUMBERS)}
    present = np.arange(HISTORY) < draw.integers(1, HISTORY + 1, (rows, 1))
    for name in ("history", "negatives"):
        found[name] = np.where(present, 1 + _ids(draw, max(sizes) - 1, (rows, HISTORY)), 0)
    labels = draw.integers(0, 2, rows).astype(np.float32)
    return {name: torch.from_numpy(values) for name, values in found.items()}, torch.from_numpy(labels)


def _ids(draw: np.random.Generator, size: int, shape: tuple[int, ...]) -> Any:
    return (draw.random(shape) ** 3 * size).astype(np.int64)


def batch_of(schema: Schema, rows: Columns, labels: torch.Tensor) -> Batch:
    """Rows as our side gets them."""
    dense = [rows[f.name].unsqueeze(1) for f in schema.dense]
    lists = [values[values > 0] for f in schema.sequences for values in rows[f.name]]
    sequences = None
    if lists:
        lengths = torch.tensor([0, *map(len, lists)])
        sequences = RaggedSequences(torch.cat(lists), lengths.cumsum(0))
    features = Features(
        torch.stack([rows[f.name] for f in schema.sparse], 1),
        torch.cat(dense, 1) if dense else torch.zeros(len(labels), 0),
        sequences,
    )
    return Batch(features, labels.unsqueeze(1))


def ours(name: str, steps: int, warm_up: int) -> float:
    """CPU seconds of the steps after the warm-up."""
    from rechub_ray.compat.basic import features as kinds
    from rechub_ray.compat.models import ranking
    from rechub_ray.config import validate
    from rechub_ray.learner import Learner
    from rechub_ray.world import World

    model = MODELS[name](ranking, Given(kinds))
    config = validate(
        {
            "data": {"root": "nowhere"},
            "model": {"name": model.registered_name, **model.arguments},
            "optimizers": [
                {"name": "rowwise_adagrad", "params": ["*embedding.*"], "lr": 0.02},
                {"name": "adam", "lr": 1e-3},
            ],
        }
    )
    schema = model.schema
    del model
    learner = Learner(config, schema, world=World(), device=torch.device("cpu"), total_steps=1_000_000)
    data, labels = columns(steps * BATCH)
    batches = [batch_of(schema, *cut) for cut in _cuts(data, labels)]
    for number, batch in enumerate(batches):
        if number == warm_up:
            started = time.process_time()
        learner.train_step(batch, step=number)
    return time.process_time() - started


def theirs(name: str, steps: int, warm_up: int) -> float:
    """CPU seconds of the steps after the warm-up."""
    from torch_rechub.trainers import CTRTrainer

    kinds = importlib.import_module("torch_rechub.basic.features")
    model = MODELS[name](importlib.import_module("torch_rechub.models.ranking"), Given(kinds))
    timed = Clocked(_cuts(*columns(steps * BATCH)))
    with tempfile.TemporaryDirectory() as folder:
        trainer = CTRTrainer(
            model, optimizer_params={"lr": 1e-3}, n_epoch=1, loss_mode=name not in WITH_LOSS, model_path=folder
        )
        trainer.train_one_epoch(timed)
    return timed.asked[-1] - timed.asked[warm_up]


class Clocked(list[Any]):
    """Batches that note the CPU time when each is asked for, which tells when the one before was done."""

    def __iter__(self) -> Iterator[Any]:
        self.asked: list[float] = []
        for batch in super().__iter__():
            self.asked.append(time.process_time())
            yield batch
        self.asked.append(time.process_time())


def _cuts(data: Columns, labels: torch.Tensor) -> list[tuple[Columns, torch.Tensor]]:
    places = [slice(at, at + BATCH) for at in range(0, len(labels), BATCH)]
    return [({name: values[at].clone() for name, values in data.items()}, labels[at]) for at in places]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=("ours", "torch-rechub"))
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--warm-up", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    side = ours if options.side == "ours" else theirs
    seconds = side(options.model, options.steps, options.warm_up)
    print(json.dumps({"rows_per_second": (options.steps - options.warm_up) * BATCH / seconds}))


if __name__ == "__main__":
    main()
