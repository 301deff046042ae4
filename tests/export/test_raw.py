"""Models of raw values: one file from texts and numbers, as they stand in a log, to probabilities."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from rechub_ray import checkpoint, fine_tuning
from rechub_ray.cli import main
from rechub_ray.config import load
from rechub_ray.data.fingerprint import keep
from rechub_ray.errors import ExportError
from rechub_ray.export import export_onnx, raw_graph
from rechub_ray.export import raw as module
from rechub_ray.export.parity import run
from rechub_ray.export.raw import load as load_raw
from rechub_ray.export.raw_rows import cases, raw_rows
from rechub_ray.export.serving import ServingModel
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.preparation import prepare
from rechub_ray.preparation.transforms import Vocabulary
from rechub_ray.runtime.inference import predict
from rechub_ray.schema import Schema

STEP = "run/checkpoints/step_0000000007"
SERVING = Path(__file__).parents[2] / "docs" / "serving.md"
FEATURES = [
    {"kind": "categorical", "name": "user"},
    {"kind": "categorical", "name": "city", "max_values": 4},
    {"kind": "numeric", "name": "price", "transforms": ["log1p", "standardise"], "fill": -0.5},
    {"kind": "numeric", "name": "scaled", "column": "price", "transforms": ["min_max"]},
    {"kind": "bucket", "name": "price_bucket", "column": "price", "num_buckets": 5},
    {"kind": "numeric", "name": "plain", "column": "user", "fill": 3.5},
    {"kind": "numeric", "name": "point", "dim": 2, "separator": " "},
    {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 3},
    {"kind": "sequence", "name": "cities", "column": "tags", "separator": "|", "max_length": 2, "shared_with": "city"},
]


def log(rows: int, seed: int) -> str:
    """A raw file with nulls, values that only one file has, `7.0` beside `7`, and lists that are too long or empty."""
    rng = np.random.default_rng(seed)
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(["user", "city", "price", "point", "tags", "y", "row"])
    for row in range(rows):
        user = f"{rng.integers(0, 9) + 5 * seed}{'.0' * (row % 3 == 2)}"
        city = rng.choice(["Zürich", "Bern", 'say "so"', "a,b", "x", f"only {seed}"])
        price = rng.choice([f"{rng.normal(0, 40):.3f}", f"{rng.integers(0, 5)}", "7"])
        tags = "|".join(rng.choice(["x", "Bern", "t", f"new {seed}", "7"], rng.integers(0, 6)))
        values = [user, city, price, f"{rng.normal():.3f} {row / rows:.4f}", tags]
        for column in range(3):
            if rng.random() < 0.1:
                values[column] = ""
        writer.writerow([*values, row % 2, row])
    return written.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a prepared file: a checkpoint with weights that can be told apart, and the transforms beside it."""
    folder = tmp_path_factory.mktemp("raw")
    for name, seed in (("train", 0), ("test", 1)):
        (folder / f"{name}.csv").write_text(log(300, seed), encoding="utf-8")
    make_run(folder, FEATURES)
    return folder


def make_data(
    folder: Path, features: list[dict[str, Any]], out: Path, labels: Sequence[dict[str, Any]] = ({"name": "y"},)
) -> Path:
    recipe = {
        "source": str(folder),
        "out": str(out),
        "files": {"train": "train.csv", "test": "test.csv"},
        "split": {"by": "file"},
        "labels": list(labels),
        "row_id": "row",
        "features": features,
    }
    prepare(recipe, use_ray=False)
    return out


def make_run(folder: Path, features: list[dict[str, Any]], model: str = "lr", std: float = 0.5, **data: Any) -> Path:
    out, run = make_data(folder, features, folder / "run_data", **data), folder / "run"
    config = load({"data": {"root": str(out)}, "model": {"name": model}, "train": {"threads": 1}})
    schema = Schema.load(out / "schema.json")
    model = MODELS.build(config.model, schema)
    random = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std, generator=random)
    step = folder / STEP
    step.mkdir(parents=True)
    checkpoint.write(step, config=config, schema=schema, model=model, optimizers=[], state={"step": 7})
    keep(str(out), str(run / "checkpoints"))
    return run


def ports(path: Path) -> dict[str, dict[str, Any]]:
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    return {port["name"]: port for port in json.loads(notes["rechub_ray.inputs"])}


def report(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(f"{path}.parity.json").read_text(encoding="utf-8"))
    assert {check["inputs"] for check in document["checks"]} == {"encoded", "raw"}
    return document


@pytest.fixture(scope="module")
def exported(folder: Path) -> Path:
    export_onnx(folder / STEP, folder / "model.onnx", inputs="raw")
    return folder / "model.onnx"


def test_the_script_without_rechub_ray_predicts_what_predict_does(folder: Path, exported: Path, tmp_path: Path) -> None:
    """Raw text through csv and onnxruntime, against raw text through `prepare`, shards and PyTorch."""
    scripts = re.findall(r"```python\n(.*?)```", SERVING.read_text(encoding="utf-8"), flags=re.DOTALL)
    script = next(script for script in scripts if "onnxruntime" in script)
    assert "rechub_ray " not in script
    (tmp_path / "rows.csv").write_bytes((folder / "test.csv").read_bytes())
    (tmp_path / "model_raw.onnx").write_bytes(exported.read_bytes())
    command = [sys.executable, "-c", f"{script}\nprint(outputs[0].tolist())"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    got = json.loads(done.stdout)
    predict(folder / STEP, folder / "predictions", split="test")
    table = pq.read_table(folder / "predictions")
    expected = table["probability"].to_numpy()[np.argsort(table["row"].to_numpy().astype(int))]
    assert len(got) == len(expected) == 300
    assert np.ptp(expected) > 0.5
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_the_file_says_what_each_input_is(folder: Path, exported: Path) -> None:
    found = ports(exported)
    assert {name: (port["column"], port["form"], port["dtype"]) for name, port in found.items()} == {
        "user": ("user", "text", "string"),
        "city": ("city", "text", "string"),
        "price": ("price", "number", "float64"),
        "user_number": ("user", "number", "float64"),
        "point": ("point", "text", "string"),
        "tags": ("tags", "text", "string"),
    }
    features = {feature["name"]: feature for port in found.values() for feature in port["features"]}
    schema = Schema.load(folder / "run_data" / "schema.json")
    assert {name: about["encoding"] for name, about in features.items()} == {
        f.name: f.encoding for f in schema.features
    }
    assert features["price"]["fill"] == -0.5
    assert features["cities"]["max_length"] == 2
    model = onnx.load(exported)
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 20, "ai.onnx.ml": 3}
    assert report(exported)["versions"]["opset"] == 20
    assert [value.name for value in model.graph.input] == list(found)
    real = report(exported)["raw_rows"]["real"]
    assert real == {"files": [str(folder / "train.csv")], "columns": ["user", "city", "price", "point", "tags"]}


def test_lists_of_any_width_are_read_as_prepare_does(folder: Path, exported: Path) -> None:
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])

    def predicted(tags: str) -> float:
        empty = {"user": [""], "city": [""], "price": [np.nan], "user_number": [np.nan], "point": ["0 0"]}
        inputs = {**{name: np.array(value) for name, value in empty.items()}, "tags": np.array([tags])}
        return float(session.run(None, inputs)[0][0])

    assert predicted("x|Bern|t|7") == predicted("new|Bern|t|7.0") == predicted("Bern|t|7")
    assert predicted("Bern||t") == predicted("Bern|never seen|t") != predicted("Bern|t")
    assert predicted("") != predicted("|") == predicted("never|seen")
    assert predicted("never seen") == predicted("neither")


@pytest.mark.parametrize("feature", ["price", "scaled", "price_bucket", "plain", "point", "tags", "cities", "user"])
def test_one_transform_that_differs_is_noticed(folder: Path, exported: Path, feature: str) -> None:
    """The comparison passes with the transforms of the file, and fails when any one of them is slightly another."""
    saved = checkpoint.read(folder / STEP)
    served = ServingModel(saved.build_model(), saved.schema, probabilities=True)
    raw = load_raw(saved)
    rows = raw_rows(raw, 257)

    def passes() -> bool:
        return all(check.passed for check in run(str(exported), ["probability"], cases(served, raw, rows, (257,))))

    assert passes()
    transform: Any = next(t for item in raw.inputs for t in item.transforms if t.spec.name == feature)
    if feature == "price":
        transform.shift += 0.01
    elif feature == "price_bucket":
        transform.boundaries[1] -= 1e-9  # a border belongs to the bucket below it
    elif feature == "user":
        transform.ids = Vocabulary(transform.ids.values[::-1])
    elif feature in ("tags", "cities"):
        transform.spec = transform.spec.model_copy(update={"max_length": transform.spec.max_length - 1})
    else:
        transform.spec = transform.spec.model_copy(update={"fill": 0.1})
    assert not passes()


def test_hashed_features_and_values_of_files_that_are_gone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raw_graph, "SHARED_BYTES", 0)  # the vocabulary of city and texts is in the file once
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_bytes((folder / f"{name}.csv").read_bytes())
    hashed = [
        {"kind": "categorical", "name": "city"},
        {"kind": "categorical", "name": "user", "hash_buckets": 50},
        {"kind": "numeric", "name": "price"},
        {"kind": "bucket", "name": "border", "column": "price", "num_buckets": 3},
        {"kind": "sequence", "name": "tags", "separator": "|", "hash_buckets": 9, "max_length": 4},
        {"kind": "sequence", "name": "texts", "column": "tags", "separator": "|", "shared_with": "city"},
    ]
    made = make_run(tmp_path, hashed)
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").unlink()
    assert main(["export", str(made), "--inputs", "raw"]) == 0
    found = ports(made / "model_raw.onnx")
    assert {name: port["form"] for name, port in found.items()} == {
        "city": "text",
        "user": "text",
        "price": "number",
        "tags": "text",
    }
    nodes = [node.op_type for node in onnx.load(made / "model_raw.onnx").graph.node]
    assert nodes.count("LabelEncoder") == 2, "the vocabulary, and the characters of hashed texts"
    assert report(made / "model_raw.onnx")["raw_rows"] == {"real": None}


def test_transforms_that_are_missing_or_those_of_others_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / STEP
    shutil.copytree(folder / STEP, bare)
    with pytest.raises(ExportError, match=r"keeps no transforms.*prepare --adopt"):
        export_onnx(bare, tmp_path / "model.onnx", inputs="raw")
    monkeypatch.setattr(fine_tuning, "transforms_of", lambda _: None)  # data that `prepare` did not make
    with pytest.raises(ExportError, match="run_data, has none either") as caught:
        export_onnx(bare, tmp_path / "model.onnx", inputs="raw")
    assert "--adopt" not in str(caught.value)
    other = [{**f, "transforms": ["min_max"]} if f["name"] == "price" else f for f in FEATURES if f["name"] != "plain"]
    keep(str(make_data(folder, other, tmp_path / "data")), str(bare.parent))
    with pytest.raises(ExportError, match=r"not those of the model's features 'price', 'plain'"):
        export_onnx(bare, tmp_path / "model.onnx", inputs="raw")
    with pytest.raises(ExportError, match=r"Expected: encoded or raw\. Got: 'text'"):
        export_onnx(bare, tmp_path / "model.onnx", inputs="text")
    assert not list(tmp_path.glob("model*"))


def test_lists_in_texts_are_refused(tmp_path: Path) -> None:
    """What `prepare` reads as a list, and a file would cut at the separator."""
    rows = 'tags,y,row\n"[""x"", ""y""]",1,0\nx|y,0,1\n[rare]|y,1,2\n'
    for name in ("train", "test"):
        (tmp_path / f"{name}.csv").write_text(rows)
    made = make_run(tmp_path, [{"kind": "sequence", "name": "tags", "separator": "|"}])
    raw = load_raw(checkpoint.read(tmp_path / STEP))
    with pytest.raises(ExportError, match=r"'tags' has lists that are written as JSON.*cut at '\|'"):
        raw_rows(raw, 8)
    (tmp_path / "train.csv").write_text(rows.replace('"[""x"", ""y""]"', ""))
    assert raw_rows(raw, 8).source == {"files": [str(tmp_path / "train.csv")], "columns": ["tags"]}
    assert made.exists()


def test_what_no_file_can_hold_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = load_raw(checkpoint.read(folder / STEP))
    inputs = [onnx_ir.val(f["name"], onnx_ir.DataType.INT64, ["batch"]) for f in FEATURES]
    output = onnx_ir.val("city", onnx_ir.DataType.FLOAT, ["batch"])
    with pytest.raises(ExportError, match="raw column 'city' has the name of an output"):
        raw.attach(SimpleNamespace(graph=SimpleNamespace(inputs=inputs, outputs=[output])))
    monkeypatch.setattr(module, "VOCABULARY_BYTES", 100)
    with pytest.raises(ExportError, match=r"vocabularies are too large for an ONNX file\. Expected: at most 100 bytes"):
        raw.attach(SimpleNamespace(graph=SimpleNamespace(inputs=inputs, outputs=[])))


SCORERS = [name for name in MODELS.names() if not issubclass(MODELS.get(name), Retriever)]


@pytest.mark.long
@pytest.mark.parametrize("name", SCORERS)
def test_every_model_takes_raw_values(name: str, tmp_path: Path) -> None:
    for split, seed in (("train", 0), ("test", 1)):
        (tmp_path / f"{split}.csv").write_text(log(100, seed), encoding="utf-8")
    labels = [{"name": "y"}]
    if "multi_task" in MODELS.get(name).__module__:
        labels.append({"name": "z", "expression": "y == 1 and row > 20"})
    make_run(tmp_path, FEATURES, name, std=0.1, labels=labels)
    export_onnx(tmp_path / STEP, tmp_path / "model.onnx", inputs="raw")
    assert report(tmp_path / "model.onnx")["max_abs_difference"] < 1e-5
