"""Whatever a user can get wrong: one paragraph that names the place, and nothing left behind."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from rechub_ray import config
from rechub_ray.errors import ConfigError, DataError, RechubError
from rechub_ray.preparation import Recipe, prepare

GOOD = "user,item,price,tags,rating\n1,a,2,x,5\n2,b,3,y,1\n"


def failure(lab: Any, node: dict[str, Any], kind: type[RechubError] = DataError) -> str:
    with pytest.raises(kind) as caught:
        prepare(node)
    assert not lab.out.exists()
    assert [path.name for path in lab.folder.iterdir()] == ["raw"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def says(message: str, *words: str) -> None:
    for word in words:
        assert word in message, message


def test_missing_file(lab: Any) -> None:
    lab.write(trian__csv=GOOD, test__csv=GOOD)
    says(failure(lab, lab.recipe()), "train.csv", "Did you mean 'trian.csv'?")


def test_missing_folder(lab: Any) -> None:
    says(failure(lab, lab.recipe(source=str(lab.folder / "nowhere"))), "nowhere/train.csv", "check 'source'")


def test_a_file_in_place_of_the_folder(lab: Any) -> None:
    lab.write(train__csv=GOOD)
    says(failure(lab, lab.recipe(source=str(lab.raw / "train.csv"))), "cannot list", "Not a directory", "'source'")


def test_wrong_delimiter(lab: Any) -> None:
    lab.write(train__csv=GOOD)
    says(failure(lab, lab.single(format={"type": "tsv"})), "train.csv", "'format.delimiter'")


def test_unknown_column(lab: Any) -> None:
    lab.write(train__csv=GOOD)
    node = lab.single(features=[{"kind": "categorical", "name": "usr"}], labels=[{"name": "rating"}])
    says(failure(lab, node), "no column 'usr'", "Did you mean 'user'?")


def test_unknown_column_of_a_side_table(lab: Any) -> None:
    lab.write(train__csv=GOOD, items__csv="item,colour\na,red\n")
    node = lab.recipe(files="train.csv", split=None, joins=[{"file": "items.csv", "key": "item", "columns": ["color"]}])
    says(failure(lab, node), "items.csv", "no column 'color'", "Did you mean 'colour'?")


def test_side_table_with_two_rows_a_key(lab: Any) -> None:
    lab.write(train__csv=GOOD, items__csv="item,colour\na,red\na,blue\n")
    node = lab.recipe(
        files="train.csv", split=None, joins=[{"file": "items.csv", "key": "item", "columns": ["colour"]}]
    )
    says(failure(lab, node), "items.csv", "'item' is not unique", "'a'")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("3,c,cheap,x,4", ["column 'price'", "'cheap' is not a number"]),
        ("3,c,inf,x,4", ["column 'price'", "not finite"]),
        ("3,c,1,x", ["4 fields, expected 5, cut at ','"]),
        ("3,c,1,x,4,5", ["6 fields, expected 5"]),
        ("3,c,1,x,", ["label 'liked' is null"]),
        ("3,c,1,x,good", ["column 'rating'", "'good' is not a number"]),
    ],
)
def test_bad_row_names_file_and_line(lab: Any, line: str, words: list[str]) -> None:
    lab.write(
        train__csv=GOOD + "\n" + line + "\n1,a,1,x,5\n", test__csv=GOOD
    )  # the bad one is line 5, after an empty one
    says(failure(lab, lab.recipe()), "train.csv, row 5:", "on_bad_rows: quarantine", *words)


def test_bad_utf8_names_its_line(lab: Any) -> None:
    lab.write(test__csv=GOOD)
    (lab.raw / "train.csv").write_bytes(GOOD.encode() + "3,Käse,1,x,4\n".encode("latin-1"))
    says(failure(lab, lab.recipe()), "train.csv, row 4:", "not UTF-8")
    form = {"encoding": "latin-1"}
    lab.prepare(format=form)
    assert lab.split()["item"] == [2, 3, 1]  # K sorts before a


def test_quarantine(lab: Any) -> None:
    bad = "3,c,cheap,x,4\n3,c,1,x\n4,d,1,x,\n"
    lab.write(train__csv=GOOD + bad, test__csv=GOOD)
    result = lab.prepare(on_bad_rows="quarantine")
    assert result.stats["bad_rows"] == 3
    assert lab.split()["user"] == [1, 2]
    lines = [json.loads(line) for line in (lab.out / "quarantine" / "part-00000.jsonl").read_text().splitlines()]
    assert [(Path(row["file"]).name, row["row"]) for row in lines] == [
        ("train.csv", 4),
        ("train.csv", 5),
        ("train.csv", 6),
    ]
    assert "cheap" in lines[0]["text"]
    assert lines[1]["text"] == "3,c,1,x"
    # the quarantined values did not enter the vocabulary
    assert result.schema.sparse[0].vocab_size == 3


def test_empty_file(lab: Any) -> None:
    lab.write(train__csv="", test__csv=GOOD)
    says(failure(lab, lab.recipe()), "train.csv is empty")


def test_header_only(lab: Any) -> None:
    lab.write(train__csv=GOOD.splitlines()[0] + "\n", test__csv=GOOD)
    says(failure(lab, lab.recipe()), "the split 'train' has no rows", "files without usable rows")


def test_truncated_gzip(lab: Any) -> None:
    data = gzip.compress((GOOD + "1,a,1,x,5\n" * 5000).encode())
    (lab.raw / "train.csv.gz").write_bytes(data[: len(data) // 2])
    says(failure(lab, lab.recipe(files="train.csv.gz", split=None)), "train.csv.gz", "cannot be read")


def test_foreign_parquet(lab: Any) -> None:
    lab.write(train__parquet="not parquet")
    says(
        failure(lab, lab.single(files="*.parquet", format={"type": "parquet"})),
        "train.parquet",
        "not a readable parquet",
    )


def test_bad_json_line(lab: Any) -> None:
    lab.write(train__jsonl='{"user": 1, "y": 1}\n{"user": 2, "y"\n')
    features = [{"kind": "categorical", "name": "user"}]
    node = lab.single(files="train.jsonl", format={"type": "jsonl"}, features=features)
    says(failure(lab, node), "train.jsonl, row 2:", "not JSON")


def test_value_of_no_split(lab: Any) -> None:
    lab.write(train__csv=GOOD)
    split = {"by": "column", "column": "item", "values": {"train": "a"}}
    says(failure(lab, lab.recipe(files="train.csv", split=split)), "row 3", "'b' belongs to no split")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fils": "x"}, ["unknown key 'fils'", "Did you mean 'files'?"]),
        ({"features": [{"kind": "categorical", "name": "a", "min_freqency": 2}]},
         ["features.0", "'min_freqency'", "Did you mean 'min_frequency'?"]),
        ({"features": [{"kind": "categorial", "name": "a"}]},
         ["'features.0.kind': there is no 'categorial'", "Did you mean 'categorical'?"]),
        ({"features": [{"name": "a"}]}, ["'features.0.kind' is missing", "categorical"]),
        ({"features": [{"kind": "numeric", "columns": ["a", "b"]}, {"kind": "bucket", "name": "c"}]},
         ["'features.1.num_buckets' is missing"]),
        ({"features": [{"kind": "numeric", "columns": "a"}]}, ["'features.0.columns'", "a list of columns"]),
        ({"features": [{"kind": "categorical", "name": "a", "min_frequency": True}]},
         ["'features.0.min_frequency' is not a switch", "Got: true."]),
        ({"row_group_rows": True}, ["'row_group_rows' is not a switch", "a number"]),
        ({"overwrite": 1}, ["'overwrite' is a switch"]),
        ({"format": {"header": "yes"}}, ["'format.header' is a switch"]),
        ({"split": {"by": "random", "fractions": {"train": 0.5, "test": 0.5}, "seed": False}},
         ["'split.seed' is not a switch", "Got: false."]),
        ({"split": {"by": "column", "column": "a", "values": {"train": True, "test": ["true", "x"]}}},
         ["'split'", "'true' belongs to the splits 'train' and 'test'"]),
        ({"split": 3}, ["'split' is not a section"]),
        ({"checksums": {"train.csv": "abc"}}, ["'checksums.train.csv'"]),
        ({"features": [{"kind": "categorical", "name": "a", "min_frequency": 0}]}, ["min_frequency", "got 0"]),
        ({"features": [{"kind": "categorical", "columns": ["a", "a"]}]}, ["'a' names two columns"]),
        ({"features": [{"kind": "categorical", "name": "item"},
                       {"kind": "sequence", "name": "h", "shared_with": "itm"}]},
         ["shared_with: itm", "Did you mean 'item'?"]),
        ({"features": [{"kind": "numeric", "name": "a", "transforms": ["min_max", "log1p"]}]}, ["comes last"]),
        ({"features": "user"}, ["features"]),
        ({"labels": [{"name": "y", "num_classes": 3}]}, ["'labels.0'", "'kind: multiclass'"]),
        ({"labels": [{"name": "y", "kind": "multiclass", "num_classes": 1}]}, ["'labels.0.num_classes'", "got 1"]),
        ({"labels": [{"name": "y", "kind": "multi"}]}, ["'labels.0.kind'", "'multiclass'"]),
        ({"cluster_by": "a", "group": "b"}, ["'group' and 'cluster_by'", "a"]),
        ({"history": {"item": "i", "user": "u", "ties": "exclude"}}, ["history", "needs 'order'"]),
        ({"features": []}, ["'features' is empty"]),
        ({"files": {}}, ["'files' is empty"]),
        ({"files": []}, ["'files' is empty"]),
        ({"files": {"train": "a.csv", "test": []}}, ["'files.test' is empty"]),
        ({"labels": [{"nam": "y"}]}, ["'labels.0': unknown key 'nam'. Did you mean 'name'?"]),
        ({"labels": [{"name": "y", "expression": "__import__('os')"}]}, ["may not hold"]),
        ({"split": {"by": "flie"}}, ["'split.by': there is no 'flie'. Did you mean 'file'?"]),
        ({"split": {"by": "random", "fractions": {"train": "most", "test": 0.5}}}, ["fractions.train", "'most'"]),
        ({"split": {"by": "leave_last_out"}, "files": "x"}, ["'split.user' is missing"]),
        ({"files": "train.csv"}, ["names no splits"]),
        ({"format": {"header": False}}, ["header"]),
        ({"format": {"encoding": "utf-9"}}, ["unknown encoding 'utf-9'"]),
        ({"history": {"item": "i"}}, ["history", "either 'user'"]),
        ({"on_bad_rows": "ignore"}, ["on_bad_rows", "'ignore'"]),
        ({"out": ""}, ["'out' is missing"]),
        ({"features": [{"kind": "categorical", "columns": [True]}]}, ["reads this name as true", "quotes"]),
        ({"features": [{"kind": "categorical", "columns": [1.0]}]}, ["features.0.name", "as 1.0", "quotes"]),
        ({"labels": [{"name": None}]}, ["labels.0.name", "as null", "quotes"]),
        ({"split": {"by": "random", "fractions": {"train": 0.5, "vocab": 0.5}}, "files": "a"},
         ["a split cannot be called 'vocab'"]),
        ({"split": {"by": "random", "fractions": {"train": 0.5, "..": 0.5}}, "files": "a"},
         ["a split cannot be called '..'"]),
    ],
)  # fmt: skip
def test_wrong_recipe(lab: Any, change: dict[str, Any], words: list[str]) -> None:
    says(failure(lab, lab.recipe(**change), ConfigError), *words)


def test_recipe_files(lab: Any) -> None:
    with pytest.raises(ConfigError, match="cannot read the recipe"):
        Recipe.load(lab.folder / "none.yaml")
    path = lab.folder / "bad.yaml"
    path.write_text("a: [")
    with pytest.raises(ConfigError, match="is not YAML"):
        Recipe.load(path)
    path.write_text("- a")
    with pytest.raises(ConfigError, match="not a recipe"):
        Recipe.load(path)
    path.write_text("files: a.csv\nfiles: b.csv\n")
    with pytest.raises(ConfigError, match="the key 'files' is given twice"):
        Recipe.load(path)
    path.write_text(yaml.safe_dump(lab.recipe()))
    assert Recipe.load(path) == Recipe.from_dict(lab.recipe())


def test_a_file_that_is_not_the_recipes_is_refused_unless_it_is_meant(lab: Any) -> None:
    compressed = gzip.compress(GOOD.encode())
    (lab.raw / "train.csv.gz").write_bytes(compressed)
    lab.write(test__csv=GOOD)
    files = {"train": "train.csv.gz", "test": "test.csv"}
    sums = {"train.csv.gz": hashlib.sha256(compressed).hexdigest(), "not-there.csv": "0" * 64}
    lab.prepare(files=files, checksums=sums, overwrite=True)  # of the file as it lies there, not of its content
    shutil.rmtree(lab.out)
    recipe = lab.recipe(files=files, checksums={**sums, "test.csv": "1" * 64}, url="https://data.example")
    message = failure(lab, recipe)
    says(message, "test.csv is not the file", "1" * 64, hashlib.sha256(GOOD.encode()).hexdigest())
    says(message, "https://data.example", "checksums={}")
    prepare(config.merge(recipe, ["checksums={}"]))


def test_existing_folder_is_kept_unless_it_may_be_overwritten(lab: Any) -> None:
    lab.write(train__csv=GOOD, test__csv=GOOD)
    lab.prepare()
    with pytest.raises(ConfigError, match="exists already"):
        lab.prepare()
    lab.write(train__csv=GOOD + "9,z,1,x,5\n")
    lab.prepare(overwrite=True)
    assert len(lab.split()["user"]) == 3
    # a failure leaves the old result as it was
    lab.write(train__csv=GOOD + "9,z,cheap,x,5\n")
    with pytest.raises(DataError, match="cheap"):
        lab.prepare(overwrite=True)
    assert len(lab.split()["user"]) == 3
    assert sorted(path.name for path in lab.folder.iterdir()) == ["out", "raw"]


def test_a_folder_of_something_else_is_never_overwritten(lab: Any) -> None:
    lab.write(train__csv=GOOD, test__csv=GOOD)
    with pytest.raises(ConfigError, match="not a prepared data set"):
        lab.prepare(out=str(lab.raw), overwrite=True)
    assert (lab.raw / "train.csv").exists()


def test_a_gzip_that_breaks_off_late_names_its_file(lab: Any) -> None:
    """Far behind the first read, so in the middle of the first pass."""
    draw = "".join(f"{n * 7919 % 10007},{n * 31 % 977},{n}.5,x,5\n" for n in range(40_000))
    data = gzip.compress((GOOD + draw).encode())
    (lab.raw / "train.csv.gz").write_bytes(data[:-2000])
    says(failure(lab, lab.recipe(files="train.csv.gz", split=None)), "train.csv.gz", "cannot be read to its end")
