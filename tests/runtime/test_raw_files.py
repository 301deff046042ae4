"""Predictions of raw files and frames: the numbers that prepared shards give, every row once, killed or not."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

import rechub_ray
from rechub_ray import checkpoint
from rechub_ray.cli import main
from rechub_ray.config import load
from rechub_ray.data.fingerprint import keep
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.models import MODELS
from rechub_ray.preparation import prepare
from rechub_ray.preparation.rows import RowReader
from rechub_ray.runtime import raw_files
from rechub_ray.runtime.inference import predict
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.parts import Parts
from rechub_ray.schema import Schema

ROWS = 240
FEATURES = [
    {"kind": "categorical", "name": "user"},
    {"kind": "categorical", "name": "item"},
    {"kind": "categorical", "name": "shop", "max_values": 2},
    {"kind": "numeric", "name": "price", "transforms": ["log1p", "standardise"], "fill": -0.5},
    {"kind": "bucket", "name": "band", "column": "price", "num_buckets": 4},
    {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 2},
    {"kind": "categorical", "name": "hashed", "column": "item", "hash_buckets": 7},
    {"kind": "sequence", "name": "history", "shared_with": "item", "max_length": 3},
]


def log(rows: int, seed: int) -> pd.DataFrame:
    """Rows of a log, as texts: missing values, values of one file alone, lists that are empty or too long."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "row": [f"{seed}-{row}" for row in range(rows)],
            "user": [f"u{rng.integers(0, 12) + 4 * seed}" for _ in range(rows)],
            "item": rng.integers(0, 9, rows).astype(str),
            "price": [f"{number:.3f}" for number in rng.normal(0, 40, rows)],
            "tags": ["|".join(rng.choice(["x", "y", f"new {seed}"], rng.integers(0, 5))) for _ in range(rows)],
            "time": rng.permutation(rows) + 1000 * seed,
            "rating": rng.integers(1, 6, rows),
        }
    )
    for column in ("item", "price", "tags"):
        frame.loc[rng.random(rows) < 0.1, column] = ""
    return frame


def make_run(folder: Path, **changes: Any) -> Path:
    """A run on prepared rows: a checkpoint whose weights can be told apart, with the transforms beside it."""
    raw = folder / "raw"
    raw.mkdir(exist_ok=True)
    for name, seed in (("train", 0), ("test", 1)):
        log(ROWS, seed).to_csv(raw / f"{name}.csv", index=False)
    (raw / "users.csv").write_text("who,items\na,5 6 7 5\nb,6 8 5\n")
    items = pd.DataFrame({"id": range(8), "shop": ["a", "b", "", "c", "a", "a", "b", "a"]})
    items.to_csv(raw / "items.csv", index=False)
    recipe = {
        "source": str(raw),
        "out": str(folder / "data"),
        "files": {"train": "train.csv", "test": "test.csv"},
        "split": {"by": "file"},
        "joins": [{"file": "items.csv", "key": "id", "input_key": "item", "columns": ["shop"]}],
        "history": {"user": "user", "item": "item", "order": "time", "max_length": 3},
        "labels": [{"name": "liked", "expression": "rating >= 4"}],
        "group": "user",
        "row_id": "row",
        "features": FEATURES,
        **changes,
    }
    prepare(recipe, use_ray=False)
    config = load({"data": {"root": str(folder / "data")}, "model": {"name": "lr"}, "train": {"threads": 1}})
    schema = Schema.load(folder / "data" / "schema.json")
    model = MODELS.build(config.model, schema)
    random = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=random)
    step = folder / "run" / "checkpoints" / "step_0000000007"
    step.mkdir(parents=True)
    checkpoint.write(step, config=config, schema=schema, model=model, optimizers=[], state={"step": 7})
    keep(str(folder / "data"), str(folder / "run" / "checkpoints"))
    return folder / "run"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows need everything: a side table, histories of several rows, hashing."""
    folder = tmp_path_factory.mktemp("home")
    both = {"files": ["train.csv", "test.csv"], "split": {"by": "random", "fractions": {"train": 0.6, "test": 0.4}}}
    make_run(folder, **both)
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose rows stand for themselves."""
    folder = tmp_path_factory.mktemp("plain")
    make_run(folder, history=None, features=FEATURES[:-1])
    return folder


def of_shards(home: Path, out: Path, split: str = "test") -> dict[str, float]:
    """Predictions of the prepared split, by row id."""
    predict(home / "run", out, split=split)
    return by_row(pq.read_table(out))


def by_row(table: pa.Table) -> dict[str, float]:
    found = dict(zip(table["row"].to_pylist(), table["probability"].to_pylist(), strict=True))
    assert len(found) == table.num_rows, "a row is there twice"
    return found


def same(found: dict[str, float], expected: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    np.testing.assert_allclose([found[row] for row in expected], [*expected.values()], rtol=0, atol=1e-6)


def write(form: str, path: Path, frame: pd.DataFrame) -> Path:
    if form == "jsonl":
        rows = [{k: v for k, v in row.items() if v != ""} for row in frame.to_dict("records")]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pandas(frame.replace("", None), preserve_index=False), path, row_group_size=50)
    else:
        text = frame.to_csv(index=False).encode()
        path.write_bytes(gzip.compress(text) if form == "csv.gz" else text)
    return path


@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl", "parquet"])
def test_raw_rows_get_the_numbers_of_prepared_ones(plain: Path, tmp_path: Path, form: str) -> None:
    frame = log(ROWS, 1).drop(columns="rating")  # labels need not be there
    for number, part in enumerate((frame[:100], frame[100:])):
        write(form, tmp_path / f"new-{number}.{form}", part)
    written = predict(plain / "run", tmp_path / "out", raw=str(tmp_path / f"new-*.{form}"), keep=["row", "item"])
    table = pq.read_table(tmp_path / "out")
    assert written == ROWS
    assert table.column_names == ["row", "item", "probability"]
    assert table["row"].to_pylist() == frame["row"].to_list(), "the order of the files"
    assert table["item"].to_pylist() == [item or None for item in frame["item"]]
    same(by_row(table), of_shards(plain, tmp_path / "shards"))
    assert np.ptp(table["probability"].to_numpy()) > 0.5


def test_histories_are_made_as_in_prepare(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Histories reach over the files of both splits, so both are given; each row comes out once."""
    raw = [str(home / "raw" / f"{name}.csv") for name in ("train", "test")]
    command = ["predict", str(home / "run"), "--out", str(tmp_path / "out"), "--raw", *raw, "train.threads=1"]
    assert main(command) == 0
    assert f"{2 * ROWS} rows" in capsys.readouterr().out
    expected = of_shards(home, tmp_path / "shards") | of_shards(home, tmp_path / "more", "train")
    same(by_row(pq.read_table(tmp_path / "out")), expected)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part-00000.parquet"]


def test_histories_may_be_a_column_of_the_files(home: Path, tmp_path: Path) -> None:
    """The column is taken as a recipe without `history` takes it."""
    frame = log(ROWS, 1)
    given = ["['0', 'never seen', '3']", "[]", "['5', '1', '2', '0', '4']", "['8']"]
    frame["history"] = [given[row % 4] for row in range(ROWS)]
    frame.to_csv(tmp_path / "given.csv", index=False)
    predict(home / "run", tmp_path / "out", raw=str(tmp_path / "given.csv"), overrides=["history=null"])
    recipe = json.loads((home / "data" / "recipe.json").read_text())
    recipe |= {"out": str(tmp_path / "data"), "like": str(home / "run"), "history": None, "split": None}
    recipe["files"] = {"": [{"path": str(tmp_path / "given.csv")}]}
    prepare(recipe, use_ray=False)
    predict(home / "run", tmp_path / "shards", split=str(tmp_path / "data" / "train"))
    expected = by_row(pq.read_table(tmp_path / "shards"))
    same(by_row(pq.read_table(tmp_path / "out")), expected)
    same(rechub_ray.load(home / "run").predict(frame.set_index("row", drop=False))["probability"].to_dict(), expected)


def test_a_list_of_items_a_row_becomes_a_row_an_item(tmp_path: Path) -> None:
    features = [
        {"kind": "categorical", "columns": ["who", "item"]},
        {"kind": "sequence", "name": "history", "shared_with": "item", "max_length": 2},
    ]
    made = make_run(
        tmp_path,
        files="users.csv",
        split=None,
        joins=[],
        history={"items": "items", "separator": " ", "item": "item", "max_length": 2, "min_length": 1},
        features=features,
        labels=[{"name": "y", "expression": "item == item"}],
        group=None,
        row_id=None,
    )
    assert predict(made, tmp_path / "out", raw=str(tmp_path / "raw" / "users.csv"), keep=["who", "item"]) == 7
    found = pq.read_table(tmp_path / "out")
    assert found["who"].to_pylist() == ["a"] * 4 + ["b"] * 3
    assert found["item"].to_pylist() == ["5", "6", "7", "5", "6", "8", "5"]
    predict(made, tmp_path / "shards", split="train")  # where min_length leaves out the first of each
    later = found["probability"].to_numpy()[[1, 2, 3, 5, 6]]
    np.testing.assert_allclose(later, pq.read_table(tmp_path / "shards")["probability"].to_numpy(), atol=1e-6)


def test_a_model_for_retrieval_gives_the_vectors_of_users(tmp_path: Path) -> None:
    """Of rows without items; the words of users share the table of the words of items."""
    (tmp_path / "raw").mkdir()
    frame = log(ROWS, 0)
    frame["item"] = frame["item"].replace("", "8")
    frame["words"] = frame["tags"]
    frame.to_csv(tmp_path / "raw" / "log.csv", index=False)
    (tmp_path / "raw" / "goods.csv").write_text("item,tags\n" + "".join(f"{i},x|y|z{i % 3}\n" for i in range(9)))
    recipe = {
        "source": str(tmp_path / "raw"),
        "out": str(tmp_path / "data"),
        "files": "log.csv",
        "history": {
            "user": "user",
            "item": "item",
            "order": "time",
            "max_length": 3,
            "exclude": "seen",
            "rows": "both",
        },
        "split": {"by": "leave_last_out", "user": "user", "order": "time"},
        "labels": [],
        "row_id": "row",
        "features": [
            {"kind": "categorical", "columns": ["user", "item"]},
            {"kind": "sequence", "name": "history", "shared_with": "item", "max_length": 3},
            {"kind": "sequence", "name": "words", "separator": "|", "shared_with": "tags", "max_length": 5},
        ],
        "items": {
            "id": "item",
            "file": "goods.csv",
            "features": [{"kind": "sequence", "name": "tags", "separator": "|"}],
        },
    }
    prepare(recipe, use_ray=False)
    data = {"root": str(tmp_path / "data"), "batch_size": 32}
    trained = {"train": {"steps": 2, "threads": 1}, "trackers": [], "export": {"onnx": False}}
    result = train(load({"data": data, "model": "dssm", "model_dir": str(tmp_path / "run"), **trained}))
    users = tmp_path / "users.csv"
    frame.to_csv(users, index=False)
    predict(result.model_dir, tmp_path / "out", raw=str(users))
    found = pq.read_table(tmp_path / "out").to_pandas().set_index("row")
    for split in ("train", "test"):
        predict(result.model_dir, tmp_path / split, split=split)
        expected = pq.read_table(tmp_path / split).to_pandas().set_index("row")
        assert [*found.columns] == [*expected.columns]
        (name,) = expected.columns
        for row, vector in expected[name].items():
            np.testing.assert_allclose(found[name][row], vector, atol=1e-6)


def test_a_model_of_some_features_needs_their_columns_alone(plain: Path, tmp_path: Path) -> None:
    made = make_run(tmp_path, history=None, features=FEATURES[:-1])
    step = made / "checkpoints" / "step_0000000007"
    saved = checkpoint.read(step)
    schema = saved.schema.select(["item", "price"])
    model = MODELS.build(saved.config.model, schema)
    shutil.rmtree(step)
    step.mkdir()
    checkpoint.write(step, config=saved.config, schema=schema, model=model, optimizers=[], state={"step": 7})
    frame = log(ROWS, 1)
    frame[["item", "price"]].to_csv(tmp_path / "new.csv", index=False)
    assert predict(made, tmp_path / "out", raw=str(tmp_path / "new.csv"), keep=[]) == ROWS
    predict(made, tmp_path / "shards")
    assert pq.read_table(tmp_path / "out")["probability"].equals(pq.read_table(tmp_path / "shards")["probability"])


def test_bad_rows_stop_or_are_set_aside(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = log(ROWS, 1)
    frame.loc[[17, 99], "price"] = "cheap"
    frame.to_csv(tmp_path / "new.csv", index=False)
    command = ["predict", str(plain / "run"), "--raw", str(tmp_path / "new.csv"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/new.csv, row 19: column 'price': 'cheap' is not a number" in said
    assert "quarantine" in said
    assert not (tmp_path / "out").exists()
    assert main([*command, "on_bad_rows=quarantine"]) == 0
    assert f"{ROWS - 2} rows" in capsys.readouterr().out
    expected = of_shards(plain, tmp_path / "shards")
    same(
        by_row(pq.read_table(tmp_path / "out" / "part-00000.parquet")),
        {row: value for row, value in expected.items() if row not in ("1-17", "1-99")},
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "out" / "quarantine" / "part-00000.jsonl").read_text().split("\n")
        if line
    ]
    assert [(line["row"], line["file"]) for line in lines] == [
        (19, f"{tmp_path}/new.csv"),
        (101, f"{tmp_path}/new.csv"),
    ]


def many(folder: Path, files: int = 6) -> list[str]:
    frame = log(ROWS, 1)
    for number in range(files):
        frame[number * ROWS // files : (number + 1) * ROWS // files].to_csv(folder / f"f{number}.csv", index=False)
    return [str(folder / f"f{number}.csv") for number in range(files)]


def fails_at(name: str) -> Any:
    ready = RowReader.ready

    def read(self: RowReader, task: Any, encoder: Any) -> Any:
        for rows in ready(self, task, encoder):
            yield rows
            if task.file.endswith(name):
                raise DataError("the disk is gone")

    return read


KILLED = """
import os, signal, sys
from rechub_ray.runtime.parts import Parts
whole, written = Parts.write, []
def write(self, number, blocks):
    whole(self, number, blocks)
    written.append(number)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
Parts.write = write
from rechub_ray.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("how", ["fails", pytest.param("killed", marks=pytest.mark.slow)])
def test_a_killed_command_goes_on_with_the_parts_that_are_missing(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    files, out = many(tmp_path), tmp_path / "out"
    command = ["predict", str(plain / "run"), "--out", str(out), "--raw", *files]
    if how == "killed":
        done = subprocess.run([sys.executable, "-c", KILLED, *command], check=False, timeout=100)
        assert done.returncode == -signal.SIGKILL
    else:
        with monkeypatch.context() as patch:
            patch.setattr(RowReader, "ready", fails_at("f3.csv"))
            assert main(command) == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert len(before) == 3
    assert main([*command, "--keep", "row,item"]) == 2
    assert "holds a part of other predictions. Got: another --keep." in capsys.readouterr().err
    made: list[int] = []
    whole = Parts.write
    monkeypatch.setattr(Parts, "write", lambda self, number, blocks: (made.append(number), whole(self, number, blocks)))
    assert main(command) == 0
    assert f"{ROWS} rows" in capsys.readouterr().out
    assert made == [3, 4, 5]
    assert {path: path.stat().st_mtime_ns for path in before} == before
    same(by_row(pq.read_table(out)), of_shards(plain, tmp_path / "shards"))
    assert len(list(out.iterdir())) == 6
    assert main(command) == 2
    assert "holds predictions already" in capsys.readouterr().err


def test_histories_are_not_made_again_for_the_parts_that_are_missing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that cannot be used, without a user, are counted all the same."""
    raw = [tmp_path / "train.csv", tmp_path / "test.csv"]
    for path in raw:
        path.write_text((home / "raw" / path.name).read_text())
    with raw[1].open("a") as file:
        file.write("1-240,,3,1.5,x,9999,4\n")
    arguments: dict[str, Any] = {"raw": [str(path) for path in raw], "overrides": ["on_bad_rows=quarantine"]}
    monkeypatch.setattr(raw_files, "bucket_count", lambda sizes: 3)
    with monkeypatch.context() as patch:
        patch.setattr(RowReader, "ready", fails_at("gathered-001.parquet"))
        with pytest.raises(DataError, match="the disk is gone"):
            predict(home / "run", tmp_path / "out", **arguments)
    assert [path.name for path in (tmp_path / "out").glob("*.parquet")] == ["part-00000.parquet"]
    monkeypatch.setattr(raw_files, "Deal", None)
    assert predict(home / "run", tmp_path / "out", **arguments) == 2 * ROWS
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet", "quarantine"]
    (line,) = (tmp_path / "out" / "quarantine" / "part-dealt-00001.jsonl").read_text().splitlines()
    assert json.loads(line)["row"] == ROWS + 2
    expected = of_shards(home, tmp_path / "shards") | of_shards(home, tmp_path / "more", "train")
    same(by_row(pq.read_table([*(tmp_path / "out").glob("*.parquet")])), expected)


@pytest.mark.ray
@pytest.mark.long  # default: vectors on two workers by the same parts, and quarantine in process
def test_two_workers_predict_each_row_once(ray_cluster: None, plain: Path, tmp_path: Path) -> None:
    two = ["scaling.num_workers=2", "on_bad_rows=quarantine"]
    files = many(tmp_path)
    with Path(files[2]).open("a") as file:
        file.write("one field\n")
    assert predict(plain / "run", tmp_path / "out", raw=files, overrides=two) == ROWS
    same(by_row(pq.read_table([*(tmp_path / "out").glob("*.parquet")])), of_shards(plain, tmp_path / "shards"))
    assert len((tmp_path / "out" / "quarantine" / "part-00002.jsonl").read_text().splitlines()) == 1


@pytest.mark.ray
@pytest.mark.long
def test_two_workers_make_histories(ray_cluster: None, home: Path, tmp_path: Path) -> None:
    raw, two = [str(home / "raw" / f"{name}.csv") for name in ("train", "test")], ["scaling.num_workers=2"]
    assert predict(home / "run", tmp_path / "made", raw=raw, overrides=two) == 2 * ROWS
    expected = of_shards(home, tmp_path / "more") | of_shards(home, tmp_path / "most", "train")
    same(by_row(pq.read_table(tmp_path / "made")), expected)


def test_another_file_or_model_is_not_taken_for_what_was_begun(plain: Path, tmp_path: Path) -> None:
    files, out = many(tmp_path), str(tmp_path / "out")
    about = {"checkpoint": "a", "raw files": "b"}
    begun = Parts.begin(out, 2, about)
    begun.write(0, iter([(pa.table({"x": [1.0]}), [])]))
    assert Parts.begin(out, 2, about).missing == (1,)
    with pytest.raises(ConfigError, match=r"part of other predictions. Got: another raw files"):
        Parts.begin(out, 2, {**about, "raw files": "c"})
    with pytest.raises(
        ConfigError, match=r"part of other predictions. Got: another checkpoint, --logits, raw files, recipe"
    ):
        predict(plain / "run", out, raw=files)


def test_shards_carry_row_id_group_and_labels(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = Schema.load(plain / "data" / "schema.json")
    assert (schema.row_id, schema.group) == ("row", "user_raw")
    command = ["predict", str(plain / "run"), "--out"]
    assert main([*command, str(tmp_path / "out"), "--keep", "liked,row,user"]) == 0
    found, shards = pq.read_table(tmp_path / "out"), pq.read_table(plain / "data" / "test")
    assert found.column_names == ["liked", "row", "user", "probability"], "the recipe's names"
    for name, column in {"liked": "liked", "row": "row", "user": "user_raw"}.items():
        assert found[name].to_pylist() == shards[column].to_pylist()
    assert main([*command, str(tmp_path / "none"), "--keep", ""]) == 0
    assert pq.read_table(tmp_path / "none").column_names == ["probability"]
    assert main([*command, str(tmp_path / "x"), "--keep", "rows"]) == 2
    assert "'rows' is not carried along from shards. Expected: one of: row, user, liked" in capsys.readouterr().err


def test_a_frame_is_predicted_as_its_file_is(plain: Path, home: Path, tmp_path: Path) -> None:
    frame = log(ROWS, 1)
    frame.index = pd.Index(frame["row"].to_list())
    expected = of_shards(plain, tmp_path / "shards")
    model = rechub_ray.load(plain / "run")
    assert model.columns == ["user", "item", "price", "tags"]
    result = model.predict(frame.sample(frac=1, random_state=1))
    same(result["probability"].to_dict(), expected)
    typed = frame.assign(
        item=pd.to_numeric(frame["item"]),  # floats, since some are missing
        price=pd.to_numeric(frame["price"]),
        tags=[text.split("|") if text else [] for text in frame["tags"]],
    )
    same(model.predict(typed)["probability"].to_dict(), expected)
    logits = model.predict(frame, probabilities=False)["logit"]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), result["probability"][logits.index], atol=1e-6)
    assert model.predict(frame[:0]).shape == (0, 1)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    np.testing.assert_array_equal(model.predict(table)["probability"], model.predict(frame)["probability"])
    everything = pd.concat([log(ROWS, 0), log(ROWS, 1)]).set_index("row", drop=False)
    made = rechub_ray.load(home / "run").predict(everything)["probability"]
    assert made.index.equals(everything.index)
    same(made.to_dict(), of_shards(home, tmp_path / "home") | of_shards(home, tmp_path / "more", "train"))


def test_a_frame_that_cannot_be_read_says_where(plain: Path) -> None:
    model, frame = rechub_ray.load(plain / "run"), log(20, 1)
    with pytest.raises(DataError, match=r"^the frame, row 8: column 'price': 'cheap' is not a number"):
        model.predict(frame.assign(price=["1"] * 7 + ["cheap"] * 13))
    with pytest.raises(DataError, match=r"^the frame has no column 'price'"):
        model.predict(frame.drop(columns="price"))
    with pytest.raises(DataError, match=r"^the frame has a column that cannot be read.*one type"):
        model.predict(frame.assign(price=["1"] * 10 + [2.0] * 10))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"raw": "gone.csv"}, "no file"),
        ({"keep": ["usr"]}, "has no column 'usr'.*user"),
        ({"keep": ["probability"]}, "'probability' is the name of a prediction"),
        ({"overrides": ["format.delimeter=;"]}, "delimeter.*delimiter"),
        ({"overrides": ["on_bad_rows=skip"]}, "on_bad_rows"),
        ({"overrides": ["seed=1"]}, "'seed' of a finished training"),
        ({"raw": None, "overrides": ["on_bad_rows=quarantine"]}, "'on_bad_rows' is for raw files"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    plain: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    frame = log(20, 1).assign(probability=1)
    frame.to_csv(tmp_path / "new.csv", index=False)
    arguments = {"raw": str(tmp_path / "new.csv"), **changes}
    if arguments["raw"] == "gone.csv":
        arguments["raw"] = str(tmp_path / "gone.csv")
    with pytest.raises((ConfigError, DataError), match=said):
        predict(plain / "run", tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_run_without_transforms_or_recipe(plain: Path, tmp_path: Path) -> None:
    made = make_run(tmp_path, history=None, features=FEATURES[:-1])
    os.remove(made / "checkpoints" / "recipe.json")
    raw = str(tmp_path / "raw" / "test.csv")
    prices = pd.to_numeric(log(ROWS, 1)["price"])
    assert predict(made, tmp_path / "where", raw=raw, overrides=["where=price > 0"]) == (prices > 0).sum()
    assert predict(made, tmp_path / "out", raw=raw) == ROWS  # by the recipe in the folder of the data
    os.remove(tmp_path / "data" / "recipe.json")
    with pytest.raises(ConfigError, match=r"keeps no recipe.*data.root=FOLDER"):
        predict(made, tmp_path / "more", raw=raw)
    transforms = made / "checkpoints" / "preprocess.json"
    document = json.loads(transforms.read_text())
    document["fitted"]["price"]["shift"] += 1
    transforms.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"its transforms are not those of the model's features 'price'\.$"):
        predict(made, tmp_path / "more", raw=raw)
    os.remove(transforms)
    with pytest.raises(ConfigError, match=r"keeps no transforms.*--adopt"):
        predict(made, tmp_path / "more", raw=raw)
