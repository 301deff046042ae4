"""Initial rows of embedding tables, under Torch-RecHub's names."""

from __future__ import annotations

import abc
from typing import Any

import torch
from torch import Tensor, nn

from rechub_ray.errors import ConfigError

__all__ = ["Initializer", "Pretrained", "RandomNormal", "RandomUniform", "XavierNormal", "XavierUniform"]


class Initializer(abc.ABC):
    """Fills a table.

    Attributes:
        freeze: whether the table is not trained.
    """

    freeze = False

    @abc.abstractmethod
    def fill(self, table: Tensor) -> None:
        """Set all rows of a table (V, D), in place."""


class RandomNormal(Initializer):
    """Rows from N(mean, std)."""

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean, self.std = mean, std

    def fill(self, table: Tensor) -> None:
        nn.init.normal_(table, self.mean, self.std)


class RandomUniform(Initializer):
    """Rows evenly from [minval, maxval)."""

    def __init__(self, minval: float = 0.0, maxval: float = 1.0) -> None:
        self.minval, self.maxval = minval, maxval

    def fill(self, table: Tensor) -> None:
        nn.init.uniform_(table, self.minval, self.maxval)


class XavierNormal(Initializer):
    """Glorot's normal initialisation of the table as a (V, D) weight."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def fill(self, table: Tensor) -> None:
        nn.init.xavier_normal_(table, self.gain)


class XavierUniform(Initializer):
    """Glorot's uniform initialisation of the table as a (V, D) weight."""

    def __init__(self, gain: float = 1.0) -> None:
        self.gain = gain

    def fill(self, table: Tensor) -> None:
        nn.init.xavier_uniform_(table, self.gain)


class Pretrained(Initializer):
    """Rows that were learnt elsewhere.

    Args:
        embedding_weight: (V, D).
        freeze: whether the rows stay as they are; trainers then have the table in `train.freeze`.

    Raises:
        ConfigError: the shape is not the feature's.
    """

    def __init__(self, embedding_weight: Any, freeze: bool = True) -> None:
        self.freeze = freeze
        self.embedding_weight = torch.as_tensor(embedding_weight, dtype=torch.float32)

    def fill(self, table: Tensor) -> None:
        if table.shape != self.embedding_weight.shape:
            raise ConfigError(
                "Pretrained: the rows do not fit the feature",
                expected=f"(vocab_size, embed_dim) = {tuple(table.shape)}",
                got=tuple(self.embedding_weight.shape),
            )
        with torch.no_grad():
            table.copy_(self.embedding_weight)
