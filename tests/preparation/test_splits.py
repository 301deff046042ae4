"""Splits, histories, joins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import Recipe, prepare

LABEL = [{"name": "y", "expression": "1"}]
EVENTS = """u,i,t
a,10,5
b,20,1
a,11,3
a,12,9
b,21,2
a,13,7
c,30,4
"""


def test_random_split_does_not_depend_on_other_columns(lab: Any) -> None:
    rows = 20_000
    lab.write(train__csv="x\n" + "\n".join(map(str, range(rows))))
    node = lab.recipe(
        files="train.csv",
        split={"by": "random", "fractions": {"train": 0.7, "valid": 0.2, "test": 0.1}, "seed": 5},
        features=[{"kind": "numeric", "name": "x"}],
        labels=LABEL,
    )
    out = prepare(node).out
    parts = {name: lab.split(out, name)["x"] for name in ("train", "valid", "test")}
    assert sorted(x for part in parts.values() for x in part) == list(range(rows))
    # five standard deviations of a binomial share
    for name, share in {"train": 0.7, "valid": 0.2, "test": 0.1}.items():
        assert abs(len(parts[name]) - share * rows) < 5 * np.sqrt(rows * share * (1 - share))
    again = prepare({**node, "out": str(lab.folder / "again"), "row_group_rows": 1000}).out
    assert lab.split(again, "test")["x"] == parts["test"]
    other = {**node["split"], "seed": 6}
    changed = prepare({**node, "out": str(lab.folder / "other"), "split": other}).out
    assert lab.split(changed, "test")["x"] != parts["test"]


def test_split_by_column(lab: Any) -> None:
    lab.write(train__csv="x,fold\n1,0\n2,1\n3,9\n4,0\n")
    node = lab.recipe(
        files="train.csv",
        split={"by": "column", "column": "fold", "values": {"train": [0, 1], "test": 9}},
        features=[{"kind": "numeric", "name": "x"}],
        labels=LABEL,
    )
    out = prepare(node).out
    assert lab.split(out)["x"] == [1, 2, 4]
    assert lab.split(out, "test")["x"] == [3]


@pytest.mark.parametrize("values", [{"train": True, "test": False}, {"train": [True], "test": ["False", "false"]}])
@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_split_by_true_and_false(lab: Any, form: str, values: dict[str, Any]) -> None:
    frame = pd.DataFrame({"x": [1, 2, 3], "keep": [True, False, True]})
    path = lab.raw / f"a.{form}"
    if form == "csv":
        frame.to_csv(path, index=False)
    elif form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_parquet(path)
    node = lab.recipe(
        files=path.name,
        format={"type": form},
        split={"by": "column", "column": "keep", "values": values},
        features=[{"kind": "numeric", "name": "x"}],
        labels=[{"name": "y", "expression": "keep == True"}],
    )
    out = prepare(node).out
    assert lab.split(out) == {"x": [1, 3], "y": [1, 1]}
    assert lab.split(out, "test") == {"x": [2], "y": [0]}
    assert Recipe.load(Path(out) / "recipe.json") == Recipe.from_dict(node)


@pytest.mark.parametrize(
    "how",
    [
        {"fractions": {"train": 0.6, "valid": 0.2, "test": 0.2}},
        {"starts": {"valid": "2024-01-04", "test": "2024-01-05T00:00:00Z"}},
    ],
)
def test_split_by_time(lab: Any, how: dict[str, object]) -> None:
    days = ["2024-01-03", "2024-01-01", "2024-01-05", "2024-01-02", "2024-01-04"]
    lab.write(train__csv="x,t\n" + "\n".join(f"{i},{day}" for i, day in enumerate(days)))
    node = lab.recipe(
        files="train.csv",
        split={"by": "time", "column": "t", **how},
        features=[{"kind": "categorical", "name": "x"}],
        labels=LABEL,
    )
    result = prepare(node)
    assert {name: numbers["rows"] for name, numbers in result.stats["splits"].items()} == {
        "train": 3, "valid": 1, "test": 1,
    }  # fmt: skip
    assert lab.split(result.out)["x"] == [1, 2, 3]  # "0", "1", "3" are known; the later ones are not
    assert lab.split(result.out, "test")["x"] == [0]


def test_leave_last_out_with_history(lab: Any) -> None:
    """a: 11, 10, 13, 12 by time; b: 20, 21; c: 30."""
    lab.write(train__csv=EVENTS)
    node = lab.recipe(
        files="train.csv",
        history={"user": "u", "item": "i", "order": "t", "max_length": 2},
        split={"by": "leave_last_out", "user": "u", "order": "t"},
        features=[{"kind": "numeric", "name": "i"}, {"kind": "sequence", "name": "history", "hash_buckets": 1 << 30}],
        labels=LABEL,
    )
    out = prepare(node).out
    lengths = {
        name: dict(zip(lab.split(out, name)["i"], map(len, lab.split(out, name)["history"]), strict=True))
        for name in ("train", "valid", "test")
    }
    assert lengths == {"train": {11: 0, 10: 1}, "valid": {13: 2, 20: 0}, "test": {12: 2, 21: 1, 30: 0}}
    # the history of a's last item holds 10 and 13, and 13's ids are those of 11 and 10
    tests, valids = lab.split(out, "test"), lab.split(out, "valid")
    before_12 = tests["history"][tests["i"].index(12)]
    before_13 = valids["history"][valids["i"].index(13)]
    assert before_12[0] == before_13[1]
    assert before_12[1] not in before_13


def test_history_by_file_order_and_min_length(lab: Any) -> None:
    lab.write(train__csv=EVENTS)
    node = lab.recipe(
        files="train.csv",
        history={"user": "u", "item": "i", "min_length": 1},
        split=None,
        features=[{"kind": "categorical", "name": "i"}, {"kind": "sequence", "name": "history", "shared_with": "i"}],
        labels=LABEL,
    )
    out = prepare(node).out
    # targets 11 12 21 13, histories [10] [10 11] [20] [10 11 12]; the rows left out are 10 and 20: every count is 1
    assert lab.split(out) == {"i": [2, 3, 6, 4], "history": [[1], [1, 2], [5], [1, 2, 3]], "y": [1] * 4}


def test_histories_reach_over_the_files_of_a_split_by_file(lab: Any) -> None:
    lab.write(train__csv="u,i,y\na,10,1\nb,20,1\na,11,1\n", test__csv="u,i,y\na,12,1\nb,21,1\n")
    node = lab.recipe(
        history={"user": "u", "item": "i"},
        features=[{"kind": "categorical", "name": "i"}, {"kind": "sequence", "name": "history", "shared_with": "i"}],
        labels=LABEL,
    )
    out = prepare(node).out
    train, test = lab.split(out), lab.split(out, "test")
    ten, twenty, eleven = train["i"]
    assert train["history"] == [[], [], [ten]]
    assert test == {"i": [0, 0], "history": [[ten, eleven], [twenty]], "y": [1, 1]}
    carved = prepare({**node, "out": str(lab.folder / "more"), "overwrite": True,
                      "split": {"by": "file", "carve": {"valid": {"of": "train", "fraction": 0.5}}}})  # fmt: skip
    counts = {name: numbers["rows"] for name, numbers in carved.stats["splits"].items()}
    assert counts["train"] + counts["valid"] == 3
    assert counts["test"] == 2


def test_a_user_a_line(lab: Any) -> None:
    lab.write(train__csv="u1 5 6 7\nu2 6 8\n")
    node = lab.recipe(
        files="train.csv",
        format={"delimiter": " ", "header": False, "columns": ["user", "items"], "rest": True},
        history={"items": "items", "separator": " ", "item": "item", "max_length": 2},
        split={"by": "leave_last_out", "valid": 0},
        features=[
            {"kind": "categorical", "columns": ["user", "item"]},
            {"kind": "sequence", "name": "history", "shared_with": "item"},
        ],
        labels=LABEL,
    )
    out = prepare(node).out
    # training rows: u1 -> 5, u1 5 -> 6, u2 -> 6; counts 5: 1, 6: 2
    assert lab.split(out) == {"user": [1, 1, 2], "item": [2, 1, 1], "history": [[], [2], []], "y": [1, 1, 1]}
    assert lab.split(out, "test") == {"user": [1, 2], "item": [0, 0], "history": [[2, 1], [1]], "y": [1, 1]}


def test_joins(lab: Any) -> None:
    lab.write(
        train__csv="u,i,y\n1,x,1\n2,y,0\n3,x,1\n",
        users__dat="1::F::30\n3::M::40\n",
        items__json='{"x": [1, 2], "y": [2]}',
    )
    joins = [
        {"file": "users.dat", "key": "u", "columns": ["sex", "age"],
         "format": {"delimiter": "::", "header": False, "columns": ["u", "sex", "age"]}},
        {"file": "items.json", "key": "key", "input_key": "i", "columns": ["value"], "format": {"type": "json_map"}},
    ]  # fmt: skip
    features = [
        {"kind": "categorical", "name": "sex"},
        {"kind": "numeric", "name": "age", "fill": -1},
        {"kind": "sequence", "name": "tags", "column": "value"},
    ]
    labels = [{"name": "y"}]
    node = lab.single(joins=joins, features=features, labels=labels)
    assert lab.split(prepare(node).out) == {
        "sex": [1, 0, 2],
        "age": [30, -1, 40],
        "tags": [[2, 1], [1], [2, 1]],
        "y": [1, 0, 1],
    }


def test_carving_a_split_from_a_file(lab: Any) -> None:
    rows = "x\n" + "\n".join(map(str, range(1000)))
    lab.write(train__csv=rows, test__csv=rows)
    node = lab.recipe(
        split={"by": "file", "carve": {"valid": {"of": "test", "fraction": 0.5}}},
        features=[{"kind": "numeric", "name": "x"}],
        labels=LABEL,
    )
    out = prepare(node).out
    valid, test = lab.split(out, "valid")["x"], lab.split(out, "test")["x"]
    assert sorted(valid + test) == list(range(1000))
    assert 400 < len(valid) < 600
    assert len(lab.split(out)["x"]) == 1000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fractions": {"train": 0.5, "test": 0.4}}, ["add up to 1", "0.9"]),
        ({"fractions": {"valid": 0.5, "test": 0.5}}, ["no split is called 'train'"]),
    ],
)
def test_wrong_fractions(lab: Any, change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(lab.recipe(files="train.csv", split={"by": "random", **change}))
    assert all(word in str(caught.value) for word in words)


TIMES = {"by": "time", "column": "t"}


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({**TIMES, "fractions": {"train": 0.6, "valid": 0.2, "c": 0.2}}, ["'valid'", "one moment in all rows of 't'"]),
        ({**TIMES, "starts": {"test": "2024-01-01"}}, ["'test'", "1700000000 (2023-11-14 22:13:20)"]),
        ({**TIMES, "starts": {"valid": 5, "test": 1800000000}}, ["'train'", "valid from 5"]),
        ({"by": "column", "column": "x", "values": {"train": [1, 2, 3], "test": ["ten"]}}, ["'test'", "'x' = ten"]),
        ({"by": "random", "fractions": {"train": 0.9, "test": 0.1}, "seed": 1}, ["'test'", "a fraction of 0.1", "few"]),
        ({"by": "leave_last_out", "user": "u", "valid": 2}, ["'train'", "no user with more than 3 rows"]),
        ({"by": "leave_last_out", "user": "x"}, ["'train'", "no user with more than 2 rows"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("fitted", [True, False])
def test_an_empty_split_is_an_error_with_the_reason(
    lab: Any, split: dict[str, Any], words: list[str], fitted: bool
) -> None:
    lab.write(train__csv="x,t,u\n1,1700000000,a\n2,1700000000,a\n3,1700000000,a\n")
    features = [{"kind": "categorical" if fitted else "numeric", "name": "x"}]
    node = lab.recipe(files="train.csv", split=split, features=features, labels=LABEL)
    with pytest.raises(DataError) as caught:
        prepare(node)
    assert all(word in str(caught.value) for word in ["has no rows", *words]), str(caught.value)
    assert not lab.out.exists()


def test_two_starts_of_one_moment(lab: Any) -> None:
    """Most rows are of one moment, so that a split between two edges stays empty."""
    lab.write(train__csv="x,t\n1,1\n" + "2,5\n" * 8 + "3,9\n")
    split = {**TIMES, "fractions": {"train": 0.5, "valid": 0.2, "test": 0.3}}
    features = [{"kind": "categorical", "name": "x"}]
    with pytest.raises(DataError, match=r"split 'valid' has no rows.*3 different moments.*one moment stay together"):
        prepare(lab.recipe(files="train.csv", split=split, features=features, labels=LABEL))


def test_a_min_length_that_leaves_nothing(lab: Any) -> None:
    lab.write(train__csv=EVENTS)
    history = {"user": "u", "item": "i", "order": "t", "min_length": 9}
    features = [{"kind": "sequence", "name": "history"}]
    with pytest.raises(DataError, match=r"'train' has no rows.*`history.min_length: 9` leaves out"):
        prepare(lab.recipe(files="train.csv", history=history, split=None, features=features, labels=LABEL))
