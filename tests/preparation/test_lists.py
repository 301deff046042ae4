"""Histories of other columns, ages, all seen items, and rows that end a window, against loops over the users."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rechub_ray.data.collate import block_from_table
from rechub_ray.errors import ConfigError, DataError, SchemaError
from rechub_ray.preparation import Encoder, prepare
from rechub_ray.schema import Schema, SequenceFeature

LAST_TWO = {"by": "leave_last_out", "user": "u", "order": "t", "valid": 1, "test": 1}
random.seed(1)
EVENTS = sorted(
    (
        (f"u{random.randrange(6)}", f"i{random.randrange(9)}", 50 * number + random.randrange(40))
        for number in range(80)
    ),
    key=lambda event: random.random(),
)
LOG = "u,i,t,stars\n" + "".join(f"{u},{i},{t},{t % 5}\n" for u, i, t in EVENTS)
FEATURES: list[dict[str, Any]] = [
    {"kind": "categorical", "columns": ["u", "i", "t"]},
    {"kind": "sequence", "name": "history", "shared_with": "i", "max_length": 4},
    {"kind": "sequence", "name": "stars_before", "max_length": 4, "aligned_with": "history"},
    {"kind": "sequence", "name": "ages", "max_length": 4, "numbers": True, "aligned_with": "history"},
]
HISTORY: dict[str, Any] = {
    "user": "u", "item": "i", "order": "t", "max_length": 4, "lists": {"stars_before": "stars"}, "age": "ages",
}  # fmt: skip


def node(lab: Any, **changes: Any) -> dict[str, Any]:
    lab.write(train__csv=LOG)
    base = {"files": "train.csv", "split": LAST_TWO, "labels": [], "features": FEATURES, "history": HISTORY}
    result: dict[str, Any] = lab.recipe(**{**base, **changes})
    return result


def rows(out: str | Path, name: str) -> list[dict[str, Any]]:
    """The rows of a split as raw values, in order of time."""
    encoder = Encoder.load(out)
    texts = {key: ["?", *encoder.vocabulary(key).to_pylist()] for key in ("u", "i", "t", "stars_before")}
    texts |= {"history": texts["i"], "seen": texts["i"]}
    found = []
    for row in pq.read_table(Path(out) / name).to_pylist():
        lists = {
            key: [texts[key][id_] for id_ in ids] for key, ids in row.items() if key in texts and isinstance(ids, list)
        }
        found.append({**row, **{key: texts[key][row[key]] for key in "uit"}, **lists})
    return sorted(found, key=lambda row: int(row["t"]) if row["t"] != "?" else 0)


def expected(split: str) -> list[dict[str, Any]]:
    """The same by a loop over the users; values of the held-out rows are unknown where training has none."""
    made: dict[str, list[dict[str, Any]]] = {"train": [], "valid": [], "test": []}
    for user in {u for u, _, _ in EVENTS}:
        events = sorted((t, i) for u, i, t in EVENTS if u == user)
        for place, (t, item) in enumerate(events):
            before = events[max(0, place - 4) : place]
            name = {len(events) - 1: "test", len(events) - 2: "valid"}.get(place, "train")
            row = {
                "u": user,
                "i": item,
                "t": str(t),
                "history": [i for _, i in before],
                "ages": [t - s for s, _ in before],
            }
            row["stars_before"] = [str(s % 5) for s, _ in before]
            seen = [] if name == "train" else [i for _, i in events[:place]]
            made[name].append({**row, "seen": seen, "from_end": len(events) - 3 - place, "place": place})
    return sorted(made[split], key=lambda row: int(row["t"]))


def same(found: list[dict[str, Any]], wanted: list[dict[str, Any]], *names: str) -> bool:
    key = lambda row: sorted((name, str(row[name])) for name in names)  # noqa: E731
    return sorted(map(key, found)) == sorted(map(key, wanted))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_lists_and_ages(lab: Any, split: str) -> None:
    result = prepare(node(lab))
    found = rows(result.out, split)
    assert len(found) == len(expected(split))
    assert same(found, expected(split), "u", "i", "history", "ages", "stars_before")
    ages = result.schema.feature("ages")
    assert ages == SequenceFeature(
        "ages", 2**31 - 1, max_length=4, numbers=True, aligned_with="history", encoding=ages.encoding
    )
    assert [f.name for f in result.schema.embedded] == ["u", "i", "t", "history", "stars_before"]
    assert Schema.load(Path(result.out) / "schema.json") == result.schema
    assert not (Path(result.out) / "vocab" / "ages.parquet").exists()
    lists = [result.stats["splits"][split]["features"][name] for name in ("ages", "history")]
    assert lists[0] == {key: lists[1][key] for key in ("kind", "nulls", "values", "length")}


@pytest.mark.parametrize(
    ("times", "age"),
    [
        (["1700000000", "1700000065"], 65),
        (["1700000000123", "1700000065122"], 64),  # milliseconds
        (["1700000000000000001", "1700000065000000001"], 65),  # nanoseconds, past float64
        (["2024-01-31 12:00:00.5", "2024-01-31 12:01:05.4"], 64),
        (["2024-01-31 12:00:00.5", "2024-01-31 12:01:05.5"], 65),
        (["-5", "60"], 65),
    ],
)
def test_ages_of_any_form_of_time(lab: Any, times: list[str], age: int) -> None:
    recipe = node(lab, split=None)
    lab.write(train__csv="u,i,t,stars\n" + "".join(f"a,{i},{t},1\n" for i, t in enumerate(times)))
    assert sorted(lab.split(prepare(recipe).out)["ages"]) == [[], [age]]


def test_ages_past_31_bits_are_cut(lab: Any) -> None:
    recipe = node(lab, split=None)
    lab.write(train__csv="u,i,t,stars\na,1,0,1\na,2,90000000000,1\n")
    assert sorted(lab.split(prepare(recipe).out)["ages"]) == [[], [2**31 - 2]]


def test_all_seen_items_for_evaluation(lab: Any) -> None:
    history = {**HISTORY, "exclude": "seen"}
    result = prepare(node(lab, history=history, items={"id": "i"}))
    assert result.schema.items is not None
    assert result.schema.items.exclude == "seen"
    assert "seen" not in result.schema.columns
    for split in ("train", "valid", "test"):
        # items that are in no training row have no id
        known = set(Encoder.load(result.out).vocabulary("i").to_pylist())
        wanted = [{**row, "seen": [i for i in row["seen"] if i in known]} for row in expected(split)]
        assert same(rows(result.out, split), wanted, "u", "history", "seen"), split
    assert max(len(row["seen"]) for row in expected("test")) > 4


@pytest.mark.parametrize("kept", ["windows", "both"])
@pytest.mark.parametrize("min_length", [0, 1])
def test_rows_that_end_a_window(lab: Any, kept: str, min_length: int) -> None:
    history = {**HISTORY, "rows": kept, "min_length": min_length}
    result = prepare(node(lab, history=history, items={"id": "i"}))
    each = [row for row in expected("train") if row["place"] >= min_length]
    ends = [row for row in each if row["from_end"] % 4 == 0]
    folder = "train" if kept == "windows" else "windows"
    assert same(rows(result.out, folder), ends, "u", "i", "history", "ages")
    if kept == "both":
        assert same(rows(result.out, "train"), each, "u", "i", "history", "ages")
    assert result.stats["splits"][folder]["rows"] == len(ends) < len(each)
    # together they hold each training row but a user's first one as a target once: the row's own, or in its history
    targets = [(row["u"], int(row["t"]) - age) for row in ends for age in [0, *row["ages"][1:]] if row["history"]]
    assert sorted(targets) == sorted((row["u"], int(row["t"])) for row in expected("train") if row["place"] > 0)
    # vocabularies and items count all rows of training
    count = pq.read_table(Path(result.out) / "items")["count"].to_pylist()
    assert sum(count) == len(each)
    assert pq.read_table(Path(result.out) / "vocab" / "i.parquet")["count"].to_pylist() == [
        sum(row["i"] == item for row in expected("train"))
        for item in Encoder.load(result.out).vocabulary("i").to_pylist()
    ]


def test_windows_of_lists_of_items(lab: Any) -> None:
    lab.write(train__csv="a 1 2 3 4 5 6 7 8 9\nb 1 2 3\n")
    recipe = node(
        lab,
        split={"by": "leave_last_out", "valid": 1, "test": 1},
        format={"delimiter": " ", "header": False, "columns": ["u", "items"], "rest": True},
        history={"items": "items", "separator": " ", "item": "i", "max_length": 3, "min_length": 1, "rows": "both",
                 "exclude": "seen"},
        features=[{"kind": "categorical", "name": "i"}, {"kind": "sequence", "name": "history", "shared_with": "i"}],
        items={"id": "i"},
    )  # fmt: skip
    lab.write(train__csv="a 1 2 3 4 5 6 7 8 9\nb 1 2 3\n")
    out = Path(prepare(recipe).out)
    names = ["?", *Encoder.load(out).vocabulary("i").to_pylist()]

    def raw(split: str, column: str) -> list[Any]:
        values = lab.split(out, split)[column]
        return ["".join(names[i] for i in ids) if isinstance(ids, list) else names[ids] for ids in values]

    assert list(zip(raw("windows", "history"), raw("windows", "i"), strict=True)) == [("123", "4"), ("456", "7")]
    assert raw("train", "i") == ["2", "3", "4", "5", "6", "7"]
    assert (raw("test", "seen"), raw("test", "history")) == (["1234567", "12"], ["67?", "12"])
    assert raw("train", "seen") == [""] * 6


def test_windows_by_groups(lab: Any) -> None:
    history = {**HISTORY, "rows": "both"}
    result = prepare(node(lab, history=history, cluster_by="u"))
    ends = [row for row in expected("train") if row["from_end"] % 4 == 0]
    assert same(rows(result.out, "windows"), ends, "u", "i", "history", "ages")


def test_lists_of_the_raw_data_that_are_aligned(lab: Any) -> None:
    features = [
        {"kind": "sequence", "name": "a", "separator": "|", "max_length": 3},
        {"kind": "sequence", "name": "b", "separator": "|", "max_length": 3, "numbers": True, "aligned_with": "a"},
    ]
    changes: dict[str, Any] = {"split": None, "history": None, "features": features}
    recipe = node(lab, **changes)
    lab.write(train__csv="a,b\nx|y|z|x,1|2|3|4\n,\ny,7.0\n")
    result = prepare(recipe)
    assert lab.split(result.out)["b"] == [[2, 3, 4], [], [7]]
    for row, words in (
        ("x|y,1", "the lists of 'b' and 'a' differ in length"),
        ("x,-1", "column 'b': '-1' is not a whole number from 0 on"),
        ("x,1.5", "column 'b': '1.5' is not a whole number from 0 on"),
        ("x,one", "column 'b': 'one' is not a number"),
    ):
        lab.write(train__csv=f"a,b\nx,1\n{row}\n")
        with pytest.raises(DataError, match=rf"row 3: {re.escape(words)}"):
            prepare({**recipe, "overwrite": True})
    table = pq.read_table(Path(result.out) / "train")
    block = block_from_table(table, result.schema)
    assert [block.sequences[i].offsets.tolist() for i in (0, 1)] == [[0, 3, 3, 4]] * 2
    with pytest.raises(DataError, match=r"column 'b', row 2.*Expected: as many as in 'a': 1\. Got: 2 values"):
        block_from_table(table.set_column(1, "b", [[[2, 3, 4], [], [7, 7]]]), result.schema)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"history": {**HISTORY, "order": None}, "split": None}, "'age: ages' needs 'order', the column of times"),
        ({"history": {**HISTORY, "age": "history"}}, "two of its lists are called 'history'"),
        ({"history": {**HISTORY, "lists": {"stars_before": "starz"}}}, "Did you mean 'stars'"),
        ({"history": {**HISTORY, "rows": "windows"},
          "split": {"by": "random", "fractions": {"train": 0.5, "test": 0.5}}},
         "'history.rows: windows' needs a split that counts from each user's last row"),
        ({"history": {**HISTORY, "exclude": "seen"}}, "'history.exclude' is for rankings of all items"),
        ({"history": {**HISTORY, "exclude": "seen"}, "split": None, "items": {"id": "i"}}, "Got: no split"),
        ({"history": {**HISTORY, "exclude": "seen"}, "items": {"id": "u"}}, "is not the column of 'items.id'"),
        ({"history": {**HISTORY, "exclude": "seen"}, "items": {"id": "i"},
          "features": [*FEATURES, {"kind": "sequence", "name": "seen"}]}, "'seen' is for evaluation and cannot be"),
        ({"features": [FEATURES[0], *FEATURES[2:]]}, "'aligned_with: history' is no other sequence"),
        ({"features": [*FEATURES[:2], {**FEATURES[3], "max_length": 3}]}, "differs in max_length. Got: 3 and 4"),
        ({"features": [*FEATURES[:3], {**FEATURES[3], "min_frequency": 2}]}, "'numbers' have no vocabulary"),
        ({"features": [*FEATURES, {"kind": "numeric", "name": "s", "column": "ages"}]}, "the list 'ages' cannot be"),
        ({"features": [*FEATURES, {"kind": "sequence", "name": "s", "column": "ages", "shared_with": "ages"}]},
         "it holds numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_listed(lab: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises((ConfigError, DataError), match=re.escape(words)):
        prepare(node(lab, **changes))
    assert not lab.out.exists()


def test_lists_of_lists_of_items_are_refused(lab: Any) -> None:
    history = {"items": "items", "item": "i"}
    for key, value in {"age": "ages", "lists": {"stars_before": "stars"}}.items():
        with pytest.raises(ConfigError, match=f"'{key}' needs a row an interaction"):
            prepare(node(lab, history={**history, key: value}, split=None))


def test_like(lab: Any) -> None:
    old = prepare(node(lab, history={**HISTORY, "rows": "both"}))
    new = prepare(node(lab, out=str(lab.folder / "new"), like=old.out, history={**HISTORY, "rows": "both"}))
    assert new.schema == old.schema
    assert lab.split(new.out, "windows") == lab.split(old.out, "windows")


@pytest.mark.parametrize(
    ("features", "words"),
    [
        (
            (SequenceFeature("a", 9), SequenceFeature("b", 9, aligned_with="c")),
            "'b' is aligned with 'c'",
        ),
        ((SequenceFeature("a", 9, aligned_with="a"),), "'a' is aligned with 'a'"),
        ((SequenceFeature("a", 9, aligned_with="b"), SequenceFeature("b", 9, aligned_with="a")), "is aligned with"),
        ((SequenceFeature("a", 9, max_length=3), SequenceFeature("b", 9, aligned_with="a")), "differ in max_length"),
        ((SequenceFeature("a", 9, numbers=True), SequenceFeature("b", 9, shared_with="a")), "shares the table of 'a'"),
    ],
)
def test_sequences_that_do_not_fit_in_a_schema(features: tuple[SequenceFeature, ...], words: str) -> None:
    with pytest.raises(SchemaError, match=words):
        Schema(features, ())


def test_numbers_have_no_embedding() -> None:
    with pytest.raises(SchemaError, match="'a': numbers have no embedding"):
        SequenceFeature("a", 9, numbers=True, embed_dim=4)
    plain = Schema((SequenceFeature("a", 9),), ())
    assert not {"numbers", "aligned_with"} & {*plain.to_dict()["features"][0]}, "the fingerprints of other schemas stay"
