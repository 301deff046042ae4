"""Ranks that are threads of this process, for tests of what ranks compute together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

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
