"""Model repositories for Triton: the configuration by the rules of its proto, and what it says by the ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from torch import nn

from rechub_ray import checkpoint
from rechub_ray.cli import main
from rechub_ray.config import load
from rechub_ray.data.fingerprint import keep
from rechub_ray.models import MODELS
from rechub_ray.preparation import prepare
from rechub_ray.schema import Schema

# field numbers and types of model_config.proto, as far as exports use them: text_format refuses any other field
TYPES = ["INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32"]
TYPES += ["FP64", "STRING", "BF16"]
MESSAGES: dict[str, list[tuple[str, int, str, bool]]] = {
    "ModelTensorReshape": [("shape", 1, "int64", True)],
    "ModelInput": [
        ("name", 1, "string", False),
        ("data_type", 2, "DataType", False),
        ("dims", 4, "int64", True),
        ("reshape", 5, "ModelTensorReshape", False),
    ],
    "ModelOutput": [
        ("name", 1, "string", False),
        ("data_type", 2, "DataType", False),
        ("dims", 3, "int64", True),
        ("reshape", 5, "ModelTensorReshape", False),
    ],
    "ModelDynamicBatching": [
        ("preferred_batch_size", 1, "int32", True),
        ("max_queue_delay_microseconds", 2, "uint64", False),
    ],
    "ModelConfig": [
        ("name", 1, "string", False),
        ("max_batch_size", 4, "int32", False),
        ("input", 5, "ModelInput", True),
        ("output", 6, "ModelOutput", True),
        ("dynamic_batching", 11, "ModelDynamicBatching", False),
        ("backend", 17, "string", False),
    ],
}
OF_ONNX = {"tensor(string)": "STRING", "tensor(int64)": "INT64", "tensor(float)": "FP32", "tensor(double)": "FP64"}


def model_config() -> Any:
    """The class of ModelConfig, made of the table above."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    enum = file.enum_type.add(name="DataType")
    for number, name in enumerate(TYPES):
        enum.value.add(name=f"TYPE_{name}", number=number)
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
            one = made.field.add(name=name, number=number, label=label)
            if kind in MESSAGES or kind == "DataType":
                one.type = field.TYPE_MESSAGE if kind in MESSAGES else field.TYPE_ENUM
                one.type_name = f".inference.{kind}"
            else:
                one.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


CONFIG = model_config()


def check(folder: Path) -> Any:
    """Check a model's folder as Triton does on loading it; return its configuration and the session of its file."""
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    config = text_format.Parse(text, CONFIG())
    assert config.name == folder.name
    assert config.backend == "onnxruntime"
    assert config.max_batch_size == 1024
    assert config.HasField("dynamic_batching")
    assert {path.name for path in (folder / "1").iterdir()} >= {"model.onnx"}
    onnx.checker.check_model(str(folder / "1" / "model.onnx"))
    session = onnxruntime.InferenceSession(folder / "1" / "model.onnx")
    for said, own in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [port.name for port in said] == [port.name for port in own]
        for port, real in zip(said, own, strict=True):
            assert TYPES[port.data_type] == OF_ONNX[real.type]
            assert port.dims, "an empty shape is not allowed in a request"
            shape = list(port.reshape.shape) if port.HasField("reshape") else list(port.dims)
            # Triton adds the size of the batch, and compares: -1 stands for a size that is free in the file
            assert isinstance(real.shape[0], str)
            assert shape == [size if isinstance(size, int) else -1 for size in real.shape[1:]]
            if port.HasField("reshape"):
                assert abs(torch.tensor(port.dims).prod()) == 1
    return config, session


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton")
    rows = [
        f"u{n % 7},i{n % 11},{n % 13 + 0.5},{n % 3} {n % 4},i{n % 5}|i{n % 3},{n % 2},{n % 5 // 4}" for n in range(120)
    ]
    (folder / "log.csv").write_text("\n".join(["user,item,price,point,tags,click,buy", *rows]) + "\n")
    return folder


def make_run(home: Path, name: str, model: dict[str, Any], **recipe: Any) -> Path:
    """A run that was not trained, with the transforms beside its checkpoint."""
    features = [
        {"kind": "categorical", "columns": ["user", "item"]},
        {"kind": "numeric", "name": "price"},
        {"kind": "numeric", "name": 'a "point"', "column": "point", "dim": 2, "separator": " "},
        {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 3, "shared_with": "item"},
    ]
    given = {"files": "log.csv", "features": features, **recipe}
    prepare({**given, "source": str(home), "out": str(home / name / "data")}, use_ray=False)
    config = load({"name": name, "data": {"root": str(home / name / "data")}, "model": model})
    schema = Schema.load(home / name / "data" / "schema.json")
    built = MODELS.build(config.model, schema)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.3)
    step = home / name / "run" / "checkpoints" / "step_0000000001"
    step.mkdir(parents=True)
    checkpoint.write(step, config=config, schema=schema, model=built, optimizers=[], state={"step": 1})
    keep(str(home / name / "data"), str(step.parent))
    return home / name / "run"


@pytest.mark.parametrize("inputs", ["encoded", "raw"])
def test_a_model_of_two_tasks(home: Path, tmp_path: Path, inputs: str, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [{"name": "click"}, {"name": "buy"}]
    name = f"shop-{inputs}"
    model = {"name": "shared_bottom", "embedding_dim": 4, "bottom_units": [8], "tower_units": [4]}
    run = make_run(home, name, model, labels=labels)
    assert main(["export", str(run), "--layout", "triton", "--inputs", inputs]) == 0
    assert f"{run}/triton: a model repository" in capsys.readouterr().out
    model_name = name if inputs == "encoded" else f"{name}_raw"
    assert [path.name for path in (run / "triton").iterdir()] == [model_name]
    config, session = check(run / "triton" / model_name)
    kinds = {port.name: (TYPES[port.data_type], list(port.dims)) for port in config.input}
    if inputs == "raw":
        assert kinds["user"] == ("STRING", [1])
        assert kinds["price"] == ("FP64", [1])
        assert kinds["tags"] == ("STRING", [1])
    else:
        assert kinds["user"] == ("INT64", [1])
        assert kinds["tags"] == ("INT64", [-1])
        assert kinds['a "point"'] == ("FP32", [2])
    assert len(session.get_outputs()) == 2


def test_both_towers(home: Path, tmp_path: Path) -> None:
    model = {"name": "dssm", "embedding_dim": 4, "user_units": [8], "item_units": [8], "vector_dim": 6}
    run = make_run(home, "towers", model, labels=[], items={"id": "item"})
    assert main(["export", str(run), "--layout", "triton", "--out", str(tmp_path / "models")]) == 0
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["towers_item", "towers_user"]
    for part in ("user", "item"):
        config, _ = check(tmp_path / "models" / f"towers_{part}")
        assert [(port.name, list(port.dims)) for port in config.output] == [("vector", [6])]


def test_options_of_other_exports_do_not_go_with_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--part=user", "--index=hnsw"):
        assert main(["export", "anywhere", "--layout", "triton", option]) == 2
        assert f"{option.partition('=')[0]} does not go with --layout triton" in capsys.readouterr().err
