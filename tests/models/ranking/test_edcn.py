from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import softmax

NODE = {"name": "edcn", "embedding_dim": 2, "num_cross_layers": 2, "activation": "tanh", "temperature": 2.0}
FIELDS = [0, 0, 1, 1, 2, 2, 3, 4, 4]  # of each column: three embeddings of width 2, a number, a list of two


def bridge(case: Any, i: int, explicit: Any, implicit: Any, kind: str) -> Any:
    if kind == "hadamard_product":
        return explicit * implicit
    if kind == "pointwise_addition":
        return explicit + implicit
    if kind == "concatenation":
        return np.maximum(case.layer(np.concatenate([explicit, implicit], 1), f"bridges.{i}.joined"), 0)
    scores = [
        np.maximum(case.layer(x, f"bridges.{i}.scores.{k}.0"), 0) @ case.state[f"bridges.{i}.scores.{k}.2.weight"].T
        for k, x in enumerate([explicit, implicit])
    ]
    weights = softmax(np.stack(scores), 0)
    return weights[0] * explicit + weights[1] * implicit


@pytest.mark.parametrize("regulation", [True, False])
@pytest.mark.parametrize("kind", ["hadamard_product", "pointwise_addition", "concatenation", "attention_pooling"])
def test_layers_exchange_what_they_found(by_hand: Any, kind: str, regulation: bool) -> None:
    case = by_hand({**NODE, "bridge_type": kind, "regulation": regulation})
    found, first = case.x, None
    for i in range(2):
        explicit = implicit = found
        if regulation:
            gates = softmax(case.state[f"gates.{i}.logits"] / 2, 1)[:, FIELDS]
            assert np.ptp(gates[0]) > 0.01, "no constant"
            explicit, implicit = found * gates[0], found * gates[1]
        first = explicit if first is None else first
        explicit = first * (explicit @ case.state[f"cross.{i}.weight"].T) + case.state[f"biases.{i}"] + explicit
        implicit = np.tanh(case.layer(implicit, f"deep.{i}.0"))
        found = bridge(case, i, explicit, implicit, kind)
    joined = np.concatenate([explicit, implicit, found], 1)
    np.testing.assert_allclose(case.logit, case.layer(joined, "output")[:, 0], rtol=1e-8)


def test_gates_are_batch_normalised(by_hand: Any) -> None:
    case = by_hand({**NODE, "batch_norm": True, "num_cross_layers": 1})
    gates = softmax(case.state["gates.0.logits"] / 2, 1)[:, FIELDS]
    explicit, implicit = (
        case.x * gates[k] / np.sqrt(1 + 1e-5) * case.state[f"gates.0.norms.{k}.weight"]
        + case.state[f"gates.0.norms.{k}.bias"]
        for k in range(2)
    )
    explicit = explicit * (explicit @ case.state["cross.0.weight"].T) + case.state["biases.0"] + explicit
    implicit = np.tanh(case.layer(implicit, "deep.0.0"))
    joined = np.concatenate([explicit, implicit, explicit * implicit], 1)
    np.testing.assert_allclose(case.logit, case.layer(joined, "output")[:, 0], rtol=1e-8)
