"""Collectives of processes on one host, through shared memory instead of sockets."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import secrets
import socket
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from rechub_ray.cpu import is_on

_FOLDER = "/dev/shm"
_LINE = 8  # int64s in a cache line: every rank writes into lines of its own
_ALL_BYTES, _MOST_BYTES = 2**26, 2**23  # of all buffers together (Docker's /dev/shm has 64 MiB), and of one
_BUSY_SECONDS, _NAP_SECONDS, _LOOK_SECONDS = 2e-3, 5e-5, 0.25


class Exchange:
    """Sums and gathers tensors of the CPU over ranks that share memory, in rank order: the same bits on every rank.

    A gloo collective over the loopback interface wakes several threads and copies through the kernel four times; a
    step has half a dozen. Here a rank copies its part into its own buffer, counts up, and reads the others' buffers
    as soon as their counts are as high. There are two buffers a rank, used in turn: whoever has counted up to n + 1
    has read everything of n, so n's buffers are free again for n + 2.

    Args:
        memory: the mapped file.
        rank: this process's number.
        size: how many processes there are.
        capacity: bytes of a buffer.
        processes: pid and start of every rank's process, to notice that one is gone.
        timeout_seconds: bound of every wait, > 0.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        rank: int,
        size: int,
        *,
        capacity: int,
        processes: Sequence[tuple[int, int]],
        timeout_seconds: float,
    ) -> None:
        self._rank, self._size, self._capacity = rank, size, capacity
        self._processes, self._timeout_seconds = processes, timeout_seconds
        head = np.frombuffer(memory, np.int64, count=3 * size * _LINE).reshape(3, size, _LINE)[:, :, 0]
        self._counts, self._sizes = head[0], head[1:]
        start = head.shape[1] * 3 * _LINE * 8
        self._buffers = np.frombuffer(memory, np.uint8, offset=start).reshape(2, size, capacity)
        self._turn = 0

    def sum_(self, tensor: Tensor) -> None:
        """Add up `tensor` over the ranks, in place."""
        flat = tensor.detach().contiguous().view(-1)
        for piece in torch.split(flat, self._capacity // flat.element_size()):
            parts = self._post([piece])
            torch.add(_tensor(parts[0], piece), _tensor(parts[1], piece), out=piece)
            for part in parts[2:]:
                piece += _tensor(part, piece)
        if flat.data_ptr() != tensor.data_ptr():
            tensor.copy_(flat.view_as(tensor))

    def gather(self, pieces: Sequence[Tensor]) -> list[list[Tensor]]:
        """Return every rank's pieces, in rank order; their lengths may differ between ranks, their types may not."""
        flat = [piece.detach().contiguous().view(-1) for piece in pieces]
        lengths = torch.tensor([piece.numel() for piece in flat])
        all_lengths = [_tensor(part, lengths).tolist() for part in self._post([lengths])]
        most = max(sum(n * p.element_size() for n, p in zip(ns, flat, strict=True)) for ns in all_lengths)
        if most <= self._capacity:
            return [
                [part.clone() for part in _split(data, lengths, flat)]
                for data, lengths in zip(self._post(flat), all_lengths, strict=True)
            ]
        whole = torch.cat([as_bytes(piece) for piece in flat])
        received: list[list[Tensor]] = [[] for _ in range(self._size)]
        for at in range(0, most, self._capacity):
            for rank, part in enumerate(self._post([whole[at : at + self._capacity]])):
                received[rank].append(torch.from_numpy(part.copy()))
        return [
            _split(torch.cat(parts).numpy(), lengths, flat)
            for parts, lengths in zip(received, all_lengths, strict=True)
        ]

    def _post(self, pieces: Sequence[Tensor]) -> list[np.ndarray[tuple[int], np.dtype[np.uint8]]]:
        """Show this rank's bytes to all, and return every rank's: to be read before the next call."""
        self._turn += 1
        side, at = self._turn % 2, 0
        mine = self._buffers[side, self._rank]
        for piece in pieces:
            data = as_bytes(piece).numpy()
            mine[at : at + data.size] = data
            at += data.size
        self._sizes[side, self._rank] = at
        self._counts[self._rank] = self._turn  # after the data: x86 does not reorder stores
        self._wait()
        return [self._buffers[side, rank, : int(self._sizes[side, rank])] for rank in range(self._size)]

    def _wait(self) -> None:
        if int(self._counts.min()) >= self._turn:
            return
        started = looked = time.monotonic()
        while int(self._counts.min()) < self._turn:
            now = time.monotonic()
            # lets this process's readers run meanwhile, and after a while the other processes on this core
            time.sleep(0 if now - started < _BUSY_SECONDS else _NAP_SECONDS)
            if now - looked > min(_LOOK_SECONDS, self._timeout_seconds):
                looked = now
                self._look(now - started)

    def _look(self, seconds: float) -> None:
        """Raise where waiting is in vain."""
        gone = [
            rank
            for rank in range(self._size)
            if _start_of(self._processes[rank][0]) != self._processes[rank][1] and self._counts[rank] < self._turn
        ]
        if gone:
            raise ConnectionError(f"the process of rank {gone[0]} is gone; rank {self._rank} was waiting for it")
        if seconds > self._timeout_seconds:
            late = [rank for rank in range(self._size) if self._counts[rank] < self._turn]
            who = ", ".join(f"rank {rank} (process {self._processes[rank][0]})" for rank in late)
            raise TimeoutError(f"rank {self._rank} waited {seconds:.0f} s for {who} on host {socket.gethostname()}")


def as_bytes(flat: Tensor) -> Tensor:
    """Return the memory of a contiguous tensor of one dimension."""
    return flat.view(torch.uint8) if flat.numel() else flat.new_empty(0, dtype=torch.uint8)


def _tensor(data: np.ndarray[tuple[int], np.dtype[np.uint8]], like: Tensor) -> Tensor:
    return torch.from_numpy(data).view(like.dtype) if data.size else like.new_empty(0)


def _split(
    data: np.ndarray[tuple[int], np.dtype[np.uint8]], lengths: Sequence[int], like: Sequence[Tensor]
) -> list[Tensor]:
    result, at = [], 0
    for length, piece in zip(lengths, like, strict=True):
        stop = at + length * piece.element_size()
        result.append(_tensor(data[at:stop], piece))
        at = stop
    return result


def open_exchange(rank: int, size: int, *, timeout_seconds: float) -> Exchange | None:
    """Return the exchange of the default process group, or None where its ranks do not share memory.

    All ranks call it.

    Args:
        rank: this process's number.
        size: how many processes there are.
        timeout_seconds: bound of every wait for another rank, once the exchange is open.
    """
    path, token, memory = "", secrets.randbits(62), None
    capacity = min(_MOST_BYTES, _ALL_BYTES // (2 * size)) // 4096 * 4096
    head = 3 * size * _LINE * 8
    total = head + 2 * size * capacity
    if rank == 0 and platform.machine() in ("x86_64", "AMD64"):
        with contextlib.suppress(OSError):
            path = _new_file(total, token)
    box: list[tuple[str, int]] = [(path, token)]
    dist.broadcast_object_list(box, src=0)
    path, token = box[0]
    try:
        if path and is_on("exchange"):
            with contextlib.suppress(OSError, ValueError), Path(path).open("r+b") as file:
                mapped = mmap.mmap(file.fileno(), total)
                memory = mapped if int.from_bytes(mapped[:8], "little") == token else None
        mine = (os.getpid(), _start_of(os.getpid())) if memory is not None else None
        everyone: list[tuple[int, int] | None] = [None] * size
        dist.all_gather_object(everyone, mine)
        processes = [process for process in everyone if process is not None]
        fine = len(processes) == size and all(_start_of(pid) == start for pid, start in processes)
        verdicts: list[bool] = [False] * size
        dist.all_gather_object(verdicts, fine)
    finally:
        if rank == 0 and path:
            os.unlink(path)  # the mappings stay; nothing is left behind, however the processes end
    if memory is None or not all(verdicts):
        return None
    if rank == 0:
        memory[:8] = bytes(8)
    dist.barrier()
    return Exchange(memory, rank, size, capacity=capacity, processes=processes, timeout_seconds=timeout_seconds)


def _new_file(total: int, token: int) -> str:
    handle, path = tempfile.mkstemp(prefix="rechub-ray-", dir=_FOLDER)
    try:
        os.posix_fallocate(handle, 0, total)  # refused here, or a bus error later
        os.pwrite(handle, token.to_bytes(8, "little"), 0)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(handle)
    return path


def _start_of(pid: int) -> int:
    """Return when a process started, in ticks since boot; 0 where it does not exist or has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])
