"""Which row groups a data set has: found once on the driver from the parquet footers, then shipped to the workers."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import difflib
import fnmatch
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.fs
import pyarrow.types as pt

from rechub_ray.data.shard import read_footer
from rechub_ray.errors import DataError, nearest
from rechub_ray.files import absolute, is_uri, join, open_filesystem, reason
from rechub_ray.schema import DenseFeature, Schema, SparseFeature

Location: TypeAlias = str | Path | Sequence[str | Path]
"""A folder of parquet shards or one file, on a local path or a URI; or a list of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class DataFile:
    """One parquet file.

    Args:
        path: absolute local path, or a URI.
        row_groups: rows of each of its row groups.
        checksum: of its footer (see `shard.Footer`); empty where it is not known.
        is_sealed: whether damage to its values is noticed.
    """

    path: str
    row_groups: tuple[int, ...]
    checksum: str = ""
    is_sealed: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class RowGroup:
    """One row group: the unit that the data plan orders and the readers read."""

    file: str
    index: int
    rows: int
    checksum: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The files and row groups of one split, in the order of their names.

    Every process that holds the same manifest derives the same plan from it, so it is made once and handed around.
    """

    files: tuple[DataFile, ...]

    @classmethod
    def scan(
        cls,
        location: Location,
        schema: Schema,
        *,
        targets: bool = True,
        key: str = "data",
        threads: int = 16,
    ) -> Manifest:
        """Read the footers under `location`, but no data, and check each file against the schema.

        Args:
            location: folder with `*.parquet` files, one file, or a list; a local path or any URI that
                `pyarrow.fs` or fsspec opens. Names that start with `_` or `.` are left out.
            schema: the columns that must be there, and their kinds.
            targets: False for prediction: label, weight and group columns may be missing.
            key: the configuration key that `location` came from, for error messages.
            threads: footers read at a time (>= 1).

        Raises:
            DataError: nothing there, a file that is named twice or unreadable, a missing or ill-typed column; names the
                file.
        """
        places = [location] if isinstance(location, str | Path) else list(location)
        paths = [path for place in places for path in _list_files(absolute(str(place)), key)]
        if not paths:
            raise DataError(f"'{key}' names no files", expected="a folder of parquet files, or a list of them")
        _check_named_once(paths, key)
        read = functools.partial(_read_footer, schema=schema, targets=targets)
        with concurrent.futures.ThreadPoolExecutor(min(threads, len(paths))) as pool:
            try:
                files = tuple(pool.map(read, paths))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        manifest = cls(files)
        if manifest.rows == 0:
            raise DataError(
                f"'{key}': the files under {places[0]} hold no rows",
                got=f"{len(files)} without rows",
                hint="Prepare the data again, or name another folder.",
            )
        return manifest

    @functools.cached_property
    def rows(self) -> int:
        """All rows."""
        return sum(sum(file.row_groups) for file in self.files)

    @functools.cached_property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """All row groups that hold rows, file by file."""
        return tuple(
            RowGroup(file.path, index, rows, file.checksum)
            for file in self.files
            for index, rows in enumerate(file.row_groups)
            if rows
        )

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when a file comes, goes or changes; the folder's own place is left out."""
        return _digest([(_name(file.path), file.row_groups, file.checksum) for file in self.files])

    @functools.cached_property
    def rows_fingerprint(self) -> str:
        """As `fingerprint`, by names and numbers of rows alone: what checkpoints of earlier versions hold."""
        return _digest([(_name(file.path), file.row_groups) for file in self.files])

    def to_dict(self) -> dict[str, Any]:
        return {"files": [dataclasses.asdict(file) | {"row_groups": list(file.row_groups)} for file in self.files]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        return cls(tuple(DataFile(**file | {"row_groups": tuple(file["row_groups"])}) for file in data["files"]))


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _digest(files: list[Any]) -> str:
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]


def _list_files(place: str, key: str) -> Iterator[str]:
    filesystem, path = open_filesystem(place)
    try:
        info = filesystem.get_file_info(path)
        if info.type == pa.fs.FileType.File:
            yield place
            return
        if info.type == pa.fs.FileType.NotFound:
            raise DataError(f"'{key}': there is no {place}", hint=_neighbours(filesystem, path))
        entries = filesystem.get_file_info(pa.fs.FileSelector(path))
    except OSError as error:
        raise DataError(f"'{key}': cannot list {place}", got=str(error)) from None
    shards = [
        entry
        for entry in entries
        if entry.base_name.endswith(".parquet") and not entry.base_name.startswith(("_", "."))
    ]
    names = sorted(entry.base_name for entry in shards)
    others = [entry.base_name for entry in shards if entry.type != pa.fs.FileType.File]
    if not is_uri(place):  # links to nothing are not listed
        others += [name for name in fnmatch.filter(os.listdir(path), "[!_.]*.parquet") if name not in names]
    if others:  # without an error, its rows would be missing silently
        raise DataError(
            f"'{key}': {join(place, others[0])} is a folder, or a link to nothing",
            expected="a parquet file",
            hint=f"Name the folder in '{key}', or take it out of {place}.",
        )
    if not names:
        folders = sorted(entry.base_name for entry in entries if entry.type == pa.fs.FileType.Directory)
        raise DataError(
            f"'{key}': no *.parquet file in {place}",
            got=f"{len(entries)} other entries" if entries else "an empty folder",
            hint=f"It has the folders {', '.join(folders[:8])}; name one of them." if folders else None,
        )
    for name in names:
        yield join(place, name)


def _check_named_once(paths: list[str], key: str) -> None:
    """Raise DataError where two paths lead to one file: its rows would count twice."""
    seen: dict[str, str] = {}
    for path in paths:
        first = seen.setdefault(path if is_uri(path) else os.path.realpath(path), path)
        if first is not path:
            other = "" if first == path else f", once as {first}"
            raise DataError(f"'{key}' has {path} twice{other}", hint="Name each file or folder once.")


def remarks(splits: Mapping[str, Manifest | None]) -> list[str]:
    """Return what a user should know about the files of a run that can go on all the same, in one line each.

    Args:
        splits: by the configuration key that names them.
    """
    lines = []
    files = {key: [file for file in split.files if sum(file.row_groups)] for key, split in splits.items() if split}
    flat = [file for some in files.values() for file in some]
    open_ = [file.path for file in flat if not file.is_sealed]
    if open_:
        lines.append(
            f"{len(open_)} of {len(flat)} data files have no checksums ({open_[0]}{_more(open_)}), so damage to their "
            "values may go unnoticed; `rechub-ray prepare` writes files that have them"
        )
    for i, (key, some) in enumerate(files.items()):
        seen: set[str] = set()
        copies = [file.path for file in some if file.is_sealed and not _is_new(file.checksum, seen)]
        if copies:
            lines.append(f"'{key}' has the rows of {copies[0]}{_more(copies)} twice: another file holds the same ones")
        for other in list(files)[i + 1 :]:
            marks = {mark for file in some for mark in _marks(file)}
            both = [file.path for file in files[other] if marks.intersection(_marks(file))]
            if both:
                lines.append(
                    f"'{key}' and '{other}' have the same rows ({both[0]}{_more(both)}): scores on them do not say how "
                    "well the model does on rows it has not seen"
                )
    return lines


def _marks(file: DataFile) -> list[str]:
    """Return the marks that tell a file from others: its path, and its checksum where that covers the content."""
    return [file.path, file.checksum] if file.is_sealed else [file.path]


def _is_new(mark: str, seen: set[str]) -> bool:
    new = mark not in seen
    seen.add(mark)
    return new


def _more(paths: list[str]) -> str:
    return f" and {len(paths) - 1} more" if len(paths) > 1 else ""


def _neighbours(filesystem: pa.fs.FileSystem, path: str) -> str | None:
    """Return a hint with the names beside a missing path; None where that has no parent."""
    parent, _, name = path.rstrip("/").rpartition("/")
    if not parent:
        return None
    entries = filesystem.get_file_info(pa.fs.FileSelector(parent, allow_not_found=True))
    names = [entry.base_name for entry in entries if not entry.base_name.startswith(".")]
    if not names:
        return f"{parent} is missing or empty; `rechub-ray prepare` writes the data."
    if difflib.get_close_matches(name, names, n=1):
        return nearest(name, names)
    return f"{parent} holds: {', '.join(sorted(names)[:8])}."


def _read_footer(path: str, *, schema: Schema, targets: bool) -> DataFile:
    filesystem, inside = open_filesystem(path)
    try:
        with filesystem.open_input_file(inside) as stream:
            footer = read_footer(stream)
        metadata = footer.metadata
        check_columns(metadata.schema.to_arrow_schema(), schema, targets=targets, where=path)
        rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        return DataFile(path, rows, footer.checksum, footer.is_sealed)
    except PermissionError as error:
        raise DataError(f"{path} cannot be read", got=reason(error), hint="Ask its owner for the permission.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} is not a readable parquet file",
            got=str(error).split("\n")[0],
            hint="It is damaged, cut off or of another format; write it again, or take it out of the folder.",
        ) from None


def needed_columns(schema: Schema, *, targets: bool) -> list[str]:
    """Return the columns to read: all of the schema's, or only features and row ids where there are no targets."""
    if targets:
        return schema.columns
    extra = [schema.row_id] if schema.row_id is not None and schema.row_id not in schema.feature_names else []
    return schema.feature_names + extra


def check_columns(columns: pa.Schema, schema: Schema, *, targets: bool, where: str) -> None:
    """Check names and types of `columns` against the schema.

    Raises:
        DataError: a column is missing or of a wrong type; names `where` and the column.
    """
    for name in needed_columns(schema, targets=targets):
        found = columns.names.count(name)
        if found != 1:
            problem = f"has no column '{name}'" if not found else f"has {found} columns '{name}'"
            raise DataError(f"{where} {problem}", hint=None if found else nearest(name, columns.names))
    for feature in schema.features:
        kind = columns.field(feature.name).type
        if isinstance(feature, SparseFeature):
            fits, expected = pt.is_integer(kind), "an integer type"
        elif isinstance(feature, DenseFeature) and feature.dim == 1:
            fits, expected = _is_number(kind), "a number"
        elif isinstance(feature, DenseFeature):
            fits = _is_list(kind) and _is_number(kind.value_type)
            fits = fits and (not pt.is_fixed_size_list(kind) or kind.list_size == feature.dim)
            expected = f"a list of {feature.dim} numbers"
        else:
            fits, expected = _is_list(kind) and pt.is_integer(kind.value_type), "a list of an integer type"
        _expect(fits, feature.name, expected, kind, where)
    if targets:
        for label in schema.targets:
            kind = columns.field(label.name).type
            fits = _is_number(kind) or (label.optional and pt.is_null(kind))
            _expect(fits, label.name, "a number", kind, where)
        if schema.weight is not None:
            kind = columns.field(schema.weight).type
            _expect(_is_number(kind), schema.weight, "a number", kind, where)
        if schema.group is not None:
            kind = columns.field(schema.group).type
            _expect(pt.is_integer(kind), schema.group, "an integer type", kind, where)


def _expect(fits: bool, name: str, expected: str, kind: pa.DataType, where: str) -> None:
    if not fits:
        raise DataError(f"{where}: column '{name}' has a wrong type", expected=expected, got=str(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pt.is_integer(kind) or pt.is_floating(kind) or pt.is_boolean(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pt.is_list(kind) or pt.is_large_list(kind) or pt.is_fixed_size_list(kind))
