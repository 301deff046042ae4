"""Ten thousand to ten million ids at equal batch: speed, and the peak memory of the training process."""

from __future__ import annotations

import os
import sys
from typing import Any

from benchmarks.settings import Settings
from benchmarks.workload import BATCH, DIM, ROWS, config, criteo_like, middle, run_training

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
# weights and one number of state a row, for the embeddings and for the linear term
BYTES_PER_ID = 4 * (DIM + 1 + 2)


def run(settings: Settings) -> dict[str, Any]:
    """In-process runs, all sizes in turn, `repeats` times."""
    rows = settings.pick(ROWS, 40 * BATCH)
    speeds: dict[int, list[float]] = {}
    peaks: dict[int, list[float]] = {}
    for number in range(settings.repeats):
        for ids in SIZES:
            data = criteo_like(settings, rows=rows, ids=ids)
            given = config(data, workers=0, threads=2, train__log_every_steps=settings.pick(25, 10))
            done = run_training(settings, "ids", given)
            speeds.setdefault(ids, []).append(done.steady)
            peaks.setdefault(ids, []).append(float(done.process.peak_rss))
            line = f"  {number + 1}. {ids:,} ids: {done.steady:,.0f} rows/s, {done.process.peak_rss / 2**20:,.0f} MiB"
            print(f"{line} (load {os.getloadavg()[0]:.1f})", file=sys.stderr, flush=True)
    return {
        "rows": rows,
        "batch": BATCH,
        "sizes": {str(ids): {"rows_per_second": middle(speeds[ids]), "peak_rss": middle(peaks[ids])} for ids in SIZES},
    }


def table(result: dict[str, Any]) -> str:
    sizes = {int(ids): size for ids, size in result["sizes"].items()}
    base_ids, base = next(iter(sizes.items()))
    lines = [
        "| ids | rows/s, median (range) | peak RSS, MiB | more than with the fewest ids | tables and their state |",
        "|---|---|---|---|---|",
    ]
    for ids, size in sizes.items():
        speed, peak = size["rows_per_second"], size["peak_rss"]["median"]
        more = (peak - base["peak_rss"]["median"]) / 2**20
        tables = (ids - base_ids) * BYTES_PER_ID / 2**20
        lines.append(
            f"| {ids:,} | {speed['median']:,.0f} ({speed['low']:,.0f} - {speed['high']:,.0f}) | {peak / 2**20:,.0f} "
            f"| {more:,.0f} | {tables:,.0f} |"
        )
    medians = [size["rows_per_second"]["median"] for size in sizes.values()]
    head = f"{result['rows']:,} rows, {result['batch']:,} a step, in process with two threads"
    return f"{head}.\n\n" + "\n".join(lines) + f"\n\nFastest to slowest: {max(medians) / min(medians):.2f}x."
