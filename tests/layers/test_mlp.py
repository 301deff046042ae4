from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rechub_ray.layers.mlp import MLP
from rechub_ray.layers.norm import BatchNorm1d


def test_the_order_is_linear_norm_activation_dropout() -> None:
    mlp = MLP(8, (4, 3), output_dim=2, activation="tanh", dropout=0.5, batch_norm=True)
    block = [nn.Linear, BatchNorm1d, nn.Tanh, nn.Dropout]
    assert all(isinstance(layer, kind) for layer, kind in zip(mlp, [*block, *block, nn.Linear], strict=True))
    assert mlp.width == 2
    assert MLP(8, (4, 3)).width == 3


def test_it_equals_numpy() -> None:
    torch.manual_seed(0)
    mlp = MLP(5, (4, 3), output_dim=2, batch_norm=True, dropout=0.3).double()
    with torch.no_grad():
        for value in (*mlp.parameters(), *(b for n, b in mlp.named_buffers() if "running" in n)):
            value.uniform_(-0.2, 1).abs_()
    state = {name: value.detach().numpy() for name, value in mlp.state_dict().items()}
    x = np.random.default_rng(0).normal(size=(6, 5))
    expected = x
    for i in (0, 4):
        expected = expected @ state[f"{i}.weight"].T + state[f"{i}.bias"]
        scale = state[f"{i + 1}.weight"] / np.sqrt(state[f"{i + 1}.running_var"] + 1e-5)
        expected = np.maximum((expected - state[f"{i + 1}.running_mean"]) * scale + state[f"{i + 1}.bias"], 0)
    expected = expected @ state["8.weight"].T + state["8.bias"]
    np.testing.assert_allclose(mlp.eval()(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-10)


def test_dropout_zeroes_its_share_in_training_only() -> None:
    torch.manual_seed(0)
    mlp = MLP(4, (1000,), activation="sigmoid", dropout=0.3)
    x = torch.randn(50, 4)
    assert (mlp(x) == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert (mlp.eval()(x) == 0).sum() == 0


def test_no_hidden_layers_leave_the_input_or_one_linear_layer() -> None:
    x = torch.randn(3, 4)
    assert torch.equal(MLP(4, ())(x), x)
    assert [tuple(p.shape) for p in MLP(4, (), output_dim=1).parameters()] == [(1, 4), (1,)]


def test_in_place_relu_keeps_the_gradient_right() -> None:
    torch.manual_seed(0)
    mlp = MLP(3, (4,), output_dim=1, batch_norm=True).double()
    x = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: mlp(x), (x,))


def test_parts_side_by_side_give_what_the_whole_gives() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5)
    for mlp in (MLP(5, (4,), output_dim=1), MLP(5, ())):
        torch.testing.assert_close(mlp(x[:, :3], x[:, 3:]), mlp(x))
