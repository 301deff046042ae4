"""The values that `state.json` of a checkpoint may hold: checked like any input, since a checksum cannot prove them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import pydantic
from annotated_types import Ge, Le, MaxLen

from rechub_ray.errors import CheckpointError
from rechub_ray.registry import config_error

_Count = Annotated[int, Ge(0), Le(2**48)]
_Scores = dict[str, float | None]


class _Part(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True, extra="allow")


class _Cut(_Part, extra="forbid"):
    lanes: Annotated[int, Ge(1), Le(2**16)]
    global_batch: Annotated[int, Ge(1), Le(2**40)]
    steps: _Count


class _Position(_Part, extra="forbid"):
    epoch: _Count
    cuts: Annotated[list[_Cut], MaxLen(4096)]
    step: _Count
    lanes: Annotated[int, Ge(0), Le(2**16)]
    global_batch: Annotated[int, Ge(0), Le(2**40)]
    rows_done: _Count = 0
    data: Annotated[str, MaxLen(256)]


class _EarlyStopping(_Part):
    metric: str = ""
    best_score: float | None = None
    best_step: _Count | None = None
    best_metrics: _Scores = {}
    without_gain: _Count = 0


class _Pending(_Part, extra="forbid"):
    step: _Count
    epoch: Annotated[int, Ge(-1), Le(2**48)]


class _State(_Part):
    step: _Count = 0
    rows: _Count = 0
    position: _Position | None = None
    metrics: _Scores = {}
    early_stopping: _EarlyStopping = _EarlyStopping()
    schedules: list[dict[str, Any]] = []
    pending: Annotated[list[_Pending], MaxLen(2)] = []
    is_finished: bool = False
    fingerprint: dict[str, str] = {}
    world_size: _Count = 1


_OF_A_RUN = ("step", "rows", "position", "metrics", "early_stopping", "schedules", "is_finished", "fingerprint")


def check_state(state: Mapping[str, Any], name: str) -> None:
    """Check that the keys of `state.json` have values that a run writes.

    Args:
        state: the file's content; keys may be missing.
        name: the checkpoint's, for messages.

    Raises:
        CheckpointError: a value is of another type, or out of its range.
    """
    try:
        _State.model_validate(state)
    except (pydantic.ValidationError, RecursionError) as error:
        what = config_error(error) if isinstance(error, pydantic.ValidationError) else "nested too deeply"
        raise CheckpointError(f"checkpoint '{name}': state.json: {what}") from None


def check_of_run(state: Mapping[str, Any], name: str) -> None:
    """Check that `state.json` has all keys that a run needs to go on.

    Raises:
        CheckpointError: a key is missing.
    """
    missing = [key for key in _OF_A_RUN if state.get(key) is None]  # none of them is null in a run's
    if state.get("early_stopping"):  # empty before the first evaluation
        own = _EarlyStopping.model_fields
        missing += [f"early_stopping.{key}" for key in own if key not in state["early_stopping"]]
    if missing:
        raise CheckpointError(
            f"checkpoint '{name}': no run goes on from it",
            got=f"state.json has no '{missing[0]}'",
            hint="init_from=... takes its weights for a new run.",
        )


def check_like(state: Any, own: Any, where: str) -> None:
    """Check that a saved state has the keys of an object's own state, and numbers where that has them.

    Args:
        state: the saved state.
        own: the state of the object that is to take it.
        where: the place, for messages.

    Raises:
        CheckpointError: keys differ, or a value is of another type.
    """
    if not isinstance(state, Mapping) or set(state) != set(own):
        got = ", ".join(map(str, state)) if isinstance(state, Mapping) else repr(state)[:80]
        raise CheckpointError(f"{where} does not fit", expected=f"the keys {', '.join(own) or '(none)'}", got=got)
    for key, value in own.items():
        given = state[key]
        is_number = isinstance(given, (int, float)) and not isinstance(given, bool) and math.isfinite(given)
        if isinstance(value, bool):
            fits = isinstance(given, bool)
        elif value is None or isinstance(value, (int, float)):
            fits = given is None if value is None and given is None else is_number
        else:
            fits = type(given) is type(value)
        if not fits:
            raise CheckpointError(f"{where}: '{key}' does not fit", expected=_kind(value), got=repr(given)[:80])


def _kind(value: Any) -> str:
    return (
        "a number or null" if value is None else "a switch" if isinstance(value, bool) else f"a {type(value).__name__}"
    )
