"""The entries of a batch's lists as tokens without padding, and attention between those of a row."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences

_SLACK = 5 / 4
"""Rows whose lists differ by no more than this factor in length are padded to one length for attention."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows of similar length as a rectangle.

    Args:
        start: place of its first token.
        stop: one past its last token.
        rows: number of rows.
        width: tokens of its longest row.
        taken: for each place of the rectangle, row by row, the token there, counted from `start`: behind a row's last
            one any; None where all rows are of one length.
        kept: for each token, its place in the rectangle; None where they are the same.
        mask: where there are tokens; None where all places have one.

    Shapes:
        taken (rows * width,), kept (tokens,), mask (rows, width)
    """

    start: int
    stop: int
    rows: int
    width: int
    taken: Tensor | None = None
    kept: Tensor | None = None
    mask: Tensor | None = None

    def rectangle(self, tokens: Tensor) -> Tensor:
        """Return the group's tokens of all, (N, ...), as (rows, width, ...)."""
        own = tokens[self.start : self.stop]
        own = own if self.taken is None else own.index_select(0, self.taken)
        return own.view(self.rows, self.width, *tokens.shape[1:])

    def tokens(self, rectangle: Tensor) -> Tensor:
        """Return (rows, width, ...) as tokens, without what stands behind each row's last one."""
        flat = rectangle.reshape(self.rows * self.width, *rectangle.shape[2:])
        return flat if self.kept is None else flat.index_select(0, self.kept)


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one list a row: all N of a batch, the rows ordered by length where they are packed.

    In the padded form, in which models are exported, there is one group of all rows, and its padding counts as tokens
    with a mask.

    Args:
        ids: of the tokens.
        after: how many tokens of its row stand behind each one: 0 at the last; at least 0 in padding.
        lengths: of the rows, in the batch's order.
        last: place of each row's last token, in the batch's order; N where a row has none.
        order: the place that each token of the batch's lists got, in their order.
        groups: the rows as rectangles, one behind the other.
        is_packed: whether there is no padding among the tokens.

    Shapes:
        ids, after, order (N,), lengths, last (B,): int64
    """

    ids: Tensor
    after: Tensor
    lengths: Tensor
    last: Tensor
    order: Tensor
    groups: tuple[Group, ...]
    is_packed: bool = True

    @classmethod
    def of(cls, features: Features, position: int) -> Tokens:
        """Return the tokens of the sequence feature at `position` among the sequences of `features`."""
        sequences = features.sequences
        if isinstance(sequences, PaddedSequences):
            return cls.padded(sequences.ids[position])
        assert isinstance(sequences, RaggedSequences)
        rows = features.rows
        offsets = sequences.offsets[position * rows : (position + 1) * rows + 1]
        return cls.packed(sequences.values[int(offsets[0]) : int(offsets[-1])], offsets.diff())

    @classmethod
    def packed(cls, values: Tensor, lengths: Tensor) -> Tokens:
        """Return the tokens of lists that lie one behind the other.

        Args:
            values: of all lists.
            lengths: of each.

        Shapes:
            values (N,), lengths (B,): int64
        """
        count = len(values)
        every = torch.arange(count, device=values.device)
        rows = lengths.argsort(stable=True)
        sizes = lengths[rows]
        begins = lengths.cumsum(0) - lengths
        ends = sizes.cumsum(0)
        # the tokens of each row, moved from where the row began to where it begins now
        shift = torch.repeat_interleave(begins[rows] - (ends - sizes), sizes, output_size=count)
        source = every + shift
        after = torch.repeat_interleave(ends, sizes, output_size=count) - 1 - every
        order = torch.empty_like(source).scatter_(0, source, every)
        last = torch.empty_like(ends).scatter_(0, rows, torch.where(sizes > 0, ends - 1, count))
        return cls(values[source], after, lengths, last, order, _groups(sizes, ends))

    @classmethod
    def padded(cls, ids: Tensor) -> Tokens:
        """Return the tokens of lists that are padded with -1 on the right, (B, T)."""
        mask = ids >= 0
        rows, width = ids.shape
        lengths = mask.sum(1)
        first = torch.arange(rows, device=ids.device) * width
        after = (lengths.unsqueeze(1) - 1 - torch.arange(width, device=ids.device)).clamp(min=0)
        last = torch.where(lengths > 0, first + lengths - 1, rows * width)
        every = torch.arange(rows * width, device=ids.device)
        group = Group(0, rows * width, rows, width, mask=mask)
        return cls(ids.clamp(min=0).view(-1), after.view(-1), lengths, last, every, (group,), is_packed=False)

    def aligned(self, features: Features, position: int) -> Tensor:
        """Return for each token its value in a sequence that is aligned with these, (N,) int64; 0 in padding.

        Args:
            features: that the tokens are of.
            position: of the sequence, among those of `features`.
        """
        sequences = features.sequences
        if isinstance(sequences, PaddedSequences):
            ids, (group,) = sequences.ids[position], self.groups
            place = torch.arange(group.width, device=ids.device)
            return (
                ids[:, place.clamp(max=ids.shape[1] - 1)].clamp(min=0).reshape(-1)
            )  # exported, each has its own width
        assert isinstance(sequences, RaggedSequences)
        start = int(sequences.offsets[position * features.rows])
        values = sequences.values[start : start + len(self.order)]
        return torch.empty_like(values).scatter_(0, self.order, values)

    def of_last(self, vectors: Tensor) -> Tensor:
        """Return the vector of each row's last token, zeros where it has none.

        Shapes:
            (N, D) -> (B, D)
        """
        return torch.cat([vectors, vectors.new_zeros((1, vectors.shape[1]))])[self.last]


def attend(
    query: Tensor, key: Tensor, value: Tensor, tokens: Tokens, *, heads: int, causal: bool, dropout: float = 0.0
) -> Tensor:
    """Return scaled dot-product attention of each token to those of its row.

    Padding is computed in the rectangles of groups alone: 25% of them at most.

    Args:
        query, key, value: of the tokens.
        tokens: which belong together.
        heads: among which the columns are split evenly.
        causal: whether a token sees itself and those before it alone.
        dropout: share of the attention weights that are zeroed, in [0, 1).

    Shapes:
        (N, D) each -> (N, D)

    Reference: Vaswani et al., Attention Is All You Need, arXiv 1706.03762, eq. 1.
    """
    parts = []
    for group in tokens.groups:
        # (rows, heads, width, D / heads)
        q, k, v = (
            group.rectangle(x).view(group.rows, group.width, heads, -1).transpose(1, 2) for x in (query, key, value)
        )
        if group.mask is None or (causal and tokens.is_packed):  # padding stands behind all that is kept
            found = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
        else:
            place = torch.arange(group.width, device=q.device)
            seen = place <= place.unsqueeze(1) if causal else group.mask.unsqueeze(1).unsqueeze(1)
            scores = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[3])
            weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(3)
            found = F.dropout(weights, dropout, training=dropout > 0) @ v
        parts.append(group.tokens(found.transpose(1, 2).flatten(2)))
    return parts[0] if len(parts) == 1 else torch.cat(parts) if parts else query


def _groups(sizes: Tensor, ends: Tensor) -> tuple[Group, ...]:
    """Return rows in groups of similar length.

    Args:
        sizes: of the rows, ascending.
        ends: one past each row's last token.
    """
    lengths, counts = torch.unique_consecutive(sizes, return_counts=True)
    groups: list[Group] = []
    row = begin = 0
    taken = [(length, count) for length, count in zip(lengths.tolist(), counts.tolist(), strict=True)]
    i = 0
    while i < len(taken):
        shortest, _ = taken[i]
        if shortest == 0:
            row += taken[i][1]
            i += 1
            continue
        last = i
        while last + 1 < len(taken) and taken[last + 1][0] <= shortest * _SLACK:
            last += 1
        width = taken[last][0]
        rows = sum(count for _, count in taken[i : last + 1])
        stop = begin + sum(length * count for length, count in taken[i : last + 1])
        if last == i:
            groups.append(Group(begin, stop, rows, width))
        else:
            own, starts = sizes[row : row + rows].unsqueeze(1), (ends - sizes)[row : row + rows].unsqueeze(1) - begin
            place = torch.arange(width, device=sizes.device)
            mask = place < own
            index = starts + torch.minimum(place, own - 1)
            kept = mask.view(-1).nonzero().squeeze(1)
            groups.append(Group(begin, stop, rows, width, index.view(-1), kept, mask))
        row, begin, i = row + rows, stop, last + 1
    return tuple(groups)


def recurrent(network: nn.GRU, x: Tensor, tokens: Tokens) -> Tensor:
    """Return the states of a recurrent network that reads each row of tokens from its start.

    Args:
        network: with `batch_first`.
        x: of the tokens.
        tokens: which belong together.

    Shapes:
        (N, D) -> (N, network.hidden_size)
    """
    if not tokens.is_packed:
        (group,) = tokens.groups
        return group.tokens(network(group.rectangle(x))[0])
    if not len(x):
        return x.sum() * x.new_zeros(0, network.hidden_size)
    # step by step, the longest row first
    is_last = tokens.after == 0
    row = is_last.cumsum(0) - is_last.long()
    ends = is_last.nonzero().squeeze(1) + 1
    step = torch.arange(len(x), device=x.device) - torch.cat([ends.new_zeros(1), ends[:-1]])[row]
    order = (step * len(ends) + (len(ends) - 1 - row)).argsort()
    states = network(nn.utils.rnn.PackedSequence(x[order], step.bincount().cpu()))[0].data
    found: Tensor = states.new_empty(states.shape).index_copy(0, order, states)
    return found
