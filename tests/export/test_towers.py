"""A model for retrieval as files: they rank as the model does, without the code that trained it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import load_model
from rechub_ray.cli import main
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import batch_from_table
from rechub_ray.errors import ConfigError, DataError, ExportError
from rechub_ray.export import ExportReport, TowersReport, export_model, export_onnx, export_towers, towers
from rechub_ray.export.serving import Tower
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.preparation import prepare
from rechub_ray.runtime.inference import predict
from rechub_ray.runtime.launch import RunResult, train
from rechub_ray.runtime.preflight import check
from rechub_ray.schema import SequenceFeature
from rechub_ray.sweeps.exports import copy_exports, export_trial, exported
from tests.small_retrieval import KNOWN, SCHEMA, write_retrieval

# a class without a constructor of its own has the towers of another one; towers of items that compute alike stand once
OWN = {
    n: MODELS.get(n)
    for n in MODELS.names()
    if issubclass(MODELS.get(n), Retriever) and "__init__" in vars(MODELS.get(n))
}
ITEM_TOWERS = {(cls.item_vectors, cls.read_items): name for name, cls in OWN.items()}
# several vectors, and one of each position; the others are long tests, and `run` exports those of DSSM
USUAL = ("mind", "sasrec")
TOWERS = [
    pytest.param(name, part, id=f"{name}-{part}", marks=() if name in USUAL else pytest.mark.long)
    for part, names in (("user", OWN), ("item", ITEM_TOWERS.values()))
    for name in names
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunResult:
    folder = tmp_path_factory.mktemp("r")
    settings = {
        "name": "t",
        "model_dir": str(folder / "run"),
        "data": {"root": str(write_retrieval(folder / "data")), "batch_size": 64},
        "model": {"name": "dssm", "embedding_dim": 8, "vector_dim": 6, "user_units": [16], "item_units": [16]},
        "train": {"steps": 20, "threads": 1, "eval_method": "none"},
        "trackers": [],
    }
    return train(config_module.load(settings))


def vectors_of(table: Any, name: str = "vector") -> np.ndarray:
    column = table[name].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def fed(table: Any, schema: Any) -> dict[str, np.ndarray]:
    """The columns of a table as inputs of an ONNX file, lists padded with -1."""
    inputs = {}
    for feature in schema.features:
        values = table[feature.name].to_pylist()
        if isinstance(feature, SequenceFeature):
            values = [row + [-1] * (feature.max_length - len(row)) for row in values]
        inputs[feature.name] = np.array(values, np.float32 if feature.kind == "dense" else np.int64)
    return inputs


def test_training_ends_with_the_files(run: RunResult) -> None:
    serving = Path(run.model_dir) / "serving"
    assert run.onnx == str(serving / "user.onnx")
    names = {file.name for file in serving.iterdir()}
    assert names == {
        *(f"{part}.onnx{suffix}" for part in ("user", "item") for suffix in ("", ".parity.json")),
        *("items.parquet", "schema.json", "serving.json"),
    }
    assert not (Path(run.model_dir) / "model.onnx").exists()


def test_the_files_alone_rank_as_the_model_does(run: RunResult) -> None:
    serving, root = Path(run.model_dir) / "serving", Path(run.model_dir).parent / "data"
    model = load_model(run.best_checkpoint)
    assert isinstance(model, Retriever)
    rows, items = pq.read_table(root / "test"), pq.read_table(root / "items")
    sessions = {part: onnxruntime.InferenceSession(serving / f"{part}.onnx") for part in ("user", "item")}
    assert [i.name for i in sessions["user"].get_inputs()] == [f.name for f in SCHEMA.user_side.features]
    assert [i.name for i in sessions["item"].get_inputs()] == [f.name for f in SCHEMA.item_side.features]
    users = sessions["user"].run(["vector"], fed(rows, SCHEMA.user_side))[0]
    with torch.no_grad():
        expected = model.user_vectors(batch_from_table(rows, SCHEMA.user_side, targets=False).features)
        theirs = model.item_vectors(batch_from_table(items, SCHEMA.item_side, targets=False).features)
    np.testing.assert_allclose(users, expected.numpy(), atol=1e-5)
    table = pq.read_table(serving / "items.parquet")
    assert table["item"].to_pylist() == KNOWN.tolist()
    assert table.schema.metadata[b"rechub_ray.similarity"] == b"cosine"
    np.testing.assert_allclose(vectors_of(table), theirs.numpy(), atol=1e-6)
    found = sessions["item"].run(["vector"], fed(items, SCHEMA.item_side))[0]
    np.testing.assert_allclose(found, vectors_of(table), atol=1e-5)


def test_predict_writes_vectors_of_users_without_items(run: RunResult, tmp_path: Path) -> None:
    root = Path(run.model_dir).parent / "data"
    (tmp_path / "users").mkdir()
    rows = pq.read_table(root / "test").drop_columns(["item"])
    pq.write_table(rows, tmp_path / "users" / "part.parquet")
    assert predict(run.model_dir, tmp_path / "out", split=str(tmp_path / "users")) == rows.num_rows
    written = pq.read_table(tmp_path / "out")
    assert written.column_names == ["row", "vector"]
    assert written["row"].to_pylist() == rows["row"].to_pylist()
    users = onnxruntime.InferenceSession(run.onnx).run(["vector"], fed(rows, SCHEMA.user_side))[0]
    np.testing.assert_allclose(vectors_of(written), users, atol=1e-5)


def test_the_command_writes_all_or_one_tower(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", run.model_dir, "--part", "item", "--out", str(tmp_path / "i.onnx")]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"i.onnx", "i.onnx.parity.json"}
    placed = []

    def export(checkpoint: str, folder: str, **given: Any) -> TowersReport:
        placed.append((folder, given))
        return TowersReport((report, report), f"{folder}/items.parquet", 56)

    report = ExportReport("user.onnx", "user.onnx.parity.json", None, 1e-7, (), (), (), 0.0)
    monkeypatch.setattr(towers, "export_towers", export)
    for checkpoint in (run.model_dir, run.best_checkpoint):
        assert main(["export", checkpoint, "--inputs", "raw"]) == 0
    step = Path(run.best_checkpoint).name
    given = {"inputs": "raw", "index": None, "index_threads": 1}
    assert placed == [(f"{run.model_dir}/{folder}", given) for folder in ("serving", f"{step}_serving")]
    assert "items.parquet: vectors of 56 items" in capsys.readouterr().out


def test_a_trial_exports_its_towers(run: RunResult, tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    told = export_trial(run.best_checkpoint, tmp_path, probabilities=True)
    assert told["max_abs_difference"] < 1e-5
    assert exported(tmp_path) == "serving/user.onnx"
    assert exported(tmp_path / "best") is None
    copy_exports(tmp_path, tmp_path / "best")
    assert (tmp_path / "best" / "serving" / "items.parquet").is_file()


@pytest.mark.parametrize(("name", "part"), TOWERS)
def test_every_tower_computes_what_the_model_computes(name: str, part: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS.build({"name": name}, SCHEMA)
    assert isinstance(model, Retriever)
    for parameter in model.parameters():  # initial embeddings are so small that a wrong row would not be noticed
        torch.nn.init.normal_(parameter, std=min(0.3, parameter.shape[-1:].numel() ** -0.5))
    tower = Tower(model, part)
    report = export_model(tower, tower.schema, tmp_path / "t.onnx", batch_sizes=(1, 7))
    assert all(check.passed for check in report.checks)
    assert {check.batch_size for check in report.checks} == {1, 7}


RECIPE = {
    "source": "raw",
    "out": "data",
    "files": "log.csv",
    "history": {"user": "user", "item": "item", "order": "time", "max_length": 3},
    "split": {"by": "leave_last_out", "user": "user", "order": "time", "valid": 1, "test": 1},
    "labels": [],
    "features": [
        {"kind": "categorical", "columns": ["user", "item"]},
        {"kind": "sequence", "name": "history", "max_length": 3, "shared_with": "item"},
    ],
    "items": {
        "id": "item",
        "file": "goods.csv",
        "key": "key",
        "features": [{"kind": "numeric", "name": "price", "transforms": ["log1p"]}],
    },
}


@pytest.mark.parametrize(
    "model",
    [
        {"name": "dssm", "embedding_dim": 4, "user_units": [8], "item_units": [8], "init_std": 0.3},
        pytest.param({"name": "mind", "embedding_dim": 4, "hidden_units": [8]}, marks=pytest.mark.long),
        pytest.param({"name": "bert4rec", "embedding_dim": 4, "num_blocks": 1}, marks=pytest.mark.long),
        pytest.param({"name": "sasrec", "embedding_dim": 4, "num_blocks": 1}, marks=pytest.mark.long),
    ],
    ids=lambda node: node["name"],
)
def test_towers_take_raw_values_and_items_have_their_raw_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    log = [f"u{u},i{(u + 5 * place) % 30},{place}\n" for u in range(30) for place in range(6)]
    (tmp_path / "raw" / "log.csv").write_text("user,item,time\n" + "".join(log))
    goods = [f"i{item},{item + 1}\n" for item in range(30)]
    (tmp_path / "raw" / "goods.csv").write_text("key,price\n" + "".join(goods))
    prepare(RECIPE)
    settings = {
        "model": model,
        "model_dir": "run",
        "data": {"root": "data", "batch_size": 16},
        "train": {"steps": 5, "threads": 1, "eval_method": "none"},
        "trackers": [],
        "export": {"onnx": False},
    }
    train(config_module.load(settings))
    report = export_towers("run", "files", inputs="raw", batch_sizes=(1, 7))
    assert report.rows == 30
    items = pq.read_table("files/items.parquet")
    assert items.column_names == ["key", "item", "vector"]
    assert sorted(items["key"].to_pylist()) == sorted(f"i{item}" for item in range(30))
    session = onnxruntime.InferenceSession("files/item_raw.onnx")
    keys = np.array(items["key"].to_pylist(), dtype=object)
    prices = np.array([float(key[1:]) + 1 for key in keys])
    found = session.run(["vector"], {"item": keys, "price": prices})[0]
    np.testing.assert_allclose(found, vectors_of(items), atol=1e-5)
    users = onnxruntime.InferenceSession("files/user_raw.onnx")
    assert {port.name for port in users.get_inputs()} == {"user", "history"}


def test_what_cannot_be_exported_is_said(run: RunResult, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'part' of the model 'dssm'.*user or item.*none"):
        export_onnx(run.model_dir, tmp_path / "m.onnx")
    with pytest.raises(ExportError, match=r"'part' of the model 'dssm'.*users"):
        export_onnx(run.model_dir, tmp_path / "m.onnx", part="users")  # type: ignore[arg-type]
    root = Path(run.model_dir).parent / "data"
    (root / "items").rename(root / "elsewhere")
    try:
        with pytest.raises(DataError, match="no item table"):
            export_towers(run.model_dir, tmp_path / "files")
        assert not (tmp_path / "files").exists()
    finally:
        (root / "elsewhere").rename(root / "items")
    assert Catalogue.read(str(root), SCHEMA).rows == len(KNOWN)


def test_interests_are_lists_of_lists(run: RunResult, tmp_path: Path) -> None:
    root = Path(run.model_dir).parent / "data"
    settings = {
        "model_dir": str(tmp_path / "run"),
        "data": {"root": str(root), "batch_size": 64},
        "model": {"name": "mind", "embedding_dim": 6, "interest_num": 3, "hidden_units": [8]},
        "train": {"steps": 20, "threads": 1},
        "trackers": [],
    }
    result = train(config_module.load(settings))
    assert 0 < result.metrics["recall@10"] <= 1
    rows = pq.read_table(root / "test")
    assert predict(result.model_dir, tmp_path / "out", split="test") == rows.num_rows
    column = pq.read_table(tmp_path / "out")["vector"].combine_chunks()
    assert (column.type.list_size, column.type.value_type.list_size) == (3, 6)
    written = column.flatten().flatten().to_numpy().reshape(-1, 3, 6)
    served = onnxruntime.InferenceSession(str(result.onnx)).run(["vector"], fed(rows, SCHEMA.user_side))[0]
    np.testing.assert_allclose(served, written, atol=1e-5)
    assert (np.abs(written[:, 1:] - written[:, :1]).max((1, 2)) > 0).any(), "some rows have several interests"


def test_the_export_of_a_run_makes_its_index(run: RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    report = ExportReport("user.onnx", "user.onnx.parity.json", None, 1e-7, (), (), (), 0.0)

    def export(checkpoint: str, folder: str, **settings: Any) -> TowersReport:
        given.append(settings)
        return TowersReport((report, report), f"{folder}/items.parquet", 56)

    monkeypatch.setattr(towers, "export_towers", export)
    read = towers.checkpoint_module.read

    def saved(path: str, **settings: Any) -> Any:
        found = read(path, **settings)
        section = found.config.export.model_copy(update={"index": {"name": "ivf", "nlist": 3}})
        return dataclasses.replace(found, config=found.config.model_copy(update={"export": section}))

    monkeypatch.setattr(towers.checkpoint_module, "read", saved)
    towers.export_run(run.best_checkpoint, run.model_dir)
    assert main(["export", run.model_dir]) == 0
    assert main(["export", run.model_dir, "--index", "none"]) == 0
    assert [settings["index"] for settings in given] == [{"name": "ivf", "nlist": 3}] * 2 + [None]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"export.index": "hsnw"}, r"'export\.index.*unknown index 'hsnw'.*Did you mean 'hnsw'"),
        ({"export.index": {"name": "ivf", "probes": 3}}, r"'export\.index'.*no argument 'probes'.*nprobe"),
        ({"export.index": "flat", "model": "lr", "metrics": None}, "'export.index' is for models for retrieval"),
    ],
)
def test_an_index_is_checked_before_training(run: RunResult, changes: dict[str, Any], message: str) -> None:
    config = {
        "data": {"root": str(Path(run.model_dir).parent / "data"), "batch_size": 64},
        "model": {"name": "dssm"},
        "model_dir": f"{run.model_dir}-other",
    }
    with pytest.raises(ConfigError, match=message):
        check(config_module.load(config, changes))
