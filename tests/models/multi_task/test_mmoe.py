from __future__ import annotations

from typing import Any

import numpy as np

NODE = {"name": "mmoe", "num_experts": 3, "expert_units": [4], "tower_units": [5]}


def test_each_label_mixes_the_same_experts_by_its_own_gate(by_hand: Any) -> None:
    case = by_hand(NODE)
    experts = case.experts(case.x, "experts")
    assert len(experts) == 3
    for label in ("click", "buy"):
        mixed = case.mixed(case.x, f"towers.{label}.gate", experts)
        np.testing.assert_allclose(case.outputs[f"logit/{label}"], case.tower(mixed, label)[:, 0], rtol=1e-10)


def test_gates_stay_plain_where_experts_and_towers_are_normalised_and_dropped(by_hand: Any) -> None:
    names = by_hand({**NODE, "batch_norm": True, "dropout": 0.5}).model.state_dict()
    assert "experts.1.running_mean" in names
    assert [name for name in names if ".gate." in name] == [f"towers.{x}.gate.linear.weight" for x in ("click", "buy")]
