"""The world of one needs no process group; in a world of several the collectives do what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from rechub_ray import world as world_module
from rechub_ray.world import World
from tests.worlds import in_processes


def test_alone_every_collective_gives_back_what_it_got() -> None:
    world = World.current()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    tensor = torch.tensor([1.0, 2.0])
    assert world.sum_(tensor) is tensor
    assert world.gather(tensor) == [tensor]
    assert world.gather_to_main(tensor) == [tensor]
    value = object()
    assert world.broadcast(value) is value
    world.barrier()


def _share(rank: int, size: int, folder: str, shares_memory: bool) -> None:
    torch.set_num_threads(1)
    if not shares_memory:
        world_module.open_exchange = lambda rank, size, **_: None  # as on several hosts
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
    world = World.current()
    assert (world.rank, world.size, world.is_main) == (rank, size, rank == 0)
    tensor = torch.full((2,), float(rank + 1))
    assert world.sum_(tensor).tolist() == [6.0, 6.0]
    assert tensor.tolist() == [6.0, 6.0]
    # ranks hold 0, 1 and 2 rows
    parts = world.gather(torch.full((rank, 2), rank, dtype=torch.int64))
    assert [part.tolist() for part in parts] == [[], [[1, 1]], [[2, 2], [2, 2]]]
    assert world.gather(torch.zeros(0, 3))[2].shape == (0, 3)
    gathered = world.gather_to_main(torch.full((rank,), rank, dtype=torch.int8))
    assert gathered is None if rank else [part.tolist() for part in gathered or []] == [[], [1], [2, 2]]
    # pieces of several types, whose bytes do not lie at multiples of their sizes
    pieces = [torch.full((rank + 1,), 7, dtype=torch.uint8), torch.arange(rank), torch.full((2,), rank / 2)]
    for other, part in enumerate(world.gather_all(pieces)):
        assert [piece.tolist() for piece in part] == [[7] * (other + 1), list(range(other)), [other / 2] * 2]
    assert world.broadcast({"rank": rank, "text": "x" * 10_000})["rank"] == 0
    assert world.broadcast(None if rank == 0 else 5) is None
    world.barrier()
    os._exit(0)  # gloo's threads now and then abort a process that ends in order


@pytest.mark.parametrize("shares_memory", [True, False])
def test_three_processes(tmp_path: Path, shares_memory: bool) -> None:
    in_processes(3, _share, 3, str(tmp_path), shares_memory)
