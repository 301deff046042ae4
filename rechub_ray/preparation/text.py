"""Text files: decompression, blocks that end at line ends, CSV and JSON lines to columns of text."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.fs

from rechub_ray.errors import DataError
from rechub_ray.preparation.forms import Format

if TYPE_CHECKING:
    from rechub_ray.preparation.sources import Task

BLOCK_BYTES = 8 << 20
_UNIT = b"\x1f"
_ENDINGS = (".gz", ".bz2", ".zst", ".lz4", ".br")
_BOM = b"\xef\xbb\xbf"

Flaw = tuple[int, str, str]
"""A line that could not be read: its place in the block, the reason, its text."""


def is_compressed(file: str) -> bool:
    return file.endswith(_ENDINGS)


def open_stream(filesystem: pyarrow.fs.FileSystem, file: str) -> Any:
    """The file's bytes from its beginning, decompressed."""
    return filesystem.open_input_stream(file, compression="detect")


def header(stream: Any, form: Format, file: str) -> tuple[list[str], int]:
    """The column names and the byte at which the rows begin."""
    start = stream.read(1 << 16)
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
        content = line.decode(form.encoding)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: the first line is not {form.encoding}", got=error) from None
    if len(form.separator) > 1 or form.quoting is None:
        found = content.split(form.separator)
    else:
        found = next(csv.reader([content], delimiter=form.separator, quotechar=form.quoting))
    found = [name.strip() for name in found]
    for name in found:
        if found.count(name) > 1:
            raise DataError(f"{file}: two columns are called '{name}'", hint="Set 'header: false' and 'columns'.")
    return found, end


def cut(file: Any, start: int, size: int, target: int) -> Iterator[tuple[int, int, int]]:
    """(offset, length, lines) of pieces of about `target` bytes that end at line ends."""
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


def blocks(filesystem: pyarrow.fs.FileSystem, task: Task, form: Format) -> Iterator[bytes]:
    """The task's bytes in blocks that end where a row ends, in UTF-8."""
    for block in _raw_blocks(filesystem, task, form):
        yield block if form.encoding.lower() in ("utf-8", "utf8") else _recode(block, task.file, form.encoding)


def _recode(block: bytes, file: str, encoding: str) -> bytes:
    try:
        return block.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not {encoding}", got=error, hint="Set 'format.encoding'.") from None


def _raw_blocks(filesystem: pyarrow.fs.FileSystem, task: Task, form: Format) -> Iterator[bytes]:
    if is_compressed(task.file):
        stream = open_stream(filesystem, task.file)
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
            end = _row_end(data, form)
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


def parse(
    data: bytes, names: tuple[str, ...] | list[str], form: Format, columns: list[str]
) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw], int]:
    """(columns of text, each row's line in the block, the lines that could not be read, lines in the block)."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if form.type == "jsonl":
        table, records, flaws = _parse_json(data, columns)
    else:
        table, records, flaws = _parse_csv(data, list(names), form, columns)
        if b"\n\n" in data or b"\n\r\n" in data or data[:1] in b"\r\n":
            filled = np.flatnonzero([bool(line.strip(b"\r")) for line in data.split(b"\n")])
            records = filled[records]
            flaws = [(int(filled[row]), reason, line) for row, reason, line in flaws]
    return _nulls(table, form), records, flaws, lines


def _parse_csv(
    data: bytes, names: list[str], form: Format, columns: list[str]
) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw]]:
    if not data.strip(b"\r\n"):
        return _no_rows(columns), np.zeros(0, dtype=np.int64), []
    separator = form.separator.encode()
    if form.rest:
        return _parse_rest(data, names, form.separator, columns)
    if len(separator) > 1:
        data, separator = data.replace(separator, _UNIT), _UNIT
    flaws: list[Flaw] = []

    def ragged(row: Any) -> str:
        flaws.append((row.number - 1, f"{row.actual_columns} fields, expected {row.expected_columns}", row.text))
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
            null_values=list(form.null_values),
        ),
    )


def _readable(data: bytes) -> tuple[bytes, dict[int, str]]:
    """The block in valid UTF-8, and the lines (counted without empty ones) that were not."""
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


def _parse_json(data: bytes, columns: list[str]) -> tuple[pa.Table, npt.NDArray[np.int64], list[Flaw]]:
    values: dict[str, list[Any]] = {name: [] for name in columns}
    records, flaws = [], []
    for number, line in enumerate(data.split(b"\n")):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            flaws.append((number, f"not JSON ({error})", line.decode("utf-8", "replace")))
            continue
        records.append(number)
        for name in columns:
            values[name].append(_json_text(row.get(name)))
    arrays = {}
    for name, column in values.items():
        if any(isinstance(value, list) for value in column):
            column = [value if isinstance(value, list) or value is None else [value] for value in column]
            arrays[name] = pa.array(column, pa.list_(pa.string()))
        else:
            arrays[name] = pa.array(column, pa.string())
    return pa.table(arrays), np.array(records, dtype=np.int64), flaws


def _json_text(value: Any) -> Any:
    """JSON's scalars as text: integers keep every digit, whole floats lose their `.0`."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return [_json_text(element) for element in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**63 else repr(value)
    return str(value) if isinstance(value, int) else json.dumps(value, sort_keys=True)


def _nulls(table: pa.Table, form: Format) -> pa.Table:
    """Blanks cut where asked; the texts that stand for a missing value as nulls."""
    if not form.strip and form.type != "jsonl" and not form.rest:
        return table
    nulls = pa.array(form.null_values, pa.string())
    for index, name in enumerate(table.column_names):
        column = table[name]
        if not pa.types.is_string(column.type):
            continue
        column = pc.utf8_trim_whitespace(column) if form.strip else column
        column = pc.if_else(pc.is_in(column, value_set=nulls), pa.scalar(None, pa.string()), column)
        table = table.set_column(index, name, column)
    return table


def _no_rows(columns: list[str]) -> pa.Table:
    return pa.table({name: pa.array([], pa.string()) for name in columns})


def read_json_map(filesystem: pyarrow.fs.FileSystem, file: str) -> pa.Table:
    """One JSON object as a table: its keys in column `key`, its values in column `value`."""
    with open_stream(filesystem, file) as stream:
        try:
            data = json.load(io.TextIOWrapper(stream, encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{file} is not JSON", got=error) from None
    if not isinstance(data, dict):
        raise DataError(f"{file} is not a JSON object", got=type(data).__name__)
    lines = [json.dumps({"key": key, "value": value}) for key, value in data.items()]
    return _parse_json("\n".join(lines).encode(), ["key", "value"])[0]
