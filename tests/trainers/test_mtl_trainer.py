"""The multi-task trainer: every model trains through it as through `train`, and wrong arguments are named."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from rechub_ray import Label, MTLTrainer, Schema, SparseFeature, load_config, load_model, train
from rechub_ray.compat.basic import features as theirs
from rechub_ray.compat.models.multi_task import AITM, ESMM, MMOE, PLE, MMoE, SharedBottom
from rechub_ray.compat.utils.data import DataGenerator
from rechub_ray.compat.utils.mtl import MetaBalance, shared_task_layers
from rechub_ray.data.collate import batch_from_table
from rechub_ray.data.convert import write_rows
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.models import multi_task
from rechub_ray.trainers.unbuilt import Unbuilt

NAMES = ["user", "item", "age"]
TASKS = ["click", "buy"]
TOWERS = [{"dims": [8]}] * 2
SCHEMA = Schema((SparseFeature("user", 20), SparseFeature("item", 10)), (Label("click"), Label("buy")))


def rows(count: int, seed: int) -> pd.DataFrame:
    rng, tastes = np.random.default_rng(seed), np.random.default_rng(9)
    user, item, age = rng.integers(0, 20, count), rng.integers(0, 10, count), rng.normal(size=count)
    liking = 2 * (tastes.normal(size=20)[user] + tastes.normal(size=10)[item])
    click = (rng.random(count) < 1 / (1 + np.exp(-liking))).astype(int)
    buy = click * (rng.random(count) < 1 / (1 + np.exp(-age))).astype(int)
    return pd.DataFrame({"user": user, "item": item, "age": age, "click": click, "buy": buy})


TRAIN, VALID = rows(1200, 0), rows(400, 1)


def trainer_of(model: Any, folder: Path, **arguments: Any) -> MTLTrainer:
    defaults: dict[str, Any] = {"optimizer_params": {"lr": 0.02}, "n_epoch": 2, "batch_size": 128}
    return MTLTrainer(model, model_path=folder, **(defaults | arguments))


def mmoe() -> Any:
    torch.manual_seed(0)
    return multi_task.MMoE(SCHEMA, embedding_dim=4, num_experts=2, expert_units=(8,), tower_units=(4,))


SEEDS = {
    "shared_bottom": (SharedBottom, {"hidden_units": [16, 8], "task_hidden_units": [8], "num_tasks": 2}),
    "esmm": (ESMM, {"hidden_units": [16, 8], "tower_units": [8], "embedding_dim": 4}),
    "mmoe": (MMoE, {"expert_units": [16], "num_experts": 3, "num_tasks": 2, "gate_activation": "softmax"}),
    "ple": (PLE, {"expert_units": [8], "num_experts": 2, "num_layers": 2, "num_shared_experts": 1, "num_tasks": 2}),
    "aitm": (AITM, {"hidden_units": [8], "task_hidden_units": [4], "task_types": ["binary", "binary"]}),
}
USER = [theirs.SparseFeature("user", 20, 4)]
ITEM = [theirs.SparseFeature("item", 10, 4)]
THEIRS = {
    "shared_bottom": lambda: SharedBottom([*USER, *ITEM], ["classification"] * 2, {"dims": [16]}, TOWERS),
    "esmm": lambda: ESMM(USER, ITEM, cvr_params={"dims": [16, 8]}, ctr_params={"dims": [16, 8]}),
    "mmoe": lambda: MMOE([*USER, *ITEM], ["classification"] * 2, 3, {"dims": [8]}, TOWERS),
    "ple": lambda: PLE([*USER, *ITEM], ["classification"] * 2, 2, 2, 1, {"dims": [8]}, TOWERS),
    "aitm": lambda: AITM([*USER, *ITEM], 2, {"dims": [8]}, TOWERS),
}


@pytest.mark.parametrize("name", SEEDS)
def test_a_model_with_features_by_name(name: str, tmp_path: Path) -> None:
    make, arguments = SEEDS[name]
    model = make(features=NAMES, **arguments)
    trainer = trainer_of(model, tmp_path, n_epoch=3)
    best, metrics = trainer.fit(TRAIN, VALID)
    built = trainer.model
    assert built.registered_name == name
    assert built.schema.feature_names == NAMES
    assert (built.schema.feature("user").vocab_size, built.schema.feature("age").kind) == (20, "dense")
    assert best > 0.7
    assert metrics["click/auc"] == best
    predicted = trainer.predict(model, VALID.drop(columns=TASKS))
    assert predicted.shape == (400, 2)
    expected = [roc_auc_score(VALID[task], predicted[:, i]) for i, task in enumerate(TASKS)]
    assert trainer.evaluate(model, VALID) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", THEIRS)
def test_a_model_with_torch_rechubs_arguments(name: str, tmp_path: Path) -> None:
    model = THEIRS[name]()
    assert model.registered_name == name
    first = 1 if name == "esmm" else 0
    assert [label.name for label in model.schema.labels] == [f"task_{first}", f"task_{first + 1}"]
    columns = {column: torch.tensor(TRAIN[column].to_numpy()) for column in ("user", "item")}
    batches = [(columns, torch.tensor(TRAIN[TASKS].to_numpy()))]
    trainer = trainer_of(model, tmp_path, n_epoch=1)
    trainer.fit(batches, batches)
    assert trainer.predict(model, [columns]).shape == (1200, 2)


def test_the_values_of_a_run_through_train(tmp_path: Path) -> None:
    model = mmoe()
    best, metrics = trainer_of(
        model, tmp_path / "face", task_weights_strategy="gradnorm", gradnorm_alpha=0.5, earlystop_taskid=1
    ).fit(TRAIN, VALID)
    for split, frame in {"train": TRAIN, "valid": VALID}.items():
        write_rows(frame, str(tmp_path / "data" / split), SCHEMA)
    (tmp_path / "data" / "schema.json").write_text((tmp_path / "face" / "data" / "schema.json").read_text())
    initial = next((tmp_path / "face" / "initial").rglob("step_*"))
    config = load_config(
        {
            "model_dir": str(tmp_path / "run"),
            "data": {"root": str(tmp_path / "data"), "test": None, "batch_size": 128},
            "model": {"name": "mmoe", "embedding_dim": 4, "num_experts": 2, "expert_units": [8], "tower_units": [4]},
            "losses": [{"name": "bce", "label": "click"}, {"name": "bce", "label": "buy"}],
            "balancing": {"name": "gradnorm", "alpha": 0.5},
            "optimizers": [{"name": "adam", "lr": 0.02}],
            "train": {"epochs": 2, "early_stopping": {"metric": "buy/auc"}},
            "scaling": {"num_workers": 0},
            "init_from": str(initial),
            "export": {"onnx": False},
        }
    )
    result = train(config)
    assert result.metrics["buy/auc"] == best
    assert result.metrics == pytest.approx(metrics, abs=1e-9)
    other = load_model(tmp_path / "run").state_dict()
    assert all(torch.equal(other[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        logits = model(batch_from_table(VALID, SCHEMA).features)
    assert roc_auc_score(VALID["buy"], logits["logit/buy"].numpy()) == pytest.approx(best, abs=1e-6)


def test_a_task_has_a_rate_of_its_own(tmp_path: Path) -> None:
    model = mmoe()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer_of(
        model, tmp_path, optimizer_fn="sgd", optimizer_params={"lr": 0.0}, n_epoch=1, task_specific_lr={"buy": 0.1}
    ).fit(TRAIN)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved
    assert all(name.startswith("towers.buy.") for name in moved)


@pytest.mark.parametrize("task", [0, 1])
def test_the_task_that_chooses_the_weights(task: int, tmp_path: Path) -> None:
    seen: list[float] = []
    trainer = trainer_of(mmoe(), tmp_path, optimizer_params={"lr": 0.3}, n_epoch=4, earlystop_taskid=task)
    best, metrics = trainer.fit(TRAIN, VALID, callback_fn=lambda epoch, score: seen.append(score))
    assert metrics[f"{TASKS[task]}/auc"] == best == max(seen)
    assert trainer.evaluate(trainer.model, VALID)[task] == pytest.approx(best, abs=1e-9)


def test_a_regression_is_scored_by_its_error(tmp_path: Path) -> None:
    model = SharedBottom(
        features=["user", "item"], task_types=["binary", "regression"], num_tasks=2, task_names=["click", "age"]
    )
    trainer = trainer_of(model, tmp_path, task_types=["binary", "regression"], earlystop_taskid=1)
    best, _ = trainer.fit(TRAIN, VALID)
    error = trainer.predict(model, VALID)[:, 1] - VALID["age"].to_numpy()
    assert best == pytest.approx(float((error**2).mean()), abs=1e-5)
    assert trainer.evaluate(model, VALID)[1] == pytest.approx(best, abs=1e-6)


class Kept:
    """A logger of the user's."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.numbers |= metrics

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        pass

    def finish(self) -> None:
        pass


def test_torch_rechubs_three_labels_of_a_chain(tmp_path: Path) -> None:
    """Columns: would buy, click, click and buy; nothing reads the first one, not even where there is no click."""

    def batches(frame: pd.DataFrame) -> list[Any]:
        nonsense = frame["buy"] + (1 - frame["click"]) * 7
        columns = {column: torch.tensor(frame[column].to_numpy()) for column in ("user", "item")}
        return [(columns, torch.tensor(np.stack([nonsense, frame["click"], frame["buy"]], 1)))]

    model, logger = THEIRS["esmm"](), Kept()
    three = ["classification"] * 3
    trainer = trainer_of(model, tmp_path, task_types=three, model_logger=logger, batch_size=64)
    best, _ = trainer.fit(batches(TRAIN), batches(VALID), mode="base", seed=1)
    predicted = trainer.predict(model, batches(VALID)).astype(float)
    assert predicted.shape == (400, 3)
    np.testing.assert_allclose(predicted[:, 0] * predicted[:, 1], predicted[:, 2], rtol=1e-5)
    clicked = VALID["click"].to_numpy() > 0
    expected = [
        roc_auc_score(VALID["buy"][clicked], predicted[clicked, 0]),
        roc_auc_score(VALID["click"], predicted[:, 1]),
        roc_auc_score(VALID["buy"], predicted[:, 2]),
    ]
    scores = trainer.evaluate(model, batches(VALID))
    assert scores == pytest.approx(expected, abs=1e-4)  # rows of one user and item tie, but for rounding
    assert best == scores[0]
    assert {"val/task_0_score", "val/task_1_score", "val/task_2_score"} <= set(logger.numbers)
    assert not {"train/task_0_loss"} & set(logger.numbers)


def test_a_logger_gets_the_tasks_numbers(tmp_path: Path) -> None:
    logger = Kept()
    trainer = trainer_of(mmoe(), tmp_path, n_epoch=1, model_logger=logger, earlystop_taskid=1, task_weights=[1, 0.5])
    _, metrics = trainer.fit(TRAIN, VALID)
    found = logger.numbers
    for i, task in enumerate(TASKS):
        assert found[f"val/task_{i}_score"] == found[f"val/{task}/auc"] == metrics[f"{task}/auc"]
        assert found[f"train/task_{i}_loss"] == found[f"train/loss/bce/{task}"]
    assert found["auc"] == found["val/buy/auc"]
    assert (found["loss_weight/task_0"], found["loss_weight/task_1"]) == (1, 0.5)
    assert {"train/loss", "learning_rate"} <= set(found)


def test_metabalance_as_an_optimizer(tmp_path: Path) -> None:
    """Equal to its name in adaptive_params, and not to what goes without it."""

    def weights(folder: str, **arguments: Any) -> dict[str, torch.Tensor]:
        model = mmoe()
        trainer_of(model, tmp_path / folder, n_epoch=1, **arguments).fit(TRAIN)
        return model.state_dict()

    optimizer = MetaBalance(mmoe().parameters(), relax_factor=0.4, beta=0.5)
    one = weights("one", optimizer=optimizer)
    other = weights("other", adaptive_params={"method": "metabalance", "relax_factor": 0.4, "beta": 0.5})
    plain = weights("plain")
    assert all(torch.equal(other[name], value) for name, value in one.items())
    assert any(not torch.equal(plain[name], value) for name, value in one.items())


def test_a_task_of_several_classes(tmp_path: Path) -> None:
    stars = np.digitize(TRAIN["user"] % 7, [2, 4])
    frame = TRAIN.assign(stars=stars)[["user", "item", "click", "stars"]]
    arguments: dict[str, Any] = {"task_types": ["binary", "multiclass"], "num_classes": [None, 3]}
    model = MMoE(features=["user", "item"], num_experts=2, expert_units=[8], task_hidden_units=[4], **arguments)
    trainer = trainer_of(model, tmp_path, task_types=arguments["task_types"], earlystop_taskid=1, n_epoch=4)
    best, metrics = trainer.fit(frame, frame)
    assert best == metrics["stars/log_loss"] == trainer.evaluate(model, frame)[1] < 0.5
    with pytest.raises(ConfigError, match="'stars' has several"):
        trainer.predict(model, frame)


def test_the_labels_of_a_frame_name_the_tasks(tmp_path: Path) -> None:
    train, valid, _ = DataGenerator(TRAIN[["user", "item"]], TRAIN[TASKS]).generate_dataloader(
        split_ratio=[0.8, 0.2], batch_size=128
    )
    model = SharedBottom(features=["user", "item"], num_tasks=2)
    assert list(model.parameters()) == []
    with pytest.raises(ConfigError, match="Call fit first"):
        shared_task_layers(model)
    rates = {"click": 0.001, "buy": 0.0005}
    trainer = trainer_of(model, tmp_path, batch_size=None, n_epoch=1, task_specific_lr=rates)
    _, metrics = trainer.fit(train, valid)
    assert {"click/auc", "buy/auc"} <= set(metrics)
    shared, own = shared_task_layers(model)
    assert len(shared) + len(own) == len(list(model.parameters()))


def test_trainers_of_a_model_that_another_one_has_built(tmp_path: Path) -> None:
    model = SharedBottom(features=["user", "item"], task_names=TASKS)
    before = trainer_of(model, tmp_path / "before")
    trainer = trainer_of(model, tmp_path / "first", n_epoch=1)
    trainer.fit(TRAIN, VALID)
    scores = trainer.evaluate(model, VALID)
    for other in (before, trainer_of(model, tmp_path / "after")):
        assert other.evaluate(model, VALID) == scores
        assert other.model is model.model


def test_arguments_come_in_torch_rechubs_order() -> None:
    theirs_are = """model task_types optimizer_fn optimizer_params regularization_params scheduler_fn scheduler_params
        adaptive_params n_epoch earlystop_taskid earlystop_patience device gpus model_path model_logger
        earlystop_mode"""
    ours = [
        name
        for name, parameter in inspect.signature(MTLTrainer).parameters.items()
        if parameter.kind is not parameter.KEYWORD_ONLY
    ]
    assert ours == theirs_are.split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task_types": ["binary", "ordinal"]}, "'ordinal'"),
        ({"task_types": ["binary", "regression"]}, r"'task_types'.*click: binary, buy: binary"),
        ({"earlystop_taskid": 2}, "'earlystop_taskid'.*0 to 1"),
        ({"earlystop_mode": "min"}, "'earlystop_mode'.*auc"),
        ({"adaptive_params": {"method": "uwl2"}}, "'adaptive_params.*uwl"),
        ({"adaptive_params": {"alpha": 1}}, "no 'method'"),
        ({"adaptive_params": {"method": "gradnorm", "alfa": 1}}, "'adaptive_params.*alpha"),
        ({"task_weights": [1.0]}, "task_weights.*another number"),
        ({"task_weights": [1.0, 2.0], "task_weights_strategy": "uwl"}, "one way"),
        ({"gradnorm_alpha": 1.5}, "'gradnorm_alpha'"),
        ({"n_epochs": 3}, "'n_epoch' and 'n_epochs'"),
        (
            {
                "task_specific_lr": {"clik": 0.1},
                "optimizer_fn": [{"name": "adam"}, {"name": "sgd"}],
                "optimizer_params": None,
            },
            "list of optimizers",
        ),
        ({"optimizer": object()}, "'optimizer'.*a MetaBalance"),
        ({"optimizer": MetaBalance(), "task_weights": [1, 1]}, "one way"),
        ({"optimizer": MetaBalance(relax_factor=2)}, "'optimizer.*relax_factor"),
        ({"task_types": ["classification"] * 3}, "'task_types'"),
    ],
)
def test_a_wrong_argument_is_named_at_once(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        trainer_of(mmoe(), tmp_path, **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MMoE(features=NAMES, num_tasks=2, task_types=["binary"]), "numbers of tasks differ"),
        (lambda: MMoE(features=["user", *ITEM]), "by name or as objects"),
        (lambda: MMoE(features=NAMES, gate_activation="relu"), "'gate_activation'"),
        (lambda: MMoE(features=NAMES, gate_activaton="softmax"), "no argument 'gate_activaton'"),
        (lambda: MMoE(features=NAMES, n_expert=2, num_experts=2), "one argument"),
        (lambda: SharedBottom(NAMES, None, {"dims": [8]}, [{"dims": [8]}, {"dims": [4]}]), "'tower_units'"),
        (lambda: SharedBottom(NAMES, bottom_params={"dims": [8]}, hidden_units=[8]), "given twice"),
        (lambda: MTLTrainer(SharedBottom(NAMES, hiden_units=[8])), "hiden_units"),
        (lambda: MTLTrainer(ESMM(features=NAMES, task_types=["binary", "regression"])), "not binary"),
        (lambda: ESMM(), "'features'"),
        (
            lambda: PLE(features=NAMES, task_types=["binary", "multiclass"]),
            "'num_classes'.*None, its number of classes",
        ),
    ],
)
def test_a_wrong_model_is_named_before_there_is_data(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_data_that_does_not_tell_the_features() -> None:
    model = SharedBottom(features=NAMES)
    assert isinstance(model, Unbuilt)
    with pytest.raises(DataError, match=r"'user'.*factorize"):
        model.build(TRAIN.assign(user="u1"))
    with pytest.raises(DataError, match="no column 'age'"):
        model.build(TRAIN.drop(columns="age"))
    with pytest.raises(ConfigError, match="task_names"):
        model.build(TRAIN.assign(weight=1.0))
    with pytest.raises(ConfigError, match="Call fit first"):
        MTLTrainer(model).predict(model, VALID)


def test_a_prepared_folder_brings_its_schema(tmp_path: Path) -> None:
    trainer_of(mmoe(), tmp_path / "other", n_epoch=1).fit(TRAIN, VALID)
    model = SharedBottom(features=["user"], task_types=["regression"], task_names=["buy"])
    with pytest.raises(ConfigError, match="not the model's tasks"):
        model.build(tmp_path / "other" / "data", None)
    model = SharedBottom(features=["user"], num_tasks=2)
    trainer_of(model, tmp_path / "run", n_epoch=1).fit(tmp_path / "other" / "data")
    assert model.model is not None
    assert [label.name for label in model.model.schema.labels] == TASKS
