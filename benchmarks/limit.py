"""The limit: the dense layers of the benchmark's DeepFM alone, without embeddings and without data.

Usage: python -m benchmarks.limit --threads N --batch ROWS --seconds S [--processes P]

Forward, backward (into the layers' inputs as well, as the embeddings need it) and Adam's step, over and over on one
random batch.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from multiprocessing.synchronize import Barrier

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.workload import BATCH_NORM, DIM, HIDDEN

_FIELDS, _NUMBERS = 26, 13


class Dense(nn.Module):
    """Perceptron, pairwise interactions, linear term of the numbers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = _FIELDS * DIM + _NUMBERS
        for units in HIDDEN:
            layers += [nn.Linear(width, units), *([nn.BatchNorm1d(units)] if BATCH_NORM else []), nn.ReLU()]
            width = units
        self.mlp = nn.Sequential(*layers, nn.Linear(width, 1))
        self.linear = nn.Linear(_NUMBERS, 1, bias=False)

    def forward(self, vectors: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        pairs = 0.5 * (vectors.sum(1).square().sum(1) - vectors.square().sum((1, 2)))
        deep = self.mlp(torch.cat([vectors.flatten(1), numbers], 1)) + self.linear(numbers)
        return pairs + deep.squeeze(1)


def speed(threads: int, batch: int, seconds: float, together: Barrier | None = None) -> float:
    """Rows a second of this process, after warming up."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = Dense()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    vectors = (torch.randn(batch, _FIELDS, DIM) * 0.01).requires_grad_()
    numbers, labels = torch.randn(batch, _NUMBERS), torch.rand(batch).round()

    def step() -> None:
        F.binary_cross_entropy_with_logits(model(vectors, numbers), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        vectors.grad = None

    for _ in range(10):
        step()
    if together is not None:
        together.wait()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    given = (options.threads, options.batch, options.seconds)
    if options.processes == 1:
        total = speed(*given)
    else:
        context = multiprocessing.get_context("spawn")
        together = context.Barrier(options.processes)
        results = context.SimpleQueue()
        processes = [
            context.Process(target=_into, args=(results, *given, together)) for _ in range(options.processes)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)
        total = sum(results.get() for _ in processes)
    print(json.dumps({"rows_per_second": total}))


def _into(results: multiprocessing.SimpleQueue[float], *given: object) -> None:
    results.put(speed(*given))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
