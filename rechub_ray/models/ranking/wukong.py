"""WuKong."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import FieldInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import MLP, HiddenUnits
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import DeepRanker
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("wukong")
class WuKong(DeepRanker):
    """Stacked factorisation machines: each layer doubles the degree of the products that the features take part in.

    With the vectors of all features as the rows of X: `X <- LN([FMB(X), LCB(X)] + R X)`, and at the end `logit =
    mlp(X)`. `FMB(X) = mlp(LN(X X^T Y))` are the factorisation machine's vectors, with a matrix Y of few columns;
    `LCB(X) = W X` are linear ones.

    When to use: large data and a budget that grows: more layers and vectors keep improving it where others level off.

    Args:
        schema: the features; those with embeddings all have one width (no `embed_dim` of their own).
        num_layers: >= 1.
        fm_vectors: number of vectors that FMB gives, >= 1.
        linear_vectors: number of vectors that LCB gives, >= 1.
        rank: columns of Y, >= 1.
        fm_units: widths of the hidden layers of each FMB.
        deep_features: names of the features to use; None takes all.
        init_std: standard deviation of the initial embeddings, >= 0; products of small ones vanish.
        **common: `hidden_units` (of the last perceptron), `activation`, `dropout`, `batch_norm`, `embedding_dim`.

    Raises:
        SchemaError: features that differ in width, or none with an embedding.

    Reference: Zhang et al., Wukong: Towards a Scaling Law for Large-Scale Recommendation, arXiv 2403.02545,
    section 3. Deviation: Y is learned, and does not depend on X. R is the identity where the numbers of vectors
    are equal. A numeric feature's vector is `sum_j x_j v_j`.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        num_layers: PositiveInt = 2,
        fm_vectors: PositiveInt = 8,
        linear_vectors: PositiveInt = 8,
        rank: PositiveInt = 8,
        fm_units: HiddenUnits = (128,),
        deep_features: list[str] | None = None,
        init_std: Annotated[float, Ge(0)] = 0.05,
        **common: Any,
    ) -> None:
        super().__init__(schema, init_std=init_std, **common)
        names = choose(schema, deep_features, key="deep_features")
        self.embedding = self.embed(names)
        self.field_input = FieldInput(schema, self.embedding, names)
        dim, count = self.field_input.width, fm_vectors + linear_vectors
        self.layers = nn.ModuleList(
            _Layer(count if i else self.field_input.count, dim, fm_vectors, linear_vectors, rank, fm_units, self.hidden)
            for i in range(num_layers)
        )
        self.mlp = self.perceptron(count * dim)

    def forward(self, features: Features) -> Outputs:
        x = self.field_input(self.embedding.flat(features), features.dense)
        for layer in self.layers:
            x = layer(x)
        return {"logit": self.mlp(x.flatten(1)).squeeze(1)}


class _Layer(nn.Module):
    """`LN([FMB(X), LCB(X)] + R X)`, (B, count, dim) -> (B, fm + linear, dim)."""

    def __init__(
        self, count: int, dim: int, fm: int, linear: int, rank: int, units: HiddenUnits, hidden: dict[str, Any]
    ) -> None:
        super().__init__()
        self.project = Linear(count, rank, bias=False)
        self.fm_norm = nn.LayerNorm(count * rank)
        self.fm = MLP(count * rank, units, output_dim=fm * dim, **hidden)
        self.compress = Linear(count, linear, bias=False)
        self.shortcut = Linear(count, fm + linear, bias=False) if count != fm + linear else None
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        across = x.transpose(1, 2)  # (B, dim, count): layers act on the vectors, not within them
        products = x @ self.project(across)  # X (X^T Y): linear in the number of vectors
        fm = self.fm(self.fm_norm(products.flatten(1))).view(x.shape[0], -1, x.shape[2])
        result = torch.cat([fm, self.compress(across).transpose(1, 2)], 1)
        own = x if self.shortcut is None else self.shortcut(across).transpose(1, 2)
        normed: Tensor = self.norm(result + own)
        return normed
