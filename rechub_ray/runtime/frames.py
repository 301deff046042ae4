"""Rows from memory as a file that is read as raw files are, and results with their index."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.errors import DataError

PLACE = "row of the frame"
WHERE = "the frame"
_GROUP_ROWS = 65_536


@contextlib.contextmanager
def in_file(data: pd.DataFrame | pa.Table, folder: str, wanted: Sequence[str] | None = None) -> Iterator[str]:
    """Yield the path of a parquet file with rows from memory and their numbers; errors about it speak of the frame.

    Args:
        data: the rows.
        folder: for the file.
        wanted: the columns that are written, where they are there; None for all.

    Raises:
        DataError: a column holds values of several kinds, or the block raised one.
    """
    table = _table(data, set(names_in(data)) if wanted is None else set(wanted))
    table, path = table.append_column(PLACE, pa.array(np.arange(table.num_rows))), f"{folder}/{WHERE}.parquet"
    pq.write_table(table, path, row_group_size=_GROUP_ROWS)
    try:
        yield path
    except DataError as error:
        raise DataError(
            error.message.replace(path, WHERE), expected=error.expected, got=error.got, hint=error.hint
        ) from None


def with_index(found: pa.Table, data: pd.DataFrame | pa.Table) -> pd.DataFrame:
    """Return what was made of the rows of `in_file` in their order, with their index."""
    found = found.sort_by(PLACE)
    index = pd.RangeIndex(data.num_rows) if isinstance(data, pa.Table) else data.index
    result: pd.DataFrame = found.drop_columns([PLACE]).to_pandas()
    return result.set_axis(index.take(found[PLACE].to_numpy()), axis=0)


def names_in(data: pd.DataFrame | pa.Table) -> Sequence[str]:
    """Return the names of the columns."""
    return data.column_names if isinstance(data, pa.Table) else list(data.columns)


def _table(data: pd.DataFrame | pa.Table, wanted: set[str]) -> pa.Table:
    """Return the columns of `data` that are read, as Arrow has them.

    Raises:
        DataError: a column holds values of several kinds, or none that a file could hold.
    """
    if isinstance(data, pa.Table):
        return data.select([name for name in data.column_names if name in wanted])
    try:
        return pa.Table.from_pandas(data[[name for name in data.columns if name in wanted]], preserve_index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise DataError(
            f"{WHERE} has a column that cannot be read", got=str(error).split("\n")[0], hint="Give it one type."
        ) from None
