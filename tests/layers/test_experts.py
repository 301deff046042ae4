from __future__ import annotations

import pytest
import torch
from torch import nn

from rechub_ray.layers.experts import Experts, Gate
from rechub_ray.layers.mlp import MLP


@pytest.mark.parametrize("count", [1, 2, 3])
def test_experts_are_perceptrons_of_their_own_side_by_side(count: int) -> None:
    """Each is an MLP with its slice of the weights, in training and in evaluation."""
    torch.manual_seed(0)
    experts, x = Experts(5, (4, 5, 3), count=count, activation="tanh", batch_norm=True), torch.randn(7, 5)
    for name, value in experts.named_parameters():
        if name.startswith(("1.", "4.", "7.", "bias")):
            nn.init.normal_(value)
    result = experts(x)
    assert result.shape == (7, count, 3)
    evaluated = experts.eval()(x)
    for i in range(count):
        own = MLP(5, (4, 5, 3), activation="tanh", batch_norm=True)
        state = experts.state_dict()
        for name, value in own.state_dict().items():
            whole = state[name]
            if whole.dim() > 0:
                value.copy_((whole if name[0] in "036" else whole.view(count, -1))[i])
        evaluated_alone = own.eval()(x)  # with the running statistics of the experts' step
        torch.testing.assert_close(evaluated[:, i], evaluated_alone)
        torch.testing.assert_close(result[:, i], own.train()(x))


def test_experts_start_as_linear_layers_do_and_differ() -> None:
    torch.manual_seed(0)
    weight = Experts(300, (200, 100), count=2)[0].weight.detach()
    assert not torch.equal(*weight)
    for one in weight:
        assert abs(one.std().item() / (2 / 500) ** 0.5 - 1) < 0.02


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
