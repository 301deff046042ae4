"""The entries of a batch's lists as tokens without padding, and attention between those of a row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows of one length as a rectangle of tokens.

    Args:
        rows: number of rows.
        width: tokens of each.
        mask: where there are tokens, (rows, width); None where all places have one.
    """

    rows: int
    width: int
    mask: Tensor | None = None


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
        groups: the rows as rectangles, one behind the other: those of one length each, so that none is padded.
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
        return cls(values[source], after, lengths, last, order, _groups(sizes))

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
        group = Group(rows, width, mask)
        return cls(ids.clamp(min=0).view(-1), after.view(-1), lengths, last, every, (group,), is_packed=False)

    def rectangles(self, x: Tensor) -> list[Tensor]:
        """Return (N, ...) of the tokens as (rows, width, ...) of each group."""
        if not self.is_packed:
            (group,) = self.groups
            return [x.view(group.rows, group.width, *x.shape[1:])]
        parts = torch.split(
            x, [group.rows * group.width for group in self.groups]
        )  # slices would each copy all, backward
        shapes = [(group.rows, group.width, *x.shape[1:]) for group in self.groups]
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]

    def joined(self, rectangles: Sequence[Tensor], like: Tensor) -> Tensor:
        """Return what `rectangles` made of the tokens, with other columns; `like` where there are no tokens."""
        flat = [x.flatten(0, 1) for x in rectangles]
        return torch.cat(flat) if len(flat) > 1 else flat[0] if flat else like

    def aligned(self, features: Features, position: int) -> Tensor:
        """Return for each token its value in a sequence that is aligned with these, (N,) int64; 0 where there is none.

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
        rows, lengths = features.rows, self.lengths
        offsets = sequences.offsets[position * rows : (position + 1) * rows + 1]
        row = torch.repeat_interleave(torch.arange(rows, device=lengths.device), lengths, output_size=len(self.order))
        place = torch.arange(len(row), device=row.device) - (lengths.cumsum(0) - lengths)[row]
        values = torch.cat([sequences.values, sequences.values.new_zeros(1)])
        values = torch.where(place < offsets.diff()[row], values[(offsets[row] + place).clamp(max=len(values) - 1)], 0)
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

    Nothing is computed of padding: rows of one length are one product.

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
    longest = max((group.width for group in tokens.groups), default=0)
    future = torch.ones(longest, longest, dtype=torch.bool, device=query.device).triu(1) if causal else None
    scaled = query * (heads / query.shape[1]) ** 0.5
    parts = []
    for group, *rectangles in zip(tokens.groups, *map(tokens.rectangles, (scaled, key, value)), strict=True):
        # (rows, heads, width, D / heads)
        q, k, v = (x.view(group.rows, group.width, heads, -1).transpose(1, 2) for x in rectangles)
        if tokens.is_packed and not dropout:
            found = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=1.0)
        else:  # with dropout it would take many more steps on a CPU
            scores, unseen = q @ k.transpose(2, 3), None
            if future is not None:  # padding is in the future of all tokens
                unseen = future[: group.width, : group.width]
            elif group.mask is not None:
                unseen = ~group.mask.unsqueeze(1).unsqueeze(1)
            if unseen is not None:
                scores = scores.masked_fill(unseen, torch.finfo(scores.dtype).min)
            found = F.dropout(scores.softmax(3), dropout, training=dropout > 0) @ v
        parts.append(found.transpose(1, 2).flatten(2))
    return tokens.joined(parts, value)


def _groups(sizes: Tensor) -> tuple[Group, ...]:
    """Return rows in groups of one length.

    Args:
        sizes: of the rows, ascending.
    """
    lengths, counts = torch.unique_consecutive(sizes, return_counts=True)
    found = zip(lengths.tolist(), counts.tolist(), strict=True)
    return tuple(Group(rows, width) for width, rows in found if width)


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
        return tokens.joined([network(part)[0] for part in tokens.rectangles(x)], x)
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
