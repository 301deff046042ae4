"""Hierarchical sequential transduction units over a user's items."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.batch import Features
from rechub_ray.errors import ConfigError
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import Probability
from rechub_ray.layers.tokens import Group, Tokens
from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.base import Similarity
from rechub_ray.models.sequential.base import Learning, SequentialRetriever
from rechub_ray.schema import PositiveInt, Schema

_LONGEST = 2**40
"""Seconds that are told apart."""


@MODELS.register("hstu")
class HSTU(SequentialRetriever):
    """Attention without a softmax, gated, with a bias for how far apart two items stand, and how far apart in time.

    A token is `sqrt(D) e_item + p`, where p belongs to how far from the end of its row it stands. A layer is
    `x = x + W_2 dropout(norm(A V) * U)` with `U, V, Q, K = silu(W_1 norm(x))` and
    `A_ij = silu(q_i k_j / sqrt(d) + b_{i - j} + c_{bucket(|t_i - t_j|)}) / n` for j <= i, where n is the history's
    `max_length` and `bucket(s) = floor(log2(max(s, 1)))`. The result is `norm(x)`.

    When to use: long histories with times, and much data.

    Args:
        schema: has items, and a history of them.
        embedding_dim: D, >= 1.
        num_layers: >= 1.
        num_heads: of attention; divides `attention_dim` and `linear_dim`.
        attention_dim: width of Q and K, >= 1; None takes D.
        linear_dim: width of U and V, >= 1; None takes D.
        dropout: of tokens and of layers, in [0, 1).
        age: sequence of numbers that is aligned with the history: seconds from each of its items to the row; None takes
            the first one, where there is one. Without, there is no bias for time.
        time_buckets: number of buckets of time, >= 1; the last one takes what is longer ago.
        history: the sequence feature that is read; None takes the first one that shares the table of the items' id.
        positions: which ones learn: `all`, or the `last` one of each row alone, for data with a row an item.
        similarity: `cosine` divides vectors by their lengths; `dot` leaves them.
        init_std: standard deviation of the initial embeddings of items and positions, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no history or no such `age`, or `num_heads` does not divide the widths.

    Reference: Zhai et al., Actions Speak Louder than Words: Trillion-Parameter Sequential Transducers for Generative
    Recommendations, arXiv 2402.17152, eq. 1 to 3. Deviations: the scores are divided by sqrt(d), as in the authors'
    code, and the times compared are those of the two items.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 64,
        num_layers: PositiveInt = 2,
        num_heads: PositiveInt = 2,
        attention_dim: PositiveInt | None = None,
        linear_dim: PositiveInt | None = None,
        dropout: Probability = 0.2,
        age: str | None = None,
        time_buckets: PositiveInt = 32,
        history: str | None = None,
        positions: Learning = "all",
        similarity: Similarity = "dot",
        init_std: Annotated[float, Ge(0)] = 0.02,
    ) -> None:
        super().__init__(
            schema,
            embedding_dim=embedding_dim,
            history=history,
            positions=positions,
            similarity=similarity,
            init_std=init_std,
        )
        widths = {"attention_dim": attention_dim or self.width, "linear_dim": linear_dim or self.width}
        for key, width in widths.items():
            if width % num_heads:
                raise ConfigError(
                    f"'model.num_heads': {num_heads} heads do not split {key} evenly",
                    expected=f"a divisor of {width}",
                )
        self._age = self._numbers(age)
        length, buckets = self.history.max_length, time_buckets if self._age is not None else 0
        self.place = nn.Parameter(torch.empty(length, self.width))
        nn.init.normal_(self.place, std=init_std)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            _Layer(self.width, *widths.values(), heads=num_heads, length=length, buckets=buckets, dropout=dropout)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(self.width)

    def encode(self, features: Features, tokens: Tokens) -> Tensor:
        place = F.embedding(tokens.after.clamp(max=len(self.place) - 1), self.place)
        x: Tensor = self.dropout(self.look_up(tokens.ids) * self.width**0.5 + place)
        ages = None if self._age is None else tokens.aligned(features, self._age)
        for layer in self.layers:
            x = layer(x, tokens, ages)
        result: Tensor = self.norm(x)
        return result

    def _numbers(self, name: str | None) -> int | None:
        """Return the position of the history's ages among the sequences of the user side."""
        fitting = [
            (i, feature.name)
            for i, feature in enumerate(self.user_schema.sequences)
            if feature.numbers and feature.aligned_with == self.history.name
        ]
        for i, other in fitting:
            if name in (None, other):
                return i
        if name is None:
            return None
        raise ConfigError(
            f"'model.age': there is no sequence of numbers '{name}' for '{self.history.name}'",
            expected=f"a sequence feature with numbers: true, aligned_with: {self.history.name}",
            got=", ".join(other for _, other in fitting) or "none",
        )


class _Layer(nn.Module):
    def __init__(
        self, width: int, attention: int, linear: int, *, heads: int, length: int, buckets: int, dropout: float
    ) -> None:
        super().__init__()
        self._heads, self._length, self._widths = heads, length, [linear, linear, attention, attention]
        self.input_norm, self.output_norm = nn.LayerNorm(width), nn.LayerNorm(linear)
        self.input, self.output = Linear(width, sum(self._widths)), Linear(linear, width)
        self.apart = nn.Parameter(torch.zeros(length, heads))
        self.time = nn.Parameter(torch.zeros(buckets, heads)) if buckets else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tokens, ages: Tensor | None) -> Tensor:
        gate, value, query, key = torch.split(F.silu(self.input(self.input_norm(x))), self._widths, 1)
        rectangles = [*map(tokens.rectangles, (query, key, value))]
        times = [None] * len(tokens.groups) if ages is None else tokens.rectangles(ages)
        parts = [self._attended(*parts) for parts in zip(tokens.groups, *rectangles, times, strict=True)]
        found = self.output_norm(tokens.joined(parts, value))
        result: Tensor = x + self.output(self.dropout(found * gate))
        return result

    def _attended(self, group: Group, query: Tensor, key: Tensor, value: Tensor, ages: Tensor | None) -> Tensor:
        """Return the sums of values of a group's rows, (rows, width, D), of its rectangles."""
        shape = group.rows, group.width, self._heads, -1
        q, k, v = (y.view(shape).transpose(1, 2) for y in (query, key, value))
        place = torch.arange(group.width, device=q.device)
        apart = place.unsqueeze(1) - place
        bias = F.embedding(apart.clamp(0, self._length - 1), self.apart).permute(2, 0, 1)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3]) + bias
        if self.time is not None and ages is not None:
            seconds = (ages.unsqueeze(2) - ages.unsqueeze(1)).abs().clamp(1, _LONGEST)
            # half a second more: a logarithm that is rounded otherwise, as in ONNX, has no other floor
            bucket = (seconds.double() + 0.5).log2().floor().long().clamp(max=len(self.time) - 1)
            scores = scores + F.embedding(bucket, self.time).permute(0, 3, 1, 2)
        weights = F.silu(scores) * (apart >= 0) / self._length
        found: Tensor = (weights @ v).transpose(1, 2).flatten(2)
        return found
