from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences
from rechub_ray.errors import SchemaError
from rechub_ray.layers.embedding import EmbeddingBank, tables_of
from rechub_ray.schema import DenseFeature, Feature, Label, Schema, SequenceFeature, SparseFeature

FEATURES: tuple[Feature, ...] = (
    SparseFeature("user", 50),
    DenseFeature("age"),
    SequenceFeature("history", 20, max_length=4, shared_with="item"),
    SparseFeature("item", 20),
    SequenceFeature("tags", 9, max_length=3, pooling="sum"),
)
SCHEMA = Schema(FEATURES, (Label("click"),))
SPARSE = [[49, 3], [0, 3], [7, 19]]
HISTORY = [[3, 19, 3], [], [5]]
TAGS = [[8], [1, 1], []]


def batch(*, padded: bool = False, schema: Schema = SCHEMA) -> Features:
    lists = {"history": HISTORY, "tags": TAGS}
    chosen = [lists[f.name] for f in schema.sequences]
    sequences: RaggedSequences | PaddedSequences
    if padded:
        longest = [max(len(ids) for ids in lists) + 1 for lists in chosen]  # one column of nothing but padding
        sequences = PaddedSequences(
            tuple(
                torch.tensor([ids + [-1] * (length - len(ids)) for ids in lists])
                for lists, length in zip(chosen, longest, strict=True)
            )
        )
    else:
        values = [i for lists in chosen for ids in lists for i in ids]
        lengths = [len(ids) for lists in chosen for ids in lists]
        sequences = RaggedSequences(torch.tensor(values), torch.tensor(np.cumsum([0, *lengths])))
    return Features(torch.tensor(SPARSE), torch.zeros(3, 1), sequences)


def tables(bank: EmbeddingBank) -> dict[str, np.ndarray]:
    """The tables apart, cut out by hand: item and history share one."""
    weight = bank.weights["4"].detach().numpy()
    user, item, tags = weight[:50], weight[50:70], weight[70:79]
    return {"user": user, "item": item, "history": item, "tags": tags}


def expected(bank: EmbeddingBank) -> np.ndarray:
    table = tables(bank)
    rows = []
    for (user, item), history, tags in zip(SPARSE, HISTORY, TAGS, strict=True):
        mean = table["history"][history].mean(0) if history else np.zeros(4)
        rows.append([table["user"][user], table["item"][item], mean, table["tags"][tags].sum(0)])
    return np.array(rows)


@pytest.fixture
def bank() -> EmbeddingBank:
    torch.manual_seed(0)
    return EmbeddingBank(SCHEMA, dim=4, init_std=1.0)


@pytest.mark.parametrize("padded", [False, True])
def test_vectors_are_the_rows_of_each_feature(bank: EmbeddingBank, padded: bool) -> None:
    assert bank.weights["4"].shape == (79, 4)
    assert [f.name for f in bank.features] == ["user", "item", "history", "tags"]
    np.testing.assert_allclose(bank(batch(padded=padded)).detach(), expected(bank), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(bank.flat(batch(padded=padded)).detach(), expected(bank).reshape(3, -1), rtol=1e-6)


@pytest.mark.parametrize("padded", [False, True])
def test_sequence_before_pooling(bank: EmbeddingBank, padded: bool) -> None:
    vectors, mask = bank.sequence(batch(padded=padded), "history")
    longest = 4 if padded else 3
    assert vectors.shape == (3, longest, 4)
    for row, ids in enumerate(HISTORY):
        assert mask[row].tolist() == [True] * len(ids) + [False] * (longest - len(ids))
        assert np.array_equal(vectors[row, : len(ids)].detach(), tables(bank)["history"][ids])
        assert vectors[row, len(ids) :].eq(0).all()


def test_sequences_that_are_all_empty(bank: EmbeddingBank) -> None:
    nothing = RaggedSequences(torch.empty(0, dtype=torch.int64), torch.zeros(7, dtype=torch.int64))
    features = Features(torch.tensor(SPARSE), torch.zeros(3, 1), nothing)
    bank.sparse_grad = True
    assert bank(features)[:, 2:].eq(0).all()
    vectors, mask = bank.sequence(features, "tags")
    assert vectors.shape == (3, 1, 4)
    assert not mask.any()
    (bank(features).sum() + vectors.sum()).backward()
    assert bank.weights["4"].grad is not None


def losses(bank: EmbeddingBank, features: Features) -> Tensor:
    """Something that reaches the table by lookup, by pooling and by a sequence, each with its own factor."""
    torch.manual_seed(1)
    vectors, _ = bank.sequence(features, "history")
    stacked = bank(features)
    return (stacked * torch.randn_like(stacked)).sum() + (vectors * torch.randn_like(vectors)).sum()


@pytest.mark.parametrize("sparse_grad", [False, True])
def test_gradients_are_those_of_plain_indexing(bank: EmbeddingBank, sparse_grad: bool) -> None:
    bank.sparse_grad = sparse_grad
    losses(bank, batch()).backward()
    gradient = bank.weights["4"].grad
    assert gradient is not None
    assert gradient.is_sparse == sparse_grad

    weight = bank.weights["4"].detach().clone().requires_grad_()
    users, items = weight[[49, 0, 7]], weight[50:][[3, 3, 19]]
    histories = [weight[50:][ids] for ids in HISTORY]
    pooled = torch.stack([rows.mean(0) if len(rows) else rows.sum(0) for rows in histories])
    tags = torch.stack([weight[70:][ids].sum(0) for ids in TAGS])
    padded = torch.stack([nn.functional.pad(rows, (0, 0, 0, 3 - len(rows))) for rows in histories])
    torch.manual_seed(1)
    stacked = torch.stack([users, items, pooled, tags], 1)
    ((stacked * torch.randn_like(stacked)).sum() + (padded * torch.randn_like(padded)).sum()).backward()
    torch.testing.assert_close(gradient.to_dense(), weight.grad)


def test_a_sparse_gradient_holds_the_rows_looked_up_and_no_others(bank: EmbeddingBank) -> None:
    bank.sparse_grad = True
    losses(bank, batch()).backward()
    gradient = bank.weights["4"].grad
    assert gradient is not None
    # 6 sparse ids, 7 ids pooled, 4 of them once more as a sequence: padding adds no row
    assert gradient._nnz() <= 6 + 7 + 4
    touched = {49, 0, 7, 50 + 3, 50 + 19, 50 + 5, 70 + 8, 70 + 1}
    assert set(gradient._indices()[0].tolist()) == touched


def test_gradients_accumulate_over_backward_calls(bank: EmbeddingBank) -> None:
    bank.sparse_grad = True
    losses(bank, batch()).backward()
    once = torch.as_tensor(bank.weights["4"].grad).to_dense()
    losses(bank, batch()).backward()
    torch.testing.assert_close(torch.as_tensor(bank.weights["4"].grad).to_dense(), 2 * once)


def test_nothing_as_large_as_the_table_is_made_in_a_sparse_step() -> None:
    schema = Schema((SparseFeature("user", 200_000), SequenceFeature("history", 200_000)), (Label("click"),))
    bank = EmbeddingBank(schema, dim=8)
    bank.sparse_grad = True
    features = Features(
        torch.randint(0, 200_000, (64, 1)),
        torch.zeros(64, 0),
        RaggedSequences(torch.randint(0, 200_000, (128,)), torch.arange(65) * 2),
    )
    with torch.profiler.profile(profile_memory=True) as profiler:
        (bank(features).square().sum() + bank.sequence(features, "history")[0].sum()).backward()
    largest = max(abs(event.cpu_memory_usage) for event in profiler.events() or [])
    assert 0 < largest < 200_000


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("ids", [None, [[3, 3], [0, 19]]])
def test_rows_of_a_table(bank: EmbeddingBank, by_rows: bool, ids: list[list[int]] | None) -> None:
    bank.sparse_grad = by_rows
    chosen = list(range(20)) if ids is None else ids
    rows = bank.rows("history", None if ids is None else torch.tensor(ids))
    assert np.array_equal(rows.detach(), tables(bank)["item"][chosen])
    factors = torch.randn_like(rows)
    ((rows * factors).sum() + losses(bank, batch())).backward()
    gradient = bank.weights["4"].grad
    assert gradient is not None
    assert gradient.is_sparse == by_rows
    bank.weights["4"].grad = None
    losses(bank, batch()).backward()
    weight = bank.weights["4"].detach().clone().requires_grad_()
    (weight[50:70][torch.tensor(chosen)] * factors).sum().backward()
    torch.testing.assert_close(gradient.to_dense(), bank.weights["4"].grad.to_dense() + weight.grad)


def test_a_whole_table_is_not_copied(bank: EmbeddingBank) -> None:
    for bank.sparse_grad in (True, False):
        assert bank.rows("item").data_ptr() == bank.weights["4"][50].data_ptr()
        with torch.no_grad():
            bank.rows("item")[19] = 5.0
    assert bank.weights["4"][69].eq(5).all()
    with pytest.raises(SchemaError, match=r"no embedding of 'itm'.*'item'"):
        bank.rows("itm")


def test_widths_differ() -> None:
    schema = Schema(
        (SparseFeature("user", 50), SparseFeature("item", 20, embed_dim=2), FEATURES[2], FEATURES[4]),
        (Label("click"),),
    )
    torch.manual_seed(0)
    bank = EmbeddingBank(schema, dim=4, init_std=1.0)
    assert {name: tuple(weight.shape) for name, weight in bank.named_parameters()} == {
        "weights.4": (59, 4),
        "weights.2": (20, 2),
    }
    assert (bank.widths, bank.flat_dim) == ((4, 2, 2, 4), 12)
    flat = bank.flat(batch(schema=schema)).detach().numpy()
    wide, narrow = bank.weights["4"].detach().numpy(), bank.weights["2"].detach().numpy()
    for row, ((user, item), history, tags) in enumerate(zip(SPARSE, HISTORY, TAGS, strict=True)):
        mean = narrow[history].mean(0) if history else np.zeros(2)
        parts = [wide[user], narrow[item], mean, wide[50:][tags].sum(0)]
        np.testing.assert_allclose(flat[row], np.concatenate(parts), rtol=1e-6)
    np.testing.assert_allclose(bank.flat(batch(padded=True, schema=schema)).detach(), flat, rtol=1e-6)
    assert bank.sequence(batch(schema=schema), "history")[0].shape == (3, 3, 2)
    with pytest.raises(SchemaError, match=r"one width.*item: 2"):
        bank(batch(schema=schema))


def test_a_first_order_term_has_width_one_whatever_the_schema_says() -> None:
    schema = Schema((SparseFeature("user", 50, embed_dim=8), SparseFeature("item", 20)), (Label("click"),))
    assert EmbeddingBank(schema, dim=1).widths == (1, 1)


@pytest.mark.parametrize("by_rows", [True, False])
@pytest.mark.parametrize("names", [["a", "b"], ["b"], ["a", "c"], ["d", "a"]])
def test_the_sum_of_a_first_order_term(by_rows: bool, names: list[str]) -> None:
    """Fast or not, in training and in evaluation: the numbers and the gradients of summing what `flat` gives."""
    schema = Schema(
        (
            SparseFeature("a", 50),
            SparseFeature("b", 7),
            SparseFeature("d", 50, shared_with="a"),
            SequenceFeature("c", 9),
        ),
        (Label("click"),),
    )
    bank = EmbeddingBank(schema, dim=1, features=names, init_std=1.0)
    bank.sparse_grad = by_rows
    torch.manual_seed(0)
    features = Features(
        torch.stack([torch.randint(0, size, (600,)) for size in (50, 7, 50)], 1),
        torch.zeros(600, 0),
        RaggedSequences(torch.randint(0, 9, (1200,)), torch.arange(601) * 2),
    )
    upstream = torch.randn(600)
    gradients = []
    for total in (bank.sum(features), bank.flat(features).sum(1)):
        bank.zero_grad()
        total.backward(upstream)
        gradients.append(bank.weights["1"].grad.to_dense())
        torch.testing.assert_close(total, bank.flat(features).sum(1))
    torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(bank.sum(features), bank.flat(features).sum(1))
    with pytest.raises(IndexError):
        bank.sum(dataclasses.replace(features, sparse=features.sparse + 100))


def test_some_features_only() -> None:
    torch.manual_seed(0)
    bank = EmbeddingBank(SCHEMA, dim=4, features=["tags", "item"], init_std=1.0)
    assert [f.name for f in bank.features] == ["item", "tags"]
    weight = bank.weights["4"].detach().numpy()
    vectors = bank(batch()).detach().numpy()
    for row, ((_, item), tags) in enumerate(zip(SPARSE, TAGS, strict=True)):
        np.testing.assert_allclose(vectors[row], [weight[item], weight[20:][tags].sum(0)], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(bank(batch(padded=True)).detach(), vectors, rtol=1e-6)


def test_a_shared_table_without_its_owner() -> None:
    bank = EmbeddingBank(SCHEMA, dim=4, features=["history"])
    assert bank.weights["4"].shape == (20, 4)
    assert bank(batch()).shape == (3, 1, 4)


def test_no_features_to_embed() -> None:
    bank = EmbeddingBank(SCHEMA, dim=4, features=[])
    assert bank.flat(batch()).shape == (3, 0)
    with pytest.raises(SchemaError, match="no sparse or sequence feature"):
        bank(batch())


def test_initial_rows() -> None:
    torch.manual_seed(0)
    weight = EmbeddingBank(Schema((SparseFeature("user", 10_000),), (Label("y"),)), dim=16).weights["16"]
    assert weight.mean().abs().item() < 1e-6
    assert weight.std().item() == pytest.approx(1e-4, rel=0.01)


def test_builds_on_the_meta_device() -> None:
    with torch.device("meta"):
        bank = EmbeddingBank(SCHEMA, dim=4)
    assert bank.weights["4"].is_meta
    assert bank.weights["4"].shape == (79, 4)


def test_bfloat16_autocast_keeps_rows_and_gradients_in_float32(bank: EmbeddingBank) -> None:
    bank.sparse_grad = True
    layer = nn.Linear(16, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flat = bank.flat(batch())
        output = layer(flat)
    assert flat.dtype == torch.float32
    assert output.dtype == torch.bfloat16
    output.float().sum().backward()
    gradient = torch.as_tensor(bank.weights["4"].grad)
    assert gradient.is_sparse
    assert gradient.dtype == torch.float32
    np.testing.assert_allclose(
        gradient.to_dense()[49], layer.weight[0, :4].detach().bfloat16().float(), rtol=1e-2, atol=1e-3
    )


def test_tables_by_parameter_name(bank: EmbeddingBank) -> None:
    model = nn.ModuleDict({"deep": bank, "other": nn.Embedding(3, 2)})
    assert tables_of(model) == {"deep.weights.4": (bank, "4")}
    assert tables_of(bank) == {"weights.4": (bank, "4")}


def test_features_that_do_not_fit() -> None:
    with pytest.raises(SchemaError, match=r"no feature 'itm' to embed.*'item'"):
        EmbeddingBank(SCHEMA, dim=4, features=["itm"])
    with pytest.raises(SchemaError, match="no feature 'age' to embed"):
        EmbeddingBank(SCHEMA, dim=4, features=["age"])
    with pytest.raises(SchemaError, match=r"no sequence feature 'histoy' to embed.*'history'"):
        EmbeddingBank(SCHEMA, dim=4).sequence(batch(), "histoy")
    twisted = Schema(
        (SparseFeature("item", 20), SequenceFeature("history", 20, shared_with="item", embed_dim=8)), (Label("y"),)
    )
    with pytest.raises(SchemaError, match=r"'history' shares the table of 'item'.*Got: 8"):
        EmbeddingBank(twisted, dim=4)


class Exported(nn.Module):
    """What an ONNX model computes: pooled and unpooled sequences from padded inputs."""

    def __init__(self, bank: EmbeddingBank) -> None:
        super().__init__()
        self.bank = bank

    def forward(self, sparse: Tensor, history: Tensor, tags: Tensor) -> tuple[Tensor, Tensor]:
        features = Features(sparse, sparse.new_zeros(sparse.shape[0], 1).float(), PaddedSequences((history, tags)))
        return self.bank.flat(features), self.bank.sequence(features, "history")[0].sum(1)


@pytest.mark.long  # the contracts of models export such tables
def test_exports_to_onnx_with_dynamic_batch_and_lengths(bank: EmbeddingBank, tmp_path: Path) -> None:
    inputs = {"sparse": torch.tensor(SPARSE), **dict(zip(("history", "tags"), padded_ids(), strict=True))}
    rows = torch.export.Dim("rows", min=1, max=1 << 20)
    shapes = {
        "sparse": {0: rows},
        "history": {0: rows, 1: torch.export.Dim("history_length", min=1, max=1000)},
        "tags": {0: rows, 1: torch.export.Dim("tags_length", min=1, max=1000)},
    }
    torch.onnx.export(
        Exported(bank).eval(),
        kwargs=inputs,
        f=str(tmp_path / "bank.onnx"),
        dynamo=True,
        dynamic_shapes=shapes,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "bank.onnx")
    flat, summed = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    np.testing.assert_allclose(flat, bank.flat(batch()).detach(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(summed, bank.sequence(batch(), "history")[0].sum(1).detach(), rtol=1e-5, atol=1e-6)
    one = {"sparse": SPARSE[:1], "history": [[3, 19, 3, -1, -1, -1, -1]], "tags": [[8]]}
    flat, _ = session.run(None, {name: np.array(value) for name, value in one.items()})
    np.testing.assert_allclose(flat, bank.flat(batch()).detach()[:1], rtol=1e-5, atol=1e-6)


def padded_ids() -> tuple[Tensor, ...]:
    sequences = batch(padded=True).sequences
    assert isinstance(sequences, PaddedSequences)
    return sequences.ids
