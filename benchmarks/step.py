"""One training step in memory, without data: the dense layers alone, our whole step, and where its time goes.

Usage: python -m benchmarks.step [--threads 1 2] [--ids criteo uniform] [--batch ROWS] [--batch-norm] [--compile]
       [--precision highest medium] [--steps N] [--json FILE]

The sides take turns, so that other load on the machine meets all of them. Two figures each: the wall time's median, and
the least CPU time, which other processes disturb little. "Dense layers" is the perceptron on a ready matrix with
fused Adam, without and with a gradient into its input, which embeddings need.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.workload import DIM, HIDDEN, IDS
from rechub_ray.batch import Batch, Features
from rechub_ray.config import validate
from rechub_ray.data.synthetic import table_sizes
from rechub_ray.device import autocast
from rechub_ray.learner import Learner
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature
from rechub_ray.world import World

_FIELDS, _NUMBERS, _BATCHES = 26, 13, 8
Step = Callable[[int], None]
Times = dict[str, dict[str, float]]


class Clock:
    """Wall and CPU seconds by name."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = defaultdict(list)
        self.cpu: dict[str, list[float]] = defaultdict(list)

    def timed(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work`, with its time noted under `name`."""

        def run(*args: Any, **kwargs: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            result = work(*args, **kwargs)
            self.cpu[name].append(time.process_time() - cpu)
            self.wall[name].append(time.perf_counter() - wall)
            return result

        return run

    def table(self) -> Times:
        """Milliseconds by name, the first fifth left out."""
        result = {}
        for name, wall in self.wall.items():
            wall, cpu = wall[len(wall) // 5 :], self.cpu[name][len(wall) // 5 :]
            result[name] = {"wall_median": 1e3 * statistics.median(wall), "cpu_least": 1e3 * min(cpu)}
        return result


def schema_of(ids: int) -> Schema:
    """Criteo's columns, with so many ids in all."""
    sizes = enumerate(table_sizes(ids))
    numbers = (DenseFeature(f"I{i}") for i in range(_NUMBERS))
    return Schema((*numbers, *(SparseFeature(f"C{i}", size) for i, size in sizes)), (Label("label"),))


def batches(schema: Schema, rows: int, ids: str) -> list[Batch]:
    """Batches whose ids are frequent at the head of each column, as the other benchmarks' data, or uniform."""
    draw, power = np.random.default_rng(0), {"criteo": 3, "uniform": 1}[ids]
    sizes = np.array([feature.vocab_size for feature in schema.sparse])
    return [
        Batch(
            Features(
                torch.from_numpy((draw.random((rows, _FIELDS)) ** power * sizes).astype(np.int64)),
                torch.from_numpy(draw.normal(size=(rows, _NUMBERS)).astype(np.float32)),
            ),
            torch.from_numpy(draw.integers(0, 2, (rows, 1)).astype(np.float32)),
        )
        for _ in range(_BATCHES)
    ]


def learner_of(schema: Schema, *, batch_norm: bool) -> Learner:
    """Our side, as a run would build it."""
    config = validate(
        {
            "data": {"root": "nowhere"},
            "model": {"name": "deepfm", "embedding_dim": DIM, "hidden_units": list(HIDDEN), "batch_norm": batch_norm},
            "optimizers": [
                {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.02},
                {"name": "adam", "lr": 1e-3},
            ],
        }
    )
    return Learner(config, schema, world=World(), device=torch.device("cpu"), total_steps=1_000_000)


def dense_side(
    rows: int, *, batch_norm: bool, input_gradient: bool, compiled: bool, precision: str = "float32"
) -> Step:
    """The perceptron alone; `precision` is `float32` or `bfloat16` (autocast, as our side)."""
    layers: list[nn.Module] = []
    width = _FIELDS * DIM + _NUMBERS
    for units in HIDDEN:
        layers += [nn.Linear(width, units), *([nn.BatchNorm1d(units)] if batch_norm else []), nn.ReLU()]
        width = units
    model: nn.Module = nn.Sequential(*layers, nn.Linear(width, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    inputs = [torch.randn(rows, _FIELDS * DIM + _NUMBERS, requires_grad=input_gradient) for _ in range(_BATCHES)]
    labels = torch.rand(rows).round()
    forward: Callable[[Tensor], Tensor] = torch.compile(model) if compiled else model

    def step(number: int) -> None:
        x = inputs[number % _BATCHES]
        with autocast(torch.device("cpu"), precision):
            logits = forward(x).squeeze(1)
        torch.autograd.backward(F.binary_cross_entropy_with_logits(logits.float(), labels))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        x.grad = None

    return step


def measure(schema: Schema, options: argparse.Namespace, ids: str, threads: int, precision: str) -> dict[str, Times]:
    """Times of all sides, and of our step's parts."""
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)
    torch.manual_seed(0)
    norm, compiled = options.batch_norm, options.compile
    learner, data = learner_of(schema, batch_norm=norm), batches(schema, options.batch, ids)
    if compiled:
        model: Any = learner.model
        model.mlp.forward = torch.compile(model.mlp.forward)
    clock, parts = Clock(), Clock()
    names = ("dense layers", "dense layers, input gradient", "ours")
    sides: list[Step] = [
        dense_side(options.batch, batch_norm=norm, input_gradient=wanted, compiled=compiled) for wanted in (False, True)
    ]
    sides.append(lambda number: learner.train_step(data[number % _BATCHES], step=number))
    for number in range(options.steps):
        for name, side in zip(names, sides, strict=True):
            side(number)  # fills the caches with this side's data
            clock.timed(name, side)(number)
    with _watched(learner, parts):
        for number in range(options.steps):
            sides[-1](number)
    return {"sides": clock.table(), "parts": parts.table()}


class _watched:
    """Times the parts of a learner's steps meanwhile."""

    def __init__(self, learner: Learner, clock: Clock) -> None:
        model: Any = learner.model
        self._places: list[tuple[str, Any, str]] = [
            ("forward: embeddings", model.embedding, "flat"),
            ("forward: first order", model.linear, "forward"),
            ("forward: pairs", model.interaction, "forward"),
            ("forward: perceptron", model.mlp, "forward"),
            ("backward", torch.autograd, "backward"),
            ("gradients: coalesce", learner.gradients, "average"),
            ("gradients: norm", learner.gradients, "put"),
            ("update: tables", learner.optimizers[0], "step"),
            ("update: dense", learner.optimizers[1], "step"),
            ("all", learner, "train_step"),
        ]
        self._clock, self._old = clock, [getattr(owner, name) for _, owner, name in self._places]

    def __enter__(self) -> None:
        for (label, owner, name), old in zip(self._places, self._old, strict=True):
            setattr(owner, name, self._clock.timed(label, old))

    def __exit__(self, *_: object) -> None:
        for (_label, owner, name), old in zip(self._places, self._old, strict=True):
            setattr(owner, name, old)


def lines(times: dict[str, Times], rows: int) -> Iterator[str]:
    """A table for people."""
    sides = times["sides"]
    ours = sides["ours"]
    yield f"{'':34}{'CPU ms':>9}{'wall ms':>9}{'rows/s':>10}{'ours is':>9}"
    for name, figures in sides.items():
        share = figures["cpu_least"] / ours["cpu_least"]
        yield (
            f"{name:34}{figures['cpu_least']:9.2f}{figures['wall_median']:9.2f}"
            f"{rows / figures['wall_median'] * 1e3:10,.0f}{share:9.2f}"
        )
    for name, figures in times["parts"].items():
        yield f"  {name:32}{figures['cpu_least']:9.2f}{figures['wall_median']:9.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--ids", nargs="+", choices=["criteo", "uniform"], default=["criteo", "uniform"])
    parser.add_argument("--precision", nargs="+", choices=["highest", "high", "medium"], default=["highest"])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rows-of-tables", type=int, default=IDS)
    parser.add_argument("--batch-norm", action="store_true")
    parser.add_argument("--compile", action="store_true", help="torch.compile on the perceptron of every side")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    schema = schema_of(options.rows_of_tables)
    results = []
    for ids in options.ids:
        for threads in options.threads:
            for precision in options.precision:
                times = measure(schema, options, ids, threads, precision)
                print(f"\n{options.batch:,} rows, ids {ids}, {threads} threads, matmul precision {precision}")
                print("\n".join(lines(times, options.batch)), flush=True)
                results.append({"ids": ids, "threads": threads, "precision": precision, **times})
    if options.json:
        options.json.write_text(json.dumps({"batch": options.batch, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
