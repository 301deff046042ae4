"""The limit: the dense layers alone, without embeddings and without data, on the same cores.

Usage: python -m benchmarks.limit --threads N --batch ROWS --seconds S [--processes P]

Forward, backward and fused Adam over and over on random matrices, as in `benchmarks.step`: without and with the
gradient into the layers' input, which embeddings need, and with it in bfloat16. Several processes start together and
exchange nothing.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from benchmarks.step import dense_side
from benchmarks.workload import BATCH_NORM
from rechub_ray.cpu.allocator import keep_freed_memory

# name: with the gradient into the input?, precision
SIDES = {
    "dense layers": (False, "float32"),
    "dense layers, input gradient": (True, "float32"),
    "dense layers in bfloat16, input gradient": (True, "bfloat16"),
}


def speeds(threads: int, batch: int, seconds: float, together: Barrier | None = None) -> dict[str, float]:
    """Rows a second of this process by side, after warming up."""
    keep_freed_memory()  # as our side does: without it, the limit would be too low
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    result = {}
    for name, (input_gradient, precision) in SIDES.items():
        step = dense_side(
            batch, batch_norm=BATCH_NORM, input_gradient=input_gradient, compiled=False, precision=precision
        )
        for number in range(10):
            step(number)
        if together is not None:
            together.wait()
        started, steps = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            step(steps)
            steps += 1
        result[name] = steps * batch / (time.perf_counter() - started)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limit", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="rows a step of each process")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(options.processes), context.SimpleQueue()
    given = (results, options.threads, options.batch, options.seconds, together)
    processes = [context.Process(target=_into, args=given) for _ in range(options.processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
    each = [results.get() for _ in processes]
    print(json.dumps({name: sum(one[name] for one in each) for name in SIDES}))


def _into(results: Any, *given: Any) -> None:
    results.put(speeds(*given))


if __name__ == "__main__":
    main()
