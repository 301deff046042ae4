"""A small data set of sequences: users walk along rings of items, now and then they jump."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from rechub_ray.schema import Items, Schema, SequenceFeature, SparseFeature
from tests.small_retrieval import write_shards

ITEMS, RING = 61, 12
SCHEMA = Schema(
    features=(
        SparseFeature("user", 50),
        SparseFeature("item", ITEMS),
        SequenceFeature("history", ITEMS, max_length=6, shared_with="item"),
        SequenceFeature("age", 2**31 - 1, max_length=6, numbers=True, aligned_with="history"),
    ),
    labels=(),
    row_id="row",
    items=Items("item"),
)
KNOWN = np.arange(1, ITEMS)


def following(item: int) -> int:
    """The item that comes next: the next one of its ring of twelve."""
    ring, place = divmod(item - 1, RING)
    return 1 + ring * RING + (place + 1) % RING


def write_sequences(root: Path, *, train: int = 640, valid: int = 160, seed: int = 0) -> Path:
    """Write the data set, and its item table: in nine of ten steps, the best recall@1 there is."""
    rng = np.random.default_rng(seed)
    tables = {name: rows_table(rng, rows) for name, rows in (("train", train), ("valid", valid), ("test", valid))}
    for name, table in tables.items():
        write_shards(root / name, table, 128, files=2)
    counts = np.bincount(tables["train"]["item"].to_numpy(), minlength=ITEMS)
    items = pa.table({"item": KNOWN.astype(np.int64), "count": counts[KNOWN].astype(np.int64)})
    write_shards(root / "items", items, 64, files=1)
    SCHEMA.save(root / "schema.json")
    return root


def rows_table(rng: np.random.Generator, rows: int) -> pa.Table:
    walks = []
    for _ in range(rows):
        walk = [int(rng.integers(1, ITEMS))]
        for _ in range(int(rng.integers(0, 7))):
            walk.append(following(walk[-1]) if rng.random() < 0.9 else int(rng.integers(1, ITEMS)))
        walks.append(walk)
    ages = [np.sort(rng.integers(0, 10**6, len(walk) - 1))[::-1] for walk in walks]
    return pa.table(
        {
            "user": rng.integers(0, 50, rows).astype(np.int32),
            "item": np.array([walk[-1] for walk in walks], np.int32),
            "history": pa.array([np.array(walk[:-1], np.int32) for walk in walks], pa.list_(pa.int32())),
            "age": pa.array([age.astype(np.int64) for age in ages], pa.list_(pa.int64())),
            "row": np.arange(rows),
        }
    )
