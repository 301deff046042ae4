"""Deep & Cross Network V2."""

from __future__ import annotations

from typing import Any

from torch import nn

from rechub_ray.errors import ConfigError
from rechub_ray.layers.cross import CrossNet, CrossNetMix
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import CrossRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("dcn_v2")
class DCNv2(CrossRanker):
    """Cross layers with matrices: `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`; see `CrossRanker` for what is beside them.

    When to use: a strong choice for most data sets of rows; with many features, `low_rank` keeps its matrices small.

    Args:
        schema: the features.
        num_cross_layers: >= 1.
        low_rank: rank of the cross layers' matrices, >= 1; None takes full matrices.
        num_experts: low-rank experts a cross layer mixes, >= 1; more than one needs `low_rank`.
        **common: `structure`, `deep_features`, `hidden_units`, `activation`, `dropout`, `batch_norm`, `embedding_dim`,
            `init_std`.

    Raises:
        ConfigError: several experts without `low_rank`.

    Reference: Wang et al., DCN V2, arXiv 2008.13535, figure 1; eq. 1 (full), 2 (low rank), 3 to 5 (mixture).
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_cross_layers: PositiveInt = 3,
        low_rank: PositiveInt | None = None,
        num_experts: PositiveInt = 1,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.join(_cross(self.width, num_cross_layers, low_rank, num_experts))


def _cross(width: int, num_layers: int, low_rank: int | None, num_experts: int) -> nn.Module:
    if num_experts == 1:
        return CrossNet(width, num_layers, low_rank=low_rank)
    if low_rank is None:
        raise ConfigError(
            "'model.num_experts': experts are low-rank matrices, and 'model.low_rank' is not set",
            got=f"num_experts {num_experts}",
            hint="Set low_rank (32, for instance), or leave num_experts out.",
        )
    return CrossNetMix(width, num_layers, low_rank=low_rank, num_experts=num_experts)
