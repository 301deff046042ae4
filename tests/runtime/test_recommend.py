"""Items for users from the exported files alone: the scores of PyTorch, whatever form users come in."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

import rechub_ray
from rechub_ray import checkpoint
from rechub_ray.batch import Features
from rechub_ray.cli import main
from rechub_ray.config import load
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import batch_from_table
from rechub_ray.data.fingerprint import keep
from rechub_ray.errors import ConfigError, DataError, ExportError
from rechub_ray.export import ExportReport, export_towers, towers
from rechub_ray.export.served import Served
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.preparation import Encoder, prepare
from rechub_ray.runtime import recommend as recommend_module
from rechub_ray.runtime.parts import Parts
from rechub_ray.runtime.recommend import Recommender, recommend
from rechub_ray.schema import Schema
from rechub_ray.sweeps.exports import export_trial

USERS, ITEMS, K = 60, 230, 100
SEEN = {u: [f"i{(7 * u + 11 * place * place) % ITEMS}" for place in range(3 + u % 9)] for u in range(USERS)}
RECIPE: dict[str, Any] = {
    "files": "log.csv",
    "joins": [{"file": "people.csv", "key": "who", "input_key": "user", "columns": ["town", "age"]}],
    "history": {
        "user": "user",
        "item": "item",
        "order": "time",
        "max_length": 4,
        "lists": {"stars_before": "stars"},
        "age": "seconds_before",
        "exclude": "seen",
    },
    "where": "stars >= 2",
    "split": {"by": "leave_last_out", "user": "user", "order": "time", "valid": 1, "test": 1},
    "labels": [],
    "features": [
        {"kind": "categorical", "columns": ["user", "item", "town"]},
        {"kind": "numeric", "name": "age", "transforms": ["standardise"]},
        {"kind": "sequence", "name": "history", "max_length": 4, "shared_with": "item"},
        {"kind": "sequence", "name": "stars_before", "max_length": 4, "aligned_with": "history"},
        {"kind": "sequence", "name": "seconds_before", "max_length": 4, "aligned_with": "history", "numbers": True},
    ],
    "items": {
        "id": "item",
        "file": "goods.csv",
        "key": "key",
        "features": [{"kind": "numeric", "name": "price", "transforms": ["log1p"]}],
    },
}
DSSM = {"name": "dssm", "embedding_dim": 4, "user_units": [8], "item_units": [8], "vector_dim": 6, "init_std": 0.5}


def write_raw(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"u{u},{item},{60 * n},{2 + n % 4}" for u, items in SEEN.items() for n, item in enumerate(items)]
    rows += [f"u{u},i{(u * 13) % ITEMS},{60 * 50 + u},1" for u in range(0, USERS, 2)]  # what `where` leaves out
    rows += [f"all,i{n % ITEMS},{n},5" for n in range(ITEMS + 2)]  # the last two rows are not for training
    (folder / "log.csv").write_text("\n".join(["user,item,time,stars", *rows]) + "\n")
    (folder / "people.csv").write_text("who,town,age\n" + "".join(f"u{u},t{u % 5},{u}\n" for u in range(0, USERS, 3)))
    (folder / "goods.csv").write_text("key,price\n" + "".join(f"i{item},{item + 1}\n" for item in range(ITEMS)))


def make_run(folder: Path, model: dict[str, Any], recipe: dict[str, Any] | None = None) -> Path:
    """A run that was not trained, whose weights can be told apart, with the transforms beside its checkpoint."""
    write_raw(folder / "raw")
    prepare({**(recipe or RECIPE), "source": str(folder / "raw"), "out": str(folder / "data")}, use_ray=False)
    config = load({"data": {"root": str(folder / "data")}, "model": model, "train": {"threads": 1}})
    schema = Schema.load(folder / "data" / "schema.json")
    built = MODELS.build(config.model, schema)
    random = torch.Generator().manual_seed(3)
    for parameter in built.parameters():
        nn.init.normal_(parameter, std=0.5, generator=random)
    step = folder / "run" / "checkpoints" / "step_0000000007"
    step.mkdir(parents=True)
    checkpoint.write(step, config=config, schema=schema, model=built, optimizers=[], state={"step": 7})
    keep(str(folder / "data"), str(folder / "run" / "checkpoints"))
    return folder / "run"


def export_files(
    run: Path | str, folder: Path | str, *, like: Path | None = None, how: Any = export_towers, **given: Any
) -> Any:
    """The export without the item tower, which `recommend` does not read, and with that of users from `like`."""
    real = towers.export_onnx

    def export(checkpoint: str, out: str, *, part: Any, **given: Any) -> ExportReport:
        if part == "user" and like is None:
            return real(checkpoint, out, part=part, **given)
        if part == "user" and like is not None:
            Path(folder).mkdir(exist_ok=True)
            shutil.copy(like / "user.onnx", out)
        return ExportReport(out, f"{out}.parity.json", None, 0.0, (), (), (), 0.0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(towers, "export_onnx", export)
        return how(run, folder, **given)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its export, and `files`: a copy of that alone."""
    folder = tmp_path_factory.mktemp("home")
    run = make_run(folder, DSSM)
    export_files(run, run / "serving", batch_sizes=(1, 7))
    shutil.copytree(run / "serving", folder / "files")
    people(range(USERS)).to_csv(folder / "users.csv", index=False)
    return folder


def people(users: Any) -> pd.DataFrame:
    """Users as rows with their history, as a log would give it after its last row."""
    rows = []
    for u in users:
        stars = [2 + n % 4 for n in range(len(SEEN[u]))]
        ages = [60 * (len(SEEN[u]) - 1 - n) for n in range(len(SEEN[u]))]
        rows.append({"user": f"u{u}", "history": SEEN[u], "stars_before": stars, "seconds_before": ages})
    return pd.DataFrame(rows)


def model_and_items(home: Path) -> tuple[Retriever, Tensor]:
    saved = checkpoint.read(home / "run")
    model = saved.build_model()
    assert isinstance(model, Retriever)
    with torch.no_grad():
        return model, model.item_vectors(Catalogue.read(str(home / "data"), saved.schema).features)


def expected(home: Path, frame: pd.DataFrame, left_out: list[set[str]] | None = None) -> tuple[Tensor, list[str]]:
    """PyTorch's scores of all items for users, and what the items are called."""
    model, items = model_and_items(home)
    encoder = Encoder.load(home / "data")
    town = frame["user"].map(lambda u: f"t{int(u[1:]) % 5}" if u[1:].isdigit() and int(u[1:]) % 3 == 0 else None)
    age = frame["user"].map(lambda u: float(u[1:]) if u[1:].isdigit() and int(u[1:]) % 3 == 0 else np.nan)
    schema = model.user_schema
    rows = encoder.only(schema.feature_names).encode(frame.assign(town=town, age=age))
    with torch.no_grad():
        users = model.user_vectors(batch_from_table(rows, schema, targets=False).features)
    scores = users @ items.T
    keys = encoder.vocabulary("item").to_pylist()
    for row, names in enumerate(left_out or []):
        scores[row, [keys.index(name) for name in names]] = -torch.inf
    return (scores.amax(1) if scores.dim() == 3 else scores), keys


def check(found: pd.DataFrame, scores: Tensor, keys: list[str], k: int = K) -> None:
    """The scores are the largest ones, and each is its item's: items of equal scores may change places."""
    best = scores.topk(k, 1).values.numpy()
    assert len(found) == len(scores)
    for row, (items, given) in enumerate(zip(found["items"], found["scores"], strict=True)):
        there = np.isfinite(best[row])
        np.testing.assert_allclose(given, best[row][there], atol=1e-5)
        own = scores[row, [keys.index(item) for item in items]].numpy()
        np.testing.assert_allclose(given, own, atol=1e-5)
        assert len(set(items)) == len(items)


def answered(out: Path) -> pd.DataFrame:
    table = pq.read_table(sorted(out.glob("*.parquet")))
    return table.to_pandas().sort_values("user", key=lambda column: column.str[1:].astype(int)).reset_index()


def test_a_fresh_process_with_the_files_alone_gives_the_scores_of_pytorch(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "files", tmp_path / "files")
    shutil.copy(home / "users.csv", tmp_path / "users.csv")
    code = (
        "import sys, pandas, rechub_ray\n"
        "found = rechub_ray.Recommender('files').recommend(pandas.read_csv('users.csv').head(9), 5)\n"
        "assert len(found) and not {'torch', 'ray'} & {*sys.modules}, 'in memory it takes neither'\n"
        "from rechub_ray.cli import main\n"
        "code = main(['recommend', 'files', '--users', 'users.csv', '--out', 'out'])\n"
        "assert 'ray' not in sys.modules, 'Ray is not needed'\n"
        "sys.exit(code)"
    )
    moved = [(home / name, home / f"{name} elsewhere") for name in ("run", "data", "raw")]
    for here, there in moved:
        here.rename(there)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ}, check=False
        )
    finally:
        for here, there in moved:
            there.rename(here)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{USERS} rows -> out\n"
    table = pq.read_table(tmp_path / "out")
    assert table.column_names == ["user", "items", "scores"]
    assert table["user"].to_pylist() == [f"u{u}" for u in range(USERS)], "the order of the file"
    check(table.to_pandas(), *expected(home, people(range(USERS))))


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_log_gives_what_its_users_histories_give(home: Path, tmp_path: Path, form: str) -> None:
    """Its last row counts, too, and rows that `where` leaves out do not."""
    log = pd.read_csv(home / "raw" / "log.csv").query("user != 'all'").sample(frac=1, random_state=0)
    path = tmp_path / f"log.{form}"
    if form == "csv":
        log.to_csv(path, index=False)
    elif form == "jsonl":
        log.to_json(path, orient="records", lines=True)
    else:
        log.to_parquet(path, index=False)
    assert recommend(home / "files", tmp_path / "out", users=str(path), exclude="history") == USERS
    left_out = [{*items} for items in SEEN.values()]
    check(answered(tmp_path / "out"), *expected(home, people(range(USERS)), left_out))
    assert recommend(home / "files", tmp_path / "same", users=str(path), exclude="seen") == USERS
    assert answered(tmp_path / "same").equals(answered(tmp_path / "out"))


@pytest.mark.parametrize("form", ["csv", "tsv", "txt", "jsonl", "parquet"])
def test_users_files_have_names_of_columns_where_the_recipes_logs_have_none(
    home: Path, tmp_path: Path, form: str
) -> None:
    files, frame, path = tmp_path / "files", people(range(9)), tmp_path / f"users.{form}"
    shutil.copytree(home / "files", files)
    recipe = json.loads((files / "recipe.json").read_text())
    names = ["user", "item", "time", "stars"]
    for entry in recipe["files"][""]:
        entry["format"] |= {"type": "tsv", "delimiter": "", "header": False, "columns": names, "encoding": "latin-1"}
    (files / "recipe.json").write_text(json.dumps(recipe))
    if form == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif form == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="," if form == "csv" else "\t")
    assert recommend(files, tmp_path / "out", users=str(path)) == 9
    check(answered(tmp_path / "out"), *expected(home, frame))
    # logs are still laid out as the recipe says, and a delimiter that is named counts
    log = pd.read_csv(home / "raw" / "log.csv").query("user != 'all'")[names]
    log.to_csv(tmp_path / "log.data", index=False, header=False, sep="\t")
    assert recommend(files, tmp_path / "of_logs", users=str(tmp_path / "log.data")) == USERS
    check(answered(tmp_path / "of_logs"), *expected(home, people(range(USERS))))
    frame.to_csv(tmp_path / "other.csv", index=False, sep=";")
    told = {"format.delimiter": ";"}
    assert recommend(files, tmp_path / "told", users=str(tmp_path / "other.csv"), overrides=told) == 9
    assert answered(tmp_path / "told").equals(answered(tmp_path / "out"))
    frame.to_csv(tmp_path / "bare.csv", index=False, header=False, sep="\t")
    told = {"format.columns": list(frame.columns)}
    assert recommend(files, tmp_path / "bare", users=str(tmp_path / "bare.csv"), overrides=told) == 9
    assert answered(tmp_path / "bare").equals(answered(tmp_path / "out"))


def test_seen_items_are_left_out_on_request(home: Path, tmp_path: Path) -> None:
    """The whole list counts, however long what the model reads of it; another column may hold it, too."""
    frame = people(range(USERS)).assign(seen=[["i1", "i2", "never seen"]] * USERS)
    frame.loc[3, "seen"] = []
    frame.to_parquet(tmp_path / "users.parquet")
    files, users = home / "files", str(tmp_path / "users.parquet")
    recommend(files, tmp_path / "history", users=users, exclude="history")
    left_out = [{*items} for items in SEEN.values()]
    check(answered(tmp_path / "history"), *expected(home, frame, left_out))
    recommend(files, tmp_path / "seen", users=users, exclude="seen", k=ITEMS)
    found = answered(tmp_path / "seen")
    assert [len(items) for items in found["items"]] == [ITEMS if u == 3 else ITEMS - 2 for u in range(USERS)]
    some = [set[str]() if u == 3 else {"i1", "i2"} for u in range(USERS)]
    check(found, *expected(home, frame, some), k=ITEMS)


def test_cold_users_and_unseen_values_are_answered(home: Path, tmp_path: Path) -> None:
    rows = [
        {"user": "new", "history": ["i1", "i2"]},
        {"user": None, "history": ["no such item", "i5", "i6", "i7", "i8"]},
        {"user": "u3", "history": []},
        {"user": "newer", "history": None},
    ]
    frame = pd.DataFrame(rows)
    lists = [[] if h is None else list(h) for h in frame["history"]]
    frame = frame.assign(stars_before=[["5"] * len(h) for h in lists], seconds_before=[[9] * len(h) for h in lists])
    found = Recommender(home / "files").recommend(frame.set_axis(["a", "b", "c", "d"], axis=0), k=10)
    assert found.index.tolist() == ["a", "b", "c", "d"]
    full = frame.assign(user=frame["user"].fillna("-"), history=lists)
    check(found, *expected(home, full), k=10)
    assert len({tuple(items) for items in found["items"]}) == 4, "histories matter"


def test_frames_and_runs_in_python(home: Path) -> None:
    frame = people([5, 7, 9])
    found = rechub_ray.load(home / "run").recommend(frame, k=7, exclude="history")
    assert list(found.columns) == ["items", "scores"]
    check(found, *expected(home, frame, [{*SEEN[u]} for u in (5, 7, 9)]), k=7)
    log = pd.read_csv(home / "raw" / "log.csv").query("user in ['u5', 'u7', 'u9']").sample(frac=1, random_state=1)
    again = rechub_ray.Recommender(home / "run").recommend(log, 7, exclude="history")
    last = log[log["stars"] >= 2].sort_values("time").groupby("user").tail(1).sort_values("user")
    for place, index in enumerate(last.index):
        np.testing.assert_allclose(again.loc[index, "scores"], found.iloc[place]["scores"], atol=1e-6)
    nobody = rechub_ray.Recommender(home / "run").recommend(pa.Table.from_pandas(frame[:0]), 7)
    assert len(nobody) == 0


def test_rows_of_items_with_the_columns_that_are_kept(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    frame = people(range(4)).assign(batch=["x", "y", "x", "y"])
    frame.to_json(tmp_path / "u.jsonl", orient="records", lines=True)
    command = ["recommend", str(home / "run"), "--users", str(tmp_path / "u.jsonl"), "on_bad_rows=quarantine"]
    assert main([*command, "--k", "3", "--as", "rows", "--keep", "batch,user", "--out", str(out)]) == 0
    table = pq.read_table(out)
    assert table.column_names == ["batch", "user", "item", "score", "rank"]
    assert table["rank"].to_pylist() == [1, 2, 3] * 4
    assert table["user"].to_pylist() == [f"u{u}" for u in range(4) for _ in range(3)]
    lists = table.to_pandas().groupby("user").agg(items=("item", list), scores=("score", list))
    check(lists, *expected(home, frame), k=3)


@pytest.mark.parametrize("index", ["flat", {"name": "hnsw", "m": 16}, "ivf"])
def test_an_index_finds_what_it_says(
    home: Path, tmp_path: Path, index: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    text = index if isinstance(index, str) else json.dumps(index)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(towers, "export_towers", functools.partial(export_files, like=home / "files"))
        assert main(["export", str(home / "run"), "--out", str(tmp_path / "files"), "--index", text]) == 0
    note = json.loads((tmp_path / "files" / "serving.json").read_text())["index"]
    name = note["settings"]["name"]
    assert (
        f"{name}, recall@100 {note['recall']:.4f} of 61 rows of data.test against all items" in capsys.readouterr().out
    )
    frame = people(range(USERS))
    recommender = Recommender(tmp_path / "files")
    found = recommender.recommend(frame, k=20)
    scores, keys = expected(home, frame)
    if name == "flat":
        assert note["recall"] == 1
        check(found, scores, keys, k=20)
    assert note["recall"] > 0.4
    exact = Recommender(tmp_path / "files", exact=True).recommend(frame, k=20)
    check(exact, scores, keys, k=20)
    both = [len({*a} & {*b}) for a, b in zip(found["items"], exact["items"], strict=True)]
    assert np.mean(both) / 20 >= note["recall"] - 0.1
    export_files(home / "run", tmp_path / "files", like=home / "files")
    assert not (tmp_path / "files" / "index.faiss").exists(), "an index of an earlier export does not stay"
    assert Recommender(tmp_path / "files").served.note["index"] is None


def test_a_tower_of_raw_values_gives_the_same(home: Path, tmp_path: Path) -> None:
    export_files(home / "run", tmp_path / "raw", inputs="raw", batch_sizes=(7,))
    assert not (tmp_path / "raw" / "user.onnx").exists()
    frame = people(range(USERS))
    frame.to_json(tmp_path / "u.jsonl", orient="records", lines=True)
    recommend(tmp_path / "raw", tmp_path / "out", users=str(tmp_path / "u.jsonl"), k=30)
    check(answered(tmp_path / "out"), *expected(home, frame), k=30)
    log = str(home / "raw" / "log.csv")
    for folder, files in (("raw", tmp_path / "raw"), ("encoded", home / "files")):
        assert recommend(files, tmp_path / folder / "out", users=log, k=5, exclude="history") == USERS + 1
    a, b = (pq.read_table(tmp_path / folder / "out").sort_by("user").to_pandas() for folder in ("raw", "encoded"))
    for one, two in zip(a["scores"], b["scores"], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    assert [len(items) for items in a["items"]].count(0) == 1, "one user has had everything"


class TwoTastes(Retriever):
    """Two vectors a user: of the table, and of the history."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(schema)
        self.embed(["user", "history"], ["item", "price"], dim=5, init_std=0.5)
        self.of_user, self.of_items = nn.Linear(10, 10), nn.Linear(6, 5)

    def user_vectors(self, features: Features) -> Tensor:
        return self.of_user(torch.cat(self.read_user(features), 1)).unflatten(1, (2, 5))

    def item_vectors(self, items: Features) -> Tensor:
        return self.of_items(torch.cat(self.read_items(items), 1))


@pytest.fixture
def two_tastes() -> Iterator[None]:
    MODELS.register("two_tastes")(TwoTastes)
    yield
    del MODELS._classes["two_tastes"]


@pytest.mark.usefixtures("two_tastes")
def test_the_best_of_several_vectors_of_a_user_counts(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"name": "two_tastes"}, {**RECIPE, "where": ""})
    report = export_files(run, run / "serving", batch_sizes=(7,), index={"name": "ivf", "nprobe": 3})
    assert report.index is not None
    assert 0.4 < report.index.recall <= 1
    frame = people(range(USERS))
    scores, keys = expected(tmp_path, frame)
    assert scores.shape == (USERS, ITEMS)
    check(Recommender(run, exact=True).recommend(frame), scores, keys)
    found = Recommender(run).recommend(frame, 9)
    assert all(len({*items}) == len(given) == 9 for items, given in zip(found["items"], found["scores"], strict=True))


def test_a_killed_command_goes_on(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(3):
        people(range(20 * part, 20 * part + 20)).to_json(tmp_path / f"{part}.jsonl", orient="records", lines=True)
    given: dict[str, Any] = {"users": str(tmp_path / "*.jsonl"), "k": 5}
    write = Parts.write

    def stop(self: Parts, number: int, blocks: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, blocks)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parts, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            recommend(home / "files", tmp_path / "out", **given)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert len(before) == 2
    with pytest.raises(ConfigError, match=r"part of other predictions.*another --k"):
        recommend(home / "files", tmp_path / "out", **{**given, "k": 6})
    assert recommend(home / "files", tmp_path / "out", **given) == USERS
    assert {path: path.stat().st_mtime_ns for path in before} == before
    check(answered(tmp_path / "out"), *expected(home, people(range(USERS))), k=5)
    monkeypatch.setattr(recommend_module, "_BATCH", 7)
    recommend(home / "files", tmp_path / "small", **given)
    check(answered(tmp_path / "small"), *expected(home, people(range(USERS))), k=5)


def test_a_trial_of_a_sweep_answers_users(home: Path, tmp_path: Path) -> None:
    """Its folder keeps no transforms: they are those of the data."""
    checkpoint = make_run(tmp_path, DSSM) / "checkpoints" / "step_0000000007"
    for name in ("preprocess.json", "recipe.json", "schema.json"):
        (checkpoint.parent / name).unlink()
    (tmp_path / "trial").mkdir()

    def export(checkpoint: Path, folder: Path) -> dict[str, Any]:
        return export_trial(checkpoint, folder.parent, probabilities=True)

    told = export_files(checkpoint, tmp_path / "trial" / "serving", like=home / "files", how=export)
    assert "error" not in told
    recommend(tmp_path / "trial", tmp_path / "out", users=str(home / "users.csv"), k=5)
    check(answered(tmp_path / "out"), *expected(home, people(range(USERS))), k=5)


def test_bad_rows_are_set_aside(home: Path, tmp_path: Path) -> None:
    good = people(range(3))
    lines = good.to_json(orient="records", lines=True).splitlines()
    lines.insert(1, '{"user": "u9", "history": ["i1"], "stars_before": ["2"], "seconds_before": ["soon"]}')
    (tmp_path / "u.jsonl").write_text("\n".join(lines) + "\n")
    given: dict[str, Any] = {"users": str(tmp_path / "u.jsonl"), "k": 5}
    with pytest.raises(DataError, match=r"u\.jsonl, row 2.*seconds_before"):
        recommend(home / "files", tmp_path / "out", **given)
    assert recommend(home / "files", tmp_path / "out", overrides=["on_bad_rows=quarantine"], **given) == 3
    assert "soon" in next((tmp_path / "out" / "quarantine").iterdir()).read_text()
    check(answered(tmp_path / "out"), *expected(home, good), k=5)


def test_what_is_wrong_is_said_before_anything_is_written(home: Path, tmp_path: Path) -> None:
    files, users = home / "files", str(home / "users.csv")
    given: dict[str, Any] = {"users": users}

    def refused(error: type[Exception], match: str, run: Path = files, **changes: Any) -> None:
        with pytest.raises(error, match=match):
            recommend(run, tmp_path / "out", **{**given, **changes})
        assert not (tmp_path / "out").exists()

    refused(ConfigError, r"'k'.*1 to 230.*Got: 231", k=231)
    refused(ConfigError, "'k'", k=0)
    refused(ConfigError, "'exclude': 'town' is no list of items.*history", exclude="town")
    refused(ConfigError, "'exclude': there is no list 'histry'.*Did you mean 'history'", exclude="histry")
    refused(ConfigError, "'form'.*lists or rows", form="table")
    refused(ConfigError, "--keep: 'items'", keep=["items"])
    refused(DataError, "no column 'colour'", keep=["colour"])
    refused(ConfigError, "'data.root' is not read by `recommend`", overrides=["data.root=x"])
    people(range(2)).drop(columns="stars_before").to_csv(tmp_path / "few.csv", index=False)
    refused(DataError, r"no column 'stars_before'.*users with their history.*or a log, with 'user', 'item'",
            users=str(tmp_path / "few.csv"))  # fmt: skip
    refused(DataError, "no file", users=str(tmp_path / "none.csv"))
    refused(ExportError, "no files of a model for retrieval.*rechub-ray export", tmp_path)


def test_files_that_do_not_belong_together_are_refused(home: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"

    def anew() -> None:
        shutil.rmtree(files, ignore_errors=True)
        shutil.copytree(home / "files", files)

    def change(**values: Any) -> None:
        note = json.loads((files / "serving.json").read_text())
        (files / "serving.json").write_text(json.dumps({**note, **values}))

    anew()
    (files / "items.parquet").unlink()
    with pytest.raises(DataError, match="table of the items, is missing"):
        Served.read(str(files))
    anew()
    with (files / "user.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(ExportError, match=r"user\.onnx is of another export than items\.parquet"):
        Served.read(str(files))
    anew()
    (files / "serving.json").unlink()
    with pytest.raises(ExportError, match=r"no serving\.json.*export RUN"):
        Served.read(str(files))
    anew()
    served = Served.read(str(files))
    from rechub_ray.export.index import INDEXES, build, write

    settings = INDEXES.validate("flat")
    write(build(INDEXES.build(settings), served.search.vectors[1:]), str(files))
    change(index={"settings": settings, "vectors": "0" * 16})
    with pytest.raises(ExportError, match=r"index\.faiss was made of other vectors than those in items\.parquet"):
        Served.read(str(files))
    assert Served.read(str(files), exact=True).search.vectors.shape == served.search.vectors.shape
    (files / "preprocess.json").unlink()
    with pytest.raises(ConfigError, match="no transforms"):
        Recommender(files, exact=True)


def test_a_model_that_scores_rows_is_refused(home: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(home / "run")
    config = saved.config.model_copy(update={"model": {"name": "lr"}})
    schema = dataclasses.replace(saved.schema, items=None)
    step = tmp_path / "checkpoints" / "step_0000000001"
    step.mkdir(parents=True)
    model = MODELS.build({"name": "lr"}, schema)
    checkpoint.write(step, config=config, schema=schema, model=model, optimizers=[], state={"step": 1})
    with pytest.raises(ConfigError, match=r"'lr' scores rows and has no vectors of items.*rechub-ray predict"):
        Recommender(tmp_path)


def test_lists_of_items_a_user_are_a_log_as_well(tmp_path: Path) -> None:
    """A recipe that makes rows of each user's list: users come with that list, whole, also an empty one."""
    features = [{"kind": "categorical", "columns": ["user", "item"]}, RECIPE["features"][2]]
    recipe = {
        "files": "lists.jsonl",
        "format": {"type": "jsonl"},
        "history": {"items": "had", "item": "item", "max_length": 4},
        "labels": [],
        "features": features,
        "items": {"id": "item"},
    }
    lists = pd.DataFrame({"user": [f"u{u}" for u in range(USERS)], "had": [SEEN[u] for u in range(USERS)]})
    (tmp_path / "raw").mkdir()
    lists.to_json(tmp_path / "raw" / "lists.jsonl", orient="records", lines=True)
    run = make_run(tmp_path, {**DSSM, "item_units": []}, recipe)
    export_files(run, run / "serving", batch_sizes=(1,))
    lists.at[2, "had"] = []
    recommender = Recommender(run)
    found = recommender.recommend(lists, 5, exclude="history")
    same = recommender.recommend(lists.rename(columns={"had": "history"}), 5, exclude="history")
    for column in ("items", "scores"):
        assert [list(row) for row in found[column]] == [list(row) for row in same[column]]
    assert not any({*items} & {*had} for items, had in zip(found["items"], lists["had"], strict=True))


def test_a_history_that_holds_its_own_row_is_not_for_training() -> None:
    with pytest.raises(ConfigError, match=r"'history.rows: latest'.*each, windows or both"):
        prepare({**RECIPE, "history": {**RECIPE["history"], "rows": "latest"}})
