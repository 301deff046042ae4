from __future__ import annotations

import math

import pandas as pd
import pytest

from rechub_ray.errors import DataError
from rechub_ray.tracking import CsvTracker


def text(run):
    return (run.directory / "metrics.csv").read_text()


def test_lines_are_there_at_once_and_columns_grow(run):
    tracker = CsvTracker(run())
    tracker.log({"epoch": 0, "train/loss": 0.5}, step=10)
    assert text(run()) == "step,epoch,train/loss\n10,0,0.5\n"  # not closed yet
    tracker.log({"val/auc": 0.75}, step=10)
    assert text(run()) == "step,epoch,train/loss,val/auc\n10,0,0.5,\n10,,,0.75\n"
    tracker.log({"train/loss": 0.25, "epoch": 1}, step=20)
    tracker.close()
    assert text(run()).splitlines()[-1] == "20,1,0.25,"


def test_pandas_reads_every_number_back(run):
    tracker = CsvTracker(run())
    name = 'val/a "quoted", ünicode/auc'
    tracker.log({"train/loss": math.nan, name: 1 / 3}, step=1)
    tracker.log({"train/loss": math.inf}, step=2)
    tracker.close()
    table = pd.read_csv(run().directory / "metrics.csv")
    assert list(table.columns) == ["step", "train/loss", name]
    assert table[name][0] == 1 / 3
    assert math.isnan(table["train/loss"][0])
    assert math.isinf(table["train/loss"][1])


def test_resume_drops_the_steps_that_are_trained_again(run):
    tracker = CsvTracker(run())
    for step in (10, 20, 30):
        tracker.log({"train/loss": 1 / step}, step=step)
    tracker.close()
    path = run().directory / "metrics.csv"
    with path.open("a") as file:
        file.write("40,0.0")  # cut off
    tracker = CsvTracker(run(resumed=True, start_step=20))
    tracker.log({"train/loss": 7.0, "val/auc": 0.5}, step=30)
    tracker.close()
    table = pd.read_csv(path)
    assert list(table["step"]) == [10, 20, 30]
    assert list(table["train/loss"]) == [0.1, 0.05, 7.0]
    CsvTracker(run()).close()
    assert path.read_text() == "step\n"


def test_a_foreign_file_is_named(run):
    run().directory.mkdir()
    (run().directory / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"metrics.csv is not a table of metrics. Expected: 'step' as the first"):
        CsvTracker(run(resumed=True))
