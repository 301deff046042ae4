"""Models of the real torch-rechub, as its users write them down."""

from __future__ import annotations

from torch import nn
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.ranking import DIEN, DeepFM

USER, ITEM = SparseFeature("user", 30, embed_dim=8), SparseFeature("item", 20, embed_dim=8, padding_idx=0)


def _sequence(name: str, pooling: str) -> SequenceFeature:
    return SequenceFeature(name, 20, embed_dim=8, pooling=pooling, shared_with="item", padding_idx=0)


def deepfm(dropout: float = 0.0) -> nn.Module:
    features = [
        USER,
        ITEM,
        _sequence("history", "sum"),
    ]  # of a mean, the exporter leaves out "+ 1e-16": NaN without ids
    return DeepFM(features, [USER, ITEM], {"dims": [16], "dropout": dropout, "activation": "relu"})


def dien() -> nn.Module:
    return DIEN([USER], [_sequence("history", "concat")], [_sequence("negatives", "concat")], [ITEM], {"dims": [16]})
