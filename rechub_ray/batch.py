"""The types that pass from the data to the model and on to the losses."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from typing import TypeAlias

import torch
from torch import Tensor

Outputs: TypeAlias = dict[str, Tensor]
"""A model's outputs by name; `rechub_ray.outputs.Output` says what each one holds."""


@dataclasses.dataclass(slots=True)
class RaggedSequences:
    """All sequence features of a batch, feature-major: feature s of row b is values[offsets[s*B+b]:offsets[s*B+b+1]].

    Shapes:
        values: (N,) int64.
        offsets: (S*B+1,) int64, ascending from 0 to N.
    """

    values: Tensor
    offsets: Tensor


@dataclasses.dataclass(slots=True)
class PaddedSequences:
    """All sequence features of a batch as rectangles, padded with -1 on the right: the form that ONNX models take.

    Shapes:
        ids: one (B, T) int64 a sequence feature; T may differ between features and batches.
    """

    ids: tuple[Tensor, ...]


@dataclasses.dataclass(slots=True)
class Features:
    """Model inputs, stacked by kind in schema order (one tensor a kind keeps the step free of per-column loops).

    Shapes:
        sparse: (B, F) int64, ids local to each feature.
        dense: (B, D) float32.
        sequences: see the two forms.
    """

    sparse: Tensor
    dense: Tensor
    sequences: RaggedSequences | PaddedSequences | None = None

    @property
    def rows(self) -> int:
        return int(self.sparse.shape[0])

    def to(self, device: torch.device) -> Features:
        """Return the features on `device`; copies start without waiting."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        sequences = self.sequences
        if isinstance(sequences, RaggedSequences):
            sequences = RaggedSequences(move(sequences.values), move(sequences.offsets))
        elif isinstance(sequences, PaddedSequences):
            sequences = PaddedSequences(tuple(move(ids) for ids in sequences.ids))
        return Features(move(self.sparse), move(self.dense), sequences)


@dataclasses.dataclass(slots=True)
class Candidates:
    """The items that rows are compared with, one a column: first each row's own, in the rows' order, then drawn ones.

    Args:
        ids: int64, >= 1; -1 where a row's item is not in the item table: such a column is no negative.
        features: theirs, in the schema of the item table.
        log_q: float32, the logarithm of the share of columns that an item is expected to have.
        in_batch: whether a row's own item is a negative of the other rows; otherwise only drawn ones are.
        drawn: how many columns after the rows' own are compared with every row; None says all. Columns after them are
            those of single rows.
        listed: int64, places among the columns of the negatives of each row alone; -1 where it has fewer than K.
        is_shared: whether there are columns that every row is compared with, on any worker.
        own: where the columns are all items of the item table, in its order: the place of each row's own; -1 where it
            is not in the table. There are then no columns of rows and no drawn ones.

    Shapes:
        ids (C,), features of C rows, log_q (C,), listed (B, K), own (B,)
    """

    ids: Tensor
    features: Features
    log_q: Tensor
    in_batch: bool = True
    drawn: int | None = None
    listed: Tensor | None = None
    is_shared: bool = True
    own: Tensor | None = None

    def own_ids(self, rows: int) -> Tensor:
        """Return the ids of the rows' own items, (B,), -1 where one is not in the item table.

        Args:
            rows: of the batch.
        """
        if self.own is None:
            return self.ids[:rows]
        return torch.where(self.own < 0, -1, self.ids[self.own.clamp(min=0)])

    def negatives(self, rows: int) -> Tensor:
        """Return the ids of the columns that every row is compared with, (C,), with -1 for those that are no negatives.

        Args:
            rows: of the batch.
        """
        ids = self.ids if self.drawn is None else self.ids[: rows + self.drawn]
        return ids if self.in_batch else torch.cat([torch.full_like(ids[:rows], -1), ids[rows:]])

    def to(self, device: torch.device) -> Candidates:
        """Return the candidates on `device`; copies start without waiting."""
        ids, log_q = (tensor.to(device, non_blocking=True) for tensor in (self.ids, self.log_q))
        listed, own = (
            None if tensor is None else tensor.to(device, non_blocking=True) for tensor in (self.listed, self.own)
        )
        features = self.features.to(device)
        return Candidates(ids, features, log_q, self.in_batch, self.drawn, listed, self.is_shared, own)


@dataclasses.dataclass(slots=True)
class Batch:
    """One batch.

    Args:
        candidates: those of a step of a model for retrieval; `features` are then the user side's alone.
        lists: lists of items that no model reads, of the names that the source was asked for (`Items.all_lists`).
        places: in training a model of sequences: the place of each target's vector among the tokens of the histories.
            `features` then has the rows, and all the rest an entry a target, of which a row has several.

    Shapes:
        labels: (B, L) float32, a column for each of `Schema.targets`, NaN where an optional label is missing.
        weight: (B,) float32, >= 0.
        group: (B,) int64.
        lists: one feature of B rows a name.
        places: (B,) int64.
    """

    features: Features
    labels: Tensor
    weight: Tensor | None = None
    group: Tensor | None = None
    candidates: Candidates | None = None
    lists: RaggedSequences | None = None
    places: Tensor | None = None

    @property
    def rows(self) -> int:
        return int(self.labels.shape[0])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on `device`; copies start without waiting, and a batch that is there already is returned."""
        if self.labels.device == device:
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            features=self.features.to(device),
            labels=move(self.labels),
            weight=None if self.weight is None else move(self.weight),
            group=None if self.group is None else move(self.group),
            candidates=None if self.candidates is None else self.candidates.to(device),
            lists=None if self.lists is None else RaggedSequences(move(self.lists.values), move(self.lists.offsets)),
            places=None if self.places is None else move(self.places),
        )


@dataclasses.dataclass(slots=True)
class LossTerms:
    """The loss of a batch: the scalar to differentiate, and its parts by name (detached)."""

    total: Tensor
    parts: dict[str, Tensor]


def split(batch: Batch, parts: int, *, by_group: bool = False) -> list[Batch]:
    """Return the batch as at most `parts` batches of nearly equal size, in order (views, no copies).

    Args:
        batch: at least one row; without candidates, which each part gets for itself.
        parts: number of parts (>= 1); fewer where the batch has fewer rows, or groups.
        by_group: cut between groups only (runs of equal values of `batch.group`, read on the host).
    """
    assert batch.candidates is None
    parts = min(parts, count_groups(batch) if by_group else batch.rows)
    if parts == 1:
        return [batch]
    bounds = [i * batch.rows // parts for i in range(parts + 1)]
    if by_group:
        borders = [0, *_group_borders(batch), batch.rows]
        middles = [first + last for first, last in itertools.pairwise(borders)]
        cuts = [0]
        for part in range(1, parts):  # the nearest border that leaves a group for each part
            nearest = bisect.bisect_left(middles, 2 * bounds[part])
            cuts.append(min(max(nearest, cuts[-1] + 1), len(middles) - (parts - part)))
        bounds = [*(borders[cut] for cut in cuts), batch.rows]
    return [_rows(batch, start, stop) for start, stop in itertools.pairwise(bounds)]


def count_groups(batch: Batch) -> int:
    """Return the number of groups (runs of equal values of `batch.group`) of a batch of at least one row."""
    return len(_group_borders(batch)) + 1


def _group_borders(batch: Batch) -> list[int]:
    """Return the first row of each group except the first group."""
    assert batch.group is not None
    borders: list[int] = (1 + (batch.group[1:] != batch.group[:-1]).nonzero().squeeze(1)).tolist()
    return borders


def rows_of(features: Features, start: int, stop: int) -> Features:
    """Return the rows [start, stop) of some features, of which there is at least one (views, as far as they can be)."""
    sequences = features.sequences
    if isinstance(sequences, PaddedSequences):
        sequences = PaddedSequences(tuple(ids[start:stop] for ids in sequences.ids))
    elif sequences is not None:
        sequences = _lists(sequences, features.rows, start, stop)
    return Features(features.sparse[start:stop], features.dense[start:stop], sequences)


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    return Batch(
        features=rows_of(batch.features, start, stop),
        labels=batch.labels[start:stop],
        weight=None if batch.weight is None else batch.weight[start:stop],
        group=None if batch.group is None else batch.group[start:stop],
        lists=None if batch.lists is None else _lists(batch.lists, batch.rows, start, stop),
    )


def _lists(lists: RaggedSequences, rows: int, start: int, stop: int) -> RaggedSequences:
    """Return the rows from `start` to `stop` of the lists of `rows` rows."""
    # feature-major: the rows of each feature are one stretch of the values
    features = (lists.offsets.shape[0] - 1) // rows
    lengths = lists.offsets.diff().view(features, rows)[:, start:stop].reshape(-1)
    edges, ends = (offsets.view(features, rows) for offsets in (lists.offsets[:-1], lists.offsets[1:]))
    values = torch.cat([lists.values[edges[i, start] : ends[i, stop - 1]] for i in range(features)])
    return RaggedSequences(values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))
