from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from rechub_ray.layers.norm import BatchNorm1d
from tests.worlds import in_processes

WIDTH = 5
SPLITS = ((7, 9), (1, 3))  # rows of the two ranks in each of two steps


def rows() -> list[Tensor]:
    """Two steps' global batches, far from 0: where a sum of squares would cancel."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(sum(split), WIDTH, generator=generator) * 0.1 + 30 for split in SPLITS]


def train(parts: list[Tensor], factors: list[Tensor]) -> dict[str, Tensor]:
    """Two steps through a batch norm layer: results, gradients and final state."""
    torch.manual_seed(1)
    layer, plain = BatchNorm1d(WIDTH), BatchNorm1d(WIDTH, affine=False)
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    result = {}
    for step, (x, factor) in enumerate(zip(parts, factors, strict=True)):
        x = x.clone().requires_grad_()
        y = layer(x)
        (y * factor).sum().backward()
        assert x.grad is not None
        result |= {f"y{step}": y.detach(), f"grad{step}": x.grad}
        other = x.detach().clone().requires_grad_()
        (plain(other) * factor).sum().backward()
        result[f"plain{step}"] = torch.as_tensor(other.grad)
    plain(parts[0][:0])  # no rows on any rank: the statistics stay
    assert torch.equal(torch.as_tensor(plain.running_mean), torch.as_tensor(layer.running_mean))
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    return result | {"weight": layer.weight.grad, "bias": layer.bias.grad} | dict(layer.named_buffers())


def factors() -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(x.shape, generator=generator) for x in rows()]


def run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    starts = [0 if rank == 0 else split[0] for split in SPLITS]
    cut = [slice(start, start + split[rank]) for start, split in zip(starts, SPLITS, strict=True)]
    mine = [x[rows] for x, rows in zip(rows(), cut, strict=True)]
    result = train(mine, [x[rows] for x, rows in zip(factors(), cut, strict=True)])
    torch.save(result, folder / f"{rank}.pt")
    dist.barrier()  # a rank that leaves early takes the connection of a slower one with it
    os._exit(0)  # gloo's threads now and then abort a process that ends in order


def test_two_workers_equal_one_with_all_rows(tmp_path: Path) -> None:
    in_processes(2, run_rank, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = train(rows(), factors())
    for step in range(2):
        for key in (f"y{step}", f"grad{step}", f"plain{step}"):
            torch.testing.assert_close(torch.cat([first[key], second[key]]), whole[key], rtol=1e-3, atol=2e-3)
    for key in ("weight", "bias"):
        torch.testing.assert_close(first[key] + second[key], whole[key], rtol=1e-3, atol=1e-3)
    for key in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(first[key], second[key])
        torch.testing.assert_close(first[key], whole[key], rtol=1e-5, atol=1e-6)


def test_one_worker_is_torch_to_the_bit() -> None:
    mine, theirs = BatchNorm1d(WIDTH), torch.nn.BatchNorm1d(WIDTH)
    inputs = [x.clone().requires_grad_() for x in (rows()[0], rows()[0])]
    for layer, x in zip((mine, theirs), inputs, strict=True):
        layer(x).square().sum().backward()
    assert torch.equal(torch.as_tensor(inputs[0].grad), torch.as_tensor(inputs[1].grad))
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    for name, value in mine.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name])
    assert torch.equal(mine.eval()(rows()[1]), theirs.eval()(rows()[1]))


def test_a_batch_of_one_row_uses_the_running_statistics_and_leaves_them() -> None:
    layer = BatchNorm1d(WIDTH)
    layer(rows()[0])
    before = {name: value.clone() for name, value in layer.named_buffers()}
    one = rows()[1][:1]
    torch.testing.assert_close(layer(one), layer.eval()(one))
    for name, value in layer.named_buffers():
        assert torch.equal(value, before[name])
