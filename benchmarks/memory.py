"""Peak memory with one million and with ten million rows: it must not depend on the rows."""

from __future__ import annotations

import shutil
import sys
from typing import Any

from benchmarks.settings import Settings
from benchmarks.workload import BATCH, ROWS, config, criteo_like, run_training

MODES = {"in process": (0, 2), "Ray, 2 workers": (2, 1)}


def run(settings: Settings) -> dict[str, Any]:
    """One pass and one evaluation over each data set, in process and on Ray."""
    sizes = [settings.pick(ROWS, 20 * BATCH), settings.pick(10 * ROWS, 60 * BATCH)]
    peaks: dict[str, dict[str, Any]] = {}
    for rows in sizes:
        data = criteo_like(settings, rows=rows)
        for mode, (workers, threads) in MODES.items():
            given = config(data, workers=workers, threads=threads, data__valid="valid")
            done = run_training(settings, "memory", given, memory=workers > 0)
            peaks.setdefault(mode, {})[str(rows)] = {"driver RSS": done.process.peak_rss, **done.process.peaks}
            print(f"  {rows:,} rows, {mode}: {done.process.peak_rss / 2**20:,.0f} MiB", file=sys.stderr, flush=True)
        if rows == sizes[-1]:
            shutil.rmtree(data)
    return {"sizes": sizes, "peaks": peaks}


def table(result: dict[str, Any]) -> str:
    few, many = result["sizes"]
    lines = [f"| peak, MiB | {few:,} rows | {many:,} rows | ratio |", "|---|---|---|---|"]
    for mode, peaks in result["peaks"].items():
        groups = ["driver RSS"] if len(peaks[str(few)]) == 1 else _GROUPS
        for group in groups:
            low, high = peaks[str(few)].get(group, 0), peaks[str(many)].get(group, 0)
            ratio = f"{high / low:.2f}" if low else ""
            name = "the process, RSS" if group == "driver RSS" else group
            lines.append(f"| {mode}: {name} | {low / 2**20:,.0f} | {high / 2**20:,.0f} | {ratio} |")
    return "\n".join(lines)


_GROUPS = ["training workers", "driver", "other ray processes", "services", "object store", "all"]
