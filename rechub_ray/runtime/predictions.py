"""What `predict` writes: rows of prepared shards or of raw files, in parts, with what the model says of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from rechub_ray.checkpoint import read
from rechub_ray.config import RunConfig
from rechub_ray.data.block import Block
from rechub_ray.data.collate import collate
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.source import EvalSource, Reader
from rechub_ray.defaults import links, retrieves
from rechub_ray.device import autocast
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.export.ports import vector_name
from rechub_ray.models.base import Model
from rechub_ray.outputs import Output, Served, served
from rechub_ray.preparation.sources import BadRow
from rechub_ray.runtime.parts import Parts
from rechub_ray.schema import Schema
from rechub_ray.world import World

PART_ROWS = 1_000_000
Columns = dict[str, pa.Array]


class Rows(Protocol):
    """Rows to predict, in parts; picklable."""

    def blocks(
        self, number: int, parts: int, *, reader: Reader, batch_size: int
    ) -> Iterator[tuple[Block | None, Columns, list[BadRow]]]:
        """Yield a part's rows, the columns to carry along, and the rows that cannot be used."""


@dataclasses.dataclass(frozen=True)
class PredictJob:
    """The data that every worker needs to predict.

    Args:
        checkpoint: path or URI of one checkpoint.
        config: its run's, with overrides.
        rows: what to predict.
        parts: where the predictions go.
        probabilities: predictions are probabilities, not logits.
    """

    checkpoint: str
    config: RunConfig
    rows: Rows
    parts: Parts
    probabilities: bool = True


def write_parts(
    job: PredictJob, *, world: World, device: torch.device, reader: Reader, hooks: Any = None
) -> dict[str, Any]:
    """Write this worker's share of the parts that are missing."""
    saved = read(job.checkpoint)
    model = saved.build_model()
    columns = served_columns(saved.schema, job.config, model.outputs, probabilities=job.probabilities)
    scorer = Scorer(model, columns, job.config, device)
    for number in job.parts.missing[world.rank :: world.size]:
        blocks = job.rows.blocks(number, job.parts.count, reader=reader, batch_size=job.config.data.eval_batch_size)
        job.parts.write(
            number,
            ((None if block is None else pa.table({**kept, **scorer(block)}), bad) for block, kept, bad in blocks),
        )
    return {}


class Scorer:
    """A model: rows in, what is served of them out.

    Args:
        model: the model; it is moved to the device.
        columns: what is served.
        config: of its run.
        device: where the model runs.
    """

    def __init__(self, model: Model, columns: Sequence[Served], config: RunConfig, device: torch.device) -> None:
        self.model, self.columns = model.to(device), columns
        self._device, self._precision = device, config.train.precision
        self._batch_size = config.data.eval_batch_size

    @torch.no_grad()
    def __call__(self, block: Block) -> Columns:
        """Return the served columns of a block."""
        parts = []
        for start in range(0, block.rows, self._batch_size):
            batch = collate([block.slice(start, min(start + self._batch_size, block.rows))]).to(self._device)
            with autocast(self._device, self._precision):
                outputs = self.model(batch.features)
            parts.append([_column(item.of(outputs)) for item in self.columns])
        return {
            item.name: pa.concat_arrays(list(column))
            for item, column in zip(self.columns, zip(*parts, strict=True), strict=True)
        }


def served_columns(
    schema: Schema, config: RunConfig, outputs: Sequence[Output], *, probabilities: bool
) -> tuple[Served, ...]:
    """Return the columns that predictions have of a model with these outputs: of one for retrieval, those of users."""
    columns = served(outputs, schema, links(config, schema, outputs), probabilities=probabilities)
    if not retrieves(config):
        return columns
    name = vector_name(schema, "user")
    return tuple(dataclasses.replace(column, name=name) for column in columns if column.source.part == "user")


def _column(value: Tensor) -> pa.Array:
    """Return a column of numbers, or of lists of a fixed size."""
    array = value.float().cpu()
    if array.dim() == 1:
        return pa.array(array.numpy())
    column = pa.array(array.contiguous().numpy().reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def check_kept(keep: Sequence[str], columns: Sequence[Served]) -> None:
    """Check that no column that is carried along has the name of a prediction.

    Raises:
        ConfigError: one has.
    """
    for name in {column.name for column in columns} & set(keep):
        raise ConfigError(f"--keep: '{name}' is the name of a prediction", hint="Rename that column in the data.")


@dataclasses.dataclass(frozen=True)
class ShardRows:
    """Rows of prepared shards.

    Args:
        manifest: the shards.
        schema: what is read of them: the model's features, and of the other columns those to carry along.
        keep: the columns to carry along, and their names in the predictions.
        targets: whether labels, weight or group are read.
    """

    manifest: Manifest
    schema: Schema
    keep: Mapping[str, str]
    targets: bool

    @classmethod
    def of(
        cls, schema: Schema, keep: Sequence[str] | None, named: Mapping[str, str], scan: Callable[..., Manifest]
    ) -> ShardRows:
        """Return the rows of shards with the columns in `keep`; None stands for the row id, where there is one.

        Args:
            schema: of the shards.
            keep: columns to carry along, by their names in the shards or as the recipe names them.
            named: the recipe's names of columns that have others in the shards.
            scan: finds the shards, called with what is read of them and with `targets`.

        Raises:
            ConfigError: a column is not the row id, the group, the weight or a label.
        """
        extra = [schema.row_id, schema.group, schema.weight, *(label.name for label in schema.targets)]
        known = list(dict.fromkeys(name for name in extra if name is not None))
        columns = {name: column for column, name in named.items() if name not in known}
        wanted = [columns.get(name, name) for name in keep or ()]
        kept = [schema.row_id] if keep is None and schema.row_id is not None else list(dict.fromkeys(wanted))
        for name in kept:
            if name not in known:
                raise ConfigError(
                    f"--keep: '{name}' is not carried along from shards",
                    expected=f"one of: {', '.join(named.get(name, name) for name in known)}"
                    if known
                    else "nothing: the schema has no such column",
                    hint=nearest(name, known) if known else "row_id, group and labels of a recipe are.",
                )
        group, weight, row_id = (n if n in kept else None for n in (schema.group, schema.weight, schema.row_id))
        labels = tuple(label for label in schema.targets if label.name in kept)
        read = dataclasses.replace(schema, labels=labels, teachers=(), group=group, weight=weight, row_id=row_id)
        targets = bool(labels or group or weight)
        return cls(scan(read, targets=targets), read, {name: named.get(name, name) for name in kept}, targets)

    def blocks(
        self, number: int, parts: int, *, reader: Reader, batch_size: int
    ) -> Iterator[tuple[Block | None, Columns, list[BadRow]]]:
        source = EvalSource(
            self.manifest,
            self.schema,
            batch_size=batch_size,
            world=World(number, parts),
            reader=reader,
            targets=self.targets,
            row_ids=True,
        )
        for block in source.blocks():
            yield block, {name: self._kept(block, column) for column, name in self.keep.items()}, []

    def _kept(self, block: Block, name: str) -> pa.Array:
        if name == self.schema.row_id:
            return block.row_id
        if name == self.schema.group:
            return pa.array(block.group)
        if name == self.schema.weight:
            return pa.array(block.weight)
        place = [label.name for label in self.schema.labels].index(name)
        return pa.array(
            np.ascontiguousarray(block.labels[:, place]), from_pandas=True
        )  # NaN is a label that is missing
