"""Deep & Cross Network V2."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.cross import CrossNet, CrossNetMix
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits, Probability
from rechub_ray.models.base import MODELS, Model
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("dcn_v2")
class DCNv2(Model):
    """Cross layers for explicit feature products, with a multi-layer perceptron beside or behind them.

    With x = [e_1, ..., e_K, dense]: `parallel` gives `logit = <w, [cross(x), mlp(x)]> + b`, `stacked`
    `<w, mlp(cross(x))> + b`, and `crossnet_only` `<w, cross(x)> + b`.

    Args:
        schema: the features.
        structure: where the deep part stands. `crossnet_only` has none and does not read `hidden_units`,
            `activation`, `dropout` and `batch_norm`.
        num_cross_layers: >= 1.
        low_rank: rank of the cross layers' matrices, >= 1; None takes full matrices.
        num_experts: low-rank experts a cross layer mixes, >= 1; more than one needs `low_rank`.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        hidden_units: widths of the deep part's layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        deep_features: names of the features to use; None takes all.
        init_std: standard deviation of the initial embeddings, >= 0.

    Shapes:
        `logit` (B,)

    Raises:
        ConfigError: several experts without `low_rank`.

    Reference: Wang et al., DCN V2, arXiv 2008.13535, figure 1; eq. 1 (full), 2 (low rank), 3 to 5 (mixture).
    """

    def __init__(
        self,
        schema: Schema,
        *,
        structure: Literal["parallel", "stacked", "crossnet_only"] = "parallel",
        num_cross_layers: PositiveInt = 3,
        low_rank: PositiveInt | None = None,
        num_experts: PositiveInt = 1,
        embedding_dim: PositiveInt = 16,
        hidden_units: HiddenUnits = (256, 128),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        deep_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = EmbeddingBank(schema, dim=embedding_dim, features=embedded(schema, names), init_std=init_std)
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.structure = structure
        width = self.deep_input.width
        self.cross = _cross(width, num_cross_layers, low_rank, num_experts)
        self.mlp: MLP | None = None
        if structure != "crossnet_only":
            self.mlp = MLP(width, hidden_units, activation=activation, dropout=dropout, batch_norm=batch_norm)
            width = self.mlp.width + (width if structure == "parallel" else 0)
        self.output = Linear(width, 1)

    def forward(self, features: Features) -> Outputs:
        x = self.deep_input(self.embedding.flat(features), features.dense)
        result = self.cross(x)
        if self.mlp is not None:
            result = self.mlp(result) if self.structure == "stacked" else torch.cat([result, self.mlp(x)], 1)
        return {"logit": self.output(result).squeeze(1)}


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
