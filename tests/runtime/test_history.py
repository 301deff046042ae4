"""A run's result in Python: its numbers as a table and as curves, and a model that takes raw values."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import rechub_ray
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.runtime import history
from rechub_ray.runtime.launch import RunResult

RECIPE: dict[str, Any] = {
    "labels": [{"name": "liked"}],
    "features": [
        {"kind": "categorical", "columns": ["user", "item"]},
        {"kind": "numeric", "name": "price", "transforms": ["standardise"]},
    ],
    "split": {"by": "random", "fractions": {"train": 0.8, "valid": 0.2}},
}


def frame(rows: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    made = pd.DataFrame({"user": rng.integers(0, 20, rows), "price": rng.gamma(2, 5, rows)})
    return made.assign(item=[f"i{n}" for n in rng.integers(0, 9, rows)], liked=rng.integers(0, 2, rows))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("run")
    data = rechub_ray.prepare(RECIPE, files=frame(), out=str(folder / "data"))
    return rechub_ray.train(
        data={"root": data.out, "test": None, "batch_size": 64},
        model={"name": "deepfm", "embedding_dim": 4, "hidden_units": [8], "dropout": 0.5},
        train={"epochs": 2, "log_every_steps": 2},
        export={"onnx": False},
        model_dir=str(folder / "run"),
    )


def test_the_history_of_a_run(run: RunResult) -> None:
    table = run.history
    lines = [json.loads(line) for line in Path(run.model_dir, "metrics.jsonl").read_text().splitlines()]
    assert table.index.name == "step"
    assert table.index.is_unique
    assert list(table.index) == sorted({line["step"] for line in lines})
    for line in lines:
        for name in set(line) - {"step", "time"}:
            assert table.loc[line["step"], name] == line[name], "a step's lines are one row"
    assert list(table["epoch"][table["val/auc"].notna()]) == [-1, 0, 1]
    assert table["val/auc"].max() == pytest.approx(run.metrics["auc"])
    assert list(table.columns[:2]) == ["epoch", "time"]


def test_lines_of_one_step_are_one_row(tmp_path: Path) -> None:
    lines = [{"step": 0, "epoch": -1.0, "val/auc": None}, {"step": 4, "train/loss": 0.5}, {"step": 4, "val/auc": 0.7}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    table = history.history(tmp_path)
    assert list(table.index) == [0, 4]
    assert table.loc[4, ["train/loss", "val/auc"]].tolist() == [0.5, 0.7]
    assert table["val/auc"].isna().tolist() == [True, False]
    assert table["epoch"].dtype == "Int64"
    assert table["epoch"].isna().tolist() == [False, True]
    with pytest.raises(DataError, match=r"metrics\.jsonl is missing.*jsonl"):
        history.history(tmp_path / "elsewhere")


def test_the_plot_of_a_run(run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = run.history
    figure = run.plot(["train/loss", "auc"], path=tmp_path / "curves.png")
    drawn = {axis.get_title(): axis.lines[0].get_xydata() for axis in figure.axes}
    assert set(drawn) == {"train/loss", "val/auc"}
    for name, points in drawn.items():
        np.testing.assert_array_equal(points, table[name].dropna().reset_index().to_numpy(float))
    best = [line.get_xydata().tolist() for axis in figure.axes for line in axis.lines[1:] if "auc" in axis.get_title()]
    assert best == [[[step_of(run), table["val/auc"][step_of(run)]]]]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows it"
    titles = {axis.get_title() for axis in run.plot().axes if axis.get_visible()}
    assert titles == {"train/loss", "val/auc", "val/log_loss"}
    with pytest.raises(ConfigError, match=r"no 'auk'.*val/auc"):
        run.plot("auk")
    with pytest.raises(ConfigError, match=r"x\.doc has no form"):
        run.plot("auc", path=tmp_path / "x.doc")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match=r"matplotlib.*pip install 'rechub_ray\[report\]'"):
        run.plot()


def test_what_is_drawn() -> None:
    columns = ["epoch", "val/auc", "val/click/auc", "val/rows_seen", "train/loss", "train/loss/bce", "test/auc"]
    table = pd.DataFrame([[0.0] * len(columns)] * 2, columns=columns, index=[1, 2])

    def drawn(metrics: Any = None) -> list[str]:
        return [axis.get_title() for axis in history.plot(table, metrics).axes if axis.get_visible()]

    assert drawn() == ["train/loss", "train/loss/bce", "val/auc", "val/click/auc"]
    assert drawn("auc") == ["val/auc"]
    assert drawn(["click/auc", "test/auc", "loss"]) == ["val/click/auc", "test/auc", "train/loss"]
    with pytest.raises(DataError, match="no numbers to draw"):
        history.plot(table[["epoch"]])


def step_of(run: RunResult) -> int:
    return int(run.best_checkpoint.rstrip("/").rpartition("_")[2])


def test_the_model_of_a_run_takes_raw_values(run: RunResult) -> None:
    rows = frame(40).drop(columns="liked").set_axis(range(100, 140), axis=0)
    expected = run.predict(rows)
    model = run.model
    pd.testing.assert_frame_equal(model.predict(rows), expected)
    model.train()
    pd.testing.assert_frame_equal(model.predict(rows), expected)  # without dropout
    assert model.training, "as it was"
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), rechub_ray.load(run.model_dir).model]
    for other in copies:
        pd.testing.assert_frame_equal(other.predict(rows), expected)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert model.predict(rows)["probability"].eq(0.5).all(), "by the weights as they are"
    pd.testing.assert_frame_equal(copies[0].predict(rows), expected)


def test_a_model_without_a_run_says_so(run: RunResult) -> None:
    model = type(run.model)(run.model.schema)
    with pytest.raises(ConfigError, match=r"does not know the transforms.*load\(RUN\)"):
        model.predict(frame(3))
