"""Collectives through shared memory: the same as gloo's, bounded, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from rechub_ray.cpu import exchange
from rechub_ray.cpu.exchange import Exchange, open_exchange
from rechub_ray.world import World
from tests.worlds import in_processes

SIZE = 3


def _run(check: Callable[[Exchange, int], None], folder: Path) -> None:
    in_processes(SIZE, _rank, check, str(folder))


def _rank(rank: int, check: Callable[[Exchange, int], None], folder: str) -> None:
    os.environ["LEAVE"] = f"{folder}/leave"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=SIZE)
    exchange._MOST_BYTES = 4096  # small enough for messages of several parts
    opened = open_exchange(rank, SIZE, timeout_seconds=60)
    if opened is None:
        Path(folder, "refused").touch()
    else:
        check(opened, rank)
    Path(folder, f"done-{rank}").touch()
    while len(list(Path(folder).glob("done-*"))) < SIZE and not Path(folder, "leave").exists():
        time.sleep(0.01)
    os._exit(0)


def _of(rank: int, dtype: torch.dtype, length: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([rank, length]).integers(0, 100, length)).to(dtype)


def _sums(opened: Exchange, rank: int) -> None:
    for dtype in (torch.float32, torch.float64, torch.int64, torch.int32, torch.bfloat16):
        for length in (1, 7, 512, 5000):
            tensor = _of(rank, dtype, length)
            opened.sum_(tensor)
            expected = _of(0, dtype, length) + _of(1, dtype, length) + _of(2, dtype, length)
            assert torch.equal(tensor, expected), (dtype, length)
    strided = torch.arange(12.0).view(3, 4).t()
    opened.sum_(strided)
    assert torch.equal(strided, 3 * torch.arange(12.0).view(3, 4).t())
    empty = torch.zeros(0)
    opened.sum_(empty)


def _gathers(opened: Exchange, rank: int) -> None:
    for scale in (0, 1, 5, 700):
        mine = [_of(rank, torch.int64, rank * scale), _of(rank, torch.float32, 3), _of(rank, torch.uint8, scale + rank)]
        for other, parts in enumerate(opened.gather([*mine, _of(rank, torch.int64, 2)])):
            assert torch.equal(parts[0], _of(other, torch.int64, other * scale))
            assert torch.equal(parts[1], _of(other, torch.float32, 3))
            assert torch.equal(parts[2], _of(other, torch.uint8, scale + other))
            assert torch.equal(parts[3], _of(other, torch.int64, 2))


def _many_in_a_row(opened: Exchange, rank: int) -> None:
    """Ranks that run ahead of each other never read what is not yet, or no longer, there."""
    draw = np.random.default_rng(rank)
    for number in range(400):
        if draw.random() < 0.05:
            time.sleep(0.002)
        tensor = torch.full((100,), float(number * (rank + 1)))
        opened.sum_(tensor)
        assert tensor.eq(number * 6).all()


def _one_is_late(opened: Exchange, rank: int) -> None:
    """No wait is without a bound."""
    opened._timeout_seconds = 1.0
    if rank == 1:
        while not all(Path(f"{os.environ['LEAVE']}-late-{other}").exists() for other in (0, 2)):
            time.sleep(0.01)
        opened.sum_(torch.ones(1))
    else:
        late = (
            rf"rank {rank} waited .* for rank 1 \(process {opened._processes[1][0]}\) on host {socket.gethostname()}$"
        )
        with pytest.raises(TimeoutError, match=late):
            opened.sum_(torch.ones(1))
        Path(f"{os.environ['LEAVE']}-late-{rank}").touch()


def _all(opened: Exchange, rank: int) -> None:
    for check in (_sums, _gathers, _many_in_a_row, _one_is_late):
        check(opened, rank)


def test_every_rank_gets_what_all_ranks_gave(tmp_path: Path) -> None:
    before = set(os.listdir(exchange._FOLDER)) if os.path.isdir(exchange._FOLDER) else set()
    _run(_all, tmp_path)
    if (tmp_path / "refused").exists():
        pytest.skip("these processes share no memory here")
    after = set(os.listdir(exchange._FOLDER))
    assert not [name for name in after - before if name.startswith("rechub-ray-")]


def _one_leaves(opened: Exchange, rank: int) -> None:
    opened.sum_(torch.ones(1))
    if rank == 1:
        os._exit(0)
    with pytest.raises(ConnectionError, match="rank 1 is gone"):  # not TimeoutError, at the bound of 60 s
        opened.sum_(torch.ones(1))
    Path(os.environ["LEAVE"]).touch()


def test_a_rank_that_is_gone_is_an_error_for_the_others(tmp_path: Path) -> None:
    _run(_one_leaves, tmp_path)
    assert (tmp_path / "leave").exists() or (tmp_path / "refused").exists()


def _one_is_stopped(opened: Exchange, rank: int) -> None:
    """A stopped process counts neither up nor as gone: the others give up at the world's bound."""
    assert opened._timeout_seconds == 1.0
    opened.sum_(torch.ones(1))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        return
    with pytest.raises(TimeoutError, match=rf"for rank 1 \(process {opened._processes[1][0]}\)"):
        opened.sum_(torch.ones(1))
    Path(f"{os.environ['LEAVE']}-{rank}").touch()
    if rank == 0:
        while not Path(f"{os.environ['LEAVE']}-2").exists():
            time.sleep(0.01)
        Path(os.environ["LEAVE"]).touch()
        os.kill(opened._processes[1][0], signal.SIGCONT)


def _rank_of_world(rank: int, folder: str) -> None:
    os.environ["LEAVE"] = f"{folder}/leave"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=SIZE)
    world = World.current(timeout_seconds=1.0)
    if not world.shares_memory(torch.device("cpu")):
        Path(folder, "refused").touch()
    else:
        opened = world._exchange(torch.device("cpu"))
        assert opened is not None
        _one_is_stopped(opened, rank)
    os._exit(0)


def test_the_bound_of_the_world_reaches_the_exchange(tmp_path: Path) -> None:
    in_processes(SIZE, _rank_of_world, str(tmp_path))
    assert (tmp_path / "leave").exists() or (tmp_path / "refused").exists()
