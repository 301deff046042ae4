"""Batches with the items that their rows are compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from rechub_ray.batch import Batch, Candidates
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.models.matching.base import without_item
from rechub_ray.negatives.base import NEGATIVES, uniform_numbers
from rechub_ray.schema import Schema


class Completer:
    """Completes batches, on the device, with their rows' items and with drawn ones.

    Args:
        schema: of the rows; has items.
        catalogue: the items, on the device.
        nodes: sources of negatives, `{name: uniform, number: 100}` each.
        rows: of a step, over all workers: so many columns are those of the rows.

    Raises:
        ConfigError: an unknown source or argument.
    """

    def __init__(self, schema: Schema, catalogue: Catalogue, nodes: Sequence[Any], *, rows: int) -> None:
        self._schema, self._catalogue = schema, catalogue
        sources = [NEGATIVES.build(node, catalogue, where=f"negatives.{i}") for i, node in enumerate(nodes)]
        self._in_batch = any(source.in_batch for source in sources)
        self._drawing = [source for source in sources if not source.in_batch]
        numbers = [rows if source.in_batch else source.number for source in sources]
        shares = torch.stack([n * source.probabilities() for n, source in zip(numbers, sources, strict=True)]).sum(0)
        self._log_q = (shares / sum(numbers)).log().float()

    def __call__(self, batch: Batch, *, seed: int, part: int = 0, parts: int = 1) -> Batch:
        """Return the batch with candidates, and its features without the item's id.

        Args:
            batch: on the catalogue's device.
            seed: of the step: a function of the run's seed and the step, equal on every worker.
            part: which of the step's equally many drawn items this batch gets, in [0, parts).
            parts: batches of the step, over all workers: each gets its share of what is drawn.
        """
        features, own = without_item(self._schema, batch.features)
        places = [self._catalogue.rows_of(own)]
        for stream, source in enumerate(self._drawing):
            start, stop = source.number * part // parts, source.number * (part + 1) // parts
            places.append(source.places(uniform_numbers(seed, stream, start, stop, device=own.device)))
        every = torch.cat(places)
        known = every.clamp(min=0)
        candidates = Candidates(
            ids=torch.where(every >= 0, self._catalogue.ids[known], -1),
            features=self._catalogue.take(known),
            log_q=self._log_q[known],
            in_batch=self._in_batch,
        )
        return dataclasses.replace(batch, features=features, candidates=candidates)
