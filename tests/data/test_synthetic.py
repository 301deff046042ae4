"""Synthetic logs: seeded, within their schema, with the signal that truth.json claims."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from rechub_ray.data.manifest import Manifest
from rechub_ray.data.synthetic import _World, area_under_curve, table_sizes, write_click_logs, write_criteo_like
from rechub_ray.errors import ConfigError
from rechub_ray.schema import DenseFeature, Schema, SequenceFeature


def digest(root: Path) -> str:
    state = hashlib.sha256()
    for path in sorted(root.rglob("*.*")):
        if path.is_file():
            state.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return state.hexdigest()


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    for name, seed in {"a": 3, "b": 3, "c": 4}.items():
        write_click_logs(tmp_path / name, rows=3000, seed=seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_click_logs_fit_their_schema(tmp_path: Path) -> None:
    info = write_click_logs(tmp_path / "out", rows=5000)
    schema = Schema.load(tmp_path / "out" / "schema.json")
    assert schema == info.schema
    assert info.rows == {"train": 4000, "valid": 500, "test": 500}
    for split, rows in info.rows.items():
        table = pq.read_table(tmp_path / "out" / split)
        assert table.num_rows == rows
        assert all(file.is_sealed for file in Manifest.scan(tmp_path / "out" / split, schema).files)
        assert table.column_names == schema.columns
        for feature in schema.features:
            values = table[feature.name].combine_chunks()
            if isinstance(feature, SequenceFeature):
                lengths = np.diff(values.offsets.to_numpy())
                assert lengths.min() == 0
                assert lengths.max() <= feature.max_length
                values = values.flatten()
            numbers = values.to_numpy()
            if isinstance(feature, DenseFeature):
                assert np.isfinite(numbers).all()
            else:
                assert 1 <= numbers.min() <= numbers.max() < feature.vocab_size


def test_the_planted_signal_is_neither_trivial_nor_linear(tmp_path: Path) -> None:
    info = write_click_logs(tmp_path / "out", rows=60_000, seed=1)
    best = info.best["auc"]
    assert json.loads((tmp_path / "out" / "truth.json").read_text())["best"] == {"auc": best}
    assert 0.8 < best < 0.95
    assert 0.2 < info.label_rate < 0.45

    def matrix(split: str) -> tuple[np.ndarray, np.ndarray]:
        table = pq.read_table(tmp_path / "out" / split)
        blocks = [np.eye(f.vocab_size)[table[f.name].to_numpy()] for f in info.schema.sparse]
        numbers = [table[f.name].to_numpy()[:, None] for f in info.schema.dense]
        return np.hstack([*blocks, *numbers]), table["click"].to_numpy()

    inputs, labels = matrix("train")
    model = LogisticRegression(max_iter=200).fit(inputs, labels)
    inputs, labels = matrix("test")
    linear = roc_auc_score(labels, model.decision_function(inputs))
    # the interactions and the history are out of a linear model's reach
    assert 0.65 < linear < best - 0.03


def test_area_under_curve_equals_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    labels = (draw.random(500) < 0.3).astype(float)
    for scores in (draw.random(500), draw.integers(0, 5, 500).astype(float)):
        assert area_under_curve(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("ids_total", [208, 10_000, 1_400_000, 10_000_000])
def test_table_sizes_sum(ids_total: int) -> None:
    sizes = table_sizes(ids_total)
    assert len(sizes) == 26
    assert sum(sizes) == ids_total
    assert min(sizes) >= 4
    assert sizes == sorted(sizes, reverse=True)


def test_criteo_like(tmp_path: Path) -> None:
    info = write_criteo_like(tmp_path / "out", rows=70_000, ids_total=5000, seed=2)
    table = pq.read_table(tmp_path / "out" / "train")
    assert table.num_rows == 70_000
    assert sum(feature.vocab_size for feature in info.schema.sparse) == 5000
    for feature in info.schema.sparse:
        ids = table[feature.name].to_numpy()
        assert 0 <= ids.min() <= ids.max() < feature.vocab_size
    assert 0.1 < info.label_rate < 0.4
    assert pq.ParquetFile(tmp_path / "out" / "train" / "part-00000.parquet").metadata.row_group(0).num_rows == 16_384


def test_refusals(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(ConfigError, match="exists already"):
        write_click_logs(tmp_path / "full", rows=1000)
    with pytest.raises(ConfigError, match="at least 100"):
        write_click_logs(tmp_path / "out", rows=5)
    with pytest.raises(ConfigError, match="ids_total >= 208"):
        write_criteo_like(tmp_path / "out", rows=5, ids_total=100)


def test_purchases_follow_clicks_with_their_chances(tmp_path: Path) -> None:
    info = write_click_logs(tmp_path / "out", rows=30_000, seed=2, files=1, purchases=True)
    assert [label.name for label in info.schema.labels] == ["click", "buy"]
    test = pq.read_table(tmp_path / "out" / "test").to_pandas()
    assert not (test["buy"] > test["click"]).any()
    rows, chances = _World(2).rows(np.random.default_rng([2, 1, 2, 0, 0]), 3000)
    for name in ("click", "buy"):
        assert rows[name].to_numpy().tolist() == test[name].tolist()
        assert info.best[f"{name}/auc"] == pytest.approx(roc_auc_score(test[name], chances[name]), abs=1e-12)
        order = np.argsort(chances[name])
        for part in np.array_split(order, 5):
            assert abs(test[name].to_numpy()[part].mean() - chances[name][part].mean()) < 0.06
    plain = write_click_logs(tmp_path / "plain", rows=30_000, seed=2, files=1)
    assert plain.best["auc"] == info.best["click/auc"], "the clicks are the same"
