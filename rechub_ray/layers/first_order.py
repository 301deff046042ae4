"""The linear part of a ranking model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rechub_ray.batch import Features
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import Columns, embedded
from rechub_ray.layers.linear import Linear
from rechub_ray.schema import Schema


class FirstOrder(nn.Module):
    """Logistic regression on the raw features: `sum_f w_f[id_f] + <v, dense> + b`.

    One weight for each id of a sparse feature; a sequence adds the mean or the sum of its ids' weights (the
    feature's `pooling`); one weight for each numeric value.

    Args:
        schema: has the features.
        names: the features to use, at least one.
        bias: whether there is a b. Models with a deep part leave it out, since that part has one.
        init_std: standard deviation of the initial weights of ids, >= 0.

    Shapes:
        features of B rows -> (B,)
    """

    def __init__(self, schema: Schema, names: Sequence[str], *, bias: bool, init_std: float) -> None:
        super().__init__()
        self.columns = Columns.of_dense(schema, names)
        ids = embedded(schema, names)
        self.embedding = (
            EmbeddingBank(schema, dim=1, features=ids, init_std=init_std, name="first_order") if ids else None
        )
        self.dense = Linear(self.columns.width, 1, bias=False) if self.columns.width else None
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, features: Features) -> Tensor:
        terms: list[Tensor] = []
        if self.embedding is not None:
            terms.append(self.embedding.sum(features))
        if self.dense is not None:
            terms.append(self.dense(self.columns(features.dense)).squeeze(1))
        if self.bias is not None:
            terms.append(self.bias)
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total
