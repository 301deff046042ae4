"""Guesses of what the columns of a raw file mean."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation.guess import Guesses, guess
from rechub_ray.preparation.sample import look

ROWS = 300


def shop() -> pd.DataFrame:
    """A log with a column of every kind."""
    draw = np.random.default_rng(0)
    n = ROWS
    words = np.array(["red", "blue", "green", "old", "new", "soft"])
    return pd.DataFrame(
        {
            "event_id": [f"e{i}" for i in range(n)],
            "userId": draw.integers(1, 60, n),
            "item": draw.integers(1000, 1040, n),
            "city": draw.choice(["New York, NY", "Paris, France", "Rome"], n),
            "age": draw.integers(18, 90, n),
            "price": np.round(draw.lognormal(2, 1.5, n), 2),
            "tags": ["|".join(draw.choice(words, draw.integers(1, 4), replace=False)) for _ in range(n)],
            "title": [f"a long text number {i % 290} about something, with commas" for i in range(n)],
            "isWeekend": draw.integers(0, 2, n),
            "country": "DE",
            "nothing": np.nan,
            "event_time": pd.date_range("2026-01-01", periods=n, freq="h").astype(str),
            "clicked": draw.integers(0, 2, n),
        }
    )


def guessed(path: Path, **more: Any) -> Guesses:
    return guess(look(str(path)), **more)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "tsv", "semicolon", "parquet"])
def test_every_kind_of_column(tmp_path: Path, form: str) -> None:
    path, frame = tmp_path / f"log.{form}", shop()
    if form == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep={"tsv": "\t", "semicolon": ";"}.get(form, ","))
    found = guessed(path)
    assert {one.name: one.role for one in found.columns} == {
        "event_id": "nothing", "userId": "categorical", "item": "categorical", "city": "categorical",
        "age": "numeric", "price": "numeric", "tags": "sequence", "title": "nothing", "isWeekend": "categorical",
        "country": "nothing", "nothing": "nothing", "event_time": "time", "clicked": "categorical",
    }  # fmt: skip
    assert found.label is not None
    assert found.label.node == {"name": "clicked"}
    assert (found.user, found.item, found.time, found.row_id) == ("userId", "item", "event_time", "event_id")
    assert found.split_by_time
    settings = {one.name: one.settings for one in found.columns}
    assert settings["tags"] == {"separator": "|", "max_length": 3}
    assert settings["age"] == {"transforms": ["standardise"]}
    assert settings["price"] == {"transforms": ["log1p", "standardise"]}
    expected = {"tsv": {"type": "tsv"}, "semicolon": {"delimiter": ";"}, "parquet": {"type": "parquet"}}
    assert look(str(path)).format == expected.get(form, {})


def test_labels() -> None:
    import pyarrow as pa

    from rechub_ray.preparation.sample import Sample

    draw = np.random.default_rng(1)

    def label_of(name: str, values: Any, *, names: bool = True) -> Any:
        columns = {"a": pa.array(draw.integers(0, 5, len(values))), "b": pa.array(draw.normal(size=len(values)))}
        columns[name] = pa.array(values)
        columns["z"] = pa.array(draw.normal(size=len(values)))
        found = guess(Sample("f", "", {}, columns, 0, names, len(values), len(values))).label
        return None if found is None else found.node

    ones = draw.integers(0, 2, 100)
    assert label_of("target", ones) == {"name": "target"}
    assert label_of("is_click", ones * 2 - 1) == {"name": "label", "expression": "is_click > 0"}
    assert label_of("y", ["yes", "no", "no", "no"] * 25) == {"name": "label", "expression": 'y == "yes"'}
    assert label_of("click", [True, False] * 50) == {"name": "click"}
    assert label_of("click", [1, None, 0, 1] * 25) == {"name": "click", "optional": True}
    assert label_of("label", draw.integers(1, 3, 100)) == {"name": "target", "expression": "label == 2"}
    assert label_of("rating", [1, 2, 3, 4, 5] * 20) == {"name": "liked", "expression": "rating >= 3"}
    assert label_of("label", [0, 1, 2] * 30) == {"name": "label", "kind": "multiclass", "num_classes": 3}
    assert label_of("target", draw.normal(size=100)) == {"name": "target", "kind": "regression"}
    assert label_of("flag", ones) is None, "a flag in the middle without a name that says so"
    assert label_of("sex", ["f", "m"] * 50) is None
    often = ["Ja", "Ja", "Ja", "Nein"] * 25
    assert label_of("gekauft", often) == {"name": "label", "expression": 'gekauft == "Ja"'}, "not the rarer one"
    assert label_of("Did buy?", often) == {"name": "label", "expression": 'column("Did buy?") == "Ja"'}
    assert label_of("class", ones * 2 - 1) is None
    assert label_of("user rating", [1, 2, 3, 4, 5] * 20) == {
        "name": "liked", "expression": 'column("user rating") >= 3',
    }  # fmt: skip


def test_a_label_that_is_given(tmp_path: Path) -> None:
    shop().to_csv(tmp_path / "log.csv", index=False)
    found = guessed(tmp_path / "log.csv", label="isWeekend")
    assert found.label is not None
    assert found.label.node == {"name": "isWeekend"}
    with pytest.raises(ConfigError, match=r"no column 'clickd'. Did you mean 'clicked'"):
        guessed(tmp_path / "log.csv", label="clickd")
    with pytest.raises(ConfigError, match="'city' cannot be a label"):
        guessed(tmp_path / "log.csv", label="city")


def test_times_in_other_forms(tmp_path: Path) -> None:
    days = pd.date_range("2026-01-13", periods=50, freq="13h")
    for name, values, form in (
        ("ts", [int(day.timestamp()) for day in days], None),
        ("ts", (days.strftime("%d/%m/%Y %H:%M")).to_list(), "%d/%m/%Y %H:%M"),
        ("date", days.strftime("%Y%m%d").astype(int).to_list(), None),
        ("anything", days.strftime("%Y/%m/%d %H:%M").to_list(), None),
    ):
        frame = pd.DataFrame({"user": [1, 2] * 25, name: values, "label": [0, 1] * 25})
        frame.to_csv(tmp_path / "t.csv", index=False)
        found = guessed(tmp_path / "t.csv")
        assert (found.time, found.time_format, found.split_by_time) == (name, form, True)
    frame.loc[3, "anything"] = None
    frame.to_csv(tmp_path / "t.csv", index=False)
    assert not guessed(tmp_path / "t.csv").split_by_time


def test_ids_with_nulls_and_marks_for_missing_values(tmp_path: Path) -> None:
    lines = [f"{'' if i % 7 == 0 else i % 9},{'NA' if i % 5 == 0 else i / 8},{i % 2}" for i in range(200)]
    (tmp_path / "n.csv").write_text("\n".join(["user_id,price,label", *lines]) + "\n")
    sample = look(str(tmp_path / "n.csv"))
    assert sample.format == {"null_values": ["", "nan", "NaN", "NA"]}
    assert sample.columns["user_id"].null_count == 29
    assert {one.name: one.role for one in guess(sample).columns}["price"] == "numeric"
    pd.DataFrame(
        {"user_id": [1.0, 2.0, None, 4.0] * 50, "price": np.arange(200) / 8, "label": [0, 1] * 100}
    ).to_parquet(tmp_path / "n.parquet")
    found = guessed(tmp_path / "n.parquet")
    assert {one.name: one.role for one in found.columns} == {
        "user_id": "categorical", "price": "numeric", "label": "categorical"}  # fmt: skip


def test_lists(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    n = 200
    frame = pd.DataFrame(
        {
            "label": draw.integers(0, 2, n),
            "genres": [list(draw.choice(["a", "b", "c"], draw.integers(0, 3))) for _ in range(n)],
            "vector": [draw.normal(size=3).tolist() for _ in range(n)],
            "parts": [{"x": 1} for _ in range(n)],
            "times": [[pd.Timestamp("2026-01-01")]] * n,
        }
    )
    frame.to_parquet(tmp_path / "l.parquet")
    roles = {one.name: (one.role, one.settings) for one in guessed(tmp_path / "l.parquet").columns}
    assert roles["genres"] == ("sequence", {"max_length": 2})
    assert roles["vector"] == ("numeric", {"dim": 3})
    assert roles["parts"][0] == roles["times"][0] == "nothing"
    text = pd.DataFrame(
        {"items": [" ".join(map(str, draw.integers(0, 20, 8))) for _ in range(n)],
         "seen": [str(draw.integers(0, 9, 3).tolist()) for _ in range(n)], "label": draw.integers(0, 2, n)}
    )  # fmt: skip
    text.to_csv(tmp_path / "l.csv", index=False)
    roles = {one.name: (one.role, one.settings) for one in guessed(tmp_path / "l.csv").columns}
    assert roles["items"] == ("sequence", {"separator": " ", "max_length": 8})
    assert roles["seen"] == ("sequence", {"max_length": 3})


def test_numbers_with_a_comma_before_their_fraction(tmp_path: Path) -> None:
    frame = shop().assign(pair=lambda frame: [f"{i % 7},{i % 5}" + ",9" * (i % 2) for i in range(len(frame))])
    frame.to_csv(tmp_path / "log.csv", index=False, sep=";", decimal=",")
    look_at = look(str(tmp_path / "log.csv"))
    assert look_at.format == {"delimiter": ";", "decimal": ","}
    roles = {one.name: one.role for one in guess(look_at).columns}
    assert (roles["price"], roles["tags"], roles["city"]) == ("numeric", "sequence", "categorical")
    for name, more in (("point", {"sep": ";"}), ("comma", {"sep": ",", "decimal": ","})):
        frame.to_csv(tmp_path / f"{name}.csv", index=False, **more)
        assert "decimal" not in look(str(tmp_path / f"{name}.csv")).format


def test_rows_that_are_choices(tmp_path: Path) -> None:
    frame = shop()[["userId", "item", "event_time", "city"]].assign(
        shelf=lambda frame: "shelf " + (frame["item"] % 5).astype(str)
    )
    frame.to_csv(tmp_path / "log.csv", index=False)
    found = guessed(tmp_path / "log.csv")
    assert (found.is_choice, found.user, found.item, found.of_items) == (True, "userId", "item", ("shelf",))
    for column, values in (("flag", [0, 1]), ("answer", ["yes", "no"]), ("rating", range(5))):
        more = frame.assign(**{column: np.resize(list(values), len(frame))})
        more[[*frame.columns[:2], column, *frame.columns[2:]]].to_csv(tmp_path / "more.csv", index=False)
        assert not guessed(tmp_path / "more.csv").is_choice, "something that may be a label"
    frame.drop(columns="userId").to_csv(tmp_path / "log.csv", index=False)
    assert not guessed(tmp_path / "log.csv").is_choice


def test_texts_with_commas_quotes_and_line_ends(tmp_path: Path) -> None:
    rows = [f'"a, ""b"" {i}\nc",{i % 3},{i % 2}' for i in range(100)]
    (tmp_path / "q.csv").write_text("\n".join(["title,kind,label", *rows]) + "\n")
    sample = look(str(tmp_path / "q.csv"))
    assert sample.format == {"newlines_in_values": True}
    assert (sample.rows, sample.columns["title"][1].as_py()) == (100, 'a, "b" 1\nc')
    rows = [f'u{i % 9};"a; ""b"" {i}\nc";{i % 2}' for i in range(100)]
    (tmp_path / "s.csv").write_text("\n".join(["user;title;label", *rows]) + "\n")
    sample = look(str(tmp_path / "s.csv"))
    assert sample.format == {"delimiter": ";", "newlines_in_values": True}
    assert (sample.rows, sample.columns["title"][1].as_py()) == (100, 'a; "b" 1\nc')


def test_files_without_names(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    log = [
        f"{draw.integers(1, 400)}::{draw.integers(1, 300)}::{draw.integers(1, 6)}::{978300000 + i}" for i in range(4000)
    ]
    (tmp_path / "ratings.dat").write_text("\n".join(log))
    sample = look(str(tmp_path / "ratings.dat"))
    assert sample.format == {"delimiter": "::", "header": False, "columns": ["c1", "c2", "c3", "c4"]}
    found = guess(sample)
    assert (found.user, found.item, found.time) == ("c1", "c2", "c4")
    assert found.label is not None
    assert found.label.node["expression"].startswith("c3 >= ")
    (tmp_path / "latin.csv").write_bytes(b"name;label\n" + "Zürich;1\nGenève;0\n".encode("latin-1") * 30)
    assert look(str(tmp_path / "latin.csv")).format == {"delimiter": ";", "encoding": "latin-1"}


def test_a_large_file_is_looked_at_in_several_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rechub_ray.preparation.sample._BYTES", 4000)
    lines = [f"{i},{i % 5},{int(i > 1000)}" for i in range(2000)]
    (tmp_path / "sorted.csv").write_text("\n".join(["row_id,kind,label", *lines]) + "\n")
    sample = look(str(tmp_path / "sorted.csv"))
    assert not sample.is_whole
    assert abs(sample.total - 2000) < 200
    assert len(set(sample.columns["row_id"].to_pylist())) == sample.rows, "none twice"
    assert set(sample.columns["label"].to_pylist()) == {"0", "1"}, "the start alone has zeros"
    assert set(map(len, sample.columns["row_id"].to_pylist())) <= {1, 2, 3, 4}
    with gzip.open(tmp_path / "sorted.csv.gz", "wt") as file:
        file.write((tmp_path / "sorted.csv").read_text())
    assert not look(str(tmp_path / "sorted.csv.gz")).is_whole


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "is empty"),
        (b"user,item,label\n", "has no rows"),
        (b"only\n1\n2\n", "has one column"),
        (b"PK\x03\x04" + b"x" * 100, "zip archive"),
        (b'{"a": 1}\n{"a": 2}\n', "looks like JSON"),
        (b"a,b\n\x00\x01\x02,1\n", "is no text"),
        (b"PAR1 not really", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(DataError, match=match):
        look(str(tmp_path / "f.csv"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file"):
        look(str(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match="a folder"):
        look(str(tmp_path))


def test_columns_without_a_name_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text("x,,x,user,label\n" + "1,2,3,4,1\n2,2,1,5,0\n" * 20)
    sample = look(str(tmp_path / "d.csv"))
    assert list(sample.columns) == ["user", "label"]
    assert sample.unnamed == 3


@pytest.mark.parametrize(
    ("place", "label", "others"),
    [
        ("frappe/train.csv", {"name": "label"}, {"user": "user", "item": "item", "time": None}),
        ("ml-100k/u.data", {"name": "liked", "expression": "c3 >= 4"}, {"user": "c1", "item": "c2", "time": "c4"}),
        ("census-income/census-income.data.gz", {"name": "label", "expression": 'c42 == "50000+."'}, {"time": None}),
        ("criteo-8k/train.tsv", {"name": "c1"}, {}),
    ],
)
def test_real_files(data_dir: Any, place: str, label: dict[str, Any], others: dict[str, Any]) -> None:
    folder, name = place.split("/")
    found = guessed(data_dir(folder) / name)
    assert found.label is not None
    assert found.label.node == label
    assert {key: getattr(found, key) for key in others} == others
