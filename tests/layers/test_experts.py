from __future__ import annotations

import torch
from torch import nn

from rechub_ray.layers.experts import Experts, Gate


def test_experts_are_perceptrons_of_their_own_side_by_side() -> None:
    torch.manual_seed(0)
    experts, x = Experts(5, (4, 3), count=2, activation="tanh"), torch.randn(7, 5)
    result = experts(x)
    assert result.shape == (7, 2, 3)
    for i, expert in enumerate(experts):
        first, second = expert[0], expert[2]
        by_hand = torch.tanh(torch.tanh(x @ first.weight.t() + first.bias) @ second.weight.t() + second.bias)
        torch.testing.assert_close(result[:, i], by_hand)
    assert not torch.equal(*[expert[0].weight for expert in experts])


def test_experts_without_layers_give_their_input() -> None:
    experts, x = Experts(5, (), count=2), torch.randn(7, 5)
    assert experts.width == 5
    assert torch.equal(experts(x), torch.stack([x, x], 1))


def test_a_gate_weighs_the_experts_by_a_softmax_that_depends_on_the_row() -> None:
    gate, experts = Gate(2, 3), torch.randn(4, 3, 5)
    nn.init.zeros_(gate.linear.weight)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1000.0, 0.0], [-1000.0, 0.0]])
    torch.testing.assert_close(gate(x, experts), experts.mean(1))
    with torch.no_grad():
        gate.linear.weight[2, 0] = 1
    mixed = gate(x, experts)
    weights = torch.tensor([1, 1, torch.e]) / (2 + torch.e)
    torch.testing.assert_close(mixed[1], weights @ experts[1])
    torch.testing.assert_close(mixed[2], experts[2, 2])
    torch.testing.assert_close(mixed[3], experts[3, :2].mean(0))
