"""Attentional factorisation machine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rechub_ray.batch import Features, Outputs
from rechub_ray.layers.inputs import VectorInput, choose
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import Probability
from rechub_ray.layers.pairs import Pairs
from rechub_ray.models.base import MODELS
from rechub_ray.models.ranking.base import Ranker
from rechub_ray.schema import PositiveInt, Schema

_BLOCK = 2**20  # numbers


@MODELS.register("afm")
class AFM(Ranker):
    """A factorisation machine that attends to its pairs: `logit = linear(x) + <p, sum_{i<j} a_ij (e_i * e_j)>`.

    `a = softmax` over the pairs of `<h, relu(W (e_i * e_j) + b)>`. Sparse features and pooled sequences interact;
    numeric features take part in the linear term only. Attention reads each pair, so time and memory of a row grow with
    the square of the number of features.

    When to use: where it should be seen which pairs decide a prediction: the weights a say it. Slow with many features.

    Args:
        schema: the features; those that interact all have one width (no `embed_dim` of their own).
        attention_dim: rows of W, >= 1.
        attention_dropout: of the weights a, in [0, 1).
        dropout: of the sum of the pairs, in [0, 1).
        fm_features: names of the features to use; None takes all.
        **common: `embedding_dim`, `init_std`.

    Raises:
        SchemaError: features that differ in width.

    Reference: Xiao et al., Attentional Factorization Machines, arXiv 1708.04617, eq. 5 and 6. Deviation: numeric
    features have no factors.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        attention_dim: PositiveInt = 64,
        attention_dropout: Probability = 0.0,
        dropout: Probability = 0.0,
        fm_features: list[str] | None = None,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        names = choose(schema, fm_features, key="fm_features")
        self.linear = self.first_order(names, bias=True)
        self.embedding = self.embed(names)
        self.fm_input = VectorInput(self.embedding, names)
        self.pairs, self.attention_dim = Pairs(self.fm_input.count), attention_dim
        self.attention = nn.Sequential(
            Linear(self.fm_input.width, attention_dim), nn.ReLU(), Linear(attention_dim, 1, bias=False)
        )
        self.attention_dropout, self.dropout = nn.Dropout(attention_dropout), nn.Dropout(dropout)
        self.output = Linear(self.fm_input.width, 1, bias=False)

    def forward(self, features: Features) -> Outputs:
        left, right = self.pairs(self.fm_input(self.embedding.flat(features)))
        products = left * right
        weights = self.attention_dropout(torch.softmax(self._scores(products), 1))
        pooled = self.dropout(torch.bmm(weights.transpose(1, 2), products).squeeze(1))
        return {"logit": self.linear(features) + self.output(pooled).squeeze(1)}

    def _scores(self, products: Tensor) -> Tensor:
        """Return `<h, relu(W (e_i * e_j) + b)>` of each pair, (B, P, 1)."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            scores: Tensor = self.attention(products)
            return scores
        # some rows at a time, and again in backward: the hidden layer of all pairs is too large for any cache
        rows = max(1, _BLOCK // (products.shape[1] * self.attention_dim))
        parts = torch.split(products, rows)
        return torch.cat([checkpoint(self.attention, x, use_reentrant=False, preserve_rng_state=False) for x in parts])
