"""Moments: any unit of time and the usual ways to write one, without a loss that changes an order."""

from __future__ import annotations

import datetime
import functools
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.preparation.values import Flaws, flat, to_float, to_number, to_text

KNOWN = "a number, ISO 8601 (2024-01-31T12:30:00.5+01:00) or 2024/01/31 12:30"
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_EPOCH = datetime.datetime(1970, 1, 1)
_SLASHED = r"^(\s*\d{4})/(\d{1,2})/(\d{1,2})"
_FRACTION = re.compile(r"(?<=:\d\d)[.,](\d+)")

Floats = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]


def to_time(
    column: pa.ChunkedArray | pa.Array, name: str, flaws: Flaws, formats: tuple[str, ...] = (), dated: bool = False
) -> Floats:
    """Return moments as float64: seconds since 1970 (UTC), or whatever unit the numbers have.

    Rounding never turns two moments around, but moments of less than 0.3 microseconds apart may become one:
    `moments` keeps them apart.

    Args:
        column: dates, times, numbers or texts.
        name: the column's, for messages.
        flaws: rows without a moment are marked.
        formats: see `moments`.
        dated: numbers are compared with dates: those from 1e11 on are milliseconds, from 1e14 on microseconds, from
            1e17 on nanoseconds since 1970. In seconds 1e11 is the year 5138.
    """
    whole, fraction, plain = _read(column, name, flaws, formats)
    times = whole + fraction
    if dated:
        times = np.where(plain, times / units(times), times)
    return times


def units(times: npt.NDArray[Any]) -> Floats:
    """Return in which part of a second each of some moments since 1970 is given: 1 (seconds), 1e3, 1e6 or 1e9."""
    size = np.abs(times)
    return np.select([size >= 1e17, size >= 1e14, size >= 1e11], [1e9, 1e6, 1e3], 1.0)


def moments(
    column: pa.ChunkedArray | pa.Array, name: str, flaws: Flaws, formats: tuple[str, ...] = ()
) -> tuple[Whole, Floats]:
    """Return each row's moment as a whole number of seconds (or of the numbers' unit) and a fraction in [0, 1).

    Both together order rows exactly, for integers of 64 bits and for nanoseconds too, from the year 1 to 9999.

    Args:
        column: dates, times, numbers or texts.
        name: the column's, for messages.
        flaws: rows without a moment are marked.
        formats: `strptime` formats that texts have; without any, texts are numbers or of the well-known forms.
    """
    return _read(column, name, flaws, formats)[:2]


def _read(
    column: pa.ChunkedArray | pa.Array, name: str, flaws: Flaws, formats: tuple[str, ...]
) -> tuple[Whole, Floats, npt.NDArray[np.bool_]]:
    """Return whole numbers, fractions, and which rows hold a number rather than a date."""
    values = flat(column)
    plain = np.zeros(len(values), dtype=bool)
    if pa.types.is_date(values.type):
        values = pc.cast(values, pa.timestamp("s"))
    if pa.types.is_timestamp(values.type):
        whole, fraction, known = _from_timestamp(values)
    elif pa.types.is_string(values.type) or pa.types.is_binary(values.type):
        whole, fraction, known, plain = _from_text(to_text(values, name, flaws), name, flaws, formats)
    else:
        whole, fraction, known = _from_number(to_number(values, name, flaws))
        plain = known
    flaws.add(~known, f"column '{name}' holds no time")
    return whole, fraction, plain


def _from_timestamp(values: pa.Array) -> tuple[Whole, Floats, npt.NDArray[np.bool_]]:
    unit = _UNITS[values.type.unit]
    ticks = pc.fill_null(pc.cast(values, pa.int64()), 0).to_numpy(zero_copy_only=False)
    return ticks // unit, (ticks % unit) / unit, _known(values)


def _from_number(numbers: pa.Array) -> tuple[Whole, Floats, npt.NDArray[np.bool_]]:
    known = _known(numbers)
    values = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    if pa.types.is_integer(numbers.type):
        return values, np.zeros(len(values)), known
    known = known & (np.abs(values) < 2.0**63)
    floor = np.floor(np.where(known, values, 0.0))
    return floor.astype(np.int64), np.where(known, values - floor, 0.0), known


def _from_text(
    texts: pa.Array, name: str, flaws: Flaws, formats: tuple[str, ...]
) -> tuple[Whole, Floats, npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    attempt = Flaws(len(texts))
    numbers = pa.nulls(len(texts), pa.float64()) if formats else to_number(texts, name, attempt)
    whole, fraction, known = _from_number(numbers)
    whole, fraction, known = whole.copy(), fraction.copy(), known.copy()
    plain = known.copy()
    if pa.types.is_floating(numbers.type):
        # beside a fraction Arrow made all of them floats, which lose digits past 2^53
        exact = (
            pc.if_else(pc.match_substring_regex(texts, r"^-?([0-8]\d{18}|\d{1,18})$"), texts, None)
            if not formats
            else numbers
        )
        mine = _known(exact)
        whole[mine] = pc.cast(exact.drop_null(), pa.int64()).to_numpy(zero_copy_only=False)
        fraction[mine] = 0.0
    rest = np.flatnonzero(_known(texts)) if formats else np.array(sorted(attempt.reasons), dtype=np.int64)
    if len(rest):
        written = texts.take(pa.array(rest))
        dates = _as_timestamps(written) if not formats else None
        if dates is not None:
            whole[rest], fraction[rest], known[rest] = _from_timestamp(dates)
        else:
            _parse_each(written, rest, whole, fraction, known, formats)
            what = f"not a time of the form {' or '.join(formats)}" if formats else f"no known form of time: {KNOWN}"
            other = "" if formats else "; 'time_format' (such as %d/%m/%Y %H:%M) reads others"
            wrong = np.zeros(len(texts), dtype=bool)
            wrong[rest] = ~known[rest]
            flaws.add(wrong, f"column '{name}': {{value}} is {what}{other}", texts)
    return whole, fraction, known, plain


def _as_timestamps(texts: pa.Array) -> pa.Array | None:
    """Return the texts as timestamps where Arrow reads every one of them, which is a hundred times faster."""
    dashed = pc.replace_substring_regex(pc.utf8_trim_whitespace(texts), r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3")
    for unit in ("ns", "us"):
        for zone in (None, "UTC"):
            try:
                return pc.cast(dashed, pa.timestamp(unit, zone))
            except pa.ArrowInvalid:
                continue
    return None


def _parse_each(
    texts: pa.Array,
    rows: npt.NDArray[np.int64],
    whole: Whole,
    fraction: Floats,
    known: npt.NDArray[np.bool_],
    formats: tuple[str, ...],
) -> None:
    for row, text in zip(rows.tolist(), texts.to_pylist(), strict=True):
        moment = _moment(text, formats)
        known[row] = moment is not None
        if moment is not None:
            whole[row], fraction[row] = moment


@functools.lru_cache(maxsize=1 << 16)
def _moment(text: str, formats: tuple[str, ...]) -> tuple[int, float] | None:
    """Return the seconds since 1970 (UTC) and their fraction, or None where the text is of no known form."""
    part = ""
    text = text.strip()
    try:
        if formats:
            moment = _by_format(text, formats)
        else:
            text = re.sub(_SLASHED, lambda m: f"{m[1]}-{int(m[2]):02}-{int(m[3]):02}", text)
            if found := _FRACTION.search(text):
                part, text = found[1], text[: found.start()] + text[found.end() :]
            moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    since = moment.replace(tzinfo=None) - _EPOCH - (moment.utcoffset() or datetime.timedelta())
    return since.days * 86_400 + since.seconds, float(f"0.{part}") if part else since.microseconds / 1e6


def _by_format(text: str, formats: tuple[str, ...]) -> datetime.datetime:
    for form in formats[:-1]:
        try:
            return datetime.datetime.strptime(text, form)
        except ValueError:
            continue
    return datetime.datetime.strptime(text, formats[-1])


def is_number(text: str) -> bool:
    """Return whether `text` is a number rather than a date."""
    flaws = Flaws(1)
    return to_float(to_number(pa.array([text], pa.string()), "", flaws))[0].as_py() is not None and not flaws.reasons


def _known(values: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(values.is_valid().to_numpy(zero_copy_only=False), dtype=bool)
