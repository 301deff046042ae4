"""Every registered model as ONNX: a table's rows give what PyTorch gives for them, read as in training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch

from rechub_ray.data.collate import batch_from_table
from rechub_ray.export import export_model
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.registry import keyword_arguments
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature

# arguments beside the defaults that bring other operators
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "deepfm": [{"batch_norm": True, "activation": "prelu", "deep_features": ["item", "history", "vector"]}],
    "dcn_v2": [{"low_rank": 4, "num_experts": 3, "batch_norm": True}],
    "finalnet": [{"num_blocks": 2, "field_gate": True}],
    "shared_bottom": [{"heads": {"click": "classes"}}],
}
# summed lists are the embeddings' matter: some models are enough, since each list takes a fifth of an export's time
WITH_SUMS = ("lr", "fm", "mlp", "deepfm")
KINDS = (Label("click"), Label("stars", "multiclass", num_classes=3))
CHAIN = (Label("click"), Label("buy"))
# an export is a second or more: outside the long tests those that, with VARIANTS, have every operator but dien's loop
DEFAULT = ("afn", "autoint", "bst", "din", "esmm", "fibinet", "mmoe", "sim", "xdeepfm")
CASES = [
    pytest.param(
        {"name": name, **arguments},
        id="-".join([name, *arguments]),
        marks=() if name in DEFAULT or arguments else pytest.mark.long,
    )
    for name in MODELS.names()
    if not issubclass(MODELS.get(name), Retriever)
    for arguments in [{}, *VARIANTS.get(name, [])]
]


@pytest.mark.parametrize("node", CASES)
def test_it_computes_what_the_model_computes(
    node: dict[str, Any], schema: Schema, write_shards: Callable[..., pa.Table], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    cls = MODELS.get(node["name"])
    if ".multi_task." in cls.__module__:
        schema = dataclasses.replace(schema, labels=KINDS if "heads" in keyword_arguments(cls) else CHAIN)
    elif node["name"] not in WITH_SUMS:
        schema = dataclasses.replace(schema, features=tuple(f for f in schema.features if f.name != "tags"))
    model = MODELS.build(node, schema)
    for parameter in model.parameters():  # initial embeddings are so small that a wrong row would not be noticed
        # wide layers keep their scale, or attention would turn rounding into another choice
        torch.nn.init.normal_(parameter, std=min(0.3, parameter.shape[-1:].numel() ** -0.5))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_()  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    report = export_model(model, schema, tmp_path / "model.onnx", probabilities=False, batch_sizes=(1, 7, 257))
    assert {check.batch_size for check in report.checks} == {1, 7, 257}
    assert all(check.passed for check in report.checks)

    model.eval()
    session = onnxruntime.InferenceSession(report.path, providers=["CPUExecutionProvider"])
    rows = write_shards(tmp_path / "rows", schema, rows=265, files=1)
    for part in (rows.slice(0, 1), rows.slice(1, 7), rows.slice(8, 257)):
        names = [output.name for output in model.outputs if output.kind != "loss"]
        got = dict(zip(names, session.run(None, served(part, schema)), strict=True))
        with torch.no_grad():
            expected = model(batch_from_table(part, schema).features)
        for name in names:
            value = expected[name]
            np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def served(rows: pa.Table, schema: Schema) -> dict[str, Any]:
    """The table's columns as inputs of the exported model."""
    inputs: dict[str, Any] = {}
    for feature in schema.features:
        values = rows[feature.name].to_pylist()
        if isinstance(feature, SequenceFeature):
            longest = max(1, *map(len, values)) if values else 1
            values = [[*ids, *[-1] * (longest - len(ids))] for ids in values]
        inputs[feature.name] = np.array(values, np.float32 if isinstance(feature, DenseFeature) else np.int64)
    return inputs
