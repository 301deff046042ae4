"""What a run's report is drawn from beside its logs: counts of predictions, tables that moved, the environment."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rechub_ray.errors import RechubError
from rechub_ray.files import join, read_text, strict_json, write_text
from rechub_ray.world import World

FILE = "report.json"
_PACKAGES = ("rechub_ray", "torch", "ray", "numpy", "pyarrow", "onnxruntime")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """Plain data; `report.json` in a run's folder.

    Args:
        split: whose predictions were counted.
        predictions: `Profile.summary`, with the step of the model; None where none were.
        groups: by metric, the best and worst groups.
        movement: `Movement.since`; None where the weights before training are not known.
        environment: see `environment`.
    """

    split: str | None = None
    predictions: dict[str, Any] | None = None
    groups: dict[str, Any] = dataclasses.field(default_factory=dict)
    movement: dict[str, Any] | None = None
    environment: dict[str, str] = dataclasses.field(default_factory=dict)

    def keep(self, directory: str, say: Callable[[str], None]) -> None:
        """Write the file; say one line where that fails. A finished run that starts again leaves the earlier one."""
        try:
            if self.predictions is None and (earlier := self.read(directory)) is not None and earlier.predictions:
                return
            write_text(join(directory, FILE), strict_json(dataclasses.asdict(self), indent=None))
        except (RechubError, OSError) as error:
            say(f"the report will lack predictions: {error}")

    @classmethod
    def read(cls, directory: str) -> Evidence | None:
        """Return what a run's folder holds; None where there is none, or it cannot be read."""
        try:
            found = json.loads(read_text(join(directory, FILE)))
            return cls(**{field.name: found[field.name] for field in dataclasses.fields(cls)})
        except (OSError, ValueError, TypeError, KeyError):
            return None


def environment(device: torch.device, world: World) -> dict[str, str]:
    """Return what a run runs on, as text by name: versions, processors, threads."""
    found = {"device": "CPU"}
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
    found["processes that train"] = str(world.size)
    found["torch threads a process"] = str(torch.get_num_threads())
    found["CPU"] = f"{_cpu()}, {len(os.sched_getaffinity(0))} cores usable"
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found["memory"] = f"{memory / 2**30:.1f} GiB"
    found["system"] = platform.platform()
    found["Python"] = platform.python_version()
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
