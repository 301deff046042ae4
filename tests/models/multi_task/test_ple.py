from __future__ import annotations

from typing import Any

import numpy as np
import pytest

LABELS = ("click", "buy")


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_it_is_the_papers_at_any_number_of_levels(levels: int, by_hand: Any) -> None:
    case = by_hand(
        {
            "name": "ple",
            "num_layers": levels,
            "num_experts": 2,
            "num_shared_experts": 3,
            "expert_units": [4],
            "tower_units": [5],
        }
    )
    own, shared = dict.fromkeys(LABELS, case.x), case.x
    for level in range(levels):
        common = case.experts(shared, f"shared.experts_{level}")
        experts = {x: case.experts(own[x], f"towers.{x}.experts_{level}") for x in LABELS}
        assert [len(common), *(len(one) for one in experts.values())] == [3, 2, 2]
        # a gate reads what its own label, or the shared part, had before this level
        own = {x: case.mixed(own[x], f"towers.{x}.gate_{level}", [*experts[x], *common]) for x in LABELS}
        if level < levels - 1:
            shared = case.mixed(shared, f"shared.gate_{level}", [*experts["click"], *experts["buy"], *common])
    for label in LABELS:
        np.testing.assert_allclose(case.outputs[f"logit/{label}"], case.tower(own[label], label)[:, 0], rtol=1e-9)
    assert f"shared.gate_{levels - 1}.linear.weight" not in case.state


def test_gates_have_no_norm_and_no_bias(by_hand: Any) -> None:
    names = by_hand({"name": "ple", "batch_norm": True, "dropout": 0.5}).model.state_dict()
    gates = [name for name in names if ".gate_" in name]
    assert len(gates) == 5  # one a label and level, and the shared one of the first level
    assert all(name.endswith(".linear.weight") for name in gates)
