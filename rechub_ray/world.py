"""The group of processes that train together: rank, size, and the few collectives the loop needs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class World:
    """A process's place among the workers. With size 1 every collective is a no-op and torch.distributed is not used.

    Every method is called equally often, in the same order, on every rank.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> World:
        """The default process group's world, or the world of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds up `tensor` over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's tensor, in rank order; the first dimension may differ between ranks."""
        if self.size == 1:
            return [tensor]
        padded, counts = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part[:count] for part, count in zip(parts, counts, strict=True)]

    def gather_to_main(self, tensor: Tensor) -> list[Tensor] | None:
        """`gather` for rank 0 alone; the other ranks get None, and need no memory for it."""
        if self.size == 1:
            return [tensor]
        padded, counts = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.is_main else None
        dist.gather(padded, parts, dst=0)
        return parts and [part[:count] for part, count in zip(parts, counts, strict=True)]

    def _padded(self, tensor: Tensor) -> tuple[Tensor, list[int]]:
        """The tensor, as long as the longest rank's, and every rank's length."""
        rows = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        rows[self.rank] = tensor.shape[0]
        dist.all_reduce(rows)
        counts: list[int] = rows.tolist()
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        return padded, counts

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Waits for every rank (bounded by the process group's timeout)."""
        if self.size > 1:
            dist.barrier()
