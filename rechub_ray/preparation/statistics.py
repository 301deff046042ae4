"""Statistics of each split: rows, nulls, unseen values, cardinality, ranges, label rates."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from rechub_ray.preparation.sketch import Moments
from rechub_ray.schema import DenseFeature, Feature, Label, SequenceFeature


@dataclasses.dataclass
class ColumnStatistics:
    """One column of one split.

    Args:
        nulls: rows without a value (an empty list).
        unseen: values that are there and have id 0.
        values: elements of all lists (sequence).
        seen: one bit an id, whether it occurs (id 0 is not counted as a value).
        moments: of the raw values (numeric), of the list lengths as cut (sequence), of the label.
    """

    nulls: int = 0
    unseen: int = 0
    values: int = 0
    seen: npt.NDArray[np.uint8] | None = None
    moments: Moments = dataclasses.field(default_factory=Moments)

    def see(self, ids: npt.NDArray[Any], size: int) -> None:
        """Note which ids, all below `size`, occur."""
        if self.seen is None:
            self.seen = np.zeros(-(-size // 8), dtype=np.uint8)
        np.bitwise_or.at(self.seen, ids >> 3, (1 << (ids & 7)).astype(np.uint8))

    def merge(self, other: ColumnStatistics) -> None:
        self.nulls += other.nulls
        self.unseen += other.unseen
        self.values += other.values
        if other.seen is not None:
            self.seen = other.seen if self.seen is None else self.seen | other.seen
        self.moments.merge(other.moments)

    def to_dict(self, what: Feature | Label) -> dict[str, Any]:
        ends = {
            "min": _plain(self.moments.minimum),
            "max": _plain(self.moments.maximum),
            "mean": _plain(self.moments.mean if self.moments.count else math.nan),
        }
        if isinstance(what, Label):
            return {"kind": what.kind, **({"nulls": self.nulls} if what.optional else {}), **ends}
        if isinstance(what, DenseFeature):
            return {"kind": "dense", "nulls": self.nulls, **ends}
        if isinstance(what, SequenceFeature) and what.numbers:
            return {"kind": what.kind, "nulls": self.nulls, "values": self.values, "length": ends}
        distinct = 0 if self.seen is None else int(np.bitwise_count(self.seen).sum()) - int(self.seen[0] & 1)
        result: dict[str, Any] = {"kind": what.kind, "nulls": self.nulls, "unseen": self.unseen, "distinct": distinct}
        result["vocab_size"] = what.vocab_size
        if isinstance(what, SequenceFeature):
            result |= {"values": self.values, "length": ends}
        return result


def _plain(value: float) -> float | None:
    return round(float(value), 9) if math.isfinite(value) else None


class SplitStatistics:
    """One split."""

    def __init__(self) -> None:
        self.rows = 0
        self.columns: dict[str, ColumnStatistics] = {}

    def add(
        self, features: tuple[Feature, ...], labels: tuple[Label, ...], parsed: dict[str, pa.Array], table: pa.Table
    ) -> None:
        """Take in rows: `parsed` before and `table` after encoding."""
        self.rows += table.num_rows
        for feature in features:
            column = self.columns.setdefault(feature.name, ColumnStatistics())
            raw, encoded = parsed[feature.name], table[feature.name].combine_chunks()
            if isinstance(feature, DenseFeature):
                raw = raw.flatten() if pa.types.is_list(raw.type) else raw
                column.nulls += raw.null_count
                column.moments.add(raw.drop_null().to_numpy(zero_copy_only=False))
            elif isinstance(feature, SequenceFeature):
                ids = encoded.flatten().to_numpy()
                lengths = pc.list_value_length(encoded).to_numpy(zero_copy_only=False)
                column.nulls += int((lengths == 0).sum())
                column.values += len(ids)
                if not feature.numbers:
                    column.unseen += int((ids == 0).sum())
                    column.see(ids, feature.vocab_size)
                column.moments.add(lengths.astype(np.float64))
            else:
                ids = encoded.to_numpy()
                column.nulls += raw.null_count
                column.unseen += int((ids == 0).sum()) - raw.null_count
                column.see(ids, feature.vocab_size)
        for label in labels:
            column = self.columns.setdefault(label.name, ColumnStatistics())
            known = table[label.name].drop_null()
            column.nulls += table.num_rows - len(known)
            column.moments.add(known.to_numpy().astype(np.float64))

    def merge(self, other: SplitStatistics) -> None:
        self.rows += other.rows
        for name, column in other.columns.items():
            self.columns.setdefault(name, ColumnStatistics()).merge(column)

    def to_dict(self, features: tuple[Feature, ...], labels: tuple[Label, ...]) -> dict[str, Any]:
        empty = ColumnStatistics()
        return {
            "rows": self.rows,
            "labels": {label.name: self.columns.get(label.name, empty).to_dict(label) for label in labels},
            "features": {f.name: self.columns.get(f.name, empty).to_dict(f) for f in features},
        }


def print_report(statistics: dict[str, Any], console: Console | None = None) -> None:
    """Print the statistics as tables: the splits, then a line a feature (training split, unseen values elsewhere)."""
    console = console or Console()
    splits: dict[str, Any] = statistics["splits"]
    overview = Table("split", "rows", title="Splits")
    labels = list(next(iter(splits.values()))["labels"])
    for name in labels:
        overview.add_column(f"mean {name}", justify="right")
    for split, numbers in splits.items():
        overview.add_row(split, f"{numbers['rows']:,}", *(_short(numbers["labels"][name]["mean"]) for name in labels))
    console.print(overview)
    console.print(_features("Features (training split)", splits["train"]["features"], splits))
    if "items" in statistics:
        items = statistics["items"]
        if items["features"]:
            console.print(_features(f"Items ({items['rows']:,})", items["features"], {}))
        else:
            console.print(f"{items['rows']:,} items, without features of their own.")
    if statistics["bad_rows"]:
        console.print(f"{statistics['bad_rows']:,} bad rows were set aside in quarantine/.")


def _features(title: str, features: dict[str, Any], splits: dict[str, Any]) -> Table:
    """Return a table with a line a feature, and its unseen values in the splits that are not for training."""
    columns = Table("feature", "kind", "ids", "nulls", "min", "max", "mean", title=title)
    others = [split for split in splits if split not in ("train", "windows")]
    for split in others:
        columns.add_column(f"unseen in {split}", justify="right")
    for name, numbers in features.items():
        ends = numbers.get("length", numbers)
        unseen = [_share(splits[split]["features"][name], splits[split]["rows"]) for split in others]
        ids = f"{numbers['vocab_size']:,}" if "vocab_size" in numbers else ""
        spread = [_short(ends.get(key)) for key in ("min", "max", "mean")]
        columns.add_row(name, numbers["kind"], ids, f"{numbers['nulls']:,}", *spread, *unseen)
    return columns


def _share(numbers: dict[str, Any], rows: int) -> str:
    total = numbers.get("values", rows)
    return f"{100 * numbers['unseen'] / total:.2f}%" if "unseen" in numbers and total else ""


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
