"""A small workbench: raw files in, a recipe around them, shards read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rechub_ray.preparation import PrepareResult, prepare


class Lab:
    """Raw files lie in `raw`, results go to `out`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.raw, self.out = folder, folder / "raw", folder / "out"
        self.raw.mkdir()

    def write(self, **files: str) -> Path:
        """Raw files; `__` in a name stands for the dot."""
        for name, text in files.items():
            (self.raw / name.replace("__", ".")).write_text(text, encoding="utf-8")
        return self.raw

    def recipe(self, **changes: Any) -> dict[str, Any]:
        """A recipe for train.csv and test.csv; `changes` replace its keys."""
        base: dict[str, Any] = {
            "source": str(self.raw),
            "out": str(self.out),
            "files": {"train": "train.csv", "test": "test.csv"},
            "split": {"by": "file"},
            "labels": [{"name": "liked", "expression": "rating >= 4"}],
            "features": [
                {"kind": "categorical", "columns": ["user", "item"]},
                {"kind": "numeric", "name": "price", "transforms": ["standardise"]},
                {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 2},
            ],
        }
        return {**base, **changes}

    def single(self, **changes: Any) -> dict[str, Any]:
        """The same for train.csv alone, all of it for training, with label `y`."""
        return self.recipe(**{"files": "train.csv", "split": None, "labels": [{"name": "y"}], **changes})

    def prepare(self, **changes: Any) -> PrepareResult:
        return prepare(self.recipe(**changes))

    def split(self, out: str | Path | None = None, name: str = "train") -> dict[str, list[Any]]:
        """A split's columns."""
        columns: dict[str, list[Any]] = pq.read_table(Path(out or self.out) / name).to_pydict()
        return columns


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)
