from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from rechub_ray.cpu import kernels


@pytest.mark.parametrize("row", [10, 2**31, 2**40, -1])
def test_a_row_that_the_table_has_not_is_an_error(row: int) -> None:
    rows = torch.tensor([3, row])
    with pytest.raises(IndexError):
        kernels.update_rowwise_adagrad(
            torch.ones(10, 2), torch.ones(10), rows, torch.zeros(2, 2), lr=0.1, eps=1e-8, weight_decay=0.0
        )


def test_a_place_beyond_32_bits() -> None:
    """Row numbers times the width pass 2^31, in memory that is asked for and, but for two rows, never touched."""
    table, rows = torch.empty(2**27 + 5, 17), torch.tensor([3, 2**27 + 4])
    table[rows] = torch.arange(34.0).view(2, 17)
    total = torch.empty(len(table))
    total[rows] = 1.0
    kernels.update_rowwise_adagrad(table, total, rows, torch.ones(2, 17), lr=2**0.5, eps=1e-12, weight_decay=0.0)
    torch.testing.assert_close(table[rows], torch.arange(34.0).view(2, 17) - 1)
    assert total[rows].tolist() == [2, 2]


@pytest.mark.parametrize("at", [0, 4000, 8999])
def test_one_bad_row_among_many(at: int) -> None:
    """The rows beside it are updated, memory beyond the table is not touched."""
    table, rows = torch.ones(9000, 2), torch.arange(9000)
    rows[at] = 9000
    with pytest.raises(IndexError, match="past the end"):
        kernels.update_rowwise_adagrad(
            table, torch.zeros(9000), rows, torch.ones(9000, 2), lr=1.0, eps=1e-12, weight_decay=0.0
        )
    expected = torch.zeros(9000, 2)
    expected[at] = 1
    torch.testing.assert_close(table, expected)


def arguments(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    table, gradient = torch.randn(9000, 16, generator=generator), torch.randn(9000, 16, generator=generator)
    return table, torch.ones(9000), torch.arange(9000), gradient


def updated(seed: int) -> Tensor:
    table, *rest = arguments(seed)
    kernels.update_rowwise_adagrad(table, *rest, lr=0.1, eps=1e-8, weight_decay=0.1)
    return table


def test_several_threads_may_call_at_once() -> None:
    expected = [updated(seed) for seed in range(8)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(updated, range(8)))
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


def test_without_a_folder_that_can_be_written() -> None:
    """Numba finds no place for its cache: the kernels are compiled all the same."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import torch\n"
        "from rechub_ray.cpu import kernels\n"
        "table, rows = torch.ones(3, 1), torch.tensor([1])\n"
        "kernels.update_rowwise_adagrad(table, torch.zeros(3), rows, torch.ones(1, 1), lr=1, eps=1, weight_decay=0)\n"
        "print(table[:, 0].tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "[1.0, 0.5, 1.0]\n", done.stderr


def test_importing_the_models_does_not_import_numba() -> None:
    code = (
        "import sys, rechub_ray.loop\n"
        "from rechub_ray.config import load\n"
        "load({'model': 'deepfm'})\n"  # searches for all components
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
