from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.models import MODELS
from rechub_ray.models.ranking import DIN
from rechub_ray.schema import Label, Schema, SequenceFeature, SparseFeature
from tests.by_hand import LISTS, Histories, softmax

NODE = {"name": "din", "attention_units": [3], "attention_activation": "tanh"}


@pytest.mark.parametrize("normalised", [False, True])
def test_ids_count_by_their_relation_to_the_item(normalised: bool) -> None:
    case = Histories({**NODE, "attention_softmax": normalised})
    interests = []
    for ids, v in zip(LISTS, case.items, strict=True):
        history = case.table[ids]
        pairs = np.array([np.concatenate([v, h, v - h, v * h]) for h in history]).reshape(-1, 8)
        weights = case.layer(np.tanh(case.layer(pairs, "interests.0.mlp.0")), "interests.0.mlp.2")[:, 0]
        if normalised and len(ids):
            weights = softmax(weights, 0)
        interests.append(weights @ history if len(ids) else np.zeros(2))
    np.testing.assert_allclose(case.logit, case.expected(interests), rtol=1e-9)


def test_in_training_dice_does_not_see_places_without_an_id() -> None:
    case = Histories({**NODE, "attention_activation": "dice"})
    case.model.train()
    tight, loose = (case.model(case.features(places))["logit"] for places in (4, 9))
    torch.testing.assert_close(tight, loose, rtol=1e-10, atol=0)
    running = case.model.get_buffer("interests.0.mlp.1.norm.running_mean")
    assert (running != 0).all()


def test_histories_and_their_items_are_found_by_the_tables_they_share() -> None:
    model = MODELS.build({"name": "din"}, Histories.SCHEMA)
    assert isinstance(model, DIN)
    assert model.pairs == [("history", "item"), ("others", "item")]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"history_features": ["user"]}, SchemaError, "'user' is not a history"),
        ({"history_features": ["histories"]}, ConfigError, "Did you mean 'history'"),
        ({"history_features": ["history"], "target_features": ["user", "item"]}, ConfigError, "1 names.*Got: 2"),
        ({"target_features": ["itm", "item"]}, ConfigError, "Did you mean 'item'"),
    ],
)
def test_what_is_wrong_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MODELS.build({"name": "din", **arguments}, Histories.SCHEMA)


def test_data_without_histories_is_an_error() -> None:
    schema = Schema((SparseFeature("user", 5), SequenceFeature("tags", 4)), (Label("click"),))
    with pytest.raises(SchemaError, match=r"share the table of a sparse feature.*Got: none.*history_features"):
        MODELS.build("din", schema)
    wide = Schema((SparseFeature("user", 5, embed_dim=2), SequenceFeature("tags", 4)), (Label("click"),))
    with pytest.raises(SchemaError, match=r"one width.*16 and 2"):
        MODELS.build({"name": "din", "history_features": ["tags"], "target_features": ["user"]}, wide)
