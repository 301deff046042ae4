"""The group of processes that train together: rank, size, and the few collectives the loop needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rechub_ray.cpu.exchange import Exchange, as_bytes, open_exchange

_exchanges: dict[Any, Exchange | None] = {}  # of the default process group


@dataclasses.dataclass(frozen=True)
class World:
    """A process's place among the workers. With size 1 every collective is a no-op and torch.distributed is not used.

    Every method is called equally often, in the same order, on every rank.

    Args:
        rank: the process's number in torch's default process group, from 0.
        size: number of processes in it.
        timeout_seconds: how long a rank waits for the others in shared memory (> 0); through torch.distributed it is
            the process group's timeout, and both are to be the same.
    """

    rank: int = 0
    size: int = 1
    timeout_seconds: float = 600.0

    @classmethod
    def current(cls, *, timeout_seconds: float = 600.0) -> World:
        """Return the default process group's world, or the world of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), timeout_seconds)
        return cls()

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over the ranks, in place."""
        if self.size > 1:
            exchange = self._exchange(tensor.device)
            if exchange is not None:
                exchange.sum_(tensor)
            else:
                dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every rank's tensor, in rank order; the first dimension may differ between ranks."""
        if self.size == 1:
            return [tensor]
        return [part.view(-1, *tensor.shape[1:]) for (part,) in self.gather_all([tensor])]

    def gather_all(self, tensors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return every rank's tensors, flat, in rank order, by one message; lengths may differ between ranks."""
        flat = [tensor.reshape(-1) for tensor in tensors]
        if self.size == 1 or not flat:
            return [flat] * self.size
        exchange = self._exchange(flat[0].device)
        if exchange is not None:
            return exchange.gather(flat)
        counts = torch.tensor([piece.numel() for piece in flat], device=flat[0].device)
        table = counts.new_zeros(self.size, len(flat))
        table[self.rank] = counts
        dist.all_reduce(table)
        lengths: list[list[int]] = table.tolist()
        sizes = [sum(n * piece.element_size() for n, piece in zip(row, flat, strict=True)) for row in lengths]
        mine = flat[0].new_empty(max(sizes), dtype=torch.uint8)
        mine[: sizes[self.rank]] = torch.cat([as_bytes(piece) for piece in flat])
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [
            [
                piece.clone().view(like.dtype)
                for piece, like in zip(
                    torch.split(part[:size], [n * like.element_size() for n, like in zip(row, flat, strict=True)]),
                    flat,
                    strict=True,
                )
            ]
            for part, size, row in zip(parts, sizes, lengths, strict=True)
        ]

    def shares_memory(self, device: torch.device) -> bool:
        """Return whether tensors on `device` are exchanged through shared memory, without sockets."""
        return self.size > 1 and self._exchange(device) is not None

    def _exchange(self, device: torch.device) -> Exchange | None:
        """Return the exchange through shared memory where all ranks are on one host; made at the first collective."""
        if device.type != "cpu":
            return None
        group = dist.group.WORLD
        if group not in _exchanges:
            _exchanges.clear()
            _exchanges[group] = open_exchange(self.rank, self.size, timeout_seconds=self.timeout_seconds)
        return _exchanges[group]

    def gather_to_main(self, tensor: Tensor) -> list[Tensor] | None:
        """Return the result of `gather` on rank 0; the other ranks get None, and need no memory for it."""
        if self.size == 1:
            return [tensor]
        padded, counts = self._padded(tensor)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.is_main else None
        dist.gather(padded, parts, dst=0)
        return parts and [part[:count] for part, count in zip(parts, counts, strict=True)]

    def _padded(self, tensor: Tensor) -> tuple[Tensor, list[int]]:
        """Return the tensor padded to the length of the longest rank's, and every rank's length."""
        rows = torch.zeros(self.size, dtype=torch.int64, device=tensor.device)
        rows[self.rank] = tensor.shape[0]
        dist.all_reduce(rows)
        counts: list[int] = rows.tolist()
        padded = tensor.new_zeros((max(counts), *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        return padded, counts

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's picklable value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Wait for every rank (bounded by the process group's timeout)."""
        if self.size > 1:
            dist.barrier()
