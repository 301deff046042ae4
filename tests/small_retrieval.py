"""A small data set for retrieval: users of five tastes, and items, of which the table lacks some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rechub_ray.data.shard import SealedWriter
from rechub_ray.schema import DenseFeature, Items, Schema, SequenceFeature, SparseFeature

ITEMS, USERS, TASTES = 61, 40, 5
SCHEMA = Schema(
    features=(
        SparseFeature("user", USERS),
        DenseFeature("age"),
        SparseFeature("item", ITEMS),
        SequenceFeature("history", ITEMS, max_length=5, shared_with="item"),
        SequenceFeature("words", 12, max_length=3),
    ),
    labels=(),
    group="user",
    row_id="row",
    items=Items(
        "item",
        (SparseFeature("genre", 7), DenseFeature("price"), SequenceFeature("tags", 9, max_length=3)),
        lists=("shown",),
    ),
)
KNOWN = np.array([i for i in range(1, ITEMS) if i % 20 != 7])


def write_retrieval(
    root: Path, *, train: int = 1200, valid: int = 200, seed: int = 0, row_group_rows: int = 128
) -> Path:
    """Write the data set: `train`, `valid` and `test` (as large as `valid`), and the item table."""
    rng = np.random.default_rng(seed)
    tables = {name: rows_table(rng, rows) for name, rows in (("train", train), ("valid", valid), ("test", valid))}
    for name, table in tables.items():
        write_shards(root / name, table, row_group_rows, files=2)
    counts = np.bincount(tables["train"]["item"].to_numpy(), minlength=ITEMS)
    write_shards(root / "items", items_table(rng, counts), 16, files=1)
    SCHEMA.save(root / "schema.json")
    assert json.loads((root / "schema.json").read_text())["items"]["id"] == "item"
    return root


def rows_table(rng: np.random.Generator, rows: int) -> pa.Table:
    """Rows whose item is of the user's taste, the first ones of each most often."""
    user = rng.integers(0, USERS, rows)
    place = np.minimum(rng.geometric(0.25, rows) - 1, ITEMS // TASTES - 1)
    history = [_of_taste(user[i], rng.integers(0, ITEMS // TASTES, rng.integers(0, 6))) for i in range(rows)]
    words = [rng.integers(0, 12, rng.integers(0, 4)) for _ in range(rows)]
    return pa.table(
        {
            "user": user.astype(np.int32),
            "age": rng.normal(size=rows).astype(np.float32),
            "item": _of_taste(user, place).astype(np.int32),
            "history": pa.array([ids.astype(np.int32) for ids in history], pa.list_(pa.int32())),
            "words": pa.array([ids.astype(np.int32) for ids in words], pa.list_(pa.int32())),
            "row": np.arange(rows),
            "shown": _shown(rows),
        }
    )


def items_table(rng: np.random.Generator, counts: np.ndarray) -> pa.Table:
    tags = [rng.integers(0, 9, rng.integers(0, 4)).astype(np.int32) for _ in KNOWN]
    return pa.table(
        {
            "item": KNOWN.astype(np.int64),
            "genre": (KNOWN % TASTES + 1).astype(np.int32),
            "price": rng.normal(size=len(KNOWN)).astype(np.float32),
            "tags": pa.array(tags, pa.list_(pa.int32())),
            "count": counts[KNOWN].astype(np.int64),
        }
    )


def _shown(rows: int) -> pa.Array:
    """Lists of items that the user was shown; some are empty, some hold items twice or such as the table lacks."""
    rng = np.random.default_rng(rows)
    return pa.array([rng.integers(0, ITEMS, rng.integers(0, 5)).astype(np.int32) for _ in range(rows)])


def _of_taste(user: Any, place: np.ndarray) -> np.ndarray:
    return 1 + place * TASTES + user % TASTES


def write_shards(folder: Path, table: pa.Table, row_group_rows: int, *, files: int) -> None:
    folder.mkdir(parents=True)
    for i in range(files):
        start, stop = table.num_rows * i // files, table.num_rows * (i + 1) // files
        with SealedWriter(folder / f"part-{i:05d}.parquet", table.schema) as writer:
            writer.write_table(table.slice(start, stop - start), row_group_rows)
