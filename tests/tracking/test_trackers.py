from __future__ import annotations

import logging
import threading

import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.tracking import Tracker, Trackers, check_trackers, read_history
from rechub_ray.tracking import trackers as module
from rechub_ray.tracking.base import TRACKERS


class Recorder(Tracker):
    """Fails at the given calls; remembers all."""

    registered_name = "recorder"

    def __init__(self, run, *, fails_at=()):
        super().__init__(run)
        self.fails_at, self.calls = set(fails_at), []

    def log(self, metrics, *, step):
        self.calls.append(step)
        if step in self.fails_at:
            raise ConnectionError("no\n  network")

    def hyperparameters(self, config, score):
        self.calls.append((dict(config), dict(score)))

    def close(self):
        self.calls.append("close")


def test_one_or_a_list_or_none(run):
    assert check_trackers(None) == check_trackers([]) == []
    assert check_trackers("jsonl") == check_trackers([{"name": "jsonl"}]) == [{"name": "jsonl"}]
    console = {"name": "console", "every_seconds": 2}
    assert check_trackers([console, "jsonl"]) == [{"name": "console", "every_seconds": 2.0}, {"name": "jsonl"}]
    with Trackers(["jsonl", Recorder(run())], run()) as trackers:
        trackers.log({"train/loss": 0.5}, step=1)
    assert [record["step"] for record in read_history(run().directory / "metrics.jsonl")] == [1]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ("jsonnl", r"'trackers.0.name': unknown tracker 'jsonnl'. Did you mean 'jsonl'\?"),
        (["jsonl", {"name": "console", "every_second": 1}], r"'trackers.1': .*'every_second'. Did you mean 'every_s"),
        ([{"name": "console", "every_seconds": -1}], r"'trackers.0.every_seconds': input should be greater than"),
        (["jsonl", "jsonl"], r"'trackers.1': tracker 'jsonl' is given twice"),
        ([{"name": "wandb", "mode": "of"}], r"'trackers.0.mode': input should be 'online', 'offline' or 'disabled'"),
    ],
)
def test_wrong_configurations_name_the_place(nodes, message):
    with pytest.raises(ConfigError, match=message):
        check_trackers(nodes)


def test_a_failing_tracker_warns_once_and_is_left_out(run, caplog):
    bad, good = Recorder(run(), fails_at=range(2, 100)), Recorder(run())
    with Trackers([bad, good], run()) as trackers:
        for step in range(1, 10):
            trackers.log({}, step=step)
        trackers.hyperparameters({"a": 1}, {"auc": 0.5})
    assert bad.calls == [1, 2, 3, 4, "close"]
    assert good.calls == [*range(1, 10), ({"a": 1}, {"auc": 0.5}), "close"]
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert "tracker 'recorder' failed" in warning.getMessage()
    assert warning.getMessage().endswith("ConnectionError: no network")


def test_failures_that_pass_do_not_count(run, caplog):
    flaky = Recorder(run(), fails_at=[1, 2, 4, 5, 7, 8])
    with Trackers(flaky, run()) as trackers:
        for step in range(1, 11):
            trackers.log({}, step=step)
    assert flaky.calls == [*range(1, 11), "close"]
    assert len(caplog.records) == 1


def test_closes_after_an_error_and_only_once(run):
    tracker = Recorder(run())
    trackers = Trackers(tracker, run())

    def fail():
        with trackers:
            raise ValueError("the run's own")

    with pytest.raises(ValueError, match="the run's own"):
        fail()
    trackers.close()
    assert tracker.calls == ["close"]


def test_an_interrupt_is_not_swallowed(run):
    class Interrupted(Recorder):
        def log(self, metrics, *, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers(Interrupted(run()), run()).log({}, step=1)


def test_a_tracker_that_cannot_be_opened_is_left_out(run, tmp_path, caplog):
    (tmp_path / "run").write_text("a file where the folder should be")
    tracker = Recorder(run())
    with Trackers(["jsonl", tracker], run()) as trackers:
        trackers.log({}, step=1)
    assert tracker.calls == [1, "close"]
    (warning,) = caplog.records
    assert "tracker 'jsonl' could not be opened and is left out: FileExistsError" in warning.getMessage()


def test_a_close_that_fails_or_hangs_ends(run, caplog, monkeypatch):
    monkeypatch.setattr(module, "CLOSE_SECONDS", 2)
    release = threading.Event()

    class Hanging(Recorder):
        registered_name = "hanging"

        def close(self):
            release.wait(60)

    class Failing(Recorder):
        registered_name = "failing"

        def close(self):
            raise OSError("disk full")

    last = Recorder(run())
    Trackers([Hanging(run()), Failing(run()), last], run()).close()
    release.set()
    assert last.calls == ["close"]
    messages = sorted(record.getMessage() for record in caplog.records)
    assert "tracker 'failing' failed" in messages[0]
    assert messages[1] == "tracker 'hanging' did not close within 2 seconds; going on"


class Summary(Recorder):
    is_summary = True


def test_summaries_get_one_point_an_interval_and_every_evaluation(run):
    facts = run(start_step=100, summary_every_steps=100)
    often, seldom = Recorder(facts), Summary(facts)
    with Trackers([often, seldom], facts) as trackers:
        for step in range(130, 431, 30):
            trackers.log({"train/loss": 0.5}, step=step)
        trackers.log({"val/auc": 0.5}, step=430)
    assert often.calls == [*range(130, 431, 30), 430, "close"]
    assert seldom.calls == [220, 310, 400, 430, "close"]


def test_summaries_get_every_point_unless_told_otherwise(run):
    seldom = Summary(run())
    with Trackers(seldom, run()) as trackers:
        trackers.log({"train/loss": 0.5}, step=1)
        trackers.log({"train/loss": 0.5}, step=2)
    assert seldom.calls == [1, 2, "close"]


def test_what_costs_is_a_summary():
    costly = {name for name in TRACKERS.names() if TRACKERS.get(name).is_summary}
    assert costly == {"tensorboardx", "wandb", "mlflow", "swanlab"}
