"""What every registered model for retrieval must hold, whatever it computes."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

from rechub_ray.batch import Batch, Candidates, Features, PaddedSequences
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.outputs import check_outputs
from rechub_ray.task import Task
from tests.random_features import draw, in_float64, ragged, take
from tests.small_retrieval import SCHEMA

USER, ITEM = SCHEMA.user_side, SCHEMA.item_side

# arguments beside the defaults, one list a model: every structure that a model has is a case of its own
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "dssm": [
        {"batch_norm": True, "similarity": "dot", "linear_end": False},
        {"user_features": ["history"], "item_features": ["genre", "tags"], "item_units": []},
    ],
    "youtube_dnn": [{"batch_norm": True, "similarity": "cosine"}, {"user_features": ["history", "age"]}],
    "comirec_sa": [{"user_features": ["user", "age"], "positions": False, "similarity": "cosine"}],
    "mf": [{"biases": True}],
    "mind": [{"user_features": ["history"], "dynamic_interest": False, "attention_power": None}],
    "sine": [{"prototype_weight": 0.1}],
    "gru4rec": [{"hidden_units": 24, "num_layers": 2}],
    "hstu": [{"similarity": "cosine"}],
    "sasrec": [{"num_heads": 4, "num_blocks": 1}],
}
# a class without a constructor of its own has the towers of another one
NAMES = [n for n in MODELS.names() if issubclass(MODELS.get(n), Retriever) and "__init__" in vars(MODELS.get(n))]
CASES = [
    pytest.param({"name": name, **arguments}, id="-".join([name, *(f"{k}={v}" for k, v in arguments.items())]))
    for name in NAMES
    for arguments in [{}, *VARIANTS.get(name, [])]
]


def build(node: dict[str, Any], *, seed: int = 0) -> Retriever:
    torch.manual_seed(seed)
    model = MODELS.build(node, SCHEMA)
    assert isinstance(model, Retriever)
    return model


def batch(rows: int = 64) -> Batch:
    """Rows with an item each, and a few drawn ones."""
    items = draw(ITEM, rows + 8, seed=2)
    items.sparse[:, 0] = torch.arange(rows + 8) % 60 + 1
    candidates = Candidates(items.sparse[:, 0].clone(), ragged(items), torch.zeros(rows + 8))
    return Batch(ragged(draw(USER, rows)), torch.zeros(rows, 0), candidates=candidates)


def task(model: Retriever) -> Task:
    return Task(model, SCHEMA, ["sampled_softmax"])


@pytest.mark.parametrize("node", CASES)
def test_outputs_have_their_names_and_rows_and_are_finite(node: dict[str, Any]) -> None:
    model = build(node)
    for parameter in model.parameters():  # zeros have no length of 1
        torch.nn.init.normal_(parameter, std=0.3)
    for rows, count in ((1, 4), (5, 1)):
        outputs = model.eval()(ragged(draw(USER, rows)), ragged(draw(ITEM, count)))
        check_outputs(model.outputs, outputs, rows, model=node["name"], items=count)
        assert outputs["user"].shape[-1] == outputs["item"].shape[-1]
        for output, declared in zip(outputs.values(), model.outputs, strict=True):
            assert output.dtype == torch.float32
            assert torch.isfinite(output).all()
            if declared.is_unit:
                length = output.norm(dim=-1)  # a user without any item has nothing to divide
                assert length.max() > 0
                torch.testing.assert_close(length, (length > 0).float())
    assert [*model(ragged(draw(USER, 2)))] == ["user"]


@pytest.mark.parametrize("node", CASES)
def test_every_parameter_gets_a_gradient(node: dict[str, Any]) -> None:
    model = build(node)
    task(model)(batch()).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("node", CASES)
def test_rows_are_independent_in_evaluation(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.3}).eval().double()
    for schema, tower in ((USER, model.user_vectors), (ITEM, model.item_vectors)):
        features, rows = in_float64(draw(schema, 9)), torch.tensor([4, 0, 7])
        torch.testing.assert_close(tower(take(features, rows)), tower(features)[rows])


@pytest.mark.parametrize("node", CASES)
def test_ragged_and_padded_sequences_give_the_same(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.3}).eval().double()
    for schema, tower in ((USER, model.user_vectors), (ITEM, model.item_vectors)):
        features = in_float64(draw(schema, 9))
        torch.testing.assert_close(tower(features), tower(ragged(features)))


@pytest.mark.parametrize("node", CASES)
def test_state_makes_the_round_trip_exactly(node: dict[str, Any]) -> None:
    model, other = build(node), build(node, seed=1)
    task(model)(batch())  # in training: batch norm's running statistics move
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    users, items = draw(USER, 8), draw(ITEM, 8)
    for name, output in model.eval()(users, items).items():
        assert torch.equal(output, other.eval()(users, items)[name])


@pytest.mark.parametrize("node", CASES)
def test_no_two_tables_start_with_the_same_rows(node: dict[str, Any]) -> None:
    banks = [bank for bank in build(node).modules() if isinstance(bank, EmbeddingBank)]
    tables = [(bank.name, table.name, table.width) for bank in banks for table in bank.tables.values()]
    assert len(set(tables)) == len(tables)


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
    rows = []
    for schema in (USER, ITEM):
        sequences = PaddedSequences(tuple(torch.full((4, 2), -1) for _ in schema.sequences))
        zeros = torch.zeros(4, len(schema.sparse), dtype=torch.int64), torch.zeros(4, schema.dense_dim)
        rows.append(ragged(Features(*zeros, sequences)))
    for output in model(*rows).values():
        assert torch.isfinite(output).all()
        output.sum().backward(retain_graph=True)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("node", CASES)
def test_it_is_built_on_the_meta_device(node: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = MODELS.build(node, SCHEMA)
    assert all(p.is_meta for p in model.parameters())
    assert {n: p.shape for n, p in model.named_parameters()} == {n: p.shape for n, p in build(node).named_parameters()}


@pytest.mark.parametrize("node", CASES)
def test_it_runs_under_bfloat16_autocast(node: dict[str, Any]) -> None:
    users, items = ragged(draw(USER, 16)), ragged(draw(ITEM, 16))
    model = build({**node, "init_std": 0.1}).eval()
    exact = {name: output.detach() for name, output in model(users, items).items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(users, items)
    for name, output in outputs.items():
        torch.testing.assert_close(output.float(), exact[name], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("node", CASES)
def test_it_learns_which_items_64_users_chose(node: dict[str, Any]) -> None:
    model = build({**node, "init_std": 0.05})
    rows, trained = batch(), task(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    first = trained(rows).total.item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = trained(rows).total
        if loss.item() < 0.5 * first:  # well below the bound
            break
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.6 * first
