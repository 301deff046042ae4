"""Models of raw values beside models of encoded ones in onnxruntime: rows a second, size, time to load."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import rechub_ray
from benchmarks.process import run_process
from benchmarks.settings import Settings
from benchmarks.workload import BATCH, DIM, HIDDEN, middle
from rechub_ray.export import export_onnx

BATCHES = (1, 64, 4096)
SMALL = 9  # columns of a thousand texts beside the large one
KINDS = ("vocabulary", "hashing")


def run(settings: Settings) -> dict[str, Any]:
    """Both files of one model, whose texts have vocabularies or are hashed, each in a process of its own, in turn."""
    keys = settings.pick(1_000_000, 5_000)
    found: dict[str, Any] = {}
    for kind in KINDS:
        folder = files(settings, kind, keys)
        sides: dict[str, list[dict[str, Any]]] = {"encoded": [], "raw": []}
        for _ in range(settings.repeats):
            for side, values in sides.items():
                log = settings.work / "serving.txt"
                command = [sys.executable, "-m", "benchmarks.serving_side", str(folder / f"{side}.onnx")]
                command += [str(folder / f"{side}.parquet"), str(settings.pick(2, 1)), *map(str, BATCHES)]
                done = run_process(command, log=log)
                values.append({**json.loads(log.read_text().splitlines()[-1]), "peak_rss": done.peak_rss})
                log.unlink()
                print(f"  {kind}, {side}: {values[-1]}", file=sys.stderr, flush=True)
        found[kind] = {
            side: {key: middle([value[key] for value in values]) for key in values[0]} for side, values in sides.items()
        }
        for side in sides:
            found[kind][side]["bytes"] = sum(path.stat().st_size for path in folder.glob(f"{side}.onnx*"))
            found[kind][side]["bytes"] -= (folder / f"{side}.onnx.parity.json").stat().st_size
    return {"keys": keys, "kinds": found}


def files(settings: Settings, kind: str, keys: int) -> Path:
    """Return the folder of the two files and of rows for each; the model has taken two steps."""
    folder = settings.work / f"serving-{kind}-{keys}"
    if (folder / "raw.onnx").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(keys, keys + 2 * BATCH)
    small = [f"c{number}" for number in range(SMALL)]
    large, few = ({"hash_buckets": number} if kind == "hashing" else {} for number in (keys, 5_000))
    features = [
        {"kind": "categorical", "name": "user", **large},
        {"kind": "categorical", "columns": small, **few},
        {"kind": "numeric", "columns": ["n0", "n1", "n2", "n3"], "transforms": ["log1p", "standardise"]},
        {"kind": "bucket", "name": "age", "num_buckets": 20},
        {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 20},
    ]
    out = str(folder / "data")
    data = rechub_ray.prepare(files=rows, out=out, features=features, labels=[{"name": "y"}], overwrite=True)
    rechub_ray.train(
        data={"root": data.out, "valid": None, "test": None, "batch_size": BATCH},
        model={"name": "deepfm", "embedding_dim": DIM, "hidden_units": list(HIDDEN)},
        train={"steps": 2, "initial_evaluation": False},
        export={"onnx": False},
        model_dir=str(folder / "run"),
        resume="never",
    )
    some = rows.slice(0, 4 * BATCH)
    pq.write_table(some, folder / "raw.parquet")
    pq.write_table(data.encoder.encode(some), folder / "encoded.parquet")
    for inputs in ("encoded", "raw"):
        export_onnx(folder / "run", folder / f"{inputs}.onnx", inputs=inputs)
    return folder


def _rows(keys: int, count: int) -> pa.Table:
    """Return rows in which every user stands at least once."""
    rng = np.random.default_rng(0)
    users = rng.permutation(np.concatenate([np.arange(keys), rng.integers(0, keys, count - keys)]))
    columns: dict[str, Any] = {"user": pa.array([f"{user * 2654435761 % 2**40:010x}" for user in users.tolist()])}
    for number in range(SMALL):
        columns[f"c{number}"] = pa.array([f"value {value}" for value in range(1000)]).take(
            pa.array(rng.integers(0, 1000, count))
        )
    for number in range(4):
        columns[f"n{number}"] = rng.gamma(2.0, 20.0, count)
    columns["age"] = rng.integers(16, 90, count)
    tags = pa.array([f"tag {value}" for value in range(1000)]).take(pa.array(rng.integers(0, 1000, 10 * count)))
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * 10)
    columns["tags"] = pa.compute.binary_join(pa.ListArray.from_arrays(offsets, tags), "|")
    columns["y"] = rng.integers(0, 2, count)
    return pa.table(columns)


def table(result: dict[str, Any]) -> str:
    lines = [f"Ten columns of texts, one of them with {result['keys']:,}; lists of ten texts; five numbers."]
    lines += ["", "| one thread, CPU time | file, MiB | to load, s | peak, MiB |"]
    lines[-1] += "".join(f" rows/s at {batch:,} |" for batch in BATCHES)
    lines.append("|---" * (4 + len(BATCHES)) + "|")
    for kind, sides in result["kinds"].items():
        for side, values in sides.items():
            cells = [f"{values['bytes'] / 2**20:,.0f}", f"{values['load']['median']:.2f}"]
            cells += [f"{values['peak_rss']['median'] / 2**20:,.0f}"]
            cells += [f"{values[str(batch)]['median']:,.0f}" for batch in BATCHES]
            lines.append(f"| {kind}, {side} | {' | '.join(cells)} |")
        ratios = [
            statistics.median(
                raw / encoded
                for raw, encoded in zip(
                    sides["raw"][str(batch)]["values"], sides["encoded"][str(batch)]["values"], strict=True
                )
            )
            for batch in BATCHES
        ]
        lines.append(f"| {kind}, raw over encoded | | | | {' | '.join(f'{ratio:.2f}' for ratio in ratios)} |")
    return "\n".join(lines)
