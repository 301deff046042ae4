"""A look at some rows of a raw file of which nothing is known yet: its format, and its columns."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import os
import re
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from rechub_ray.errors import DataError
from rechub_ray.files import reason
from rechub_ray.preparation import text
from rechub_ray.preparation.columns import with_points
from rechub_ray.preparation.sources import Source
from rechub_ray.preparation.values import flat

ROWS = 100_000
"""The most rows that are looked at."""
_BYTES, _PIECES = 4 << 20, 3
_DELIMITERS = ("\t", ",", ";", "|", "::", " ")
_BOM = b"\xef\xbb\xbf"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_MARKS = ("NULL", "null", "\\N", "NA", "N/A", "#N/A", "None", "?")
"""Texts that often stand for a missing value."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Some rows of a file.

    Args:
        file: its name, in its folder.
        folder: where it lies, as it was given.
        format: keys of a recipe's `format` that differ from their defaults.
        columns: by name, in the order of the file; texts of a text file. Names that several columns have, or that are
            empty, are left out.
        unnamed: how many columns were left out.
        has_names: whether the file names its columns; else they are called c1, c2, ...
        rows: number of rows that were looked at.
        total: number of rows of the file, estimated where it was not read whole.
    """

    file: str
    folder: str
    format: dict[str, Any]
    columns: dict[str, pa.Array]
    unnamed: int
    has_names: bool
    rows: int
    total: int

    @property
    def is_whole(self) -> bool:
        """Whether all rows of the file were looked at."""
        return self.rows == self.total


def look(path: str) -> Sample:
    """Return a sample of a CSV or parquet file, compressed or not.

    Args:
        path: a path or URI.

    Raises:
        DataError: there is no such file, or it is empty, of another type, or a table of one column.
    """
    folder, name = os.path.split(path)
    source = Source.open(folder or ".")
    where = source.path(name)
    try:
        info = source.filesystem.get_file_info(where)
        if info.type != pyarrow.fs.FileType.File:
            kind = "a folder" if info.type == pyarrow.fs.FileType.Directory else "nothing"
            raise DataError(f"no file '{path}'", expected="one CSV or parquet file", got=kind)
        if info.size == 0:
            raise DataError(f"'{path}' is empty", expected="a header and rows")
        with source.filesystem.open_input_file(where) as stream:
            head = stream.read(16)
        read = _parquet if head[:4] == b"PAR1" else _text
        form, names, columns, total = read(source, where, path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"'{path}' cannot be read", got=reason(error)) from None
    rows = len(columns[0]) if columns else 0
    if len(names or columns) < 2:
        raise DataError(
            f"'{path}' has one column",
            expected="several: a label, and what it depends on",
            hint="Is the delimiter one of , ; | :: space and tab?",
        )
    if rows == 0:
        raise DataError(f"'{path}' has no rows", expected="rows below its header")
    named = names or [f"c{i + 1}" for i in range(len(columns))]
    once = collections.Counter(named)
    kept = {name: column for name, column in zip(named, columns, strict=True) if name and once[name] == 1}
    unnamed = len(columns) - len(kept)
    return Sample(name, folder, form, kept, unnamed, names is not None, rows, max(total, rows))


_Read = tuple[dict[str, Any], list[str] | None, list[pa.Array], int]


def _parquet(source: Source, where: str, path: str) -> _Read:
    with source.filesystem.open_input_file(where) as stream:
        file = pq.ParquetFile(stream)
        batches: list[pa.RecordBatch] = []
        for batch in file.iter_batches(batch_size=min(ROWS, 1 << 14)):
            batches.append(batch)
            if sum(one.num_rows for one in batches) >= ROWS:
                break
        table = pa.Table.from_batches(batches, file.schema_arrow)
        total = int(file.metadata.num_rows)
    return {"type": "parquet"}, list(table.column_names), [flat(column) for column in table.columns], total


def _text(source: Source, where: str, path: str) -> _Read:
    content, times, encoding = _lines(source, where, path)
    lines = content.split("\n")
    start = next((line for line in lines if line.strip()), "")
    if start.lstrip().startswith(("{", "[")):
        raise DataError(
            f"'{path}' looks like JSON",
            expected="CSV or parquet",
            hint="`prepare` reads JSON lines too: write the recipe by hand (format: {type: jsonl}).",
        )
    mark = _delimiter([line for line in lines[:200] if line.strip()])
    rows, is_quoted = _rows(content, mark)
    count, step = len(rows), -(-len(rows) // ROWS)
    rows = rows[:1] + rows[1 :: max(step, 1)]
    body = rows[1:]
    others = [value for row in body[:1000] for value in row[1:] if value]
    strip = bool(others) and sum(value != value.strip() for value in others) > len(others) / 2
    if strip:
        rows = [[value.strip() for value in row] for row in rows]
    names = [name.strip() for name in rows[0]] if rows and _is_header(rows[0], rows[1:]) else None
    form: dict[str, Any] = {}
    if mark == "\t" and not is_quoted:
        form["type"] = "tsv"
    elif mark != ",":
        form["delimiter"] = mark
    if len(mark) == 1 and mark != "\t" and not is_quoted and '"' in content:
        form["quote"] = None
    if encoding != "utf-8":
        form["encoding"] = encoding
    if strip:
        form["strip"] = True
    if any("\n" in value for row in rows for value in row):
        form["newlines_in_values"] = True
    if names is None:
        form |= {"header": False, "columns": [f"c{i + 1}" for i in range(len(rows[0]) if rows else 0)]}
    else:
        rows = rows[1:]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in names or ()]
    if mark != "," and _has_commas(columns):
        form["decimal"] = ","
        columns = [with_points(pa.array(column, pa.string())).to_pylist() for column in columns]
    found = _missing(columns)
    if found:
        form["null_values"] = ["", "nan", "NaN", *found]
    missing = {"", "nan", "NaN", *found}
    arrays = [pa.array([None if v in missing else v for v in column], pa.string()) for column in columns]
    return form, names, arrays, round((count - (names is not None)) * times)


def _lines(source: Source, where: str, path: str) -> tuple[str, float, str]:
    """Return whole lines of a text file, from its start and, where it is large, from places further on too.

    With them come how many times as large the file is (a guess where it is compressed), and its encoding.
    """
    with source.filesystem.open_input_file(where) as file:
        compressed = text.compression(file.read(16), where)
    with text.open_stream(source.filesystem, where, compressed) as stream:
        data = _read(stream, _BYTES)
        more = bool(stream.read(1))
    if what := text.foreign(data):
        raise DataError(f"'{path}' is {what}", expected="CSV or parquet")
    if b"\0" in data:
        raise DataError(f"'{path}' is no text", expected="CSV or parquet")
    data = data.removeprefix(_BOM)
    parts = [data[: data.rfind(b"\n") + 1] if more else data]
    if more and not compressed:
        with source.filesystem.open_input_file(where) as file:
            rest = file.size() - _BYTES
            for piece in range(_PIECES):
                file.seek(_BYTES + rest * piece // _PIECES)
                block = bytes(file.read(min(_BYTES // _PIECES, rest // _PIECES)))
                begin, end = block.find(b"\n") + 1, block.rfind(b"\n") + 1
                parts.append(block[begin:end])
            size = file.size()
    elif more:
        size = 10 * len(data)
    else:
        size = len(data)
    joined = b"".join(parts)
    times = size / max(len(joined), 1)
    for encoding in ("utf-8", "latin-1"):
        try:
            content = joined.decode(encoding).replace("\r\n", "\n")
            return content if "\n" in content else content.replace("\r", "\n"), times, encoding
        except UnicodeDecodeError:
            continue
    raise AssertionError("latin-1 decodes everything")


def _read(stream: Any, count: int) -> bytes:
    """Return `count` bytes of a stream that may give fewer at a time."""
    parts, left = [], count
    while left > 0 and (part := stream.read(left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _delimiter(lines: list[str]) -> str:
    """Return the delimiter that cuts most lines into the same number of fields; a comma where none does."""
    best, found = 1, ","
    for mark in _DELIMITERS:
        counts = collections.Counter(len(_fields(line, mark)) for line in lines)
        count, times = counts.most_common(1)[0] if counts else (1, 0)
        # the first line too: lists of as many words in each row are not columns
        if count > best and times >= 0.9 * len(lines) and len(_fields(lines[0], mark)) == count:
            best, found = count, mark
    if best > 1:
        return found
    # quoted values may hold line ends, so that lines are no rows
    for mark in (mark for mark in _DELIMITERS if len(mark) == 1 and any('"' in line for line in lines)):
        try:
            rows = list(csv.reader(io.StringIO("\n".join(lines), newline=""), delimiter=mark))[:-1]  # one is cut off
        except csv.Error:
            continue
        if len(rows) > 1 and len(rows[0]) > best and _alike(rows) >= 0.9 * len(rows):
            best, found = len(rows[0]), mark
    return found


def _fields(line: str, mark: str) -> list[str]:
    if len(mark) > 1:
        return line.split(mark)
    try:
        return next(csv.reader([line], delimiter=mark, skipinitialspace=mark != " "), [])
    except csv.Error:
        return line.split(mark)


def _rows(content: str, mark: str) -> tuple[list[list[str]], bool]:
    """Return the fields of the rows that have as many as most, and whether quotes around values mean something."""
    plain = [line.split(mark) for line in content.split("\n") if line.strip()]
    rows, is_quoted = plain, False
    if len(mark) == 1 and '"' in content:
        try:
            quoted = [row for row in csv.reader(io.StringIO(content, newline=""), delimiter=mark) if row]
        except csv.Error:
            quoted = []
        # an odd quote swallows the lines behind it
        is_quoted = _alike(quoted) >= _alike(plain) or _alike(quoted) > 0.9 * len(quoted) > 0.5 * len(plain)
        rows = quoted if is_quoted else plain
    width = collections.Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    return [row for row in rows if len(row) == width], is_quoted


def _alike(rows: list[list[str]]) -> int:
    """Return how many rows have the most usual number of fields."""
    return collections.Counter(map(len, rows)).most_common(1)[0][1] if rows else 0


def _is_header(first: list[str], body: list[list[str]]) -> bool:
    """Return whether the first row names the columns: a text above numbers, or texts that are nowhere below them."""
    names, columns = [name.strip() for name in first], list(zip(*body[:1000], strict=True))
    for name, column in zip(names, columns, strict=False):
        values = [value for value in column if value and value not in _MARKS]
        if name and name not in _MARKS and not _is_number(name) and values and all(map(_is_number, values)):
            return True
    if any(map(_is_number, names)) or not any(names):
        return False
    return all(name not in column for name, column in zip(names, columns, strict=False))


def _is_number(value: str) -> bool:
    return _NUMBER.fullmatch(value.strip()) is not None


def _has_commas(columns: list[list[str]]) -> bool:
    """Return whether a column is of numbers with a comma before their fraction; a list has more than one in places."""
    for column in columns:
        values = [value for value in column[:10_000] if value and value not in _MARKS]
        commas = sum("," in value for value in values)
        if 2 * commas > len(values) and all(_is_number(value.replace(",", ".", 1)) for value in values):
            return True
    return False


def _missing(columns: list[list[str]]) -> list[str]:
    """Return the texts that stand for a missing value: in a column of numbers, or wherever a database wrote them."""
    found: dict[str, None] = {}
    for column in columns:
        values = set(column)
        marks = [mark for mark in _MARKS if mark in values]
        rest = list(values - {"", *marks})[:1000]
        for mark in marks:
            if mark in ("NULL", "\\N") or (rest and all(map(_is_number, rest))):
                found[mark] = None
    return list(found)
