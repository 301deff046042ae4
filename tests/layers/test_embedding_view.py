"""Views look up some features in the same tables, and leave them where they are."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences
from rechub_ray.errors import SchemaError
from rechub_ray.layers.embedding import EmbeddingBank, EmbeddingView, tables_of
from rechub_ray.layers.inputs import DeepInput
from rechub_ray.schema import DenseFeature, Label, Schema, SequenceFeature, SparseFeature

LABELS = (Label("click"),)
SCHEMA = Schema(
    (
        SparseFeature("user", 50),
        DenseFeature("age"),
        SparseFeature("item", 20),
        SequenceFeature("history", 20, max_length=4, shared_with="item"),
        SparseFeature("city", 7, embed_dim=2),
        SequenceFeature("tags", 9, max_length=3, pooling="sum"),
    ),
    LABELS,
)
# what a user tower reads, in another order; the owner of history's table is not there
USERS = Schema(
    (
        SequenceFeature("history", 20, max_length=4),
        SparseFeature("city", 7),
        DenseFeature("age"),
        SparseFeature("user", 50),
    ),
    LABELS,
)
LISTS = RaggedSequences(torch.tensor([3, 19, 3, 5]), torch.tensor([0, 3, 3, 4]))
BATCH = Features(torch.tensor([[6, 49], [0, 0], [1, 7]]), torch.zeros(3, 1), LISTS)


@pytest.fixture
def bank() -> EmbeddingBank:
    torch.manual_seed(0)
    return EmbeddingBank(SCHEMA, dim=4, init_std=1.0)


def expected(bank: EmbeddingBank) -> Tensor:
    """[city, user, mean of the history] by plain indexing of the bank's weights."""
    wide, narrow = bank.weights["4"], bank.weights["2"]
    items = wide[50:70]
    history = torch.stack([items[[3, 19, 3]].mean(0), torch.zeros(4), items[5]])
    return torch.cat([narrow[[6, 0, 1]], wide[[49, 0, 7]], history], 1)


def test_a_view_reads_the_same_tables(bank: EmbeddingBank) -> None:
    view = bank.view(USERS)
    assert [f.name for f in view.features] == ["city", "user", "history"]
    assert (view.widths, view.flat_dim) == ((2, 4, 4), 10)
    torch.testing.assert_close(view.flat(BATCH), expected(bank))
    padded = Features(BATCH.sparse, BATCH.dense, PaddedSequences((torch.tensor([[3, 19, 3], [-1] * 3, [5, -1, -1]]),)))
    torch.testing.assert_close(view.flat(padded), expected(bank))
    vectors, mask = view.sequence(BATCH, "history")
    assert mask.sum(1).tolist() == [3, 0, 1]
    assert torch.equal(vectors[0], bank.weights["4"][[53, 69, 53]])
    assert torch.equal(view.rows("history"), bank.rows("item"))
    some = bank.view(USERS, ["history", "user"])
    torch.testing.assert_close(some(BATCH).flatten(1), expected(bank)[:, 2:])
    assert DeepInput(USERS, view, ["user", "age"])(view.flat(BATCH), BATCH.dense).shape == (3, 5)


def test_items_and_histories_are_read_apart(bank: EmbeddingBank) -> None:
    items = bank.view(Schema((SparseFeature("item", 20),), LABELS))
    assert torch.equal(items.flat(Features(torch.tensor([[4]]), torch.zeros(1, 0))), bank.weights["4"][54:55])
    candidates = bank.view(
        Schema((SparseFeature("candidate", 20, shared_with="item"), SparseFeature("item", 20)), LABELS)
    )
    ids = torch.tensor([[4, 19]])
    assert torch.equal(candidates(Features(ids, torch.zeros(1, 0)))[0], bank.weights["4"][[54, 69]])
    assert torch.equal(bank.view(USERS).view(USERS, ["user"]).rows("user"), bank.rows("user"))


def test_a_table_whose_owner_is_in_the_view_only() -> None:
    bank = EmbeddingBank(SCHEMA, dim=4, features=["history"])
    items = bank.view(Schema((SparseFeature("item", 20),), LABELS))
    assert torch.equal(items.rows("item"), bank.rows("history"))


def test_a_first_order_view_sums() -> None:
    bank = EmbeddingBank(SCHEMA, dim=1, init_std=1.0)
    view = bank.view(USERS, ["user", "city"])
    bank.sparse_grad = True
    total = view.sum(BATCH)
    torch.testing.assert_close(total, view.flat(BATCH).sum(1))
    total.sum().backward()
    assert bank.weights["1"].grad.is_sparse


@pytest.mark.parametrize("by_rows", [True, False])
def test_gradients_flow_into_the_bank(bank: EmbeddingBank, by_rows: bool) -> None:
    bank.sparse_grad = by_rows
    view = bank.view(USERS)
    factors = torch.arange(30.0).view(3, 10)
    ((view.flat(BATCH) * factors).sum() + bank.rows("item", torch.tensor([5])).sum()).backward()
    found = {key: weight.grad for key, weight in bank.weights.items()}
    assert all(gradient.is_sparse == by_rows for gradient in found.values())
    for weight in bank.weights.values():
        weight.grad = None
    ((expected(bank) * factors).sum() + bank.weights["4"][55].sum()).backward()
    for key, weight in bank.weights.items():
        torch.testing.assert_close(found[key].to_dense(), weight.grad)


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bank = EmbeddingBank(SCHEMA, dim=4, init_std=1.0)
        self.users = self.bank.view(USERS)

    def forward(self, sparse: Tensor, history: Tensor) -> Tensor:
        return self.users.flat(
            Features(sparse, sparse.new_zeros(sparse.shape[0], 1).float(), PaddedSequences((history,)))
        )


def test_a_model_holds_its_tables_once() -> None:
    model = TwoTowers()
    names = ["bank.weights.2", "bank.weights.4"]
    assert [name for name, _ in model.named_parameters(remove_duplicate=False)] == names
    assert list(model.state_dict()) == names
    assert list(tables_of(model)) == names
    other = copy.deepcopy(model)
    assert other.users.bank is other.bank
    assert other.bank is not model.bank
    torch.nn.init.zeros_(other.bank.weights["4"])
    assert other.users.flat(BATCH)[:, 2:].eq(0).all()
    assert not model.users.flat(BATCH)[:, 2:].eq(0).all()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    assert torch.equal(other.users.flat(BATCH), model.users.flat(BATCH))
    model.double()
    assert model.users.flat(BATCH).dtype == torch.float64


def test_a_view_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = TwoTowers()
    assert isinstance(model.users, EmbeddingView)
    assert all(buffer.is_meta for buffer in model.users.buffers())


def test_a_view_exports_to_onnx(tmp_path: Path) -> None:
    model = TwoTowers().eval()
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    history = torch.tensor([[3, 19, 3], [-1] * 3, [5, -1, -1]])
    torch.onnx.export(
        model,
        kwargs={"sparse": BATCH.sparse, "history": history},
        f=str(tmp_path / "view.onnx"),
        dynamo=True,
        dynamic_shapes={"sparse": {0: rows}, "history": {0: rows, 1: torch.export.Dim("length", min=1, max=1000)}},
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "view.onnx")
    inputs = {"sparse": BATCH.sparse[:2].numpy(), "history": history[:2].numpy()}
    (flat,) = session.run(None, inputs)
    torch.testing.assert_close(torch.from_numpy(flat), expected(model.bank)[:2].detach())


def test_views_that_do_not_fit(bank: EmbeddingBank) -> None:
    with pytest.raises(SchemaError, match=r"no feature 'usr' to embed.*'user'"):
        bank.view(USERS, ["usr"])
    strange = Schema((SparseFeature("users", 50), SparseFeature("item", 21)), LABELS)
    with pytest.raises(SchemaError, match=r"no embedding of 'users'.*'user'"):
        bank.view(strange, ["users"])
    with pytest.raises(SchemaError, match=r"'item' does not fit the table of 'item'. Expected: vocab_size 20. Got: 21"):
        bank.view(strange)
    nothing = bank.view(Schema((SparseFeature("users", 50),), LABELS))
    assert nothing.flat(Features(torch.tensor([[4]]), torch.zeros(1, 0))).shape == (1, 0)
