"""TensorBoard event files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

FOLDER = "tensorboard"
_FLUSH_SECONDS = 10


@TRACKERS.register("tensorboardx")
class TensorBoardXTracker(Tracker):
    """Scalars under their own names, and a row of TensorBoard's HPARAMS tab; see them with `tensorboard --logdir DIR`.

    Files go to `tensorboard/` in the run's directory. A resumed run adds a file which tells TensorBoard to forget the
    numbers of the steps that are trained again. The tab shows the flat configuration, and the last value of each
    scalar, `best/<metric>` among them; TensorBoard finds out by itself which of them the runs below DIR have.
    """

    is_summary = True

    def __init__(self, run: RunInfo) -> None:
        super().__init__(run)
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(
            logdir=str(run.directory / FOLDER),
            purge_step=run.start_step + 1 if run.resumed else None,
            flush_secs=_FLUSH_SECONDS,
            # files are named by the second: a run that resumes within the same one must not overwrite its past
            filename_suffix=f".{time.time_ns()}",
        )
        self._step = run.start_step
        self._is_described = False

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._step = step
        self._write(metrics)

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:
        from tensorboardX.summary import hparams

        columns = {
            name: value if isinstance(value, bool | int | float) else str(value) for name, value in config.items()
        }
        best = {f"best/{name}": float(value) for name, value in score.items()}
        # the writer's own add_hparams would open a second run, apart from this one's curves. The first summary is left
        # out: it lists the columns, and TensorBoard would take one run's list for all
        _, start, end = hparams(columns, best)
        if not self._is_described:
            self._writer.file_writer.add_summary(start)
            self._is_described = True
        if score:
            self._writer.file_writer.add_summary(end)
            self._write(best)

    def close(self) -> None:
        self._writer.close()

    def _write(self, numbers: Mapping[str, float]) -> None:
        from tensorboardX.proto.summary_pb2 import Summary

        # one event for all; the writer's add_scalar would also warn of each NaN, which is shown like any number
        values = [Summary.Value(tag=name, simple_value=float(value)) for name, value in numbers.items()]
        self._writer.file_writer.add_summary(Summary(value=values), self._step)
