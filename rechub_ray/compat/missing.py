"""What Torch-RecHub has and this package does not."""

from __future__ import annotations

from collections.abc import Collection
from typing import Never


def refuse(module: str, name: str, *, known: Collection[str], missing: Collection[str]) -> Never:
    """The error for a name that `module` does not have: one that says so where Torch-RecHub has it.

    Raises:
        ImportError: for a name in `missing`.
        AttributeError: for any other one.
    """
    if name in missing:
        raise ImportError(
            f"rechub_ray does not have Torch-RecHub's {name} yet. {module} has: {', '.join(sorted(known))}.",
            name=module,
        )
    raise AttributeError(f"module '{module}' has no attribute '{name}'")
