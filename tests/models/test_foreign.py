"""Modules of others train, resume, are swept, load and are exported, unchanged."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from rechub_ray import CTRTrainer, DenseFeature, Label, Schema, SequenceFeature, SparseFeature, evaluate, load_model
from rechub_ray import config as config_module
from rechub_ray.data.collate import batch_from_table
from rechub_ray.errors import ConfigError
from rechub_ray.models import MODELS, adapted
from tests import foreign_models as others
from tests import random_features
from tests.random_features import ragged

SCHEMA = Schema(
    (
        SparseFeature("user", 30),
        SparseFeature("item", 20),
        DenseFeature("price"),
        SequenceFeature("history", 20, max_length=4, shared_with="item"),
    ),
    (Label("click"),),
)


def clicks(rows: int, seed: int = 0) -> pd.DataFrame:
    rng, tastes = np.random.default_rng(seed), np.random.default_rng(99)
    user, item, price = rng.integers(0, 30, rows), rng.integers(0, 20, rows), rng.normal(size=rows)
    logit = tastes.normal(size=30)[user] + tastes.normal(size=20)[item] - price
    history = [rng.integers(1, 20, rng.integers(0, 5)).tolist() for _ in range(rows)]
    click = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return pd.DataFrame({"user": user, "item": item, "price": price, "history": history, "click": click})


TRAIN, VALID = clicks(1500), clicks(400, seed=1)


def trainer_of(folder: Path, model: Any, **arguments: Any) -> CTRTrainer:
    given: dict[str, Any] = {"optimizer_params": {"lr": 0.02}, "n_epoch": 3, "batch_size": 128}
    return CTRTrainer(model, model_path=folder, **(given | arguments))


def test_it_gets_columns_by_name_and_its_probabilities_are_those_of_the_model() -> None:
    torch.manual_seed(0)
    model: Any = adapted(others.Plain, SCHEMA).eval()
    features = random_features.draw(SCHEMA, 9)
    for form in (features, ragged(features)):
        columns = model.columns(form)
        assert {name: tuple(values.shape) for name, values in columns.items()} == {
            "user": (9,),
            "item": (9,),
            "price": (9,),
            "history": (9, 4),
        }
        padded = features.sequences.ids[0]  # type: ignore[union-attr]
        assert torch.equal(columns["history"], torch.where(padded < 0, 0, padded))
        with torch.no_grad():
            torch.testing.assert_close(model(form)["logit"].sigmoid(), model.module(columns).squeeze(1))


def test_of_long_sequences_the_last_ids_count() -> None:
    features = random_features.draw(SCHEMA, 9)
    model: Any = adapted(others.Plain, SCHEMA, sequence_length=2, padding=7)
    expected = []
    for row in features.sequences.ids[0].tolist():  # type: ignore[union-attr]
        ids = [i for i in row if i >= 0][-2:]
        expected.append(ids + [7] * (2 - len(ids)))
    for form in (features, ragged(features)):
        assert model.columns(form)["history"].tolist() == expected


def test_a_step_is_that_of_the_module_with_torchs_own_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = adapted(others.WithLoss, SCHEMA, own_loss=True)
    reference = others.WithLoss(SCHEMA)
    reference.load_state_dict(model.module.state_dict())
    rows = TRAIN[:512]
    trainer_of(
        tmp_path, model, optimizer_fn="sgd", optimizer_params={"lr": 0.5}, n_epoch=1, batch_size=512, loss_mode=False
    ).fit(rows)
    probability, own = reference(model.columns(batch_from_table(rows, SCHEMA).features))
    loss = F.binary_cross_entropy(probability, torch.tensor(rows["click"].to_numpy(), dtype=torch.float32)) + own
    loss.backward()
    for name, weight in reference.named_parameters():
        moved = dict(model.module.named_parameters())[name]
        torch.testing.assert_close(moved, (weight - 0.5 * weight.grad).detach(), rtol=1e-4, atol=1e-6)


def test_it_is_trained_resumed_loaded_and_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trainer = trainer_of(tmp_path / "run", adapted(others.build, SCHEMA, width=8), n_epoch=2)
    trainer.fit(TRAIN, VALID)
    trainer = trainer_of(tmp_path / "run", trainer.model)
    score, _ = trainer.fit(TRAIN, VALID, resume="must")
    assert trainer.result is not None
    assert trainer.result.details["epochs"] == 3
    assert score > 0.7
    assert trainer.evaluate(trainer.model, VALID) == pytest.approx(score, abs=1e-6)
    again: Any = load_model(tmp_path / "run")
    assert again.module.tables["user"].weight.shape == (30, 8)
    assert evaluate(str(tmp_path / "run"), split=str(tmp_path / "run" / "data" / "valid"))["auc"] == pytest.approx(
        score
    )
    path = str(tmp_path / "model.onnx")
    report = trainer.export_onnx(path)
    assert all(check.passed for check in report.checks)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    history = np.full((400, 4), -1, np.int64)
    for i, ids in enumerate(VALID["history"]):
        history[i, : len(ids)] = ids
    columns = {name: VALID[name].to_numpy().astype(np.int64) for name in ("user", "item")}
    got = session.run(None, {**columns, "price": VALID["price"].to_numpy(np.float32), "history": history})[0]
    np.testing.assert_allclose(got, trainer.predict(trainer.model, VALID), rtol=1e-4, atol=1e-6)


def test_its_arguments_are_those_of_a_configuration() -> None:
    name = "tests.foreign_models.Plain"
    node = MODELS.validate({"name": name, "dims": [4, 2]}, where="model")
    assert node == {
        "name": name,
        "width": 4,
        "dims": (4, 2),
        "dropout": 0.0,
        "returns": "probability",
        "own_loss": False,
        "padding": 0,
        "sequence_length": None,
    }
    given = config_module.load({"model": {"name": name}}, ["model.dropout=0.25"])
    model: Any = MODELS.build(given.model, SCHEMA)
    assert model.module.mlp[2].p == 0.25
    logits: Any = adapted(others.Logits, SCHEMA, returns="logit")
    features = random_features.draw(SCHEMA, 9)
    assert torch.equal(logits(features)["logit"], logits.module(logits.columns(features)))
    with torch.device("meta"):
        assert all(weight.is_meta for weight in adapted(others.Reads, SCHEMA).parameters())


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (others.WithLoss, {}, "something else than it should.*one number a row.*own_loss=true"),
        (others.Plain, {"own_loss": True}, r"expected: \(prediction, loss\)"),
        (others.Logits, {}, "gives no probabilities.*returns=logit"),
        (others.no_module, {}, "makes no module.*int"),
        (others.broken, {"width": 3}, "broken fails.*ValueError: no 3"),
        (others.broken, {}, "'model.width' is missing"),
        (others.Plain, {"depth": 3}, "has no argument 'depth'"),
        (lambda schema: others.Plain(schema), {}, "no name by which it is found again"),
    ],
)
def test_what_does_not_fit_is_said(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?is){message}"):
        adapted(make, SCHEMA, **arguments)(random_features.draw(SCHEMA, 9))


def test_a_module_alone_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rechub_ray\.models\.adapted"):
        CTRTrainer(others.Plain(SCHEMA), model_path=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError,
        match=r"unknown model 'nowhere\.build': it cannot be imported.*No module named 'nowhere'.*PYTHONPATH",
    ):
        MODELS.get("nowhere.build")
    with pytest.raises(ConfigError, match=r"unknown model .tests\.foreign_models\.SCHEMA."):
        MODELS.get("tests.foreign_models.SCHEMA")


@pytest.mark.skipif(importlib.util.find_spec("torch_rechub") is None, reason="torch-rechub is not installed")
class TestTorchRecHub:
    """Its own models, on its own features, which stand in a module and are used again and again."""

    def data(self, loss: bool) -> Any:
        from torch_rechub.utils.data import DataGenerator

        rng, rows = np.random.default_rng(0), 900
        seen = np.arange(5) < rng.integers(0, 6, (rows, 1))
        x = {"user": rng.integers(0, 30, rows), "item": rng.integers(1, 20, rows)}
        x |= {name: np.where(seen, rng.integers(1, 20, (rows, 5)), 0) for name in ("history", "negatives")}
        y = (rng.random(rows) < 0.2 + 0.6 * (x["item"] > 9)).astype(np.float32)
        return DataGenerator(x, y).generate_dataloader(split_ratio=[0.7, 0.15], batch_size=64)

    @pytest.mark.parametrize("name", ["deepfm", "dien"])
    def test_it_is_trained_and_exported_as_it_is(self, name: str, tmp_path: Path) -> None:
        from tests import torch_rechub_models as theirs

        make, loss = getattr(theirs, name), name == "dien"
        torch.manual_seed(0)
        model: Any = adapted(make, own_loss=loss)
        second: Any = adapted(make, own_loss=loss)
        shared = {w.data_ptr() for w in model.parameters()} & {w.data_ptr() for w in second.parameters()}
        assert not shared, "two models of one list of features share nothing"
        train, valid, test = self.data(loss)
        trainer = trainer_of(tmp_path, model, loss_mode=not loss, batch_size=64, n_epoch=2)
        score, _ = trainer.fit(train, valid)
        assert score > 0.65
        assert trainer.evaluate(trainer.model, test) > 0.65
        x, y = next(iter(valid))
        with torch.no_grad():
            found = model.module.eval()(x)
        np.testing.assert_allclose(trainer.predict(model, [(x, y)]), found[0] if loss else found, rtol=1e-4, atol=1e-6)
        if not loss:  # theirs cannot be exported with lists of any length, by anybody
            assert all(check.passed for check in trainer.export_onnx(tmp_path / "model.onnx").checks)


@pytest.mark.timeout(400)
@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_tries_its_arguments(ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rechub_ray.sweeps.launch.write_report", lambda directory: f"{directory}/report.html")
    from rechub_ray import tune
    from rechub_ray.data.convert import write_rows

    for name, rows in (("train", TRAIN), ("valid", VALID)):
        write_rows(rows, str(tmp_path / "data" / name), SCHEMA)
    SCHEMA.save(tmp_path / "data" / "schema.json")
    base = {
        "name": "t",
        "data": {"root": str(tmp_path / "data"), "test": None, "batch_size": 128},
        "model": {"name": "tests.foreign_models.Plain"},
        "optimizers": [{"name": "adam", "lr": 0.02}],
        "train": {"epochs": 2, "threads": 1},
        "trackers": [],
    }
    space = {"model.width": {"grid": [2, 6]}}
    result = tune(
        {
            "base": base,
            "space": space,
            "sweep_dir": str(tmp_path / "s"),
            "trials": 2,
            "search": "random",
            "max_concurrent": 1,
        }
    )
    assert [trial["status"] for trial in result.trials] == ["finished"] * 2
    best: Any = load_model(tmp_path / "s" / "best" / "checkpoint")
    assert best.module.tables["user"].weight.shape[1] in (2, 6)
    assert (tmp_path / "s" / "best" / "model.onnx").exists()
