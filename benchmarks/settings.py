"""What every benchmark is given."""

from __future__ import annotations

import dataclasses
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to measure.

    Args:
        work: folder for generated data and runs; data that is there already is used again.
        quick: everything on a small scale, only to see that it works: the figures mean nothing.
        repeats: how often each side is run, one side after the other, again and again; the median counts.
    """

    work: Path
    quick: bool = False
    repeats: int = 3

    def pick(self, full: int, quick: int) -> int:
        """A size."""
        return quick if self.quick else full
