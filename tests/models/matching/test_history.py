"""Models of a history of items in NumPy, from their papers' equations, one row and one item after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.errors import ConfigError
from rechub_ray.models import MODELS
from rechub_ray.schema import Schema, SequenceFeature
from tests.models.matching.small import (
    ITEMS,
    USERS,
    Array,
    build,
    perceptron,
    pooled,
    sigmoid,
    softmax,
    stacked,
    table,
    unit,
    vectors,
    weight,
)
from tests.small_retrieval import SCHEMA

HISTORIES = USERS["history"]
NAMES = ["mind", "comirec_sa", "comirec_dr", "sine", "narm", "stamp"]


def squash(x: Array) -> Array:
    square = (x**2).sum()
    return square / (1 + square) * x / np.sqrt(square) if square else x


def routed(votes: Array, logits: Array, times: int) -> Array:
    """Capsules of votes, (K, T, D), as procedure 1 of Sabour et al. writes it."""
    logits = logits.copy()
    capsules = np.zeros((len(votes), votes.shape[2]))
    for _ in range(times):
        shares = softmax(logits, 0)
        for k in range(len(votes)):
            capsules[k] = squash(sum((shares[k, t] * votes[k, t] for t in range(votes.shape[1])), np.zeros(3)))
        for k in range(len(votes)):
            for t in range(votes.shape[1]):
                logits[k, t] += capsules[k] @ votes[k, t]
    return capsules


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_mind(dynamic: bool, similarity: str) -> None:
    model = build("mind", interest_num=3, hidden_units=[7], dynamic_interest=dynamic, similarity=similarity)
    user, item = vectors(model)
    rows, scale = table(model, "item"), unit if similarity == "cosine" else np.asarray
    np.testing.assert_allclose(item, scale(rows[ITEMS["item"]]), rtol=1e-12)
    assert user.shape == (3, 3, 3)
    words = pooled(table(model, "words"), USERS["words"])
    for i, ids in enumerate(HISTORIES):
        number = max(1, min(3, int(math.log2(max(len(ids), 1))))) if dynamic else 3
        votes = np.broadcast_to(rows[ids] @ weight(model, "votes.weight").T, (number, len(ids), 3))
        capsules = routed(votes, weight(model, "logits")[:number, : len(ids)], 3)
        beside = np.concatenate([table(model, "user")[USERS["user"][i]], words[i], [USERS["age"][i]]])
        expected = perceptron(model.mlp, np.array([[*beside, *capsule] for capsule in capsules]))  # type: ignore[arg-type]
        np.testing.assert_allclose(user[i, :number], scale(expected), rtol=1e-7)
        for k in range(number, 3):
            np.testing.assert_array_equal(user[i, k], user[i, 0])


def test_minds_first_logits_stay_with_the_model() -> None:
    model, other = build("mind"), build("mind")
    other.logits.zero_()  # type: ignore[operator, union-attr]
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(vectors(model)[0], vectors(other)[0])
    assert build("mind", attention_power=2.5).outputs[0].attention_power == 2.5
    assert build("mind", attention_power=None).outputs[0].attention_power is None


def attended(model: Any, ids: list[int], positions: bool = True) -> Array:
    """Interests of one history by self-attention."""
    x = table(model, "item")[ids]
    places = weight(model, "positions")[np.arange(len(ids))[::-1]] if positions else 0
    hidden = np.tanh((x + places) @ weight(model, "weights.hidden.weight").T)
    scores = hidden @ weight(model, "weights.heads.weight").T
    return softmax(scores, 0).T @ x if ids else np.zeros((scores.shape[1], 3))


@pytest.mark.parametrize("positions", [True, False])
def test_comirec_sa(positions: bool) -> None:
    model = build("comirec_sa", interest_num=2, hidden_dim=5, positions=positions)
    for found, ids in zip(vectors(model)[0], HISTORIES, strict=True):
        np.testing.assert_allclose(found, attended(model, ids, positions), rtol=1e-10)


@pytest.mark.parametrize("positions", [True, False])
def test_comirec_dr(positions: bool) -> None:
    model = build("comirec_dr", interest_num=2, routing_times=2, positions=positions)
    rows, matrices = table(model, "item"), weight(model, "votes").reshape(5 if positions else 1, 3, 2, 3)
    for found, ids in zip(vectors(model)[0], HISTORIES, strict=True):
        votes = np.array([[rows[j] @ matrices[t * positions, :, k] for t, j in enumerate(ids)] for k in range(2)])
        expected = routed(votes.reshape(2, len(ids), 3), np.zeros((2, len(ids))), 2)
        np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_comirec_takes_features_beside_the_history() -> None:
    model = build("comirec_sa", user_features=["age", "user", "history"])
    assert model.user_input.width == 4
    for i, ids in enumerate(HISTORIES):
        beside = [*table(model, "user")[USERS["user"][i]], USERS["age"][i]]
        joined = np.array([[*beside, *interest] for interest in attended(model, ids)])
        np.testing.assert_allclose(vectors(model)[0][i], joined @ weight(model, "convert.weight").T, rtol=1e-10)


def gru(model: Any, x: Array) -> Array:
    """The states of a GRU, from its equations."""
    w_x, w_h, b_x, b_h = (weight(model, f"gru.{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    state, states = np.zeros(w_h.shape[1]), []
    for row in x:
        (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(w_x @ row + b_x, 3), np.split(w_h @ state + b_h, 3)
        reset, update = sigmoid(r_x + r_h), sigmoid(z_x + z_h)
        state = (1 - update) * np.tanh(n_x + reset * n_h) + update * state
        states.append(state)
    return np.array(states)


def test_narm() -> None:
    model = build("narm", hidden_dim=4, emb_dropout_p=0.5, session_rep_dropout_p=0.5)
    rows = table(model, "item")
    a_1, a_2, v, b = (weight(model, f"{name}.weight") for name in ("of_last", "of_each", "weight", "convert"))
    for found, ids in zip(vectors(model)[0], HISTORIES, strict=True):
        states = gru(model, rows[ids] if ids else np.zeros((1, 3)))
        local = sum((v[0] @ sigmoid(a_1 @ states[-1] + a_2 @ h) * h for h in states[: len(ids)]), np.zeros(4))
        np.testing.assert_allclose(found, b @ np.concatenate([states[-1], local]), rtol=1e-9)


def test_stamp() -> None:
    model = build("stamp", weight_std=0.7)
    rows = table(model, "item")
    w_0, w_1, w_2, w_3 = (weight(model, f"{name}.weight") for name in ("weight", "of_each", "of_last", "of_mean"))
    for found, ids in zip(vectors(model)[0], HISTORIES, strict=True):
        x = rows[ids] if ids else np.zeros((1, 3))
        fixed = w_2 @ x[-1] + w_3 @ x.mean(0) + weight(model, "of_last.bias")
        session = sum((w_0[0] @ sigmoid(w_1 @ row + fixed) * row for row in x), np.zeros(3))
        h_s = np.tanh(weight(model, "session.weight") @ session + weight(model, "session.bias"))
        h_t = np.tanh(weight(model, "last.weight") @ x[-1] + weight(model, "last.bias"))
        np.testing.assert_allclose(found, h_s * h_t, rtol=1e-10)


def test_sine() -> None:
    model = build("sine", num_concept=6, num_intention=2, hidden_dim=4, temperature=0.5)
    rows, prototypes = table(model, "item"), weight(model, "prototypes")
    for number in range(4):
        torch.nn.init.normal_(model.norms[number].weight)  # type: ignore[index, union-attr]

    def attention(name: str, x: Array) -> Array:
        scores = np.tanh(x @ weight(model, f"{name}.hidden.weight").T) @ weight(model, f"{name}.heads.weight").T
        return softmax(scores[:, 0])

    def norm(number: int, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight(model, f"norms.{number}.weight")
        )
        return scaled + (weight(model, f"norms.{number}.bias") if number != 1 else 0)

    for i, ids in enumerate(HISTORIES):
        if not ids:
            continue
        x = rows[ids] + weight(model, "positions")[np.arange(len(ids))[::-1]]
        strength = prototypes @ (attention("concept", x) @ x)
        chosen = np.argsort(-strength)[:2]
        intentions = sigmoid(strength[chosen])[:, None] * prototypes[chosen]
        shares = softmax(norm(0, x @ weight(model, "assign.weight").T) @ norm(1, intentions).T, 1)
        interests = np.array([norm(2, (shares[:, k] * attention(f"each.{k}", x)) @ x) for k in range(2)])
        seen = shares @ intentions
        coming = norm(3, attention("next", seen) @ seen)
        expected = softmax(interests @ coming / 0.5) @ interests
        np.testing.assert_allclose(vectors(model)[0][i], expected, rtol=1e-8)
    alone = norm(2, np.zeros(3))  # of a history of nothing
    np.testing.assert_allclose(vectors(model)[0][1], alone, rtol=1e-8)


def test_sine_keeps_prototypes_apart() -> None:
    model = build("sine", num_concept=6, prototype_weight=0.3)
    assert [(output.name, output.kind) for output in model.outputs[2:]] == [("prototypes", "loss")]
    covariance = np.cov(weight(model, "prototypes"), bias=True)
    expected = ((covariance**2).sum() - (np.diag(covariance) ** 2).sum()) / 2
    found = model(stacked(SCHEMA.user_side, USERS), stacked(SCHEMA.item_side, ITEMS))["prototypes"]
    assert found.item() == pytest.approx(0.3 * expected, rel=1e-12)
    with pytest.raises(ConfigError, match=r"'model.num_intention'.*at most num_concept, 3"):
        build("sine", num_concept=3)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_is_found_or_named(name: str) -> None:
    features = tuple(f for f in SCHEMA.features if f.name != "history")
    with pytest.raises(ConfigError, match=r"reads a sequence of items.*shared_with: item"):
        MODELS.build(name, Schema(features, (), items=SCHEMA.items))
    with pytest.raises(ConfigError, match=r"'model.history'.*none called 'words'.*Got: history"):
        build(name, history="words")
    later = SequenceFeature("earlier", 61, max_length=9, shared_with="item")
    model = MODELS.build(
        {"name": name, "history": "earlier"}, Schema((*SCHEMA.features, later), (), items=SCHEMA.items)
    )
    assert (model.history, model.max_length) == ("earlier", 9)
