"""Numbers of parameters that others published for Frappe_x1 (embeddings of width 10)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SparseFeature

DEEP = {"embedding_dim": 10, "hidden_units": [400, 400, 400], "batch_norm": True}
PUBLISHED: list[tuple[dict[str, Any], int]] = [
    ({"name": "lr"}, 5390),
    ({"name": "fm", "embedding_dim": 10}, 59280),
    ({"name": "deepfm", **DEEP}, 423280),
    ({"name": "wide_deep", **DEEP}, 423280),
    # that of DLRM without numeric columns and with concatenation, which is this model; the published row called DNN
    # (781892) has two such towers
    ({"name": "mlp", **DEEP}, 417891),
    # published with low_rank=32 and num_experts=4, but the number is that of full matrices
    ({"name": "dcn_v2", "num_cross_layers": 4, **DEEP}, 458391),
    ({"name": "dcn_v2", "structure": "crossnet_only", "num_cross_layers": 4, "embedding_dim": 10}, 94391),
]


@pytest.fixture(scope="module")
def frappe(data_dir: Callable[[str], Path]) -> Schema:
    """Vocabularies of the training file, and one id for everything else, in every column."""
    sizes = pd.read_csv(data_dir("frappe") / "train.csv").drop(columns="label").nunique()
    return Schema(
        features=tuple(SparseFeature(str(name), int(size) + 1) for name, size in sizes.items()),
        labels=(Label("label"),),
    )


@pytest.mark.parametrize(("node", "expected"), PUBLISHED, ids=lambda x: x["name"] if isinstance(x, dict) else str(x))
def test_it_has_as_many_parameters_as_published(node: dict[str, Any], expected: int, frappe: Schema) -> None:
    with torch.device("meta"):
        model = MODELS.build(node, frappe)
    assert sum(p.numel() for p in model.parameters()) == expected
