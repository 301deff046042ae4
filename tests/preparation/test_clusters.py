"""`cluster_by`: a group's rows together, in order of time, inside one row group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import DataError
from rechub_ray.preparation import buckets, prepare, sources, text

LABELS = [{"name": "y", "expression": "1"}]
FEATURES = [{"kind": "numeric", "columns": ["x", "t"]}]


def log(rows: int = 600, seed: int = 3) -> str:
    draw = np.random.default_rng(seed)
    sessions, times = draw.integers(0, 60, rows), draw.permutation(rows)
    lines = [f"s{session},{x},{t}" for x, (session, t) in enumerate(zip(sessions, times, strict=True))]
    return "session,x,t\n" + "\n".join(lines) + "\n"


def node(lab: Any, **changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = lab.recipe(
        files="train.csv",
        split={"by": "time", "column": "t", "fractions": {"train": 0.8, "test": 0.2}},
        features=FEATURES,
        labels=LABELS,
        cluster_by="session",
        row_group_rows=64,
        shard_rows=200,
    )
    return {**result, **changes}


def row_groups(folder: Path) -> list[dict[str, list[Any]]]:
    """The row groups of a split, shard by shard."""
    found: list[dict[str, list[Any]]] = []
    for path in sorted(folder.iterdir()):
        file = pq.ParquetFile(path)
        assert file.metadata.num_rows <= 200
        found += [file.read_row_group(i).to_pydict() for i in range(file.num_row_groups)]
    return found


def check(folder: Path, column: str = "session") -> int:
    """Groups are whole, in one place of one row group, in order of time; returns the rows."""
    seen: set[int] = set()
    rows = 0
    for part in row_groups(folder):
        groups = part[column]
        rows += len(groups)
        assert len(groups) <= 64
        runs = [group for i, group in enumerate(groups) if i == 0 or groups[i - 1] != group]
        assert len(runs) == len(set(runs))
        assert not seen & set(runs)
        seen |= set(runs)
        for group in runs:
            times = [t for t, other in zip(part["t"], groups, strict=True) if other == group]
            assert times == sorted(times)
    return rows


@pytest.mark.parametrize("small", [False, True])
def test_groups_are_whole_whatever_the_tasks_and_buckets(
    lab: Any, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write(train__csv=log())
    if small:
        monkeypatch.setattr(sources, "TASK_BYTES", 1500)
        monkeypatch.setattr(text, "BLOCK_BYTES", 300)
        monkeypatch.setattr(buckets, "BUCKET_BYTES", 1500)
        monkeypatch.setattr(buckets, "_FLUSH_BYTES", 1000)
    result = prepare(node(lab))
    assert result.schema.group == "session"
    out = Path(result.out)
    assert (check(out / "train"), check(out / "test")) == (480, 120)
    found = [x for name in ("train", "test") for part in row_groups(out / name) for x in part["x"]]
    assert sorted(found) == list(range(600))
    # row groups are filled with as many whole groups as fit
    assert len(row_groups(out / "train")) < 480 / 40 + (6 if small else 1)


def test_with_histories_of_another_column_and_a_joined_group(lab: Any) -> None:
    """The group comes from a side table, the histories from users: neither has to be the other."""
    rows = "\n".join(f"u{i % 5},{i % 7},{i},{100 - i}" for i in range(60))
    lab.write(
        train__csv=f"user,item,x,t\n{rows}\n", items__csv="item,shelf\n" + "".join(f"{i},{i % 2}\n" for i in range(7))
    )
    changes = {
        "history": {"user": "user", "item": "item", "order": "t"},
        "joins": [{"file": "items.csv", "key": "item", "columns": ["shelf"]}],
        "split": {"by": "leave_last_out", "user": "user", "order": "t"},
        "features": [*FEATURES, {"kind": "sequence", "name": "history"}],
        "cluster_by": "shelf",
    }
    out = Path(prepare(node(lab, **changes)).out)
    assert check(out / "train", "shelf") == 50
    for part in row_groups(out / "train"):
        assert part["shelf"] == sorted(part["shelf"])


def test_without_a_time_rows_keep_the_order_of_the_files(lab: Any) -> None:
    lab.write(train__csv="session,x,t\nb,1,9\na,2,8\nb,3,1\na,4,2\n")
    out = prepare(node(lab, split=None)).out
    columns = lab.split(out)
    assert sorted(zip(columns["session"], columns["x"], strict=True), key=lambda pair: pair[0]) == list(
        zip(columns["session"], columns["x"], strict=True)
    )
    assert columns["x"] in ([1, 3, 2, 4], [2, 4, 1, 3])


def test_a_group_larger_than_a_row_group_says_its_size(lab: Any) -> None:
    lab.write(train__csv="session,x,t\n0,0,5\n" + "".join(f"7,{i},{i}\n" for i in range(65)))
    with pytest.raises(
        DataError, match=r"a group of 'session' has 65 rows in split 'train' \(.*train\.csv, row 3\).*64"
    ):
        prepare(node(lab, split=None))
    assert not lab.out.exists()
    assert prepare(node(lab, split=None, row_group_rows=65)).stats["splits"]["train"]["rows"] == 66
