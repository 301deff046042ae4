"""Runs with `data.group_by`: rows are counted as they are, resuming is exact, workers and parts change no numbers."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.synthetic import write_click_logs
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation import prepare
from rechub_ray.runtime.launch import train, validate
from rechub_ray.runtime.preflight import check
from rechub_ray.schema import Schema
from rechub_ray.tracking import Tracker, read_history
from tests.worlds import train_in_processes

BASE: dict[str, Any] = {
    "name": "t",
    "data": {"batch_size": 256, "eval_batch_size": 512, "group_by": True},
    "model": {"name": "deepfm", "embedding_dim": 4, "init_std": 0.05, "hidden_units": [16, 8]},
    "optimizers": [
        {"name": "rowwise_adagrad", "params": ["embedding.*", "linear.embedding.*"], "lr": 0.05},
        {"name": "adam", "lr": 0.01},
    ],
    "train": {"epochs": 2, "log_every_steps": 5, "threads": 1},
    "trackers": ["jsonl"],
    "export": {"onnx": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4,800 rows for training, in sessions of 1 to 24 rows."""
    root = tmp_path_factory.mktemp("clicks")
    write_click_logs(root / "raw", rows=6000, seed=3, files=3, row_group_rows=512)
    rng, sessions = np.random.default_rng(1), 0
    for file in sorted((root / "raw").glob("*/*.parquet")):
        (root / file.parent.name).mkdir(exist_ok=True)
        whole = pq.read_table(file)
        with pq.ParquetWriter(
            root / file.parent.name / file.name, whole.append_column("session", [np.zeros(len(whole), int)]).schema
        ) as writer:
            for start in range(0, len(whole), 512):
                part = whole.slice(start, 512)
                session = np.repeat(np.arange(512), rng.integers(1, 25, 512))[: len(part)] + sessions
                sessions = int(session[-1]) + 1
                writer.write_table(part.append_column("session", [session]))
    dataclasses.replace(Schema.load(root / "raw" / "schema.json"), group="session").save(root / "schema.json")
    return root


def settings(data: Path, model_dir: Path, **overrides: Any) -> config_module.RunConfig:
    given = {"data.root": str(data), "model_dir": str(model_dir)}
    return config_module.load(BASE, {**given, **{k.replace("__", "."): v for k, v in overrides.items()}})


def weights(model_dir: Path) -> dict[str, torch.Tensor]:
    return read(model_dir).model


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=2e-4, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


class Interrupt(Tracker):
    """Ends the process's run, as Ctrl-C does, at the first log from `step` on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: Any, *, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


def test_every_row_is_trained_and_counted(data: Path, tmp_path: Path) -> None:
    result = train(settings(data, tmp_path / "r"))
    assert (result.details["steps"], result.details["rows"]) == (2 * (4800 // 256), 2 * 4800)
    lines = [line for line in read_history(tmp_path / "r" / "metrics.jsonl") if "data/rows" in line]
    by_step = {line["step"]: line["data/rows"] for line in lines}
    assert by_step[18] == 4800
    assert by_step[36] == 9600
    assert any(rows != step * 256 for step, rows in by_step.items())
    assert all(line["rows_per_second"] > 0 for line in lines)


@pytest.mark.parametrize("interrupted_at", [10, 25])
def test_resume_in_the_middle_of_an_epoch_is_bit_equal(data: Path, tmp_path: Path, interrupted_at: int) -> None:
    every = {"checkpoint__every_steps": 4}
    whole = train(settings(data, tmp_path / "whole", **every))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **every), trackers=[Interrupt(interrupted_at)])
    resumed = train(settings(data, tmp_path / "parts", **every), resume="must")
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert not [name for name in a if not torch.equal(a[name], b[name])]
    assert resumed.metrics == whole.metrics
    assert resumed.details["rows"] == 2 * 4800


def test_accumulating_is_one_step_of_the_joined_groups(data: Path, tmp_path: Path) -> None:
    plain = {"model__batch_norm": False, "train__epochs": 1}
    train(settings(data, tmp_path / "joined", **plain))
    train(settings(data, tmp_path / "parts", **plain, data__batch_size=64, train__accumulate_steps=4))
    assert_close(weights(tmp_path / "joined"), weights(tmp_path / "parts"))


@pytest.mark.slow
@pytest.mark.parametrize("accumulate_steps", [1, 2])
def test_two_workers_give_the_numbers_of_one_with_twice_the_batch(
    data: Path, tmp_path: Path, accumulate_steps: int
) -> None:
    # batch norm sees each part on its own; biases before it get a gradient of rounding only: steps of Adam, none of SGD
    plain = {"train__epochs": 1, "train__clip_norm": 1.0, "model__batch_norm": accumulate_steps == 1}
    plain |= {"optimizers__1": {"name": "sgd", "lr": 0.05}}
    parts = {"data__batch_size": 128 // accumulate_steps, "train__accumulate_steps": accumulate_steps}
    train(settings(data, tmp_path / "one", **plain))
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "two", **plain, **parts))
    assert_close(weights(tmp_path / "one"), weights(tmp_path / "two"))
    assert read(tmp_path / "two").state["rows"] == 4800


@pytest.mark.slow
def test_ranks_with_fewer_groups_than_parts_agree_on_the_parts(data: Path, tmp_path: Path) -> None:
    small = {"data__batch_size": 5, "train__accumulate_steps": 3, "train__epochs": None, "train__steps": 60}
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "two", **small, model__batch_norm=True))
    assert read(tmp_path / "two").state["step"] == 60


@pytest.mark.slow
def test_the_number_of_workers_may_change_in_the_middle_of_an_epoch(data: Path, tmp_path: Path) -> None:
    plain = {"train__epochs": 1, "checkpoint__every_steps": 7, "optimizers__1": {"name": "sgd", "lr": 0.05}}
    train(settings(data, tmp_path / "whole", **plain))
    with pytest.raises(KeyboardInterrupt):
        train(settings(data, tmp_path / "parts", **plain), trackers=[Interrupt(10)])
    assert Store(str(tmp_path / "parts")).newest() == "step_0000000007"
    train_in_processes(2, tmp_path / "g", settings(data, tmp_path / "parts", **plain, data__batch_size=128))
    assert (read(tmp_path / "parts").state["step"], read(tmp_path / "parts").state["rows"]) == (18, 4800)
    assert_close(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_what_prepare_clusters_can_be_trained_by_group(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = zip(rng.integers(0, 300, 3000), rng.integers(0, 9, 3000), rng.integers(0, 2, 3000), strict=True)
    (tmp_path / "log.csv").write_text("user,item,click\n" + "".join(f"u{u},{i},{c}\n" for u, i, c in rows))
    recipe: dict[str, Any] = {
        "source": str(tmp_path),
        "out": str(tmp_path / "out"),
        "files": "log.csv",
        "format": {"type": "csv", "header": True},
        "split": {"by": "random", "fractions": {"train": 0.8, "valid": 0.1, "test": 0.1}},
        "labels": [{"name": "click", "expression": "click"}],
        "features": [{"kind": "categorical", "columns": ["item"]}],
        "row_group_rows": 300,
    }
    prepare(recipe)
    plain = {"model": {"name": "lr"}, "optimizers": ["adam"], "data__batch_size": 100, "train__epochs": 1}
    with pytest.raises(ConfigError, match="no group column"):
        check(settings(tmp_path / "out", tmp_path / "r", **plain))
    prepare({**recipe, "cluster_by": "user", "overwrite": True})
    result = train(settings(tmp_path / "out", tmp_path / "r", **plain))
    total = sum(pq.read_metadata(file).num_rows for file in (tmp_path / "out" / "train").glob("*.parquet"))
    assert (result.details["steps"], result.details["rows"]) == (total // 100, total)


def test_with_and_without_groups_are_two_runs(data: Path, tmp_path: Path) -> None:
    short = {"train__epochs": None, "train__steps": 2}
    train(settings(data, tmp_path / "r", **short))
    with pytest.raises(ConfigError, match=r"differs in data\.group_by"):
        train(settings(data, tmp_path / "r", **short, data__group_by=False))
    train(settings(data, tmp_path / "s", **short, data__group_by=False))
    with pytest.raises(ConfigError, match=r"differs in data\.group_by"):
        train(settings(data, tmp_path / "s", **short))


def test_what_would_run_is_said(data: Path, tmp_path: Path) -> None:
    said = validate(settings(data, tmp_path / "r"))
    groups = check(settings(data, tmp_path / "r")).groups
    assert groups is not None
    assert f"267 rows a step on average, of {groups.count / 18:.1f} whole groups, 18 steps an epoch" in said


def test_the_borders_are_read_once_for_runs_of_the_same_data(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = check(settings(data, tmp_path / "r"))
    monkeypatch.setattr("rechub_ray.runtime.preflight.Groups", None)
    assert check(settings(data, tmp_path / "s", data__batch_size=64), like=job).groups is job.groups
    assert check(settings(data, tmp_path / "s", data__group_by=False), like=job).groups is None


def test_what_groups_need(data: Path, tmp_path: Path) -> None:
    without = tmp_path / "schema.json"
    dataclasses.replace(Schema.load(data / "schema.json"), group=None).save(without)
    with pytest.raises(ConfigError, match=r"'data.group_by'.* no group column.*`cluster_by` in the recipe"):
        check(settings(data, tmp_path / "r", data__schema_file=str(without)))
    with pytest.raises(ConfigError, match=r"group \d+ of column 'session' has 24 rows.*16 rows a group.*to 2 or more"):
        check(settings(data, tmp_path / "r", data__batch_size=1))
    check(settings(data, tmp_path / "r", data__batch_size=2))
    shutil.copytree(data / "train", tmp_path / "again")
    twice = settings(data, tmp_path / "r", data__train=["train", str(tmp_path / "again")])
    with pytest.raises(DataError, match=r"the group \d+ of column 'session' lies in row group .*cluster_by"):
        check(twice)
    with pytest.raises(ConfigError, match=r"'scaling.num_workers': 600 workers, of which each needs a group"):
        check(settings(data, tmp_path / "r", data__batch_size=2, scaling__num_workers=600))
