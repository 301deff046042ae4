"""Raw files: finding them, cutting them into tasks, and reading a task block by block."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from rechub_ray.errors import DataError, nearest
from rechub_ray.files import open_filesystem, reason
from rechub_ray.preparation import progress, text
from rechub_ray.preparation.forms import Format

TASK_BYTES = 64 << 20
PARQUET_TASK_ROWS = 1_000_000
PARQUET_BATCH_ROWS = 65_536


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: file, row (line number of a text file, both from 1), reason, text."""

    file: str
    row: int
    reason: str
    text: str = ""

    def error(self) -> DataError:
        return DataError(
            f"{self.file}, row {self.row}: {self.reason}",
            got=repr(self.text[:200]) if self.text else None,
            hint="`on_bad_rows: quarantine` sets such rows aside and counts them.",
        )


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder of raw files on some filesystem."""

    filesystem: pyarrow.fs.FileSystem
    root: str

    @classmethod
    def open(cls, uri: str) -> Source:
        """A local path, or a URI of pyarrow (`s3://`, `gs://`, `hdfs://`) or else of fsspec."""
        return cls(*open_filesystem(uri))

    def path(self, name: str) -> str:
        return name if name.startswith("/") else posixpath.join(self.root, name)

    def find(self, pattern: str) -> list[str]:
        """The files that `pattern` (a path, a folder or a glob) names, sorted.

        Raises:
            DataError: there is none; suggests the nearest file beside it.
        """
        path = self.path(pattern)
        folder, name = posixpath.split(path)
        if any(mark in name for mark in "*?["):
            found = [file for file in self._files(folder) if fnmatch.fnmatchcase(posixpath.basename(file), name)]
        elif self.filesystem.get_file_info(path).type == pyarrow.fs.FileType.Directory:
            found = [file for file in self._files(path) if not posixpath.basename(file).startswith((".", "_"))]
        elif self.filesystem.get_file_info(path).type == pyarrow.fs.FileType.File:
            found = [path]
        else:
            found = []
        if not found:
            beside = [posixpath.basename(file) for file in self._files(folder)]
            raise DataError(
                f"no file {path}",
                hint=nearest(name, beside) if beside else "The folder is missing or empty: check 'source'.",
            )
        return sorted(found)

    def _files(self, folder: str) -> list[str]:
        selector = pyarrow.fs.FileSelector(folder or ".", allow_not_found=True)
        try:
            return [info.path for info in self.filesystem.get_file_info(selector) if info.is_file]
        except OSError as error:
            raise DataError(f"cannot list the folder {folder}", got=reason(error), hint="Check 'source'.") from None

    def size(self, path: str) -> int:
        return int(self.filesystem.get_file_info(path).size)

    def verify(self, checksums: Mapping[str, str], url: str) -> None:
        """DataError where a file is there and has another SHA-256 than `checksums` says."""
        for name, expected in checksums.items():
            path = self.path(name)
            if self.filesystem.get_file_info(path).type != pyarrow.fs.FileType.File:
                continue
            digest = hashlib.sha256()
            with self.filesystem.open_input_stream(path, compression=None) as stream:
                while block := stream.read(1 << 22):
                    digest.update(block)
            if digest.hexdigest() != expected:
                raise DataError(
                    f"{path} is not the file that the recipe was made for",
                    expected=f"SHA-256 {expected}",
                    got=digest.hexdigest(),
                    hint=f"Get it {f'from {url} ' if url else ''}again; if you mean this one, give checksums={{}}.",
                )


@dataclasses.dataclass(frozen=True)
class Task:
    """A piece of one file, small enough for one worker: bytes of a text file, or row groups of a parquet file.

    Args:
        split: the split that the file belongs to; empty unless the split is by file.
        file_index: the file's place among the input files.
        offset, length: bytes of a text file; length -1 is to the end (compressed files: always all).
        first_row: number of the piece's first row, from 1, counted in lines (records of a parquet file).
        row_groups: of a parquet file.
        names: the columns of a text file.
    """

    file: str
    split: str = ""
    file_index: int = 0
    offset: int = 0
    length: int = -1
    first_row: int = 1
    row_groups: tuple[int, ...] = ()
    names: tuple[str, ...] = ()


@dataclasses.dataclass
class Block:
    """Some rows of a task, as read: columns not yet interpreted, and the rows that could not even be cut into columns.

    Args:
        files, rows: where each row comes from: the index of its file, and its number there.
        from_end: how many rows of the same user follow (where rows were brought together by user).
        first: which rows are the first of their user that `history.min_length` keeps, after rows that it leaves out.
    """

    table: pa.Table
    files: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    bad: list[BadRow] = dataclasses.field(default_factory=list)
    from_end: npt.NDArray[np.int64] | None = None
    first: npt.NDArray[np.bool_] | None = None


def plan(source: Source, files: dict[str, tuple[str, ...]], form: Format, columns: list[str]) -> list[Task]:
    """The tasks, in the order of the files. Depends on the files alone, never on the number of workers.

    Raises:
        DataError: a file is missing, empty, or lacks one of `columns`.
    """
    tasks: list[Task] = []
    index = 0
    for split, patterns in files.items():
        for pattern in patterns:
            for path in source.find(pattern):
                whole = Task(path, split, index)
                index += 1
                if source.size(path) == 0:
                    raise DataError(f"{path} is empty")
                tasks += (
                    _plan_parquet(source, whole, columns)
                    if form.type == "parquet"
                    else _plan_text(source, whole, form, columns)
                )
    return tasks


def _plan_parquet(source: Source, whole: Task, columns: list[str]) -> list[Task]:
    try:
        with source.filesystem.open_input_file(whole.file) as stream:
            file = pq.ParquetFile(stream)
            need_columns(whole.file, file.schema_arrow.names, columns)
            counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{whole.file} is not a readable parquet file", got=error) from None
    tasks, groups, rows, first = [], [], 0, 1
    for index, count in enumerate(counts):
        groups.append(index)
        rows += count
        if rows >= PARQUET_TASK_ROWS or index == len(counts) - 1:
            tasks.append(dataclasses.replace(whole, row_groups=tuple(groups), first_row=first))
            first, groups, rows = first + rows, [], 0
    return tasks


def _plan_text(source: Source, whole: Task, form: Format, columns: list[str]) -> list[Task]:
    try:
        with text.open_stream(source.filesystem, whole.file) as stream:
            names, start = text.header(stream, form, whole.file)
    except OSError as error:
        raise DataError(f"{whole.file} cannot be read", got=error) from None
    if names:
        need_columns(whole.file, names, columns, form)
    whole = dataclasses.replace(whole, names=tuple(names), offset=start, first_row=2 if form.header and names else 1)
    size = source.size(whole.file)
    if text.is_compressed(whole.file) or form.newlines_in_values or size <= TASK_BYTES + TASK_BYTES // 2:
        return [whole]
    tasks = []
    with source.filesystem.open_input_file(whole.file) as file:
        for offset, length, lines in text.cut(file, start, size, TASK_BYTES):
            tasks.append(dataclasses.replace(whole, offset=offset, length=length))
            whole = dataclasses.replace(whole, first_row=whole.first_row + lines)
    return tasks


def need_columns(file: str, have: list[str], columns: list[str], form: Format | None = None) -> None:
    """DataError unless `have` holds all of `columns`."""
    for name in columns:
        if name in have:
            continue
        hint = nearest(name, have)
        if form is not None and len(have) == 1 and len(columns) > 1:
            hint = f"The whole first line is one column, so 'format.delimiter' ({form.separator!r}) may be wrong."
        raise DataError(f"{file} has no column '{name}'", got=", ".join(have)[:300], hint=hint)


def read(source: Source, task: Task, form: Format, columns: list[str]) -> Iterator[Block]:
    """The task's rows, block by block (a few megabytes each).

    Raises:
        DataError: the file is damaged.
    """
    try:
        if form.type == "parquet":
            yield from _read_parquet(source, task, columns)
            return
        first = task.first_row
        for data in text.blocks(source.filesystem, task, form):
            table, records, flaws, lines = text.parse(data, task.names, form, columns)
            progress.tick(len(records), len(data))
            bad = [BadRow(task.file, first + row, reason, line) for row, reason, line in flaws]
            yield Block(table, np.full(len(records), task.file_index, np.int32), records + first, bad)
            first += lines
    except (OSError, EOFError, pa.ArrowInvalid) as error:
        raise DataError(f"{task.file} cannot be read to its end", got=" ".join(str(error).split())) from None


def _read_parquet(source: Source, task: Task, columns: list[str]) -> Iterator[Block]:
    first = task.first_row
    with source.filesystem.open_input_file(task.file) as stream:
        file = pq.ParquetFile(stream)
        for batch in file.iter_batches(
            batch_size=PARQUET_BATCH_ROWS, row_groups=list(task.row_groups), columns=columns, use_threads=False
        ):
            rows = np.arange(first, first + batch.num_rows, dtype=np.int64)
            yield Block(pa.Table.from_batches([batch]), np.full(len(rows), task.file_index, np.int32), rows)
            progress.tick(batch.num_rows)
            first += batch.num_rows


def read_all(source: Source, file: str, form: Format, columns: list[str]) -> pa.Table:
    """A whole (side) table in memory; its bad rows raise."""
    if form.type == "json_map":
        return text.read_json_map(source.filesystem, source.find(file)[0])
    tables: list[Any] = []
    for task in plan(source, {"": (file,)}, form, columns):
        for block in read(source, task, form, columns):
            if block.bad:
                raise block.bad[0].error()
            tables.append(block.table)
    return pa.concat_tables(tables, promote_options="permissive")
