"""Raw rows in memory: pandas DataFrames and pyarrow Tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import is_uri
from rechub_ray.preparation.forms import File, Format
from rechub_ray.preparation.recipe import Recipe


def is_frame(value: Any) -> bool:
    """Return whether a value is a table of rows."""
    pandas = sys.modules.get("pandas")  # whoever has a DataFrame has imported it
    return isinstance(value, pa.Table) or (pandas is not None and isinstance(value, pandas.DataFrame))


def to_table(rows: Any) -> pa.Table:
    """Return rows as a table; the index of a DataFrame is left out, NaN is null.

    Raises:
        DataError: it is neither a DataFrame nor a Table; a column is there twice, or holds values of several types.
    """
    if isinstance(rows, pa.Table):
        return rows
    if not is_frame(rows):
        raise DataError("no table of rows", expected="a pandas DataFrame or a pyarrow Table", got=type(rows).__name__)
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(map(str, rows.columns)):
        if name in columns:
            raise DataError(f"the DataFrame has two columns '{name}'")
        try:
            columns[name] = pa.array(rows.iloc[:, place], from_pandas=True)
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise DataError(
                f"column '{name}' of the DataFrame cannot be read", expected="values of one type", got=error
            ) from None
    return pa.table(columns)


def without_frames(recipe: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a recipe in whose `files` names stand for tables, and the tables by name.

    Raises:
        ConfigError: there are tables, and the other raw files are remote.
    """
    files = recipe.get("files")
    by_split = files if isinstance(files, Mapping) else {"": files}
    frames = {_name(split): entry for split, entry in by_split.items() if is_frame(entry)}
    if not frames:
        return dict(recipe), {}
    if is_uri(str(recipe.get("source", ""))):
        raise ConfigError("'source' is remote, but 'files' are tables in memory", expected="a local folder, or none")
    named: Any = {split: _file(split) if is_frame(entry) else entry for split, entry in by_split.items()}
    return {**recipe, "files": named if isinstance(files, Mapping) else named[""]}, frames


def with_frames(recipe: Recipe, frames: Mapping[str, Any], folder: Path) -> Recipe:
    """Write tables as files into `folder`, which is made, and return the recipe with their paths.

    Raises:
        DataError: as for `to_table`.
        OSError: they cannot be written.
    """
    if not frames:
        return recipe
    folder.mkdir()
    for name, frame in frames.items():
        pq.write_table(to_table(frame), folder / name)
    files = {
        split: tuple(
            File(path=str(folder / file.path), format=Format(type="parquet")) if file.path in frames else file
            for file in entries
        )
        for split, entries in recipe.files.items()
    }
    return recipe.model_copy(update={"files": files})


def _name(split: str) -> str:
    return f"DataFrame-{split}.parquet" if split else "DataFrame.parquet"


def _file(split: str) -> dict[str, Any]:
    return {"path": _name(split), "format": {"type": "parquet"}}
