from __future__ import annotations

import pytest
import torch

from rechub_ray.errors import ConfigError, SchemaError
from rechub_ray.layers.towers import Towers
from rechub_ray.outputs import Output
from rechub_ray.schema import Label, Schema, SparseFeature

FEATURES = (SparseFeature("user", 5),)
KINDS = Schema(FEATURES, (Label("click"), Label("price", "regression"), Label("s.tars", "multiclass", num_classes=3)))


def test_each_label_has_a_tower_that_ends_in_its_head() -> None:
    torch.manual_seed(0)
    towers = Towers(KINDS, 4, (6,))
    assert [(o.name, o.kind, o.label) for o in towers.outputs] == [
        ("logit/click", "logit", "click"),
        ("value/price", "value", "price"),
        ("classes/s.tars", "classes", "s.tars"),
    ]
    inputs = list(torch.randn(3, 7, 4))
    outputs = towers(inputs)
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "logit/click": (7,),
        "value/price": (7,),
        "classes/s.tars": (7, 3),
    }
    torch.testing.assert_close(outputs["classes/s.tars"], towers.each[2]["mlp"](inputs[2]))
    torch.testing.assert_close(outputs["value/price"], towers.each[1]["mlp"](inputs[1])[:, 0])


def test_all_modules_of_a_label_lie_under_its_name() -> None:
    towers = Towers(KINDS, 4, ())
    for tower in towers.each:
        tower["gate"] = torch.nn.Linear(4, 2, bias=False)
    names = [name for name, _ in towers.named_parameters() if name.startswith("s_tars.")]
    assert names == ["s_tars.mlp.0.weight", "s_tars.mlp.0.bias", "s_tars.gate.weight"]


def test_one_labels_output_needs_no_name_and_heads_are_checked() -> None:
    schema = Schema(FEATURES, (Label("click"),))
    assert Towers(schema, 4, ()).outputs == (Output("logit", "logit", "click"),)
    assert Towers(schema, 4, (), heads={"click": "value"}).outputs == (Output("value", "value", "click"),)
    with pytest.raises(ConfigError, match="no label 'klick'"):
        Towers(schema, 4, (), heads={"klick": "value"})
    with pytest.raises(ConfigError, match="binary cannot have a head of kind distribution"):
        Towers(schema, 4, (), heads={"click": "distribution"})
    with pytest.raises(SchemaError):
        Towers(Schema(FEATURES, ()), 4, ())


def test_a_label_may_be_called_as_a_method_of_modules_or_as_another_one_with_a_dot() -> None:
    names = ("type", "values", "outputs", "training", "a.b", "a_b")
    towers = Towers(Schema(FEATURES, tuple(Label(name) for name in names)), 4, ())
    assert list(towers.keys()) == ["type_", "values_", "outputs_", "training_", "a_b", "a_b_"]
    assert list(towers([torch.zeros(2, 4)] * 6)) == [f"logit/{name}" for name in names]


@pytest.mark.parametrize(("hidden", "inputs"), [((64,), 64), ((), 4)])
def test_first_predictions_are_small(hidden: tuple[int, ...], inputs: int) -> None:
    torch.manual_seed(0)
    for tower in Towers(KINDS, 4, hidden).each:
        last = tower["mlp"][-1]
        assert last.weight.shape[1] == inputs
        assert inputs**-0.5 * 0.3 < last.weight.abs().max() <= inputs**-0.5
        assert not last.bias.any()
