from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from rechub_ray.tracking import RunInfo


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., RunInfo]:
    """A run in a temporary folder."""

    def make(**fields: object) -> RunInfo:
        return RunInfo(**{"name": "demo", "directory": tmp_path / "run", **fields})  # type: ignore[arg-type]

    return make
