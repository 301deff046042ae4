"""Speed on CPUs and nothing else: without any entry of this room every number is the same up to rounding.

This is the only room with ctypes, loops compiled by Numba, and names of PyTorch that are not public. An entry stays
as long as it gives 5% of a training step, measured with and without it in one run: `python -m benchmarks cpu`. Where
a name is gone after an update, Numba is not installed, or the machine is of another kind, an entry does nothing. One
switch turns entries off, for that benchmark and to rule them out when something goes wrong:
RECHUB_RAY_CPU_OFF=coordinates,exchange or =all.
"""

from __future__ import annotations

import functools
import importlib.util
import os

import torch
from torch import Tensor

from rechub_ray.errors import ConfigError

SWITCH = "RECHUB_RAY_CPU_OFF"
# entry -> what is done without it
ENTRIES: dict[str, str] = {
    "freed_memory": "the C library gives memory back to the system at its own thresholds",
    "adagrad_kernel": "RowwiseAdagrad's step in six operations of PyTorch",
    "products": "torch.nn.functional.linear, on MKL; of AMD processors alone",
    "exchange": "collectives between processes of one host go through torch.distributed",
    "coordinates": "PyTorch's own coalescing of row gradients, before ours",
}
# name that is not public -> its entry
PRIVATE_NAMES: dict[str, str] = {
    "torch._C:__file__": "adagrad_kernel",
    "torch:ops.mkldnn._linear_pointwise": "products",
    "torch:Tensor._indices": "coordinates",
    "torch:Tensor._values": "coordinates",
}


def switched_off() -> set[str]:
    """Return the names in the environment variable.

    Raises:
        ConfigError: it names an entry that does not exist.
    """
    off = {name.strip() for name in os.environ.get(SWITCH, "").split(",")} - {""}
    unknown = sorted(off - {"all", *ENTRIES})
    if unknown:
        raise ConfigError(f"{SWITCH}: unknown entry '{unknown[0]}'", expected=f"all, or of {', '.join(ENTRIES)}")
    return off


@functools.cache
def is_on(entry: str) -> bool:
    """Return whether an entry of `ENTRIES` is in use.

    Raises:
        ConfigError: the environment variable names an entry that does not exist.
    """
    off = switched_off()
    if entry == "adagrad_kernel" and importlib.util.find_spec("numba") is None:
        return False
    return entry not in off and "all" not in off


def takes(entry: str, *tensors: Tensor) -> bool:
    """Return whether the kernel of `entry` is in use and takes these values: contiguous float32 on the CPU."""
    if torch.compiler.is_compiling() or not is_on(entry):
        return False
    return all(t.device.type == "cpu" and t.dtype == torch.float32 and t.is_contiguous() for t in tensors)


def coordinates(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows (N,) and values (N, D) of a table's row gradient, in which a row may stand more than once."""
    if gradient.is_coalesced() or not is_on("coordinates") or not hasattr(gradient, "_indices"):
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    return gradient._indices()[0], gradient._values()  # the public names want it coalesced, which sorts it once more
