"""Runs of a table, each kept when it is done, so that a command that was interrupted goes on."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any


def finished(
    kept: Path,
    same: Mapping[str, Any],
    cells: Mapping[str, Callable[[], dict[str, float]]],
    *,
    at_once: int,
    own: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, float]]:
    """The numbers of all cells; those that the file has, of the same settings, are not computed again.

    Args:
        kept: the file. same: what all cells depend on. cells: by name, what computes it. at_once: cells at a time.
        own: by name, what a cell alone depends on.
    """
    same, own = json.loads(json.dumps([same, own or {}]))  # as they are read again
    before = json.loads(kept.read_text()) if kept.exists() else {}
    known = before.get("own", {})
    done: dict[str, dict[str, float]] = {
        name: numbers
        for name, numbers in before.get("cells", {}).items()
        if before.get("settings") == same and known.get(name) == own.get(name)
    }
    lock = threading.Lock()

    def run_and_keep(name: str) -> None:
        found = cells[name]()
        with lock:
            done[name] = found
            draft = kept.with_suffix(".new")
            depends = {name: own[name] for name in done if name in own}
            draft.write_text(json.dumps({"settings": same, "own": depends, "cells": done}, indent=1) + "\n")
            draft.replace(kept)
        numbers = ", ".join(f"{key} {value:.6g}" for key, value in found.items() if value is not None)
        print(f"  {name}: {numbers}", file=sys.stderr, flush=True)

    waiting: Sequence[str] = [name for name in cells if name not in done]
    print(f"  {len(cells) - len(waiting)} of {len(cells)} runs are there", file=sys.stderr, flush=True)
    with ThreadPoolExecutor(at_once) as pool:
        futures = [pool.submit(run_and_keep, name) for name in waiting]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: done[name] for name in cells}


def mean_and_spread(values: Sequence[float]) -> str:
    """The mean, and the largest less the smallest of several."""
    spread = f" ({max(values) - min(values):.4f})" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.4f}{spread}" if values else ""
