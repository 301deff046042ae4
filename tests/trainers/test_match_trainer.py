"""The trainer of models for retrieval: every mode, items from rows, vectors, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.schema import DenseFeature, Items, Label, Schema, SequenceFeature, SparseFeature
from rechub_ray.trainers import MatchTrainer
from tests.small_retrieval import SCHEMA as PREPARED
from tests.small_retrieval import write_retrieval

USERS, ITEMS = 40, 41
SCHEMA = Schema(
    (SparseFeature("user", USERS), SparseFeature("item", ITEMS), SequenceFeature("history", ITEMS, shared_with="item")),
    (Label("click"),),
    items=Items("item", (SparseFeature("brand", 9), DenseFeature("size", 2)), lists=("shown",)),
)
MODES = [
    (0, {}, "sampled_bce", []),
    (1, {}, "bpr", [{"name": "column", "column": "shown", "number": None}]),
    (2, {}, "sampled_softmax", [{"name": "column", "column": "shown", "number": None}]),
    (0, {"in_batch_neg": True}, "sampled_softmax", [{"name": "in_batch"}]),
    (1, {"in_batch_neg": True, "in_batch_neg_ratio": 5}, "bpr", [{"name": "in_batch_drawn", "number": 5}]),
    (2, {"in_batch_neg": True, "in_batch_neg_ratio": 5, "hard_negative": True}, "sampled_softmax",
     [{"name": "in_batch"}]),
]  # fmt: skip


def frame(rows: int, seed: int) -> pd.DataFrame:
    """Users take items of their fourth; each row of label 1 has one of label 0 beside it, of any item."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, USERS, rows)
    taken = 1 + 4 * np.minimum(rng.geometric(0.3, rows) - 1, 9) + user % 4
    click = (np.arange(rows) % 2 == 0).astype(float)
    item = np.where(click > 0, taken, rng.integers(1, ITEMS, rows))
    return pd.DataFrame(
        {
            "user": user,
            "item": item,
            "history": [(1 + 4 * rng.integers(0, 10, rng.integers(0, 4)) + u % 4).tolist() for u in user],
            "brand": item % 8 + 1,
            "size": [[i / 10, 1 - i / 10] for i in item],
            "shown": [rng.integers(1, ITEMS, 3).tolist() for _ in range(rows)],
            "click": click,
        }
    )


def dssm(schema: Schema = SCHEMA) -> Retriever:
    torch.manual_seed(0)
    node = {"name": "dssm", "embedding_dim": 8, "vector_dim": 8, "user_units": [16], "item_units": [16]}
    model = MODELS.build({**node, "init_std": 0.1}, schema)
    assert isinstance(model, Retriever)
    return model


def trainer(folder: Path, model: Any = None, **arguments: Any) -> MatchTrainer:
    given = {"optimizer_params": {"lr": 0.02}, "n_epoch": 4, "model_path": folder / "run", "batch_size": 100}
    return MatchTrainer(dssm() if model is None else model, **{**given, **arguments})


@pytest.mark.parametrize(("mode", "given", "loss", "negatives"), MODES)
def test_every_mode_learns_with_validation(
    tmp_path: Path, mode: int, given: dict[str, Any], loss: str, negatives: list[Any]
) -> None:
    one = trainer(tmp_path, mode=mode, temperature=0.2, **given)
    valid = frame(300, 1)
    score, metrics = one.fit(frame(2000, 0), valid)
    config = config_module.load(tmp_path / "run" / "config.yaml")
    assert config.losses is not None
    assert config.losses[0]["name"] == loss
    assert config.losses[0]["hardest_negatives"] == (5 if "hard_negative" in given else None)
    assert config.negatives == negatives
    assert metrics is not None
    key = "auc" if loss == "sampled_bce" else "recall@10"
    assert score == metrics[key] == one.evaluate(one.model, valid)
    assert metrics["recall@10"] > 0.45, "a user's items are ten of forty"
    if mode == 0:
        assert metrics["auc"] > 0.7


def test_items_are_those_of_the_rows(tmp_path: Path) -> None:
    train, valid = frame(300, 0), frame(100, 1)
    one = trainer(tmp_path, n_epoch=1)
    one.fit(train, valid)
    catalogue = Catalogue.read(str(tmp_path / "run" / "data"), SCHEMA)
    both = pd.concat([train, valid]).drop_duplicates("item").sort_values("item")
    assert catalogue.ids.tolist() == both["item"].tolist()
    assert catalogue.features.sparse[:, 1].tolist() == both["brand"].tolist()
    np.testing.assert_allclose(catalogue.features.dense.numpy(), np.array(both["size"].tolist()), rtol=1e-6)
    counts = train[train["click"] > 0].groupby("item").size()
    assert catalogue.count.tolist() == [counts.get(i, 0) for i in both["item"]]
    train.loc[7, "brand"] = 99 - 91 if train.loc[7, "brand"] != 8 else 1
    with pytest.raises(DataError, match=rf"item '{train.loc[7, 'item']}' has two values of 'brand'"):
        trainer(tmp_path, n_epoch=1).fit(train)
    valid.loc[3, ["item", "brand"]] = [0, 1]
    with pytest.raises(DataError, match=r"'item' holds the id 0.*from 1 on"):
        trainer(tmp_path, n_epoch=1).fit(frame(300, 0), valid)


def test_items_of_lists_count_where_they_have_no_features(tmp_path: Path) -> None:
    schema = Schema(SCHEMA.features, SCHEMA.labels, items=Items("item", lists=("shown",)))
    train = frame(60, 0)
    trainer(tmp_path, dssm(schema), mode=1, n_epoch=1, batch_size=20).fit(train)
    found = Catalogue.read(str(tmp_path / "run" / "data"), schema).ids.tolist()
    assert found == sorted({*train["item"]} | {i for some in train["shown"] for i in some})


def test_vectors_and_towers(tmp_path: Path) -> None:
    one = trainer(tmp_path, mode=2, in_batch_neg=True, n_epoch=2)
    one.fit(frame(600, 0))
    rows = frame(50, 2)
    items = rows.drop_duplicates("item")[["item", "brand", "size"]]
    users, vectors = one.inference_embedding(one.model, "user", rows), one.inference_embedding(one.model, "item", items)
    assert (users.shape, vectors.shape) == ((50, 8), (len(items), 8))
    torch.testing.assert_close(users.norm(dim=1), torch.ones(50))
    own = vectors[[items["item"].tolist().index(i) for i in rows["item"]]]
    np.testing.assert_allclose(one.predict(one.model, rows), (users * own).sum(1), rtol=1e-4, atol=1e-6)
    for part, expected, frame_ in (("user", users, rows), ("item", vectors, items)):
        report = one.export_onnx(tmp_path / f"{part}.onnx", mode=part)  # type: ignore[arg-type]
        session = onnxruntime.InferenceSession(report.path)
        inputs = {x.name for x in session.get_inputs()}
        assert {"user"} <= inputs if part == "user" else {"item", "brand", "size"} == inputs
        if part == "item":
            given = {"item": frame_["item"].to_numpy(), "brand": frame_["brand"].to_numpy(),
                     "size": np.array(frame_["size"].tolist(), dtype=np.float32)}  # fmt: skip
            np.testing.assert_allclose(session.run(None, given)[0], expected.numpy(), atol=1e-5)
    saved = torch.load(tmp_path / "run" / "model.pth", weights_only=True)
    fresh = dssm()
    torch.testing.assert_close(one.inference_embedding(fresh, "user", rows, tmp_path / "run"), users)
    assert torch.equal(fresh.state_dict()["user_mlp.0.weight"], saved["user_mlp.0.weight"]) or saved


def test_a_prepared_data_set_brings_its_items(tmp_path: Path) -> None:
    data = write_retrieval(tmp_path / "data", train=600, valid=100)
    one = trainer(tmp_path, dssm(PREPARED), mode=2, in_batch_neg=True, n_epoch=1, sampler_seed=5)
    _, metrics = one.fit(str(data))
    assert metrics is not None
    assert metrics["rows_seen"] == 100
    assert pq.read_table(tmp_path / "run" / "data" / "items").equals(pq.read_table(data / "items"))
    assert config_module.load(tmp_path / "run" / "config.yaml").seed == 5
    assert one.inference_embedding(one.model, "item", str(data / "items")).shape == (57, 8)


def test_other_negatives_by_overrides(tmp_path: Path) -> None:
    data = write_retrieval(tmp_path / "data", train=300, valid=100)
    schema = Schema(PREPARED.features, (), group="user", items=Items("item", PREPARED.items.features))  # type: ignore[union-attr]
    one = trainer(
        tmp_path, dssm(schema), mode=1, n_epoch=1, overrides={"negatives": [{"name": "uniform", "number": 9}]}
    )
    assert one.fit(str(data))[1] is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"mode": 3}, "'mode': no such mode.*point-wise"),
        ({"in_batch_neg_ratio": 3}, "'in_batch_neg_ratio' chooses.*in_batch_neg=True"),
        ({"hard_negative": True}, "'hard_negative' chooses"),
        ({"in_batch_neg": True, "in_batch_neg_ratio": 0}, "number.*greater than or equal to 1"),
        ({"temperature": 0}, "temperature"),
        ({"model": MODELS.build("lr", Schema((SparseFeature("a", 3),), (Label("y"),)))}, "none for retrieval"),
        ({"earlystop_metric": "recal@10"}, "recall@10"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(tmp_path, **arguments).fit(frame(200, 0), frame(100, 0))


def test_rows_without_negatives_are_refused(tmp_path: Path) -> None:
    bare = Schema(SCHEMA.features, (), items=Items("item"))
    for mode in (0, 1, 2):
        with pytest.raises(ConfigError, match=rf"'mode' {mode} compares rows with negatives.*in_batch_neg=True"):
            trainer(tmp_path, dssm(bare), mode=mode)
    with pytest.raises(ConfigError, match="'mode': a tower is exported"):
        trainer(tmp_path).export_onnx(tmp_path / "m.onnx")
    with pytest.raises(ConfigError, match="no such tower"):
        trainer(tmp_path).inference_embedding(dssm(), "items", frame(10, 0))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=() if x in ("comirec_sa", "gru4rec") else pytest.mark.long)
        for x in MODELS.names()
        if issubclass(MODELS.get(x), Retriever)
    ],
)
def test_every_model_takes_every_mode(tmp_path: Path, name: str) -> None:
    """Models of sequences learn at several places of a row, which has one list of negatives: they need others."""
    train, valid = frame(300, 0), frame(100, 1)
    learns_at_places = "sequential" in MODELS.get(name).__module__
    for number, (mode, given, _, _) in enumerate(MODES):
        model = MODELS.build({"name": name}, SCHEMA)
        one = trainer(tmp_path / str(number), model, mode=mode, n_epoch=1, **given)
        if learns_at_places and mode and not given:
            with pytest.raises(ConfigError, match="'column' has items for rows"):
                one.fit(train, valid)
            continue
        score, metrics = one.fit(train, valid)
        assert 0 < score < 1
        assert metrics is not None
        assert metrics["rows_seen"] == 100
        assert one.predict(one.model, valid).shape == (100,)


def test_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_retrieval(tmp_path / "data" / "shop", train=600, valid=100)
    document = Path(__file__).resolve().parents[2] / "docs" / "retrieval.md"
    text = document.read_text(encoding="utf-8").split("\n## A trainer in Python\n")[1]
    [block] = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(block.replace("n_epoch=5", "n_epoch=1, batch_size=100"), found)
    assert found["best_recall"] == found["metrics"]["recall@10"]
    assert (found["users"].shape, found["items"].shape) == ((100, 64), (57, 64))
    assert (tmp_path / "user.onnx").is_file()
