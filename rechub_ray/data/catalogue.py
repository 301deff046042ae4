"""The item table in memory: every item's id, features and number of training rows, on the device of the model."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.fs
import torch
from torch import Tensor

from rechub_ray.batch import Features, RaggedSequences
from rechub_ray.data.block import Array, Block
from rechub_ray.data.collate import collate
from rechub_ray.data.fingerprint import ITEMS
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import Piece
from rechub_ray.data.reader import read_piece, refuse
from rechub_ray.errors import DataError
from rechub_ray.files import absolute, exists, join, open_filesystem
from rechub_ray.schema import COUNT, Schema


class Catalogue:
    """The items of a data set, in the order of their ids.

    Args:
        schema: of the features, as `Schema.item_side`: the id is the first sparse one.
        features: of all items.
        count: training rows of each item.

    Attributes:
        ids: the items' ids.

    Shapes:
        ids: (N,) int64, ascending, each >= 1.
        count: (N,) int64, each >= 0.
    """

    def __init__(self, schema: Schema, features: Features, count: Tensor) -> None:
        self.schema, self.features, self.count = schema, features, count
        self.ids = features.sparse[:, 0].contiguous()

    @property
    def rows(self) -> int:
        """Number of items."""
        return int(self.ids.shape[0])

    @classmethod
    def read(cls, root: str, schema: Schema) -> Catalogue:
        """Return the item table of a data set.

        Args:
            root: folder or URI of the data set.
            schema: of its rows.

        Raises:
            SchemaError: the schema has no items.
            DataError: there is no item table, it cannot be read, or it holds a value that it must not; names the file.
        """
        side, folder = schema.item_side, join(absolute(root), ITEMS)
        if not exists(*open_filesystem(folder), kind=pa.fs.FileType.Directory):
            raise DataError(
                f"the data set {root} has no item table",
                expected=f"a folder '{ITEMS}' in it",
                hint="`items` in the recipe of `rechub-ray prepare` makes one.",
            )
        columns = dataclasses.replace(side, row_id=COUNT)  # a column that blocks pass on as it is
        manifest = Manifest.scan(folder, columns, targets=False, key=ITEMS)
        blocks: list[Block] = []
        counts: list[Array] = []
        last = 0
        for group in manifest.row_groups:
            piece = Piece(0, group.file, group.index, group.rows, 0, group.rows, None, group.checksum)
            block, where = read_piece(piece, columns, targets=False), f"{group.file}, row group {group.index}"
            ids = block.sparse[:, 0]
            wrong = np.flatnonzero(np.diff(ids, prepend=last) <= 0)
            if len(wrong):
                row = int(wrong[0])
                refuse(where, side.features[0].name, row, ids[row], "ids from 1 on, ascending, each once")
            blocks.append(block)
            counts.append(_counts(block, where))
            last = int(ids[-1])
        return cls(side, collate(blocks).features, torch.from_numpy(np.concatenate(counts)))

    def to(self, device: torch.device) -> Catalogue:
        """Return the table on `device`; one that is there already is returned."""
        if self.ids.device == device:
            return self
        sequences = self.features.sequences
        if isinstance(sequences, RaggedSequences):
            sequences = RaggedSequences(sequences.values.to(device), sequences.offsets.to(device))
        features = Features(self.features.sparse.to(device), self.features.dense.to(device), sequences)
        return Catalogue(self.schema, features, self.count.to(device))

    def rows_of(self, ids: Tensor) -> Tensor:
        """Return the place of each id in the table, -1 for an id that it does not have; the shape is that of `ids`."""
        places = torch.searchsorted(self.ids, ids.contiguous()).clamp(max=self.rows - 1)
        return torch.where(self.ids[places] == ids, places, -1)

    def take(self, rows: Tensor) -> Features:
        """Return the features of items.

        Args:
            rows: (C,) int64, their places in the table, each in [0, N) and as often as wanted.
        """
        sequences = self.features.sequences
        if sequences is not None:
            assert isinstance(sequences, RaggedSequences)
            sequences = _lists_of(sequences, self.rows, rows)
        return Features(self.features.sparse[rows], self.features.dense[rows], sequences)


def _counts(block: Block, where: str) -> Array:
    column = block.row_id
    assert column is not None
    if not pa.types.is_integer(column.type) or column.null_count:
        raise DataError(
            f"{where}: column '{COUNT}'",
            expected="a whole number in every row",
            got=f"{column.type}, with nulls" if column.null_count else column.type,
        )
    counts: Array = column.to_numpy(zero_copy_only=False).astype(np.int64)
    if counts.min() < 0:
        row = int(np.argmax(counts < 0))
        refuse(where, COUNT, row, counts[row], "a number of rows >= 0")
    return counts


def _lists_of(sequences: RaggedSequences, count: int, rows: Tensor) -> RaggedSequences:
    """Return the lists of some of `count` rows, feature-major as they are."""
    borders = sequences.offsets
    features = (borders.shape[0] - 1) // count
    places = (torch.arange(features, device=rows.device).unsqueeze(1) * count + rows).flatten()
    lengths = borders[places + 1] - borders[places]
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    total = int(offsets[-1])
    shift = torch.repeat_interleave(borders[places] - offsets[:-1], lengths, output_size=total)
    return RaggedSequences(sequences.values[shift + torch.arange(total, device=rows.device)], offsets)
