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
from rechub_ray.models.matching.base import without_item
from rechub_ray.negatives.base import NEGATIVES, Rows, uniform_numbers, uniform_rows
from rechub_ray.schema import Schema
from rechub_ray.world import World


class Completer:
    """Completes batches, on the device, with their rows' items, with drawn ones, and with those of single rows.

    Args:
        schema: of the rows; has items.
        catalogue: the items, on the device.
        nodes: sources of negatives, `{name: uniform, number: 100}` each; none gives rows their own item alone.
        rows: of a step, over all workers: so many columns are those of the rows.

    Attributes:
        refresh_steps: after how many steps `vectors` are to be computed again; None where no source reads them.
        vectors: of all items, (N, D), at the last refresh; None asks for one.

    Raises:
        ConfigError: an unknown source or argument.
    """

    def __init__(self, schema: Schema, catalogue: Catalogue, nodes: Sequence[Any], *, rows: int) -> None:
        self._schema, self._catalogue, self._lists = schema, catalogue, lists_of(nodes)
        sources = [NEGATIVES.build(node, catalogue, where=f"negatives.{i}") for i, node in enumerate(nodes)]
        self._in_batch = any(source.in_batch for source in sources)
        self._drawing = [source for source in sources if not source.in_batch and not source.per_row]
        self._of_rows = [source for source in sources if source.per_row]
        shared = [source for source in sources if not source.per_row]
        numbers = [rows if source.in_batch else source.number for source in shared]
        self._is_shared = bool(shared)
        if shared:
            shares = torch.stack([n * source.probabilities() for n, source in zip(numbers, shared, strict=True)]).sum(0)
            q = shares / sum(numbers)
            # a row has an item of its own list once in as many columns, beside those of all rows
            self._log_q, self._log_q_of_row = q.log().float(), (q + 1 / sum(numbers)).log().float()
        else:  # nothing is sampled, so nothing is corrected
            self._log_q = self._log_q_of_row = torch.zeros(catalogue.rows, device=catalogue.ids.device)
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
        own = self._catalogue.rows_of(ids)
        places = [own]
        for stream, source in enumerate(self._drawing):
            start, stop = source.number * part // parts, source.number * (part + 1) // parts
            places.append(source.places(uniform_numbers(seed, stream, start, stop, device=own.device)))
        drawn = sum(len(some) for some in places[1:])
        log_q, listed = [self._log_q[torch.cat(places).clamp(min=0)]], None
        if self._of_rows or not self._is_shared:
            found = self._listed(batch, features, own, seed, users, world)
            distinct, place = torch.unique(found, return_inverse=True)
            missing = int((distinct[:1] < 0).sum())
            listed = torch.where(found < 0, -1, place + (len(own) + drawn - missing))
            places.append(distinct[missing:])
            log_q.append(self._log_q_of_row[places[-1]])
        every = torch.cat(places)
        known = every.clamp(min=0)
        candidates = Candidates(
            ids=torch.where(every >= 0, self._catalogue.ids[known], -1),
            features=self._catalogue.take(known),
            log_q=torch.cat(log_q),
            in_batch=self._in_batch,
            drawn=drawn,
            listed=listed,
            is_shared=self._is_shared,
        )
        return dataclasses.replace(batch, features=features, candidates=candidates)

    def _listed(
        self,
        batch: Batch,
        features: Features,
        own: Tensor,
        seed: int,
        users: Callable[[Features], Tensor] | None,
        world: World | None,
    ) -> Tensor:
        """Return the places in the catalogue of the negatives of each row alone, (B, K); -1 where it has fewer."""

        def vectors() -> Tensor:
            assert users is not None
            return users(features)

        def every() -> tuple[Tensor, int]:
            return (own, 0) if world is None else gather_rows(world, own)

        lists = {name: _one(batch, i, len(self._lists)) for i, name in enumerate(self._lists)}
        found = []
        for stream, source in enumerate(self._of_rows, len(self._drawing)):
            draw = functools.partial(uniform_numbers, seed, stream, 0, device=own.device)
            draw_rows = functools.partial(uniform_rows, seed + stream)
            found.append(source.of_rows(Rows(own, lists, vectors, self.vectors, every, draw, draw_rows)))
        return torch.cat([own.new_zeros((len(own), 0)), *found], 1)


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
