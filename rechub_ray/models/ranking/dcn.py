"""Deep & Cross Network."""

from __future__ import annotations

from typing import Any

from rechub_ray.layers.cross import VectorCrossNet
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import CrossRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("dcn")
class DCN(CrossRanker):
    """Cross layers with vectors: `x_{l+1} = x_0 <w_l, x_l> + b_l + x_l`; see `CrossRanker` for what is beside them.

    When to use: products of several features at nearly no cost beside a perceptron; `dcn_v2` is stronger and larger.

    Args:
        schema: the features.
        num_cross_layers: >= 1.
        **common: `structure`, `deep_features`, `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`,
            `init_std`.

    Reference: Wang et al., Deep & Cross Network for Ad Click Predictions, arXiv 1708.05123, eq. 3 and 5.
    """

    def __init__(self, schema: Schema, *, num_cross_layers: PositiveInt = 3, **common: Any) -> None:
        super().__init__(schema, **common)
        self.join(VectorCrossNet(self.width, num_cross_layers))
