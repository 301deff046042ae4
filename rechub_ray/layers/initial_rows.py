"""Initial rows of embedding tables: a function of the seed, the table's name and the row's number alone."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_BLOCK = 65_536  # numbers that one stream draws: its start is then 5% of its work
_NUMPY = (torch.float32, torch.float64)
_SERIAL_BLOCKS = 4  # fewer are drawn before a thread has started


def draw_initial_rows(table: Tensor, name: str, *, std: float) -> None:
    """Fill a table with rows from N(0, std).

    A row's numbers depend on the seed of PyTorch's default generator (`torch.initial_seed()`, which is what
    `torch.manual_seed` was given), on `name`, on the table's width and on the row's number; not on the number of rows,
    on what was drawn before, on the number of threads, or on PyTorch's kernels. So a table that grows keeps its rows,
    a part of it can be drawn elsewhere, and two models with one table in common start it equally.

    Args:
        table: takes the rows, in place: (V, D), floating point. Nothing happens on the meta device.
        name: tells the tables of one width apart.
        std: standard deviation, >= 0.
    """
    if table.is_meta or not table.numel():
        return
    rows, width = table.shape
    per_block = max(1, _BLOCK // width)
    blocks = -(-rows // per_block)
    key = hashlib.sha256(f"{torch.initial_seed()}/{name}/{width}".encode()).digest()
    seed = int.from_bytes(key[:16], "little")
    table = table.detach()
    array: npt.NDArray[Any] | None = table.numpy() if table.device.type == "cpu" and table.dtype in _NUMPY else None

    def draw(first: int, step: int) -> None:
        buffer = np.empty((min(per_block, rows), width))
        for block in range(first, blocks, step):
            begin, end = block * per_block, min((block + 1) * per_block, rows)
            # float64, rounded afterwards: a last digit that differs between C libraries does not show
            values = _stream(seed, block).standard_normal(out=buffer[: end - begin])
            if array is None:
                table[begin:end] = torch.from_numpy(values).mul_(std)
            else:
                np.multiply(values, std, out=array[begin:end], casting="same_kind")

    threads = torch.get_num_threads() if array is not None and blocks > _SERIAL_BLOCKS else 1
    if threads == 1:
        draw(0, 1)
        return
    with ThreadPoolExecutor(threads) as pool:  # NumPy releases the interpreter's lock meanwhile
        for done in [pool.submit(draw, first, threads) for first in range(threads)]:
            done.result()


def _stream(seed: int, block: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(block,))))
