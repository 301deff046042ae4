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
    ({"name": "dcn", "num_cross_layers": 3, **DEEP}, 418591),
    ({"name": "dcn", "structure": "crossnet_only", "num_cross_layers": 6, "embedding_dim": 10}, 55191),
    ({"name": "afm", "attention_dim": 128, "embedding_dim": 10}, 60826),
    ({"name": "fwfm", "linear": "felv", "embedding_dim": 10}, 107826),
    ({"name": "fmfm", "interaction": "vector", "embedding_dim": 10}, 59730),
    ({"name": "ffm", "embedding_dim": 10}, 490400),
    ({"name": "nfm", **DEEP, "batch_norm": False}, 384880),
    ({"name": "pnn", **DEEP, "batch_norm": False}, 433491),
    ({"name": "xdeepfm", "cin_units": [64], **DEEP}, 429809),
    ({"name": "xdeepfm", "cin_units": [64, 64, 64], **DEEP, "hidden_units": []}, 147984),
    ({"name": "autoint", "num_layers": 6, "num_heads": 4, "attention_dim": 128, "embedding_dim": 10}, 306051),
    ({"name": "autoint", "num_layers": 5, "attention_dim": 128, "layer_norm": True, **DEEP}, 622180),
    ({"name": "fibinet", "bilinear_type": "field_all", "reduction_ratio": 2, **DEEP}, 743480),
    ({"name": "dlrm", "interaction": "cat", **DEEP}, 417891),
    # published without the norm of the embeddings
    ({"name": "masknet", "block_dim": 50, "embedding_norm": False, **DEEP, "batch_norm": False}, 571691),
    ({"name": "edcn", "num_cross_layers": 3, "embedding_dim": 10, "batch_norm": True}, 86351),
    ({"name": "afn", "log_neurons": 1000, "afn_units": [400], "embedding_dim": 10}, 4066711),
    ({"name": "afn", "log_neurons": 1000, "afn_units": [400], **DEEP, "batch_norm": False}, 4482205),
    ({"name": "destine", "num_layers": 4, "attention_dim": 128, **DEEP}, 623346),
    # published with one more id in each column, finalmlp with two biases at the end
    (
        {
            "name": "finalmlp",
            **DEEP,
            "hidden_units": [400],
            "second_units": [100],
            "num_heads": 5,
            "gate_units": [400],
            "first_gate_features": ["user"],
            "second_gate_features": ["item"],
        },
        253392 - 12 * 10 - 1,
    ),
    ({"name": "finalnet", **DEEP, "hidden_units": [400, 400]}, 256791 - 10 * 10),
    (
        {
            "name": "finalnet",
            "num_blocks": 2,
            "field_gate": True,
            **DEEP,
            "hidden_units": [400, 400],
            "second_units": [400],
        },
        338502 - 10 * 10,
    ),
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
