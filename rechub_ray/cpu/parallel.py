"""Loops compiled by Numba that share their work among PyTorch's own threads.

PyTorch's threads keep their cores busy for a while after an operation, waiting for the next one. Threads beside them
would wait for a core in turn; so these loops are handed to PyTorch's OpenMP runtime as if they were one of its own
operations. Where it cannot be reached the calling thread runs them alone.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

_call_alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_forked = False  # OpenMP's threads do not come along into a forked process, which would wait for them for ever


def _after_fork() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_after_fork)


def compiled(function: Callable[..., Any]) -> Any:
    """Return a function that kernels call; compiled with the first kernel that does."""
    # sums may be reordered, or they would not use wide instructions
    return numba.njit(nogil=True, error_model="numpy", fastmath={"reassoc", "contract"})(function)


def kernel(function: Callable[[Any], None]) -> Callable[[], Any]:
    """Return a loop for `run`, compiled when it first runs.

    Its argument is int64 words: two of bookkeeping, then those of `run`.

    Compiled code is kept on disk where a folder can be written, so that only the first run on a machine compiles.
    """

    @functools.cache
    def build() -> Any:
        options: dict[str, Any] = {"nopython": True, "error_model": "numpy"}
        signature = numba.types.void(numba.types.CPointer(numba.types.int64))
        try:
            return numba.cfunc(signature, cache=True, **options)(function)
        except RuntimeError:  # no such folder
            return numba.cfunc(signature, **options)(function)

    return build


def run(kernel: Callable[[], Any], pieces: int, *arguments: Tensor | int) -> None:
    """Run a kernel, on all of PyTorch's threads if there is more than one piece of work.

    Args:
        kernel: made by `kernel`. Each thread calls it once; it takes pieces with `next_piece` until there is none.
        pieces: how many pieces there are.
        arguments: for the kernel: integers, and tensors, of which it gets the address.

    Raises:
        IndexError: the kernel called `fail`.
    """
    words = np.array([0, 0, *(a if isinstance(a, int) else a.data_ptr() for a in arguments)], np.int64)
    loop, threads = kernel(), torch.get_num_threads()
    share = _share_among_threads()
    if pieces > 1 and threads > 1 and share is not None and not _forked:
        share(loop.address, words.ctypes.data, threads, 0)
    else:
        _call_alone(loop.address)(words.ctypes.data)
    if words[1]:
        raise IndexError("a row past the end of its table")


@functools.cache
def _share_among_threads() -> Callable[[int, int, int, int], None] | None:
    """Return GOMP_parallel(function, its argument, threads, flags) of PyTorch's own OpenMP runtime."""
    try:
        function = ctypes.CDLL(torch._C.__file__).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    result: Callable[[int, int, int, int], None] = function
    return result


@intrinsic  # type: ignore[untyped-decorator]
def next_piece(_: Any, words: Any) -> Any:
    """Return the number of a piece that no thread has taken yet, counted from 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return numba.types.int64(words), generate


@numba.njit(error_model="numpy")
def fail(words):  # type: ignore[no-untyped-def]
    """Let `run` raise when all threads are done."""
    words[1] = 1


@intrinsic  # type: ignore[untyped-decorator]
def address(_: Any, word: Any) -> Any:
    """Return a word as the address of an array, for `numba.carray`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return numba.types.voidptr(numba.types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(_: Any, array: Any, row: Any) -> Any:
    """Ask the processor to fetch the start of a row."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        whole = context.make_array(kind)(context, builder, arguments[0])
        place = [arguments[1], *[context.get_constant(numba.types.intp, 0)] * (kind.ndim - 1)]
        pointer = builder.bitcast(
            cgutils.get_item_pointer(context, builder, kind, whole, place), ir.IntType(8).as_pointer()
        )
        number = ir.IntType(32)
        called = ir.FunctionType(ir.VoidType(), [pointer.type, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, called, "llvm.prefetch.p0")
        builder.call(function, [pointer, number(0), number(3), number(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return numba.types.void(array, row), generate
