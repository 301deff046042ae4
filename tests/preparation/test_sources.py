"""Finding raw files and what their folders say; files that are not laid out as their format says."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import prepare, sources, text
from rechub_ray.preparation.sources import Source

LOG = "v,y\na,1\nb,0\n"


def values(lab: Any) -> list[str]:
    found: list[str] = pq.read_table(lab.out / "vocab" / "v.parquet")["value"].to_pylist()
    return sorted(found)


def node(lab: Any, **changes: Any) -> dict[str, Any]:
    features = [{"kind": "categorical", "name": "v"}]
    recipe: dict[str, Any] = lab.single(**{"features": features, "overwrite": True, **changes})
    return recipe


def tree(lab: Any, *names: str) -> None:
    for name in names:
        path = lab.raw / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"v,y\n{path.stem},1\n")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("day=*", ["a1", "a2", "b1"]),
        ("day=1", ["a1", "a2"]),
        ("day=1/", ["a1", "a2"]),
        (".", ["a1", "a2", "b1", "c1", "top"]),
        ("**", ["a1", "a2", "b1", "c1", "top"]),
        ("**/*1.csv", ["a1", "b1", "c1"]),
        ("*/*.csv", ["a1", "b1"]),
        ("day=*/hour=*/*", ["a1", "b1"]),
        ("day=[1]/**", ["a1", "a2"]),
        ("day=?/hour=0/a1.csv", ["a1"]),
        ("*.csv", ["top"]),
        ("_aside.csv", ["_aside"]),
        ("_a*", ["_aside"]),
    ],
)
def test_patterns(lab: Any, pattern: str, expected: list[str]) -> None:
    tree(lab, "day=1/hour=0/a1.csv", "day=1/a2.csv", "day=2/hour=0/b1.csv", "x/y/c1.csv", "top.csv")
    tree(lab, "_aside.csv", ".hidden.csv", "day=1/_SUCCESS", "day=1/.a1.csv.crc", "_temporary/z.csv")
    if pattern == "*/*.csv":
        tree(lab, "day=1/a1.csv", "day=2/b1.csv")
        (lab.raw / "day=1" / "a2.csv").unlink()
    prepare(node(lab, files=pattern))
    assert values(lab) == expected


def test_files_and_folders_under_one_pattern_are_not_guessed_at(lab: Any) -> None:
    tree(lab, "day1.csv", "day2.csv/part-0.csv")
    with pytest.raises(DataError, match=r"day\*.*files and folders alike.*day1\.csv and .*day2\.csv"):
        prepare(node(lab, files="day*"))


@pytest.mark.parametrize("name", ["a[1].csv", "a*b.csv", "what?.csv", "dt=1; 2.csv", "100%.csv", "ä b.csv", "#1.csv"])
def test_a_name_that_stands_there_is_no_pattern(lab: Any, name: str) -> None:
    tree(lab, name, "a1.csv", "aXb.csv", "whatX.csv")
    prepare(node(lab, files=name))
    assert values(lab) == [Path(name).stem]


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("dya=*", "Did you mean 'day=1'?"), ("day=1/b.csv", "Did you mean 'a.csv'?"), ("dax=1/a.csv", "'day=1'")],
)
def test_what_is_missing_is_named(lab: Any, pattern: str, hint: str) -> None:
    tree(lab, "day=1/a.csv")
    with pytest.raises(DataError, match="no file") as caught:
        prepare(node(lab, files=pattern))
    assert hint in str(caught.value)


def test_keys_of_folders_are_columns(lab: Any) -> None:
    for day in (1, 2, 3):
        tree(lab, f"dt=2026-01-0{day}/lang=d%2Fe/{day}.csv")
    tree(lab, "dt=2026-01-03/lang=__HIVE_DEFAULT_PARTITION__/4.csv")
    features = [{"kind": "categorical", "columns": ["v", "lang"]}, {"kind": "bucket", "name": "y", "num_buckets": 2}]
    labels = [{"name": "late", "expression": "dt == '2026-01-03'"}]
    split = {"by": "time", "column": "dt", "starts": {"valid": "2026-01-02", "test": "2026-01-03"}}
    result = prepare(node(lab, files="dt=*", features=features, labels=labels, split=split))
    assert [part["rows"] for part in result.stats["splits"].values()] == [1, 1, 2]
    assert pq.read_table(lab.out / "vocab" / "lang.parquet")["value"].to_pylist() == ["d/e"]
    assert lab.split(name="test")["late"] == [1, 1]
    assert lab.split(name="test")["lang"] == [0, 1]
    by_day = {"by": "column", "column": "dt", "values": {"train": ["2026-01-01"], "test": ["2026-01-02", "2026-01-03"]}}
    prepare(node(lab, files="**/*.csv", features=features[:1], labels=labels, split=by_day))
    assert len(lab.split(name="test")["v"]) == 3


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("split", [None, {"by": "leave_last_out", "user": "u", "valid": 0}], ids=["whole", "by user"])
def test_keys_of_folders_in_every_format(lab: Any, form: str, split: Any) -> None:
    for user in ("a", "b"):
        folder = lab.raw / f"u={user}"
        folder.mkdir()
        table = pa.table({"v": ["x", "y"], "y": [1, 0]})
        if form == "parquet":
            pq.write_table(table, folder / "part")
        elif form == "csv":
            (folder / "part").write_text("v,y\nx,1\ny,0\n")
        else:
            (folder / "part").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    features = [{"kind": "categorical", "columns": ["u", "v"]}]
    prepare(node(lab, files="u=*", format={"type": form}, features=features, split=split), use_ray=False)
    assert sorted(set(lab.split()["u"])) == [1, 2]
    with pytest.raises(DataError, match=r"'w'.*Did you mean 'v'|'w'.*Known: "):
        prepare(node(lab, files="u=*", format={"type": form}, features=[{"kind": "categorical", "name": "w"}]))


def test_a_column_of_the_file_comes_before_the_folder(lab: Any) -> None:
    tree(lab, "v=folder/a.csv")
    prepare(node(lab, files="v=*"))
    assert values(lab) == ["a"]


def test_keys_lie_below_the_source(tmp_path: Path) -> None:
    source = Source.open(str(tmp_path / "a=1"))
    assert source.keys(f"{tmp_path}/a=1/b=2/c=x%3Dy/d=3.csv") == (("b", "2"), ("c", "x=y"))


COMPRESSED = {
    "gzip": gzip.compress,
    "gzip of two members": lambda data: gzip.compress(data[:8]) + gzip.compress(data[8:]),
    "bz2": bz2.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "lz4": lambda data: pa.compress(data, "lz4", asbytes=True),
    "none": lambda data: data,
}


@pytest.mark.parametrize("how", COMPRESSED)
@pytest.mark.parametrize("name", ["log", "log.csv", "log.gz", "log.bz2"])
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_compression_by_content(lab: Any, how: str, name: str, form: str) -> None:
    content = LOG if form == "csv" else '{"v": "a", "y": 1}\n{"v": "b", "y": 0}\n'
    (lab.raw / name).write_bytes(COMPRESSED[how](content.encode()))
    prepare(node(lab, files=name, format={"type": form}))
    assert values(lab) == ["a", "b"]


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("log.csv", LOG)
    elif kind.startswith("tar"):
        with tarfile.open(fileobj=buffer, mode="w:gz" if kind == "tar.gz" else "w") as tar:
            info = tarfile.TarInfo("log.csv")
            info.size = len(LOG)
            tar.addfile(info, io.BytesIO(LOG.encode()))
    elif kind == "xz":
        return lzma.compress(LOG.encode())
    elif kind == "parquet":
        pq.write_table(pa.table({"v": ["a"], "y": [1]}), buffer)
    else:
        return gzip.compress(gzip.compress(LOG.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "said"),
    [("zip", "a zip archive"), ("tar", "a tar archive"), ("tar.gz", "a tar archive"), ("xz", "an xz file"),
     ("parquet", "a parquet file"), ("gz.gz", "is gzip")],
)  # fmt: skip
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_what_is_no_text_is_named(lab: Any, kind: str, said: str, form: str) -> None:
    (lab.raw / "log.csv").write_bytes(archive(kind))
    if form == kind:
        prepare(node(lab, files="log.csv", format={"type": form}))
        return
    with pytest.raises(DataError, match=r"log\.csv is ") as caught:
        prepare(node(lab, files="log.csv", format={"type": form}))
    if form != "parquet":
        assert said in str(caught.value)
        assert ("format.type: parquet" if kind == "parquet" else "Unpack") in str(caught.value)


@pytest.mark.parametrize(
    "encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig", "utf-7", "cp500", "iso2022_jp", "latin-1"]
)
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_encodings_whose_bytes_are_not_lines(
    lab: Any, encoding: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "BLOCK_BYTES", 7)  # within characters, and between CR and LF
    monkeypatch.setattr(sources, "TASK_BYTES", 20)
    words = ["Ċ", "ਊ", "本"] if encoding.startswith("utf") else ["本"] if "2022" in encoding else ["é", "ü"]
    content = "".join(f"{line}{ends}" for line in ["v,y", *(f"{word},1" for word in words * 10), "last,1"])
    (lab.raw / "log.csv").write_bytes(content.encode(encoding))
    prepare(node(lab, files="log.csv", format={"encoding": encoding}))
    assert values(lab) == sorted([*words, "last"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"PAR1\x15\x04\x15\xd0\x4c\r\x15", r"a parquet file.*format\.type: parquet"),
        (LOG.replace("\n", "\r\n").encode("utf-16"), "text in UTF-16"),
    ],
)
def test_other_files_with_a_return_are_named_too(lab: Any, content: bytes, said: str) -> None:
    (lab.raw / "log.csv").write_bytes(content)
    with pytest.raises(DataError, match=rf"log\.csv is {said}"):
        prepare(node(lab, files="log.csv"))


def test_utf16_is_named(lab: Any) -> None:
    (lab.raw / "log.csv").write_bytes(LOG.encode("utf-16"))
    with pytest.raises(DataError, match=r"UTF-16.*format\.encoding: utf-16"):
        prepare(node(lab, files="log.csv"))
    (lab.raw / "log.csv").write_bytes(LOG.encode("utf-16")[:-1])
    with pytest.raises(DataError, match=r"log\.csv is not utf-16.*format\.encoding"):
        prepare(node(lab, files="log.csv", format={"encoding": "utf-16"}))


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl"])
def test_carriage_returns_alone(lab: Any, form: str) -> None:
    lines = {"csv": ["v,y", "a,1", "b,0"], "tsv": ["v\ty", "a\t1", "b\t0"],
             "jsonl": ['{"v": "a", "y": 1}', '{"v": "b", "y": 0}']}[form]  # fmt: skip
    (lab.raw / "log").write_bytes("\r".join(lines).encode())
    prepare(node(lab, files="log", format={"type": form}))
    assert values(lab) == ["a", "b"]
    (lab.raw / "log").write_bytes("\r".join([*lines, "?"]).encode())
    with pytest.raises(DataError, match=rf"log, row {len(lines) + 1}:"):
        prepare(node(lab, files="log", format={"type": form}))


def test_a_line_break_in_the_header_is_one_line(lab: Any) -> None:
    (lab.raw / "log.csv").write_bytes(b'v,"y\r"\n1,2\n')
    with pytest.raises(DataError) as caught:
        prepare(node(lab, files="log.csv"))
    assert "\n" not in str(caught.value)
    assert "log.csv" in str(caught.value)


def test_columns_that_nothing_uses_need_no_name(lab: Any) -> None:
    lab.write(a__csv=",v,y,,w,w\n0,a,1,,p,q\n1,b,0,,p,q\n")
    prepare(node(lab, files="a.csv"))
    assert values(lab) == ["a", "b"]
    with pytest.raises(DataError, match=r"a\.csv has 2 columns 'w'"):
        prepare(node(lab, files="a.csv", features=[{"kind": "categorical", "name": "w"}]))


def test_two_columns_of_one_name_in_every_format(lab: Any) -> None:
    form = {"header": False, "columns": ["v", "v", "y"]}
    with pytest.raises(ConfigError, match="names 'v' twice"):
        prepare(node(lab, files="a.csv", format=form))
    pq.write_table(pa.table([["a"], ["b"], [1]], names=["v", "v", "y"]), lab.raw / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has 2 columns 'v'"):
        prepare(node(lab, files="a.parquet", format={"type": "parquet"}))
    pq.write_table(pa.table([["a"], ["b"], ["c"], [1]], names=["u", "u", "v", "y"]), lab.raw / "a.parquet")
    prepare(node(lab, files="a.parquet", format={"type": "parquet"}))
    lab.write(a__jsonl='{"v": "a", "v": "b", "y": 1}\n')
    with pytest.raises(DataError, match=r"a\.jsonl, row 1: .*'v' stands there twice"):
        prepare(node(lab, files="a.jsonl", format={"type": "jsonl"}))


def test_a_key_of_no_row(lab: Any) -> None:
    lab.write(a__jsonl='{"v": "a", "y": 1}\n', b__jsonl='{"v": "a", "y": 1}\n{"y": 0, "tag": null}\n')
    form = {"type": "jsonl"}
    for files in ("a.jsonl", "*.jsonl"):
        with pytest.raises(DataError, match=r"a\.jsonl.*: no row has 'vv'.*Did you mean 'v'"):
            prepare(node(lab, files=files, format=form, features=[{"kind": "categorical", "name": "vv"}]))
    prepare(node(lab, files="*.jsonl", format=form, features=[{"kind": "categorical", "name": "tag"}]))
    late = "".join('{"v": "a", "y": 1}\n' for _ in range(500))
    lab.write(a__jsonl=late + '{"v": "a", "y": 1, "rare": 7}\n')
    prepare(node(lab, files="a.jsonl", format=form, features=[{"kind": "categorical", "name": "rare"}]))
    join = {"file": "b.jsonl", "format": form, "key": "v", "columns": ["side"]}
    with pytest.raises(DataError, match="no row has 'side'"):
        prepare(node(lab, files="a.jsonl", format=form, joins=[join]))


def test_files_of_different_formats(lab: Any) -> None:
    lab.write(train__csv=LOG, test__data="x\ta\t1\nx\tb\t0\nx\tc\t1\n", valid__jsonl='{"v": "b", "y": 1}\n')
    pq.write_table(pa.table({"v": ["b"], "y": [1]}), lab.raw / "more.parquet")
    files = {
        "train": ["train.csv", {"path": "more.parquet", "format": {"type": "parquet"}}],
        "test": {"path": "test.data", "format": {"delimiter": "\t", "header": False, "columns": ["_", "v", "y"]}},
        "valid": {"path": "valid.jsonl", "format": {"type": "jsonl"}},
    }
    prepare(node(lab, files=files, split={"by": "file"}))
    assert lab.split() == {"v": [2, 1, 1], "y": [1, 0, 1]}
    assert lab.split(name="test") == {"v": [2, 1, 0], "y": [1, 0, 1]}
    assert lab.split(name="valid") == {"v": [1], "y": [1]}
    prepare(node(lab, files={"path": "more.parquet", "format": {"type": "parquet"}}))
    assert values(lab) == ["b"]


def test_the_formats_of_files_lie_over_the_recipes(lab: Any) -> None:
    lab.write(train__csv="v;y\n?;1\nb;0\n", test__csv="b;1\n")
    files = {"train": "train.csv", "test": {"path": "test.csv", "format": {"header": False, "columns": ["v", "y"]}}}
    prepare(node(lab, files=files, split={"by": "file"}, format={"delimiter": ";", "null_values": ["?"]}))
    assert values(lab) == ["b"]
    assert lab.split(name="test")["v"] == [1]
    wrongs: list[tuple[Any, str]] = [
        ({"path": "a", "formt": {}}, "unknown key 'formt'"),
        ({"path": "a", "format": {"header": 3}}, "header"),
        ({"path": ""}, "path"),
        (3, "files.test.0"),
    ]
    for wrong, said in wrongs:
        with pytest.raises(ConfigError, match=said):
            prepare(node(lab, files={"train": "train.csv", "test": [wrong]}, split={"by": "file"}))


def test_names_that_yaml_reads_as_numbers_and_dates(lab: Any) -> None:
    lab.write(a__csv="0,2024-01-31,y\na,b,1\n")
    (lab.folder / "recipe.yaml").write_text(
        f"source: {lab.raw}\nout: {lab.out}\nfiles: a.csv\nlabels: [{{name: y}}]\n"
        "features: [{kind: categorical, columns: [0, 2024-01-31]}]\n"
    )
    prepare(lab.folder / "recipe.yaml")
    assert lab.split() == {"0": [1], "2024-01-31": [1], "y": [1]}
