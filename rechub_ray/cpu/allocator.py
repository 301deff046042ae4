"""How the C library treats this process's memory."""

from __future__ import annotations

import contextlib
import ctypes

from rechub_ray.cpu import is_on

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_KEPT_BYTES, _SMALL_BYTES = 256 * 2**20, 32 * 2**20  # the latter is the most that glibc takes


def keep_freed_memory() -> bool:
    """Keep freed blocks under 32 MiB, 256 MiB in all, in this process instead of giving them back to the system.

    A training step on the CPU frees and asks for the same tensors again and again. Given back in between, every page
    of them is faulted in and zeroed anew: up to a tenth of a step's time. Larger blocks are given back as before.

    Returns:
        Whether the allocator took it; False where the C library is not glibc.
    """
    if not is_on("freed_memory"):
        return False
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_MMAP_THRESHOLD, _SMALL_BYTES) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))
    return False
