"""Modules of somebody else, who does not know this library: dictionaries of tensors in, probabilities out."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from rechub_ray.schema import Schema


class Plain(nn.Module):
    """A perceptron on embeddings, the mean of a history padded with 0, and a number."""

    def __init__(self, schema: Schema, width: int = 4, dims: tuple[int, ...] = (8,), dropout: float = 0.0) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({f.name: nn.Embedding(f.vocab_size, width) for f in schema.sparse})
        self.dense = [f.name for f in schema.dense]
        units = [width * (len(self.tables) + 1) + len(self.dense), *dims]
        layers = [[nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)] for a, b in itertools.pairwise(units)]
        self.mlp = nn.Sequential(*(layer for three in layers for layer in three), nn.Linear(units[-1], 1))

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        seen = (x["history"] != 0).float().unsqueeze(2)
        history = (self.tables["item"](x["history"]) * seen).sum(1) / seen.sum(1).clamp(min=1)
        parts = [table(x[name]) for name, table in self.tables.items()]
        numbers = [x[name].unsqueeze(1) for name in self.dense]
        return torch.sigmoid(self.mlp(torch.cat([*parts, history, *numbers], 1)))  # (B, 1)


class Logits(Plain):
    def forward(self, x: dict[str, Tensor]) -> Tensor:
        return torch.logit(super().forward(x)).squeeze(1) * 5


class WithLoss(Plain):
    def forward(self, x: dict[str, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        found = super().forward(x)
        return found.squeeze(1), 0.1 * self.mlp[0].weight.square().sum()


class Reads(Plain):
    """Reads what it has initialised, as no model on the meta device can."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.scale = float(self.mlp[0].weight.abs().mean())


def build(schema: Schema, width: int = 4) -> nn.Module:
    return Plain(schema, width)


def no_module(schema: Schema) -> int:
    return 3


def broken(schema: Schema, width: int) -> nn.Module:
    raise ValueError(f"no {width}")
