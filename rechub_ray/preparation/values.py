"""Raw values of any file format in their few canonical forms: text, number, list of texts, 64-bit hash."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import DataError

FLOAT32_MAX = float(np.finfo(np.float32).max)
# texts of a list column that nothing cuts, which are not likely to be one value: a|b, 50,100 and 50 100
_SEVERAL = r"^[^\s|,;]+([|,;][^\s|,;]+)+$|^\d+( \d+)+$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"

# of `hash64`
FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
MIX = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53


class Flaws:
    """Which rows of a block cannot be used, and the first reason for each."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.reasons: dict[int, str] = {}

    def add(self, mask: npt.NDArray[np.bool_] | pa.Array, reason: str, values: pa.Array | None = None) -> None:
        """Mark the rows in `mask`, but none for null; `reason` may hold `{value}`."""
        if isinstance(mask, pa.Array):
            mask = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(mask).tolist():
            value = "" if values is None else repr(values[row].as_py())
            self.reasons.setdefault(row, reason.replace("{value}", value[:80]))

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        mask = np.ones(self.rows, dtype=bool)
        mask[list(self.reasons)] = False
        return mask

    def pass_on(self, flaws: Flaws | None, owners: npt.NDArray[np.int64]) -> None:
        """Mark the rows of `flaws` that own the elements marked here: element k belongs to row `owners[k]`.

        Raises:
            DataError: there are no `flaws` to mark.
        """
        for element, reason in self.reasons.items():
            if flaws is None:
                raise DataError(reason)
            flaws.reasons.setdefault(int(owners[element]), reason)


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return one contiguous array of a plain type: no dictionary, extension or view, no large or fixed-size variant."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in column.to_pylist()], pa.string())
    if isinstance(kind, pa.Bool8Type):
        return pc.cast(column, pa.bool_())
    if isinstance(kind, pa.BaseExtensionType):
        return flat(column.storage)
    if pa.types.is_dictionary(kind):
        return flat(column.dictionary_decode())
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pc.cast(column, pa.string())
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pc.cast(column, pa.binary())
    if is_list(kind) and not pa.types.is_list(kind):
        return list_array(column, column.flatten())
    return column


def list_array(lists: pa.Array, elements: pa.Array) -> pa.ListArray:
    """Return `elements` (those of all `lists`, flattened) as lists of the same lengths; null becomes empty."""
    # Arrow's own casts from list views make lists that point outside of their elements
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(lists) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), elements)


def windows(items: pa.Array, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> pa.ListArray:
    """Return the lists `items[begins[i]:ends[i]]`."""
    lengths = ends - begins
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(begins, lengths)
    return pa.ListArray.from_arrays(pa.array(offsets), items.take(pa.array(places)))


def is_list(kind: pa.DataType) -> bool:
    """Return whether `kind` is one of Arrow's list types (a map is not)."""
    types = pa.types
    return bool(
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_fixed_size_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    )


def to_text(column: pa.ChunkedArray | pa.Array, name: str = "", flaws: Flaws | None = None) -> pa.Array:
    """Return texts, exactly, and the same ones whatever type a file gave the column.

    Integers of 64 bits keep every digit, whole floats and decimals lose their `.0` (a null made them floats), moments
    are in UTC and lose a fraction of zeros, NaN and the empty text are null.

    Args:
        column: of any type with one value a row.
        name: the column's, for messages.
        flaws: rows with bytes that are not UTF-8 are marked.

    Raises:
        DataError: the column holds lists, structs or maps; or, without `flaws`, bytes that are not UTF-8.

    Example:
        >>> to_text(pa.array([9007199254740993, None])).to_pylist()
        ['9007199254740993', None]
        >>> to_text(pa.array([7.0, 0.5, float("nan")])).to_pylist()
        ['7', '0.5', None]
    """
    values = flat(column)
    kind = values.type
    if pa.types.is_string(kind):
        return _no_empty(values)
    if pa.types.is_floating(kind):
        wide = pc.cast(values, pa.float64())
        wide = pc.if_else(pc.is_nan(wide), None, wide)
        whole = pc.and_kleene(pc.equal(pc.floor(wide), wide), pc.less(pc.abs(wide), 2.0**63))
        integers = pc.cast(pc.cast(pc.if_else(whole, wide, 0.0), pa.int64()), pa.string())
        shown = pc.if_else(pc.is_valid(wide), pc.cast(values, pa.string()), None)  # of 32 bits: 0.1, not 0.1000000015
        return pc.if_else(pc.fill_null(whole, False), integers, shown)
    if pa.types.is_decimal(kind) or pa.types.is_timestamp(kind):
        if pa.types.is_timestamp(kind):
            values = pc.cast(values, pa.timestamp(kind.unit))
        return pc.replace_substring_regex(pc.cast(values, pa.string()), r"\.0+$|(\.\d*?[1-9])0+$", r"\1")
    if pa.types.is_binary(kind):
        return _no_empty(_decoded(values, name, flaws))
    if pa.types.is_nested(kind):
        raise DataError(f"column '{name}' is {kind}", expected="one value a row")
    return pc.cast(values, pa.string())


def _no_empty(texts: pa.Array) -> pa.Array:
    if pc.min(pc.binary_length(texts)).as_py() != 0:
        return texts
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _decoded(values: pa.Array, name: str, flaws: Flaws | None) -> pa.Array:
    try:
        return pc.cast(values, pa.string())
    except pa.ArrowInvalid:
        pass
    texts: list[str | None] = []
    wrong = np.zeros(len(values), dtype=bool)
    for row, value in enumerate(values.to_pylist()):
        try:
            texts.append(None if value is None else value.decode())
        except UnicodeDecodeError:
            texts.append(None)
            wrong[row] = True
    if flaws is None:
        raise DataError(f"column '{name}' holds bytes that are not text (UTF-8)")
    flaws.add(wrong, f"column '{name}': {{value}} is not text (UTF-8)", values)
    return pa.array(texts, pa.string())


def to_lists(
    column: pa.ChunkedArray | pa.Array, separator: str | None, name: str = "", flaws: Flaws | None = None
) -> pa.ListArray:
    """Return lists of texts: a list column, or texts cut at `separator`; null and the empty text give the empty list.

    A text that is itself a list, as JSON or Python write it (`[1, 2]`, `['a', 'b']`), is read as that list.

    Args:
        column: lists or texts.
        separator: where texts are cut; None leaves them whole.
        name: the column's, for messages.
        flaws: rows whose text or elements cannot be read are marked.

    Raises:
        DataError: without `flaws`, a text or element that cannot be read.
    """
    values = flat(column)
    if not pa.types.is_list(values.type):
        values = _cut(to_text(values, name, flaws), separator, name, flaws)
    elements = values.flatten()
    inner = Flaws(len(elements))
    lists = list_array(values, to_text(elements, name, inner))
    if inner.reasons:
        inner.pass_on(flaws, np.repeat(np.arange(len(values)), np.diff(lists.offsets.to_numpy())))
    return lists


def _cut(texts: pa.Array, separator: str | None, name: str, flaws: Flaws | None) -> pa.ListArray:
    trimmed = pc.ascii_trim_whitespace(texts)
    listed = pc.and_(pc.starts_with(trimmed, "["), pc.ends_with(trimmed, "]"))
    filled = pc.fill_null(texts, "")
    lists = pc.split_pattern(filled, separator) if separator else _wrap(filled)
    lists = pc.if_else(pc.equal(filled, ""), pa.scalar([], lists.type), lists)
    if separator is None:
        several = pc.and_not(pc.match_substring_regex(trimmed, _SEVERAL), listed)
        reason = f"column '{name}': {{value}} looks like several values, and no 'separator' cuts it: write [50, 100]"
        _mark(pc.fill_null(several, False).to_numpy(zero_copy_only=False), reason, texts, flaws)
    if not pc.any(listed).as_py():
        return lists
    coded = pc.if_else(listed, trimmed, None).dictionary_encode()
    read = [_written_list(text) for text in coded.dictionary.to_pylist()]
    wrong = np.array([isinstance(one, str) for one in read])[pc.fill_null(coded.indices, 0).to_numpy()]
    wrong &= coded.indices.is_valid().to_numpy(zero_copy_only=False)
    _mark(
        wrong, f"column '{name}': {{value}} looks like a list, but neither JSON nor Python write one so", texts, flaws
    )
    known = pa.array([[] if isinstance(one, str) else one for one in read], pa.list_(pa.string()))
    known = known.take(coded.indices)
    return pc.if_else(known.is_valid(), known, lists)


def _mark(wrong: npt.NDArray[np.bool_], reason: str, texts: pa.Array, flaws: Flaws | None) -> None:
    """Mark the texts that are wrong as flaws, or raise DataError with the first of them."""
    if wrong.any() and flaws is None:
        raise DataError(reason.replace("{value}", repr(texts[int(np.flatnonzero(wrong)[0])].as_py())[:80]))
    if wrong.any() and flaws is not None:
        flaws.add(wrong, reason, texts)


def _written_list(text: str) -> list[str | None] | str | None:
    """Return the list that `text` writes out; None where it is a text of its own; `text` where that is not certain."""
    parsed: Any = None
    for read in (json.loads, ast.literal_eval, lambda text: ast.literal_eval(re.sub(r"\bnan\b", "None", text))):
        try:
            parsed = read(text)
            break
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    if isinstance(parsed, list):
        flat_list = not any(isinstance(value, list | tuple | dict | set) for value in parsed)
        return [json_text(value) for value in parsed] if flat_list else text
    # `[CLS] a [SEP]` and `[rare]` are texts; `[a, b]` and `[1 2 3]` are lists as other tools write them
    inside = text[1:-1]
    return text if re.search(r"[,\s]", inside.strip()) and not re.search(r"[\[\]]", inside) else None


def json_text(value: Any) -> str | None:
    """Return JSON's scalars as text: integers keep every digit, whole floats lose their `.0`, NaN is null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer() and abs(value) < 2**63:
            return str(int(value))
        text = repr(value)
        return to_text(pa.array([value]))[0].as_py() if "e" in text else text  # Arrow writes 1e-7, Python 1e-07
    return str(value)


def _wrap(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)


def to_number(column: pa.ChunkedArray | pa.Array, name: str, flaws: Flaws) -> pa.Array:
    """Return numbers (int64 where all are whole, else float64); true and false are 1 and 0, also as texts.

    NaN is null; anything else marks its row.
    """
    values = flat(column)
    if pa.types.is_boolean(values.type) or (pa.types.is_integer(values.type) and values.type != pa.uint64()):
        return pc.cast(values, pa.int64())
    if not pa.types.is_floating(values.type):
        values = _parse(to_text(values, name, flaws), name, flaws)
    if pa.types.is_integer(values.type):
        return values
    values = pc.cast(values, pa.float64())
    finite = pc.fill_null(pc.is_finite(values), True)
    if not pc.all(finite).as_py():
        nan = pc.fill_null(pc.is_nan(values), False)
        flaws.add(pc.invert(pc.or_(finite, nan)), f"column '{name}': {{value}} is not finite", values)
        values = pc.if_else(finite, values, None)
    return values


def _parse(texts: pa.Array, name: str, flaws: Flaws) -> pa.Array:
    try:
        numbers = pc.cast(texts, pa.int64())
        if not any(pc.any(pc.starts_with(texts, sign)).as_py() for sign in ("0x", "0X")):  # Arrow reads 0x10 as 16
            return numbers
    except pa.ArrowInvalid:
        pass
    try:
        return pc.cast(texts, pa.float64())
    except pa.ArrowInvalid:
        pass
    trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(texts))
    for word, digit in (("true", "1"), ("false", "0")):
        trimmed = pc.if_else(pc.equal(trimmed, word), digit, trimmed)
    wrong = pc.invert(pc.match_substring_regex(trimmed, _NUMBER))
    missing = pc.match_substring_regex(trimmed, "^[+-]?nan$")
    flaws.add(pc.and_not(wrong, missing), f"column '{name}': {{value}} is not a number", texts)
    numbers = pc.if_else(wrong, None, trimmed)
    try:
        return pc.cast(numbers, pa.int64())
    except pa.ArrowInvalid:
        return pc.cast(numbers, pa.float64())


def to_float(values: pa.Array) -> pa.Array:
    """Return float64; whole numbers beyond 2^53 are rounded."""
    return pc.cast(values, pa.float64(), safe=False)


def whole_form(texts: pa.Array) -> pa.Array:
    """Return texts in which whole numbers have no `.0` behind them (a null made them floats): 7.0 meets 7.

    Example:
        >>> whole_form(pa.array(["7.0", "7", "7.5", "v7.0", None])).to_pylist()
        ['7', '7', '7.5', 'v7.0', None]
    """
    if not pc.any(pc.ends_with(texts, ".0")).as_py():
        return texts
    return pc.replace_substring_regex(texts, r"^(-?\d+)\.0$", r"\1")


def hash64(texts: pa.Array) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of the UTF-8 bytes: FNV-1a, then the finaliser of MurmurHash3. Null hashes like empty text.

    It is the same on every machine and in every version, so a server needs these ten lines only.
    Reference: http://www.isthe.com/chongo/tech/comp/fnv/ (offset basis and prime of 64 bits).
    """
    texts = pc.cast(pc.fill_null(texts, ""), pa.large_string())
    if len(texts) == 0:
        return np.zeros(0, dtype=np.uint64)
    buffers = texts.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[texts.offset : texts.offset + len(texts) + 1]
    data = np.frombuffer(buffers[2] or b"", dtype=np.uint8)
    lengths = np.diff(offsets)
    order = np.argsort(-lengths, kind="stable")
    starts, lengths = offsets[:-1][order], lengths[order]
    state = np.full(len(texts), FNV_OFFSET, dtype=np.uint64)
    for position in range(int(lengths[0])):
        live = int(np.searchsorted(-lengths, -position, side="left"))
        state[:live] = (state[:live] ^ data[starts[:live] + position]) * np.uint64(FNV_PRIME)
    result = np.empty_like(state)
    result[order] = mix64(state)
    return result


def mix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Apply the 64-bit finaliser of MurmurHash3, which spreads every bit over all."""
    for factor in MIX:
        state = (state ^ (state >> np.uint64(33))) * np.uint64(factor)
    return state ^ (state >> np.uint64(33))


def uniform(seed: int, stream: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1), a pure function of (seed, stream, row)."""
    with np.errstate(over="ignore"):
        key = mix64(np.array([seed & (2**64 - 1)], np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream))
        bits = mix64(mix64(rows.astype(np.uint64) + key) ^ key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
