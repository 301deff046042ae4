"""The driver's end of a run on workers, without Ray: what it hears, how long it waits, and how it ends."""

from __future__ import annotations

import logging
import os
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from rechub_ray.config import ScalingSection
from rechub_ray.errors import ResourceError, TrainingError
from rechub_ray.runtime import workers
from rechub_ray.runtime.workers import _Ear, _environment, _Fit, _plain


class _Waiting:
    is_done = False

    def done(self) -> None:
        self.is_done = True


def ear(**settings: Any) -> tuple[_Ear, list[Any], _Waiting]:
    heard: list[Any] = []
    waiting: Any = _Waiting()
    return _Ear(ScalingSection(num_workers=2, **settings), heard.append, waiting, "Do it again."), heard, waiting


def test_what_is_not_about_workers_is_passed_on() -> None:
    hears, heard, waiting = ear()
    hears(("joined", 1))
    assert not waiting.is_done
    hears(("joined", 0))
    assert waiting.is_done
    hears(("log", {"x": 1.0}, 3))
    assert heard == [("log", {"x": 1.0}, 3)]


def test_a_loss_is_said_as_long_as_the_run_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    hears, heard, _ = ear(max_failures=1)
    with caplog.at_level(logging.WARNING):
        hears(("lost", "worker 1 did not take part"))
        hears(("lost", "worker 0 was lost"))
    assert [record.getMessage() for record in caplog.records] == [
        "worker 1 did not take part; the workers start again (loss 1 of the 1 that scaling.max_failures allows)"
    ]
    assert not heard
    error = _plain(RuntimeError("a wall\nof lines"), hears)
    assert str(error) == (
        "workers were lost 2 times. Expected: at most 1 (scaling.max_failures). "
        "Got: the last time: worker 0 was lost. Do it again."
    )


@pytest.mark.parametrize("losses", [0, 1])
def test_workers_that_do_not_come_together_are_an_error(losses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    hears, _, _ = ear(start_timeout_seconds=5)
    for _ in range(losses):
        hears(("lost", "worker 1 was lost"))
    hears(("joined", 1))
    now[0] += 60 + 5 * (1 + losses)
    hears.check()
    now[0] += 0.1
    with pytest.raises(ResourceError, match=r"1 of 2 workers have not started in .*Got: workers \[1\] are there"):
        hears.check()
    hears(("joined", 0))
    hears.check()


def fit(run: Any, *, is_alive: bool = True) -> Any:
    pump: Any = SimpleNamespace(patience_seconds=60.0)
    raylet: Any = SimpleNamespace(host="10.0.0.1", is_alive=lambda: is_alive)
    return _Fit(SimpleNamespace(fit=run)).wait(ear()[0], raylet, pump)


def test_the_outcome_is_the_trainers() -> None:
    assert fit(lambda: "result") == "result"
    assert fit(threading.current_thread) is not threading.main_thread(), "Ray Train would take Ctrl-C over"

    def fail() -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        fit(fail)


def test_a_dead_raylet_is_one_line_although_the_trainer_waits() -> None:
    over = threading.Event()
    with pytest.raises(TrainingError) as caught:
        fit(over.wait, is_alive=False)
    over.set()
    assert str(caught.value) == ("Ray's process on this host (10.0.0.1) has died (the raylet). Do it again.")


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("", TrainingError, "the run failed on Ray (RuntimeError)"),
        ("Traceback\n  File x\nOSError: no space left\n\n", TrainingError, "Got: OSError: no space left."),
        ("a\nThe placement group cannot be scheduled\n", ResourceError, "Ray could not start the workers"),
    ],
)
def test_whatever_ray_says_becomes_one_line(text: str, kind: type[Exception], expected: str) -> None:
    error = _plain(RuntimeError(text), ear()[0])
    assert type(error) is kind
    assert expected in str(error)
    assert "\n" not in str(error)


def test_bounds_of_ray_train_are_the_runs_and_only_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TRAIN_COLLECTIVE_TIMEOUT_S", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "7")
    with _environment(ScalingSection(collective_timeout_seconds=30, start_timeout_seconds=9)):
        assert os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] == "30"
        assert os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] == "28"
        assert os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "7", "the user's own stays"
    assert "RAY_TRAIN_COLLECTIVE_TIMEOUT_S" not in os.environ
    assert os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "7"
