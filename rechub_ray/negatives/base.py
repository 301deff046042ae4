"""The base of sources of negatives, and the random numbers that they draw by."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.registry import Registry

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Negatives(abc.ABC):
    """Base of sources of the items that rows are compared with, beside their own.

    A source says how likely an item is in one of its columns, for the correction by popularity, and draws them.

    Args:
        catalogue: the items.

    Attributes:
        in_batch: whether its columns are the items of the step's rows, of which none is drawn.
        number: columns that are drawn in a step, over all workers.
    """

    registered_name: ClassVar[str]
    in_batch: ClassVar[bool] = False
    number: int = 0

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    @abc.abstractmethod
    def probabilities(self) -> Tensor:
        """Return how likely each item is in a column of this source, (N,) float64, in the catalogue's order."""

    def places(self, uniform: Tensor) -> Tensor:
        """Return places in the catalogue, one for each number; every source has it that draws.

        Args:
            uniform: independent random numbers in [0, 1), float64.
        """
        raise NotImplementedError


def uniform_numbers(seed: int, stream: int, start: int, stop: int, *, device: torch.device) -> Tensor:
    """Return the numbers start to stop - 1 of a stream of random ones in [0, 1), (stop - start,) float64.

    Number k is a function of (seed, stream, k) alone, the same on any device: 53 bits of splitmix64, whose state is a
    count. So any part of a step's draws can be drawn anywhere, and nothing has to be saved.

    Args:
        seed: of the step, any integer.
        stream: tells the sources of a step apart, >= 0.
        start: of the numbers, >= 0.
        stop: one past the last.
        device: where to draw.

    Example:
        >>> whole = uniform_numbers(7, 0, 0, 4, device=torch.device("cpu"))
        >>> torch.equal(whole[2:], uniform_numbers(7, 0, 2, 4, device=torch.device("cpu")))
        True
    """
    key = _finalised((seed + (stream + 1) * _GOLDEN) % 2**64)
    x = (torch.arange(start, stop, device=device) + 1) * _signed(_GOLDEN) + _signed(key)
    x = (x ^ _shifted(x, 30)) * _signed(_FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(_SECOND)
    numbers: Tensor = _shifted(x ^ _shifted(x, 31), 11).double() * 2.0**-53
    return numbers


def _finalised(x: int) -> int:
    x = ((x ^ (x >> 30)) * _FIRST) % 2**64
    x = ((x ^ (x >> 27)) * _SECOND) % 2**64
    return x ^ (x >> 31)


def _signed(x: int) -> int:
    return x - 2**64 if x >= 2**63 else x


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Return int64 numbers, read as unsigned ones, shifted to the right."""
    mask: int = 2 ** (64 - bits) - 1
    return (x >> bits) & mask


NEGATIVES: Registry[Negatives] = Registry("source of negatives", __package__)
