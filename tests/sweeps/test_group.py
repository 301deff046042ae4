"""A trial of several workers: whose error counts, and what another start may get past."""

from __future__ import annotations

from typing import Any

import pytest
import ray
import torch

from rechub_ray.errors import DataError, TrainingError
from rechub_ray.sweeps.group import first_cause
from rechub_ray.sweeps.trial import may_pass

GONE = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1949")
BAD_FILE = DataError("part-00001.parquet holds null")


@pytest.mark.parametrize(
    ("own", "errors", "expected"),
    [
        (TrainingError("NaN"), [(1, GONE)], "NaN"),
        (OSError("disk full"), [(1, GONE)], "disk full"),  # the peers only noticed that this rank had gone
        (GONE, [(1, GONE), (2, BAD_FILE)], "part-00001"),
        (GONE, [(1, GONE), (2, ray.exceptions.ActorDiedError())], "worker 2 of 4 was lost: its process died"),
        (GONE, [(3, ray.exceptions.OutOfMemoryError("killed"))], "worker 3 of 4 was lost: out of memory"),
        (GONE, [(1, MemoryError("1 TiB"))], "1 TiB"),
        (GONE, [], "Connection closed"),
    ],
)
def test_a_trial_tells_of_the_error_that_began_it(
    own: Exception, errors: list[tuple[int, Exception]], expected: str
) -> None:
    assert expected in str(first_cause(own, errors, 4))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (ConnectionError("worker 1 of 2 was lost: its process died"), True),
        (GONE, True),
        (TrainingError("the loss is not finite"), False),
        (BAD_FILE, False),
        (ValueError("a bad combination"), False),
        (RuntimeError("shapes cannot be multiplied"), False),
    ],
)
def test_only_what_another_start_may_get_past_is_tried_again(error: Any, expected: bool) -> None:
    assert may_pass(error) is expected
