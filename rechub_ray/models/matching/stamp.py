"""Attention over a session by its last item and its mean."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn

from rechub_ray.batch import Features
from rechub_ray.layers.attention import last_vector
from rechub_ray.layers.linear import Linear
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.history import HistoryRetriever
from rechub_ray.schema import Schema


@MODELS.register("stamp")
class STAMP(HistoryRetriever):
    """What a session is about, by attention, times what its last item says.

    With the items' vectors x_1, ..., x_n and their mean m,

        a_t = w_0 sigmoid(W_1 x_t + W_2 x_n + W_3 m + b),   m_a = sum_t a_t x_t
        u = tanh(W_s m_a + b_s) * tanh(W_t x_n + b_t)

    so that the product of u and an item's vector is the paper's product of three.

    When to use: short sessions, whose last item says most: attention, and no recurrence.

    Args:
        schema: the features; has items, and a list of them.
        weight_std: standard deviation of the initial matrices, > 0; 0.05 in the paper.
        common: `history`, `embedding_dim`, `similarity` and `init_std`, as in `HistoryRetriever`; the paper starts
            with an `init_std` of 0.002.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them.

    Reference: Liu et al., STAMP: Short-Term Attention/Memory Priority Model for Session-based Recommendation (KDD
    2018), eq. 3 to 10. Deviations: scores have no sigmoid before the softmax, which would keep the best one from
    standing out; the loss is the run's.
    """

    def __init__(self, schema: Schema, *, weight_std: Annotated[float, Gt(0)] = 0.05, **common: Any) -> None:
        super().__init__(schema, **common)
        dim = self.dim
        self.of_each, self.of_mean = Linear(dim, dim, bias=False), Linear(dim, dim, bias=False)
        self.of_last = Linear(dim, dim)  # its b is that of the sum
        self.weight = Linear(dim, 1, bias=False)
        self.session, self.last = Linear(dim, dim), Linear(dim, dim)
        for layer in (self.of_each, self.of_mean, self.of_last, self.weight, self.session, self.last):
            nn.init.normal_(layer.weight, std=weight_std)

    def user_vectors(self, features: Features) -> Tensor:
        items, mask = self.read_history(features)
        last, mean = last_vector(items, mask), items.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        both = (self.of_last(last) + self.of_mean(mean)).unsqueeze(1)
        weights = self.weight(torch.sigmoid(self.of_each(items) + both))  # of items that are not there: times zeros
        session = (weights * items).sum(1)
        return self.scaled(torch.tanh(self.session(session)) * torch.tanh(self.last(last)))
