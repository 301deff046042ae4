"""Raw values of any file format in their few canonical forms: text, number, time, list of texts, 64-bit hash."""

from __future__ import annotations

import datetime
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_NULL_NUMBER = re.compile(r"^[+-]?nan$", re.IGNORECASE)
_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)


class Flaws:
    """Which rows of a block cannot be used, and the first reason for each."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.reasons: dict[int, str] = {}

    def add(self, mask: npt.NDArray[np.bool_], reason: str, values: pa.Array | None = None) -> None:
        """Marks the rows in `mask`; `reason` may hold `{value}`."""
        for row in np.flatnonzero(mask).tolist():
            value = "" if values is None else repr(values[row].as_py())
            self.reasons.setdefault(row, reason.replace("{value}", value[:80]))

    @property
    def good(self) -> npt.NDArray[np.bool_]:
        mask = np.ones(self.rows, dtype=bool)
        mask[list(self.reasons)] = False
        return mask


def flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """One contiguous array of a plain type (no dictionary)."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def to_text(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Text, exactly: integers of 64 bits keep every digit, whole floats lose their `.0` (a null made them floats).

    Example:
        >>> to_text(pa.array([9007199254740993, None])).to_pylist()
        ['9007199254740993', None]
    """
    values = flat(column)
    kind = values.type
    if pa.types.is_string(kind):
        return values
    if pa.types.is_floating(kind):
        values = pc.cast(values, pa.float64())
        values = pc.if_else(pc.is_nan(values), None, values)
        whole = pc.and_kleene(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), 2.0**63))
        integers = pc.cast(pc.cast(pc.if_else(whole, values, 0.0), pa.int64()), pa.string())
        return pc.if_else(pc.fill_null(whole, False), integers, pc.cast(values, pa.string()))
    return pc.cast(values, pa.string())


def to_lists(column: pa.ChunkedArray | pa.Array, separator: str | None) -> pa.ListArray:
    """Lists of texts: a list column, or texts cut at `separator`; null and the empty text give the empty list."""
    values = flat(column)
    if pa.types.is_fixed_size_list(values.type) or pa.types.is_large_list(values.type):
        values = pc.cast(values, pa.list_(values.type.value_type))
    if not pa.types.is_list(values.type):
        texts = to_text(values)
        filled = pc.fill_null(texts, "")
        lists = pc.split_pattern(filled, separator) if separator else _wrap(filled)
        empty = pc.equal(filled, "")
        values = pc.if_else(empty, pa.scalar([], lists.type), lists)
    lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy(zero_copy_only=False)
    offsets = np.zeros(len(values) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), to_text(values.flatten()))


def _wrap(values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)


def to_number(column: pa.ChunkedArray | pa.Array, name: str, flaws: Flaws) -> pa.Array:
    """Numbers (int64 where all are whole, else float64); NaN is null; anything else marks its row."""
    values = flat(column)
    if pa.types.is_boolean(values.type) or (pa.types.is_integer(values.type) and values.type != pa.uint64()):
        return pc.cast(values, pa.int64())
    if not pa.types.is_floating(values.type):
        values = _parse(to_text(values), name, flaws)
    if pa.types.is_integer(values.type):
        return values
    values = pc.cast(values, pa.float64())
    finite = pc.fill_null(pc.is_finite(values), True)
    if not pc.all(finite).as_py():
        nan = pc.fill_null(pc.is_nan(values), False)
        infinite = pc.invert(pc.or_(finite, nan)).to_numpy(zero_copy_only=False)
        flaws.add(infinite, f"column '{name}': {{value}} is not finite", values)
        values = pc.if_else(finite, values, None)
    return values


def _parse(texts: pa.Array, name: str, flaws: Flaws) -> pa.Array:
    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(texts, kind)
        except pa.ArrowInvalid:
            continue
    trimmed = pc.utf8_trim_whitespace(texts)
    wrong = pc.invert(pc.match_substring_regex(trimmed, _NUMBER))
    for row in np.flatnonzero(pc.fill_null(wrong, False).to_numpy(zero_copy_only=False)).tolist():
        if not _NULL_NUMBER.match(trimmed[row].as_py()):
            flaws.reasons.setdefault(row, f"column '{name}': {texts[row].as_py()!r:.80} is not a number")
    return pc.cast(pc.if_else(wrong, None, trimmed), pa.float64())


def to_float(values: pa.Array) -> pa.Array:
    """float64; whole numbers beyond 2^53 are rounded."""
    return pc.cast(values, pa.float64(), safe=False)


def to_time(column: pa.ChunkedArray | pa.Array, name: str, flaws: Flaws) -> npt.NDArray[np.float64]:
    """Seconds or whatever unit the numbers have; ISO 8601 texts and timestamps give seconds since 1970 (UTC)."""
    values = flat(column)
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("us"))
    if pa.types.is_timestamp(values.type):
        numbers = pc.divide(
            pc.cast(pc.cast(pc.cast(values, pa.timestamp("us", values.type.tz)), pa.int64()), pa.float64()), 1e6
        )
    else:
        attempt = Flaws(len(values))
        numbers = to_float(to_number(values, name, attempt))
        if attempt.reasons:
            numbers = _iso(to_text(values), numbers, name, attempt, flaws)
    flaws.add(pc.is_null(numbers).to_numpy(zero_copy_only=False), f"column '{name}' holds no time")
    return np.asarray(pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False), dtype=np.float64)


def _iso(texts: pa.Array, numbers: pa.Array, name: str, attempt: Flaws, flaws: Flaws) -> pa.Array:
    seconds = numbers.to_numpy(zero_copy_only=False).astype(np.float64)
    for row in attempt.reasons:
        text = texts[row].as_py()
        try:
            seconds[row] = np.datetime64(_utc(text), "us").astype(np.int64) / 1e6
        except ValueError:
            flaws.reasons.setdefault(row, f"column '{name}': {text!r:.80} is neither a number nor an ISO 8601 time")
    return pa.array(seconds, from_pandas=True)


def _utc(text: str) -> str:
    moment = datetime.datetime.fromisoformat(text)
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return moment.isoformat()


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
    """64-bit hash of the UTF-8 bytes: FNV-1a, then the finaliser of MurmurHash3. Null hashes like the empty text.

    The same on every machine and in every version, so a model can be served by anyone who writes these ten lines.
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
    state = np.full(len(texts), _FNV_OFFSET, dtype=np.uint64)
    for position in range(int(lengths[0])):
        live = int(np.searchsorted(-lengths, -position, side="left"))
        state[:live] = (state[:live] ^ data[starts[:live] + position]) * _FNV_PRIME
    result = np.empty_like(state)
    result[order] = mix64(state)
    return result


def mix64(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The 64-bit finaliser of MurmurHash3: spreads every bit over all."""
    state = (state ^ (state >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    state = (state ^ (state >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return state ^ (state >> np.uint64(33))


def uniform(seed: int, stream: int, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), a pure function of (seed, stream, row)."""
    with np.errstate(over="ignore"):
        key = mix64(np.array([seed & (2**64 - 1)], np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(stream))
        bits = mix64(mix64(rows.astype(np.uint64) + key) ^ key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
