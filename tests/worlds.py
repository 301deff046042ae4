"""Ranks that are threads of this process, or processes, for tests of what ranks compute together."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from rechub_ray.config import RunConfig
from rechub_ray.data.source import ThreadReader
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.preflight import check
from rechub_ray.runtime.worker import execute
from rechub_ray.tracking import Tracker
from rechub_ray.world import World

T = TypeVar("T")


class ThreadWorld(World):
    """One of several threads; collectives meet at a barrier of 20 s."""

    def __init__(self, rank: int, size: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, size)
        object.__setattr__(self, "board", board)
        object.__setattr__(self, "wait", barrier.wait)

    def _exchange_objects(self, value: Any) -> list[Any]:
        self.board[self.rank] = value  # type: ignore[attr-defined]
        self.wait(20)  # type: ignore[attr-defined]
        parts = list(self.board)  # type: ignore[attr-defined]
        self.wait(20)  # type: ignore[attr-defined]
        return parts

    def gather(self, tensor: Tensor) -> list[Tensor]:
        return [part.clone() for part in self._exchange_objects(tensor.detach().clone())]

    def gather_all(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        return self._exchange_objects([tensor.detach().reshape(-1).clone() for tensor in tensors])

    def shares_memory(self, device: torch.device) -> bool:
        return True

    def gather_to_main(self, tensor: Tensor) -> list[Tensor] | None:
        parts = self.gather(tensor)
        return parts if self.is_main else None

    def broadcast(self, value: Any) -> Any:
        return self._exchange_objects(value)[0]

    def sum_(self, tensor: Tensor) -> Tensor:
        parts = self._exchange_objects(tensor.detach().clone())
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return tensor.copy_(total)

    def barrier(self) -> None:
        self._exchange_objects(None)


def on_ranks(size: int, work: Callable[[World], T]) -> list[T]:
    """What `work` gives on each of `size` ranks; the first error that one of them raises is raised."""
    board: list[Any] = [None] * size
    barrier = threading.Barrier(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadWorld(rank, size, board, barrier))
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results


def start_process(work: Callable[..., Any], *arguments: Any) -> multiprocessing.process.BaseProcess:
    """Call `work(*arguments)` in a process of its own, without waiting for its end."""
    process = _forks().Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def said_by(
    folder: Path, work: Callable[..., Any], *arguments: Any, seconds: float = 100
) -> tuple[int | None, str, str]:
    """Exit code, standard output and error of `work(*arguments)`, called in `folder` by a process of its own.

    What libraries write past Python is in it too.
    """
    process = start_process(_say, str(folder), work, arguments)
    process.join(seconds)
    out, err = ((folder / f"std{name}").read_text() for name in ("out", "err"))
    return process.exitcode, out, err


def _say(folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.chdir(folder)
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), descriptor)
    work(*arguments)


def command_of(pid: int) -> bytes:
    """The command line of a process; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def train_until_killed(config: RunConfig, step: int) -> None:
    """Train in a process of its own that kills itself at the first log from `step` on."""
    process = start_process(_train_until, config, step)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _train_until(config: RunConfig, step: int) -> None:
    train(config, trackers=[_KillItself(step)])


class _KillItself(Tracker):
    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def in_processes(size: int, work: Callable[..., None], *arguments: Any) -> None:
    """Call `work(rank, *arguments)` in `size` processes; the first error that one of them raises is raised."""
    _forks()
    mp.start_processes(work, args=arguments, nprocs=size, start_method="forkserver")  # type: ignore[no-untyped-call]


def _forks() -> multiprocessing.context.ForkServerContext:
    """Processes that are forks of one that has imported what all of them need, which takes seconds.

    What this process has changed, such as its environment, they do not see.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.warm", "pytest", "hypothesis"])
    return context


def train_in_processes(size: int, folder: Path, config: RunConfig) -> dict[str, Any]:
    """What the loop of a worker gives, run in `size` processes, which meet in `folder`; `log` has what it logged."""
    folder.mkdir(exist_ok=True)
    in_processes(size, _train, size, str(folder), config)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def _train(rank: int, size: int, folder: str, config: RunConfig) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
    world, device, hooks = World.current(), torch.device("cpu"), _Noting()
    result = execute(check(config), world=world, device=device, reader=ThreadReader(), hooks=hooks)
    if world.is_main:
        Path(folder, "result.json").write_text(json.dumps({**result, "log": hooks.lines}))
    dist.barrier()  # a rank that leaves early takes the connection of a slower one with it
    os._exit(0)  # gloo's threads now and then abort a process that ends in order


class _Noting:
    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self.lines.append({"step": step, **metrics})

    def started(self, step: int) -> None: ...
    def say(self, text: str) -> None: ...
    def evaluated(self, epoch: int, score: float) -> None: ...
    def saved(self, path: str, metrics: dict[str, float]) -> None: ...
