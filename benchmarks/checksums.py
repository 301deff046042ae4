"""The same rows without checksums, with parquet's page checksums, and sealed: reading and writing."""

from __future__ import annotations

import shutil
import statistics
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.settings import Settings
from benchmarks.workload import BATCH, ROWS, criteo_like, middle
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.plan import EvalPlan
from rechub_ray.data.reader import read_piece
from rechub_ray.data.shard import SealedWriter
from rechub_ray.schema import Schema

SIDES = {"none": "no checksums", "pages": "parquet's page checksums", "sealed": "sealed"}
ROUNDS = 10  # of reading and writing, for each repeat: they take a second
GROUP_ROWS = 16_384


def run(settings: Settings) -> dict[str, Any]:
    """All sides in turn, in this process with one thread."""
    rows = settings.pick(ROWS, 40 * BATCH)
    places = {side: write(settings, side, rows) for side in SIDES}
    schema = Schema.load(places["none"] / "schema.json")
    pieces = {side: EvalPlan(Manifest.scan(place / "train", schema)).pieces(0, 1) for side, place in places.items()}
    table = pq.read_table(places["none"] / "train").slice(0, 16 * GROUP_ROWS).combine_chunks()
    spent: dict[str, dict[str, list[float]]] = {side: {"read": [], "cpu": [], "write": []} for side in SIDES}
    for number in range(settings.repeats * settings.pick(ROUNDS, 1)):
        for side in in_turn(number):
            cpu, wall = time.process_time(), time.perf_counter()
            count = sum(read_piece(piece, schema).rows for piece in pieces[side])
            spent[side]["read"].append(count / (time.perf_counter() - wall))
            spent[side]["cpu"].append((time.process_time() - cpu) / count * 1e9)
            cpu = time.process_time()
            write_file(side, table, settings.work / "written.parquet")
            spent[side]["write"].append((time.process_time() - cpu) / table.num_rows * 1e9)
    return {"rows": rows, "sides": {side: {k: middle(v) for k, v in some.items()} for side, some in spent.items()}}


def in_turn(number: int) -> list[str]:
    """The sides, another one first each time."""
    sides = list(SIDES)
    return sides[number % 3 :] + sides[: number % 3]


def write(settings: Settings, side: str, rows: int) -> Path:
    """The data set as one side has it."""
    source = criteo_like(settings, rows=rows)
    folder = settings.work / f"checksums-{side}"
    for split in ("train", "valid"):
        shutil.rmtree(folder / split, ignore_errors=True)
        (folder / split).mkdir(parents=True)
        for file in sorted((source / split).glob("*.parquet")):
            write_file(side, pq.read_table(file), folder / split / file.name)
    shutil.copy(source / "schema.json", folder)
    return folder


def write_file(side: str, table: Any, path: Path) -> None:
    if side == "sealed":
        with SealedWriter(path, table.schema) as writer:
            writer.write_table(table, GROUP_ROWS)
    else:
        pq.write_table(table, path, row_group_size=GROUP_ROWS, write_page_checksum=side == "pages")


def table(result: dict[str, Any]) -> str:
    sides = result["sides"]
    lines = [
        "| | read, rows/s, median (range) | CPU ns a row to read | more than without | CPU ns a row to write | more |",
        "|---|---|---|---|---|---|",
    ]
    for side, name in SIDES.items():
        read = sides[side]["read"]
        costs = []
        for what in ("cpu", "write"):
            pairs = zip(sides[side][what]["values"], sides["none"][what]["values"], strict=True)
            costs.append(f"{sides[side][what]['median']:,.0f} | {statistics.median(a - b for a, b in pairs):+,.0f}")
        lines.append(
            f"| {name} | {read['median']:,.0f} ({read['low']:,.0f} - {read['high']:,.0f}) | {' | '.join(costs)} |"
        )
    head = f"{result['rows']:,} rows of 40 columns; reading decodes, checks and stacks every row, in one thread"
    return f"{head}. Differences are medians of each round's own.\n\n" + "\n".join(lines)
