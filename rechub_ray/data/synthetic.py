"""Seeded synthetic click logs as prepared shards: a planted signal with a known best AUC, and Criteo-shaped load."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rechub_ray.data.shard import SealedWriter
from rechub_ray.errors import ConfigError
from rechub_ray.schema import DenseFeature, Feature, Label, Schema, SequenceFeature, SparseFeature

USERS, ITEMS, CATEGORIES, CITIES, DEVICES, HOURS = 200, 100, 8, 20, 4, 12
HISTORY = 12
_RANK = 2
_CHUNK_ROWS = 65_536

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class SyntheticInfo:
    """A written data set.

    Args:
        out: its folder.
        schema: as in its schema.json.
        rows: by split.
        best: by metric, the score of the true probabilities on the test split: no model can expect more. Empty where no
            signal of known strength is planted.
        label_rate: of the training split.
    """

    out: Path
    schema: Schema
    rows: dict[str, int]
    best: dict[str, float]
    label_rate: float


def click_log_schema(*, purchases: bool = False) -> Schema:
    """Return the schema of `write_click_logs`."""
    return Schema(
        features=(
            SparseFeature("user", USERS + 1),
            SparseFeature("item", ITEMS + 1),
            SparseFeature("category", CATEGORIES + 1),
            SparseFeature("city", CITIES + 1),
            SparseFeature("device", DEVICES + 1),
            SparseFeature("hour", HOURS + 1),
            DenseFeature("age"),
            DenseFeature("price"),
            DenseFeature("recency"),
            SequenceFeature("history", CATEGORIES + 1, max_length=HISTORY, shared_with="category"),
        ),
        labels=(Label("click"), Label("buy")) if purchases else (Label("click"),),
        group="user_id",
    )


class _World:
    """The planted truth, drawn once from the seed.

    logit of a click = c + user + item + city + <user taste, item taste> + device x hour + numbers
                       + mean over the history of (its categories' appeal + affinity to the item's category)
    logit of a purchase after a click = c + user + item + <user taste, item taste> + device + numbers
    """

    def __init__(self, seed: int) -> None:
        draw = np.random.default_rng([seed, 0])
        self.user_bias = draw.normal(0, 0.5, USERS)
        self.item_bias = draw.normal(0, 0.8, ITEMS)
        self.city_bias = draw.normal(0, 0.3, CITIES)
        self.category_of = draw.integers(0, CATEGORIES, ITEMS)
        self.user_taste = draw.normal(0, 0.7, (USERS, _RANK))
        category_taste = draw.normal(0, 1, (CATEGORIES, _RANK))
        self.item_taste = 0.8 * category_taste[self.category_of] + draw.normal(0, 0.4, (ITEMS, _RANK))
        self.device_hour = draw.normal(0, 0.7, (DEVICES, 1)) * draw.normal(0, 1, HOURS)
        self.appeal = draw.normal(0, 0.8, CATEGORIES)
        self.affinity = 1.8 * category_taste @ category_taste.T / _RANK
        popularity = 1 / np.arange(1, ITEMS + 1) ** 0.6
        self.item_edges = np.cumsum(popularity) / popularity.sum()
        more = np.random.default_rng([seed, 3])
        self.buyer, self.bargain, self.buying_device = (more.normal(0, 0.7, n) for n in (USERS, ITEMS, DEVICES))

    def rows(self, draw: np.random.Generator, count: int) -> tuple[pa.Table, dict[str, Floats]]:
        """Return encoded rows, and by label the true probability of 1 in each."""
        user, city = draw.integers(0, USERS, count), draw.integers(0, CITIES, count)
        item = np.minimum(np.searchsorted(self.item_edges, draw.random(count)), ITEMS - 1)
        device, hour = draw.integers(0, DEVICES, count), draw.integers(0, HOURS, count)
        age, recency = draw.normal(size=count), draw.exponential(size=count)
        price = 0.5 * self.item_bias[item] + draw.normal(size=count)
        category = self.category_of[item]

        lengths = np.minimum(draw.geometric(0.2, count) - 1, HISTORY)
        owners = np.repeat(np.arange(count), lengths)
        # a user comes back to the categories that the user likes, so histories differ between users
        past = (draw.integers(0, CATEGORIES // 2, len(owners)) + user[owners]) % CATEGORIES
        effects = self.appeal[past] + self.affinity[past, category[owners]]
        history = np.bincount(owners, effects, minlength=count) / np.maximum(lengths, 1)

        match = np.einsum("ij,ij->i", self.user_taste[user], self.item_taste[item])
        logit = (
            -1.3
            + self.user_bias[user]
            + self.item_bias[item]
            + self.city_bias[city]
            + match
            + self.device_hour[device, hour]
            + 0.4 * age
            - 0.5 * price
            - 0.3 * np.minimum(recency, 3)
            + history
        )
        after = -0.5 + self.buyer[user] + self.bargain[item] + self.buying_device[device] + match - 0.8 * price
        chances = {"click": 1 / (1 + np.exp(-logit))}
        chances["buy"] = chances["click"] / (1 + np.exp(-after))
        click = draw.random(count) < chances["click"]
        buy = click & (draw.random(count) < chances["buy"] / chances["click"])
        ids = {"user": user, "item": item, "category": category, "city": city, "device": device, "hour": hour}
        columns: dict[str, pa.Array] = {name: pa.array(values + 1, pa.int32()) for name, values in ids.items()}
        for name, numbers in {"age": age, "price": price, "recency": np.log1p(recency)}.items():
            columns[name] = pa.array(numbers, pa.float32())
        columns["history"] = _lists(past + 1, lengths)
        for name, happened in {"click": click, "buy": buy}.items():
            columns[name] = pa.array(happened.astype(np.float32))
        columns["user_id"] = pa.array(user, pa.int64())
        return pa.table(columns), chances


def _lists(values: Ints, lengths: Ints) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, pa.int32()))


def write_click_logs(
    out: str | Path,
    *,
    rows: int = 200_000,
    seed: int = 0,
    files: int = 4,
    row_group_rows: int = 8192,
    purchases: bool = False,
) -> SyntheticInfo:
    """Write click logs with a planted signal: numeric, categorical and sequence columns, prepared and split.

    80% train, 10% valid, 10% test; the same arguments give the same bytes. `truth.json` holds the best AUC.

    Args:
        out: a new or empty folder.
        rows: of all splits together, at least 100.
        seed: of every draw (>= 0).
        files: shards of the training split (>= 1).
        row_group_rows: rows of a parquet row group (>= 1).
        purchases: write a second label, `buy`, which only rows with a click can have.

    Raises:
        ConfigError: too few rows, or the folder is not empty.
    """
    if rows < 100:
        raise ConfigError(f"'rows' is {rows}", expected="at least 100, to fill three splits")
    root, schema, world = _folder(out), click_log_schema(purchases=purchases), _World(seed)
    held = rows // 10
    counts = {"train": rows - 2 * held, "valid": held, "test": held}
    clicks, best = 0.0, dict[str, float]()
    for number, (split, count) in enumerate(counts.items()):
        labels: dict[str, list[Floats]] = {label.name: [] for label in schema.labels}
        chances: dict[str, list[Floats]] = {name: [] for name in labels}
        shares = np.diff(np.linspace(0, count, (files if split == "train" else 1) + 1).astype(int))
        (root / split).mkdir()
        for file, share in enumerate(shares.tolist()):
            with SealedWriter(root / split / f"part-{file:05d}.parquet", _arrow_schema(schema)) as writer:
                for chunk, size in enumerate(_chunks(share)):
                    table, chance = world.rows(np.random.default_rng([seed, 1, number, file, chunk]), size)
                    writer.write_table(table.select(schema.columns), row_group_size=row_group_rows)
                    for name in labels:
                        labels[name].append(table[name].to_numpy().astype(np.float64))
                        chances[name].append(chance[name])
        if split == "train":
            clicks = float(np.concatenate(labels["click"]).sum())
        if split == "test":
            for name in labels:
                key = f"{name}/auc" if purchases else "auc"
                best[key] = area_under_curve(np.concatenate(labels[name]), np.concatenate(chances[name]))
    info = SyntheticInfo(root, schema, counts, best, clicks / counts["train"])
    _finish(info, {"seed": seed})
    return info


def write_criteo_like(
    out: str | Path, *, rows: int, ids_total: int = 1_400_000, seed: int = 0, row_group_rows: int = 16_384
) -> SyntheticInfo:
    """Write load shaped like Criteo's: 13 numbers, 26 id columns whose tables sum to `ids_total` rows.

    Table sizes fall like 1 / rank^1.5, ids are frequent at the head of a column (density ~ id^(-2/3)), labels follow
    a weak linear signal. `rows` to train, a tenth of it (at most 100,000) to valid. Memory does not grow with `rows`.

    Raises:
        ConfigError: `ids_total` too small for 26 tables, or the folder is not empty.
    """
    if ids_total < 26 * 8 or rows < 1:
        raise ConfigError("too little to write", expected="ids_total >= 208 and rows >= 1", got=f"{ids_total}, {rows}")
    root, sizes = _folder(out), table_sizes(ids_total)
    features: tuple[Feature, ...] = (
        *(DenseFeature(f"I{i}") for i in range(1, 14)),
        *(SparseFeature(f"C{i}", size) for i, size in enumerate(sizes, start=1)),
    )
    schema = Schema(features=features, labels=(Label("label"),))
    counts = {"train": rows, "valid": max(1, min(rows // 10, 100_000))}
    clicks = 0.0
    for number, (split, count) in enumerate(counts.items()):
        (root / split).mkdir()
        for file, share in enumerate(_chunks(count, 1_000_000)):
            with SealedWriter(root / split / f"part-{file:05d}.parquet", _arrow_schema(schema)) as writer:
                for chunk, size in enumerate(_chunks(share)):
                    draw = np.random.default_rng([seed, 2, number, file, chunk])
                    table = _criteo_rows(draw, size, sizes)
                    writer.write_table(table, row_group_size=row_group_rows)
                    if split == "train":
                        clicks += float(table["label"].to_numpy().sum())
    info = SyntheticInfo(root, schema, counts, {}, clicks / rows)
    _finish(info, {"seed": seed, "ids_total": sum(sizes)})
    return info


def table_sizes(ids_total: int) -> list[int]:
    """Return 26 table sizes that fall like 1 / rank^1.5 and sum to `ids_total`, none below 4."""
    shares = 1 / np.arange(1, 27) ** 1.5
    sizes = 4 + np.floor((ids_total - 26 * 4) * shares / shares.sum()).astype(int)
    sizes[0] += ids_total - int(sizes.sum())
    return [int(size) for size in sizes]


def _criteo_rows(draw: np.random.Generator, count: int, sizes: list[int]) -> pa.Table:
    numbers = np.log1p(draw.exponential(3.0, (13, count))).astype(np.float32)
    logit = -1.6 + 0.4 * (numbers[0] - numbers[1])
    columns: dict[str, pa.Array] = {f"I{i + 1}": pa.array(numbers[i]) for i in range(13)}
    for i, size in enumerate(sizes):
        ids = (draw.random(count) ** 3 * size).astype(np.int32)
        logit += 0.25 * ((ids * 7 + i) % 5 - 2) if i % 4 == 0 else 0.0
        columns[f"C{i + 1}"] = pa.array(ids)
    click = draw.random(count) < 1 / (1 + np.exp(-logit))
    columns["label"] = pa.array(click.astype(np.float32))
    return pa.table(columns)


def area_under_curve(labels: Floats, scores: Floats) -> float:
    """Return the AUC with ties counted half: (sum of the positives' mid-ranks - P(P+1)/2) / (P N)."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positives = float(labels.sum())
    negatives = len(labels) - positives
    return float((ranks[labels > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _chunks(count: int, size: int = _CHUNK_ROWS) -> Iterator[int]:
    while count > 0:
        yield min(count, size)
        count -= size


def _folder(out: str | Path) -> Path:
    root = Path(out)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConfigError(f"'out': {root} exists already", expected="a new or empty folder")
    root.mkdir(parents=True, exist_ok=True)
    return root


def _arrow_schema(schema: Schema) -> pa.Schema:
    fields: dict[str, pa.DataType] = {}
    for feature in schema.features:
        if isinstance(feature, DenseFeature):
            fields[feature.name] = pa.float32()
        else:
            fields[feature.name] = pa.list_(pa.int32()) if isinstance(feature, SequenceFeature) else pa.int32()
    fields |= {label.name: pa.float32() for label in schema.targets}
    if schema.group is not None:
        fields[schema.group] = pa.int64()
    return pa.schema([pa.field(name, fields[name]) for name in schema.columns])


def _finish(info: SyntheticInfo, more: dict[str, Any]) -> None:
    truth = {"best": info.best, "label_rate": info.label_rate, "rows": info.rows, **more}
    (info.out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    # last, because a folder with a schema counts as finished
    info.schema.save(info.out / "schema.json")
