"""`prepare`, `train` and `Encoder` of the package: the document's blocks, and what they take."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import rechub_ray
from rechub_ray.errors import ConfigError, DataError

DOCUMENT = Path(__file__).parents[1] / "docs" / "python.md"
FEATURES: list[Any] = [
    {"kind": "categorical", "columns": ["user", "item"]},
    {"kind": "numeric", "name": "price", "transforms": ["standardise"]},
    {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 2},
]
RECIPE: dict[str, Any] = {"labels": [{"name": "liked", "expression": "rating >= 4"}], "features": FEATURES}


def frame(rows: int = 600) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    user, item = rng.integers(0, 20, rows), rng.integers(0, 10, rows)
    rating = np.clip(np.round(3 + rng.normal(size=20)[user] + rng.normal(size=10)[item]), 1, 5).astype(int)
    price = np.where(rng.random(rows) < 0.1, np.nan, rng.gamma(2, 5, rows).round(2))
    tags = ["|".join(rng.choice(["x", "y", "z"], rng.integers(0, 4))) for _ in range(rows)]
    return pd.DataFrame({"user": user, "item": [f"i{i}" for i in item], "price": price, "tags": tags, "rating": rating})


def test_the_documents_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frame().to_csv("clicks.csv", index=False)
    found: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(block, found)
    data, result, metrics = found["data"], found["result"], found["metrics"]
    assert sum(data.rows.values()) == 600
    assert data.schema.feature_names == ["user", "item", "price", "tags"]
    assert result.test_metrics["rows_seen"] == data.rows["test"]
    assert result.details["epochs"] == 2
    assert found["shorter"].details["epochs"] == 1
    assert found["shorter"].model_dir == str(tmp_path / "runs" / "shorter")
    assert metrics["rows_seen"] == 100
    assert found["fingerprints"] == {f.name: f.encoding for f in data.schema.features}
    assert found["ids"]["user"].to_pylist() == [
        found["users"].to_pylist().index(str(user)) + 1 for user in found["log"]["user"].head()
    ]


def test_a_frame_is_prepared_as_its_file(tmp_path: Path) -> None:
    rows = frame()
    rows["item"] = rows["item"].astype("category")
    rows.index = rows.index + 7
    rows.to_csv(tmp_path / "train.csv", index=False)
    rows.tail(50).to_parquet(tmp_path / "test.parquet", index=False)
    of_files = rechub_ray.prepare(
        RECIPE, source=str(tmp_path), out=str(tmp_path / "files"), split={"by": "file"},
        files={"train": "train.csv", "test": {"path": "test.parquet", "format": {"type": "parquet"}}},
    )  # fmt: skip
    files = {"train": rows, "test": pa.Table.from_pandas(rows.tail(50), preserve_index=False)}
    of_frames = rechub_ray.prepare(RECIPE, files=files, out=str(tmp_path / "frames"), split={"by": "file"})
    assert of_frames.schema == of_files.schema
    assert of_frames.rows == of_files.rows == {"train": 600, "test": 50}
    for split in files:
        assert pq.read_table(tmp_path / "frames" / split).equals(pq.read_table(tmp_path / "files" / split))
    assert of_frames.encoder.encodings == of_files.encoder.encodings
    assert sorted(path.name for path in tmp_path.iterdir()) == ["files", "frames", "test.parquet", "train.csv"]


def test_an_encoder_in_memory_is_that_of_prepare(tmp_path: Path) -> None:
    rows = frame()
    prepared = rechub_ray.prepare(RECIPE, files=rows, out=str(tmp_path / "data"))
    own = rechub_ray.Encoder.fitted(FEATURES, rows)
    assert own.encodings == prepared.encoder.encodings
    shards = pq.read_table(tmp_path / "data" / "train").select(prepared.schema.feature_names)
    assert own.encode(rows).to_pydict() == shards.to_pydict()
    own.save(tmp_path / "own" / "transforms")
    assert rechub_ray.Encoder.load(tmp_path / "own" / "transforms").encodings == own.encodings


def test_what_cannot_be_prepared(tmp_path: Path) -> None:
    rows, out = frame(), str(tmp_path / "data")
    mixed = rows.assign(item=[1, "a"] * 300)
    for given, error, words in (
        ({"files": mixed}, DataError, "column 'item' of the DataFrame cannot be read"),
        ({"files": rows.assign(price="cheap")}, DataError, r"DataFrame.parquet, row 1: column 'price': 'cheap'"),
        ({"files": rows.drop(columns="price")}, DataError, "no column 'price'"),
        ({"files": rows, "source": "s3://bucket/raw"}, ConfigError, "'source' is remote"),
        ({"files": rows, "ouput": "x"}, ConfigError, r"unknown key 'ouput'.*'out'"),
        ({}, ConfigError, "files"),
    ):
        with pytest.raises(error, match=words):
            rechub_ray.prepare(RECIPE, out=out, **given)
    with pytest.raises(ConfigError, match="not a recipe"):
        rechub_ray.prepare(["rows"])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="two columns 'user'"):
        rechub_ray.Encoder.fitted(FEATURES, pd.concat([rows, rows[["user"]]], axis=1))
    with pytest.raises(DataError, match=r"a pandas DataFrame or a pyarrow Table\. Got: list"):
        rechub_ray.Encoder.fitted(FEATURES, [1])
    with pytest.raises(DataError, match=r"raw row 1: column 'price': 'cheap' is not a number"):
        rechub_ray.Encoder.fitted(FEATURES, rows).encode(rows.assign(price="cheap"))
    assert not list(tmp_path.iterdir())


def test_what_train_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def stop(config: Any) -> Any:
        seen.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("rechub_ray.runtime.launch.check", stop)
    (tmp_path / "config.yaml").write_text("name: a\nmodel: lr\ntrain: {epochs: 3}\n")
    loaded = rechub_ray.load_config(tmp_path / "config.yaml")
    for given, overrides, keys in (
        (str(tmp_path / "config.yaml"), {}, {}),
        ({"name": "a", "model": "lr", "train": {"epochs": 3}}, (), {}),
        (None, (), {"name": "a", "model": "lr", "train": {"epochs": 3}}),
        (loaded, (), {}),
        (loaded.model_copy(update={"name": "b"}), ["name=a"], {}),
        ({"name": "b", "model": "fm"}, ["train.epochs=3"], {"name": "a", "model": "lr"}),
    ):
        with pytest.raises(KeyboardInterrupt):
            rechub_ray.train(given, overrides, **keys)
    assert seen == [loaded] * 6
    with pytest.raises(ConfigError, match=r"resum.*unknown|unknown.*resum"):
        rechub_ray.train(loaded, resum="must")
