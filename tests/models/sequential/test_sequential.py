"""Models of sequences, each against its equations for one row after the other, and what they learn at each position."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch, Features, RaggedSequences
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import batch_from_table
from rechub_ray.errors import ConfigError
from rechub_ray.models import MODELS
from rechub_ray.models.sequential.base import SequentialRetriever
from rechub_ray.negatives.base import uniform_numbers
from rechub_ray.negatives.completer import Completer
from rechub_ray.schema import Items, Schema, SequenceFeature, SparseFeature
from tests.small_sequences import ITEMS, KNOWN, SCHEMA, rows_table

NAMES = ["bert4rec", "gru4rec", "hstu", "sasrec"]
CAUSAL = ["gru4rec", "hstu", "sasrec"]
CPU = torch.device("cpu")


def build(name: str, **arguments: Any) -> SequentialRetriever:
    torch.manual_seed(0)
    model = MODELS.build({"name": name, "embedding_dim": 8, **arguments}, SCHEMA)
    assert isinstance(model, SequentialRetriever)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model.double().eval()


def rows(count: int = 12, seed: int = 1) -> tuple[Features, Tensor, list[list[int]], list[list[int]]]:
    """Features of the user side, the rows' items, and the histories and ages as lists."""
    table = rows_table(np.random.default_rng(seed), count)
    features = batch_from_table(table, SCHEMA.user_side, targets=False).features
    histories, ages = (table[name].to_pylist() for name in ("history", "age"))
    return features, torch.from_numpy(table["item"].to_numpy().astype(np.int64)), histories, ages


def draws(count: int) -> Any:
    return lambda number: uniform_numbers(3, 0, 0, count * number, device=CPU).view(count, number)


def norm(x: Tensor, module: Any) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled: Tensor = centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * module.weight + module.bias


def linear(x: Tensor, module: Any) -> Tensor:
    return x @ module.weight.T + module.bias


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    parts = []
    for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        scores = a @ b.T / math.sqrt(a.shape[1])
        if causal:
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
        parts.append((scores.exp() / scores.exp().sum(1, keepdim=True)) @ c)
    return torch.cat(parts, 1)


def of_sasrec(model: Any, ids: Tensor, ages: Tensor) -> Tensor:
    x = model.look_up(ids) * math.sqrt(8) + model.place[: len(ids)].flip(0)
    for block in model.blocks:
        q, k, v = linear(norm(x, block.attention_norm), block.project).chunk(3, 1)
        x = x + softmax_attention(q, k, v, 2, causal=True)
        x = x + linear(F.relu(linear(norm(x, block.feed_norm), block.inner)), block.outer)
    return norm(x, model.norm)[-1]


def of_bert4rec(model: Any, ids: Tensor, ages: Tensor) -> Tensor:
    ids = ids[-(model.slots - 1) :]
    items = torch.cat([model.look_up(ids), model.mask.unsqueeze(0)])
    x = norm(items + model.place[: len(items)].flip(0), model.norm)
    for block in model.blocks:
        q, k, v = linear(x, block.project).chunk(3, 1)
        x = norm(x + linear(softmax_attention(q, k, v, 2, causal=False), block.join), block.attention_norm)
        x = norm(x + linear(F.gelu(linear(x, block.inner)), block.outer), block.feed_norm)
    return norm(F.gelu(linear(x, model.output)), model.output_norm)[-1]


def of_gru4rec(model: Any, ids: Tensor, ages: Tensor) -> Tensor:
    state = torch.zeros(10, dtype=torch.float64)
    gru = model.gru
    for x in model.look_up(ids):
        inner, outer = gru.weight_ih_l0 @ x + gru.bias_ih_l0, gru.weight_hh_l0 @ state + gru.bias_hh_l0
        (r, z, n), (hr, hz, hn) = inner.chunk(3), outer.chunk(3)
        reset, update = torch.sigmoid(r + hr), torch.sigmoid(z + hz)
        state = (1 - update) * torch.tanh(n + reset * hn) + update * state
    return linear(state, model.project)


def of_hstu(model: Any, ids: Tensor, ages: Tensor) -> Tensor:
    x = model.look_up(ids) * math.sqrt(8) + model.place[: len(ids)].flip(0)
    for layer in model.layers:
        u, v, q, k = F.silu(linear(norm(x, layer.input_norm), layer.input)).split([6, 6, 4, 4], 1)
        found = torch.zeros(len(ids), 6, dtype=torch.float64)
        for head in range(2):
            for i in range(len(ids)):
                for j in range(i + 1):
                    seconds = max(abs(int(ages[i]) - int(ages[j])), 1)
                    bucket = min(math.floor(math.log2(seconds)), 9)
                    score = q[i, 2 * head : 2 * head + 2] @ k[j, 2 * head : 2 * head + 2] / math.sqrt(2)
                    score = score + layer.apart[i - j, head] + layer.time[bucket, head]
                    found[i, 3 * head : 3 * head + 3] += F.silu(score) / 6 * v[j, 3 * head : 3 * head + 3]
        x = x + linear(norm(found, layer.output_norm) * u, layer.output)
    return norm(x, model.norm)[-1]


REFERENCES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sasrec": (of_sasrec, {"num_heads": 2}),
    "bert4rec": (of_bert4rec, {"inner_units": 5}),
    "gru4rec": (of_gru4rec, {"hidden_units": 10}),
    "hstu": (of_hstu, {"attention_dim": 4, "linear_dim": 6, "time_buckets": 10}),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_users_vector_is_that_of_the_equations(name: str) -> None:
    reference, arguments = REFERENCES[name]
    model = build(name, **arguments)
    features, _, histories, ages = rows()
    found = model.user_vectors(features)
    assert {0, 6} <= {len(history) for history in histories}
    with torch.no_grad():
        for vector, history, age in zip(found, histories, ages, strict=True):
            if history or name == "bert4rec":
                ids = torch.tensor(history, dtype=torch.int64)
                torch.testing.assert_close(vector, reference(model, ids, torch.tensor(age)), rtol=1e-9, atol=1e-9)
            else:
                assert not vector.any()


@pytest.mark.parametrize("name", CAUSAL)
def test_each_item_of_a_history_learns_the_next_one_from_those_before(name: str) -> None:
    """A position's vector is that of a user who has no more items than those up to it, but for where they stand."""
    model = build(name)
    if name != "gru4rec":
        torch.nn.init.zeros_(model.place)  # type: ignore[arg-type]
    features, own, histories, _ = rows()
    positions = model.positions(features, own, draws(12))
    targets = [*zip(histories, own.tolist(), strict=True)]
    assert positions.ids.tolist() == [i for history, item in targets for i in [*history, item][1:] if history]
    assert positions.rows.tolist() == [row for row, history in enumerate(histories) for _ in history]
    assert positions.slots.tolist() == [t for history in histories for t in range(len(history))]
    found = model(positions.features, None, positions.places)["user"]
    sequences = features.sequences
    assert isinstance(sequences, RaggedSequences)
    for vector, row, slot in zip(found, positions.rows, positions.slots, strict=True):
        cut = [values[: slot + 1] for values in sequences.values.tensor_split(sequences.offsets[1:-1])[row::12]]
        offsets = torch.tensor([0, *(len(values) for values in cut)]).cumsum(0)
        alone = Features(features.sparse[:1], features.dense[:1], RaggedSequences(torch.cat(cut), offsets))
        torch.testing.assert_close(vector, model.user_vectors(alone)[0])


@pytest.mark.parametrize("name", CAUSAL)
def test_the_last_position_alone_is_a_users_vector(name: str) -> None:
    model = build(name, positions="last")
    features, own, histories, _ = rows()
    positions = model.positions(features, own, draws(12))
    has_any = torch.tensor([len(history) > 0 for history in histories])
    assert torch.equal(positions.ids, own[has_any])
    found = model(positions.features, None, positions.places)["user"]
    torch.testing.assert_close(found, model.user_vectors(features)[has_any])


def test_bert4rec_masks_what_it_is_told_and_learns_it_from_both_sides() -> None:
    model = build("bert4rec", mask_probability=0.4, last_probability=0.25)
    features, own, histories, _ = rows(400)
    numbers = draws(400)(7)
    positions = model.positions(features, own, draws(400))
    expected = []
    for row, (history, item) in enumerate(zip(histories, own.tolist(), strict=True)):
        ids = [*history, item][-6:]
        masked = [t for t in range(len(ids)) if numbers[row, t] < 0.4]
        if numbers[row, 6] < 0.25 or not masked:
            masked = [len(ids) - 1]
        expected += [(row, t, ids[t]) for t in masked]
    found = zip(positions.rows.tolist(), positions.slots.tolist(), positions.ids.tolist(), strict=True)
    assert [*found] == expected
    vectors = model(positions.features, None, positions.places)["user"]
    row = next(r for r in range(400) if positions.rows.tolist().count(r) == 2 and len(histories[r]) == 6)
    mine = (positions.rows == row).nonzero().squeeze(1)
    ids = torch.tensor([*histories[row], int(own[row])][-6:])
    items = model.look_up(ids).detach().clone()
    items[positions.slots[mine]] = model.mask.detach()  # type: ignore[operator]
    x = norm(items + model.place[:6].flip(0), model.norm)  # type: ignore[index]
    for block in model.blocks:  # type: ignore[union-attr]
        q, k, v = linear(x, block.project).chunk(3, 1)
        x = norm(x + linear(softmax_attention(q, k, v, 2, causal=False), block.join), block.attention_norm)
        x = norm(x + linear(F.gelu(linear(x, block.inner)), block.outer), block.feed_norm)
    right = norm(F.gelu(linear(x, model.output)), model.output_norm)[positions.slots[mine]]
    torch.testing.assert_close(vectors[mine], right)


def of_positions(batch: Batch) -> Tensor:
    assert batch.candidates is not None
    assert batch.candidates.listed is not None
    return batch.candidates.ids[batch.candidates.listed]


def test_a_row_of_a_step_becomes_an_entry_for_each_position() -> None:
    catalogue = Catalogue(
        SCHEMA.item_side, Features(torch.from_numpy(KNOWN).unsqueeze(1), torch.zeros(60, 0)), torch.ones(60).long()
    )
    table = rows_table(np.random.default_rng(1), 12)
    batch = batch_from_table(table, SCHEMA)
    batch.weight = torch.arange(12.0)
    model = build("sasrec")
    nodes: list[Any] = ["in_batch", {"name": "uniform", "number": 6}, "uniform_per_row"]

    def completed(rows: Batch, **where: int) -> Batch:
        return Completer(SCHEMA, catalogue, nodes, rows=12, model=model)(rows, seed=4, **where)

    done = completed(batch)
    lengths = [len(history) for history in table["history"].to_pylist()]
    count = sum(lengths)
    assert done.rows == count
    assert done.features.rows == 12
    assert torch.equal(torch.as_tensor(done.weight), torch.repeat_interleave(torch.arange(12.0), torch.tensor(lengths)))
    assert done.candidates is not None
    assert done.candidates.drawn == 6
    ids = of_positions(done)
    assert len(ids) == count
    share = (count / 60 + 6 / 60) / (count + 6)
    torch.testing.assert_close(done.candidates.log_q[: count + 6], torch.full((count + 6,), math.log(share)))
    for part in range(2):  # a half draws for its positions what the whole does
        half = completed(batch_from_table(table.slice(6 * part, 6), SCHEMA), part=part, parts=2)
        start = sum(lengths[: 6 * part])
        assert torch.equal(of_positions(half), ids[start : start + half.rows])


def test_what_is_no_history_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"called 'age'.*shared_with: item"):
        build("sasrec", history="age")
    with pytest.raises(ConfigError, match=r"no sequence of numbers 'history'"):
        build("hstu", age="history")
    with pytest.raises(ConfigError, match="3 heads do not split 8"):
        build("sasrec", num_heads=3)
    features = (SparseFeature("item", ITEMS), SequenceFeature("other", ITEMS))
    with pytest.raises(ConfigError, match="there is none"):
        MODELS.build("sasrec", Schema(features, (), items=Items("item")))
