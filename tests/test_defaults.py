"""What a configuration leaves open follows the labels, and is written out."""

from __future__ import annotations

from typing import Any

import pytest

from rechub_ray import config as config_module
from rechub_ray.defaults import default_metrics, links, resolved
from rechub_ray.errors import ConfigError
from rechub_ray.models import MODELS
from rechub_ray.schema import DenseFeature, Label, Schema, SparseFeature

FEATURES = (SparseFeature("user", 30), DenseFeature("age"))
ONE = Schema(FEATURES, (Label("click"),))
KINDS = Schema(FEATURES, (Label("click"), Label("price", "regression"), Label("stars", "multiclass", num_classes=3)))


def load(**data: Any) -> config_module.RunConfig:
    return config_module.load({"model": "shared_bottom", **data})


def test_every_label_gets_the_loss_the_metrics_and_the_head_of_its_kind() -> None:
    config = resolved(load(), KINDS)
    assert [(n["name"], n["label"], n["output"]) for n in config.losses or []] == [
        ("bce", "click", "logit/click"),
        ("mse", "price", "value/price"),
        ("cross_entropy", "stars", "classes/stars"),
    ]
    assert [(n["name"], n["label"]) for n in config.metrics or []] == [
        ("auc", "click"),
        ("log_loss", "click"),
        ("rmse", "price"),
        ("log_loss", "stars"),
        ("accuracy", "stars"),
    ]
    assert config.metrics == default_metrics(KINDS)
    assert config.model["heads"] == {"click": "logit", "price": "value", "stars": "classes"}


@pytest.mark.parametrize("model", ["shared_bottom", "deepfm"])
def test_it_is_the_same_again(model: str) -> None:
    once = resolved(load(model=model), ONE)
    assert resolved(once, ONE) == once
    assert once.fingerprint() == resolved(load(model=model, losses=["bce"]), ONE).fingerprint()
    explicit = [{"name": "bce", "output": "logit", "label": "click"}]
    assert once.fingerprint() == resolved(load(model=model, losses=explicit), ONE).fingerprint()


def test_the_losses_of_a_label_say_which_head_a_model_builds() -> None:
    losses = [
        {"name": "mse", "label": "click"},
        {"name": "mse", "label": "price"},
        {"name": "cross_entropy", "label": "stars"},
    ]
    config = resolved(load(losses=losses), KINDS)
    assert config.model["heads"]["click"] == "value"
    outputs = MODELS.build(config.model, KINDS).outputs
    assert links(config, KINDS, outputs) == {"click": "identity", "price": "identity", "stars": "softmax"}


def test_a_loss_of_two_classes_has_them_built_for_its_binary_label() -> None:
    config = resolved(load(losses=["jrc"]), ONE)
    assert config.model["heads"] == {"click": "classes"}
    assert links(config, ONE, MODELS.build(config.model, ONE).outputs) == {"click": "two_class"}
    with pytest.raises(ConfigError, match=r"'losses.0': loss 'jrc' cannot read output 'logit' of kind logit"):
        resolved(load(model="deepfm", losses=["jrc"]), ONE)


def test_a_head_of_the_users_stays() -> None:
    config = resolved(load(model={"name": "shared_bottom", "heads": {"price": "logit"}}), KINDS)
    assert config.model["heads"]["price"] == "logit"
    assert (config.losses or [])[1]["output"] == "logit/price"


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"heads": {"prize": "value"}}, r"'model.heads': the schema has no label 'prize'. Did you mean 'price'"),
        ({"heads": {"stars": "logit"}}, "'stars' of kind multiclass cannot have a head of kind logit"),
        ({"heads": {"click": "vector"}}, "'click' of kind binary cannot have a head of kind vector"),
        ({"name": "deepfm"}, r"'losses.1': no output of the model predicts label 'price'.*data.labels=\['click'\]"),
    ],
)
def test_what_does_not_fit_is_named(model: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolved(load(model={"name": "shared_bottom", **model}), KINDS)
