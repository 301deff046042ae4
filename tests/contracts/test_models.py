"""What every registered model must hold, whatever it computes."""

from __future__ import annotations

import copy
import dataclasses
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features, PaddedSequences
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.models import MODELS, Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.outputs import check_outputs
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature
from rechub_ray.task import Task
from tests import random_features
from tests.random_features import in_float64, ragged, take

SCHEMA = Schema(
    features=(
        SparseFeature("user", 50),
        DenseFeature("age"),
        SparseFeature("item", 30),
        SequenceFeature("history", 30, max_length=6, shared_with="item"),
        DenseFeature("profile", dim=3),
        SparseFeature("city", 7),
        SequenceFeature("tags", 11, max_length=3, pooling="sum"),
    ),
    labels=(Label("click"),),
)
SEVERAL = dataclasses.replace(SCHEMA, labels=(Label("click"), Label("cart"), Label("buy")))

# arguments beside the defaults, one list a model: every structure that a model has is a case of its own
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "deepfm": [{"batch_norm": True}, {"fm_features": ["user", "city", "age"], "deep_features": ["item", "history"]}],
    "dcn_v2": [
        {"structure": "stacked", "batch_norm": True},
        {"structure": "crossnet_only"},
        {"low_rank": 4},
        {"low_rank": 4, "num_experts": 3},
    ],
    "aitm": [{"batch_norm": True, "calibrator_weight": 0}],
    "afn": [{"hidden_units": [16]}],
    "autoint": [{"hidden_units": [16], "layer_norm": True, "scale": True}],
    "bst": [{"num_layers": 2}],
    "deepffm": [{"product": "inner"}],
    "destine": [{"residual": "last_layer", "hidden_units": [16]}],
    "dien": [{"auxiliary_weight": 0}],
    "din": [{"attention_softmax": True}],
    "dlrm": [{"interaction": "cat"}, {"deep_features": ["user", "history"]}],
    "edcn": [{"bridge_type": "attention_pooling", "batch_norm": True}, {"regulation": False}],
    "esmm": [{"batch_norm": True, "bottom_units": [32]}],
    "fibinet": [{"bilinear_type": "field_each"}],
    "finalmlp": [{"first_gate_features": ["user"], "num_heads": 4}],
    "finalnet": [{"num_blocks": 2, "field_gate": True, "batch_norm": True}],
    "fmfm": [{"interaction": "vector"}],
    "fwfm": [{"linear": "felv"}, {"linear": "lw"}],
    "masknet": [{"structure": "serial"}],
    "mlp": [{"batch_norm": True}, {"activation": "prelu", "deep_features": ["profile"]}],
    "mmoe": [{"batch_norm": True, "expert_units": []}],
    "pnn": [{"product": "both"}],
    "ple": [{"batch_norm": True, "num_layers": 3, "num_experts": 1}, {"num_layers": 1, "expert_units": [16, 8]}],
    "sim": [{"keep": 2}],
    "stem": [{"batch_norm": True, "num_experts": 2, "deep_features": ["user", "history"]}],
    "xdeepfm": [{"hidden_units": []}],
    "wide_deep": [{"wide_features": ["tags", "profile"], "deep_features": ["user", "age"]}],
}
CASES = [
    pytest.param({"name": name, **arguments}, id="-".join([name, *(f"{k}={v}" for k, v in arguments.items())]))
    for name in MODELS.names()
    if not issubclass(MODELS.get(name), Retriever)
    for arguments in [{}, *VARIANTS.get(name, [])]
]


def schema_of(node: dict[str, Any]) -> Schema:
    """One label, or the steps of a chain for a multi-task model."""
    return SEVERAL if ".multi_task." in MODELS.get(node["name"]).__module__ else SCHEMA


def build(node: dict[str, Any], *, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return MODELS.build(node, schema_of(node))


def draw(rows: int, *, seed: int = 1) -> Features:
    return random_features.draw(SCHEMA, rows, seed=seed)


def batch(features: Features, labels: int) -> Batch:
    """Rows of which each label can be 1 only where the one before is."""
    generator = torch.Generator().manual_seed(7)
    targets = torch.randint(0, 2, (features.rows, labels), generator=generator).float()
    return Batch(features, targets.cumprod(1))


def total(model: Model, features: Features) -> Tensor:
    """A scalar that depends on every output, by random factors."""
    generator = torch.Generator().manual_seed(3)
    outputs = model(features)
    return torch.stack([(o * torch.randn(o.shape, generator=generator)).sum() for o in outputs.values()]).sum()


@pytest.mark.parametrize("node", CASES)
def test_outputs_have_their_names_one_entry_a_row_and_are_finite(node: dict[str, Any]) -> None:
    model = build(node)
    for rows in (1, 5):
        outputs = model.eval()(ragged(draw(rows)))
        check_outputs(model.outputs, outputs, rows, model=node["name"])
        for output in outputs.values():
            assert output.dtype == torch.float32
            assert torch.isfinite(output).all()


@pytest.mark.parametrize("node", CASES)
def test_every_parameter_gets_a_gradient(node: dict[str, Any]) -> None:
    model = build(node)
    total(model, ragged(draw(64))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # in front of batch norm, a bias has no effect: its gradient is rounding alone
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("node", CASES)
def test_rows_are_independent_in_evaluation(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.3}).eval().double()
    features, rows = in_float64(draw(9)), torch.tensor([4, 0, 7])
    whole, part = model(features), model(take(features, rows))
    for name in [output.name for output in model.outputs if output.kind != "loss"]:
        torch.testing.assert_close(part[name], whole[name][rows])


@pytest.mark.parametrize("node", CASES)
def test_ragged_and_padded_sequences_give_the_same(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.3}).eval().double()
    features = in_float64(draw(9))
    padded, compact = model(features), model(ragged(features))
    for name in padded:
        torch.testing.assert_close(padded[name], compact[name])


@pytest.mark.parametrize("node", CASES)
def test_state_makes_the_round_trip_exactly(node: dict[str, Any]) -> None:
    model, other = build(node), build(node, seed=1)
    total(model, draw(32))  # in training: batch norm's running statistics move
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    features = draw(8)
    for name, output in model.eval()(features).items():
        assert torch.equal(output, other.eval()(features)[name])


@pytest.mark.parametrize("node", CASES)
def test_no_two_tables_start_with_the_same_rows(node: dict[str, Any]) -> None:
    """Banks of one width need names of their own: the rows of a table depend on its bank's name, not on its place."""
    banks = [bank for bank in build(node).modules() if isinstance(bank, EmbeddingBank)]
    tables = [(bank.name, table.name, table.width) for bank in banks for table in bank.tables.values()]
    assert len(set(tables)) == len(tables)


@pytest.mark.parametrize("node", CASES)
def test_it_is_deterministic_and_reads_torchs_generator_alone(node: dict[str, Any]) -> None:
    results = []
    for _ in range(2):
        model = build(node)
        torch.manual_seed(5)
        results.append(total(model, ragged(draw(16))))
    assert torch.equal(*results)


@pytest.mark.parametrize("node", CASES)
def test_two_models_share_nothing(node: dict[str, Any]) -> None:
    first, second = build(node), build(node)
    before = copy.deepcopy(second.state_dict())
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(1)
    for name, value in second.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("node", CASES)
def test_unseen_ids_and_empty_lists_survive(node: dict[str, Any]) -> None:
    model = build(node)
    sequences = PaddedSequences(tuple(torch.full((4, 2), -1) for _ in SCHEMA.sequences))
    features = Features(torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 4), sequences)
    for form in (features, ragged(features)):
        value = total(model, form)
        value.backward()
        assert torch.isfinite(value)
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("node", CASES)
def test_it_is_built_on_the_meta_device(node: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = MODELS.build(node, schema_of(node))
    assert all(p.is_meta for p in model.parameters())
    real = build(node)
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}


@pytest.mark.parametrize("node", CASES)
def test_it_runs_under_bfloat16_autocast(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.1})
    features = ragged(draw(32))
    exact = {name: output.detach() for name, output in build({**node, "init_std": 0.1})(features).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(features)
    for name, output in outputs.items():
        torch.testing.assert_close(output.float(), exact[name], rtol=0.1, atol=0.1)
    torch.stack([output.float().sum() for output in outputs.values()]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("node", CASES)
def test_it_overfits_64_rows(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.01})
    labels = model.schema.labels
    rows = batch(ragged(draw(64)), len(labels))
    task = Task(model, model.schema, [{"name": "bce", "label": label.name} for label in labels])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    first = task(rows).total.item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = task(rows).total
        if loss.item() < 0.3 * first:  # well below the bound
            break
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.35 * first
