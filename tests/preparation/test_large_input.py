"""What large inputs meet: many tasks, many blocks, Ray, other filesystems. The result is that of one small task."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import DataError
from rechub_ray.preparation import buckets, items, prepare, sources, text

FEATURES = [
    {"kind": "categorical", "columns": ["u", "i"]},
    {"kind": "numeric", "name": "x", "transforms": ["log1p", "standardise"]},
    {"kind": "bucket", "name": "x_bucket", "column": "x", "num_buckets": 5},
    {"kind": "sequence", "name": "history", "shared_with": "i", "max_length": 3},
]


def log(rows: int = 3000) -> str:
    draw = np.random.default_rng(0)
    users, goods, xs = draw.integers(0, 40, rows), draw.integers(0, 90, rows), draw.normal(size=rows)
    lines = [f'{u},"{i}",{x:.3f},{t},b{i % 7}' for t, (u, i, x) in enumerate(zip(users, goods, xs, strict=True))]
    return "u,i,x,t,brand\n" + "\n".join(lines) + "\n"


RETRIEVAL: dict[str, Any] = {
    "history": {"user": "u", "item": "i", "order": "t", "max_length": 3, "exclude": "seen", "age": "a", "rows": "both"},
    "split": {"by": "leave_last_out", "user": "u", "order": "t"},
    "features": [*FEATURES, {"kind": "sequence", "name": "a", "max_length": 3, "numbers": True}],
    "items": {"id": "i", "from_rows": ["brand"], "features": [{"kind": "categorical", "name": "brand"}]},
}


def node(lab: Any, out: str, **changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = lab.recipe(
        out=str(lab.folder / out),
        files="train.csv",
        history={"user": "u", "item": "i", "order": "t", "max_length": 3},
        split={"by": "random", "fractions": {"train": 0.8, "test": 0.2}},
        labels=[{"name": "y", "expression": "x > 0"}],
        features=FEATURES,
    )
    return {**result, **changes}


def digest(out: Path) -> str:
    """Of every file but recipe.json, which names the folder."""
    state = hashlib.sha256()
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name != "recipe.json":
            state.update(str(path.relative_to(out)).encode() + path.read_bytes())
    return state.hexdigest()


def rows(out: Path) -> dict[str, list[tuple[Any, ...]]]:
    found = {}
    for name in ("train", "test"):
        table = pq.read_table(out / name)
        columns = [[tuple(v) if isinstance(v, list) else v for v in table[c].to_pylist()] for c in table.column_names]
        found[name] = sorted(zip(*columns, strict=True))
    return found


def test_many_tasks_blocks_and_buckets_change_nothing(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(train__csv=log())
    whole = prepare(node(lab, "whole"))
    monkeypatch.setattr(sources, "TASK_BYTES", 9000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 9000)
    cut = prepare(node(lab, "cut"))
    assert len(list((Path(cut.out) / "train").iterdir())) > 3
    expected, found = rows(Path(whole.out)), rows(Path(cut.out))
    for name in expected:
        assert len(expected[name]) == len(found[name])
        for one, other in zip(expected[name], found[name], strict=True):
            assert one[:2] + one[3:] == other[:2] + other[3:]
            assert one[2] == pytest.approx(other[2], rel=1e-5, abs=1e-6)
    assert cut.stats["splits"]["test"]["labels"] == whole.stats["splits"]["test"]["labels"]


def test_many_tasks_give_one_item_table(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.write(train__csv=log())
    whole = prepare(node(lab, "whole", **RETRIEVAL))
    monkeypatch.setattr(sources, "TASK_BYTES", 9000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 1500)
    monkeypatch.setattr(buckets, "BUCKET_BYTES", 9000)
    monkeypatch.setattr(items, "_PENDING_ROWS", 50)
    cut = prepare(node(lab, "cut", **RETRIEVAL))
    assert pq.read_table(Path(cut.out) / "items").equals(pq.read_table(Path(whole.out) / "items"))
    for name in ("train", "windows", "valid", "test"):
        columns = [
            pq.read_table(Path(out) / name, columns=["u", "i", "history", "a", "seen"]) for out in (cut.out, whole.out)
        ]
        one, other = (sorted(map(str, table.to_pylist())) for table in columns)
        assert one == other
    lab.write(train__csv=log() + "1,2,1,9000,other\n1,2,1,9001,b2\n1,2,1,9002,b2\n")
    with pytest.raises(
        DataError, match=r"item '2' has two values of 'brand' .* Got: ('b2' and 'other'|'other' and 'b2')"
    ):
        prepare(node(lab, "wrong", **RETRIEVAL))


def test_line_numbers_in_later_tasks(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "TASK_BYTES", 9000)
    monkeypatch.setattr(text, "BLOCK_BYTES", 1500)
    lines = log().splitlines()
    lines[2700] = "1,2,many,3,b2"
    lab.write(train__csv="\r\n".join(lines))
    with pytest.raises(DataError, match=r"train\.csv, row 2701: column 'x': 'many' is not a number"):
        prepare(node(lab, "out", history=None, features=FEATURES[:3]))


def test_line_breaks_inside_quotes(lab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 100)
    lab.write(train__csv="v,y\n" + '"a\nb",1\n"c, ""d""",0\n' * 50)
    prepare(lab.single(features=[{"kind": "categorical", "name": "v"}], format={"newlines_in_values": True}))
    assert pq.read_table(lab.out / "vocab" / "v.parquet")["value"].to_pylist() == ["a\nb", 'c, "d"']
    assert lab.split()["v"] == [1, 2] * 50


def test_row_groups_and_shards(lab: Any) -> None:
    lab.write(train__csv="x,y\n" + "1,1\n" * 1050)
    prepare(lab.single(features=[{"kind": "numeric", "name": "x"}], row_group_rows=100, shard_rows=400))
    found = []
    for path in sorted((lab.out / "train").iterdir()):
        metadata = pq.ParquetFile(path).metadata
        found.append((path.name, [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]))
    assert found == [
        ("part-00000.parquet", [100] * 4),
        ("part-00001.parquet", [100] * 4),
        ("part-00002.parquet", [100, 100, 50]),
    ]


def test_fsspec_filesystem_and_glob(lab: Any) -> None:
    memory = fsspec.filesystem("memory")
    for name in ("b", "a"):
        with memory.open(f"/raw-logs/day-{name}.csv", "w") as file:
            file.write(f"v,y\n{name},1\n")
    prepare(
        lab.single(source="memory://raw-logs", files="day-*.csv", features=[{"kind": "categorical", "name": "v"}]),
        use_ray=False,
    )
    assert lab.split()["v"] == [1, 2]


@pytest.mark.ray
def test_ray_gives_the_same_bytes(lab: Any, monkeypatch: pytest.MonkeyPatch, ray_cluster: None) -> None:
    for day, start in {"a": 0, "b": 1000, "c": 2000}.items():
        lines = log().splitlines()
        lab.write(**{f"day_{day}__csv": "\n".join([lines[0], *lines[1 + start : 1001 + start]])})
    here = prepare(node(lab, "here", files="day_*.csv"), use_ray=False)
    there = prepare(node(lab, "there", files="day_*.csv"), use_ray=True)
    assert digest(Path(here.out)) == digest(Path(there.out))
    groups = {"files": "day_*.csv", "cluster_by": "i"}
    here = prepare(node(lab, "groups-here", **groups), use_ray=False)
    there = prepare(node(lab, "groups-there", **groups), use_ray=True)
    assert digest(Path(here.out)) == digest(Path(there.out))
    here = prepare(node(lab, "items-here", files="day_*.csv", **RETRIEVAL), use_ray=False)
    there = prepare(node(lab, "items-there", files="day_*.csv", **RETRIEVAL), use_ray=True)
    assert digest(Path(here.out)) == digest(Path(there.out))
    lab.write(day_b__csv="u,i,x,t\n1,2,many,3\n")
    with pytest.raises(DataError, match=r"day_b\.csv, row 2: column 'x'"):
        prepare(node(lab, "wrong", files="day_*.csv"), use_ray=True)
