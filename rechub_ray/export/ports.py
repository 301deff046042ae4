"""The inputs and outputs of exported models, as data."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, TypeAlias

from rechub_ray.schema import Schema

Part: TypeAlias = Literal["user", "item"]


@dataclasses.dataclass(frozen=True)
class Port:
    """An input or output of a served model.

    Args:
        name: the feature's name, or the output's.
        dtype: `int64` or `float32`.
        shape: sizes; the free ones by name (`batch`, and one length a sequence).
        meaning: describes the values, for people.
    """

    name: str
    dtype: str
    shape: tuple[str | int, ...]
    meaning: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def vector_name(schema: Schema, part: Part) -> str:
    """Return what a tower's vectors are called: `vector`, or `user_vector` where a column of its side has that name."""
    side = schema.user_side if part == "user" else schema.item_side
    return f"{part}_vector" if "vector" in side.columns else "vector"
