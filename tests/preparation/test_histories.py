"""Histories: which earlier rows are in them, and how often each row counts for a vocabulary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.preparation import prepare

EVENTS = "u,i,t\na,1,10\na,2,20\na,3,20\na,4,20\na,5,30\nb,1,10\n"
LABELS = [{"name": "y", "expression": "1"}]


def node(lab: Any, features: list[dict[str, Any]] | None = None, **history: Any) -> dict[str, Any]:
    result: dict[str, Any] = lab.recipe(
        files="train.csv",
        split=None,
        labels=LABELS,
        history={"user": "u", "item": "i", "order": "t", **history},
        features=features
        or [{"kind": "numeric", "name": "i"}, {"kind": "sequence", "name": "history", "hash_buckets": 1 << 30}],
    )
    return result


def lengths(lab: Any, out: str) -> list[tuple[int, int]]:
    columns = lab.split(out)
    return sorted((int(i), len(history)) for i, history in zip(columns["i"], columns["history"], strict=True))


def counts(out: str, name: str) -> dict[str, int]:
    table = pq.read_table(Path(out) / "vocab" / f"{name}.parquet").to_pydict()
    return dict(zip(table["value"], table["count"], strict=True))


def test_rows_of_one_moment(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    lab.write(train__csv=EVENTS)
    result = prepare(node(lab))
    assert lengths(lab, result.out) == [(1, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert "the histories of 2 rows hold rows of the same moment" in caplog.text
    assert "`history.ties: exclude`" in result.stats["notes"][0]
    caplog.clear()
    result = prepare({**node(lab, ties="exclude"), "overwrite": True})
    assert lengths(lab, result.out) == [(1, 0), (1, 0), (2, 1), (3, 1), (4, 1), (5, 4)]
    assert not result.stats["notes"]
    assert not caplog.text
    # a maximum is taken of what is left, a minimum counts what is left
    result = prepare({**node(lab, ties="exclude", max_length=2, min_length=1), "overwrite": True})
    assert lengths(lab, result.out) == [(2, 1), (3, 1), (4, 1), (5, 2)]


def test_without_times_nothing_ties(lab: Any) -> None:
    lab.write(train__csv=EVENTS)
    result = prepare(node(lab, order=None))
    assert lengths(lab, result.out) == [(1, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]
    assert not result.stats["notes"]


def test_rows_without_times_shuffled(lab: Any) -> None:
    rows = [f"{user},{item},0" for user in range(200) for item in range(1, 6)]
    lab.write(a__csv="\n".join(["u,i,t", *rows]), b__csv="\n".join(["u,i,t", *[f"{user},6,0" for user in range(200)]]))
    split = {"by": "leave_last_out", "user": "u", "valid": 1, "test": 1}
    recipe = node(lab, order=None, shuffle=True) | {"files": ["a.csv", "b.csv"], "split": split}
    out = prepare(recipe).out
    assert set(lab.split(out, "test")["i"]) == {6}  # the files keep their order
    valid = [int(item) for item in lab.split(out, "valid")["i"]]
    assert all(25 <= valid.count(item) <= 55 for item in range(1, 6)), valid  # each as often as any other
    train = sorted(lengths(lab, out))
    assert {length for item, length in train if item == 1} == {0, 1, 2, 3}
    again = prepare(recipe | {"overwrite": True}).out
    assert sorted(lengths(lab, again)) == train
    with pytest.raises(ConfigError, match="'shuffle' is for rows without times; 'order' gives their order"):
        prepare(node(lab, shuffle=True))


SHARED = [{"kind": "categorical", "name": "i"}, {"kind": "sequence", "name": "history", "shared_with": "i"}]
OTHER_WAY = [{"kind": "sequence", "name": "history"}, {"kind": "categorical", "name": "i", "shared_with": "history"}]


@pytest.mark.parametrize("ties", ["include", "exclude"])
@pytest.mark.parametrize("min_length", [0, 1, 2])
@pytest.mark.parametrize("features", [SHARED, OTHER_WAY])
def test_each_row_counts_once_in_however_many_histories_it_is(
    lab: Any, features: list[dict[str, Any]], min_length: int, ties: str
) -> None:
    """Also rows that `min_length` leaves out as targets; b has no row left then, and is not seen at all."""
    lab.write(train__csv=EVENTS)
    out = prepare(node(lab, features, ties=ties, min_length=min_length)).out
    assert counts(out, str(features[0]["name"])) == {"1": 2 if min_length == 0 else 1, "2": 1, "3": 1, "4": 1, "5": 1}


def test_a_table_of_the_history_alone_counts_the_rows_that_have_a_next_one(lab: Any) -> None:
    lab.write(train__csv=EVENTS)
    features = [{"kind": "sequence", "name": "past", "column": "history"}]
    for min_length in (0, 1, 2):
        out = prepare({**node(lab, features, min_length=min_length), "overwrite": True}).out
        assert counts(out, "past") == {"1": 1, "2": 1, "3": 1, "4": 1}


def test_rare_items_are_out_of_the_vocabulary(lab: Any) -> None:
    lab.write(train__csv="u,i,t\na,1,1\na,2,2\na,3,3\nb,2,4\nb,9,5\n")
    features = [{**SHARED[0], "min_frequency": 2}, SHARED[1]]
    out = prepare(node(lab, features)).out
    assert counts(out, "i") == {"2": 2}
    assert lab.split(out)["history"] == [[], [0], [0, 1], [], [1]]


def test_rows_of_a_list_count_once(lab: Any) -> None:
    lab.write(train__csv="a 5 6 7\nb 6 8\n")
    changes = {
        "format": {"delimiter": " ", "header": False, "columns": ["u", "items"], "rest": True},
        "history": {"items": "items", "separator": " ", "item": "i", "min_length": 1},
        "features": SHARED,
    }
    out = prepare({**node(lab), **changes}).out
    assert counts(out, "i") == {"6": 2, "5": 1, "7": 1, "8": 1}


def test_users_whose_form_differs_between_files_are_one(lab: Any) -> None:
    """A null in a column makes pandas write 7.0."""
    lab.write(a__csv="u,i,t\n7,1,1\n8,2,1\n", b__csv="u,i,t\n7.0,3,2\n8.0,4,2\n")
    node_ = {**node(lab), "files": ["a.csv", "b.csv"]}
    assert lengths(lab, prepare(node_).out) == [(1, 0), (2, 0), (3, 1), (4, 1)]
