"""Self-attention in both directions over a user's items, some of which are masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.batch import Features, PaddedSequences
from rechub_ray.errors import ConfigError
from rechub_ray.layers.linear import Linear
from rechub_ray.layers.mlp import Probability
from rechub_ray.layers.tokens import Tokens, attend
from rechub_ray.models.base import MODELS
from rechub_ray.models.sequential.base import Learning, Positions, SequentialRetriever
from rechub_ray.schema import PositiveInt, Schema


@MODELS.register("bert4rec")
class BERT4Rec(SequentialRetriever):
    """Self-attention of the items of a history to all of them; the ones that are masked are learned.

    In training a sequence is the history with the row's own item behind it, of which the last `max_length` are read.
    Each item is masked with probability `mask_probability`; in a share `last_probability` of the sequences the last one
    alone is, and so it is where none is drawn. A user's vector is that of a mask behind the last `max_length - 1`
    items. The mask is a parameter, not an id. A token is `dropout(norm(e_item + p))`, where p belongs to how far from
    the end of its row it stands. A block is `x = norm(x + dropout(attention(x) W))`, then
    `x = norm(x + dropout(W_2 gelu(W_1 x)))`, and the result is `norm(gelu(W x))`.

    It is published with a softmax over all items, `losses: [full_softmax]`.

    When to use: many epochs to spend, and histories whose order is loose: it reads them from both sides.

    Args:
        schema: has items, and a history of them of a `max_length` of 2 or more.
        embedding_dim: D, >= 1.
        num_blocks: >= 1.
        num_heads: of attention; divides D.
        inner_units: width of a block's hidden layer; None takes 4 D.
        dropout: of tokens, attention weights and both parts of a block, in [0, 1).
        mask_probability: in (0, 1].
        last_probability: in [0, 1].
        history: the sequence feature that is read; None takes the first one that shares the table of the items' id.
        positions: `all`, or `last`, which masks the last item alone.
        init_std: standard deviation of the initial embeddings of items, positions and the mask, >= 0.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.
        ConfigError: there is no history, or `num_heads` does not divide D.

    Reference: Sun et al., BERT4Rec: Sequential Recommendation with Bidirectional Encoder Representations from
    Transformer, arXiv 1904.06690, section 3. Deviation: items have no bias in the softmax, as their vectors are what is
    served.
    """

    default_losses = ("full_softmax",)

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 64,
        num_blocks: PositiveInt = 2,
        num_heads: PositiveInt = 2,
        inner_units: PositiveInt | None = None,
        dropout: Probability = 0.1,
        mask_probability: Annotated[float, Gt(0), Le(1)] = 0.3,
        last_probability: Annotated[float, Ge(0), Le(1)] = 0.1,
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
        if self.slots < 2:
            raise ConfigError(
                f"the history '{self.history.name}' holds one item, whose place the mask takes",
                expected="max_length 2 or more",
            )
        self._masked = (mask_probability, last_probability)
        self.mask = nn.Parameter(torch.empty(self.width))
        self.place = nn.Parameter(torch.empty(self.slots, self.width))
        for parameter in (self.mask, self.place):
            nn.init.normal_(parameter, std=init_std)
        self.norm, self.dropout = nn.LayerNorm(self.width), nn.Dropout(dropout)
        units = inner_units or 4 * self.width
        self.blocks = nn.ModuleList(_Block(self.width, num_heads, units, dropout) for _ in range(num_blocks))
        self.output, self.output_norm = Linear(self.width, self.width), nn.LayerNorm(self.width)

    def positions(self, features: Features, own: Tensor, numbers: Callable[[int], Tensor]) -> Positions:
        values, lengths = self._lists(features)
        values, lengths = _extended(values, lengths, own, self.slots)
        rows = torch.repeat_interleave(torch.arange(len(own), device=own.device), lengths, output_size=len(values))
        ends = lengths.cumsum(0)
        every = torch.arange(len(values), device=values.device)
        slots = every - (ends - lengths)[rows]
        drawn, (share, of_last) = numbers(self.slots + 1), self._masked
        only_last = drawn[:, -1] < of_last
        if self._learning == "last":
            only_last = torch.ones_like(only_last)
        is_masked = (drawn[rows, slots] < share) & ~only_last[rows]
        none = torch.zeros_like(lengths).index_add_(0, rows, is_masked.long()) == 0
        is_masked[ends[none] - 1] = True
        places = is_masked.nonzero().squeeze(1)
        changed = self._with_lists(features, values, lengths)
        return Positions(changed, rows[places], slots[places], values[places], places)

    def position_vectors(self, features: Features, places: Tensor) -> Tensor:
        tokens = Tokens.of(features, self._position)
        places = tokens.order[places]
        is_masked = torch.zeros(len(tokens.ids), dtype=torch.bool, device=places.device)
        is_masked[places] = True
        return self._result(self._encode(tokens, is_masked)[places])

    def user_vectors(self, features: Features) -> Tensor:
        if isinstance(features.sequences, PaddedSequences):
            tokens = Tokens.padded(_padded_with_mask(features.sequences.ids[self._position], self.slots))
        else:
            values, lengths = self._lists(features)
            tokens = Tokens.packed(*_extended(values, lengths, torch.zeros_like(lengths), self.slots))
        return self.scaled(tokens.of_last(self.encode(features, tokens)))

    def encode(self, features: Features, tokens: Tokens) -> Tensor:
        return self._result(self._encode(tokens, tokens.after == 0))

    def _encode(self, tokens: Tokens, is_masked: Tensor) -> Tensor:
        items = torch.where(is_masked.unsqueeze(1), self.mask, self.look_up(tokens.ids))
        place = F.embedding(tokens.after.clamp(max=self.slots - 1), self.place)
        x: Tensor = self.dropout(self.norm(items + place))
        for block in self.blocks:
            x = block(x, tokens)
        return x

    def _result(self, x: Tensor) -> Tensor:
        result: Tensor = self.output_norm(F.gelu(self.output(x)))
        return result


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, units: int, dropout: float) -> None:
        super().__init__()
        self._heads = heads
        self.project, self.join = Linear(width, 3 * width), Linear(width, width)
        self.inner, self.outer = Linear(width, units), Linear(units, width)
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, tokens: Tokens) -> Tensor:
        query, key, value = self.project(x).chunk(3, 1)
        dropout = self.dropout.p if self.training else 0.0
        found = attend(query, key, value, tokens, heads=self._heads, causal=False, dropout=dropout)
        x = self.attention_norm(x + self.dropout(self.join(found)))
        result: Tensor = self.feed_norm(x + self.dropout(self.outer(F.gelu(self.inner(x)))))
        return result


def _extended(values: Tensor, lengths: Tensor, more: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Return lists with one more id each behind them, of which the last `longest` are kept, and their lengths.

    Args:
        values: of all lists, one behind the other.
        lengths: of each.
        more: the ids.
        longest: >= 1.
    """
    sizes = lengths.clamp(max=longest - 1) + 1
    ends, starts = sizes.cumsum(0), lengths.cumsum(0) - sizes + 1  # where what is kept of each list begins
    total = int(sizes.sum())
    place = torch.arange(total, device=values.device)
    shift = torch.repeat_interleave(starts - (ends - sizes), sizes, output_size=total)
    kept = torch.cat([values, values.new_zeros(1)])[place + shift]
    return kept.scatter(0, ends - 1, more), sizes


def _padded_with_mask(ids: Tensor, longest: int) -> Tensor:
    """Return lists, (B, T), with an id 0 behind each, of which the last `longest` are kept, (B, T + 1)."""
    width, lengths = ids.shape[1], (ids >= 0).sum(1, keepdim=True)
    dropped = (lengths - (longest - 1)).clamp(min=0)
    place = torch.arange(width + 1, device=ids.device)
    moved = ids.gather(1, (place + dropped).clamp(max=width - 1))
    end = lengths - dropped
    return torch.where(place < end, moved, torch.where(place == end, 0, -1))
