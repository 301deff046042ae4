"""The split of each row."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation.forms import AtRandom, ByColumn, ByFile, ByTime, LeaveLastOut, SplitSpec
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.sketch import Quantiles
from rechub_ray.preparation.sources import RawRows
from rechub_ray.preparation.times import KNOWN, is_number, to_time
from rechub_ray.preparation.values import Flaws, to_text, uniform

Codes = npt.NDArray[np.int8]


def split_codes(
    recipe: Recipe, raw: RawRows, file_splits: Mapping[int, str], starts: tuple[float, ...], flaws: Flaws
) -> Codes:
    """Return the index into `recipe.splits` of every row.

    Args:
        file_splits: the split of each input file by its index, for a split by file.
        starts: the first moment of each split after the first, ascending, for a split by time.
    """
    split, names, table = recipe.split, recipe.splits, raw.table
    if split is None:
        return np.zeros(table.num_rows, dtype=np.int8)
    if isinstance(split, ByFile):
        return _by_file(split, names, file_splits, raw)
    if isinstance(split, ByColumn):
        return _by_column(split, table, flaws)
    if isinstance(split, AtRandom):
        return _at_random(raw, split.seed, list(split.fractions.values()))
    if isinstance(split, ByTime):
        dated = split.starts is not None and not any(map(is_number, split.starts.values()))
        times = to_time(table[split.column], split.column, flaws, recipe.time_format, dated)
        return np.searchsorted(np.asarray(starts), times, side="right").astype(np.int8)
    return _from_end(split, names, raw)


def _by_file(split: ByFile, names: tuple[str, ...], file_splits: Mapping[int, str], raw: RawRows) -> Codes:
    codes = np.zeros(len(raw.rows), dtype=np.int8)
    for file in np.unique(raw.files).tolist():
        mine, whole = raw.files == file, file_splits[file]
        carved = {name: carve.fraction for name, carve in split.carve.items() if carve.of == whole}
        codes[mine] = names.index(whole)
        if carved:
            targets = np.array([names.index(name) for name in (*carved, whole)], dtype=np.int8)
            codes[mine] = targets[_drawn(split.seed, file, raw.rows[mine], list(carved.values()))]
    return codes


def _at_random(raw: RawRows, seed: int, fractions: list[float]) -> Codes:
    codes = np.zeros(len(raw.rows), dtype=np.int8)
    for file in np.unique(raw.files).tolist():
        mine = raw.files == file
        codes[mine] = _drawn(seed, file, raw.rows[mine], fractions)
    return codes


def _drawn(seed: int, file: int, rows: npt.NDArray[np.int64], fractions: list[float]) -> Codes:
    """Return for each row of a file which of the fractions it falls in, or their number where it falls in none."""
    edges = np.cumsum(fractions)
    edges = edges[:-1] if edges[-1] > 1 - 1e-6 else edges
    return np.searchsorted(edges, uniform(seed, file, rows), side="right").astype(np.int8)


def _by_column(split: ByColumn, table: pa.Table, flaws: Flaws) -> Codes:
    texts = to_text(table[split.column])
    codes = np.full(len(texts), -1, dtype=np.int8)
    for code, name in enumerate(split.values):
        member = pc.is_in(texts, value_set=pa.array(split.texts(name), pa.string())).to_numpy(zero_copy_only=False)
        codes[member] = code
    flaws.add(codes < 0, f"column '{split.column}': {{value}} belongs to no split", texts)
    return np.maximum(codes, 0)


def _from_end(split: LeaveLastOut, names: tuple[str, ...], raw: RawRows) -> Codes:
    assert raw.from_end is not None
    codes = np.full(len(raw.rows), names.index(TRAIN), dtype=np.int8)
    if split.valid:
        codes[raw.from_end < split.test + split.valid] = names.index("valid")
    if split.test:
        codes[raw.from_end < split.test] = names.index("test")
    return codes


def given_starts(split: ByTime) -> list[float]:
    """Return `starts` as numbers.

    Raises:
        ConfigError: they are not moments, or do not ascend.
    """
    assert split.starts is not None
    flaws = Flaws(len(split.starts))
    times: list[float] = to_time(pa.array(list(split.starts.values())), "starts", flaws).tolist()
    if flaws.reasons or times != sorted(times):
        raise ConfigError(
            "'split.starts' must be moments in ascending order, as numbers or ISO 8601 times", got=dict(split.starts)
        )
    return times


def fitted_starts(split: ByTime, times: Quantiles) -> list[float]:
    """Return the moments that cut `fractions` off; rows of one moment stay together, in the earlier split.

    Raises:
        DataError: no row holds a time, or there are too few different ones, so that a split is empty.
    """
    assert split.fractions is not None
    if not len(times.values):
        raise DataError(
            f"column '{split.column}' holds no time in any row", expected=KNOWN, hint="'time_format' reads others."
        )
    edges = np.cumsum(list(split.fractions.values()))[:-1].tolist()
    starts: list[float] = []
    for name, edge in zip(split.fractions, edges, strict=False):
        last_before = times.at([edge])[0]
        later = times.values[times.values > last_before]
        if starts and len(later) and later[0] <= starts[-1]:
            raise empty_split(split, name, times=times)
        if not len(later):
            raise empty_split(split, list(split.fractions)[len(starts) + 1], times=times)
        starts.append(float(later[0]))
    return starts


def empty_split(
    split: SplitSpec | None,
    name: str,
    *,
    times: Quantiles | None = None,
    bad: int = 0,
    min_length: int = 0,
    where: str = "",
) -> DataError:
    """Return the error that a split has no rows, with the reason.

    Args:
        times: the moments of all rows, for a split by time.
        bad: rows that were set aside.
        min_length: rows with a shorter history were left out.
        where: rows for which this expression is not true were left out.
    """
    hint = f"Only rows for which 'where: {where}' is true are taken." if where else None
    if isinstance(split, ByTime):
        assert times is not None
        got, hint = _moments(split, times)
    elif isinstance(split, ByColumn):
        got = f"no row with '{split.column}' = {' or '.join(split.texts(name)[:5])}"
    elif isinstance(split, AtRandom) or (isinstance(split, ByFile) and name in split.carve):
        fraction = split.fractions[name] if isinstance(split, AtRandom) else split.carve[name].fraction
        got = f"none of the rows, with a fraction of {fraction:g}: they are few"
    elif isinstance(split, LeaveLastOut):
        need = split.valid + split.test
        got = f"no user with more than {need if name == TRAIN else need - 1} rows"
        hint = "A user's last rows are left out before anything is left to train on."
    else:
        got = "files without usable rows"
    if min_length:
        hint = f"`history.min_length: {min_length}` leaves out rows with fewer earlier rows of their user."
    if bad:
        hint = f"{bad:,} bad rows were set aside: without `on_bad_rows: quarantine` the first one is shown."
    return DataError(f"the split '{name}' has no rows", expected="at least one row in every split", got=got, hint=hint)


def _moments(split: ByTime, times: Quantiles) -> tuple[str, str]:
    """Return the range of the time column as a text, and a hint."""
    if not len(times.values):
        return f"no row with a time in '{split.column}'", "Check the time column."
    first, last = float(times.values[0]), float(times.values[-1])
    got = f"'{split.column}' runs from {_moment(first)} to {_moment(last)}"
    if first == last:
        got = f"one moment in all rows of '{split.column}': {_moment(first)}"
    if split.starts is not None:
        starts = zip(split.starts, given_starts(split), strict=True)
        return got, f"The splits begin: {', '.join(f'{name} from {_moment(start)}' for name, start in starts)}."
    got += f" ({len(times.values):,} different moments)" if first < last else ""
    return got, "Rows of one moment stay together: give larger fractions or 'starts', or split in another way."


def _moment(value: float) -> str:
    """Return a moment as a text, with its date where it can be seconds since 1970."""
    number = f"{value:.0f}" if value == round(value) else f"{value!r}"
    if not 1e8 <= value < 1e11:
        return number
    return f"{number} ({datetime.datetime.fromtimestamp(value, datetime.UTC):%Y-%m-%d %H:%M:%S})"
