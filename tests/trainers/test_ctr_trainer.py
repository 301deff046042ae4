"""The trainer object: what comes back, from every form of data, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from rechub_ray import CTRTrainer, DenseFeature, Label, Schema, SequenceFeature, SparseFeature, load_model
from rechub_ray.batch import Features, Outputs
from rechub_ray.data.collate import batch_from_table
from rechub_ray.errors import CheckpointError, ConfigError, DataError, RechubError
from rechub_ray.models import LR, MODELS, DeepFM, Model
from rechub_ray.outputs import Output
from rechub_ray.trainers.base import _place

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
    rng = np.random.default_rng(seed)
    user, item, price = rng.integers(0, 30, rows), rng.integers(0, 20, rows), rng.normal(size=rows)
    tastes = np.random.default_rng(99)
    logit = tastes.normal(size=30)[user] + tastes.normal(size=20)[item] - price
    history = [rng.integers(0, 20, rng.integers(0, 5)).tolist() for _ in range(rows)]
    click = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return pd.DataFrame({"user": user, "item": item, "price": price, "history": history, "click": click})


def deepfm(seed: int = 0) -> DeepFM:
    torch.manual_seed(seed)
    return DeepFM(SCHEMA, embedding_dim=4, hidden_units=(8,))


def a_trainer(folder: Path, model: Model | None = None, **arguments: Any) -> CTRTrainer:
    defaults: dict[str, Any] = {"optimizer_params": {"lr": 0.02}, "n_epoch": 3, "batch_size": 128}
    return CTRTrainer(model or deepfm(), model_path=folder, **(defaults | arguments))


TRAIN, VALID = clicks(1500), clicks(400, seed=1)


def test_fit_gives_the_best_score_and_leaves_the_best_weights_in_the_model(tmp_path: Path) -> None:
    model, seen = deepfm(), []
    # a rate far too high: later epochs are worse than the best one
    trainer = a_trainer(tmp_path, model, optimizer_params={"lr": 0.5}, n_epoch=4)
    score, metrics = trainer.fit(TRAIN, VALID, callback_fn=lambda epoch, auc: seen.append((epoch, auc)))
    assert [epoch for epoch, _ in seen] == [0, 1, 2, 3]
    assert score == max(auc for _, auc in seen)
    assert metrics is not None
    assert metrics["auc"] == score
    assert trainer.model is model
    assert not model.training
    with torch.no_grad():
        logit = model(batch_from_table(VALID, SCHEMA).features)["logit"]
    assert roc_auc_score(VALID["click"], logit.numpy()) == pytest.approx(score, abs=1e-9)
    assert trainer.evaluate(model, VALID) == pytest.approx(score, abs=1e-9)
    saved = torch.load(tmp_path / "model.pth", weights_only=True)
    again = load_model(tmp_path).state_dict()
    assert all(torch.equal(saved[k], v) and torch.equal(again[k], v) for k, v in model.state_dict().items())


def test_without_validation_the_last_weights_count(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    assert trainer.fit(TRAIN) == (-1, None)
    assert trainer.result is not None
    assert trainer.result.details["epochs"] == 3
    assert trainer.evaluate(trainer.model, VALID) > 0.6


def test_predictions_are_probabilities_in_the_rows_order(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    rows = VALID.drop(columns="click")
    predicted = trainer.predict(trainer.model, rows)
    with torch.no_grad():
        logit = trainer.model.eval()(batch_from_table(VALID, SCHEMA).features)["logit"].numpy()
    np.testing.assert_allclose(predicted, 1 / (1 + np.exp(-logit)), rtol=1e-6)
    assert list(tmp_path.iterdir()) == []  # nothing temporary is left


def test_training_starts_from_the_models_own_weights(tmp_path: Path) -> None:
    model = deepfm(seed=5)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    a_trainer(tmp_path, model, optimizer_params={"lr": 0.0}, optimizer_fn="sgd", n_epoch=1).fit(TRAIN, VALID)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_second_fit_goes_on_from_the_first(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path, n_epoch=1)
    first, _ = trainer.fit(TRAIN, VALID)
    second, _ = trainer.fit(TRAIN, VALID)
    assert second > first
    assert (tmp_path / "checkpoints.1").is_dir()


def test_resume_finishes_an_interrupted_run(tmp_path: Path) -> None:
    def interrupt(epoch: int, score: float) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    whole, parts = deepfm(), deepfm()
    a_trainer(tmp_path / "whole", whole, n_epoch=4).fit(TRAIN, VALID)
    trainer = a_trainer(tmp_path / "parts", parts, n_epoch=4)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(TRAIN, VALID, callback_fn=interrupt)
    trainer.fit(TRAIN, VALID, resume="must")
    assert all(torch.equal(whole.state_dict()[name], weight) for name, weight in parts.state_dict().items())


@pytest.mark.parametrize("form", ["shards", "prepared folder", "loader"])
def test_all_forms_of_data_train_alike(tmp_path: Path, form: str) -> None:
    expected = deepfm()
    trainer = a_trainer(tmp_path / "frame", expected, n_epoch=1)
    trainer.fit(TRAIN, VALID)
    data, root = {}, tmp_path / "frame" / "data"
    if form == "shards":
        data = {"train_dataloader": root / "train", "val_dataloader": str(root / "valid" / "part-00000.parquet")}
    elif form == "prepared folder":
        data = {"train_dataloader": root}
    else:
        data = {"train_dataloader": loader(TRAIN), "val_dataloader": loader(VALID)}
    model = deepfm()
    arguments = {"batch_size": None if form == "loader" else 128}
    score, _ = a_trainer(tmp_path / "other", model, n_epoch=1, **arguments).fit(**data)
    assert trainer.result is not None
    assert score == trainer.result.details["best_score"]
    assert all(torch.equal(expected.state_dict()[name], weight) for name, weight in model.state_dict().items())


class Loader(list[Any]):
    batch_size = 128


def loader(rows: pd.DataFrame) -> Loader:
    """What a Torch-RecHub DataLoader gives: dictionaries of tensors, sequences as padded rectangles."""
    history = np.full((len(rows), 4), -1)
    for i, ids in enumerate(rows["history"]):
        history[i, : len(ids)] = ids
    x = {name: torch.tensor(rows[name].to_numpy()) for name in ("user", "item", "price")}
    x["history"], y = torch.tensor(history), torch.tensor(rows["click"].to_numpy())
    cuts = range(0, len(rows), 128)
    return Loader(({name: v[i : i + 128] for name, v in x.items()}, y[i : i + 128]) for i in cuts)


def test_the_loaders_batch_size_counts_and_is_cut_to_the_rows(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path, batch_size=None, n_epoch=1)
    trainer.fit(loader(TRAIN))
    assert trainer.result is not None
    assert trainer.result.details["steps"] == 1500 // 128
    trainer.fit(loader(TRAIN.iloc[:50]))
    assert trainer.result.details["steps"] == 1


def test_the_rate_follows_the_scheduler_epoch_by_epoch(tmp_path: Path) -> None:
    rates: list[tuple[int, float]] = []

    class Logger:
        def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
            if "learning_rate" in metrics:
                rates.append((step or 0, metrics["learning_rate"]))

        def log_hyperparams(self, params: dict[str, Any]) -> None:
            self.params = params

        def finish(self) -> None:
            self.finished = True

    logger = Logger()
    trainer = a_trainer(
        tmp_path,
        scheduler_fn=torch.optim.lr_scheduler.StepLR,
        scheduler_params={"step_size": 1, "gamma": 0.1},
        model_logger=logger,
        overrides=["train.log_every_steps=1"],
    )
    best, _ = trainer.fit(TRAIN, VALID)
    steps = 1500 // 128
    assert dict(rates) == pytest.approx({step + 1: 0.02 * 0.1 ** (step // steps) for step in range(3 * steps)})
    assert logger.finished
    assert logger.params["model.name"] == "deepfm"
    assert logger.params["best/val/auc"] == best


def test_early_stopping_ends_the_run(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path, optimizer_fn="sgd", optimizer_params={"lr": 0.0}, n_epoch=9, earlystop_patience=2)
    trainer.fit(TRAIN, VALID)
    assert trainer.result is not None
    assert trainer.result.details["epochs"] == 3  # one gain, two without


def test_regularization_and_overrides_reach_the_run(tmp_path: Path) -> None:
    trainer = a_trainer(
        tmp_path, n_epoch=1, regularization_params={"dense_l2": 0.5}, overrides={"train.clip_norm": 3.0, "seed": 7}
    )
    trainer.fit(TRAIN)
    config = load_config(tmp_path)
    assert config["regularization"]["dense_l2"] == 0.5
    assert config["train"]["clip_norm"] == 3.0
    assert config["seed"] == 7


def load_config(folder: Path) -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text())
    return content


@pytest.mark.usefixtures("translated_once")
def test_the_exported_model_agrees(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    report = trainer.export_onnx(tmp_path / "onnx" / "deepfm.onnx")
    assert (tmp_path / "onnx" / "deepfm.onnx").stat().st_size > 0
    assert report.max_abs_difference < 1e-5
    with pytest.raises(ConfigError, match="dynamic_batch"):
        trainer.export_onnx(tmp_path / "fixed.onnx", dynamic_batch=False)
    with pytest.warns(UserWarning, match="opset 18, not 14"):
        trainer.export_onnx(str(tmp_path / "old.onnx"), opset_version=14)


@pytest.mark.parametrize(
    ("device", "gpus", "num_workers", "scaling", "train_device"),
    [
        ("cpu", [], 0, {"num_workers": 0}, "cpu"),
        ("cuda:1", [], 0, {"num_workers": 0}, "cuda:1"),
        ("cuda", [3], 0, {"num_workers": 0}, "cuda:3"),
        ("auto", [3], 0, {"num_workers": 0}, "cuda:3"),
        ("cuda:0", [3], 0, {"num_workers": 0}, "cuda:0"),
        ("cuda:0", [0, 1], 0, {"num_workers": 2, "use_gpu": True}, "auto"),
        ("cpu", [], 4, {"num_workers": 4, "use_gpu": False}, "cpu"),
        ("cuda", [], 4, {"num_workers": 4, "use_gpu": True}, "auto"),
    ],
)
def test_device_and_gpus_say_where_to_train(
    device: str, gpus: list[int], num_workers: int, scaling: dict[str, Any], train_device: str
) -> None:
    assert _place(device, gpus, num_workers) == (scaling, train_device)


def test_one_gpu_beside_the_cpu_is_not_taken_and_said_so() -> None:
    with pytest.warns(UserWarning, match=r"gpus=\[3\] counts for nothing beside device='cpu'"):
        assert _place("cpu", [3], 0) == ({"num_workers": 0}, "cpu")


class OnlyTorch(nn.Module):
    pass


class NotRegistered(DeepFM):
    pass


class WithOwnLoss(Model):
    outputs = (Output("logit"), Output("size", "loss"))

    def __init__(self, schema: Schema, *, factor: float = 1.0) -> None:
        super().__init__(schema)
        self.inner, self.factor = LR(schema), factor

    def forward(self, features: Features) -> Outputs:
        logit = self.inner(features)["logit"]
        return {"logit": logit, "size": self.factor * logit.square().mean()}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of the user's, known as long as the test runs."""
    monkeypatch.setattr(MODELS, "_classes", dict(MODELS._classes))
    MODELS.register("with_own_loss")(WithOwnLoss)


@pytest.mark.usefixtures("registered")
def test_a_model_with_a_loss_of_its_own(tmp_path: Path) -> None:
    sizes = []
    for factor in (0.0, 100.0):
        model = WithOwnLoss(SCHEMA, factor=factor)
        trainer = a_trainer(tmp_path / str(factor), model, loss_mode=False, optimizer_params={"lr": 0.1})
        trainer.fit(TRAIN)
        sizes.append(float(np.abs(trainer.predict(model, VALID) - 0.5).mean()))
    assert sizes[1] < sizes[0] / 5
    assert isinstance(load_model(tmp_path / "0.0"), WithOwnLoss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": OnlyTorch()}, "OnlyTorch is not a registered model.*MODELS.register"),
        ({"model": NotRegistered(SCHEMA)}, "NotRegistered is not a registered model"),
        ({"loss_mode": False}, "loss_mode.*of kind loss"),
        ({"optimizer_params": {"learning_rate": 1}}, "optimizers.0.*learning_rate"),
        ({"optimizer_fn": torch.optim.LBFGS}, "optimizer_fn"),
        ({"regularization_params": {"dense_l3": 1}}, "regularization.dense_l3.*dense_l"),
        ({"scheduler_fn": "warmup_cosin"}, "warmup_cosine"),
        ({"n_epoch": 0}, "train.epochs"),
        ({"earlystop_patience": 0}, "patience"),
        ({"device": "mps"}, "train.device"),
        ({"gpus": [0, 1], "num_workers": 3}, "gpus.*num_workers"),
        ({"model_logger": "wand"}, "wandb"),
        ({"overrides": ["train.clipnorm=1"]}, "clip_norm"),
    ],
)
def test_wrong_arguments_show_at_once(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        a_trainer(tmp_path, **arguments)


def test_a_model_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    model = deepfm()
    model.mlp = nn.Sequential(nn.Linear(3, 3))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"not what its constructor builds.*mlp"):
        a_trainer(tmp_path, model)
    model = deepfm()
    model.embedding.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"frozen.*embedding"):
        a_trainer(tmp_path, model)


@pytest.mark.usefixtures("registered")
def test_a_class_of_the_script_itself_cannot_go_to_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WithOwnLoss, "__module__", "__main__")
    a_trainer(tmp_path, WithOwnLoss(SCHEMA))
    with pytest.raises(ConfigError, match="module of its own"):
        a_trainer(tmp_path, WithOwnLoss(SCHEMA), num_workers=2)


def test_wrong_data_is_named(tmp_path: Path) -> None:
    trainer = a_trainer(tmp_path)
    with pytest.raises(DataError, match=r"the validation data.*'user'"):
        trainer.fit(TRAIN, VALID.drop(columns="user"))
    with pytest.raises(DataError, match="there is no"):
        trainer.fit(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nothing to resume"):
        trainer.fit(TRAIN, resume="must")
    with pytest.raises(RechubError, match=r"'item'.*20"):
        trainer.fit(TRAIN.assign(item=25))


def test_the_run_is_a_run_of_the_command_line(tmp_path: Path) -> None:
    a_trainer(tmp_path, n_epoch=1).fit(TRAIN, VALID)
    schema = json.loads((tmp_path / "data" / "schema.json").read_text())
    assert Schema.from_dict(schema) == SCHEMA
    from rechub_ray import evaluate

    assert evaluate(tmp_path, split="valid")["rows_seen"] == 400


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_and_a_ray_dataset(tmp_path: Path) -> None:
    import ray.data

    trainer = a_trainer(tmp_path, num_workers=2, n_epoch=1)
    one, alone = deepfm(), None
    alone = a_trainer(tmp_path / "alone", one, n_epoch=1)
    alone.fit(TRAIN, VALID)
    score, _ = trainer.fit(ray.data.from_pandas(TRAIN), VALID)
    assert alone.result is not None
    assert score == pytest.approx(alone.result.details["best_score"], abs=1e-4)
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], weight, rtol=1e-3, atol=1e-5)


@pytest.mark.ray
@pytest.mark.long  # the command predicts on workers, too
@pytest.mark.usefixtures("ray_cluster")
def test_two_workers_predict_what_this_process_does(tmp_path: Path) -> None:
    trainer, alone = a_trainer(tmp_path, num_workers=2, n_epoch=1), a_trainer(tmp_path / "alone", n_epoch=1)
    alone.fit(TRAIN, VALID)
    trainer.model.load_state_dict(alone.model.state_dict())
    np.testing.assert_allclose(trainer.predict(trainer.model, VALID), alone.predict(alone.model, VALID), rtol=1e-6)


def test_a_bad_value_of_the_users_frame_is_one_paragraph_and_nothing_is_trained(tmp_path: Path) -> None:
    frame = VALID.set_index(np.array([f"r{i}" for i in range(len(VALID))])).astype({"item": float})
    frame.loc["r17", "item"] = None
    with pytest.raises(DataError) as caught:
        a_trainer(tmp_path).fit(TRAIN, frame)
    message = str(caught.value)
    assert message.startswith("the validation data: column 'item', row 17 (index 'r17'), holds a bad value")
    assert "\n" not in message
    assert caught.value.__cause__ is None
    assert not (tmp_path / "checkpoints").exists()
