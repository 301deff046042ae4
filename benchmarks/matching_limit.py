"""The limit of `matching_speed`: its towers' layers and the products of its loss alone, in plain PyTorch.

Usage: python -m benchmarks.matching_limit --threads N --items K

Forward, backward and fused Adam over and over, the gradients into the towers' inputs (which the tables need) included,
on a matrix for the users and one for the K distinct items of a step: without tables, histories, data, logQ and checks.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch import nn

from benchmarks.matching_speed import BATCH, DIM, TEMPERATURE, UNITS
from rechub_ray.cpu.allocator import keep_freed_memory

SECONDS = 5.0


def tower(width: int) -> nn.Sequential:
    """The perceptron of a side: layers with batch norm and ReLU, and a linear one."""
    layers: list[nn.Module] = []
    for units in UNITS:
        layers += [nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, UNITS[-1] // 2))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--items", type=int, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    sides = tower(2 * DIM), tower(2 * DIM)
    users = torch.randn(BATCH, 2 * DIM, requires_grad=True)
    items = torch.randn(options.items, 2 * DIM, requires_grad=True)
    chosen = torch.randint(0, options.items, (BATCH,))
    optimizer = torch.optim.Adam([p for side in sides for p in side.parameters()], lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        users.grad = items.grad = None
        one, other = (nn.functional.normalize(side(x)) for side, x in zip(sides, (users, items), strict=True))
        nn.functional.cross_entropy(one @ other.T / TEMPERATURE, chosen).backward()
        optimizer.step()

    for _ in range(10):
        step()
    started, steps = time.perf_counter(), 0
    while time.perf_counter() - started < SECONDS:
        step()
        steps += 1
    print(json.dumps({"rows_per_second": steps * BATCH / (time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
