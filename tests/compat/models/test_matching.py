"""Matching models with Torch-RecHub's arguments, trained as its scripts do it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from rechub_ray.compat.basic.features import DenseFeature, SequenceFeature, SparseFeature
from rechub_ray.compat.models import matching
from rechub_ray.compat.trainers import MatchTrainer
from rechub_ray.compat.utils.data import MatchDataGenerator, df_to_dict
from rechub_ray.compat.utils.match import gen_model_input, generate_seq_feature_match
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.models.matching.base import Retriever

USERS, ITEMS = 150, 30
USER = [SparseFeature("user", USERS + 1, 8), SparseFeature("sex", 3, 4)]
ITEM = [SparseFeature("item", ITEMS + 1, 8), SparseFeature("brand", 6, 4)]
HISTORY = [SequenceFeature("hist_item", ITEMS + 1, 8, pooling="mean", shared_with="item")]
LISTED = [SequenceFeature("hist_item", ITEMS + 1, 8, pooling="concat", shared_with="item")]
NEGATIVES = [SequenceFeature("neg_items", ITEMS + 1, 8, pooling="concat", shared_with="item")]
TOWER = {"dims": [16, 8], "activation": "prelu", "dropout": 0.1}
PLAIN = {"dims": [16, 8], "activation": "prelu"}
MODELS: dict[str, tuple[int, Any, type[Any] | str]] = {
    "DSSM": (0, lambda m: m.DSSM(USER + HISTORY, ITEM, PLAIN, PLAIN, temperature=0.1), "dssm"),
    "YoutubeDNN": (
        2,
        lambda m: m.YoutubeDNN(USER + HISTORY, ITEM[:1], NEGATIVES, {"dims": [16, 8]}, 0.1),
        "youtube_dnn",
    ),
    "FaceBookDSSM": (
        1,
        lambda m: m.FaceBookDSSM(
            USER + HISTORY,
            ITEM,
            [SparseFeature("neg_items", ITEMS + 1, 8, shared_with="item"), SparseFeature("neg_brand", 6, 4)],
            TOWER,
            TOWER,
        ),
        "facebook_dssm",
    ),
    "YoutubeSBC": (
        2,
        lambda m: m.YoutubeSBC(
            USER + HISTORY, ITEM, [DenseFeature("weight")], TOWER, TOWER, batch_size=64, n_neg=3, temperature=0.1
        ),
        "youtube_sbc",
    ),
    "MIND": (2, lambda m: m.MIND(USER, LISTED, ITEM[:1], NEGATIVES, 6, 0.1, 2, True), "mind"),
    "ComirecSA": (2, lambda m: m.ComirecSA(USER, LISTED, ITEM[:1], NEGATIVES, 0.1, 2), "comirec_sa"),
    "ComirecDR": (2, lambda m: m.ComirecDR([], LISTED, ITEM[:1], NEGATIVES, 6, 0.1, 2), "comirec_dr"),
}


def log() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = [
        (user, 1 + user % 2, 1 + 3 * rng.integers(0, 10) + user % 3, t)
        for user in range(1, USERS + 1)
        for t in range(10)
    ]
    frame = pd.DataFrame(rows, columns=["user", "sex", "item", "time"])
    return frame.assign(brand=frame["item"] % 5 + 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_script_trains_and_gives_vectors(name: str, tmp_path: Path) -> None:
    mode, build, ours = MODELS[name]
    np.random.seed(0)
    torch.manual_seed(0)
    frame = log()
    users, items = frame[["user", "sex"]].drop_duplicates("user"), frame[["item", "brand"]].drop_duplicates("item")
    train, test = generate_seq_feature_match(frame, "user", "item", "time", mode=mode, neg_ratio=3)
    x, x_test = (gen_model_input(part, users, "user", items, "item", seq_max_len=6) for part in (train, test))
    model = build(matching)
    assert isinstance(model, Retriever)
    assert model.registered_name == ours
    y = x["label"] if mode == 0 else (() if mode == 1 else np.zeros(len(train)))
    loaders = MatchDataGenerator(x, y).generate_dataloader(x_test, df_to_dict(items), batch_size=64, num_workers=0)
    trainer = MatchTrainer(model, mode=mode, optimizer_params={"lr": 0.02}, n_epoch=8 if name == "DSSM" else 4,
                           model_path=str(tmp_path / "r"))  # fmt: skip
    trainer.fit(loaders[0])
    vectors = [
        trainer.inference_embedding(model, part, loader, tmp_path / "r")  # type: ignore[arg-type]
        for part, loader in zip(("user", "item"), loaders[1:], strict=True)
    ]
    assert vectors[1].shape == (len(items), 8)
    scores = vectors[0] @ vectors[1].T
    scores = scores.amax(1) if scores.dim() == 3 else scores
    best = items["item"].to_numpy()[scores.topk(10).indices.numpy()]
    hits = (best == np.asarray(x_test["item"])[:, None]).any(1).mean()
    assert hits > 0.4, "a user's items are ten of thirty"


def test_the_items_are_named_by_the_table_that_histories_share() -> None:
    model = matching.DSSM(USER + HISTORY, ITEM[::-1], TOWER, TOWER)
    assert model.schema.items is not None
    assert (model.schema.items.id, [f.name for f in model.schema.items.features]) == ("item", ["brand"])
    model = matching.DSSM(USER, ITEM, TOWER, TOWER, item_id="brand")
    assert model.schema.items is not None
    assert model.schema.items.id == "brand"


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ConfigError, match=r"none names the items.*item_id of: item, brand"):
        matching.DSSM(USER, ITEM, TOWER, TOWER, item_id="items")
    with pytest.raises(ConfigError, match="differ in more than inner dims"):
        matching.DSSM(USER, ITEM, TOWER, {**TOWER, "dims": [16, 4]})
    with pytest.raises(ConfigError, match="the embed_dim of 'item'"):
        matching.YoutubeDNN(USER + HISTORY, ITEM[:1], NEGATIVES, {"dims": [16]})
    with pytest.raises(ConfigError, match=r"'item_features': the item's id\. Expected: one feature"):
        matching.YoutubeDNN(USER + HISTORY, ITEM, NEGATIVES, {"dims": [16, 8]})
    with pytest.raises(ConfigError, match=r"'history_features'\. Expected: one SequenceFeature"):
        matching.ComirecDR(USER, [*LISTED, *LISTED], ITEM[:1], NEGATIVES, 50)
    with pytest.raises(ConfigError, match="none is the id of an item"):
        matching.FaceBookDSSM(USER, ITEM, [SparseFeature("neg", 6, 4)], TOWER, TOWER)
    with pytest.raises(ConfigError, match="'dims' of a tower is empty"):
        matching.DSSM(USER, ITEM, {"dims": []}, TOWER)


@pytest.mark.parametrize("name", ["NARM", "STAMP", "SINE", "GRU4Rec", "SASRec"])
def test_a_script_with_an_item_column_trains_models_of_histories(name: str, tmp_path: Path) -> None:
    hist, item = LISTED[0], SparseFeature("item", ITEMS + 1, 8)
    build = {
        "NARM": lambda: matching.NARM(hist, 16, 0.1, 0.1, item_feature=item),
        "STAMP": lambda: matching.STAMP(hist, 0.05, 0.1, item_feature=item),
        "SINE": lambda: matching.SINE(
            ["hist_item"], ["item"], ["neg_items"], ITEMS + 1, 8, 16, 10, 2, 6, temperature=0.1
        ),
        "GRU4Rec": lambda: matching.GRU4Rec(USER, LISTED, ITEM[:1], NEGATIVES, {"dims": [16, 8]}, temperature=0.2),
        "SASRec": lambda: matching.SASRec([hist], max_len=6, dropout_rate=0.1, item_feature=item),
    }[name]
    with_lists = name in ("SINE", "GRU4Rec")
    np.random.seed(0)
    torch.manual_seed(0)
    frame = log()
    users, items = frame[["user", "sex"]].drop_duplicates("user"), frame[["item", "brand"]].drop_duplicates("item")
    train, test = generate_seq_feature_match(frame, "user", "item", "time", mode=2, neg_ratio=3)
    x, x_test = (
        gen_model_input(part, users, "user", items, "item", seq_max_len=6, padding="post", truncating="post")
        for part in (train, test)
    )
    loaders = MatchDataGenerator(x, np.zeros(len(train))).generate_dataloader(
        x_test, df_to_dict(items), batch_size=64, num_workers=0
    )
    run = str(tmp_path / "run")
    trainer = MatchTrainer(
        build(), mode=2, in_batch_neg=not with_lists, optimizer_params={"lr": 0.02}, n_epoch=6, model_path=run
    )
    trainer.fit(loaders[0])
    vectors = [trainer.inference_embedding(trainer.model, part, loader, run)  # type: ignore[arg-type]
               for part, loader in zip(("user", "item"), loaders[1:], strict=True)]  # fmt: skip
    best = items["item"].to_numpy()[(vectors[0] @ vectors[1].T).topk(10).indices.numpy()]
    assert (best == np.asarray(x_test["item"])[:, None]).any(1).mean() > 0.4


@pytest.mark.parametrize("name", ["NARM", "STAMP"])
def test_labels_that_are_items_are_compared_with_all_items(name: str, tmp_path: Path) -> None:
    """As torch-rechub's example of sessions: rectangles of any width a batch, the next item as the label."""
    rng, hist = np.random.default_rng(0), LISTED[0]
    batches = []
    for _ in range(40):
        taste, width = rng.integers(0, 3, 32), int(rng.integers(2, 7))
        ids = 1 + 3 * rng.integers(0, 10, (32, width)) + taste[:, None]
        ids[rng.random(ids.shape) < 0.2] = 0
        ids[:, 0] = 1 + taste
        batches.append(({"hist_item": torch.tensor(ids)}, torch.tensor(1 + 3 * rng.integers(0, 10, 32) + taste)))
    model = matching.NARM(hist, 16, 0.1, 0.1) if name == "NARM" else matching.STAMP(hist, 0.05, 0.1)
    trainer = MatchTrainer(model, mode=2, optimizer_params={"lr": 0.02}, n_epoch=3, batch_size=32,
                           model_path=str(tmp_path / "run"))  # fmt: skip
    recall, metrics = trainer.fit(batches[:30], batches[30:])
    assert metrics is not None
    assert recall > 0.8, "a user's items are ten of thirty"
    assert trainer.inference_embedding(model, "item", pd.DataFrame({"target": np.arange(1, ITEMS + 1)})).shape == (
        30,
        8,
    )
    ids, _ = batches[30]  # called as theirs: scores of all ids, of rectangles with holes
    model.eval()
    with torch.no_grad():
        scores, wider = model(ids), model({"hist_item": F.pad(ids["hist_item"], (2, 1))})
    assert scores.shape == (32, ITEMS + 1)
    torch.testing.assert_close(wider, scores)
    users = trainer.inference_embedding(model, "user", [ids])
    torch.testing.assert_close(scores[:, 1:], users @ trainer.inference_embedding(
        model, "item", pd.DataFrame({"target": np.arange(1, ITEMS + 1)})).T)  # fmt: skip
    for wrong, words in (
        ({"other": ids["hist_item"]}, r"the model reads 'hist_item'.*\['other'\]"),
        ({"hist_item": ids["hist_item"][0]}, r"lists of one shape. Expected: \(B, T\)"),
        ({"hist_item": ids["hist_item"] + ITEMS}, r"ids in 'hist_item'. Expected: 0 to 30"),
        ({"hist_item": ids["hist_item"] + 0.5}, r"ids in 'hist_item'. Expected: 0 to 30"),
    ):
        with pytest.raises(DataError, match=words):
            model(wrong)
    again = copy.deepcopy(model)
    with torch.no_grad():
        again.embedding.weights["8"].zero_()
        assert not again(ids)[:, 1:].any(), "a copy reads its own tables"
        torch.testing.assert_close(model(ids), scores)
    with pytest.raises(ConfigError, match="labels of this model are the ids of items"):
        MatchTrainer(model, mode=0)


def test_sasrec_learns_from_what_comes_next(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    batches = []
    for _ in range(30):
        start = rng.integers(0, ITEMS, (32, 1))
        walk = 1 + (start + np.arange(7)) % ITEMS
        walk[:, 5:][rng.random(32) < 0.5] = 0
        batches.append({"seq": torch.tensor(walk[:, :6] * (walk[:, 1:] > 0)), "pos": torch.tensor(walk[:, 1:]),
                        "neg": torch.tensor(rng.integers(1, ITEMS + 1, (32, 6)))})  # fmt: skip
    lists = [SequenceFeature(key, ITEMS + 1, 8, pooling="concat") for key in ("seq", "pos", "neg")]
    model = matching.SASRec(lists, max_len=6, dropout_rate=0.0, num_blocks=1)
    trainer = MatchTrainer(model, mode=1, optimizer_params={"lr": 0.02}, n_epoch=2, batch_size=32,
                           model_path=str(tmp_path / "run"))  # fmt: skip
    recall, metrics = trainer.fit(batches[:24], batches[24:])
    assert metrics is not None
    assert metrics["mrr@10"] > 0.5
    assert recall > 0.9
    with pytest.raises(ConfigError, match=r"'features'\. Expected: the lists of the history"):
        matching.SASRec(lists[:1])
    with pytest.raises(ConfigError, match="'num_heads': attention has one head"):
        matching.SINE(["hist_item"], ["item"], ["neg_items"], 31, 8, 16, 10, 2, 6, num_heads=2)


def test_negatives_with_tables_of_their_own_stand_in_the_items_order() -> None:
    user = [SequenceFeature("hist_item", ITEMS + 1, 8, shared_with="item")]
    positive = [SparseFeature("brand", 4, 8), SparseFeature("item", ITEMS + 1, 8)]
    negative = [SparseFeature("neg_brand", 4, 8), SparseFeature("neg_item", ITEMS + 1, 8)]
    towers = {"dims": [8]}
    model = matching.FaceBookDSSM(user, positive, negative, towers, towers)
    assert model.schema.items is not None
    assert model.schema.items.lists == ("neg_item",)
    with pytest.raises(ConfigError, match="shared_with='item'"):
        matching.FaceBookDSSM(user, positive, negative[:1], towers, towers)
