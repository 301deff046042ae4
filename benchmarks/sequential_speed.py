"""SASRec's training step on the histories of Amazon Beauty: without padding, and in plain PyTorch with padding."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.sequential import config, prepared
from benchmarks.settings import Settings
from benchmarks.workload import middle
from rechub_ray import config as config_module
from rechub_ray.batch import Batch, RaggedSequences
from rechub_ray.data.collate import batch_from_table
from rechub_ray.learner import Learner
from rechub_ray.runtime.preflight import check
from rechub_ray.schema import Schema
from rechub_ray.world import World

BATCH, THREADS = 128, 2
SIDES = ("padded to the longest history of the data", "padded to the longest of the step", "ours")


class Padded(nn.Module):
    """The same model as a textbook has it: (B, T) ids, zeros on the right, torch's own attention on all of it."""

    def __init__(self, items: int, *, width: int, length: int, blocks: int, dropout: float) -> None:
        super().__init__()
        self.items, self.place = nn.Embedding(items, width), nn.Embedding(length, width)
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(width)
        self.norms = nn.ModuleList(nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)]) for _ in range(blocks))
        self.project = nn.ModuleList(nn.Linear(width, 3 * width) for _ in range(blocks))
        self.feed = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width))
            for _ in range(blocks)
        )

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        place = (lengths.unsqueeze(1) - 1 - torch.arange(ids.shape[1])).clamp(min=0)
        x = self.dropout(self.items(ids) * math.sqrt(self.items.embedding_dim) + self.place(place))
        for (before, between), project, feed in zip(self.norms, self.project, self.feed, strict=True):  # type: ignore[misc]
            q, k, v = (part.unsqueeze(1) for part in project(before(x)).chunk(3, 2))
            found = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p, is_causal=True).squeeze(1)
            x = x + self.dropout(found)
            x = x + self.dropout(feed(between(x)))
        result: Tensor = self.norm(x)
        return result


def run(settings: Settings) -> dict[str, Any]:
    """Tokens a second of every side, in turns; nothing where the data is not there."""
    data = prepared(settings)
    if data is None:
        return {"skipped": "set RECHUB_DATA to a folder with amazon-beauty"}
    torch.set_num_threads(THREADS)
    given = config(data, "SASRec, its published loss", seed=2026)
    given["data"]["batch_size"] = BATCH
    job = check(config_module.load(given))
    learner = Learner(job.config, job.schema, world=World(), device=torch.device("cpu"), total_steps=1000)
    batches = _batches(data, job.schema, settings.pick(170, 12))
    lists = [_history(batch) for batch in batches]
    tokens = [int(lengths.sum()) for _, lengths in lists]
    longest, items = job.schema.sequences[0].max_length, job.schema.sparse[1].vocab_size
    padded = [
        [
            _rectangle(batch, values, lengths, items, width)
            for batch, (values, lengths) in zip(batches, lists, strict=True)
        ]
        for width in (longest, None)
    ]
    steps = {name: _plain(job.config.model, items, longest, own) for name, own in zip(SIDES, padded, strict=False)}
    steps[SIDES[2]] = lambda i: learner.train_step(batches[i], step=i)
    speeds: dict[str, list[float]] = {}
    first = len(batches) // 6
    for number in range(settings.repeats):
        print(f"  round {number + 1} of {settings.repeats}", file=sys.stderr, flush=True)
        for name, step in steps.items():
            for i in range(first):
                step(i)
            clock = time.perf_counter()
            for i in range(first, len(batches)):
                step(i)
            speeds.setdefault(name, []).append(sum(tokens[first:]) / (time.perf_counter() - clock))
    shares = {
        name: 1 - sum(tokens) / sum(rectangle[0].numel() for rectangle in own)
        for name, own in zip(SIDES, padded, strict=False)
    }
    shares[SIDES[2]] = 0.0
    return {"speeds": {name: middle(values) for name, values in speeds.items()}, "padding": shares}


def _batches(data: Path, schema: Schema, number: int) -> list[Batch]:
    """Steps of random rows."""
    table = pq.read_table(data / "windows")
    order = np.random.default_rng(0).permutation(table.num_rows)
    return [batch_from_table(table.take(order[i * BATCH : (i + 1) * BATCH]), schema) for i in range(number)]


def _history(batch: Batch) -> tuple[Tensor, Tensor]:
    """The only lists of the rows, one behind the other, and their lengths."""
    sequences = batch.features.sequences
    assert isinstance(sequences, RaggedSequences)
    return sequences.values, sequences.offsets.diff()


def _rectangle(
    batch: Batch, values: Tensor, lengths: Tensor, items: int, width: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ids, lengths, the items that come next and drawn ones, of which no side has to take the time.

    Args:
        width: of the rectangle; None takes the longest history of the step.
    """
    width = width or int(lengths.max())
    mask = torch.arange(width) < lengths.unsqueeze(1)
    ids = torch.zeros(mask.shape, dtype=torch.int64)
    ids[mask] = values
    following = torch.cat([ids[:, 1:], ids[:, :1]], 1)
    has_any = lengths > 0
    following[has_any, lengths[has_any] - 1] = batch.features.sparse[has_any, 1]
    return ids, lengths, torch.where(mask, following, 0), torch.randint(1, items, mask.shape)


def _plain(node: dict[str, Any], items: int, longest: int, rectangles: list[Any]) -> Callable[[int], None]:
    """A step of the loop that everyone writes."""
    model = Padded(
        items, width=node["embedding_dim"], length=longest, blocks=node["num_blocks"], dropout=node["dropout"]
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(i: int) -> None:
        ids, lengths, following, drawn = rectangles[i]
        x = model(ids, lengths)
        losses = F.softplus(-(x * model.items(following)).sum(2)) + F.softplus((x * model.items(drawn)).sum(2))
        mask = following > 0
        optimizer.zero_grad()
        ((losses * mask).sum() / mask.sum()).backward()
        optimizer.step()

    return step


def table(result: dict[str, Any]) -> str:
    if "speeds" not in result:
        return f"Left out: {result['skipped']}."
    speeds = result["speeds"]
    lines = ["| | tokens/s, median (range) | ours / this (aim 1.5) | padding computed |", "|---|---|---|---|"]
    for name, speed in speeds.items():
        ratio = "" if name == SIDES[2] else f"{speeds[SIDES[2]]['median'] / speed['median']:.2f}"
        spread = f"({speed['low']:,.0f} - {speed['high']:,.0f})"
        lines.append(f"| {name} | {speed['median']:,.0f} {spread} | {ratio} | {result['padding'][name]:.0%} |")
    head = (
        f"SASRec with its published loss, {BATCH} rows a step, {THREADS} threads: forward, backward and Adam, on the "
        "same rows of Amazon Beauty. The padded sides are plain PyTorch, with rectangles and drawn items ready in "
        "memory; ours is the step of training, which draws."
    )
    return head + "\n\n" + "\n".join(lines)
