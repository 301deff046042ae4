"""The connections of torch's process group from one host to another."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.train.torch import TorchConfig


def use_ray_interface() -> None:
    """Bind gloo to the network interface that has the address under which Ray knows this host.

    By default gloo binds to the address of the host's name, which is a loopback address on a stock Debian or Ubuntu
    (`127.0.1.1 <hostname>` in /etc/hosts) and where the name does not resolve at all: no other host can connect then.
    A GLOO_SOCKET_IFNAME that is set already stays.
    """
    import psutil  # type: ignore[import-untyped]  # Ray brings it

    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def backend(*, use_gpu: bool) -> str:
    """Return torch's name of the workers' backend; with GPUs there is gloo too, for counts and names on the host."""
    return "cpu:gloo,cuda:nccl" if use_gpu else "gloo"


class Backend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Ray's backend, with gloo bound to the interface that Ray uses."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(use_ray_interface)
        super().on_start(worker_group, backend_config)


class ProcessGroup(TorchConfig):  # type: ignore[misc]
    """`ray.train.torch.TorchConfig` whose gloo connects hosts by the addresses that Ray uses."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Backend
