"""The whole way on an object store: RECHUB_S3 names a folder of one (a URI), or moto serves one where it is installed.

`pip install "moto[server]"`, or RECHUB_S3="s3://bucket/folder?endpoint_override=localhost:9000&scheme=http".
"""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow.fs as pafs
import pytest

from rechub_ray import config
from rechub_ray.checkpoint import Store
from rechub_ray.errors import ConfigError
from rechub_ray.export.onnx import default_path, export_onnx
from rechub_ray.files import exists, join, open_filesystem, read_text, write_text
from rechub_ray.preparation import prepare
from rechub_ray.runtime.inference import evaluate, predict
from rechub_ray.runtime.launch import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """A folder of its own in an object store."""
    given = os.environ.get("RECHUB_S3")
    if given is not None:
        yield join(given, uuid.uuid4().hex)
        return
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server.start()
        host, port = server.get_host_and_port()
        query = f"endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        pafs.FileSystem.from_uri(f"s3://rechub?{query}&allow_bucket_creation=true")[0].create_dir("rechub")
        yield f"s3://rechub/folder?{query}"
        server.stop()


def test_prepare_train_evaluate_predict_and_export_on_an_object_store(place: str) -> None:
    draw = random.Random(0)
    for split, rows in (("train", 400), ("valid", 100), ("test", 100)):
        lines = [f"{draw.randrange(9)},{draw.randrange(7)},{draw.randrange(2)}" for _ in range(rows)]
        write_text(join(place, f"raw/{split}.csv"), "\n".join(["user,item,y", *lines]) + "\n")
    recipe: dict[str, Any] = {
        "source": join(place, "raw"),
        "out": join(place, "data"),
        "files": {split: f"{split}.csv" for split in ("train", "valid", "test")},
        "split": {"by": "file"},
        "labels": [{"name": "y"}],
        "features": [{"kind": "categorical", "columns": ["user", "item"]}],
    }
    prepare(recipe)
    with pytest.raises(ConfigError, match="exists already"):
        prepare(recipe)
    prepare({**recipe, "overwrite": True})

    run = config.load(
        {
            "model_dir": join(place, "run"),
            "data": {"root": join(place, "data"), "batch_size": 50},
            "model": {"name": "lr"},
            "train": {"epochs": 2, "threads": 1},
            "trackers": [],
        }
    )
    result = train(run)
    assert result.best_checkpoint.startswith(join(place, "run/checkpoints/step_").partition("?")[0])
    assert evaluate(run.directory()) == result.test_metrics
    assert predict(run.directory(), join(place, "predictions")) == 100
    with pytest.raises(ConfigError, match="holds predictions already"):
        predict(run.directory(), join(place, "predictions"))
    raw, scores = join(place, "raw/te*.csv"), join(place, "scores")
    assert predict(run.directory(), scores, raw=raw, keep=["user", "item"]) == 100
    filesystem, root = open_filesystem(scores)
    assert [info.base_name for info in filesystem.get_file_info(pafs.FileSelector(root))] == ["part-00000.parquet"]
    out = default_path(result.best_checkpoint)
    export_onnx(result.best_checkpoint, out)
    filesystem, root = open_filesystem(out)
    assert exists(filesystem, root)
    assert root.rpartition("/")[0].endswith("/run")

    longer = config.merge(run.model_dump(mode="json"), {"train.epochs": 3})
    assert train(config.load(longer), resume="must").details["steps"] == 24
    assert train(run, resume="never").details["steps"] == 16
    assert Store(run.directory()).newest() == "step_0000000016"
    assert "step_0000000024" in read_text(join(place, "run/checkpoints.1/index.json"))
