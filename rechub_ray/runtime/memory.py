"""The memory that a run needs, added up before it takes any: tables, optimizer states and gradients."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path

import torch
from torch import nn

from rechub_ray.config import RunConfig
from rechub_ray.errors import ResourceError
from rechub_ray.layers.embedding import tables_of
from rechub_ray.optimizers import BuiltOptimizer, state_shapes


@dataclasses.dataclass(frozen=True)
class Need:
    """The memory of one parameter in each worker.

    Args:
        name: the parameter's.
        weights: bytes of its values.
        optimizer: bytes of the optimizer's state of it.
        gradient: bytes of its gradient.
        largest: for a table, the features with most rows, as text.
        average: bytes of the average of its values, and of another copy while that is evaluated or saved.
    """

    name: str
    weights: int
    optimizer: int
    gradient: int
    largest: str = ""
    average: int = 0

    @property
    def total(self) -> int:
        """All parts, in bytes."""
        return self.weights + self.optimizer + self.gradient + self.average

    def __str__(self) -> str:
        parts = f"weights {human(self.weights)}, optimizer {human(self.optimizer)}, gradient {human(self.gradient)}"
        parts += f", average {human(self.average)}" if self.average else ""
        return f"{self.name} {human(self.total)} ({parts}{f'; {self.largest}' if self.largest else ''})"


def needs(config: RunConfig, model: nn.Module, built: list[BuiltOptimizer]) -> list[Need]:
    """Return the memory of each parameter in one worker, largest first.

    A dense gradient is as large as its parameter, and is joined with the others into one message where there are other
    workers; a row gradient has at most one row for each lookup of the step.

    Args:
        config: the run.
        model: on any device, also `meta`.
        built: the model's optimizers.
    """
    parameters, tables = dict(model.named_parameters()), tables_of(model)
    rows_per_worker = config.data.batch_size * config.train.accumulate_steps
    result = []
    for item, node in zip(built, [*config.optimizers, {"name": "adam"}], strict=False):
        for name in item.parameters:
            if name not in parameters:  # of a loss or of the balancing: small
                continue
            p = parameters[name]
            size = p.element_size()
            states = sum(math.prod(shape) * size for shape in state_shapes(node, p).values())
            gradient, largest = p.numel() * size * (2 if config.processes > 1 else 1), ""
            if name in tables:
                bank, key = tables[name]
                own = [f for f in bank.features if (table := bank.table_of(f)) and table.weight == key]
                sizes = {f.shared_with or f.name: f.vocab_size for f in own}
                if bank.row_gradients[key]:
                    lookups = min(rows_per_worker * len(own), p.shape[0])
                    gradient = lookups * (p.shape[1] * size + 8) * 2
                top = sorted(sizes.items(), key=lambda pair: -pair[1])[:3]
                largest = "rows of " + ", ".join(f"{feature}: {rows:,}" for feature, rows in top)
            average = 2 * p.numel() * size if config.train.ema_decay is not None else 0
            result.append(Need(name, p.numel() * size, states, gradient, largest, average))
    trained = {need.name for need in result}
    frozen = {name: p for name, p in parameters.items() if name not in trained}
    result += [Need(name, p.numel() * p.element_size(), 0, 0) for name, p in frozen.items()]
    return sorted(result, key=lambda need: -need.total)


def check_fits(parts: list[Need], have: float, *, workers: int = 1, evaluators: int = 0, where: str) -> None:
    """Check that the workers' parameters, optimizer states and gradients fit into memory.

    Args:
        parts: as `needs` returns them.
        have: the memory, in bytes.
        workers: number of workers that share it.
        evaluators: number of processes beside them with the weights alone (`train.eval_method: separate`).
        where: whose memory it is, for the message.

    Raises:
        ResourceError: they do not fit; shows the parts, largest first.
    """
    one = sum(part.total for part in parts)
    beside = evaluators * sum(part.weights for part in parts)
    if one * workers + beside <= have:
        return
    shown = "; ".join(map(str, parts[:3])) + (f"; {len(parts) - 3} smaller ones" if len(parts) > 3 else "")
    adam = any(part.gradient >= part.weights and "rows of" in part.largest for part in parts[:1])
    several = f" = {workers} workers x {human(one)}" if workers > 1 else ""
    if beside:
        several = f"{several or f' = {human(one)}'} + {human(beside)} where it is evaluated (train.eval_method)"
    raise ResourceError(
        f"the model with its optimizer and gradients does not fit into {where}",
        expected=f"at most {human(have)}",
        got=f"{human(one * workers + beside)}{several}: {shown}",
        hint="Lower the vocab_size of the largest features (`min_count` or buckets in the recipe) or the model's widths"
        + (", give tables to rowwise_adagrad (one number a row, and no dense gradients)" if adam else "")
        + (", or put fewer workers on a host." if workers > 1 else "."),
    )


def host_memory() -> int:
    """Return the memory that this process may take, in bytes: the host's, or less where a control group limits it."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or "max"
            continue
    return min(limits)


def gpu_memory() -> int | None:
    """Return the memory of the smallest GPU that this process sees, in bytes; None where it sees none."""
    sizes = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
    return min(sizes, default=None)


def human(size: float) -> str:
    """Return a number of bytes for people.

    Example:
        >>> human(1536), human(120 * 2**30)
        ('1.5 KiB', '120 GiB')
    """
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:,.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
        size /= 1024
    raise AssertionError


def missing_bfloat16_flags(cpuinfo: str) -> str | None:
    """Return which flags this CPU lacks to compute in bfloat16; None where it has one, or does not list its flags.

    Args:
        cpuinfo: the text of /proc/cpuinfo.
    """
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    found = {key.strip(): value.split() for key, _, value in pairs}
    if "flags" in found:
        return None if {"avx512_bf16", "amx_bf16"} & set(found["flags"]) else "avx512_bf16 or amx_bf16"
    if "Features" in found:  # ARM
        return None if "bf16" in found["Features"] else "bf16"
    return None
