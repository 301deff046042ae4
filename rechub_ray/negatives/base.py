"""The base of sources of negatives, and the random numbers that they draw by."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from rechub_ray.batch import RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.registry import Registry

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


@dataclasses.dataclass(frozen=True)
class Seen:
    """The items of rows and of their histories, as places in the catalogue: each pair once, by row, then by place.

    Args:
        counts: number of pairs of each row.

    Shapes:
        rows (S,), places (S,), counts (B,): int64
    """

    rows: Tensor
    places: Tensor
    counts: Tensor

    @classmethod
    def of(cls, rows: Tensor, places: Tensor, *, count: int, items: int) -> Seen:
        """Return the pairs of `rows` and `places`, (S,) each, whose place is not -1.

        Args:
            count: number of rows.
            items: number of items.
        """
        keys: Tensor = torch.unique((rows * items + places)[places >= 0])
        rows = keys // items
        return cls(rows, keys % items, torch.bincount(rows, minlength=count))


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a step that a worker has, or their positions, as sources give them negatives of their own.

    Args:
        own: places of their items in the catalogue, -1 where it does not have one.
        lists: their lists of items by name, one feature each.
        users: computes their vectors by the model as it is.
        items: vectors of all items at the last refresh, for sources that have `refresh_steps`.
        every: gathers the items of all rows of the step, as `own`, and the number of rows before this worker's.
        draw: random numbers in [0, 1) of the step and the source, float64: equal on every worker.
        draw_rows: such numbers of some rows, by their places in the step.
        of: the row of the batch that each is, or is a position of.
        draw_each: random numbers of each, the same ones however rows are spread over workers.
        seen: returns what the rows of the batch are about, and what is in their histories.

    Shapes:
        own (B,), users () -> (B, D) or (B, K, D), items (N, D), draw (n) -> (n,), draw_rows (R,), n -> (R, n),
        of (B,), draw_each (n) -> (B, n)
    """

    own: Tensor
    lists: Mapping[str, RaggedSequences]
    users: Callable[[], Tensor]
    items: Tensor | None
    every: Callable[[], tuple[Tensor, int]]
    draw: Callable[[int], Tensor]
    draw_rows: Callable[[Tensor, int], Tensor]
    of: Tensor
    draw_each: Callable[[int], Tensor]
    seen: Callable[[], Seen]


class Negatives:
    """Base of sources of the items that rows are compared with, beside their own.

    A source is of one of four kinds. Its columns are the items of the step's rows (`in_batch`), or all items (`every`);
    or it draws `number` of them, which all rows are compared with: it has `probabilities` and `places`; or each row
    gets its own (`per_row`): it has `of_rows`.

    Args:
        catalogue: the items.

    Attributes:
        in_batch: see above.
        every: see above.
        per_row: see above.
        of_step: whether what a row gets depends on the other rows of the step.
        number: columns that are drawn in a step, over all workers; of a source `per_row`, at most those of a row.
        column: the list of items that it reads, of `Items.lists`.
        refresh_steps: steps after which it is to get the vectors of all items again; None never needs them.
    """

    registered_name: ClassVar[str]
    in_batch: ClassVar[bool] = False
    every: ClassVar[bool] = False
    per_row: ClassVar[bool] = False
    of_step: ClassVar[bool] = False
    number: int = 0
    column: str | None = None
    refresh_steps: int | None = None

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def probabilities(self) -> Tensor:
        """Return how likely each item is in a column of this source, (N,) float64, in the catalogue's order."""
        raise NotImplementedError

    def places(self, uniform: Tensor) -> Tensor:
        """Return places in the catalogue, one for each number.

        Args:
            uniform: independent random numbers in [0, 1), float64.
        """
        raise NotImplementedError

    def of_rows(self, rows: Rows) -> Tensor:
        """Return each row's negatives as places in the catalogue, (B, K) int64; -1 where it has fewer.

        The item of a row may be among them: it is left out later.
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
    return _numbers(torch.arange(start, stop, device=device), _signed(key))


def uniform_rows(seed: int, rows: Tensor, number: int) -> Tensor:
    """Return the first random numbers of the streams of some rows, (R, number) float64, in [0, 1).

    A number is a function of the seed, the row and its place alone, as in `uniform_numbers`.

    Args:
        seed: any integer.
        rows: numbers of the rows, (R,) int64, >= 0.
        number: of each stream, >= 0.
    """
    keys = _mixed((rows + 1) * _signed(_GOLDEN) + _signed(_finalised(seed % 2**64)))
    return _numbers(torch.arange(number, device=rows.device), keys.unsqueeze(1))


def _numbers(places: Tensor, key: Tensor | int) -> Tensor:
    """Return the numbers at some places of the streams of some keys."""
    x = _mixed((places + 1) * _signed(_GOLDEN) + key)
    numbers: Tensor = _shifted(x, 11).double() * 2.0**-53
    return numbers


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * _signed(_FIRST)
    x = (x ^ _shifted(x, 27)) * _signed(_SECOND)
    return x ^ _shifted(x, 31)


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
