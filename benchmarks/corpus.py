"""Users against all items: ranks as evaluation counts them, and the first items as `recommend` finds them, beside the
bare products that both need.

`python -m benchmarks.corpus --users 100000 --items 1000000 --dim 64 --threads 2`
"""

from __future__ import annotations

import argparse
import statistics
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
"""Users and items of the blocks of the bare products; the fastest shape counts."""


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
    sides: dict[str, Callable[[], object]] = {
        f"bare products, {rows:,} x {columns:,}": lambda shape=(rows, columns): products(users, items, shape)  # type: ignore[misc]
        for rows, columns in SHAPES
    }
    sides["ranks among all items"] = lambda: [
        corpus.compare(users[part], targets[part], None, {"": Ranking()}) for part in parts
    ]
    sides[f"the first {options.top} items"] = lambda: [search(users[part].numpy(), options.top) for part in parts]
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    with torch.no_grad():
        for _ in range(options.rounds):
            for name, side in sides.items():
                began = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    bare = min(list(medians.values())[: len(SHAPES)])
    print(f"{options.users:,} users, {options.items:,} items, {options.dim} numbers, {options.threads} thread(s)")
    for name, median in medians.items():
        spread = f"({min(seconds[name]):.2f} - {max(seconds[name]):.2f})"
        print(f"{name:34} {median:9.2f} s {spread:20} {median / bare:5.2f} of the fastest bare products")


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
