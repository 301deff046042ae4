"""A model remembers how it was built."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.models import LR, MODELS, DeepFM
from rechub_ray.schema import Label, Schema, SparseFeature

SCHEMA = Schema((SparseFeature("user", 9),), (Label("click"),))


class Small(DeepFM):
    def __init__(self, schema: Schema, *, width: int = 3) -> None:
        super().__init__(schema, embedding_dim=width, hidden_units=(width,))


def test_the_arguments_build_the_same_model_again() -> None:
    model = DeepFM(SCHEMA, embedding_dim=4, hidden_units=(7, 5))
    assert model.arguments == {"embedding_dim": 4, "hidden_units": (7, 5)}
    again = MODELS.build({"name": DeepFM.registered_name, **model.arguments}, SCHEMA)
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.arguments == model.arguments


def test_a_subclass_remembers_its_own_arguments() -> None:
    assert Small(schema=SCHEMA, width=2).arguments == {"width": 2}
    assert Small(SCHEMA).arguments == {}
    assert LR(SCHEMA).arguments == {}


def test_the_signature_is_still_the_constructors() -> None:
    assert list(inspect.signature(Small).parameters) == ["schema", "width"]
    assert MODELS.validate("deepfm")["embedding_dim"] == 16


@pytest.mark.parametrize("key", ["mlp", "mlp_params"])
def test_a_perceptrons_arguments_may_be_nested(key: str) -> None:
    nested: dict[str, Any] = {key: {"dims": [7, 5], "dropout": 0.2, "activation": "tanh", "batch_norm": True}}
    arguments = {"hidden_units": (7, 5), "dropout": 0.2, "activation": "tanh", "batch_norm": True}
    checked = MODELS.validate({"name": "deepfm", **nested})
    assert key not in checked
    assert {name: checked[name] for name in arguments} == arguments
    assert DeepFM(SCHEMA, **nested).arguments == arguments | {"hidden_units": [7, 5]}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"name": "deepfm", "mlp": {"dim": [7]}}, "'model.mlp' has no 'dim'.*'dims'"),
        ({"name": "deepfm", "mlp": {"dropout": 0.1}, "dropout": 0.2}, "'model.mlp.dropout' says the same as 'dropout'"),
        ({"name": "deepfm", "mlp": [7, 5]}, r"'model.mlp' is the perceptron's.*dims.*\[7, 5\]"),
        ({"name": "deepfm", "mlp": {"dropout": 2}}, "'model.dropout'.*less than 1"),
        ({"name": "fm", "mlp": {"dims": [7]}}, "model 'fm' has no argument 'mlp'"),
        ({"name": "depfm", "mlp": {"dims": [7]}}, "unknown model 'depfm'"),
    ],
)
def test_what_is_wrong_with_a_nested_perceptron_is_named(node: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MODELS.validate(node, where="model")
