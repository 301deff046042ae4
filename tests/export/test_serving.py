"""What the served model makes of its inputs and outputs."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rechub_ray.batch import Features, Outputs, PaddedSequences
from rechub_ray.errors import ExportError
from rechub_ray.export import ServingModel
from rechub_ray.models.base import Model
from rechub_ray.outputs import Output
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

TWO = (Label("click"), Label("rating", kind="regression"))


class TwoLabels(Model):
    outputs = (
        Output("logit/click", label="click"),
        Output("logit/rating", "value", label="rating"),
        Output("mixture", "vector"),
        Output("balance", "loss"),
    )

    def forward(self, features: Features) -> Outputs:
        score = features.dense.sum(1)
        return {"mixture": features.dense, "logit/rating": score, "logit/click": score, "balance": score.mean()}


def test_inputs_are_stacked_in_schema_order_and_unknown_ids_become_0(schema: Schema) -> None:
    schema = dataclasses.replace(schema, labels=TWO)
    served = ServingModel(TwoLabels(schema), schema, probabilities=True)
    features = served.stack(
        (
            torch.tensor([49, 50, -1]),
            torch.tensor([1.0, 2.0, 3.0]),
            torch.tensor([0, 19, 2**40]),
            torch.tensor([[4.0, 5.0, 6.0]]).repeat(3, 1),
            torch.tensor([[19, 20], [3, -1], [-1, -1]]),
            torch.tensor([[8], [9], [-1]]),
        )
    )
    assert features.sparse.tolist() == [[49, 0], [0, 19], [0, 0]]
    assert features.dense.tolist() == [[1, 4, 5, 6], [2, 4, 5, 6], [3, 4, 5, 6]]
    assert isinstance(features.sequences, PaddedSequences)
    assert [ids.tolist() for ids in features.sequences.ids] == [[[19, 0], [3, -1], [-1, -1]], [[8], [0], [-1]]]


@pytest.mark.parametrize("probabilities", [True, False])
def test_each_output_is_served_by_its_kind_and_losses_never(probabilities: bool) -> None:
    schema = Schema((DenseFeature("x", dim=2),), TWO)
    served = ServingModel(TwoLabels(schema), schema, probabilities=probabilities)
    click, rating, mixture = served(torch.tensor([[1.0, 2.0]]))
    names = ["probability/click", "value/rating"] if probabilities else ["logit/click", "logit/rating"]
    assert [port.name for port in served.outputs] == [*names, "mixture"]
    assert click.item() == pytest.approx(1 / (1 + 2.718281828459045**-3) if probabilities else 3.0)
    assert rating.item() == 3.0
    assert mixture.tolist() == [[1.0, 2.0]]


def test_ports_say_names_types_and_shapes(schema: Schema) -> None:
    schema = dataclasses.replace(schema, labels=TWO)
    served = ServingModel(TwoLabels(schema), schema, probabilities=True)
    assert [(port.name, port.dtype, port.shape) for port in served.inputs] == [
        ("user", "int64", ("batch",)),
        ("age", "float32", ("batch",)),
        ("item", "int64", ("batch",)),
        ("vector", "float32", ("batch", 3)),
        ("history", "int64", ("batch", "history_length")),
        ("tags", "int64", ("batch", "tags_length")),
    ]


def test_lengths_of_features_with_odd_names_stay_apart() -> None:
    features = (SequenceFeature("a b", 3), SequenceFeature("a-b", 3), SparseFeature("日本", 3))
    schema = Schema(features, TWO)
    served = ServingModel(TwoLabels(schema), schema, probabilities=True)
    assert [port.shape[1:] for port in served.inputs] == [("sequence_0_length",), ("sequence_1_length",), ()]


def test_a_feature_may_not_have_an_output_s_name() -> None:
    schema = Schema((DenseFeature("mixture"),), TWO)
    with pytest.raises(ExportError, match="'mixture' has the name of an output"):
        ServingModel(TwoLabels(schema), schema, probabilities=True)


def test_a_schema_without_features_is_refused() -> None:
    schema = Schema((), TWO)
    with pytest.raises(ExportError, match="no feature"):
        ServingModel(TwoLabels(schema), schema, probabilities=True)
