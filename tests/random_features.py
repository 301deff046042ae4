"""Random inputs of models, by their schema."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences
from rechub_ray.schema import Schema


def draw(schema: Schema, rows: int, *, seed: int = 1) -> Features:
    """Random inputs, with empty lists and ids of 0 among them, in the padded form."""
    generator = torch.Generator().manual_seed(seed)
    sparse = torch.stack([torch.randint(0, f.vocab_size, (rows,), generator=generator) for f in schema.sparse], 1)
    dense = torch.randn(rows, schema.dense_dim, generator=generator)
    ids = []
    for feature in schema.sequences:
        length = torch.randint(0, feature.max_length + 1, (rows, 1), generator=generator)
        values = torch.randint(0, feature.vocab_size, (rows, feature.max_length), generator=generator)
        ids.append(torch.where(torch.arange(feature.max_length) < length, values, -1))
    return Features(sparse, dense, PaddedSequences(tuple(ids)))


def ragged(features: Features) -> Features:
    assert isinstance(features.sequences, PaddedSequences)
    lists = [row[row >= 0] for ids in features.sequences.ids for row in ids]
    offsets = torch.tensor([0, *(len(values) for values in lists)]).cumsum(0)
    return Features(features.sparse, features.dense, RaggedSequences(torch.cat(lists), offsets))


def take(features: Features, rows: Tensor) -> Features:
    assert isinstance(features.sequences, PaddedSequences)
    sequences = PaddedSequences(tuple(ids[rows] for ids in features.sequences.ids))
    return Features(features.sparse[rows], features.dense[rows], sequences)


def in_float64(features: Features) -> Features:
    """The same with numbers in float64, in which rounding does not hide what rows have to do with each other."""
    return Features(features.sparse, features.dense.double(), features.sequences)
