"""Where a split's groups lie, for plans that keep them whole: found once on the driver, from one column."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import hashlib
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from rechub_ray.data.manifest import Manifest, RowGroup
from rechub_ray.data.plan import Piece
from rechub_ray.data.reader import group_starts, read_columns
from rechub_ray.errors import DataError

Sizes: TypeAlias = npt.NDArray[np.unsignedinteger]


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """One group: its value in the group column, its rows, and the file that holds it."""

    value: int
    rows: int
    file: str


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """The groups of one split; each lies in one row group, its rows together.

    Memory: 1, 2 or 4 bytes a group, by the rows of the largest one.

    Args:
        sizes: rows of each group in order, one array for each of the manifest's row groups.
        largest: the group with the most rows.
    """

    sizes: tuple[Sizes, ...]
    largest: Group

    @functools.cached_property
    def count(self) -> int:
        """All groups."""
        return sum(len(sizes) for sizes in self.sizes)

    @functools.cached_property
    def rows(self) -> int:
        """All rows."""
        return sum(int(sizes.sum()) for sizes in self.sizes)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when a border of a group moves."""
        digest = hashlib.sha256()
        for sizes in self.sizes:
            digest.update(sizes.astype("<u4").tobytes())
        return digest.hexdigest()[:16]

    @classmethod
    def scan(cls, manifest: Manifest, column: str, *, threads: int = 16) -> Groups:
        """Read the group column of a split, and nothing else.

        While it looks for groups that are in two places, it takes 16 bytes a group.

        Args:
            manifest: the split.
            column: the group column, of an integer type.
            threads: row groups read at a time (>= 1).

        Raises:
            DataError: a file cannot be read; a null; a group in two row groups, or in two places of one.
        """
        with concurrent.futures.ThreadPoolExecutor(min(threads, len(manifest.row_groups))) as pool:
            try:
                found = list(pool.map(functools.partial(_runs, column=column), manifest.row_groups))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        _check_whole([values for values, _ in found], manifest, column)
        at, (values, sizes) = max(enumerate(found), key=lambda item: int(item[1][1].max()))
        largest = Group(int(values[sizes.argmax()]), int(sizes.max()), manifest.row_groups[at].file)
        kind = np.min_scalar_type(largest.rows)
        return cls(tuple(sizes.astype(kind) for _, sizes in found), largest)


def _runs(row_group: RowGroup, column: str) -> tuple[npt.NDArray[np.int64], Sizes]:
    """Return the value and the number of rows of each run of equal values."""
    where = f"{row_group.file}, row group {row_group.index}"
    piece = Piece(0, row_group.file, row_group.index, row_group.rows, 0, row_group.rows, None, row_group.checksum)
    values = read_columns(piece, [column], where).column(column)
    if values.null_count:
        row = pc.index(values.is_null(), True).as_py()
        raise DataError(
            f"{where}: group column '{column}', row {row}, holds null",
            expected="a group in every row, where 'data.group_by' keeps groups whole",
            hint="`rechub-ray prepare` sets such rows aside; give them a group, or leave them out.",
        )
    ids = values.to_numpy().astype(np.int64, copy=False)
    starts = group_starts(ids)
    return ids[starts], np.diff(starts, append=len(ids)).astype(np.uint32)


def _check_whole(values: list[npt.NDArray[np.int64]], manifest: Manifest, column: str) -> None:
    """Raise DataError where a value has two runs."""
    ordered = np.sort(np.concatenate(values))
    again = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(again):
        return
    twice = ordered[again[0]]
    places = [index for index, some in enumerate(values) for _ in range(int((some == twice).sum()))][:2]
    first, second = (manifest.row_groups[place] for place in places)
    number = len(np.unique(ordered[again]))
    if first is second:
        where = f"lies in two places of row group {first.index} of {first.file}"
    else:
        where = f"lies in row group {first.index} of {first.file} and in row group {second.index} of {second.file}"
    raise DataError(
        f"'data.group_by': the group {twice} of column '{column}' {where}",
        expected="the rows of a group next to each other, in one row group",
        got=f"{number:,} groups that are not" if number > 1 else "one group that is not",
        hint="`rechub-ray prepare` writes them so with `cluster_by` in its recipe; prepare the data anew.",
    )
