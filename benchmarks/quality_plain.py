"""Published models of Frappe_x1 in plain PyTorch, without this library: is a difference the library's or the data's?

Each is written here from the published equations and settings, reads the CSV files by itself and is trained by a loop
of its own. Finished runs are kept in `quality_plain.json` under `--work`.
"""

from __future__ import annotations

import functools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.cells import finished
from benchmarks.frappe import SEEDS, source
from benchmarks.published import MODELS
from benchmarks.quality_frappe import cell, kept
from benchmarks.settings import ROOT, Settings

BATCH, DIM, UNITS = 4096, 10, (400, 400, 400)


class Tables(nn.Module):
    """(B, K) ids -> (B, K, dim), from a table for each field."""

    def __init__(self, sizes: list[int], dim: int = DIM) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, dim) for size in sizes)
        for table in self.tables:
            nn.init.normal_(table.weight, std=1e-4)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.stack([table(ids[:, i]) for i, table in enumerate(self.tables)], 1)


class LR(nn.Module):
    """A weight for each id, summed."""

    def __init__(self, sizes: list[int], *, bias: bool = True) -> None:
        super().__init__()
        self.tables = Tables(sizes, 1)
        self.bias = nn.Parameter(torch.zeros(1)) if bias else None

    def forward(self, ids: Tensor) -> Tensor:
        total = self.tables(ids).sum(1)
        return total if self.bias is None else total + self.bias


def perceptron(width: int, dropout: float) -> nn.Sequential:
    """400, 400, 400, 1, batch-normalised."""
    layers: list[nn.Module] = []
    for units in UNITS:
        layers += [nn.Linear(width, units), nn.BatchNorm1d(units), nn.ReLU(), nn.Dropout(dropout)]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, 1))


class AFM(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.lr, self.embedding = LR(sizes), Tables(sizes)
        self.attention = nn.Sequential(
            nn.Linear(DIM, 128), nn.ReLU(), nn.Linear(128, 1, bias=False), nn.Softmax(1), nn.Dropout(0.1)
        )
        self.dropout, self.out = nn.Dropout(0.1), nn.Linear(DIM, 1, bias=False)
        self.left, self.right = torch.triu_indices(len(sizes), len(sizes), 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        pairs = x[:, self.left] * x[:, self.right]
        return self.lr(ids) + self.out(self.dropout((self.attention(pairs) * pairs).sum(1)))


class FFM(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.lr, self.embedding = LR(sizes), nn.ModuleList(Tables(sizes) for _ in sizes[1:])
        self.left, self.right = torch.triu_indices(len(sizes), len(sizes), 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = torch.stack([tables(ids) for tables in self.embedding], 2)  # (B, K, partner, D), a field's own left out
        pairs = x[:, self.left, self.right - 1] * x[:, self.right, self.left]
        return self.lr(ids) + pairs.sum((1, 2)).unsqueeze(1)


class FmFM(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.lr, self.embedding = LR(sizes), Tables(sizes)
        self.left, self.right = torch.triu_indices(len(sizes), len(sizes), 1)
        self.weight = nn.Parameter(nn.init.xavier_normal_(torch.empty(len(self.left), DIM)))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.lr(ids) + (x[:, self.left] * self.weight * x[:, self.right]).sum((1, 2)).unsqueeze(1)


class CrossNetV2(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.embedding, width = Tables(sizes), DIM * len(sizes)
        self.layers, self.out = nn.ModuleList(nn.Linear(width, width) for _ in range(4)), nn.Linear(width, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = first = self.embedding(ids).flatten(1)
        for layer in self.layers:
            x = x + first * layer(x)
        return self.out(x)


class CIN(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.lr, self.embedding, units = LR(sizes, bias=False), Tables(sizes), (64, 64, 64)
        self.layers = nn.ModuleList(
            nn.Conv1d(len(sizes) * before, own, 1) for before, own in zip((len(sizes), *units), units, strict=False)
        )
        self.out = nn.Linear(sum(units), 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = first = self.embedding(ids)
        sums = []
        for layer in self.layers:
            x = layer((first.unsqueeze(2) * x.unsqueeze(1)).flatten(1, 2))
            sums.append(x.sum(2))
        return self.lr(ids) + self.out(torch.cat(sums, 1))


class AutoInt(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.embedding, width = Tables(sizes), 128
        self.shortcut, self.out = nn.Linear(DIM, width, bias=False), nn.Linear(len(sizes) * width, 1)
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Linear(width if i else DIM, width, bias=False) for _ in range(3)) for i in range(6)
        )

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        rest = self.shortcut(x)
        for layer in self.layers:
            query, key, value = (part(x).unflatten(2, (4, -1)).transpose(1, 2) for part in layer)
            attended = torch.softmax(query @ key.transpose(2, 3), 3) @ value
            x = rest = torch.relu(attended.transpose(1, 2).flatten(2) + rest)
        return self.out(x.flatten(1))


class FiBiNET(nn.Module):
    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        count = len(sizes)
        self.lr, self.embedding = LR(sizes, bias=False), Tables(sizes)
        self.gate = nn.Sequential(
            nn.Linear(count, count // 2, bias=False), nn.ReLU(), nn.Linear(count // 2, count, bias=False), nn.ReLU()
        )
        self.product = nn.Linear(DIM, DIM, bias=False)
        self.left, self.right = torch.triu_indices(count, count, 1)
        self.mlp = perceptron(2 * len(self.left) * DIM, 0.3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        both = (x, x * self.gate(x.mean(2)).unsqueeze(2))
        pairs = [self.product(v[:, self.left]) * v[:, self.right] for v in both]
        return self.lr(ids) + self.mlp(torch.cat(pairs, 1).flatten(1))


# by the name of its configuration, those that train fast first
PLAIN: dict[str, type[nn.Module]] = {
    "crossnet_v2": CrossNetV2,
    "fmfm": FmFM,
    "ffm": FFM,
    "fibinet": FiBiNET,
    "afm": AFM,
    "cin": CIN,
    "autoint": AutoInt,
}


def run(settings: Settings) -> dict[str, Any]:
    """All runs that are not done yet, every model's first seed first; nothing where the data is not there."""
    folder = source()
    if folder is None:
        return {"skipped": "set RECHUB_DATA to a folder with frappe/train.csv, valid.csv and test.csv"}
    cells = {
        key(name, seed, quick=settings.quick): functools.partial(one, folder, name, seed, quick=settings.quick)
        for seed in SEEDS[: settings.pick(len(SEEDS), 1)]
        for name in PLAIN
    }
    done = finished(settings.work / "quality_plain.json", {}, cells, at_once=1)
    return {"cells": done, "ours": {} if settings.quick else ours(settings.work)}


def key(name: str, seed: int, *, quick: bool = False) -> str:
    """The name of a run."""
    return f"{name} {seed} {MODELS[name].r:g}" + (" quick" if quick else "")


def ours(work: Path) -> dict[str, float]:
    """Test AUC of the same models and seeds with this library, of those that `quality frappe` has kept."""
    for file in (kept(work), ROOT / "benchmarks" / "runs" / "quality_frappe.json"):
        if file.exists():
            known = json.loads(file.read_text())["cells"]
            names = {f"{name} {seed}": cell(name, seed) for name in PLAIN for seed in SEEDS}
            return {short: known[full]["test_auc"] for short, full in names.items() if full in known}
    return {}


@functools.cache
def splits(folder: Path) -> tuple[list[int], dict[str, tuple[Tensor, Tensor]]]:
    """Each field's number of ids, of which 0 is for values that train does not have; ids and labels of each split."""
    frames = {name: pd.read_csv(folder / f"{name}.csv", dtype=str) for name in ("train", "valid", "test")}
    fields = [name for name in frames["train"].columns if name != "label"]
    known = {name: {value: i + 1 for i, value in enumerate(frames["train"][name].unique())} for name in fields}
    tensors = {}
    for split, frame in frames.items():
        ids = np.stack([frame[name].map(known[name]).fillna(0).to_numpy(np.int64) for name in fields], 1)
        tensors[split] = torch.from_numpy(ids), torch.from_numpy(frame["label"].to_numpy(np.float32))
    return [len(values) + 1 for values in known.values()], tensors


def one(folder: Path, name: str, seed: int, *, quick: bool) -> dict[str, float]:
    """The figures of one run: batches of 4,096, Adam 1e-3, a tenth of the rate after an epoch without gain."""
    sizes, data = splits(folder)
    torch.manual_seed(seed)
    known, model = MODELS[name], PLAIN[name](sizes)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    tables = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    decayed = [weight for weight in model.parameters() if known.r_is_of_all or id(weight) in tables]
    optimizer, (ids, labels) = torch.optim.Adam(model.parameters(), lr=1e-3), data["train"]
    best, without, epoch, state = -1.0, 0, 0, model.state_dict()
    started = time.process_time()
    while without < 2 and epoch < (1 if quick else known.epochs):
        epoch += 1
        for rows in torch.randperm(len(ids)).split(BATCH)[: 3 if quick else None]:
            loss = F.binary_cross_entropy_with_logits(model(ids[rows]).squeeze(1), labels[rows])
            loss = loss + known.r / 2 * sum(weight.square().sum() for weight in decayed)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 10)
            optimizer.step()
        auc = scores(model, *data["valid"])[0]
        if auc > best + 1e-6:
            best, without, state = auc, 0, {key: value.clone() for key, value in model.state_dict().items()}
        else:
            without += 1
            for group in optimizer.param_groups:
                group["lr"] = max(group["lr"] / 10, 1e-6)
    model.load_state_dict(state)
    auc, loss_of_test = scores(model, *data["test"])
    return {
        "test_auc": auc,
        "test_log_loss": loss_of_test,
        "valid_auc": best,
        "epochs": epoch,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "seconds": time.process_time() - started,
    }


@torch.no_grad()
def scores(model: nn.Module, ids: Tensor, labels: Tensor) -> tuple[float, float]:
    """AUC and log loss, by scikit-learn."""
    model.eval()
    given = torch.cat([torch.sigmoid(model(part)).squeeze(1) for part in ids.split(8192)]).double().numpy()
    model.train()
    return float(roc_auc_score(labels.numpy(), given)), float(log_loss(labels.numpy(), given))


def table(result: dict[str, Any]) -> str:
    if "cells" not in result:
        return f"Left out: {result['skipped']}."
    lines = [
        "| model | seed | plain PyTorch: test AUC | this library | published | plain: valid AUC | epochs (published) "
        "| parameters (published) |",
        "|---" * 8 + "|",
    ]
    for name in PLAIN:
        for found_as, found in result["cells"].items():
            model, seed, *_ = found_as.split()
            if model == name:
                known, beside = MODELS[name], result["ours"].get(f"{name} {seed}")
                lines.append(
                    f"| {known.title} | {seed} | {found['test_auc']:.6f} | {'' if beside is None else f'{beside:.6f}'} "
                    f"| {known.auc:.6f} | {found['valid_auc']:.4f} | {found['epochs']:.0f} ({known.trained}) "
                    f"| {found['parameters']:,.0f} ({known.parameters:,}) |"
                )
    return "\n".join(lines)
