"""What `prepare` says at its end, and joins that match nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from rechub_ray.errors import DataError
from rechub_ray.preparation import prepare

JOIN = {"file": "items.csv", "key": "item", "columns": ["shelf"]}
FEATURES = [{"kind": "categorical", "columns": ["item", "shelf"]}]


def notes(lab: Any, **changes: Any) -> list[str]:
    found: list[str] = prepare({**lab.single(features=FEATURES, joins=[JOIN]), "overwrite": True, **changes}).stats[
        "notes"
    ]
    return found


@pytest.mark.parametrize("features", [FEATURES, [{"kind": "numeric", "name": "shelf"}]])
def test_a_side_table_that_matches_nothing_is_an_error(lab: Any, features: list[dict[str, Any]]) -> None:
    lab.write(train__csv="item,y\n001,1\n002,0\n", items__csv="item,shelf\n1,5\n2,6\n")
    with pytest.raises(DataError) as caught:
        notes(lab, features=features)
    for word in ("items.csv", "none of the 2 rows", "'001' here, '1' there", "leading zeros"):
        assert word in str(caught.value)
    assert not lab.out.exists()


def test_a_side_table_that_lacks_some_rows_is_said(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab.write(train__csv="item,y\n1,1\n2,0\n9,0\n", items__csv="item,shelf\n1,5\n2,6\n")
    assert notes(lab) == ["items.csv: 1 rows (33.33%) have no partner, so nulls"]
    assert caplog.text.count("have no partner") == 1


@pytest.mark.parametrize(
    ("log", "items"), [("7.0", "7"), ("7", "7.0"), ("-7.0", "-7"), ("12345678901234567890.0", "12345678901234567890")]
)
def test_keys_of_another_form_meet_in_joins(lab: Any, log: str, items: str) -> None:
    lab.write(train__csv=f"item,y\n{log},1\n2,0\n", items__csv=f"item,shelf\n{items},5\n2,6\n")
    assert not notes(lab)
    assert lab.split()["shelf"] == [1, 2]


def test_one_key_in_two_forms_in_a_side_table(lab: Any) -> None:
    lab.write(train__csv="item,y\n7,1\n", items__csv="item,shelf\n7,5\n7.0,6\n")
    with pytest.raises(DataError, match="key 'item' is not unique"):
        notes(lab)


def test_unknown_values_are_looked_up_in_their_other_form(lab: Any) -> None:
    lab.write(train__csv="v,y\n7,1\n8.0,0\nv1,1\n", test__csv="v,y\n7.0,1\n8,0\nv1.0,0\n9.0,1\n")
    result = lab.prepare(features=[{"kind": "categorical", "name": "v"}], labels=[{"name": "y"}])
    assert lab.split()["v"] == [1, 2, 3]
    assert lab.split(name="test")["v"] == [1, 2, 0, 0]
    assert result.stats["splits"]["test"]["features"]["v"]["unseen"] == 2


def test_a_vocabulary_with_both_forms_is_said(lab: Any) -> None:
    lab.write(train__csv="v,y\n7,1\n7.0,0\n8.0,1\nv1.0,1\nv1,0\n")
    features = [{"kind": "categorical", "name": "v"}]
    assert notes(lab, features=features, joins=[]) == [
        "feature 'v': 1 values have two forms and two ids, such as '7' and '7.0'"
    ]


def test_groups_of_both_forms_are_one(lab: Any) -> None:
    lab.write(train__csv="v,y\n7,1\n7.0,0\n")
    notes(lab, features=[{"kind": "numeric", "name": "x", "column": "v"}], joins=[], group="v")
    assert lab.split()["v"] == [7, 7]


def test_what_holds_nothing_is_said(lab: Any) -> None:
    lab.write(train__csv="a,b,c,y\n,1,x,1\n,2,x,1\n")
    features = [
        {"kind": "numeric", "name": "a"},
        {"kind": "categorical", "name": "b", "min_frequency": 2},
        {"kind": "categorical", "name": "c"},
    ]
    assert notes(lab, features=features, joins=[]) == [
        "label 'y' is always 1 in train: there is nothing to learn",
        "feature 'a' has no value in train",
        "feature 'b': no value is left for its vocabulary, so every row has id 0 (min_frequency?)",
    ]
    # a constant that the recipe itself states is meant
    assert not notes(lab, features=features[2:], joins=[], labels=[{"name": "y", "expression": "1"}])


def test_one_class_in_validation(lab: Any) -> None:
    lab.write(train__csv="v,y\n7,1\n8,0\n", test__csv="v,y\n7,1\n")
    result = lab.prepare(features=[{"kind": "numeric", "name": "v"}], labels=[{"name": "y"}])
    assert result.stats["notes"] == ["label 'y' is always 1 in test: AUC is not defined there"]


def log(rows: int = 400, **columns: Any) -> str:
    """A log of a user and an item a row, which say something of `y` each; `columns` are added or replaced."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"user": rng.integers(0, 20, rows), "item": rng.integers(0, 30, rows)}
    found |= {
        "y": ((found["user"] % 5 + rng.integers(0, 6, rows)) > 4).astype(int),
        "ts": np.arange(rows) + 1_700_000_000,
    }
    found |= {name: np.broadcast_to(make(found), rows) for name, make in columns.items()}
    return str(pd.DataFrame(found).to_csv(index=False))


def columns(*names: str) -> list[dict[str, Any]]:
    return [{"kind": "categorical", "name": name} for name in names]


def test_features_that_say_nothing_or_too_much(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    changes: dict[str, Any] = {
        "same": lambda found: 7,
        "zero": lambda found: 0,
        "told": lambda found: found["y"] * 3 + 1,
    }
    lab.write(train__csv=log(**changes))
    features = [*columns("user", "item", "same", "told"), {"kind": "numeric", "name": "zero"}]
    first, second = notes(lab, features=features, joins=[])
    assert first.startswith("one value in all rows of train: 'same', 'zero'. Such a feature says nothing")
    assert second.startswith("label 'y' is told by one feature alone: 'told' (AUC 1.0000 on rows of train). ")
    assert caplog.text.count("WARNING") == 2
    caplog.clear()
    quiet = notes(lab, features=features, joins=[], warnings=False)
    assert quiet == [first]  # from statistics, which are there anyway
    assert not caplog.text


def test_splits_that_differ(lab: Any) -> None:
    lab.write(train__csv=log())
    split = {"by": "time", "column": "ts", "fractions": {"train": 0.75, "valid": 0.25}}
    features = [*columns("user", "item"), {"kind": "numeric", "name": "ts"}]
    (line,) = notes(lab, features=features, joins=[], split=split)
    assert line.startswith("distributions that differ from those in train (total variation, 0 to 1): 'ts' (")
    lab.write(train__csv=log(day=lambda found: (found["ts"] - found["ts"][0]) // 20))
    (line,) = notes(lab, features=columns("user", "item", "day"), joins=[], split=split)
    assert line.startswith("values that train does not have, or none at all: 'day' (100% in valid). ")


@pytest.mark.parametrize(
    "split", [None, {"by": "leave_last_out", "user": "user", "order": "ts", "valid": 1, "test": 1}]
)
def test_a_column_of_time_with_one_moment(lab: Any, split: Any) -> None:
    given: dict[str, Any] = {"features": columns("user", "item"), "joins": [], "split": split, "labels": []}
    given["history"] = {"user": "user", "item": "item", "order": "ts", "max_length": 3}
    lab.write(train__csv=log())
    assert not notes(lab, **given)
    lab.write(train__csv=log(ts=lambda found: 1_700_000_000))
    (line,) = notes(lab, **given)
    assert line.startswith(
        "the column of time 'ts' has one moment in all rows, so the order in histories and splits is"
    )
