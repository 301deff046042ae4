from __future__ import annotations

from typing import Any

import numpy as np
import pytest

NODE = {"name": "stem", "num_experts": 2, "num_shared_experts": 3, "expert_units": [4], "tower_units": [5]}
LABELS = ("click", "buy")


def test_each_label_reads_the_experts_of_all_tables(by_hand: Any) -> None:
    case = by_hand(NODE)
    own = {label: case.inputs(f"towers.{label}.embedding") for label in LABELS}
    experts = [expert for label in LABELS for expert in case.experts(own[label], f"towers.{label}.experts")]
    experts += case.experts(case.x, "experts")
    assert len(experts) == 7
    for label in LABELS:
        mixed = case.mixed(own[label] + case.x, f"towers.{label}.gate", experts)
        np.testing.assert_allclose(case.outputs[f"logit/{label}"], case.tower(mixed, label)[:, 0], rtol=1e-9)


@pytest.mark.parametrize("label", LABELS)
def test_a_label_trains_its_own_part_and_the_shared_one(label: str, by_hand: Any) -> None:
    case = by_hand(NODE)
    case.model(case.features)[f"logit/{label}"].sum().backward()
    reached = {name for name, p in case.model.named_parameters() if p.grad is not None}
    other = next(x for x in LABELS if x != label)
    assert reached == {name for name, _ in case.model.named_parameters() if not name.startswith(f"towers.{other}.")}
