"""Batches with the items that their rows are compared with."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Candidates, Features, RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.layers.gather import gather_rows
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import without_item
from rechub_ray.models.sequential.base import SequentialRetriever
from rechub_ray.negatives.base import NEGATIVES, Rows, Seen, uniform_numbers, uniform_rows
from rechub_ray.schema import Schema
from rechub_ray.world import World

_OF_MODEL = 2**20
"""The stream of random numbers that a model of sequences chooses its positions by; those before it are of sources."""


class Completer:
    """Completes batches, on the device, with their rows' items, with drawn ones, and with those of single rows.

    Of a model of sequences, a row has several positions that learn, each with an item of its own: the batch then has
    an entry a position (see `Batch.places`).

    Args:
        schema: of the rows; has items.
        catalogue: the items, on the device.
        nodes: sources of negatives, `{name: uniform, number: 100}` each; none gives rows their own item alone.
        rows: of a step, over all workers: so many columns are those of the rows.
        model: that is trained; None for one without positions.

    Attributes:
        refresh_steps: after how many steps `vectors` are to be computed again; None where no source reads them.
        vectors: of all items, (N, D), at the last refresh; None asks for one.

    Raises:
        ConfigError: an unknown source or argument.
    """

    def __init__(
        self, schema: Schema, catalogue: Catalogue, nodes: Sequence[Any], *, rows: int, model: Model | None = None
    ) -> None:
        self._schema, self._catalogue, self._lists, self._rows = schema, catalogue, lists_of(nodes), rows
        self._model = model if isinstance(model, SequentialRetriever) else None
        sources = [NEGATIVES.build(node, catalogue, where=f"negatives.{i}") for i, node in enumerate(nodes)]
        self._in_batch = any(source.in_batch for source in sources)
        self._every = any(source.every for source in sources)
        self._of_rows = [source for source in sources if source.per_row]
        shared = [source for source in sources if not source.per_row and not source.every]
        self._drawing, self._is_shared = [source for source in shared if not source.in_batch], bool(shared)
        nothing = torch.zeros(catalogue.rows, dtype=torch.float64, device=catalogue.ids.device)
        self._expected = sum((source.number * source.probabilities() for source in self._drawing), start=nothing)
        self._frequency = sum((source.probabilities() for source in shared if source.in_batch), start=nothing)
        own = None if schema.items is None else schema.items.id
        self._histories = [i for i, f in enumerate(schema.sequences) if f.shared_with == own]
        steps = [source.refresh_steps for source in sources if source.refresh_steps is not None]
        self.refresh_steps = min(steps, default=None)
        self.vectors: Tensor | None = None

    def __call__(
        self,
        batch: Batch,
        *,
        seed: int,
        part: int = 0,
        parts: int = 1,
        users: Callable[[Features], Tensor] | None = None,
        world: World | None = None,
    ) -> Batch:
        """Return the batch with candidates, and its features without the item's id.

        Args:
            batch: on the catalogue's device.
            seed: of the step: a function of the run's seed and the step, equal on every worker.
            part: which of the step's equally many drawn items this batch gets, in [0, parts).
            parts: batches of the step, over all workers: each gets its share of what is drawn.
            users: computes the vectors of the users' features, for sources that need them.
            world: the ranks that the step's rows are on; None says that this batch has all of them.
        """
        features, ids = without_item(self._schema, batch.features)
        count, device, lists = len(ids), ids.device, batch
        targets, rows, slots, width = ids, torch.arange(count, device=device), torch.zeros_like(ids), 1

        def numbers(stream: int, number: int) -> Tensor:
            """Return random numbers of the rows, (B, number), the same ones for any number of parts of equal size."""
            start = part * count * number
            return uniform_numbers(seed, stream, start, start + count * number, device=device).view(count, number)

        if self._model is not None:
            positions = self._model.positions(features, ids, functools.partial(numbers, _OF_MODEL))
            features, targets, width = positions.features, positions.ids, self._model.slots
            rows, slots = positions.rows, positions.slots
            batch = dataclasses.replace(
                batch,
                labels=batch.labels[rows],
                weight=None if batch.weight is None else batch.weight[rows],
                group=None if batch.group is None else batch.group[rows],
                places=positions.places,
            )
        own = self._catalogue.rows_of(targets)
        if self._every:
            log_q = torch.zeros(self._catalogue.rows, device=device)
            candidates = Candidates(self._catalogue.ids, self._catalogue.features, log_q, in_batch=False, own=own)
            return dataclasses.replace(batch, features=features, candidates=candidates)
        places = [own]
        for stream, source in enumerate(self._drawing):
            start, stop = source.number * part // parts, source.number * (part + 1) // parts
            places.append(source.places(uniform_numbers(seed, stream, start, stop, device=device)))
        drawn, listed = sum(len(some) for some in places[1:]), None
        if self._of_rows or not self._is_shared:

            def vectors() -> Tensor:
                assert users is not None
                return users(features)

            def every() -> tuple[Tensor, int]:
                return (own, 0) if world is None else gather_rows(world, own)

            def of_each(stream: int, number: int) -> Tensor:
                return numbers(stream, width * number).view(count, width, number)[rows, slots]

            named = {name: _one(lists, i, len(self._lists)) for i, name in enumerate(self._lists)}
            found = [
                source.of_rows(
                    Rows(
                        own,
                        named,
                        vectors,
                        self.vectors,
                        every,
                        functools.partial(uniform_numbers, seed, stream, 0, device=device),
                        functools.partial(uniform_rows, seed + stream),
                        rows,
                        functools.partial(of_each, stream),
                        functools.partial(self._seen, features, ids),
                    )
                )
                for stream, source in enumerate(self._of_rows, len(self._drawing))
            ]
            chosen = torch.cat([own.new_zeros((len(own), 0)), *found], 1)
            distinct, place = torch.unique(chosen, return_inverse=True)
            missing = int((distinct[:1] < 0).sum())
            listed = torch.where(chosen < 0, -1, place + (len(own) + drawn - missing))
            places.append(distinct[missing:])
        every_place = torch.cat(places)
        known = every_place.clamp(min=0)
        candidates = Candidates(
            ids=torch.where(every_place >= 0, self._catalogue.ids[known], -1),
            features=self._catalogue.take(known),
            log_q=self._log_q(known, len(own) + drawn, self._columns_of_rows(len(own), parts, world)),
            in_batch=self._in_batch,
            drawn=drawn,
            listed=listed,
            is_shared=self._is_shared,
        )
        return dataclasses.replace(batch, features=features, candidates=candidates)

    def _columns_of_rows(self, own: int, parts: int, world: World | None) -> int:
        """Return how many columns of the step are those of its rows, or their positions, on all workers."""
        if self._model is None:
            return self._rows
        if world is None or world.size == 1 or not (self._in_batch and self._drawing):  # else it cancels out
            return own * parts
        device = self._catalogue.ids.device
        return int(world.sum_(torch.tensor([own], device=device))) * parts // world.size

    def _log_q(self, places: Tensor, shared: int, rows: int) -> Tensor:
        """Return the logarithm of the share of columns that items are expected to have.

        Args:
            places: of the items in the catalogue; the first ones are in columns of all rows.
            shared: how many of them.
            rows: as `_columns_of_rows` returns it.
        """
        if not self._is_shared:  # nothing is sampled, so nothing is corrected
            return torch.zeros(len(places), device=places.device)
        total = rows * self._in_batch + sum(source.number for source in self._drawing)
        share = (rows * self._frequency[places] + self._expected[places]) / total
        share[shared:] += (
            1 / total
        )  # a row has an item of its own list once in as many columns, beside those of all rows
        return share.log().float()

    def _seen(self, features: Features, own: Tensor) -> Seen:
        """Return the items of rows and of their histories.

        Args:
            features: of the user side.
            own: ids of the rows' items, (B,).
        """
        count = len(own)
        every = torch.arange(count, device=own.device)
        rows, ids, sequences = [every], [own], features.sequences
        for i in self._histories:
            assert isinstance(sequences, RaggedSequences)
            offsets = sequences.offsets[i * count : (i + 1) * count + 1]
            rows.append(torch.repeat_interleave(every, offsets.diff()))
            ids.append(sequences.values[int(offsets[0]) : int(offsets[-1])])
        places = self._catalogue.rows_of(torch.cat(ids))
        return Seen.of(torch.cat(rows), places, count=count, items=self._catalogue.rows)


def lists_of(nodes: Sequence[Any]) -> tuple[str, ...]:
    """Return the list columns that sources of negatives read, each once.

    Args:
        nodes: theirs, as they are configured.
    """
    columns = [node.get("column") for node in nodes if not isinstance(node, str)]
    return tuple(dict.fromkeys(name for name in columns if name is not None))


def _one(batch: Batch, place: int, number: int) -> RaggedSequences:
    """Return one of `number` lists of a batch."""
    assert batch.lists is not None
    assert batch.lists.offsets.shape[0] == number * batch.rows + 1
    offsets = batch.lists.offsets[place * batch.rows : (place + 1) * batch.rows + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    return RaggedSequences(batch.lists.values[first:last], offsets - first)
