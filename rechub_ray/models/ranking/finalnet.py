"""FinalNet: layers of degree two."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from annotated_types import MinLen
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.layers.activation import build_activation
from rechub_ray.layers.inputs import Columns, VectorInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import HiddenUnits
from rechub_ray.layers.norm import BatchNorm1d
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.outputs import Output
from rechub_ray.schema import Schema


@MODELS.register("finalnet")
class FinalNet(DeepRanker):
    """A perceptron whose layers multiply: `[u, u * v]` with `[u, v] = W x + b`, so that each layer doubles the degree.

    With two blocks, the logit is the mean of theirs, and each block learns from it, too: the output `distillation` is
    the mean of `bce(y_1, p) + bce(y_2, p)`, p the common probability, taken as constant.

    When to use: products of a high degree by layers that cost as much as a perceptron's; the second block adds a
    little.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        num_blocks: 1 or 2.
        hidden_units: widths of the first block's layers; even ones where `residual` is `concat`.
        second_units: those of the second one.
        residual: of a layer: `concat` gives [u, u * v], each half as wide as the layer; `sum` gives u + u * v, which
            takes twice the weights.
        field_gate: whether the first block reads the embeddings beside `e_i * sum_j (A_ij e_j + c_i)` as well.
        deep_features: names of the features to use; None takes all.
        **common: `activation`, `dropout`, `batch_norm`, `embedding_dim`, `init_std`.

    Shapes:
        `logit` (B,); with two blocks, `distillation`, a number

    Raises:
        SchemaError: features that differ in width, or none with an embedding.
        ConfigError: an odd width with `residual: concat`.

    Reference: Zhu et al., FINAL: Factorized Interaction Layer for CTR Prediction (SIGIR 2023), section 2.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_blocks: Literal[1, 2] = 1,
        hidden_units: Annotated[HiddenUnits, MinLen(1)] = (256, 128),
        second_units: Annotated[HiddenUnits, MinLen(1)] = (256,),
        residual: Literal["concat", "sum"] = "concat",
        field_gate: bool = False,
        deep_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, hidden_units=hidden_units, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.vectors, self.numbers = VectorInput(self.embedding, names), Columns.of_dense(schema, names)
        count, dim = self.vectors.count, self.vectors.width
        self.gate: Linear | None = None
        if field_gate:
            self.gate = Linear(count, count)
            nn.init.zeros_(self.gate.weight)
            nn.init.ones_(self.gate.bias)
        plain = count * dim + self.numbers.width
        widths = [plain + (count * dim if field_gate else 0), plain]
        units = [hidden_units, second_units][:num_blocks]
        self.blocks = nn.ModuleList(self._block(w, u, residual) for w, u in zip(widths, units, strict=False))
        if num_blocks == 2:
            self.outputs = (Output("logit"), Output("distillation", "loss"))

    def _block(self, width: int, units: HiddenUnits, residual: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for own in units:
            layers += [_Factorized(width, own, residual)]
            layers += [BatchNorm1d(own)] if self.hidden["batch_norm"] else []
            layers += [build_activation(self.hidden["activation"], own), nn.Dropout(self.hidden["dropout"])]
            width = own
        return nn.Sequential(*layers, Linear(width, 1))

    def forward(self, features: Features) -> Outputs:
        vectors = self.vectors(self.embedding.flat(features))
        numbers = [self.numbers(features.dense)] if self.numbers.width else []
        plain = torch.cat([vectors.flatten(1), *numbers], 1)
        first = plain
        if self.gate is not None:
            gated = vectors * self.gate(vectors.transpose(1, 2)).transpose(1, 2)
            first = torch.cat([plain, gated.flatten(1)], 1)
        logits = [block(x).squeeze(1) for block, x in zip(self.blocks, (first, plain), strict=False)]
        if len(logits) == 1:
            return {"logit": logits[0]}
        logit = (logits[0] + logits[1]) / 2
        common = torch.sigmoid(logit.detach())
        taught = [F.binary_cross_entropy_with_logits(own, common) for own in logits]
        return {"logit": logit, "distillation": taught[0] + taught[1]}


class _Factorized(nn.Module):
    """`[u, u * v]`, or `u + u * v`, of `[u, v] = W x + b`: (B, width) -> (B, out)."""

    def __init__(self, width: int, out: int, residual: str) -> None:
        super().__init__()
        if residual == "concat" and out % 2:
            raise ConfigError("'model.hidden_units': a layer of 'finalnet' has two halves", expected="even", got=out)
        self.residual = residual
        self.linear = Linear(width, out if residual == "concat" else 2 * out)

    def forward(self, x: Tensor) -> Tensor:
        u, v = self.linear(x).chunk(2, 1)
        return torch.cat([u, u * v], 1) if self.residual == "concat" else u + u * v
