"""A batch cut in parts is the batch, row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rechub_ray.batch import Batch, Features, PaddedSequences, RaggedSequences, count_groups, split

LENGTHS = [[2, 0, 3, 1, 0, 4, 1], [0, 0, 1, 2, 2, 0, 0], [0, 0, 0, 0, 0, 0, 0]]  # a list a feature


def make_batch(form: str) -> Batch:
    rows = len(LENGTHS[0])
    sequences: RaggedSequences | PaddedSequences | None = None
    if form == "ragged":
        flat = [length for feature in LENGTHS for length in feature]
        offsets = torch.tensor([0, *np.cumsum(flat)])
        sequences = RaggedSequences(torch.arange(sum(flat)) + 100, offsets)
    elif form == "padded":
        sequences = PaddedSequences((torch.arange(rows * 3).view(rows, 3), torch.arange(rows).view(rows, 1)))
    return Batch(
        features=Features(torch.arange(rows * 2).view(rows, 2), torch.arange(float(rows)).view(rows, 1), sequences),
        labels=torch.arange(float(rows)).view(rows, 1),
        weight=torch.arange(rows) + 0.5,
        group=torch.arange(rows) // 2,
    )


def lists(sequences: RaggedSequences, rows: int) -> list[list[list[int]]]:
    """Row by row, feature by feature."""
    edges = sequences.offsets.tolist()
    assert edges[-1] == len(sequences.values)
    return [
        [sequences.values[edges[s * rows + b] : edges[s * rows + b + 1]].tolist() for s in range(len(LENGTHS))]
        for b in range(rows)
    ]


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 20])
@pytest.mark.parametrize("form", ["none", "ragged", "padded"])
def test_parts_are_the_batch(form: str, parts: int) -> None:
    batch = make_batch(form)
    pieces = split(batch, parts)
    sizes = [piece.rows for piece in pieces]
    assert len(pieces) == min(parts, 7)
    assert sum(sizes) == 7
    assert max(sizes) - min(sizes) <= 1
    torch.testing.assert_close(torch.cat([p.features.sparse for p in pieces]), batch.features.sparse)
    torch.testing.assert_close(torch.cat([p.features.dense for p in pieces]), batch.features.dense)
    torch.testing.assert_close(torch.cat([p.labels for p in pieces]), batch.labels)
    assert batch.weight is not None
    assert batch.group is not None
    torch.testing.assert_close(torch.cat([p.weight for p in pieces if p.weight is not None]), batch.weight)
    torch.testing.assert_close(torch.cat([p.group for p in pieces if p.group is not None]), batch.group)
    whole = batch.features.sequences
    if isinstance(whole, RaggedSequences):
        found = [
            row
            for p in pieces
            if isinstance(p.features.sequences, RaggedSequences)
            for row in lists(p.features.sequences, p.rows)
        ]
        assert found == lists(whole, 7)
    elif isinstance(whole, PaddedSequences):
        for i, ids in enumerate(whole.ids):
            rejoined = [
                p.features.sequences.ids[i] for p in pieces if isinstance(p.features.sequences, PaddedSequences)
            ]
            assert torch.equal(torch.cat(rejoined), ids)


@pytest.mark.parametrize(
    ("groups", "parts", "sizes"),
    [
        ([5, 5, 5, 5, 1, 2, 2], 2, [4, 3]),
        ([5, 5, 5, 5, 5, 2, 2], 2, [5, 2]),
        ([5, 5, 5, 5, 5, 2, 2], 3, [5, 2]),
        ([1, 2, 3, 3, 3, 3, 3], 3, [1, 1, 5]),
        ([3, 3, 3, 3, 3, 2, 1], 3, [5, 1, 1]),
        ([1, 1, 1, 1, 1, 1, 1], 4, [7]),
        ([1, 2, 3, 4, 5, 6, 7], 9, [1] * 7),
    ],
)
def test_parts_of_whole_groups(groups: list[int], parts: int, sizes: list[int]) -> None:
    batch = make_batch("ragged")
    batch.group = torch.tensor(groups)
    assert count_groups(batch) == len(set(groups))
    pieces = split(batch, parts, by_group=True)
    assert [piece.rows for piece in pieces] == sizes
    assert torch.equal(torch.cat([piece.features.sparse for piece in pieces]), batch.features.sparse)
    found = [set(piece.group.tolist()) for piece in pieces if piece.group is not None]
    assert sum(map(len, found)) == len(set(groups)), "a group lies in two parts"


def test_rows_without_targets_stay_without() -> None:
    batch = make_batch("none")
    batch.weight = batch.group = None
    assert all(piece.weight is None and piece.group is None for piece in split(batch, 3))


@pytest.mark.parametrize("form", ["none", "ragged", "padded"])
def test_moving_keeps_the_values_and_is_free_where_it_already_is(form: str) -> None:
    batch = make_batch(form)
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))
    assert moved.labels.device.type == moved.features.sparse.device.type == "meta"
    assert moved.rows == moved.features.rows == 7
    sequences = moved.features.sequences
    if isinstance(sequences, RaggedSequences):
        assert sequences.values.device.type == sequences.offsets.device.type == "meta"
    elif isinstance(sequences, PaddedSequences):
        assert {ids.device.type for ids in sequences.ids} == {"meta"}
