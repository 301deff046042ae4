"""The items of the largest products with users' vectors: found among all items, or among those that an index gives."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rechub_ray.export.index import Index

Array: TypeAlias = npt.NDArray[Any]

_USERS, _ITEMS = 256, 16_384
"""Users and items that are compared at once: 16 MiB of products."""
FEW = 32
"""So many users, as of a request, are compared without PyTorch, whose start and memory a service can do without."""
_MOST_MORE = 1024
"""An index is asked for as many more items as a user's list leaves out, and at most for these."""


@dataclasses.dataclass(frozen=True)
class LeftOut:
    """Items that some users are not given, each pair once.

    Shapes:
        rows, places: (P,) int64, of the users and of the items.
    """

    rows: Array
    places: Array

    @classmethod
    def none(cls) -> LeftOut:
        nothing = np.empty(0, np.int64)
        return cls(nothing, nothing)

    def of(self, rows: Array) -> LeftOut:
        """Return the pairs of some users, ascending, with these counted from 0."""
        places = np.searchsorted(rows, self.rows).clip(max=len(rows) - 1)
        mine = rows[places] == self.rows
        return LeftOut(places[mine], self.places[mine])


@dataclasses.dataclass(frozen=True)
class Found:
    """The items of the largest products of each user, in descending order.

    Shapes:
        places: (B, k) int64, the items' places; -1 where there are no more.
        scores: (B, k) float32, the products; -inf where there are no more.
    """

    places: Array
    scores: Array


class Search:
    """Finds the items of the largest products with users' vectors; of several vectors a user, the largest one counts.

    Args:
        vectors: of the items.
        index: of these vectors, of type faiss.Index; None compares users with all items.
        settings: how far the index is searched.

    Shapes:
        vectors: (N, D) float32.
    """

    def __init__(self, vectors: Array, index: Any = None, settings: Index | None = None) -> None:
        self.vectors = np.ascontiguousarray(vectors, np.float32)
        self._index, self._settings = index, settings

    def __call__(self, users: Array, number: int, left_out: LeftOut | None = None) -> Found:
        """Return the first items of each user.

        A user for whom the index gives too few is compared with all items.

        Args:
            users: the users' vectors.
            number: how many items are wanted, >= 1.
            left_out: items that users are not given.

        Shapes:
            users: (B, D) or (B, K, D) float32.
        """
        left_out = left_out or LeftOut.none()
        if self._index is None:
            return self.exact(users, number, left_out)
        found = self.from_index(users, number, left_out)
        there = len(self.vectors) - np.bincount(left_out.rows, minlength=len(users))
        few = np.flatnonzero((found.places >= 0).sum(1) < np.minimum(there, found.places.shape[1]))
        if len(few):
            rest = self.exact(users[few], number, left_out.of(few))
            found.places[few], found.scores[few] = rest.places, rest.scores
        return found

    def exact(self, users: Array, number: int, left_out: LeftOut | None = None) -> Found:
        """Return the first items of each user among all of them; see `__call__`."""
        left_out = left_out or LeftOut.none()
        number = min(number, len(self.vectors))
        if len(users) <= FEW:
            return self._of_few(np.ascontiguousarray(users, np.float32), number, left_out)
        return self._of_many(users, number, left_out)

    def _of_few(self, users: Array, number: int, left_out: LeftOut) -> Found:
        count, size = len(self.vectors), max(_ITEMS, 64 * number)
        flat = users.reshape(-1, users.shape[-1])
        scores: Array = np.empty((len(users), 0), np.float32)
        places: Array = np.empty((len(users), 0), np.int64)
        for start in range(0, count, size):
            block = flat @ self.vectors[start : start + size].T
            if users.ndim == 3:
                block = block.reshape(*users.shape[:2], -1).max(1)
            inside = (left_out.places >= start) & (left_out.places < start + size)
            block[left_out.rows[inside], left_out.places[inside] - start] = -np.inf
            best = _largest(block, number)
            scores = np.concatenate([scores, np.take_along_axis(block, best, 1)], 1)
            places = np.concatenate([places, best + start], 1)
            best = _largest(scores, number)
            scores, places = (np.take_along_axis(some, best, 1) for some in (scores, places))
        return Found(np.where(scores == -np.inf, -1, places), scores)

    def _of_many(self, users: Array, number: int, left_out: LeftOut) -> Found:
        import torch

        from rechub_ray.device import on_a_core_each
        from rechub_ray.evaluation.top import merge_top

        count, size = len(self.vectors), max(_ITEMS, 64 * number)
        vectors = torch.from_numpy(self.vectors)
        result = Found(np.full((len(users), number), -1), np.full((len(users), number), -np.inf, np.float32))

        def of_users(first: int) -> None:
            part = torch.from_numpy(np.ascontiguousarray(users[first : first + _USERS], np.float32))
            mine = (left_out.rows >= first) & (left_out.rows < first + _USERS)
            rows, places = torch.from_numpy(left_out.rows[mine] - first), torch.from_numpy(left_out.places[mine])
            flat = part.reshape(-1, part.shape[-1])
            room = flat.new_empty((len(flat), min(size, count)))  # memory that is new each time takes a third longer
            top: tuple[torch.Tensor, torch.Tensor] | None = None
            for start in range(0, count, size):
                items = vectors[start : start + size]
                block = torch.mm(flat, items.T, out=room if len(items) == size else None)
                if part.dim() == 3:
                    block = block.view(len(part), part.shape[1], -1).amax(1)
                inside = (places >= start) & (places < start + size)
                block[rows[inside], places[inside] - start] = -torch.inf
                top = merge_top(block, start, number, top)
            assert top is not None
            best, at = top
            result.scores[first : first + _USERS] = best.numpy()
            result.places[first : first + _USERS] = torch.where(best == -torch.inf, -1, at).numpy()

        on_a_core_each(of_users, range(0, len(users), _USERS), vectors.device)
        return result

    def from_index(self, users: Array, number: int, left_out: LeftOut | None = None) -> Found:
        """Return the first items of each user among those that the index gives; see `__call__`."""
        left_out = left_out or LeftOut.none()
        count, rows = len(self.vectors), len(users)
        number = min(number, count)
        more = int(np.bincount(left_out.rows, minlength=1).max(initial=0))
        asked = min(number + min(more, _MOST_MORE), count)
        if self._settings is not None:
            self._settings.reach(self._index, asked)
        flat = np.ascontiguousarray(users.reshape(-1, users.shape[-1]), np.float32)
        places = self._index.search(flat, asked)[1].reshape(rows, -1)
        if users.ndim == 3:  # the same item for several of a user's vectors
            places = np.sort(places, 1)
            places[:, 1:][places[:, 1:] == places[:, :-1]] = -1
        if len(left_out.rows):
            keys = np.arange(rows)[:, None] * count + places
            places = np.where(np.isin(keys, left_out.rows * count + left_out.places), -1, places)
        scores = self._products(users if users.ndim == 3 else users[:, None], places)
        order = np.argsort(-scores, 1, kind="stable")[:, :number]
        return Found(np.take_along_axis(places, order, 1), np.take_along_axis(scores, order, 1))

    def _products(self, users: Array, places: Array) -> Array:
        """Return the largest products of users, (B, K, D), with some items each, -inf for place -1."""
        scores = np.full(places.shape, -np.inf, np.float32)
        step = max(1, (1 << 24) // max(1, places.shape[1] * self.vectors.shape[1]))
        for first in range(0, len(users), step):
            theirs, part = self.vectors[places[first : first + step]], users[first : first + step]
            scores[first : first + step] = np.matmul(theirs, part.transpose(0, 2, 1)).max(2)
        scores[places < 0] = -np.inf
        return scores


def _largest(values: Array, number: int) -> Array:
    """Return the places of the largest values of each row, in descending order; of fewer than `number` all."""
    found = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    if number < values.shape[1]:
        found = np.argpartition(values, -number, 1)[:, -number:]
    order = np.argsort(-np.take_along_axis(values, found, 1), 1, kind="stable")
    ordered: Array = np.take_along_axis(found, order, 1)
    return ordered


def recall(search: Search, users: Array, number: int) -> float:
    """Return the share of the first items of users that an index gives; items of equal products stand for each other.

    Args:
        search: has an index.
        users: the users' vectors, at least one.
        number: how many items are wanted, >= 1.

    Shapes:
        users: (B, D) or (B, K, D) float32.
    """
    least = search.exact(users, number).scores[:, -1:]
    scores = search.from_index(users, number).scores
    return float((scores >= least - 1e-6 - 1e-6 * np.abs(least)).mean())
