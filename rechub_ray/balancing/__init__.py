"""Methods that balance the tasks of a multi-task model; they are found by name, each in a file of its own."""

from typing import Any

from rechub_ray.balancing.base import BALANCING, Balancing

__all__ = ["BALANCING", "Balancing"]


def __getattr__(name: str) -> Any:
    return BALANCING.attribute(__name__, name)
