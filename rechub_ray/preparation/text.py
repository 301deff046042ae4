"""Text files: decompression, blocks that end at line ends, CSV and JSON lines to columns of text."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs

from rechub_ray.errors import DataError
from rechub_ray.preparation.columns import LISTS, TEXT, Column
from rechub_ray.preparation.forms import Format
from rechub_ray.preparation.values import json_text, to_lists

if TYPE_CHECKING:
    from rechub_ray.preparation.sources import Task

BLOCK_BYTES = 8 << 20
_UNIT = b"\x1f"
_BOM = b"\xef\xbb\xbf"
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_OTHERS = {
    b"PK\x03\x04": "a zip archive (also .xlsx and .npz)",
    b"\xfd7zXZ": "an xz file",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"PAR1": "a parquet file",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"ARROW1": "an Arrow file",
    b"SQLite format 3": "an SQLite file",
    b"\x89HDF": "an HDF5 file",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
}

Flaw = tuple[int, str, str]
"""A line that could not be read: its place in the block, the reason, its text."""


def compression(head: bytes, file: str) -> str | None:
    """Return the compression of a file that begins with `head`; brotli has no mark, so there the ending counts."""
    found = next((name for mark, name in _COMPRESSIONS.items() if head.startswith(mark)), None)
    if found == "bz2" and head[4:10] not in (b"1AY&SY", b"\x17rE8P\x90"):
        found = None
    return found or ("brotli" if file.endswith(".br") else None)


def foreign(head: bytes) -> str | None:
    """Return the kind of file that begins with `head`, where it is certainly no text; None else."""
    if head[257:262] == b"ustar":
        return "a tar archive"
    found = next((what for mark, what in _OTHERS.items() if head.startswith(mark)), None)
    return found or compression(head, "")


def open_stream(filesystem: pyarrow.fs.FileSystem, file: str, compressed: str | None, recode: str = "") -> Any:
    """Return the file's bytes from its beginning, decompressed; with `recode` (an encoding) as UTF-8 in lines."""
    stream = filesystem.open_input_stream(file, compression=compressed)
    return _Recoded(stream, file, recode) if recode else stream


class _Recoded:
    """A stream in UTF-8 with `\\n` behind each line, of one whose bytes cannot be cut into lines as they are."""

    def __init__(self, stream: Any, file: str, encoding: str) -> None:
        self._stream, self._file, self._encoding = stream, file, encoding
        self._decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
        self._left, self._ended = b"", False

    def read(self, count: int) -> bytes:
        while len(self._left) < count and not self._ended:
            data = self._stream.read(BLOCK_BYTES)
            self._ended = not data
            try:
                self._left += self._decoder.decode(data, final=not data).encode()
            except UnicodeError as error:
                raise _not_in(self._encoding, self._file, error) from None
        data, self._left = self._left[:count], self._left[count:]
        return data

    def __enter__(self) -> _Recoded:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def _not_in(encoding: str, file: str, error: UnicodeError) -> DataError:
    return DataError(f"{file} is not {encoding}", got=error, hint="Set 'format.encoding'.")


def lone_returns(start: bytes) -> bool:
    """Return whether the lines of a text file that begins with `start` end with a carriage return alone."""
    return foreign(start) is None and re.match(rb"[^\r\n]*\r[^\n]", start) is not None


def header(stream: Any, form: Format, file: str, encoding: str) -> tuple[list[str], int]:
    """Return the column names and the byte at which the rows begin; names that several columns have are numbered.

    Args:
        encoding: of the stream.

    Raises:
        DataError: the file is no text, or its first line does not name columns.
    """
    start = stream.read(1 << 16)
    if (what := foreign(start)) and form.type in ("csv", "tsv", "jsonl"):
        hint = "Set 'format.type: parquet'." if "parquet" in what else "Unpack or convert it first."
        hint = "Set 'format.encoding: utf-16'." if "UTF" in what else hint
        raise DataError(f"{file} is {what}", expected=f"text ({form.type})", hint=hint)
    skip = len(_BOM) if start.startswith(_BOM) else 0
    if form.type == "jsonl" or not form.header:
        return list(form.columns or ()), skip
    end = start.find(b"\n")
    while end < 0:
        more = stream.read(1 << 16)
        if not more:
            break
        start, end = start + more, (start + more).find(b"\n")
    end = len(start) if end < 0 else end + 1
    line = start[skip:end].rstrip(b"\r\n")
    if not line.strip():
        raise DataError(
            f"{file}: the first line is empty", expected="column names", hint="Or set 'format.header: false'."
        )
    try:
        content = line.decode(encoding)
    except UnicodeError as error:
        raise DataError(f"{file}: the first line is not {encoding}", got=error) from None
    if len(form.separator) > 1 or form.quoting is None:
        found = content.split(form.separator)
    else:
        try:
            found = next(csv.reader([content], delimiter=form.separator, quotechar=form.quoting))
        except csv.Error as error:
            raise DataError(f"{file}: the first line cannot be cut into names", got=error) from None
    return [name.strip() for name in found], end


def cut(file: Any, start: int, size: int, target: int) -> Iterator[tuple[int, int, int]]:
    """Yield (offset, length, lines) of pieces of about `target` bytes that end at line ends."""
    file.seek(start)
    offset, length, lines = start, 0, 0
    while True:
        data = file.read(BLOCK_BYTES)
        if not data:
            break
        if length + len(data) >= target and (end := data.rfind(b"\n") + 1):
            yield offset, length + end, lines + data.count(b"\n", 0, end)
            offset, length, lines = offset + length + end, len(data) - end, 0
        else:
            length, lines = length + len(data), lines + data.count(b"\n")
    if length:
        yield offset, length, lines


def blocks(filesystem: pyarrow.fs.FileSystem, task: Task) -> Iterator[bytes]:
    """Yield the task's bytes in blocks that end where a row ends, in UTF-8."""
    plain = task.recode or codecs.lookup(task.form.encoding).name == "utf-8"
    for block in _raw_blocks(filesystem, task):
        yield block if plain else _recode(block, task.file, task.form.encoding)


def _recode(block: bytes, file: str, encoding: str) -> bytes:
    try:
        return block.decode(encoding).encode()
    except UnicodeError as error:
        raise _not_in(encoding, file, error) from None


def _raw_blocks(filesystem: pyarrow.fs.FileSystem, task: Task) -> Iterator[bytes]:
    if task.compression or task.recode:
        stream = open_stream(filesystem, task.file, task.compression, task.recode)
        stream.read(task.offset)
    else:
        stream = filesystem.open_input_file(task.file)
        stream.seek(task.offset)
    left = task.length if task.length >= 0 else 1 << 62
    carry = b""
    with stream:
        while left > 0:
            data = stream.read(min(BLOCK_BYTES, left))
            if not data:
                break
            left -= len(data)
            data = carry + data
            end = _row_end(data, task.form)
            if end:
                yield data[:end]
            carry = data[end:]
    if carry:
        yield carry


def _row_end(data: bytes, form: Format) -> int:
    if not form.newlines_in_values or form.quoting is None:
        return data.rfind(b"\n") + 1
    symbols = np.frombuffer(data, dtype=np.uint8)
    closed = (np.cumsum(symbols == ord(form.quoting)) & 1) == 0
    ends = np.flatnonzero((symbols == ord("\n")) & closed)
    return int(ends[-1]) + 1 if len(ends) else 0


def parse(data: bytes, task: Task) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw], int]:
    """Return the columns (texts, of JSON also lists), each row's line in the block, bad lines, and how many lines."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    wanted = [column for column in task.columns if column.name not in dict(task.keys)]
    if task.form.type == "jsonl":
        table, records, flaws = _parse_json(data, wanted)
    else:
        table, records, flaws = _parse_csv(data, list(task.names), task.form, [column.name for column in wanted])
        if b"\n\n" in data or b"\n\r\n" in data or data[:1] in b"\r\n":
            filled = np.flatnonzero([bool(line.strip(b"\r")) for line in data.split(b"\n")])
            records = filled[records]
            flaws = [(int(filled[row]), reason, line) for row, reason, line in flaws]
    return table, records, flaws, lines


def _parse_csv(
    data: bytes, names: list[str], form: Format, columns: list[str]
) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw]]:
    if not data.strip(b"\r\n"):
        return pa.table({name: pa.array([], TEXT) for name in columns}), np.zeros(0, dtype=np.int64), []
    separator = form.separator.encode()
    if form.rest:
        return _parse_rest(data, names, form.separator, columns)
    if len(separator) > 1:
        data, separator = data.replace(separator, _UNIT), _UNIT
    flaws: list[Flaw] = []

    def ragged(row: Any) -> str:
        found = f"{row.actual_columns} fields, expected {row.expected_columns}, cut at {form.separator!r}"
        flaws.append((row.number - 1, found, row.text))
        return "skip"

    garbled: dict[int, str] = {}
    try:
        table = _arrow_csv(data, names, separator.decode(), form, columns, ragged)
    except pa.ArrowInvalid:
        data, garbled = _readable(data)
        if not garbled or form.newlines_in_values:
            raise
        flaws.clear()
        table = _arrow_csv(data, names, separator.decode(), form, columns, ragged)
    records = np.arange(table.num_rows + len(flaws), dtype=np.int64)
    records = np.delete(records, [flaw[0] for flaw in flaws])
    if garbled:
        keep = ~np.isin(records, list(garbled))
        table, records = table.filter(pa.array(keep)), records[keep]
        flaws = [flaw for flaw in flaws if flaw[0] not in garbled]
        flaws += [(row, "not UTF-8 (set 'format.encoding')", line) for row, line in garbled.items()]
    return table, records, flaws


def _arrow_csv(
    data: bytes, names: list[str], separator: str, form: Format, columns: list[str], ragged: Any
) -> pa.Table:
    return pyarrow.csv.read_csv(
        pa.BufferReader(data),
        read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=separator,
            quote_char=form.quoting or False,
            newlines_in_values=form.newlines_in_values,
            invalid_row_handler=ragged,
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(names, pa.string()),
            strings_can_be_null=True,
            null_values=["", *form.null_values],
        ),
    )


def _readable(data: bytes) -> tuple[bytes, dict[int, str]]:
    """Return the block in valid UTF-8, and the lines (counted without empty ones) that were not."""
    lines, garbled = [row for row in data.split(b"\n") if row.strip(b"\r")], {}
    for number, line in enumerate(lines):
        try:
            line.decode()
        except UnicodeDecodeError:
            garbled[number] = line.decode("utf-8", "replace")
            lines[number] = garbled[number].encode()
    return b"\n".join(lines) + b"\n", garbled


def _parse_rest(
    data: bytes, names: list[str], separator: str, columns: list[str]
) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw]]:
    lines = [line.rstrip("\r") for line in data.decode("utf-8", "replace").split("\n")]
    fields = [line.split(separator, len(names) - 1) for line in lines if line]
    flaws = [
        (row, f"{len(parts)} fields, expected {len(names)} or more", separator.join(parts))
        for row, parts in enumerate(fields)
        if len(parts) < len(names)
    ]
    records = np.delete(np.arange(len(fields), dtype=np.int64), [flaw[0] for flaw in flaws])
    good = [fields[row] for row in records.tolist()]
    table = {name: pa.array([parts[names.index(name)] for parts in good], pa.string()) for name in columns}
    return pa.table(table), records, flaws


def _parse_json(data: bytes, columns: list[Column]) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw]]:
    records: list[int] = []
    rows: list[list[Any]] = []
    flaws: list[Flaw] = []
    named = [(column.name, column) for column in columns]
    for number, line in enumerate(data.split(b"\n")):
        if not line.strip():
            continue
        try:
            row = read_json(line)
            rows.append([_json_value(row.get(name), column) for name, column in named])
            records.append(number)
        except (ValueError, RecursionError) as error:
            flaws.append((number, str(error), line.decode("utf-8", "replace")))
    arrays = {column.name: _json_array([row[i] for row in rows], column) for i, column in enumerate(columns)}
    return pa.table(arrays), np.array(records, dtype=np.int64), flaws


def read_json(line: bytes) -> dict[str, Any]:
    """Return the object in a line of JSON.

    Raises:
        ValueError: there is none, or it holds a key twice.
    """
    try:
        row = _decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(row, dict):
        raise ValueError("not JSON (not a JSON object)")
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' stands there twice")
    return row


_decode = json.JSONDecoder(object_pairs_hook=_object).decode  # with a hook `json.loads` makes a decoder for every line


def _json_value(value: Any, column: Column) -> Any:
    """Return a value as text, or as a list of texts where the column is one."""
    if type(value) is int or (type(value) is str and value.isascii()):  # most values, so they come first
        return str(value)
    if isinstance(value, list) and (column.listed or not column.user):
        if any(isinstance(element, list | dict) for element in value):
            raise ValueError(f"column '{column.name}' holds a list of lists or objects")
        return [_unicode(json_text(element), column) for element in value]
    if isinstance(value, list | dict):
        what = "a list" if isinstance(value, list) else "an object"
        raise ValueError(f"column '{column.name}' holds {what}, which cannot be {column.user or 'a value'}")
    return _unicode(json_text(value), column)


def _unicode(text: str | None, column: Column) -> str | None:
    """Return the text, if it is Unicode: JSON can write half of a surrogate pair, UTF-8 cannot."""
    if text is not None and not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ValueError(f"column '{column.name}' holds a text that is not Unicode") from None
    return text


def _json_array(values: list[Any], column: Column) -> pa.Array:
    if not any(isinstance(value, list) for value in values):
        return pa.array(values, TEXT)
    texts = pa.array([None if isinstance(value, list) else value for value in values], TEXT)
    cut = to_lists(texts, column.separator, column.name)
    return pa.array([v if isinstance(v, list) else cut[i].as_py() for i, v in enumerate(values)], LISTS)


def absent(lines: Iterable[bytes], names: list[str]) -> tuple[list[str], list[str]]:
    """Return which of `names` is a key of no line of JSON, and the keys that there are."""
    missing, known = dict.fromkeys(names), dict[str, None]()
    for number, line in enumerate(lines):
        if not missing:
            break
        # past the first lines only those are parsed in which the name stands somewhere
        if number < 100 or any(name.encode() in line or not name.isascii() for name in missing):
            try:
                known |= dict.fromkeys(read_json(line))
            except ValueError:
                continue
            missing = {name: None for name in missing if name not in known}
    return list(missing), list(known)


def read_json_map(filesystem: pyarrow.fs.FileSystem, file: str, columns: list[Column]) -> pa.Table:
    """Return one JSON object as a table: its keys in column `key`, its values in column `value`.

    Raises:
        DataError: the file is no JSON object, or holds a value that the column cannot take.
    """
    with filesystem.open_input_file(file) as opened:
        compressed = compression(opened.read(16), file)
    with open_stream(filesystem, file, compressed) as stream:
        try:
            data = json.load(io.TextIOWrapper(stream, encoding="utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file} is not JSON", got=error) from None
    if not isinstance(data, dict):
        raise DataError(f"{file} is not a JSON object", got=type(data).__name__)
    lines = [json.dumps({"key": key, "value": value}) for key, value in data.items()]
    table, _, flaws = _parse_json("\n".join(lines).encode(), columns)
    if flaws:
        raise DataError(f"{file}, key {flaws[0][0] + 1}: {flaws[0][1]}", got=flaws[0][2][:200])
    return table
