from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from rechub_ray.batch import Batch, Features
from rechub_ray.errors import ConfigError
from rechub_ray.metrics import MetricSet
from rechub_ray.outputs import Output, predictions
from rechub_ray.schema import Label, Schema
from rechub_ray.world import World

ONE = Schema(features=(), labels=(Label("click"),))
CLASSES = Schema(features=(), labels=(Label("click"), Label("stars", "multiclass", num_classes=3)))
TWO = Schema(features=(), labels=(Label("click"), Label("rating", "regression")))


def batch(labels: torch.Tensor) -> Batch:
    empty = torch.zeros((len(labels), 0))
    return Batch(features=Features(empty.long(), empty), labels=labels)


def test_whole_from_batches():
    torch.manual_seed(0)
    logits, labels = torch.randn(500), torch.randint(0, 2, (500, 1)).float()
    metrics = MetricSet(ONE, ["auc", {"name": "log_loss"}, "calibration"])
    for part in torch.arange(500).split(64):
        metrics.update({"logit": logits[part]}, batch(labels[part]))
    result = metrics.compute(World())
    assert tuple(result) == metrics.keys == ("auc", "log_loss", "calibration")
    assert all(type(number) is float for number in result.values())
    assert result["auc"] == pytest.approx(roc_auc_score(labels[:, 0], logits))
    assert result["log_loss"] == pytest.approx(log_loss(labels[:, 0], logits.double().sigmoid()))
    assert metrics.compute(World()) == result  # asking twice changes nothing
    metrics.reset()
    metrics.update({"logit": torch.tensor([0.0, 1.0])}, batch(torch.tensor([[0.0], [1.0]])))
    assert metrics.compute(World())["auc"] == 1.0


CLICK_AND_RATING = (Output("logit/click", label="click"), Output("value/rating", "value", "rating"))


def bound(schema: Schema, nodes: list[Any], outputs: tuple[Output, ...]) -> MetricSet:
    return MetricSet(schema, nodes).bind(predictions(outputs, schema), outputs)


def test_several_labels_read_their_own_column_and_output():
    metrics = bound(TWO, ["accuracy", {"name": "mse", "label": "rating"}], CLICK_AND_RATING)
    assert metrics.keys == ("click/accuracy", "rating/mse")
    outputs = {"logit/click": torch.tensor([1.0, -1.0]), "value/rating": torch.tensor([3.0, 5.0])}
    metrics.update(outputs, batch(torch.tensor([[1.0, 4.0], [1.0, 5.0]])))
    assert metrics.compute(World()) == {"click/accuracy": 0.5, "rating/mse": 0.5}


def test_a_bare_name_means_the_first_label():
    metrics = MetricSet(TWO, ["auc", {"name": "mse", "label": "rating"}])
    assert metrics.resolve("auc") == metrics.resolve("click/auc") == "click/auc"
    assert metrics.mode("auc") == "max"
    for key in ("mse", "rating/auc"):
        with pytest.raises(ConfigError, match=f"no metric '{key}' is computed"):
            metrics.resolve(key)


def test_one_metric_with_other_arguments_has_a_key_of_its_own():
    other = {"name": "recall", "threshold": 0.9, "key": "recall_at_90"}
    metrics = MetricSet(ONE, [other, "recall"])
    assert metrics.keys == ("recall_at_90", "recall")
    assert [metrics.resolve(key) for key in metrics.keys] == ["recall_at_90", "recall"]
    metrics.update({"logit": torch.tensor([1.0, 5.0])}, batch(torch.tensor([[1.0], [1.0]])))
    assert metrics.compute(World()) == {"recall_at_90": 0.5, "recall": 1.0}
    assert MetricSet(TWO, [other]).resolve("recall_at_90") == "click/recall_at_90"
    with pytest.raises(ConfigError, match="'key' is a name in logs"):
        MetricSet(ONE, [{"name": "auc", "key": "test/auc"}])


def test_an_output_by_name_says_which_label():
    metrics = bound(TWO, [{"name": "mse", "output": "value/rating"}], CLICK_AND_RATING)
    assert metrics.keys == ("rating/mse",)
    tower = (Output("logit"), Output("tower"))
    metrics = bound(ONE, [{"name": "accuracy", "output": "tower"}], tower)
    metrics.update({"logit": torch.tensor([-1.0]), "tower": torch.tensor([1.0])}, batch(torch.tensor([[1.0]])))
    assert metrics.compute(World()) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [{"name": "mse", "label": "rating", "output": "logit/click"}],
            r"'metrics.0'.*'logit/click' predicts label 'click'",
        ),
        ([{"name": "auc", "output": "value/rating"}], r"'metrics.0'.*'auc' is not defined for the regression label"),
        (
            [{"name": "mse", "label": "rating"}, {"name": "mse", "output": "value/rating"}],
            r"'metrics.1'.*already given",
        ),
    ],
)
def test_what_does_not_fit_the_model_names_the_place(nodes, message):
    with pytest.raises(ConfigError, match=message):
        bound(TWO, nodes, CLICK_AND_RATING)


def test_a_label_that_the_model_does_not_predict():
    with pytest.raises(ConfigError, match=r"no output of the model predicts label 'rating'.*data.labels=\['click'\]"):
        bound(TWO, [{"name": "mse", "label": "rating"}], (Output("logit"),))


def test_classes_against_scikit_learn():
    schema = Schema(features=(), labels=(Label("stars", "multiclass", num_classes=4),))
    metrics = bound(schema, ["log_loss", "accuracy"], (Output("classes", "classes"),))
    torch.manual_seed(0)
    logits, labels = torch.randn(300, 4), torch.randint(0, 4, (300, 1)).float()
    for part in torch.arange(300).split(64):
        metrics.update({"classes": logits[part]}, batch(labels[part]))
    result = metrics.compute(World())
    assert result["log_loss"] == pytest.approx(log_loss(labels[:, 0], logits.double().softmax(1), labels=[0, 1, 2, 3]))
    assert result["accuracy"] == pytest.approx(accuracy_score(labels[:, 0], logits.argmax(1)))


@pytest.mark.parametrize(
    ("schema", "nodes", "message"),
    [
        (ONE, ["auk"], r"'metrics.0.name': unknown metric 'auk'. Did you mean 'auc'\?"),
        (ONE, ["auc", "auc"], r"'metrics.1': the metric 'auc' is already given by 'metrics.0'"),
        (ONE, ["auc", {"name": "auc", "label": "click"}], r"'metrics.1': the metric 'auc' is already given"),
        (ONE, [{"name": "auc", "label": "clik"}], r"'metrics.0': the schema has no label 'clik'. Did you mean 'click'"),
        (ONE, [{"name": "auc_histogram", "bin": 3}], r"no argument 'bin'. Did you mean 'bins'\?"),
        (ONE, [{"name": "auc_histogram", "bins": 1}], r"'metrics.0.bins': input should be greater than or equal to 2"),
        (ONE, ["log_loss", "gauc"], r"'metrics.1': metric 'gauc' needs a group column"),
        (ONE, ["rmse"], r"'metrics.0': metric 'rmse' is not defined for the binary label 'click'"),
        (ONE, [{"name": "auc", "where": "clik"}], r"'metrics.0': the schema has no label 'clik'. Did you mean 'click'"),
        (CLASSES, [{"name": "auc", "where": "stars"}], r"'metrics.0'.*'where'.*the multiclass label 'stars'"),
        (ONE, [{"name": "precision", "threshold": 1}], r"'metrics.0.threshold': input should be less than 1"),
        (TWO, [{"name": "auc", "label": "rating"}], r"'auc' is not defined for the regression label 'rating'"),
    ],
)
def test_wrong_configurations_name_the_place(schema, nodes, message):
    with pytest.raises(ConfigError, match=message):
        MetricSet(schema, nodes)


def test_check_names_the_nearest_output():
    nodes = ["auc", {"name": "log_loss", "output": "logits"}]
    with pytest.raises(
        ConfigError, match=r"'metrics.1.output': the model has no output 'logits'. Did you mean 'logit'"
    ):
        bound(ONE, nodes, (Output("logit"), Output("embedding", "vector")))


def test_where_keeps_the_rows_where_another_label_is_positive():
    schema = Schema(
        (), (Label("click", optional=True), Label("buy", optional=True), Label("seconds", "regression")), weight="w"
    )
    outputs = (Output("p/click", label="click"), Output("p/buy", label="buy"), Output("v", "value", "seconds"))
    nodes = [
        {"name": "auc", "label": "buy", "where": "click"},
        {"name": "auc", "label": "buy", "where": "seconds"},
        {"name": "auc", "label": "buy"},
        {"name": "mae", "label": "seconds", "where": "click"},
        {"name": "expected_calibration_error", "where": "buy"},
    ]
    metrics = bound(schema, nodes, outputs)
    torch.manual_seed(0)
    given = {output.name: torch.randn(400) for output in outputs}
    labels = torch.cat([torch.randint(0, 2, (400, 2)).float(), torch.randn(400, 1)], 1)
    labels[torch.arange(400) % 5 == 0, 0] = torch.nan
    labels[torch.arange(400) % 7 == 0, 1] = torch.nan
    weight = torch.rand(400)
    for part in torch.arange(400).split(64):
        some = batch(labels[part])
        some.weight = weight[part]
        metrics.update({name: value[part] for name, value in given.items()}, some)
    result = metrics.compute(World())
    assert tuple(result) == (
        "buy/auc_where_click",
        "buy/auc_where_seconds",
        "buy/auc",
        "seconds/mae_where_click",
        "click/expected_calibration_error_where_buy",
    )
    there = ~labels[:, 1].isnan()
    for key, rows in (
        ("buy/auc_where_click", there & (labels[:, 0] == 1)),
        ("buy/auc_where_seconds", there & (labels[:, 2] > 0)),
        ("buy/auc", there),
    ):
        expected = roc_auc_score(labels[rows, 1], given["p/buy"][rows], sample_weight=weight[rows].double())
        assert result[key] == pytest.approx(expected)
    rows = labels[:, 0] == 1
    errors = (given["v"] - labels[:, 2]).abs()[rows]
    assert result["seconds/mae_where_click"] == pytest.approx(float((errors * weight[rows]).sum() / weight[rows].sum()))
    assert metrics.mode("buy/auc_where_click") == "max"


def test_where_without_a_positive_row_is_nan():
    metrics = MetricSet(TWO, [{"name": "accuracy", "where": "rating"}])
    metrics.update({"logit": torch.tensor([1.0, -1.0])}, batch(torch.tensor([[1.0, -1.0], [0.0, 0.0]])))
    assert metrics.keys == ("click/accuracy_where_rating",)
    assert math.isnan(metrics.compute(World())["click/accuracy_where_rating"])


def test_an_alias_names_a_computed_metric():
    metrics = MetricSet(TWO, ["ne", {"name": "average_precision", "where": "rating"}])
    assert metrics.keys == ("click/normalized_entropy", "click/pr_auc_where_rating")
    assert metrics.resolve("ne") == metrics.resolve("click/ne") == "click/normalized_entropy"
    assert metrics.resolve("average_precision_where_rating") == "click/pr_auc_where_rating"


def test_modes():
    metrics = MetricSet(ONE, ["calibration", "auc", "log_loss", "expected_calibration_error"])
    assert [metrics.mode(key) for key in metrics.keys[1:]] == ["max", "min", "min"]
    assert metrics.default_key() == "auc"
    with pytest.raises(ConfigError, match=r"no metric 'logloss' is computed. Did you mean 'log_loss'\?"):
        metrics.mode("logloss")
    with pytest.raises(ConfigError, match=r"'calibration' has no direction.*Expected: one of: auc, log_loss"):
        metrics.mode("calibration")
    with pytest.raises(ConfigError, match=r"no metric says which model is the best.*Got: calibration"):
        MetricSet(ONE, ["calibration"]).default_key()
