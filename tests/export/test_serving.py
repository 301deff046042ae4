"""What the served model makes of its inputs and outputs."""

from __future__ import annotations

import pytest
import torch

from rechub_ray.batch import Features, Outputs, PaddedSequences
from rechub_ray.errors import ExportError
from rechub_ray.export import ServingModel
from rechub_ray.models.base import Model
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature


class TwoLabels(Model):
    output_names = ("logit/click", "logit/rating", "mixture")

    def forward(self, features: Features) -> Outputs:
        score = features.dense.sum(1)
        return {"mixture": features.dense, "logit/rating": score, "logit/click": score}


def test_inputs_are_stacked_in_schema_order_and_unknown_ids_become_0(schema: Schema) -> None:
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
def test_only_logits_of_binary_labels_become_probabilities(probabilities: bool) -> None:
    schema = Schema((DenseFeature("x", dim=2),), (Label("click"), Label("rating", kind="regression")))
    served = ServingModel(TwoLabels(schema), schema, probabilities=probabilities)
    click, rating, mixture = served(torch.tensor([[1.0, 2.0]]))
    first = "probability/click" if probabilities else "logit/click"
    assert [port.name for port in served.outputs] == [first, "logit/rating", "mixture"]
    assert click.item() == pytest.approx(1 / (1 + 2.718281828459045**-3) if probabilities else 3.0)
    assert rating.item() == 3.0
    assert mixture.tolist() == [[1.0, 2.0]]


def test_ports_say_names_types_and_shapes(schema: Schema) -> None:
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
    schema = Schema(features, (Label("click"), Label("rating")))
    served = ServingModel(TwoLabels(schema), schema, probabilities=True)
    assert [port.shape[1:] for port in served.inputs] == [("sequence_0_length",), ("sequence_1_length",), ()]


def test_a_feature_may_not_have_an_output_s_name() -> None:
    schema = Schema((DenseFeature("mixture"),), (Label("click"), Label("rating")))
    with pytest.raises(ExportError, match="'mixture' has the name of an output"):
        ServingModel(TwoLabels(schema), schema, probabilities=True)


def test_a_schema_without_features_is_refused() -> None:
    schema = Schema((), (Label("click"), Label("rating")))
    with pytest.raises(ExportError, match="no feature"):
        ServingModel(TwoLabels(schema), schema, probabilities=True)
