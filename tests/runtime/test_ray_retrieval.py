"""Models for retrieval on Ray workers: the numbers of one process, a killed worker, users' vectors and their items."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray.runtime import inference
from rechub_ray.runtime.inference import predict
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.parts import Parts
from rechub_ray.runtime.recommend import recommend
from tests import test_retrieval, test_sequences
from tests.runtime.test_ray_tasks import KillOne
from tests.runtime.test_recommend import DSSM, USERS, answered, export_files, make_run, people
from tests.small_retrieval import write_retrieval
from tests.small_sequences import write_sequences
from tests.test_retrieval import weights
from tests.worlds import start_process, train_in_processes

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

ON_TWO = {"scaling.num_workers": 2}
HARD = {"name": "hard", "number": 3, "pool": 40, "refresh_steps": 5}


def same(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.mark.long  # of the default tests, that of two tasks kills a worker, and a killed run goes on without Ray
@pytest.mark.parametrize("model", ["dssm", "sasrec"])
def test_a_killed_worker_leaves_no_trace(
    model: str, ray_cluster: None, tmp_path: Path, own_processes: Callable[[str], list[int]]
) -> None:
    """Negatives of the step, drawn, hard and of a list; of SASRec those of each position."""
    given: dict[str, Any] = {"train__epochs": 4, "train__log_every_steps": 2, "checkpoint__every_steps": 6}
    if model == "dssm":
        data, settings = write_retrieval(tmp_path / "data"), test_retrieval.settings
        given |= {"negatives": [*test_retrieval.MIXED, HARD, {"name": "column", "column": "shown"}]}
        given |= {"model__dropout": 0.0}
    else:
        data, settings = write_sequences(tmp_path / "data"), test_sequences.settings
        given |= {"model__dropout": 0.0, "train__epochs": 8}
    two = {**given, "data__batch_size": 32}
    here = train(settings(data, tmp_path / "here", **given))
    whole = train_in_processes(2, tmp_path / "meet", settings(data, tmp_path / "whole", **two))
    killer = KillOne(13, own_processes)
    survived = train(settings(data, tmp_path / "killed", **two, scaling__num_workers=2), trackers=[killer])
    assert killer.killed
    assert survived.test_metrics == whole["test_metrics"]
    assert survived.details["rows"] == here.details["rows"] == whole["rows"]
    same(tmp_path / "whole", tmp_path / "killed")
    for key, value in here.test_metrics.items():
        assert survived.test_metrics[key] == pytest.approx(value, abs=0.03), key
    if model == "sasrec":
        alone = train(settings(data, tmp_path / "one", **given, scaling__num_workers=1))
        assert alone.test_metrics == here.test_metrics
        same(tmp_path / "here", tmp_path / "one")


def _predict_until_killed(run: str, out: str) -> None:
    write = Parts.write

    def dying(self: Parts, number: int, blocks: Any) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, number, blocks)

    Parts.write, inference.PART_ROWS = dying, 50  # type: ignore[method-assign]
    predict(run, out)


def test_killed_vectors_go_on_on_two_workers(ray_cluster: None, tmp_path: Path) -> None:
    data, run = write_retrieval(tmp_path / "data"), tmp_path / "run"
    train(test_retrieval.settings(data, run, train__epochs=1))
    predict(run, tmp_path / "whole")
    process = start_process(_predict_until_killed, str(run), str(tmp_path / "out"))
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 2
    assert predict(run, tmp_path / "out", overrides=ON_TWO) == 200
    whole, found = (pq.read_table(tmp_path / name) for name in ("whole", "out"))
    assert found.num_rows == 200
    assert found["row"].to_pylist() == whole["row"].to_pylist(), "each row once, in the order of the files"
    assert str(found["vector"].type) == "fixed_size_list<element: float>[8]"
    one, two = (np.stack(table["vector"].to_numpy()) for table in (whole, found))
    np.testing.assert_allclose(two, one, atol=1e-6)


@pytest.mark.long  # by the same parts as the vectors
def test_stopped_answers_go_on_on_two_workers(ray_cluster: None, tmp_path: Path) -> None:
    home = make_run(tmp_path / "home", DSSM)
    export_files(home, home / "serving", batch_sizes=(1,))
    for part in range(3):
        people(range(20 * part, 20 * part + 20)).to_json(tmp_path / f"{part}.jsonl", orient="records", lines=True)
    given: dict[str, Any] = {"users": str(tmp_path / "*.jsonl"), "k": 5}
    recommend(home, tmp_path / "alone", **given)
    write = Parts.write

    def stop(self: Parts, number: int, blocks: Any) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, blocks)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Parts, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            recommend(home, tmp_path / "answers", **given)
    assert recommend(home, tmp_path / "answers", **given, overrides=ON_TWO) == USERS
    one, two = answered(tmp_path / "alone"), answered(tmp_path / "answers")
    assert [list(items) for items in two["items"]] == [list(items) for items in one["items"]]
    np.testing.assert_allclose(np.stack(two["scores"]), np.stack(one["scores"]), atol=1e-6)
