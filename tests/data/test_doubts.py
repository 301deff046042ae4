"""What is said of data: each kind when it is there, with its figure, and nothing of data that is all right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from rechub_ray.data.block import Block, Ragged
from rechub_ray.data.doubts import FILES, ROWS, auc_alone, doubts, sample, variation
from rechub_ray.data.manifest import Manifest
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema(
    (
        SparseFeature("user", 5_000),
        SparseFeature("city", 40),
        DenseFeature("price"),
        DenseFeature("vector", 2),
        SequenceFeature("tags", 40, max_length=4),
    ),
    (Label("click"), Label("seconds", "regression", optional=True)),
)
COUNT = 4_000


def block(seed: int = 0, rows: int = COUNT, **changes: Any) -> Block:
    """Rows whose features tell the label in part, as real ones do; `changes` replace columns."""
    rng = np.random.default_rng(seed)
    taste = np.random.default_rng(9).normal(size=5_000)
    user, city = rng.zipf(1.3, rows) % 4_999 + 1, rng.integers(1, 40, rows)
    price = rng.lognormal(size=rows)
    click = (taste[user] + 0.3 * price + rng.normal(size=rows) > 1).astype(float)
    seconds = np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows))
    columns = {"user": user, "city": city, "price": price, "click": click, "seconds": seconds}
    columns |= {name: np.broadcast_to(values, rows) for name, values in changes.items()}
    lengths = rng.integers(0, 5, rows)
    tags = Ragged(rng.integers(1, 40, lengths.sum()), np.concatenate([[0], np.cumsum(lengths)]))
    dense = np.stack([columns["price"], np.ones(rows), np.ones(rows)], 1).astype(np.float32)
    labels = np.stack([columns["click"], columns["seconds"]], 1).astype(np.float32)
    return Block(np.stack([columns["user"], columns["city"]], 1), dense, (tags,), labels)


def test_nothing_is_said_of_data_that_is_all_right() -> None:
    for rows in (150, COUNT):
        for seed in range(5):
            splits = {"train": block(seed, rows), "valid": block(seed + 100, rows // 2), "test": block(seed + 200, 120)}
            assert not doubts(splits, SCHEMA)
    assert not doubts({"train": block()}, SCHEMA)


def test_few_rows_say_nothing() -> None:
    bad = {"city": 3, "click": 1.0, "price": 0.0}
    assert not doubts({"train": block(rows=99, **bad), "valid": block(rows=99, click=0.0)}, SCHEMA)


def test_a_feature_and_a_label_with_one_value() -> None:
    (first, second) = doubts({"train": block(city=3, price=2.5, click=1.0)}, SCHEMA)
    assert first.startswith("one value in all 4,000 rows of train that were looked at: 'city', 'price'. ")
    assert "leave it out" in first
    assert second.startswith("label 'click' is 1 in all 4,000 rows of train that were looked at: there is nothing")
    assert not doubts({"train": block(city=3, price=2.5, click=1.0)}, SCHEMA, constants=False)


CLICK = block().labels[:, 0]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("price", CLICK * 2 - 1 + np.random.default_rng(1).normal(size=COUNT) / 5),  # made of the label
        ("price", np.abs(np.random.default_rng(1).normal(size=COUNT)) * (1 - CLICK)),  # zero where it is 1
        ("price", np.where(CLICK > 0, 1, np.sign(np.arange(COUNT) % 2 - 0.5) * 2)),  # in the middle
        ("city", np.where(CLICK > 0, 7, np.arange(COUNT) % 6 + 8)),
        ("user", np.where(CLICK > 0, 1, 2) + 2 * (np.arange(COUNT) % 400)),
    ],
)
def test_a_feature_that_tells_the_label(column: str, values: Any) -> None:
    (line,) = doubts({"train": block(**{column: values})}, SCHEMA)
    assert line.startswith(f"label 'click' is told by one feature alone: '{column}' (AUC 0.99") or "AUC 1.0000" in line
    assert "leave it out" in line
    assert line.count("AUC") == 1


def test_ids_that_are_met_once_tell_nothing() -> None:
    assert not doubts({"train": block(user=np.arange(COUNT) + 1)}, SCHEMA)


def test_the_auc_of_one_feature_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    codes, labels = rng.integers(0, 50, 600), (rng.random(600) < 0.3).astype(float)
    labels[rng.random(600) < 0.1] = np.nan
    known = pd.DataFrame({"code": codes, "label": labels}).dropna()
    fitted, rest = known.iloc[::2], known.iloc[1::2]
    groups = fitted.groupby("code")["label"]
    mean = (groups.sum() + fitted["label"].mean()) / (groups.count() + 1)
    scores = rest["code"].map(mean).fillna(fitted["label"].mean())
    assert auc_alone(codes, labels) == pytest.approx(roc_auc_score(rest["label"], scores))
    assert auc_alone(codes[:40], labels[:40]) == 0.5  # too few


def test_values_that_training_does_not_have() -> None:
    later = {"user": np.where(np.arange(COUNT) % 2, 0, block(1).sparse[:, 0])}
    (line,) = doubts({"train": block(), "valid": block(1, **later), "test": block(2)}, SCHEMA)
    assert line.startswith("values that train does not have, or none at all: 'user' (50% in valid). ")
    assert "hash_buckets" in line


def test_splits_that_differ() -> None:
    late = {"city": 39, "price": block(1).dense[:, 0] + 3}
    (line,) = doubts({"train": block(), "valid": block(1, **late), "test": block(2, price=9.0)}, SCHEMA)
    assert line.startswith("distributions that differ from those in train (total variation, ")
    assert re.search(r"'city' \(0\.9\d valid\)", line)
    assert re.search(r"'price' \(0\.\d\d valid, 0\.9\d test\)", line)


@pytest.mark.parametrize(("rows", "says"), [(COUNT, True), (120, False)])
def test_labels_that_differ(rows: int, says: bool) -> None:
    often = (np.arange(rows) % 3 > 0).astype(float)
    rare = (np.arange(rows) % 12 == 0).astype(float) if says else (np.arange(rows) % 2).astype(float)
    lines = doubts({"train": block(rows=rows, click=often), "valid": block(1, rows, click=rare)}, SCHEMA)
    assert len(lines) == says
    assert all(
        line.startswith("label 'click' is 1 in 0.666 of the rows of train and 0.0835 of valid") for line in lines
    )


def test_total_variation() -> None:
    rng = np.random.default_rng(0)
    assert variation(*(rng.integers(0, 60, 500) for _ in range(2))) < 0.05
    assert variation(rng.integers(0, 60, 500), rng.integers(60, 120, 500)) > 0.7
    # 60 of 100 in place of 20: 0.4 has to move
    one, two = np.repeat([0, 1], [20_000, 80_000]), np.repeat([0, 1], [60_000, 40_000])
    assert variation(one, two) == pytest.approx(0.4, abs=0.01)


def test_many_features_are_one_line() -> None:
    schema = Schema(tuple(DenseFeature(f"f{i}") for i in range(30)), (Label("y"),))
    rows = Block(np.zeros((200, 0), np.int32), np.ones((200, 30), np.float32), (), np.eye(2)[np.arange(200) % 2][:, :1])
    (line,) = doubts({"train": rows}, schema)
    assert "'f0', 'f1', 'f2', 'f3', 'f4' and 25 more." in line


def test_a_sample_is_from_all_over_the_files(tmp_path: Path) -> None:
    schema = Schema((SparseFeature("file", 99), SequenceFeature("list", 99)), (Label("y"),), row_id="row", weight="w")
    for number in range(20):
        rows = {"file": [number] * 50, "list": [[number] * (i % 3) for i in range(50)], "y": [0, 1] * 25}
        rows |= {"row": list(range(50)), "w": [1.0] * 50}
        pq.write_table(pa.table(rows), tmp_path / f"{number:02d}.parquet", row_group_size=30)
    manifest = Manifest.scan(tmp_path, schema)
    found = sample(manifest, schema, 80)
    values, counts = np.unique(found.sparse, return_counts=True)
    assert len(values) == FILES
    assert (values[0], values[-1]) == (0, 19)
    assert set(counts) == {10}
    assert (found.sequences[0].values == np.repeat(found.sparse[:, 0], np.diff(found.sequences[0].offsets))).all()
    assert (sample(manifest, schema, 80).labels == found.labels).all()
    assert sample(manifest, schema).rows < ROWS
