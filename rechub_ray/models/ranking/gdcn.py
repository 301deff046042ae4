"""Gated Deep & Cross Network."""

from __future__ import annotations

from typing import Any

from rechub_ray.layers.cross import GatedCrossNet
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import CrossRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("gdcn")
class GDCN(CrossRanker):
    """Cross layers whose products pass a gate: `x_{l+1} = x_0 * (W_l x_l + b_l) * sigmoid(G_l x_l) + x_l`.

    `structure: parallel` is the paper's GDCN-P, `stacked` its GDCN-S, `crossnet_only` its GCN.

    When to use: as `dcn_v2`, with many cross layers: gates leave products out that are noise.

    Args:
        schema: the features.
        num_cross_layers: >= 1.
        **common: `structure`, `deep_features`, `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`,
            `init_std`.

    Reference: Wang et al., Towards Deeper, Lighter and Interpretable Cross Network for CTR Prediction (CIKM 2023),
    gated cross layer. Deviation: widths of the embeddings are those of the schema (no field-level
    dimension optimisation).
    """

    def __init__(self, schema: Schema, *, num_cross_layers: PositiveInt = 3, **common: Any) -> None:
        super().__init__(schema, **common)
        self.join(GatedCrossNet(self.width, num_cross_layers))
