"""The ONNX export, from a checkpoint to a file that onnxruntime runs."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from rechub_ray import checkpoint
from rechub_ray.batch import Features, Outputs
from rechub_ray.config import load
from rechub_ray.errors import CheckpointError, ExportError
from rechub_ray.export import export_model, export_onnx
from rechub_ray.export import onnx as module
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.outputs import Output
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SMALL = Schema((SparseFeature("user", 5), DenseFeature("age")), (Label("click"),))


class Scripted(Model):
    """A model whose forward is given, for what goes wrong."""

    def __init__(self, forward: Any) -> None:
        super().__init__(SMALL)
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.function = forward

    def forward(self, features: Features) -> Outputs:
        return {"logit": self.function(features) * self.weight}


def run(path: str | Path, inputs: dict[str, Any]) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return list(session.run(None, inputs))


@pytest.fixture
def saved(schema: Schema, tmp_path: Path) -> Path:
    """A checkpoint of a logistic regression with weights that can be told apart."""
    config = load({"model": {"name": "lr"}})
    model = MODELS.build(config.model, schema)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1, 1)
    folder = tmp_path / "step_0000000007"
    folder.mkdir()
    checkpoint.write(folder, config=config, schema=schema, model=model, optimizers=[], state={"step": 7})
    return folder


def test_a_checkpoint_alone_becomes_a_file_and_a_report(saved: Path, schema: Schema, tmp_path: Path) -> None:
    report = export_onnx(saved, tmp_path / "new" / "folder" / "model.onnx", batch_sizes=(2, 5))
    assert report.path == str(tmp_path / "new" / "folder" / "model.onnx")
    files = {path.name for path in Path(report.path).parent.iterdir()}
    assert files == {"model.onnx", "model.onnx.parity.json"}

    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == schema.feature_names
    assert [value.name for value in model.graph.output] == ["probability"]
    notes = {entry.key: entry.value for entry in model.metadata_props}
    assert notes["rechub_ray.schema_fingerprint"] == schema.fingerprint()
    assert notes["rechub_ray.model"] == "lr"
    assert json.loads(notes["rechub_ray.outputs"])[0]["meaning"] == "probability that 'click' is 1"
    assert str(Path(module.__file__).parents[1]).encode() not in Path(report.path).read_bytes()  # no stack traces

    document = json.loads(Path(report.report_path).read_text(encoding="utf-8"))
    assert document["batch_sizes"] == [2, 5]
    assert document["max_abs_difference"] == report.max_abs_difference < 1e-6
    assert [entry["name"] for entry in document["inputs"]] == schema.feature_names
    assert document["inputs"][4]["shape"] == ["batch", "history_length"]
    assert set(document["versions"]) == {"rechub_ray", "torch", "onnx", "onnxruntime", "onnxscript", "opset"}
    assert "step 7" in document["source"]

    weights = {name: value.numpy().astype(float) for name, value in checkpoint.read(saved).model.items()}
    got = run(report.path, by_hand())[0]
    np.testing.assert_allclose(got, [1 / (1 + math.exp(-logit)) for logit in logits_by_hand(weights)], rtol=1e-6)


def by_hand() -> dict[str, Any]:
    return {
        "user": np.array([49, 77]),
        "age": np.array([0.5, -1], np.float32),
        "item": np.array([3, -4]),
        "vector": np.array([[1, 0, 2], [0, 0, 0]], np.float32),
        "history": np.array([[3, 19, 25], [-1, -1, -1]]),
        "tags": np.array([[8, 8], [2, -1]]),
    }


def logits_by_hand(weights: dict[str, Any]) -> list[float]:
    """Logistic regression in NumPy."""
    user, item, tags = (weights[f"linear.embedding.tables.{name}"][:, 0] for name in ("user", "item", "tags"))
    dense = weights["linear.dense.weight"][0]
    bias = float(weights["linear.bias"][0])
    first = user[49] + item[3] + (item[3] + item[19] + item[0]) / 3 + 2 * tags[8]
    second = user[0] + item[0] + tags[2]
    return [bias + first + dense @ [0.5, 1, 0, 2], bias + second + dense @ [-1, 0, 0, 0]]


def test_a_run_s_folder_stands_for_its_best_checkpoint(schema: Schema, saved: Path, tmp_path: Path) -> None:
    store = checkpoint.Store(str(tmp_path / "run"))
    store.save(7, lambda folder: shutil.copytree(saved, folder, dirs_exist_ok=True) and None, is_best=True)
    report = export_onnx(tmp_path / "run", tmp_path / "model.onnx", probabilities=False, batch_sizes=(2,))
    assert [port.name for port in report.outputs] == ["logit"]
    weights = {name: value.numpy().astype(float) for name, value in checkpoint.read(saved).model.items()}
    np.testing.assert_allclose(run(report.path, by_hand())[0], logits_by_hand(weights), rtol=1e-5, atol=1e-6)


def test_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        export_onnx(tmp_path, tmp_path / "model.onnx")


def test_features_may_be_called_what_the_exporter_calls_its_values(tmp_path: Path) -> None:
    names = ("stack", "where", "embedding", "val_6", "vocab_sizes", "user id")
    schema = Schema(
        (*(SparseFeature(name, 4) for name in names), DenseFeature("cat"), SequenceFeature("clamp", 3)),
        (Label("click"),),
    )
    report = export_model(MODELS.build("fm", schema), schema, tmp_path / "model.onnx", batch_sizes=(3,))
    assert [value.name for value in onnx.load(report.path).graph.input] == schema.feature_names


def test_large_weights_go_beside_the_file_and_move_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SINGLE_FILE_BYTES", 100_000)
    schema = Schema((SparseFeature("user", 30_000),), (Label("click"),))
    report = export_model(MODELS.build("lr", schema), schema, tmp_path / "a" / "model.onnx", batch_sizes=(4,))
    assert report.data_path == str(tmp_path / "a" / "model.onnx.data")
    assert Path(report.data_path).stat().st_size >= 120_000
    assert Path(report.path).stat().st_size < 20_000
    inputs = {"user": np.array([29_999, 1])}
    before = run(report.path, inputs)
    shutil.move(tmp_path / "a", tmp_path / "b")
    np.testing.assert_array_equal(run(tmp_path / "b" / "model.onnx", inputs), before)


def test_outputs_that_are_no_logits_stay_and_say_their_shape(tmp_path: Path) -> None:
    class Towers(Model):
        outputs = (Output("user_vector", "vector", part="user"), Output("logit"))

        def forward(self, features: Features) -> Outputs:
            return {"logit": features.dense.sum(1), "user_vector": features.dense.expand(-1, 4)}

    report = export_model(Towers(SMALL), SMALL, tmp_path / "model.onnx", batch_sizes=(3,))
    assert [(port.name, port.shape) for port in report.outputs] == [
        ("user_vector", ("batch", 4)),
        ("probability", ("batch",)),
    ]


def test_a_target_may_be_a_uri(tmp_path: Path) -> None:
    import fsspec

    report = export_model(MODELS.build("lr", SMALL), SMALL, "memory://exports/model.onnx", batch_sizes=(4,))
    assert report.path == "memory://exports/model.onnx"
    memory = fsspec.filesystem("memory")
    assert json.loads(memory.cat_file("/exports/model.onnx.parity.json"))["batch_sizes"] == [4]
    onnx.checker.check_model(memory.cat_file("/exports/model.onnx"))


def test_a_model_comes_back_in_its_mode_and_nothing_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = Scripted(lambda features: features.dense[:, 0]).train()
    model.dropout.eval()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        export_model(model, SMALL, tmp_path / "model.onnx", batch_sizes=(2,))
    assert (model.training, model.dropout.training) == (True, False)
    assert capfd.readouterr() == ("", "")
    assert not heard
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert logging.getLogger("torch.onnx").level == logging.NOTSET


def exporting_only(features: Features) -> Any:
    """Slightly other values in the exported model."""
    return features.dense[:, 0] * (1.0001 if torch.compiler.is_exporting() else 1.0)


def rows_as_a_constant(features: Features) -> Any:
    return features.dense[:, 0] + (3 if torch.compiler.is_exporting() else features.rows)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda f: f.dense[:, 0] if f.dense.sum() > 0 else f.dense[:, 0] * 2, "'Scripted' cannot be exported.*control"),
        (lambda f: torch.linalg.eigvals(torch.outer(f.dense[:, 0], f.dense[:, 0])).real, "linalg_eig"),
        (exporting_only, "differs from the PyTorch model in 'probability'"),
        (rows_as_a_constant, "batch size 257"),
        (lambda f: f.dense[:, 0] * math.nan, "not finite"),
    ],
    ids=["control flow", "operator", "values", "sizes", "nan"],
)
def test_what_cannot_be_exported_faithfully_leaves_no_file(forward: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        export_model(Scripted(forward), SMALL, tmp_path / "out" / "model.onnx")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failure_keeps_the_earlier_file(tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    out.write_bytes(b"earlier")
    with pytest.raises(ExportError):
        export_model(Scripted(exporting_only), SMALL, out)
    assert out.read_bytes() == b"earlier"


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else real(name))
    with pytest.raises(ExportError, match="pip install onnxscript"):
        export_model(MODELS.build("lr", SMALL), SMALL, tmp_path / "model.onnx")


@pytest.mark.parametrize("sizes", [(), (4, 0)])
def test_batch_sizes_are_checked(sizes: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="batch_sizes"):
        export_model(MODELS.build("lr", SMALL), SMALL, tmp_path / "model.onnx", batch_sizes=sizes)


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is a folder"):
        export_model(MODELS.build("lr", SMALL), SMALL, tmp_path)


@pytest.mark.gpu
def test_a_model_on_a_gpu_stays_there(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = MODELS.build("deepfm", SMALL).cuda()
    parameters = list(model.parameters())
    export_model(model, SMALL, tmp_path / "model.onnx")
    assert all(a is b and b.is_cuda for a, b in zip(parameters, model.parameters(), strict=True))
