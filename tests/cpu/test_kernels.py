from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from rechub_ray.cpu import kernels


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Tests run with one thread otherwise, and kernels would never share their work."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


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
def test_one_bad_row_among_many_pieces(at: int) -> None:
    """Found by whatever thread has it; the rows beside it are updated, memory beyond the table is not touched."""
    table, rows = torch.ones(9000, 2), torch.arange(9000)
    rows[at] = 9000
    with pytest.raises(IndexError, match="past the end"):
        kernels.update_rowwise_adagrad(
            table, torch.zeros(9000), rows, torch.ones(9000, 2), lr=1.0, eps=1e-12, weight_decay=0.0
        )
    expected = torch.zeros(9000, 2)
    expected[at] = 1
    torch.testing.assert_close(table, expected)


def test_the_same_bits_with_any_number_of_threads() -> None:
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(updated(0))
    for result in results[1:]:
        assert torch.equal(result, results[0])


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_no_threads_beside_those_of_pytorch() -> None:
    code = (
        "import os, torch\n"
        "torch.set_num_threads(3)\n"
        "torch.ones(1_000_000).add_(1)\n"
        "from rechub_ray.cpu import kernels, parallel\n"
        "assert parallel._share_among_threads() is not None\n"
        "table, rows = torch.ones(50_000, 2), torch.arange(50_000)\n"
        "def update(rows):\n"
        "    kernels.update_rowwise_adagrad(\n"
        "        table, torch.ones(50_000), rows, torch.ones(len(rows), 2), lr=1, eps=1, weight_decay=0\n"
        "    )\n"
        "update(rows[:1])\n"  # compiles, and runs on one thread
        "before = len(os.listdir('/proc/self/task'))\n"
        "update(rows)\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "0\n", done.stderr


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


def test_in_a_forked_process() -> None:
    """Only what kernels do: PyTorch's own parallel operations hang in the child of a process that has used them."""
    expected, of_update = updated(0), arguments(0)
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)  # ends a child that hangs, and one whose test was ended
        kernels.update_rowwise_adagrad(*of_update, lr=0.1, eps=1e-8, weight_decay=0.1)
        os._exit(0 if np.array_equal(of_update[0].numpy(), expected.numpy()) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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
