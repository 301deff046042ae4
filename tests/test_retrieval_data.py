"""From a log to ranks: what `prepare` writes is what a model for retrieval trains on and is evaluated with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

import rechub_ray
from rechub_ray import config as config_module
from rechub_ray.batch import RaggedSequences
from rechub_ray.checkpoint import read
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import batch_from_table
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.source import EvalSource, ThreadReader
from rechub_ray.errors import DataError
from rechub_ray.models.matching.base import Retriever, without_item
from rechub_ray.preparation import PrepareResult, prepare
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.launch import train
from rechub_ray.world import World

RECIPE: dict[str, Any] = {
    "files": "log.csv",
    "history": {"user": "user", "item": "item", "order": "time", "max_length": 4, "exclude": "seen", "age": "ages",
                "rows": "both"},
    "split": {"by": "leave_last_out", "user": "user", "order": "time", "valid": 1, "test": 1},
    "labels": [],
    "row_id": "user",
    "features": [
        {"kind": "categorical", "columns": ["user", "item"]},
        {"kind": "sequence", "name": "history", "max_length": 4, "shared_with": "item"},
        {"kind": "sequence", "name": "ages", "max_length": 4, "numbers": True, "aligned_with": "history"},
    ],
    "items": {"id": "item", "from_rows": ["brand"], "features": [{"kind": "categorical", "name": "brand"}]},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PrepareResult:
    folder = tmp_path_factory.mktemp("retrieval")
    rng = np.random.default_rng(0)
    # users like items of their own fifth of 40, of which they take 12 of 8: most twice
    rows = [(user, 8 * (user % 5) + rng.integers(8)) for user in range(60) for _ in range(12)]
    lines = [f"{user},{item},{time},b{item % 7}" for time, (user, item) in enumerate(rows)]
    (folder / "log.csv").write_text("user,item,time,brand\n" + "\n".join(lines) + "\n")
    return prepare({**RECIPE, "source": str(folder), "out": str(folder / "data")})


def run(prepared: PrepareResult, folder: Path, **changes: Any) -> Any:
    config = config_module.load(
        {
            "data": {"root": prepared.out, "batch_size": 50, "eval_batch_size": 32},
            "model": {
                "name": "dssm",
                "embedding_dim": 4,
                "vector_dim": 4,
                "user_units": [8],
                "item_units": [8],
                "init_std": 0.1,
            },
            "metrics": [
                "recall@5",
                {"name": "recall@5", "exclude": "seen"},
                {"name": "recall@5", "exclude": "history"},
            ],
            "optimizers": [{"name": "adam", "lr": 0.02}],
            "train": {"epochs": 8, "threads": 1},
            "export": {"onnx": False},
            "trackers": [],
            **changes,
        },
        {"model_dir": str(folder)},
    )
    return train(config)


def by_hand(data: PrepareResult, folder: Path, split: str, exclude: str | None) -> float:
    """Recall@5 by sorting the products of all items."""
    model = read(folder).build_model().eval()
    assert isinstance(model, Retriever)
    table = pq.read_table(Path(data.out) / split)
    catalogue = Catalogue.read(data.out, data.schema)
    features, ids = without_item(data.schema, batch_from_table(table, data.schema).features)
    with torch.no_grad():
        scores = (model.user_vectors(features) @ model.item_vectors(catalogue.features).T).double().numpy()
    hits = []
    for row, own in enumerate(ids.tolist()):
        left_out = [] if exclude is None else [item - 1 for item in table[exclude][row].as_py() if item not in (0, own)]
        scores[row, left_out] = -np.inf
        hits.append(own in 1 + np.argsort(-scores[row], kind="stable")[:5])
    return float(np.mean(hits))


def test_seen_items_are_left_out_of_rankings(data: PrepareResult, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run")
    for split, found in (("valid", result.metrics), ("test", result.test_metrics)):
        for exclude in (None, "seen", "history"):
            key = "recall@5" + (f"_without_{exclude}" if exclude else "")
            assert found[key] == pytest.approx(by_hand(data, tmp_path / "run", split, exclude)), (split, exclude)
    assert result.test_metrics["recall@5"] < result.test_metrics["recall@5_without_seen"]
    assert result.test_metrics["recall@5_without_history"] != result.test_metrics["recall@5_without_seen"]


def test_raw_rows_get_the_vectors_of_prepared_ones(data: PrepareResult, tmp_path: Path) -> None:
    run(data, tmp_path / "run", train={"epochs": 1, "threads": 1})
    frame = pd.read_csv(Path(data.out).parent / "log.csv")
    vectors = rechub_ray.load(str(tmp_path / "run")).predict(frame)["vector"]
    table = pq.read_table(Path(data.out) / "test")
    table = table.take(np.argsort([int(user) for user in table["user_raw"].to_pylist()]))
    features, _ = without_item(data.schema, batch_from_table(table, data.schema).features)
    model = read(tmp_path / "run").build_model()
    assert isinstance(model, Retriever)
    expected = model.user_vectors(features).detach().numpy()
    np.testing.assert_allclose(np.stack(vectors[11::12]), expected, rtol=1e-5, atol=1e-6)  # each user's last row


def test_items_of_another_vocabulary_are_refused(data: PrepareResult, tmp_path: Path) -> None:
    run(data, tmp_path / "run", train={"epochs": 1, "threads": 1})
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "log.csv").write_text((Path(data.out).parent / "log.csv").read_text().replace(",b3\n", ",other\n"))
    other = prepare({**RECIPE, "source": str(raw), "out": str(tmp_path / "other")})
    assert [f.encoding for f in other.schema.features] == [f.encoding for f in data.schema.features]
    with pytest.raises(DataError, match=r"other vocabularies or transforms .*: 'brand' \(encoded otherwise\)"):
        evaluate(tmp_path / "run", overrides={"data.root": other.out})


def test_windows_are_a_training_split_of_the_same_data(data: PrepareResult, tmp_path: Path) -> None:
    result = run(data, tmp_path / "run", data={"root": data.out, "train": "windows", "batch_size": 20})
    assert 0 < result.metrics["recall@5"] < 1


@pytest.mark.parametrize("batch_size", [7, 60])
@pytest.mark.parametrize("sequences", [True, False])
def test_the_lists_go_beside_the_features(data: PrepareResult, batch_size: int, sequences: bool) -> None:
    schema = data.schema
    if not sequences:
        schema = dataclasses.replace(schema, features=schema.sparse)
    folder = Path(data.out) / "test"
    batches = [
        EvalSource(Manifest.scan(str(folder), schema), schema, batch_size=batch_size, world=World(),
                   reader=ThreadReader(), lists=["seen"] if exclude else []).batches()
        for exclude in (True, False)
    ]  # fmt: skip
    lists = []
    for one, plain in zip(*batches, strict=True):
        assert isinstance(one.lists, RaggedSequences)
        assert torch.equal(one.features.sparse, plain.features.sparse)
        mine, theirs = one.features.sequences, plain.features.sequences
        if sequences:
            assert isinstance(mine, RaggedSequences)
            assert isinstance(theirs, RaggedSequences)
            assert torch.equal(mine.values, theirs.values)
            assert torch.equal(mine.offsets, theirs.offsets)
        else:
            assert (mine, theirs) == (None, None)
        assert plain.lists is None
        lists += [part.tolist() for part in one.lists.values.split(one.lists.offsets.diff().tolist())]
        moved = one.to(torch.device("meta")).lists
        assert moved is not None
        assert moved.values.device.type == "meta"
    assert lists == pq.read_table(folder)["seen"].to_pylist()


def test_lists_that_are_missing_are_said_before_training(data: PrepareResult, tmp_path: Path) -> None:
    place = tmp_path / "valid.parquet"
    pq.write_table(pq.read_table(Path(data.out) / "valid").drop_columns(["seen"]), place)
    with pytest.raises(DataError, match=r"valid\.parquet has no column 'seen'"):
        run(data, tmp_path / "run", data={"root": data.out, "valid": str(place)})
