"""All items of a data set as vectors, and the ranks of rows' items among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from rechub_ray.batch import RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.device import autocast, on_a_core_each
from rechub_ray.evaluation.top import merge_top
from rechub_ray.models.matching.base import Retriever
from rechub_ray.world import World

_ITEMS = 2048
"""Items whose vectors are computed, and compared with users, at once: the same ones on any number of workers."""
_USERS = 256
"""Users that are compared at once: with as many items 2 MiB of products, which stay in a core's cache."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Rows with places in the item table, each pair once, ascending by place.

    Shapes:
        rows, places: (P,) int64.
    """

    rows: Tensor
    places: Tensor

    @classmethod
    def of(cls, rows: Tensor, places: Tensor, items: int) -> Pairs:
        """Return the pairs whose place is none of -1, each once.

        Args:
            rows: (P,) int64.
            places: (P,) int64, in [-1, items).
            items: number of items.
        """
        known = places >= 0
        keys: Tensor = torch.unique(places[known] + rows[known] * items)
        rows, places = keys // items, keys % items
        order = places.argsort(stable=True)
        return cls(rows[order], places[order])

    def within(self, start: int, stop: int) -> Pairs:
        """Return the pairs whose rows are in [start, stop), with rows counted from there."""
        inside = (self.rows >= start) & (self.rows < stop)
        return Pairs(self.rows[inside] - start, self.places[inside])


class Corpus:
    """The vectors of all items, which users' vectors are compared with.

    Args:
        vectors: in the order of the catalogue.
        catalogue: the items.

    Shapes:
        vectors: (N, D)
    """

    def __init__(self, vectors: Tensor, catalogue: Catalogue) -> None:
        self.catalogue, self.items = catalogue, len(vectors)
        # all products have one shape, so that equal vectors have equal products, wherever they stand
        rest = -self.items % _ITEMS
        self._vectors = torch.cat([vectors.float(), vectors.new_zeros((rest, vectors.shape[1])).float()])

    @classmethod
    def of(
        cls, model: Retriever, catalogue: Catalogue, *, world: World, device: torch.device, precision: str = "float32"
    ) -> Corpus:
        """Return the corpus of a model; every worker computes its share of the vectors.

        Args:
            model: in evaluation mode.
            catalogue: the items, on the device.
            world: the ranks; each one calls this.
            device: where to compute.
            precision: of the towers, `float32` or `bfloat16`.
        """
        return cls(item_vectors(model, catalogue, world=world, device=device, precision=precision), catalogue)

    @property
    def vectors(self) -> Tensor:
        """The items' vectors, (N, D)."""
        return self._vectors[: self.items]

    def compare(
        self, users: Tensor, ids: Tensor, sequences: RaggedSequences | None, asked: Mapping[str, Ranking]
    ) -> dict[str, Tensor]:
        """Return the ranks of rows' items among all items, and the items of the largest products.

        A rank is the number of other items whose product with the user's vector is not smaller (so is one that is NaN);
        with several vectors a user the largest product of an item counts. An item that is not in the table is behind
        all that are.

        Args:
            users: the users' vectors.
            ids: of the rows' items.
            sequences: the rows' lists, feature-major.
            asked: what to compute, by the name that the result gets.

        Returns:
            By name, `<name>` the ranks; where they are asked for, `<name>/top` the places of the first items, and
            `<name>/loss` the cross-entropy among all items, whatever is left out.

        Shapes:
            users (B, D) or (B, K, D), ids (B,) -> (B,) int64, (B, top) int64 and (B,) float32
        """
        targets, count = self.catalogue.rows_of(ids), len(users)
        every = torch.arange(count, device=users.device)
        own = Pairs.of(every, targets, self.items)
        left_out = {
            name: Pairs(every[:0], every[:0])
            if ranking.column is None
            else self.listed(sequences, ranking.column, targets)
            for name, ranking in asked.items()
        }

        def of_users(start: int) -> dict[str, Tensor]:
            stop = min(start + _USERS, count)
            pairs = {name: pair.within(start, stop) for name, pair in left_out.items()}
            return self._compared(users[start:stop], targets[start:stop], own.within(start, stop), pairs, asked)

        found: dict[str, list[Tensor]] = {}
        for part in on_a_core_each(of_users, range(0, count, _USERS), users.device):
            for name, value in part.items():
                found.setdefault(name, []).append(value)
        nothing = {name: [every[:0]] for name in asked}
        result = {name: torch.cat(parts) for name, parts in (found or nothing).items()}
        for name in asked:
            result[name] = torch.where(targets < 0, self.items, result[name])
        return result

    def ranks_among(self, users: Tensor, targets: Tensor, candidates: Pairs) -> Tensor:
        """Return the ranks of rows' items among some items of each row; -1 for a row that has none.

        As of `compare`: an item whose product is not smaller is before the row's own, and one that is not in the table
        is behind all.

        Args:
            users: the users' vectors.
            targets: places of the rows' items in the table; -1 for one that is not in it.
            candidates: places of the others, without the rows' own.

        Shapes:
            users (B, D) or (B, K, D), targets (B,) -> (B,) int64
        """
        ranks, numbers = torch.zeros_like(targets), torch.bincount(candidates.rows, minlength=len(targets))
        for start in range(0, len(users), _USERS):
            some = users[start : start + _USERS]
            pairs, places = candidates.within(start, start + len(some)), targets[start : start + len(some)]
            score = _products(some, self._vectors[places.clamp(min=0)])
            found = _products(some[pairs.rows], self._vectors[pairs.places])
            ranks[start : start + len(some)].index_add_(0, pairs.rows, (~(found < score[pairs.rows])).long())
        return torch.where(numbers == 0, -1, torch.where(targets < 0, self.items, ranks))

    def scores(self, users: Tensor, targets: Tensor) -> Tensor:
        """Return the products of users' vectors with their rows' items, (B,); -inf where one is not in the table."""
        found = _products(users, self._vectors[targets.clamp(min=0)])
        return torch.where(targets < 0, -torch.inf, found)

    def listed(self, sequences: RaggedSequences | None, column: int, targets: Tensor) -> Pairs:
        """Return the rows' pairs with the items of a list column, each once and without their own items.

        Args:
            sequences: the rows' lists, feature-major.
            column: which of them.
            targets: places of the rows' items in the table.
        """
        assert isinstance(sequences, RaggedSequences)
        count = len(targets)
        offsets = sequences.offsets[column * count : (column + 1) * count + 1]
        lengths = offsets.diff()
        rows = torch.repeat_interleave(torch.arange(count, device=targets.device), lengths)
        places = self.catalogue.rows_of(sequences.values[int(offsets[0]) : int(offsets[-1])])
        return Pairs.of(rows, torch.where(places == targets[rows], -1, places), self.items)

    def _compared(
        self,
        users: Tensor,
        targets: Tensor,
        own: Pairs,
        left_out: Mapping[str, Pairs],
        asked: Mapping[str, Ranking],
    ) -> dict[str, Tensor]:
        """Return what `compare` does, of at most `_USERS` users."""
        count, several = len(users), users.dim() == 3
        padded = users.new_zeros((_USERS, *users.shape[1:]))
        padded[:count] = users
        flat = padded.view(-1, users.shape[-1])
        room = flat.new_empty((len(flat), _ITEMS))

        def products(vectors: Tensor) -> Tensor:
            found = torch.mm(flat, vectors.T, out=room if len(vectors) == _ITEMS else None)
            return (found.view(_USERS, -1, len(vectors)).amax(1) if several else found)[:count]

        theirs = self._vectors.new_zeros((_USERS, self._vectors.shape[1]))
        theirs[:count] = self._vectors[targets.clamp(min=0)]
        score = products(theirs)[:, :count].diagonal().unsqueeze(1).clone()  # blocks share their memory
        not_less = torch.zeros(count, dtype=torch.int64, device=users.device)
        flags = self._vectors.new_empty((_USERS, _ITEMS))
        taken = {name: torch.zeros_like(not_less) for name in ("", *asked)}
        best: dict[str, tuple[Tensor, Tensor]] = {}
        tempered = {name: ranking.temperature for name, ranking in asked.items() if ranking.temperature is not None}
        totals = dict.fromkeys(tempered, torch.full_like(score[:, 0], -torch.inf))
        for start in range(0, self.items, _ITEMS):
            stop = min(start + _ITEMS, self.items)
            block = products(self._vectors[start : start + _ITEMS])[:, : stop - start]
            # numbers are summed eight times as fast as truths, and these sums are exact
            less = torch.lt(block, score, out=flags[:count, : stop - start]).sum(1)
            not_less += (stop - start) - less.long()
            for name, temperature in tempered.items():
                totals[name] = torch.logaddexp(totals[name], (block / temperature).logsumexp(1))
            for name, pairs in {"": own, **left_out}.items():
                first, last = torch.searchsorted(pairs.places, pairs.places.new_tensor([start, stop])).tolist()
                rows, places = pairs.rows[first:last], pairs.places[first:last] - start
                taken[name].index_add_(0, rows, (~(block[rows, places] < score[rows, 0])).long())
                if name and asked[name].top:
                    shown = block if first == last else block.index_put((rows, places), block.new_tensor(-torch.inf))
                    best[name] = merge_top(shown, start, asked[name].top, best.get(name))
        result = {name: not_less - taken[""] - taken[name] for name in asked}
        losses = {f"{name}/loss": total - score[:, 0] / tempered[name] for name, total in totals.items()}
        return {**result, **losses, **{f"{name}/top": places for name, (_, places) in best.items()}}


@dataclasses.dataclass(frozen=True)
class Ranking:
    """One ranking of all items.

    Args:
        column: position of the sequence feature whose items are left out, among those of the user side; None leaves out
            none.
        top: how many of the first items are wanted; 0 wants ranks alone.
        temperature: that products are divided by in the cross-entropy among all items; None wants none.
    """

    column: int | None = None
    top: int = 0
    temperature: float | None = None


def item_vectors(
    model: Retriever, catalogue: Catalogue, *, world: World, device: torch.device, precision: str = "float32"
) -> Tensor:
    """Return the vectors of all items, (N, D) float32, the same bits on any number of workers; see `Corpus.of`."""
    starts = range(0, catalogue.rows, _ITEMS)
    mine = starts[len(starts) * world.rank // world.size : len(starts) * (world.rank + 1) // world.size]
    parts = []
    for start in mine or starts[:1]:  # a worker without items has to know the width
        places = torch.arange(start, min(start + _ITEMS, catalogue.rows), device=device)
        with autocast(device, precision), torch.no_grad():
            parts.append(model.item_vectors(catalogue.take(places)).float())
    own = torch.cat(parts) if mine else parts[0][:0]
    return torch.cat(world.gather(own.contiguous()))


def _products(users: Tensor, items: Tensor) -> Tensor:
    """Return the products of users' vectors with an item's each, (P,): the largest one of several."""
    if users.dim() == 3:
        return (users * items.unsqueeze(1)).sum(2).amax(1)
    return (users * items).sum(1)
