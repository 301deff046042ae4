"""A model remembers how its data was encoded: other data is refused, and what differs is named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.cli import main
from rechub_ray.data.fingerprint import digest, find, homes, keep
from rechub_ray.errors import CheckpointError, DataError
from rechub_ray.files import join
from rechub_ray.preparation import Encoder, prepare
from rechub_ray.preparation.transforms import Vocabulary
from rechub_ray.runtime.adoption import adopt
from rechub_ray.runtime.inference import evaluate, predict
from rechub_ray.runtime.launch import train, validate
from rechub_ray.runtime.preflight import check
from rechub_ray.schema import Schema
from rechub_ray.sweeps.launch import _check_data

RAW = "user,item,price,tags,rating\n1,a,1,x|y,5\n2,b,3,y,3\n1,a,,,4\n3,c,5,z,1\n"


def month(number: int, rows: int = 200) -> str:
    """Another month has other frequencies, so the same recipe gives its vocabulary another order."""
    rng = np.random.default_rng(number)
    users, items = rng.integers(0, 30, rows) + 5 * number, (rng.pareto(1, rows) * 3).astype(int) % 20
    lines = zip(users, (items * (number + 1)) % 20, rng.integers(1, 90, rows), rng.integers(1, 6, rows), strict=True)
    return "user,item,price,tags,rating\n" + "".join(f"u{u},i{i},{p},t{p % 7}|t{i % 5},{r}\n" for u, i, p, r in lines)


def capped(lab: Any, *, cap: int = 12, **changes: Any) -> dict[str, Any]:
    features = [
        {"kind": "categorical", "columns": ["user", "item"], "max_values": cap},
        {"kind": "numeric", "name": "price", "transforms": ["log1p", "standardise"]},
        {"kind": "bucket", "name": "price_bucket", "column": "price", "num_buckets": 4},
        {"kind": "sequence", "name": "tags", "separator": "|", "max_length": 2},
        {"kind": "categorical", "name": "hashed", "column": "item", "hash_buckets": 16},
    ]
    recipe: dict[str, Any] = lab.recipe(features=features, **changes)
    return recipe


def run_of(lab: Any, **changes: Any) -> Any:
    base = {
        "data": {"root": str(lab.out), "valid": None, "batch_size": 32},
        "model": {"name": "lr"},
        "train": {"epochs": 1, "threads": 1},
        "trackers": [],
        "export": {"onnx": False},
        "model_dir": str(lab.folder / "run"),
    }
    return config_module.load(base, changes)


@pytest.fixture
def trained(lab: Any) -> Any:
    lab.write(train__csv=month(0), test__csv=month(0, 60))
    prepare(capped(lab))
    train(run_of(lab))
    return lab


def next_month(lab: Any, **changes: Any) -> None:
    lab.write(train__csv=month(1), test__csv=month(1, 60))
    prepare(capped(lab, overwrite=True, **changes))


def test_next_months_vocabulary_is_refused_with_the_features_that_differ(trained: Any) -> None:
    run = str(trained.folder / "run")
    scores = evaluate(run)
    next_month(trained)
    said = r"out was prepared with other vocabularies or transforms than the data of .*step_0.*: 'user' \(encoded "
    said += r"otherwise\), 'item' \(11 ids, was 13\), 'price' .*'price_bucket' .*'tags' "
    for refused in (
        lambda: evaluate(run),
        lambda: predict(run, trained.folder / "predictions"),
        lambda: evaluate(run, split=str(trained.out / "train")),
        lambda: train(run_of(trained, **{"train.epochs": 2}), resume="must"),
        lambda: validate(run_of(trained, **{"train.epochs": 2})),
    ):
        with pytest.raises(DataError, match=said) as caught:
            refused()
        assert "hashed" not in str(caught.value), "hashing is the same for every month"
        now, before = (Encoder.load(place).vocabulary("user") for place in (trained.out, f"{run}/checkpoints"))
        place = next(i for i in range(12) if now[i] != before[i])
        assert f"Got: id {place + 1} of 'user' is '{now[place]}', was '{before[place]}'." in str(caught.value)
    # the month of the run again: its fingerprint is a function of the raw rows alone
    trained.write(train__csv=month(0), test__csv=month(0, 60))
    prepare(capped(trained, overwrite=True))
    assert evaluate(run) == scores


def test_each_command_says_what_differs(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line, where data of another vocabulary lies in the folder."""
    run, sweep = str(trained.folder / "run"), trained.folder / "sweep"
    config = trained.folder / "config.yaml"
    config.write_text(config_module.dump(run_of(trained, **{"train.epochs": 2})))
    sweep.mkdir()
    base = run_of(trained, **{"data.valid": "test"}).model_dump(mode="json")
    document = {
        "name": "s",
        "base": base,
        "metric": "auc",
        "trials": 1,
        "space": {"optimizers.0.lr": {"choice": [0.1, 0.2]}},
    }
    (sweep / "sweep.yaml").write_text(yaml.safe_dump(document))
    (sweep / "trials.jsonl").touch()
    shutil.copy(trained.out / "schema.json", sweep)
    month_0 = {feature.name: feature for feature in Schema.load(trained.out / "schema.json").features}
    next_month(trained, cap=10)
    other = Schema.load(trained.out / "schema.json").features[1]
    assert other.encoding != month_0["item"].encoding
    data = f"{trained.out} was prepared with other vocabularies or transforms than the data of"
    for command, said in (
        (["validate", str(config)], f"'data.root': {data} {run}/checkpoints/step_"),
        (["train", str(config), "--resume", "must"], f"'data.root': {data} {run}/checkpoints/step_"),
        (["train", str(config)], f"'data.root': {data} {run}/checkpoints/step_"),
        (["evaluate", run], f"'data.test': {data} {run}/checkpoints/step_"),
        (["evaluate", run, "--split", str(trained.out / "test")], f"'--split': {data}"),
        (["predict", run, "--out", str(trained.folder / "predictions")], f"'data.test': {data} {run}"),
        (["tune", "--resume", str(sweep)], f"'base.data.root': {data} {sweep}: "),
    ):
        assert main(command) == 2, command
        message = capsys.readouterr().err
        assert said in message, command
        for word in ("'user' (11 ids, was 13)", "'item' (11 ids, was 13)", "'price' (encoded otherwise)", "'tags' ("):
            assert word in message, command
        assert "hashed" not in message, command
        assert "prepare RECIPE --like" in message, command
    keep(str(trained.out), f"{run}/checkpoints")  # the run's own copy is exchanged
    assert main(["export", run, "--inputs", "raw"]) == 2
    message = capsys.readouterr().err
    assert f"{run}/checkpoints: its transforms are not those of the model's features 'user', 'item', 'price'" in message
    assert not (trained.folder / "predictions").exists()
    assert not list(Path(run).glob("*.onnx"))


def test_a_label_made_otherwise_is_noticed(trained: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(trained.folder / "run")
    scores = evaluate(run)
    prepare(capped(trained, overwrite=True, labels=[{"name": "liked", "expression": "(rating>=4)"}]))
    assert evaluate(run) == scores, "the same expression, written otherwise"
    prepare(capped(trained, overwrite=True, labels=[{"name": "liked", "expression": "rating >= 3"}]))
    said = r"out was prepared with other expressions of its labels than the data of .*step_\d+: "
    said += r"'liked' \(rating >= 3, was rating >= 4\)\. "
    for refused in (
        lambda: evaluate(run),
        lambda: train(run_of(trained, **{"train.epochs": 2}), resume="must"),
        lambda: validate(run_of(trained, **{"train.epochs": 2})),
    ):
        with pytest.raises(DataError, match=said) as caught:
            refused()
        assert "earlier expression" in str(caught.value)
    assert predict(run, trained.folder / "predictions") == 60, "which needs no labels"
    other = {"data.train": ["train", str(trained.folder / "other" / "train")], "model_dir": str(trained.folder / "new")}
    prepare(capped(trained, out=str(trained.folder / "other"), labels=[{"name": "liked", "expression": "rating == 5"}]))
    with pytest.raises(DataError, match=r"'data.train': .*other was .*'liked' \(rating == 5, was rating >= 3\)"):
        validate(run_of(trained, **other))
    checked: Any = SimpleNamespace(sweep=SimpleNamespace(directory=lambda: str(trained.folder)))
    checked.job = check(run_of(trained))
    _check_data(checked)
    checked.job = check(run_of(trained, **{"data.root": str(trained.folder / "other")}))
    with pytest.raises(DataError, match="'liked'"):
        _check_data(checked)


def test_next_month_like_the_run_goes_on(trained: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = trained.folder / "run"
    next_month(trained)  # the vocabulary of the first month is now in the run alone
    next_month(trained, like=str(run))
    rows = pq.read_metadata(trained.out / "test" / "part-00000.parquet").num_rows
    assert evaluate(run)["rows_seen"] == rows == 60
    caplog.clear()
    result = train(run_of(trained, **{"train.epochs": 3}), resume="must")
    assert result.details["epochs"] == 3
    assert "part-00000.parquet is another file: the run goes on" in caplog.text
    next_month(trained, like=str(run), grow=True, cap=50)
    with pytest.raises(DataError, match=r"'user' \(\d+ ids, was 13\).* the first 12 ids of 'user' are the same"):
        evaluate(run)


def test_in_the_middle_of_an_epoch_the_rows_must_be_the_same(trained: Any) -> None:
    train(run_of(trained, **{"train.epochs": None, "train.steps": 8}), resume="must")
    next_month(trained, like=str(trained.out))
    with pytest.raises(DataError, match=r"part-00000.parquet is not the file that this run began with"):
        train(run_of(trained, **{"train.epochs": 3}), resume="must")


def test_a_run_keeps_the_transforms_of_its_data(trained: Any) -> None:
    run, rows = trained.folder / "run", pa.table({"user": ["u1", "new"], "item": ["i3", None]})
    rows = rows.append_column("price", pa.array([3.0, None])).append_column("tags", pa.array(["t1|t2|t3", ""]))
    expected = Encoder.load(trained.out).encode(rows)
    shutil.rmtree(trained.out)
    step = next((run / "checkpoints").glob("step_*"))
    for place in (run, run / "checkpoints", step):
        kept = find(str(place))
        assert kept == str(run / "checkpoints")
        assert Encoder.load(kept).encode(rows).equals(expected)
    assert Encoder.load(str(run / "checkpoints")).encodings == {
        f.name: f.encoding for f in read(step).schema.features if f.encoding
    }


def test_a_new_run_in_the_folder_keeps_its_own_and_leaves_the_earlier_ones(trained: Any) -> None:
    run = trained.folder / "run"
    before = (run / "checkpoints" / "vocab" / "user.parquet").read_bytes()
    next_month(trained)
    train(run_of(trained), resume="never")
    now = (run / "checkpoints" / "vocab" / "user.parquet").read_bytes()
    assert (run / "checkpoints.1" / "vocab" / "user.parquet").read_bytes() == before != now
    assert now == (trained.out / "vocab" / "user.parquet").read_bytes()
    evaluate(run)


def test_splits_of_several_data_sets_must_be_encoded_alike(trained: Any, lab: Any) -> None:
    lab.write(train__csv=month(1), test__csv=month(1, 60))
    prepare(capped(lab, out=str(lab.folder / "other")))
    both = ["train", str(lab.folder / "other" / "train")]
    changes = {"data.train": both, "model_dir": str(lab.folder / "second")}
    with pytest.raises(
        DataError, match=r"'data.train': .*other was prepared with other .* than the data of .*out: 'user'"
    ):
        validate(run_of(lab, **changes))
    shard = str(lab.folder / "other" / "test" / "part-00000.parquet")
    with pytest.raises(DataError, match=r"'--split': .*other was prepared"):
        evaluate(lab.folder / "run", split=shard)


def test_a_sweep_goes_on_with_the_same_encoding_alone(trained: Any) -> None:
    job = check(run_of(trained))
    checked: Any = SimpleNamespace(sweep=SimpleNamespace(directory=lambda: str(trained.folder)), job=job)
    _check_data(checked)
    _check_data(checked)
    next_month(trained)
    checked.job = check(run_of(trained))
    with pytest.raises(DataError, match=r"'base.data.root': .*out was prepared with other .*'user' "):
        _check_data(checked)


def before_fingerprints(out: Path) -> None:
    """Make a data set as earlier versions wrote it."""
    Schema.load(out / "schema.json").bare().save(out / "schema.json")
    document = json.loads((out / "preprocess.json").read_text())
    del document["encodings"]
    (out / "preprocess.json").write_text(json.dumps(document))


def test_data_and_runs_from_before_are_used_with_one_line(lab: Any, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records if "fingerprint" in record.getMessage()]
        caplog.clear()
        return found

    lab.write(train__csv=month(0), test__csv=month(0, 60))
    prepare(capped(lab))
    before_fingerprints(lab.out)
    train(run_of(lab))
    (line,) = lines()
    assert f"{lab.out} has no fingerprint" in line
    assert f"`rechub-ray prepare --adopt {lab.out}`" in line
    prepare(capped(lab, overwrite=True))
    evaluate(lab.folder / "run")
    (line,) = lines()
    assert f"step_0000000006 has no fingerprint of its data, so {lab.out} was not compared with it" in line
    train(run_of(lab, **{"train.epochs": 2}), resume="must")
    evaluate(lab.folder / "run")
    assert not lines(), "the run has taken the fingerprint of its data"


@pytest.mark.parametrize("kept", [True, False])
def test_data_and_runs_from_before_are_adopted(
    lab: Any, kept: bool, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run = lab.folder / "run"
    lab.write(train__csv=month(0), test__csv=month(0, 60))
    prepare(capped(lab))
    schema, document = (lab.out / "schema.json").read_text(), (lab.out / "preprocess.json").read_text()
    before_fingerprints(lab.out)
    train(run_of(lab))
    if not kept:  # such a run has no copy of its transforms either
        (run / "checkpoints" / "preprocess.json").unlink()
    for place in (run, lab.out):
        assert main(["prepare", "--adopt", str(place)]) == 0
    assert f"{run / 'checkpoints'} has its fingerprint" in capsys.readouterr().out
    assert json.loads((lab.out / "schema.json").read_text()) == json.loads(schema)
    assert json.loads((lab.out / "preprocess.json").read_text()) == json.loads(document)
    caplog.clear()
    evaluate(run)
    train(run_of(lab, **{"train.epochs": 2}), resume="must")
    assert "fingerprint" not in caplog.text
    next_month(lab)
    with pytest.raises(DataError, match="'user' "):
        evaluate(run)


def test_what_cannot_be_adopted(trained: Any) -> None:
    run = trained.folder / "run"
    (run / "checkpoints" / "preprocess.json").unlink()
    next_month(trained, like=str(trained.out))
    with pytest.raises(DataError, match="is not the file that this run began with"):
        adopt(str(run))
    shutil.copy(trained.out / "schema.json", trained.folder / "schema.json")
    schema = Schema.load(trained.out / "schema.json")
    features = (dataclasses.replace(schema.features[0], vocab_size=3), *schema.features[1:])
    dataclasses.replace(schema, features=features).save(trained.out / "schema.json")
    with pytest.raises(DataError, match=r"not of one data set. Expected: 'user' with 3 ids. Got: 13"):
        adopt(str(trained.out))
    (trained.out / "vocab" / "user.parquet").unlink()
    with pytest.raises(DataError, match="holds no readable encoder"):
        adopt(str(trained.out))
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        adopt(str(trained.raw))
    assert main(["prepare", "--adopt", str(trained.out), "--like", "x"]) == 2
    assert main(["prepare"]) == 2


def test_every_part_of_a_transform_is_in_its_fingerprint(lab: Any) -> None:
    def encodings(raw: str = RAW, drop: str | None = None, **changes: Any) -> dict[str, str]:
        lab.write(train__csv=raw, test__csv=raw)
        recipe = capped(lab, overwrite=True)
        recipe["features"] = [node | changes.get(node.get("name", "ids"), {}) for node in recipe["features"]]
        return {feature.name: feature.encoding for feature in prepare(recipe).schema.features}

    base = encodings()
    assert all(len(value) == 16 for value in base.values())
    for changes, differing in (
        ({"ids": {"min_frequency": 1}}, set()),
        ({"ids": {"min_frequency": 2}}, {"user", "item"}),
        ({"ids": {"embed_dim": 3}}, set()),
        ({"price": {"transforms": ["standardise"]}}, {"price"}),
        ({"price": {"fill": 1.0}}, {"price"}),
        ({"price": {"transforms": ["log1p", "standardize"]}}, set()),
        ({"price_bucket": {"num_buckets": 2}}, {"price_bucket"}),
        ({"tags": {"max_length": 1}}, {"tags"}),
        ({"tags": {"separator": "-"}}, {"tags"}),
        ({"hashed": {"hash_buckets": 17}}, {"hashed"}),
    ):
        now = encodings(**changes)
        assert {name for name in base if now[name] != base[name]} == differing, changes
    lines = RAW.splitlines(keepends=True)
    assert encodings("".join([lines[0], *lines[:0:-1]])) == base, "the order of the rows is none of its parts"
    more = encodings(RAW + "3,c,5,z,1\n" * 3)
    assert {name for name in base if more[name] != base[name]} == set(base) - {"hashed"}


def test_digests_tell_texts_apart_however_they_are_laid_out() -> None:
    texts = pa.array(["x", "ab", "c", "", "d"])
    assert digest(texts.slice(1, 3)) == digest(pa.array(["ab", "c", ""]))
    assert digest(texts) == digest(texts.cast(pa.large_string()))
    others = [["ab", "c"], ["a", "bc"], ["c", "ab"], ["abc"], ["abc", ""], ["", "abc"], [], [""]]
    assert len({digest(pa.array(other, pa.string())) for other in others}) == len(others)
    assert digest("a", None) != digest("a") != digest(None, "a")
    assert Vocabulary(texts).digest == digest("vocabulary", texts)


def test_the_nearest_schema_is_that_of_the_shards(tmp_path: Path) -> None:
    for folder in ("data", "data/day1", "flat"):
        (tmp_path / folder / "train").mkdir(parents=True)
        (tmp_path / folder / "schema.json").write_text("{}")
    root = str(tmp_path / "data")
    assert homes(root, "small.json", "train") == {f"{root}/small.json": root}
    assert homes(root, "small.json", ["train", "day1/train", "train/part.parquet", f"{tmp_path}/none/x"]) == {
        f"{root}/small.json": root,
        f"{root}/day1/schema.json": f"{root}/day1",
    }
    flat = str(tmp_path / "flat")
    for path in (flat, f"{flat}/train/", f"{flat}/train/part.parquet"):
        assert homes(root, "small.json", path) == {f"{flat}/schema.json": flat}
    assert homes("memory://b/data", "schema.json", ["train", "test"]) == {
        "memory://b/data/schema.json": "memory://b/data"
    }


def test_an_object_store_holds_the_copy_too(lab: Any) -> None:
    lab.write(train__csv=RAW, test__csv=RAW)
    lab.prepare()
    target = "memory://bucket/run/checkpoints"
    keep(str(lab.out), target)
    assert find("memory://bucket/run") == target == find(Store("memory://bucket/run").path(3))
    assert Encoder.load(target).encodings == Encoder.load(lab.out).encodings
    lab.write(train__csv=RAW.replace(",a,", ",q,"))
    lab.prepare(overwrite=True)
    keep(str(lab.out), target)
    assert Encoder.load(target).vocabulary("item").to_pylist() == ["q", "b", "c"]
    assert find(join("memory://bucket/run", "other")) is None
