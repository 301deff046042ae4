"""A model remembers how it was built."""

from __future__ import annotations

import copy
import inspect
import pickle

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
