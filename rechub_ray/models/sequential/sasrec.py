"""Self-attention over a user's items."""

from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.batch import Features
from rechub_ray.errors import ConfigError
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import Probability
from rechub_ray.layers.tokens import Tokens, attend
from rechub_ray.models.base import MODELS
from rechub_ray.models.sequential.base import Learning, SequentialRetriever
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("sasrec")
class SASRec(SequentialRetriever):
    """Self-attention of each item of a history to itself and those before it.

    A token is `sqrt(D) e_item + p`, where p belongs to how far from the end of its row it stands. A block is
    `x = x + dropout(attention(norm(x)))`, then `x = x + dropout(W_2 dropout(relu(W_1 norm(x))))`, and the result is
    `norm(x)`; all but attention is computed on the items of the batch without padding. An item's vector is its row in
    the table that the history is read from.

    It is published with `losses: [sampled_bce]` and `negatives: [uniform_per_row]`; `full_softmax` and
    `sampled_softmax` make other, stronger models of it.

    When to use: the first model of sequences to try; with `full_softmax` it is a hard baseline to beat.

    Args:
        schema: has items, and a history of them.
        embedding_dim: D, >= 1.
        num_blocks: >= 1.
        num_heads: of attention; divides D.
        dropout: of tokens, attention weights and both layers of a block, in [0, 1).
        history: the sequence feature that is read; None takes the first one that shares the table of the items' id.
        positions: which ones learn: `all`, or the `last` one of each row alone, for data with a row an item.
        init_std: standard deviation of the initial embeddings of items and positions, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no history, or `num_heads` does not divide D.

    Reference: Kang and McAuley, Self-Attentive Sequential Recommendation, arXiv 1808.09781, section III. Deviations:
    keys and values are normalised as queries are (eq. in section III.C; the authors' code leaves them), and a user
    without any item gets a vector of zeros.
    """

    default_losses = ("sampled_bce",)
    default_negatives = ("uniform_per_row",)

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 64,
        num_blocks: PositiveInt = 2,
        num_heads: PositiveInt = 1,
        dropout: Probability = 0.2,
        history: str | None = None,
        positions: Learning = "all",
        init_std: Annotated[float, Ge(0)] = 0.02,
    ) -> None:
        super().__init__(schema, embedding_dim=embedding_dim, history=history, positions=positions, init_std=init_std)
        if self.width % num_heads:
            raise ConfigError(
                f"'model.num_heads': {num_heads} heads do not split {self.width} columns evenly",
                expected=f"a divisor of {self.width}",
            )
        self.place = nn.Parameter(torch.empty(self.history.max_length, self.width))
        nn.init.normal_(self.place, std=init_std)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(_Block(self.width, num_heads, dropout) for _ in range(num_blocks))
        self.norm = nn.LayerNorm(self.width)

    def encode(self, features: Features, tokens: Tokens) -> Tensor:
        place = F.embedding(tokens.after.clamp(max=len(self.place) - 1), self.place)
        x: Tensor = self.dropout(self.look_up(tokens.ids) * self.width**0.5 + place)
        for block in self.blocks:
            x = block(x, tokens)
        result: Tensor = self.norm(x)
        return result


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project = Linear(width, 3 * width)
        self.inner, self.outer = Linear(width, width), Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        query, key, value = self.project(self.attention_norm(x)).chunk(3, 1)
        dropout = self.dropout.p if self.training else 0.0
        x = x + self.dropout(attend(query, key, value, tokens, heads=self._heads, causal=True, dropout=dropout))
        hidden = self.dropout(F.relu(self.inner(self.feed_norm(x))))
        result: Tensor = x + self.dropout(self.outer(hidden))
        return result
