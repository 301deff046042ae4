"""Users against all items: ranks as evaluation counts them, and the first items as `recommend` finds them, beside the
bare products that both need.

`python -m benchmarks.corpus --users 100000 --items 1000000 --dim 64 --threads 2`
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.evaluation.corpus import Corpus, Ranking
from rechub_ray.export.search import Search
from rechub_ray.schema import Schema, SparseFeature

BATCH = 4096
SHAPES = ((256, 2048), (512, 8192), (2048, 8192))
"""Users and items of the blocks of the bare products, of which the fastest is taken."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--top", type=int, default=100, help="first items of a user that are searched")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of all sides in turn; the medians count")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    random = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, options.dim, generator=random) for n in (options.users, options.items))
    targets = torch.randint(1, options.items + 1, (options.users,), generator=random)
    ids = torch.arange(1, options.items + 1)
    schema = Schema((SparseFeature("item", options.items + 1),), ())
    catalogue = Catalogue(schema, Features(ids[:, None], torch.zeros(len(ids), 0)), torch.ones_like(ids))
    corpus, search = Corpus(items, catalogue), Search(items.numpy())
    parts = [slice(start, start + BATCH) for start in range(0, options.users, BATCH)]
    bare, few = "bare products", users[:BATCH]
    with torch.no_grad():
        shape = min(SHAPES, key=lambda shape: min(seconds_of(lambda: products(few, items, shape)) for _ in range(2)))
    sides: dict[str, Callable[[], object]] = {bare: lambda: products(users, items, shape)}
    sides["ranks among all items"] = lambda: [
        corpus.compare(users[part], targets[part], None, {"": Ranking()}) for part in parts
    ]
    sides[f"the first {options.top} items"] = lambda: [search(users[part].numpy(), options.top) for part in parts]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with torch.no_grad():
        for number in range(options.rounds):
            print(f"  round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for name, side in sides.items():
                seconds[name].append(seconds_of(side))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{options.users:,} users, {options.items:,} items, {options.dim} numbers, {options.threads} thread(s)")
    for name, median in medians.items():
        spread = f"({min(seconds[name]):.2f} - {max(seconds[name]):.2f})"
        blocks = f", in blocks of {shape[0]:,} x {shape[1]:,}" if name == bare else ""
        print(f"{name:24} {median:9.2f} s {spread:20} {median / medians[bare]:5.2f} of the bare products{blocks}")


def seconds_of(side: Callable[[], object]) -> float:
    """How long one call takes."""
    began = time.perf_counter()
    side()
    return time.perf_counter() - began


def products(users: Tensor, items: Tensor, shape: tuple[int, int]) -> None:
    """All products of users and items, in blocks of a shape, into one place."""
    rows, columns = shape
    place = users.new_empty(shape)
    for first in range(0, len(users), rows):
        part = users[first : first + rows]
        for start in range(0, len(items), columns):
            block = items[start : start + columns]
            torch.mm(part, block.T, out=place.view(-1)[: len(part) * len(block)].view(len(part), len(block)))


if __name__ == "__main__":
    main()
