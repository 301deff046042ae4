"""Tokens without padding: where they lie, and attention against one row after the other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rechub_ray.batch import Features, PaddedSequences, RaggedSequences
from rechub_ray.layers.tokens import Tokens, attend, recurrent

LENGTHS = [3, 0, 7, 1, 3, 8, 4, 0, 6, 5]


def lists() -> list[Tensor]:
    return [torch.arange(n) + 10 * i for i, n in enumerate(LENGTHS)]


def packed() -> Tokens:
    return Tokens.packed(torch.cat(lists()), torch.tensor(LENGTHS))


def padded(width: int = 9) -> Tokens:
    ids = torch.full((len(LENGTHS), width), -1)
    for row, values in zip(ids, lists(), strict=True):
        row[: len(values)] = values
    return Tokens.padded(ids)


def naive(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool) -> Tensor:
    """Attention within one row, one query and one head after the other."""
    rows = []
    for i in range(len(q)):
        parts = []
        for a, b, c in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
            stop = i + 1 if causal else len(q)
            scores = torch.stack([a[i] @ b[j] for j in range(stop)]) / a.shape[1] ** 0.5
            weights = scores.exp() / scores.exp().sum()
            parts.append((weights.unsqueeze(1) * c[:stop]).sum(0))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def test_every_token_is_there_once_and_knows_its_place() -> None:
    tokens = packed()
    assert tokens.ids[tokens.order].tolist() == torch.cat(lists()).tolist()
    assert tokens.after[tokens.order].tolist() == [n - 1 - t for n in LENGTHS for t in range(n)]
    vectors = tokens.ids.double().unsqueeze(1) + 1
    expected = [float(values[-1]) + 1 if len(values) else 0 for values in lists()]
    assert tokens.of_last(vectors).squeeze(1).tolist() == expected
    other = padded()
    assert other.of_last(other.ids.double().unsqueeze(1) + 1).squeeze(1).tolist() == expected


def test_groups_hold_all_tokens_and_no_padding() -> None:
    tokens = packed()
    assert [(group.rows, group.width) for group in tokens.groups] == [
        (LENGTHS.count(n), n) for n in (1, 3, 4, 5, 6, 7, 8)
    ]
    every = tokens.ids.unsqueeze(1)
    rectangles = tokens.rectangles(every)
    assert [tuple(x.shape) for x in rectangles] == [(group.rows, group.width, 1) for group in tokens.groups]
    assert torch.equal(tokens.joined(rectangles, every), every)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("form", ["packed", "padded"])
@pytest.mark.parametrize("dropout", [0.0, 1e-12])  # with dropout it is computed in another way
def test_attention_equals_one_row_after_the_other(causal: bool, form: str, dropout: float) -> None:
    tokens = packed() if form == "packed" else padded()
    torch.manual_seed(1)
    of_id = torch.randn(3, 100, 6, dtype=torch.float64)
    q, k, v = of_id[:, tokens.ids]
    found = attend(q, k, v, tokens, heads=2, causal=causal, dropout=dropout)
    for i, values in enumerate(lists()):
        if len(values):
            expected = naive(*of_id[:, values], heads=2, causal=causal)
            place = (
                range(sum(LENGTHS[:i]), sum(LENGTHS[: i + 1]))
                if form == "packed"
                else range(9 * i, 9 * i + len(values))
            )
            torch.testing.assert_close(found[tokens.order[torch.tensor(list(place))]], expected)


def test_its_gradient_is_that_of_one_row_after_the_other() -> None:
    tokens = packed()
    torch.manual_seed(1)
    inputs = [torch.randn(len(tokens.ids), 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    for causal in (True, False):
        assert torch.autograd.gradcheck(
            lambda q, k, v, causal=causal: attend(q, k, v, tokens, heads=1, causal=causal), inputs
        )


@pytest.mark.parametrize("form", ["packed", "padded"])
def test_a_recurrent_network_reads_each_row_from_its_start(form: str) -> None:
    tokens = packed() if form == "packed" else padded()
    torch.manual_seed(1)
    network, of_id = nn.GRU(4, 3, num_layers=2, batch_first=True), torch.randn(100, 4)
    found = tokens.of_last(recurrent(network, of_id[tokens.ids], tokens))
    for i, values in enumerate(lists()):
        if len(values):
            torch.testing.assert_close(found[i], network(of_id[values].unsqueeze(0))[0][0, -1])
        else:
            assert not found[i].any()


def test_a_batch_without_any_token() -> None:
    tokens = Tokens.packed(torch.zeros(0, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    x = torch.zeros(0, 4, requires_grad=True)
    assert tokens.of_last(attend(x, x, x, tokens, heads=2, causal=True)).tolist() == [[0.0] * 4] * 3
    assert recurrent(nn.GRU(4, 3, batch_first=True), x, tokens).shape == (0, 3)


def test_aligned_values_follow_their_tokens() -> None:
    values = torch.cat(lists())
    offsets = torch.tensor([0, *LENGTHS, *LENGTHS]).cumsum(0)
    rows = torch.zeros(len(LENGTHS), 0)
    features = Features(rows.long(), rows, RaggedSequences(torch.cat([values, values + 1000]), offsets))
    tokens = Tokens.of(features, 0)
    assert torch.equal(tokens.aligned(features, 1), tokens.ids + 1000)
    shorter = RaggedSequences(torch.tensor([7, 8, 9, 5]), torch.tensor([0, 3, 4]))
    assert Tokens.of(Features(rows[:1].long(), rows[:1], shorter), 0).aligned(
        Features(rows[:1].long(), rows[:1], shorter), 1
    ).tolist() == [5, 0, 0]
    narrow = torch.full((2, 3), -1)
    narrow[0] = torch.tensor([5, 6, 7])
    wide = torch.nn.functional.pad(narrow + 100, (0, 2), value=-1)
    features = Features(rows[:2].long(), rows[:2], PaddedSequences((narrow, wide)))
    assert Tokens.of(features, 0).aligned(features, 1)[:3].tolist() == [105, 106, 107]
