"""Raw files: finding them, cutting them into tasks, and reading a task block by block."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import pyarrow.parquet as pq

from rechub_ray.errors import DataError, nearest
from rechub_ray.files import open_filesystem, reason
from rechub_ray.preparation import progress, text
from rechub_ray.preparation.columns import TEXT, Column, Use, check_type, convert, settle
from rechub_ray.preparation.expressions import Expression
from rechub_ray.preparation.forms import File, Format
from rechub_ray.preparation.values import Flaws, flat

TASK_BYTES = 64 << 20
PARQUET_TASK_ROWS = 1_000_000
PARQUET_BATCH_ROWS = 65_536
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_UNUSED = "\x00"


def _is_glob(name: str) -> bool:
    return any(mark in name for mark in "*?[")


def _wanted(name: str, pattern: str) -> bool:
    """Return whether a name matches; one like `_SUCCESS` or `.part.crc` does only where the pattern has that sign."""
    return fnmatch.fnmatchcase(name, pattern) and (name[0] not in "._" or pattern[0] == name[0])


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
        """Return the source at a local path, or at a URI of pyarrow (`s3://`, `gs://`, `hdfs://`) or else of fsspec."""
        return cls(*open_filesystem(uri))

    def path(self, name: str) -> str:
        return name if name.startswith("/") else posixpath.join(self.root, name)

    def find(self, pattern: str) -> list[str]:
        """Return the files that `pattern` names, sorted: a path, a folder (all below it), or a glob.

        In a glob `*`, `?` and `[ab]` match within a name and `**` any folders; folders that match stand for the files
        below them. Names that begin with `.` or `_` are left out, unless the pattern writes that sign.

        Raises:
            DataError: there is none (suggests the nearest name beside it), or files and folders match alike.
        """
        path = self.path(pattern)
        kind = self.filesystem.get_file_info(path).type
        if kind == pyarrow.fs.FileType.File:
            return [path]
        if kind == pyarrow.fs.FileType.Directory:
            found: list[str] = self._below(path)
        else:
            parts = path.split("/")
            fixed = next((i for i, part in enumerate(parts) if _is_glob(part)), len(parts) - 1)
            matched = self._matching("/".join(parts[:fixed]), parts[fixed:])
            files, folders = ([info.path for info in matched if info.is_file is wanted] for wanted in (True, False))
            if files and folders:
                raise DataError(
                    f"{path} matches files and folders alike",
                    got=f"{files[0]} and {folders[0]}",
                    hint="Name one of them (such as *.csv), or use ** for all that lies below.",
                )
            found = files + [file for folder in folders for file in self._below(folder)]
        if not found:
            raise self._missing(path)
        return sorted(set(found))

    def _matching(self, folder: str, parts: list[str]) -> list[pyarrow.fs.FileInfo]:
        first, rest = parts[0], parts[1:]
        found: list[pyarrow.fs.FileInfo] = []
        if first == "**":
            found = self._matching(folder, rest or ["*"])
        for info in self._list(folder):
            if first == "**":
                if not info.is_file and _wanted(info.base_name, "*"):
                    found += self._matching(info.path, parts)
            elif not _wanted(info.base_name, first):
                continue
            elif not rest:
                found.append(info)
            elif not info.is_file:
                found += self._matching(info.path, rest)
        if first == "**":
            found = [info for info in found if info.is_file]  # the folders are walked anyway
        return found

    def _below(self, folder: str) -> list[str]:
        found: list[str] = []
        for info in self._list(folder):
            if _wanted(info.base_name, "*"):
                found += [info.path] if info.is_file else self._below(info.path)
        return found

    def _missing(self, path: str) -> DataError:
        """Return the error for a path that does not exist, with a hint on the first part of it that is missing."""
        folder, name = posixpath.split(path)
        while folder != posixpath.dirname(folder) and len(folder) > len(self.root) and not self._list(folder):
            folder, name = posixpath.split(folder)
        beside = [info.base_name for info in self._list(folder)]
        return DataError(
            f"no file {path}",
            hint=nearest(name, beside) if beside else "The folder is missing or empty: check 'source'.",
        )

    def keys(self, path: str) -> tuple[tuple[str, str | None], ...]:
        """Return the columns that a file's folders name (`day=2024-01-31`), and their values."""
        inside = path.removeprefix(self.root) if path.startswith(self.root.rstrip("/") + "/") else path
        pairs = [part.split("=", 1) for part in posixpath.dirname(inside).split("/") if "=" in part]
        values = {unquote(key): unquote(value) for key, value in pairs if key}
        return tuple((key, None if value == _HIVE_NULL else value) for key, value in values.items())

    def _list(self, folder: str) -> list[pyarrow.fs.FileInfo]:
        selector = pyarrow.fs.FileSelector(folder or "/", allow_not_found=True)
        try:
            return sorted(self.filesystem.get_file_info(selector), key=lambda info: info.path)
        except OSError as error:
            raise DataError(f"cannot list the folder {folder}", got=reason(error), hint="Check 'source'.") from None

    def size(self, path: str) -> int:
        return int(self.filesystem.get_file_info(path).size)

    def verify(self, checksums: Mapping[str, str], url: str) -> None:
        """Check the files that are there against their checksums.

        Args:
            checksums: SHA-256 in hex digits, by name below the root.
            url: where the files come from, for messages; may be empty.

        Raises:
            DataError: a file has another SHA-256.
        """
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
        form: how the file is laid out.
        columns: what to read, in the types that all files have in common.
        keys: columns that the file's folders name, and their values.
        offset: first byte of a text file.
        length: bytes of a text file; -1 is to the end (compressed files: always all).
        first_row: number of the piece's first row, from 1, counted in lines (records of a parquet file).
        row_groups: of a parquet file.
        names: the columns of a text file.
        compression: of a text file.
        recode: encoding of a text file whose bytes cannot be cut into lines, else empty.
        where: expression that is true for the rows to keep; empty keeps all.
    """

    file: str
    split: str = ""
    file_index: int = 0
    form: Format = dataclasses.field(default_factory=lambda: Format())
    columns: tuple[Column, ...] = ()
    keys: tuple[tuple[str, str | None], ...] = ()
    offset: int = 0
    length: int = -1
    first_row: int = 1
    row_groups: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    compression: str | None = None
    recode: str = ""
    where: str = ""


@dataclasses.dataclass
class RawRows:
    """Some rows of a task, as read: columns not yet interpreted, and the rows that could not even be cut into columns.

    Args:
        table: the rows.
        files: the index of each row's input file.
        rows: each row's number in its file, from 1.
        bad: the rows that could not be read.
        from_end: how many rows of the same user follow (where rows were brought together by user).
        first: which rows are the first of their user that `history.min_length` keeps, after rows that it leaves out.
        window: which of the training rows `history.rows: windows` keeps.
    """

    table: pa.Table
    files: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]
    bad: list[BadRow] = dataclasses.field(default_factory=list)
    from_end: npt.NDArray[np.int64] | None = None
    first: npt.NDArray[np.bool_] | None = None
    window: npt.NDArray[np.bool_] | None = None


def plan(
    source: Source, files: Mapping[str, Sequence[File]], columns: list[str], uses: Sequence[Use], where: str = ""
) -> list[Task]:
    """Return the tasks, in the order of the files. Depends on the files alone, never on the number of workers.

    Args:
        files: of each split.
        columns: those to read.
        uses: what they are read for.
        where: expression that is true for the rows to keep; empty keeps all.

    Raises:
        DataError: a file is missing, empty, of another type than its format, or lacks one of `columns`; or a column
            has a type that a use of it cannot take, or types in two files that cannot be one.
    """
    wholes: list[Task] = []
    kinds: dict[str, list[tuple[str, pa.DataType]]] = {name: [] for name in columns}
    tasks: list[Task] = []
    for split, entries in files.items():
        for entry in entries:
            for path in source.find(entry.path):
                keys = tuple((name, value) for name, value in source.keys(path) if name in columns)
                whole = Task(path, split, len(wholes), entry.format, keys=keys)
                if source.size(path) == 0:
                    raise DataError(f"{path} is empty")
                look = _look_at_parquet if entry.format.type == "parquet" else _look_at_text
                wholes.append(look(source, whole, columns, uses, kinds))
    _need_keys(source, wholes, columns)
    settled = tuple(settle(name, uses, kinds[name]) for name in columns)
    for whole in wholes:
        whole = dataclasses.replace(whole, columns=settled, where=where)
        tasks += _cut_parquet(source, whole) if whole.form.type == "parquet" else _cut_text(source, whole)
    return tasks


def _look_at_parquet(
    source: Source,
    whole: Task,
    columns: list[str],
    uses: Sequence[Use],
    kinds: dict[str, list[tuple[str, pa.DataType]]],
) -> Task:
    """Note the types of the file's columns in `kinds`, and return the file with the keys that are not columns of it."""
    try:
        with source.filesystem.open_input_file(whole.file) as stream:
            if what := text.foreign(stream.read(512).replace(b"PAR1", b"", 1)):
                raise DataError(f"{whole.file} is not a readable parquet file", got=what)
            schema = pq.ParquetFile(stream).schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{whole.file} is not a readable parquet file", got=" ".join(str(error).split())) from None
    keys = [name for name, _ in whole.keys if name not in schema.names]
    need_columns(whole.file, [*schema.names, *keys], columns)
    for name in columns:
        kind = TEXT if name in keys else schema.field(name).type
        check_type(whole.file, name, kind, uses)
        kinds[name].append((whole.file, kind))
    return dataclasses.replace(whole, keys=tuple(pair for pair in whole.keys if pair[0] in keys))


def _cut_parquet(source: Source, whole: Task) -> list[Task]:
    with source.filesystem.open_input_file(whole.file) as stream:
        metadata = pq.ParquetFile(stream).metadata
        counts = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    tasks, groups, rows, first = [], [], 0, 1
    for index, count in enumerate(counts):
        groups.append(index)
        rows += count
        if rows >= PARQUET_TASK_ROWS or index == len(counts) - 1:
            tasks.append(dataclasses.replace(whole, row_groups=tuple(groups), first_row=first))
            first, groups, rows = first + rows, [], 0
    return tasks


def _look_at_text(
    source: Source,
    whole: Task,
    columns: list[str],
    uses: Sequence[Use],
    kinds: dict[str, list[tuple[str, pa.DataType]]],
) -> Task:
    """Return the file with its compression and the names of its columns."""
    form = whole.form
    try:
        with source.filesystem.open_input_file(whole.file) as file:
            compressed = text.compression(file.read(16), whole.file)
        with text.open_stream(source.filesystem, whole.file, compressed) as stream:
            returns = text.lone_returns(stream.read(1 << 16)) if form.lines_are_bytes else True
        recode = form.encoding if returns else ""
        with text.open_stream(source.filesystem, whole.file, compressed, recode) as stream:
            names, start = text.header(stream, form, whole.file, "utf-8" if recode else form.encoding)
    except OSError as error:
        raise DataError(f"{whole.file} cannot be read", got=reason(error)) from None
    inside = names or [name for name in columns if name not in dict(whole.keys)]
    keys = tuple(pair for pair in whole.keys if pair[0] not in names)
    need_columns(whole.file, [*inside, *dict(keys)], columns, form)
    for name in columns:
        kinds[name].append((whole.file, TEXT))
    # columns that nothing uses may share a name or have none
    names = [name if name in columns else f"{_UNUSED}{place}" for place, name in enumerate(names)]
    return dataclasses.replace(
        whole,
        keys=keys,
        names=tuple(names),
        offset=start,
        first_row=2 if form.header and names else 1,
        compression=compressed,
        recode=recode,
    )


def _cut_text(source: Source, whole: Task) -> list[Task]:
    size = source.size(whole.file)
    one = whole.compression or whole.recode or whole.form.newlines_in_values
    if one or size <= TASK_BYTES + TASK_BYTES // 2:
        return [whole]
    tasks = []
    with source.filesystem.open_input_file(whole.file) as file:
        for offset, length, lines in text.cut(file, whole.offset, size, TASK_BYTES):
            tasks.append(dataclasses.replace(whole, offset=offset, length=length))
            whole = dataclasses.replace(whole, first_row=whole.first_row + lines)
    return tasks


def _need_keys(source: Source, wholes: list[Task], columns: list[str]) -> None:
    """Raise DataError where no row of the files of JSON lines has one of `columns`; a few may leave it out."""
    tasks = [whole for whole in wholes if whole.form.type == "jsonl"]
    missing = [name for name in columns if not any(name in dict(task.keys) for task in tasks)]
    known: dict[str, None] = {}
    for task in tasks:
        try:
            lines = (line for data in text.blocks(source.filesystem, task) for line in data.split(b"\n"))
            missing, found = text.absent(lines, missing)
        except (OSError, EOFError) as error:
            raise _unreadable(task, error) from None
        known |= dict.fromkeys(found)
    if missing and known and len(tasks) == len(wholes):
        where = tasks[0].file if len(tasks) == 1 else f"{tasks[0].file} and {len(tasks) - 1} more"
        raise DataError(f"{where}: no row has '{missing[0]}'", hint=nearest(missing[0], known))


def need_columns(file: str, have: list[str], columns: list[str], form: Format | None = None) -> None:
    """Check that a file has each of `columns` once.

    Args:
        file: names it in errors.
        have: its columns.
        columns: those to read.
        form: of a text file, for a hint on the delimiter.

    Raises:
        DataError: a column is missing, or there several times.
    """
    for name in columns:
        if have.count(name) > 1:
            raise DataError(f"{file} has {have.count(name)} columns '{name}'", hint="Rename all but one of them.")
        if name in have:
            continue
        hint = nearest(name, filter(None, have))
        if form is not None and len(have) == 1 and len(columns) > 1:
            hint = f"The whole first line is one column, so 'format.delimiter' ({form.separator!r}) may be wrong."
        raise DataError(f"{file} has no column '{name}'", got=", ".join(have)[:300], hint=hint)


def read(source: Source, task: Task) -> Iterator[RawRows]:
    """Yield the task's rows, block by block (a few megabytes each).

    Raises:
        DataError: the file is damaged.
    """
    try:
        for raw in _read_parquet(source, task) if task.form.type == "parquet" else _read_text(source, task):
            for name, value in task.keys:
                raw.table = raw.table.append_column(name, pa.repeat(pa.scalar(value, TEXT), raw.table.num_rows))
            yield _converted(raw, task)
    except (OSError, EOFError, pa.ArrowException) as error:
        raise _unreadable(task, error) from None


def _unreadable(task: Task, error: Exception) -> DataError:
    return DataError(f"{task.file} cannot be read to its end", got=" ".join(str(error).split()))


def _converted(raw: RawRows, task: Task) -> RawRows:
    flaws = Flaws(raw.table.num_rows)
    table = convert(raw.table, task.columns, task.form, flaws)
    keep = np.ones(table.num_rows, dtype=bool)
    if task.where:
        wanted, inner = Expression(task.where).values(table)
        for row, why in inner.reasons.items():
            flaws.reasons.setdefault(row, why)
        keep = flat(pc.fill_null(pc.not_equal(wanted, 0), False)).to_numpy(zero_copy_only=False)
    if not flaws.reasons and keep.all():
        return dataclasses.replace(raw, table=table)
    for row, why in sorted(flaws.reasons.items()):
        try:
            shown = str(raw.table.slice(row, 1).to_pylist()[0])
        except UnicodeDecodeError:  # the reason quotes the bytes
            shown = ""
        raw.bad.append(BadRow(task.file, int(raw.rows[row]), why, shown))
    good = flaws.good & keep
    return RawRows(table.filter(pa.array(good)), raw.files[good], raw.rows[good], raw.bad)


def _read_text(source: Source, task: Task) -> Iterator[RawRows]:
    first = task.first_row
    for data in text.blocks(source.filesystem, task):
        table, records, flaws, lines = text.parse(data, task)
        progress.tick(len(records), size=len(data))
        bad = [BadRow(task.file, first + row, why, line) for row, why, line in flaws]
        yield RawRows(table, np.full(len(records), task.file_index, np.int32), records + first, bad)
        first += lines


def _read_parquet(source: Source, task: Task) -> Iterator[RawRows]:
    first = task.first_row
    columns = [column.name for column in task.columns if column.name not in dict(task.keys)]
    with source.filesystem.open_input_file(task.file) as stream:
        file = pq.ParquetFile(stream)
        total = sum(file.metadata.row_group(group).num_rows for group in task.row_groups)
        for batch in file.iter_batches(
            batch_size=PARQUET_BATCH_ROWS, row_groups=list(task.row_groups), columns=columns, use_threads=False
        ):
            rows = np.arange(first, first + batch.num_rows, dtype=np.int64)
            yield RawRows(pa.Table.from_batches([batch]), np.full(len(rows), task.file_index, np.int32), rows)
            progress.tick(batch.num_rows, share=batch.num_rows / total)
            first += batch.num_rows


def read_all(source: Source, file: str, form: Format, columns: list[str], uses: Sequence[Use]) -> pa.Table:
    """Return a whole (side) table in memory.

    Raises:
        DataError: as `plan` and `read`; a bad row; no rows.
    """
    if form.type == "json_map":
        path = source.find(file)[0]
        need_columns(path, ["key", "value"], columns)
        return text.read_json_map(source.filesystem, path, [settle(name, uses, [(path, TEXT)]) for name in columns])
    tables: list[pa.Table] = []
    for task in plan(source, {"": (File(path=file, format=form),)}, columns, uses):
        for raw in read(source, task):
            if raw.bad:
                raise raw.bad[0].error()
            tables.append(raw.table)
    if not tables:
        raise DataError(f"{source.path(file)} has no rows")
    return pa.concat_tables(tables)
