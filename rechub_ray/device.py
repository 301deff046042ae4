"""Device and precision of a forward pass, and the cores of a computation in blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """Return the context for a forward pass in `precision` (`float32` or `bfloat16`)."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def pick_device(name: str) -> torch.device:
    """Return the device that `auto` means here, or the named one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def on_a_core_each(of_part: Callable[[_Part], _Result], parts: Iterable[_Part], device: torch.device) -> list[_Result]:
    """Return a function's results for parts, in their order; on CPUs each part is computed by one core.

    Parts that fit a core's cache are slower on two cores than on one; two parts at a time take half of the time.

    Args:
        of_part: changes no state that another part reads; runs without gradients.
        parts: the same whatever the number of cores.
        device: of the computation; one that is no CPU computes one part after the other.
    """
    parts, threads = list(parts), torch.get_num_threads()
    if device.type != "cpu" or min(threads, len(parts)) < 2:
        with torch.no_grad():
            return [of_part(part) for part in parts]

    def alone(part: _Part) -> _Result:
        with torch.no_grad():  # which the thread has of its own
            return of_part(part)

    try:
        with ThreadPoolExecutor(min(threads, len(parts)), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(alone, parts))
    finally:
        torch.set_num_threads(threads)  # some libraries have one number for all threads
