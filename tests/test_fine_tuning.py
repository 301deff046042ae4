"""Weights of one model for another: by name, by a map, and tables by feature."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from rechub_ray import checkpoint, config, yaml_text
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import CheckpointError, DataError
from rechub_ray.fine_tuning import check_start, initialise_from, start_of
from rechub_ray.freezing import freeze
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.preparation import Encoder, prepare
from rechub_ray.runtime import launch
from rechub_ray.runtime.inference import evaluate
from rechub_ray.runtime.preflight import check
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

SCHEMA = Schema((SparseFeature("user", 5), DenseFeature("age")), (Label("click"),))
NAMES = ["embedding.tables.user", "linear.bias", "linear.dense.weight", "linear.embedding.tables.user"]


def make_model(fill: float, schema: Schema = SCHEMA, **arguments: Any) -> Model:
    model = MODELS.build({"name": "fm", "embedding_dim": 2, **arguments}, schema)
    for parameter in model.parameters():
        nn.init.constant_(parameter, fill)
    return model


def save(folder: Path, model: Model, **arguments: Any) -> Path:
    folder.mkdir()
    run = config.load({"model": {"name": "fm", "embedding_dim": 2, **arguments}, "optimizers": ["adam"]})
    checkpoint.write(folder, config=run, schema=model.schema, model=model, optimizers=[], state={})
    return folder


@pytest.fixture
def one(tmp_path: Path) -> Path:
    return save(tmp_path / "one", make_model(3.0))


def test_weights_by_name(one: Path) -> None:
    model = make_model(0.0)
    report = initialise_from(model, str(one), None)
    assert (list(report.taken), report.new, report.skipped) == (NAMES, [], [])
    assert {float(value) for p in model.parameters() for value in p.detach().flatten()} == {3.0}


def test_weights_by_a_map(one: Path, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("\nlinear.bias\tlinear.bias\n\n")
    model = make_model(0.0)
    report = initialise_from(model, str(one), str(tmp_path / "map"))
    rest = [name for name in NAMES if name != "linear.bias"]
    assert (report.taken, report.new, report.skipped) == ({"linear.bias": "linear.bias"}, rest, rest)
    for name, tensor in model.state_dict().items():
        assert bool((tensor == (3.0 if name == "linear.bias" else 0.0)).all())


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("embedding.weights.2", "line 1. Expected: current<TAB>old"),
        ("nobody\tembedding.weights.2", "line 1: the model has no 'nobody'"),
        ("linear.bias\tlinear.bais", "the checkpoint has no .* Did you mean 'linear.bias'"),
        ("embedding.weights.2\tembeding.weights.2", "the checkpoint has no 'embeding.weights.2'"),
        ("embedding.weights.2\tlinear.bias", r"'linear.bias' .* does not fit 'embedding.tables.user'"),
        ("embedding.weights.3\tembedding.weights.2", "the model has no 'embedding.weights.3'"),
        (
            "embedding.weights.2\tlinear.embedding.weights.1",
            r"does not fit.*Expected: shape \(5, 2\)\. Got: shape \(5, 1",
        ),
        ("", "has no parameter of this model"),
    ],
)
def test_maps_that_are_wrong(one: Path, tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "map").write_text(line)
    model = make_model(0.0)
    with pytest.raises(CheckpointError, match=words):
        initialise_from(model, str(one), str(tmp_path / "map"))
    assert {float(value) for p in model.parameters() for value in p.detach().flatten()} == {0.0}


def test_a_map_that_is_not_there(one: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot read init_map"):
        initialise_from(make_model(0.0), str(one), str(tmp_path / "map"))


# --- tables, whatever else the two models have ----------------------------------------------------------------------

OLD = Schema((SparseFeature("user", 5), SparseFeature("item", 7)), (Label("click"),))
NEW = Schema(
    (SparseFeature("city", 3), SparseFeature("item", 7), SequenceFeature("history", 7, shared_with="item")),
    (Label("click"),),
)


def items_numbered(model: Model) -> Model:
    bank: Any = model.embedding
    with torch.no_grad():
        bank.rows("item").copy_(torch.arange(14.0).view(7, 2))
    return model


def test_a_table_comes_from_a_model_with_other_tables(tmp_path: Path) -> None:
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    model: Any = make_model(0.0, NEW)
    report = initialise_from(model, str(old), None)
    assert list(report.taken) == ["embedding.tables.item", "linear.bias", "linear.embedding.tables.item"]
    assert report.new == ["embedding.tables.city", "linear.embedding.tables.city"]
    assert report.skipped == ["embedding.tables.user", "linear.embedding.tables.user"]
    assert torch.equal(model.embedding.rows("history"), torch.arange(14.0).view(7, 2))
    assert model.embedding.rows("city").eq(0).all()
    assert model.linear.embedding.rows("item").eq(3).all()


def test_a_table_under_another_name(tmp_path: Path) -> None:
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    schema = Schema((SparseFeature("candidate", 7), SparseFeature("city", 3)), (Label("click"),))
    model: Any = make_model(0.0, schema)
    (tmp_path / "map").write_text("embedding.tables.candidate\tembedding.tables.item\n")
    report = initialise_from(model, str(old), str(tmp_path / "map"))
    assert report.taken == {"embedding.tables.candidate": "embedding.tables.item"}
    assert torch.equal(model.embedding.rows("candidate"), torch.arange(14.0).view(7, 2))
    assert model.embedding.rows("city").eq(0).all()


def test_a_weight_stands_for_its_tables(tmp_path: Path) -> None:
    """As maps for checkpoints of the first format name them; the order of the features does not matter."""
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    turned: Any = make_model(0.0, Schema(OLD.features[::-1], OLD.labels))
    (tmp_path / "map").write_text("embedding.weights.2\tembedding.weights.2\n")
    taken = initialise_from(turned, str(old), str(tmp_path / "map")).taken
    assert list(taken) == ["embedding.tables.item", "embedding.tables.user"]
    assert torch.equal(turned.embedding.rows("item"), torch.arange(14.0).view(7, 2))
    assert turned.embedding.rows("user").eq(3).all()
    with pytest.raises(
        CheckpointError, match=r"hold different tables. Expected: city, item. Got: item, user. Name tabl"
    ):
        initialise_from(make_model(0.0, NEW), str(old), str(tmp_path / "map"))


def test_the_first_format_by_name(tmp_path: Path) -> None:
    old = Path(__file__).parent / "fixtures" / "format_1" / "step_0000000003"
    user, item = (
        checkpoint.read(old).model["embedding.tables.user"],
        checkpoint.read(old).model["embedding.tables.item"],
    )
    model: Any = make_model(
        0.0, Schema((SparseFeature("item", 7), SparseFeature("user", 11)), SCHEMA.labels), embedding_dim=4
    )
    initialise_from(model, str(old), None)
    assert torch.equal(model.embedding.rows("item"), item)
    assert torch.equal(model.embedding.rows("user"), user)
    (tmp_path / "map").write_text("embedding.weights.4\tembedding.weights.4\n")
    model = make_model(0.0, model.schema, embedding_dim=4)
    initialise_from(model, str(old), str(tmp_path / "map"))
    assert torch.equal(model.embedding.rows("item"), item)
    assert model.linear.embedding.rows("item").eq(0).all()


# --- shapes that differ ---------------------------------------------------------------------------------------------

GROWN = Schema((SparseFeature("user", 3), SparseFeature("item", 9)), (Label("click"),))


def test_the_part_that_both_have_is_copied_on_request(tmp_path: Path) -> None:
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    model: Any = make_model(0.0, GROWN, embedding_dim=3)
    with pytest.raises(
        CheckpointError,
        match=r"'embedding.tables.item' of .* does not fit 'embedding.tables.item', nor do others: "
        r"embedding.tables.user.*Expected: shape \(9, 3\)\. Got: shape \(7, 2\)\. .*init_resize=copy_overlap",
    ):
        initialise_from(model, str(old), None)
    report = initialise_from(model, str(old), None, resize="copy_overlap")
    expected = torch.zeros(9, 3)
    expected[:7, :2] = torch.arange(14.0).view(7, 2)
    assert torch.equal(model.embedding.rows("item"), expected)
    assert torch.equal(model.embedding.rows("user"), torch.tensor([[3.0, 3, 0]] * 3))
    assert torch.equal(model.linear.embedding.rows("item").flatten(), torch.tensor([3.0] * 7 + [0, 0]))
    assert report.resized["embedding.tables.item"] == ((7, 2), (9, 3))
    assert report.new == report.skipped == []
    assert "1 restored, 4 in part" in str(report)
    assert "embedding.tables.item (7, 2) -> (9, 3)" in str(report)


def test_a_vector_is_no_part_of_a_matrix(one: Path, tmp_path: Path) -> None:
    (tmp_path / "map").write_text("embedding.tables.user\tlinear.bias\n")
    with pytest.raises(CheckpointError, match=r"does not fit.*Got: shape \(1,\)"):
        initialise_from(make_model(0.0), str(one), str(tmp_path / "map"), resize="copy_overlap")


def test_a_frozen_table_takes_its_rows(tmp_path: Path) -> None:
    old = save(tmp_path / "old", items_numbered(make_model(3.0, OLD)))
    model: Any = make_model(0.0, OLD)
    frozen = freeze(model, ["embedding.tables.item"])
    report = initialise_from(model, str(old), None, frozen=frozen)
    assert report.to_dict()["frozen"] == ["embedding.tables.item"]
    assert torch.equal(model.embedding.rows("item"), torch.arange(14.0).view(7, 2))
    assert model.embedding.rows("user").eq(3).all()


# --- before a worker starts -----------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two checkpoints, of which the older one is the best."""
    content = {"model": {"name": "fm", "embedding_dim": 2}, "optimizers": ["adam"]}

    def fill(value: float) -> Any:
        model = make_model(value)
        return lambda folder: checkpoint.write(
            folder, config=config.load(content), schema=SCHEMA, model=model, optimizers=[], state={}
        )

    store = checkpoint.Store(str(tmp_path / "run"))
    store.save(10, fill(1.0), is_best=True)
    store.save(20, fill(2.0), is_best=False)
    return tmp_path / "run"


def test_a_runs_newest_checkpoint_or_on_request_its_best(run: Path) -> None:
    newest, best = start_of(str(run)), start_of(str(run), best=True)
    assert [Path(place).name for place in (newest, best)] == ["step_0000000020", "step_0000000010"]
    assert start_of(best) == start_of(best, best=True) == best
    model = make_model(0.0)
    initialise_from(model, newest, None)
    assert all(bool(value.eq(2).all()) for value in model.parameters())


def test_without_an_evaluation_there_is_no_best(run: Path) -> None:
    (run / "checkpoints" / "index.json").unlink()
    with pytest.raises(CheckpointError, match=r"nothing has been evaluated.*step_0000000020"):
        start_of(str(run), best=True)
    with pytest.raises(CheckpointError, match=r"no checkpoint in"):
        start_of(str(run / "checkpoints" / "nothing"))


@pytest.mark.parametrize("wrong", [False, True])
def test_the_driver_finds_the_same_from_shapes_alone(run: Path, wrong: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = Schema((SparseFeature("user", 6 if wrong else 5), DenseFeature("age")), SCHEMA.labels)
    node = {"name": "fm", "embedding_dim": 2}
    with torch.device("meta"):
        model = MODELS.build(node, schema)
    given = config.load({"model": node, "init_from": start_of(str(run))})
    real = make_model(0.0, schema)
    if wrong:
        messages = []
        for attempt in (lambda: check_start(given, model), lambda: initialise_from(real, str(given.init_from), None)):
            with pytest.raises(CheckpointError, match="does not fit") as caught:
                attempt()
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        return
    expected = initialise_from(real, str(given.init_from), None)
    monkeypatch.setattr(checkpoint, "load_file", None)
    assert check_start(given, model) == expected


def test_shapes_of_a_damaged_file(run: Path) -> None:
    place = Path(start_of(str(run)))
    whole = (place / "model.safetensors").read_bytes()
    (place / "model.safetensors").write_bytes(b"\xff" * len(whole))
    with pytest.raises(CheckpointError, match=r"damaged: model.safetensors"):
        checkpoint.read_shapes(str(place))


def test_shapes_of_the_first_format() -> None:
    old = Path(__file__).parent / "fixtures" / "format_1" / "step_0000000003"
    assert {name: tensor.shape for name, tensor in checkpoint.read_shapes(str(old)).model.items()} == {
        name: tensor.shape for name, tensor in checkpoint.read(old).model.items()
    }


def test_the_documents_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "fine_tuning.md").read_text(encoding="utf-8")
    example, names = re.findall(r"```(?:yaml)?\n(.*?)```", text, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    write_click_logs(tmp_path / "data" / "clicks", rows=3000, seed=1)
    Path("names.tsv").write_text(names)
    Path("fine.yaml").write_text(example)
    quiet = {"trackers": ["jsonl"], "train.threads": 1, "export.onnx": False}
    own = ("name", "init_from", "init_best", "init_map", "init_resize", "train")
    base = {key: value for key, value in yaml_text.read_yaml("fine.yaml").items() if key not in own}
    launch.train(config.load({**base, "name": "base"}, quiet))
    launch.train(config.load("fine.yaml", quiet))
    old, new = (checkpoint.read(Path("runs", name)).model for name in ("base", "fine"))
    report = json.loads(Path("runs", "fine", "fine_tuning.json").read_text())
    assert report["restored"]["mlp.0.weight"] == "mlp.0.weight"
    assert "linear.embedding.tables.item" in report["restored"]
    assert {"mlp.0.bias", "embedding.tables.item"} <= {*report["new"]}
    assert report["frozen"] == ["embedding.tables.user", "mlp.0.weight", "mlp.0.bias", "mlp.1.weight", "mlp.1.bias"]
    same = {name for name in old if torch.equal(old[name], new[name])}
    assert {"embedding.tables.user", "mlp.0.weight"} <= same
    assert same & {"embedding.tables.item", "linear.embedding.tables.user", "mlp.0.bias", "mlp.3.weight"} == set()


# --- rows by key ----------------------------------------------------------------------------------------------------


def month(folder: Path, number: int) -> None:
    """A prepared data set: another month has other users, and the items in another order."""
    random = np.random.default_rng(number)
    (folder / "raw").mkdir(exist_ok=True)
    users, items = random.integers(0, 6 + 2 * number, 300) + 2 * number, random.integers(4, 20, 300) * (number + 1) % 9
    lines = [f"u{user},i{item},{i % 2}" for i, (user, item) in enumerate(zip(users, items, strict=True))]
    (folder / "raw" / f"{number}.csv").write_text("\n".join(["user,item,y", *lines]))
    hashed = {"kind": "categorical", "name": "hashed", "column": "item", "hash_buckets": 8}
    liked = {"kind": "sequence", "name": "liked", "column": "item", "separator": "|", "shared_with": "item"}
    recipe = {
        "source": str(folder / "raw"),
        "files": f"{number}.csv",
        "out": str(folder / f"month{number}"),
        "labels": [{"name": "y"}],
        "features": [{"kind": "categorical", "columns": ["user", "item"]}, liked, hashed],
    }
    prepare(recipe)


def run_on(data: Path, folder: Path, **changes: Any) -> config.RunConfig:
    content = {
        "data": {"root": str(data), "valid": None, "test": None, "batch_size": 64},
        "model": {"name": "fm", "embedding_dim": 3, "init_std": 0.5},
        "train": {"epochs": 1, "threads": 1},
        "trackers": [],
        "export": {"onnx": False},
        "model_dir": str(folder),
    }
    return config.load({**content, **changes})


@pytest.fixture(scope="module")
def months(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two months of data, and a run on the first one, which has gone since."""
    folder = tmp_path_factory.mktemp("months")
    for number in (0, 1):
        month(folder, number)
    launch.train(run_on(folder / "month0", folder / "old"))
    (folder / "month0").rename(folder / "elsewhere")
    return folder


def keys(folder: Path, feature: str) -> list[str]:
    vocabulary: list[str] = pq.read_table(folder / "vocab" / f"{feature}.parquet")["value"].to_pylist()
    return vocabulary


def test_rows_go_by_key_where_the_vocabulary_differs(months: Path, tmp_path: Path) -> None:
    still = {"optimizers": [{"name": "sgd", "lr": 0.0}]}
    launch.train(run_on(months / "month1", tmp_path / "new", init_from=str(months / "old"), **still))
    launch.train(run_on(months / "month1", tmp_path / "fresh", **still))
    old, new, fresh = (checkpoint.read(f).model for f in (months / "old", tmp_path / "new", tmp_path / "fresh"))
    for feature in ("user", "item"):
        before, now = keys(months / "elsewhere", feature), keys(months / "month1", feature)
        assert set(before) & set(now)
        assert before != now[: len(before)]
        for table in (f"embedding.tables.{feature}", f"linear.embedding.tables.{feature}"):
            assert torch.equal(new[table][0], old[table][0])
            for row, key in enumerate(now, start=1):
                source = old[table][before.index(key) + 1] if key in before else fresh[table][row]
                assert torch.equal(new[table][row], source), (table, key)
    assert torch.equal(new["embedding.tables.hashed"], old["embedding.tables.hashed"])
    report = json.loads((tmp_path / "new" / "fine_tuning.json").read_text())
    both = len({*keys(months / "elsewhere", "user")} & {*keys(months / "month1", "user")})
    assert report["restored_by_key"]["embedding.tables.user"] == {
        "from": "embedding.tables.user",
        "rows": both + 1,
        "rows_there": len(keys(months / "elsewhere", "user")) + 1,
        "rows_here": len(keys(months / "month1", "user")) + 1,
    }
    assert "embedding.tables.hashed" in report["restored"]


def test_next_month_with_a_grown_vocabulary(tmp_path: Path) -> None:
    """Old keys keep ids and rows; AUC of the old model on next month's rows, in which half of the users are new."""
    liking = np.random.default_rng(0).normal(size=60)

    def log(number: int, rows: int) -> pa.Table:
        random = np.random.default_rng(number)
        user, item = random.integers(0, 40, rows) + 20 * number, random.integers(0, 10, rows)
        click = random.random(rows) < 1 / (1 + np.exp(-3 * liking[user]))
        return pa.table({"user": [f"u{u}" for u in user], "item": item, "y": click.astype(int)})

    def data(number: int, **keys: Any) -> str:
        recipe = {"labels": [{"name": "y"}], "features": [{"kind": "categorical", "columns": ["user", "item"]}]}
        rows = log(number, 6000)
        files = {"train": rows.slice(0, 4000), "test": rows.slice(4000)}
        out = str(tmp_path / f"data{len(list(tmp_path.iterdir()))}")
        return prepare(recipe, files=files, split={"by": "file"}, out=out, **keys).out

    fast = {"optimizers": [{"name": "adam", "lr": 0.02}], "train": {"epochs": 3, "threads": 1}}
    old, first = tmp_path / "old", data(0)
    launch.train(run_on(Path(first), old, **fast))
    at_first = evaluate(old, split=f"{first}/test")["auc"]
    before = evaluate(old, split=f"{data(1, like=str(old))}/test")["auc"]
    grown = Path(data(1, like=str(old), grow=True))
    with pytest.raises(DataError, match=r"'user' \(61 ids, was 41\)"):
        evaluate(old, split=f"{grown}/test")

    still = {"optimizers": [{"name": "sgd", "lr": 0.0}]}
    launch.train(run_on(grown, tmp_path / "still", init_from=str(old), **still))
    launch.train(run_on(grown, tmp_path / "fresh", **still))
    was, now, fresh = (checkpoint.read(f).model for f in (old, tmp_path / "still", tmp_path / "fresh"))
    assert keys(grown, "user")[:40] == keys(Path(first), "user")
    for table in ("embedding.tables.user", "linear.embedding.tables.user"):
        assert torch.equal(now[table][:41], was[table]), "rows of old keys, bit for bit, before a step is taken"
        assert torch.equal(now[table][41:], fresh[table][41:])
    assert torch.equal(now["embedding.tables.item"], was["embedding.tables.item"])

    launch.train(run_on(grown, tmp_path / "refit", init_from=str(old), **fast))
    after = evaluate(tmp_path / "refit", split=f"{grown}/test")["auc"]
    assert at_first > 0.8
    assert before < at_first - 0.05, "it knows half of the users"
    assert after > at_first - 0.05


def test_other_columns_are_copied_by_key_too(months: Path, tmp_path: Path) -> None:
    wider = {"name": "fm", "embedding_dim": 4}
    given = {"init_from": str(months / "old"), "model": wider, "optimizers": [{"name": "sgd", "lr": 0.0}]}
    with pytest.raises(CheckpointError, match=r"does not fit.*init_resize"):
        check(run_on(months / "month1", tmp_path / "new", **given))
    launch.train(run_on(months / "month1", tmp_path / "new", init_resize="copy-overlap", **given))
    old, new = (checkpoint.read(folder).model["embedding.tables.item"] for folder in (months / "old", tmp_path / "new"))
    before, now = keys(months / "elsewhere", "item"), keys(months / "month1", "item")
    for key in {*before} & {*now}:
        assert torch.equal(new[now.index(key) + 1, :3], old[before.index(key) + 1])


def test_the_same_vocabulary_is_not_read(months: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "load", None)
    start = check(run_on(months / "elsewhere", tmp_path / "new", init_from=str(months / "old"))).start
    assert start is not None
    assert (start.by_key, start.new, start.skipped) == ({}, [], [])


def test_a_vocabulary_that_is_gone(months: Path, tmp_path: Path) -> None:
    shutil.copytree(months / "old", tmp_path / "old")
    (tmp_path / "old" / "checkpoints" / "preprocess.json").unlink()
    given = {"init_from": str(tmp_path / "old")}
    with pytest.raises(CheckpointError, match=r"'embedding.tables.item' was trained on another vocabulary.*init_map"):
        check(run_on(months / "month1", tmp_path / "new", **given))
    shutil.copytree(months / "month1", tmp_path / "again")
    shutil.copytree(months / "old", tmp_path / "moved")
    (tmp_path / "moved" / "checkpoints" / "preprocess.json").unlink()
    place = checkpoint.Store(str(tmp_path / "moved")).path(4)
    content = Path(place, "config.yaml").read_text().replace(str(months / "month0"), str(tmp_path / "again"))
    Path(place, "config.yaml").write_text(content)
    manifest = json.loads(Path(place, "manifest.json").read_text())
    manifest["files"]["config.yaml"] = {"bytes": len(content), "crc32": zlib.crc32(content.encode())}
    Path(place, "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=f"was trained on another vocabulary.*Got: {tmp_path / 'again'}"):
        check(run_on(months / "month1", tmp_path / "new", init_from=place))  # other data lies there now
    start = check(run_on(months / "month1", tmp_path / "new", init_resize="copy_overlap", **given)).start
    assert start is not None
    assert "embedding.tables.user" in start.resized
    assert start.by_key == {}


def test_rows_of_a_table_under_another_name(months: Path, tmp_path: Path) -> None:
    """Of the same data: two features, two vocabularies."""
    (tmp_path / "map").write_text("embedding.tables.user\tembedding.tables.item\n")
    given = {"init_from": str(months / "old"), "init_map": str(tmp_path / "map")}
    start = check(run_on(months / "elsewhere", tmp_path / "new", **given)).start
    assert start is not None
    assert start.by_key == {"embedding.tables.user": (1, 10, 7)}  # no user is called as an item: the unknown alone
