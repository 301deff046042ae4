"""How the C library and the kernel treat this process's memory."""

from __future__ import annotations

import contextlib
import ctypes

from torch import Tensor

from rechub_ray.cpu import is_on

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_HUGE_PAGE = 14  # of Linux' madvise
_PAGE_BYTES, _HUGE_PAGE_BYTES = 4096, 2 * 2**20
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


def ask_for_huge_pages(tensor: Tensor) -> bool:
    """Ask Linux to back a new tensor on the CPU with pages of 2 MiB, before it is written for the first time.

    Reading rows here and there of a table of 100 MB or more misses the address cache with every row otherwise, which
    takes a third of the time. Nothing changes for tensors under 8 MiB and where the kernel does not offer such pages.

    Returns:
        Whether the kernel took it.
    """
    size = tensor.numel() * tensor.element_size()
    if tensor.device.type != "cpu" or size < 4 * _HUGE_PAGE_BYTES or not is_on("huge_pages"):
        return False
    start = -(-tensor.data_ptr() // _PAGE_BYTES) * _PAGE_BYTES
    length = (tensor.data_ptr() + size - start) // _PAGE_BYTES * _PAGE_BYTES
    with contextlib.suppress(OSError, AttributeError):
        madvise = ctypes.CDLL(None).madvise
        return bool(madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _HUGE_PAGE) == 0)
    return False
