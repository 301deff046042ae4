"""Which split a row belongs to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import ConfigError
from rechub_ray.preparation.forms import AtRandom, ByColumn, ByFile, ByTime, LeaveLastOut
from rechub_ray.preparation.recipe import TRAIN, Recipe
from rechub_ray.preparation.sketch import Quantiles
from rechub_ray.preparation.sources import Block
from rechub_ray.preparation.values import Flaws, to_text, to_time, uniform

Codes = npt.NDArray[np.int8]


def split_codes(
    recipe: Recipe, block: Block, table: pa.Table, file_split: str, starts: list[float], flaws: Flaws
) -> Codes:
    """The index into `recipe.splits` of every row.

    Args:
        file_split: the split of the rows' file, for a split by file.
        starts: the first moment of each split after the first, ascending, for a split by time.
    """
    split, names, rows = recipe.split, recipe.splits, table.num_rows
    if split is None:
        return np.zeros(rows, dtype=np.int8)
    if isinstance(split, ByFile):
        return _by_file(split, names, file_split, block)
    if isinstance(split, ByColumn):
        return _by_column(split, table, flaws)
    if isinstance(split, AtRandom):
        return _at_random(block, split.seed, list(split.fractions.values()))
    if isinstance(split, ByTime):
        return np.searchsorted(
            np.asarray(starts), to_time(table[split.column], split.column, flaws), side="right"
        ).astype(np.int8)
    return _from_end(split, names, block)


def _by_file(split: ByFile, names: tuple[str, ...], file_split: str, block: Block) -> Codes:
    codes = np.full(len(block.rows), names.index(file_split), dtype=np.int8)
    carved = {name: carve.fraction for name, carve in split.carve.items() if carve.of == file_split}
    if carved:
        parts = _at_random(block, split.seed, list(carved.values()))
        targets = np.array([*(names.index(name) for name in carved), names.index(file_split)], dtype=np.int8)
        codes = targets[parts]
    return codes


def _at_random(block: Block, seed: int, fractions: list[float]) -> Codes:
    draws = np.empty(len(block.rows))
    for file in np.unique(block.files).tolist():
        mine = block.files == file
        draws[mine] = uniform(seed, file, block.rows[mine])
    edges = np.cumsum(fractions)
    edges = edges[:-1] if edges[-1] > 1 - 1e-6 else edges
    return np.searchsorted(edges, draws, side="right").astype(np.int8)


def _by_column(split: ByColumn, table: pa.Table, flaws: Flaws) -> Codes:
    texts = to_text(table[split.column])
    codes = np.full(len(texts), -1, dtype=np.int8)
    for code, name in enumerate(split.values):
        member = pc.is_in(texts, value_set=pa.array(split.texts(name), pa.string())).to_numpy(zero_copy_only=False)
        codes[member] = code
    flaws.add(codes < 0, f"column '{split.column}': {{value}} belongs to no split", texts)
    return np.maximum(codes, 0)


def _from_end(split: LeaveLastOut, names: tuple[str, ...], block: Block) -> Codes:
    assert block.from_end is not None
    codes = np.full(len(block.rows), names.index(TRAIN), dtype=np.int8)
    if split.valid:
        codes[block.from_end < split.test + split.valid] = names.index("valid")
    if split.test:
        codes[block.from_end < split.test] = names.index("test")
    return codes


def given_starts(split: ByTime) -> list[float]:
    """`starts` as numbers, checked to ascend."""
    assert split.starts is not None
    flaws = Flaws(len(split.starts))
    times: list[float] = to_time(pa.array(list(split.starts.values())), "starts", flaws).tolist()
    if flaws.reasons or times != sorted(times):
        raise ConfigError(
            "'split.starts' must be moments in ascending order, as numbers or ISO 8601 times", got=dict(split.starts)
        )
    return times


def fitted_starts(split: ByTime, times: Quantiles) -> list[float]:
    """The moments that cut `fractions` off; rows of one moment stay together, in the earlier split."""
    assert split.fractions is not None
    edges = np.cumsum(list(split.fractions.values()))[:-1].tolist()
    starts = []
    for edge in edges:
        last_before = times.at([edge])[0]
        later = times.values[times.values > last_before]
        starts.append(float(later[0]) if len(later) else float("inf"))
    return starts
