"""Evaluation beside training: a process of its own reads each checkpoint and answers with its metrics."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import queue
import subprocess
import sys
import threading
import traceback
from typing import IO, Any

import torch

from rechub_ray.data.source import ThreadReader
from rechub_ray.errors import RechubError, TrainingError
from rechub_ray.loop import Evaluator
from rechub_ray.runtime.inference import InferenceJob, infer
from rechub_ray.runtime.preflight import Job
from rechub_ray.world import World

Answer = dict[str, float] | RechubError

_HINT = (
    "The same command goes on from the last checkpoint, and evaluates this one again; train.eval_method=workers "
    "evaluates in the processes that train."
)


def open_evaluator(job: Job) -> Evaluator:
    """Return what evaluates checkpoints of a run beside it: a process on this host, or an actor of the run's Ray."""
    assert job.valid is not None
    split = InferenceJob(checkpoint="", config=job.config, schema=job.schema, manifest=job.valid)
    return ProcessEvaluator(split) if job.config.scaling.num_workers == 0 else RayEvaluator(split)


def answer(job: InferenceJob) -> Answer:
    """Return the metrics of a checkpoint, on the CPU, or the error that its evaluation ends with."""
    try:
        reader = ThreadReader(threads=job.config.data.read_threads)
        return infer(job, world=World(), device=torch.device("cpu"), reader=reader)
    except RechubError as error:
        return error
    except Exception as error:
        trace = "".join(traceback.format_exception(error))
        return TrainingError(f"the evaluation beside training failed with {type(error).__name__}: {error}\n{trace}")


class ProcessEvaluator:
    """Evaluates in a child process, which ends with this one: what it reads from ends then.

    Args:
        job: the split; the checkpoint's place is left open.
    """

    def __init__(self, job: InferenceJob) -> None:
        # a module of its own, not multiprocessing, whose children run the user's script again
        self._child = subprocess.Popen(
            [sys.executable, "-c", f"import {__name__} as beside; beside.serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is the run's
        )
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="rechub-evaluation", daemon=True).start()
        self._send(job)

    def start(self, path: str) -> None:
        self._send(path)

    def result(self, seconds: float) -> dict[str, float] | None:
        try:
            found = self._answers.get(timeout=seconds)
        except queue.Empty:
            return None
        if found is None:
            raise TrainingError(
                "the process that evaluates has ended",
                got=f"exit code {self._child.wait()}",
                hint=f"Where its host ran out of memory, it was killed (-9). {_HINT}",
            )
        return _metrics(found)

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                _there(pipe).close()

    def _send(self, value: Any) -> None:
        with contextlib.suppress(OSError):  # it has ended, which `result` says
            pickle.dump(value, _there(self._child.stdin))
            _there(self._child.stdin).flush()

    def _listen(self) -> None:
        try:
            while True:
                self._answers.put(pickle.load(_there(self._child.stdout)))
        except (EOFError, OSError, ValueError, pickle.UnpicklingError):
            self._answers.put(None)


class RayEvaluator:
    """Evaluates in an actor with CPUs of its own, on any host; it ends with the worker that made it.

    An evaluation whose actor is lost is done once more, in a new one.

    Args:
        job: the split; the checkpoint's place is left open.
    """

    def __init__(self, job: InferenceJob) -> None:
        import ray

        actor = ray.remote(
            num_cpus=job.config.scaling.eval_cpus,
            max_restarts=-1,  # hosts may be lost often in a long run
            max_task_retries=1,
            scheduling_strategy="SPREAD",  # never among what is reserved for the workers
        )(CheckpointEvaluator)
        self._actor = actor.remote(job)
        self._reference: Any = None

    def start(self, path: str) -> None:
        self._reference = self._actor.evaluate.remote(path)

    def result(self, seconds: float) -> dict[str, float] | None:
        import ray

        try:
            found: Answer = ray.get(self._reference, timeout=seconds)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise TrainingError(
                "the actor that evaluates was lost twice in one evaluation",
                got=lines[0] if lines else type(error).__name__,
                hint=f"Where its host ran out of memory, it was killed. {_HINT}",
            ) from None
        return _metrics(found)

    def close(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._actor)


class CheckpointEvaluator:
    """Evaluates one checkpoint after the other.

    Args:
        job: as for `RayEvaluator`.
    """

    def __init__(self, job: InferenceJob) -> None:
        self._job = job
        torch.set_num_threads(job.config.train.eval_threads)

    def evaluate(self, path: str) -> Answer:
        return answer(dataclasses.replace(self._job, checkpoint=path))


def _metrics(found: Answer) -> dict[str, float]:
    if isinstance(found, RechubError):
        raise found
    return found


def _there(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


def serve() -> None:
    """Answer the paths on standard input, until it ends: the child's side of `ProcessEvaluator`."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between
    try:
        job = pickle.load(sys.stdin.buffer)
        torch.set_num_threads(job.config.train.eval_threads)
        while True:
            path = pickle.load(sys.stdin.buffer)
            pickle.dump(answer(dataclasses.replace(job, checkpoint=path)), answers)
            answers.flush()
    except (EOFError, BrokenPipeError):
        return
