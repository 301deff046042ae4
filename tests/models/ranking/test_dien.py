from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.errors import ConfigError
from rechub_ray.layers.interest import AttentionalGRU
from tests.by_hand import LISTS, OTHERS, Histories, sigmoid, softmax

NODE = {"name": "dien", "auxiliary_weight": 0.5}


def gru(case: Any, x: Any, weights: Any, name: str) -> Any:
    """The paper's equations, one gate after the other."""
    w, b, u = (case.state[f"{name}.{part}"] for part in ("input.weight", "input.bias", "state.weight"))
    h, states = np.zeros(2), []
    for e, a in zip(x, weights, strict=True):
        reset = sigmoid(w[:2] @ e + b[:2] + u[:2] @ h)
        update = a * sigmoid(w[2:4] @ e + b[2:4] + u[2:4] @ h)
        candidate = np.tanh(w[4:] @ e + b[4:] + reset * (u[4:] @ h))
        h = (1 - update) * h + update * candidate
        states.append(h)
    return np.array(states).reshape(-1, 2)


def test_a_gru_and_one_that_follows_attention() -> None:
    case = Histories(NODE)
    interests = []
    for ids, v in zip(LISTS, case.items, strict=True):
        states = gru(case, case.table[ids], np.ones(len(ids)), "extract.0")
        weights = softmax(states @ (case.state["attention.0.weight"] @ v), 0) if len(ids) else np.zeros(0)
        interests.append([np.zeros(2), *gru(case, states, weights, "interests.0")][-1])
    np.testing.assert_allclose(case.logit, case.expected(interests), rtol=1e-8)


def test_the_auxiliary_loss_tells_the_next_id_from_another() -> None:
    case = Histories({**NODE, "negative_features": ["others"]})
    losses = []
    for ids, others in zip(LISTS, OTHERS, strict=True):
        states = gru(case, case.table[ids], np.ones(len(ids)), "extract.0")
        for h, after, other in zip(states, ids[1:], others[1:], strict=False):
            if after != other:
                right, wrong = sigmoid(h @ case.table[after]), sigmoid(h @ case.table[other])
                losses.append(-np.log(right) - np.log(1 - wrong))
    assert len(losses) == 5, "one of the six others is the next id itself"
    loss = case.model.train()(case.features())["auxiliary"]
    assert loss.item() == pytest.approx(0.5 * np.mean(losses))


def test_other_ids_are_drawn_in_training_alone() -> None:
    case = Histories(NODE)
    assert case.model(case.features())["auxiliary"].item() == 0
    case.model.train()
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(case.model(case.features())["auxiliary"].item())
    assert losses[0] == losses[1] != losses[2]
    assert losses[0] > 0


def test_without_the_auxiliary_loss_there_is_one_output() -> None:
    case = Histories({**NODE, "auxiliary_weight": 0})
    assert list(case.model.train()(case.features())) == ["logit"]
    assert [output.name for output in case.model.outputs] == ["logit"]


def test_histories_and_other_ids_come_in_pairs() -> None:
    with pytest.raises(ConfigError, match=r"negative_features.*1 names.*Got: 0"):
        Histories({**NODE, "negative_features": []})


@pytest.mark.parametrize("is_weighted", [True, False])
def test_the_gradient_of_a_recurrence_is_that_of_its_states(is_weighted: bool) -> None:
    torch.manual_seed(0)
    layer = AttentionalGRU(2).double()
    mask = torch.arange(3) < torch.tensor([[2], [0], [3], [2]])
    weights = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    given = (torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True), weights, *layer.parameters())

    def states(x: Any, a: Any, *_: Any) -> Any:
        every, last = layer(x, mask, a * mask if is_weighted else None)
        return every * mask.unsqueeze(2), last

    assert torch.autograd.gradcheck(states, given)
