"""Features under Torch-RecHub's names: descriptions only, so models built from one list share no weights."""

from __future__ import annotations

import dataclasses

from rechub_ray.compat.basic.initializers import Initializer, RandomNormal
from rechub_ray.compat.utils.data import get_auto_embedding_dim

__all__ = ["DenseFeature", "SequenceFeature", "SparseFeature"]

_SMALL = RandomNormal(0, 0.0001)


@dataclasses.dataclass
class SparseFeature:
    """One id a row.

    Args:
        name: key in the batches.
        vocab_size: ids lie in [0, vocab_size).
        embed_dim: width of the embedding; None takes floor(6 * vocab_size^(1/4)).
        shared_with: name of the feature whose table this one uses (with that one's vocab_size and embed_dim).
        padding_idx: not used here; the id is one as any other.
        initializer: draws the table's initial rows.
    """

    name: str
    vocab_size: int
    embed_dim: int | None = None
    shared_with: str | None = None
    padding_idx: int | None = None
    initializer: Initializer = _SMALL

    def __post_init__(self) -> None:
        self.embed_dim = self.embed_dim or get_auto_embedding_dim(self.vocab_size)


@dataclasses.dataclass
class SequenceFeature:
    """A rectangle of ids, padded.

    Args:
        name: key in the batches.
        vocab_size: ids lie in [0, vocab_size).
        embed_dim: width of the embedding; None takes floor(6 * vocab_size^(1/4)).
        pooling: `mean` or `sum` of the embeddings of the ids that are not padding.
        shared_with: as for SparseFeature.
        padding_idx: the id that pads; None means -1.
        initializer: draws the table's initial rows.
        max_length: of longer sequences the last `max_length` ids count.
    """

    name: str
    vocab_size: int
    embed_dim: int | None = None
    pooling: str = "mean"
    shared_with: str | None = None
    padding_idx: int | None = None
    initializer: Initializer = _SMALL
    max_length: int = 512

    def __post_init__(self) -> None:
        self.embed_dim = self.embed_dim or get_auto_embedding_dim(self.vocab_size)


@dataclasses.dataclass
class DenseFeature:
    """A number a row, or a vector of `embed_dim` numbers."""

    name: str
    embed_dim: int = 1
