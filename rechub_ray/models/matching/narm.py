"""A recurrent network of a session, with attention by its last state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.batch import Features
from rechub_ray.layers.attention import last_vector
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import Probability
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.history import HistoryRetriever
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("narm")
class NARM(HistoryRetriever):
    """A GRU of the history: its last state, and a sum of its states by how they go with the last one.

    With states h_1, ..., h_n of the items' vectors, `a_t = v sigmoid(A_1 h_n + A_2 h_t)` and the user's vector is
    `B [h_n, sum_t a_t h_t]`. An empty history has the state of one item of zeros, and no sum.

    When to use: sessions, in which order matters and some items are beside the point.

    Args:
        schema: the features; has items, and a list of them.
        hidden_dim: width of the states, >= 1.
        emb_dropout_p: share of the items' numbers that are zeroed in training, in [0, 1); 0.25 in the paper.
        session_rep_dropout_p: share of the numbers in front of B that are zeroed in training, in [0, 1); 0.5 there.
        common: `history`, `embedding_dim`, `similarity` and `init_std`, as in `HistoryRetriever`.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: it has no list of them.

    Reference: Li et al., Neural Attentive Session-based Recommendation (CIKM 2017), eq. 1 to 10. Deviation: the loss
    is the run's, where the paper's is a softmax over all items.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        hidden_dim: PositiveInt = 64,
        emb_dropout_p: Probability = 0.0,
        session_rep_dropout_p: Probability = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.item_dropout, self.dropout = nn.Dropout(emb_dropout_p), nn.Dropout(session_rep_dropout_p)
        self.gru = nn.GRU(self.dim, hidden_dim, batch_first=True)
        self.of_last = Linear(hidden_dim, hidden_dim, bias=False)
        self.of_each = Linear(hidden_dim, hidden_dim, bias=False)
        self.weight = Linear(hidden_dim, 1, bias=False)
        self.convert = Linear(2 * hidden_dim, self.dim, bias=False)

    def user_vectors(self, features: Features) -> Tensor:
        items, mask = self.read_history(features)
        states, _ = self.gru(self.item_dropout(items))
        last = last_vector(states, mask)
        weights = self.weight(torch.sigmoid(self.of_last(last).unsqueeze(1) + self.of_each(states)))
        local = (weights * mask.unsqueeze(2).to(states.dtype) * states).sum(1)
        return self.scaled(self.convert(self.dropout(torch.cat([last, local], 1))))
