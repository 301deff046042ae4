"""One AUC of raw logs three ways: `evaluate` on shards, `predict` on raw files, the ONNX file of raw values."""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from rechub_ray.config import load
from rechub_ray.export import export_onnx
from rechub_ray.preparation import prepare
from rechub_ray.runtime.inference import evaluate, predict
from rechub_ray.runtime.launch import RunResult, train

RECIPES = Path(__file__).parents[2] / "configs" / "data"
BATCH = 5000


def trained(name: str, source: Path, folder: Path, files: str, label: str, **texts: Any) -> RunResult:
    """A model of all rows of a raw file, which are one split, trained for an epoch; `texts` are settings of texts."""
    recipe = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    for feature in recipe["features"]:
        feature |= texts if feature["kind"] == "categorical" else {}
    changes = {"source": str(source), "out": str(folder / "data"), "files": files, "split": None, "checksums": {}}
    prepare({**recipe, **changes}, use_ray=False)
    settings = {
        "model_dir": str(folder / "run"),
        "data": {"root": str(folder / "data"), "valid": None, "test": None, "batch_size": 2048, "labels": [label]},
        "model": {"name": "deepfm", "embedding_dim": 4, "hidden_units": [16]},
        "metrics": ["auc"],
        "optimizers": [{"name": "adam", "lr": 0.01}],
        "train": {"epochs": 1, "threads": 1},
        "trackers": [],
        "export": {"onnx": False},
    }
    return train(load(settings))


def first_rows(source: Path, folder: Path, name: str, rows: int) -> Path:
    """The files of a data set, of one of them the first rows alone."""
    folder.mkdir()
    for file in source.iterdir():
        if file.name != name:
            (folder / file.name).symlink_to(file)
    opened: Any = gzip.open if name.endswith(".gz") else open
    with opened(source / name, "rb") as lines, opened(folder / name, "wb") as file:
        file.writelines(itertools.islice(lines, rows))
    return folder


def of_file(run: str, out: Path, raw: Path, keep: list[str]) -> pd.DataFrame:
    """Predictions of a raw file with the columns that its labels are made of."""
    predict(run, out, raw=str(raw), keep=keep)
    return pq.read_table(out).to_pandas()


def of_onnx(run: str, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Predictions of the ONNX file of raw values, fed with texts, numbers and lists."""
    path = f"{run}/model_raw.onnx"
    export_onnx(run, path, inputs="raw")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ports = json.loads(session.get_modelmeta().custom_metadata_map["rechub_ray.inputs"])

    def predicted() -> Iterator[Any]:
        for start in range(0, len(frame), BATCH):
            rows = frame[start : start + BATCH]
            yield session.run(None, {port["name"]: _values(port, rows[port["column"]]) for port in ports})[0]

    return np.concatenate(list(predicted()))


def _values(port: dict[str, Any], column: pd.Series[Any]) -> Any:
    if port["form"] == "list":
        lists = column.to_list()
        longest = max(1, *map(len, lists))
        return np.array([[*row, *[""] * (longest - len(row))] for row in lists], object)
    return pd.to_numeric(column).to_numpy(np.float64) if port["dtype"] == "float64" else column.to_numpy(object)


def equal_to_1e_6(*aucs: float) -> None:
    assert np.ptp(aucs) < 1e-6, aucs
    assert 0.55 < aucs[0] < 0.999


@pytest.mark.slow
def test_census_income(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    source = first_rows(data_dir("census-income"), tmp_path / "raw", "census-income.test.gz", 20_000)
    run = trained("census_income", source, tmp_path, "census-income.test.gz", "income_over_50k").model_dir
    raw = source / "census-income.test.gz"
    found = of_file(run, tmp_path / "out", raw, ["income"])
    label = found["income"] == "50000+."
    columns = yaml.safe_load((RECIPES / "census_income.yaml").read_text())["format"]["columns"]
    frame = pd.read_csv(raw, names=columns, dtype=str, keep_default_na=False, quoting=3).apply(lambda c: c.str.strip())
    equal_to_1e_6(
        evaluate(run, split="train")["auc"],
        roc_auc_score(label, found["probability"]),
        roc_auc_score(frame["income"] == "50000+.", of_onnx(run, frame)),
    )


@pytest.mark.long  # the other two have what it has
def test_ml_100k(data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    """The side tables are joined, and the histories made, by pandas for the ONNX file."""
    source = first_rows(data_dir("ml-100k"), tmp_path / "raw", "u.data", 20_000)
    run = trained("ml_100k", source, tmp_path, "u.data", "liked").model_dir
    found = of_file(run, tmp_path / "out", source / "u.data", ["user_id", "item_id", "rating"])
    assert not found.duplicated(["user_id", "item_id"]).any()
    recipe = yaml.safe_load((RECIPES / "ml_100k.yaml").read_text())
    frame = pd.read_csv(source / "u.data", sep="\t", names=recipe["format"]["columns"], dtype=str)
    for join in recipe["joins"]:
        form = join["format"]
        side = pd.read_csv(source / join["file"], sep="|", names=form["columns"], dtype=str, quoting=3,
                           keep_default_na=False, encoding=form.get("encoding", "utf-8"))  # fmt: skip
        frame = frame.merge(side[[join["key"], *join["columns"]]], on=join["key"], how="left")
    earlier: dict[str, list[str]] = {}
    histories = {}
    for row in frame.assign(time=frame["timestamp"].astype(int)).sort_values("time", kind="stable").itertuples():
        before = earlier.setdefault(row.user_id, [])
        histories[row.Index] = before[-50:]
        before.append(row.item_id)
    frame["history"] = pd.Series(histories)
    frame["onnx"] = of_onnx(run, frame)
    both = found.merge(frame, on=["user_id", "item_id"])
    assert len(both) == len(found) == 20_000
    np.testing.assert_allclose(both["onnx"], both["probability"], rtol=0, atol=1e-5)
    equal_to_1e_6(
        evaluate(run, split="train")["auc"],
        roc_auc_score(found["rating"].astype(int) >= 4, found["probability"]),
        roc_auc_score(frame["rating"].astype(int) >= 4, frame["onnx"]),
    )


@pytest.mark.parametrize(
    "texts",
    [pytest.param({}, marks=pytest.mark.long), {"hash_buckets": 10_000}],
    ids=["vocabulary", "hashed"],
)
def test_criteo_8k(texts: dict[str, Any], data_dir: Callable[[str], Path], tmp_path: Path) -> None:
    source = data_dir("criteo-8k")
    result = trained("criteo", source, tmp_path, "train.tsv", "label", **texts)
    run = result.model_dir
    found = of_file(run, tmp_path / "out", source / "train.tsv", ["label"])
    columns = yaml.safe_load((RECIPES / "criteo.yaml").read_text())["format"]["columns"]
    frame = pd.read_csv(source / "train.tsv", sep="\t", names=columns, dtype=str, keep_default_na=False, quoting=3)
    equal_to_1e_6(
        evaluate(run, split="train")["auc"],
        roc_auc_score(found["label"].astype(int), found["probability"]),
        roc_auc_score(found["label"].astype(int), result.predict(frame)["probability"]),
        roc_auc_score(frame["label"].astype(int), of_onnx(run, frame)),
    )
