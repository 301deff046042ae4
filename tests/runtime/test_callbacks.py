"""Which worker was lost, as the driver is told; Ray's errors are stood in for by name, as the code knows them."""

from __future__ import annotations

import pytest

from rechub_ray.runtime.board import Board, WorkerPlace
from rechub_ray.runtime.callbacks import describe_loss
from rechub_ray.runtime.worker import is_passing, is_timeout


class WorkerHealthCheckTimeoutError(Exception):
    """As in Ray."""


class WorkerHealthCheckFailedError(Exception):
    """As in Ray."""

    health_check_failure: Exception


class OutOfMemoryError(Exception):
    """As in Ray."""


PLACES = {0: WorkerPlace("10.0.0.1", 71), 1: WorkerPlace("10.0.0.2", 72), 2: WorkerPlace("10.0.0.2", 73)}
WAITED = TimeoutError("rank 0 waited 30 s for rank 1 (process 72) on host b")
GLOO = RuntimeError(
    "[gloo/transport/tcp/unbound_buffer.cc:84] Timed out waiting 30000ms for recv operation to complete"
)
PEER = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:1949")
KILLED = WorkerHealthCheckFailedError("the actor died")
KILLED.health_check_failure = OutOfMemoryError("killed due to the node running low on memory")
SILENT, DEAD = WorkerHealthCheckTimeoutError("hanging"), WorkerHealthCheckFailedError("the actor died")


@pytest.mark.parametrize(
    ("errors", "waited", "expected"),
    [
        (
            {1: SILENT},
            [],
            "worker 1 of 3 (host 10.0.0.2, process 72) did not take part for 30 s, and was ended",
        ),
        (
            {0: WAITED, 1: SILENT},
            [0],
            "worker 1 of 3 (host 10.0.0.2, process 72) did not take part for 30 s, and was ended",
        ),
        (  # its thread hangs, its process answers: who has not given up is the one
            {0: GLOO, 2: GLOO},
            [0, 2],
            "worker 1 of 3 (host 10.0.0.2, process 72) did not take part for 30 s, and was ended",
        ),
        (
            {0: GLOO},
            [0],
            "worker 1 of 3 (host 10.0.0.2, process 72) and worker 2 of 3 (host 10.0.0.2, process 73) "
            "did not take part for 30 s, and was ended",
        ),
        (
            {2: DEAD, 0: PEER},
            [],
            "worker 2 of 3 (host 10.0.0.2, process 73) was lost: its process or its host has died",
        ),
        (
            {2: KILLED, 0: PEER},
            [],
            "worker 2 of 3 (host 10.0.0.2, process 73) was lost: its host ran out of memory",
        ),
        ({0: PEER}, [], "worker 0 of 3 (host 10.0.0.1, process 71) failed: RuntimeError: " + str(PEER)),
        (
            {0: GLOO, 1: GLOO, 2: GLOO},
            [0, 1, 2],
            "worker 0 of 3 (host 10.0.0.1, process 71) failed: RuntimeError: " + str(GLOO),
        ),
    ],
)
def test_a_loss_names_the_worker_that_began_it(errors: dict[int, Exception], waited: list[int], expected: str) -> None:
    assert describe_loss(errors, PLACES, dict.fromkeys(waited, "waited"), 3, 30.0) == expected


def test_a_worker_that_never_started_is_named_by_its_rank() -> None:
    assert describe_loss({1: DEAD}, {}, {}, 2, 30.0) == "worker 1 of 2 was lost: its process or its host has died"


@pytest.mark.parametrize(
    ("error", "passing", "timeout"),
    [(WAITED, True, True), (GLOO, True, True), (PEER, True, False), (ValueError("no"), False, False)],
)
def test_waiting_in_vain_is_told_from_other_errors(error: Exception, passing: bool, timeout: bool) -> None:
    assert (is_passing(error), is_timeout(error)) == (passing, timeout)


def test_a_board_forgets_who_was_there_when_workers_are_lost() -> None:
    board = Board()
    board.join(0, PLACES[0])
    board.join(1, PLACES[1])
    board.gave_up(0, "waited")
    assert board.present() == ({0: PLACES[0], 1: PLACES[1]}, {0: "waited"})
    board.lose("worker 1 was lost")
    assert board.present() == ({}, {})
    board.join(0, PLACES[0])
    assert board.drain() == ([("joined", 0), ("joined", 1), ("lost", "worker 1 was lost"), ("joined", 0)], None)
    assert board.drain() == ([], None)


def test_the_first_error_that_ends_a_run_counts() -> None:
    board = Board()
    assert not board.has_failed()
    first = ValueError("first")
    board.fail(first)
    board.fail(ValueError("second"))
    assert board.has_failed()
    assert board.drain() == ([], first)
