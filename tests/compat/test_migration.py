"""docs/migration.md names what is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "migration.md"


def test_every_name_in_the_table_is_there() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## What is there")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", section, flags=re.MULTILINE)
    assert len(rows) == 15
    for module, cells in rows:
        names = re.findall(r"`(\w+)", cells)
        assert names
        for name in names:
            assert hasattr(importlib.import_module(f"rechub_ray.compat.{module}"), name), (module, name)


def test_every_import_of_the_first_table_works() -> None:
    lines = re.findall(r"`(from rechub_ray\.compat\.[^`]*)` \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(lines) == 11
    for line in lines:
        exec(line.replace(", ...", ""), {})
