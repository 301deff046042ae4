"""The work of one worker: the same function in this process, on Ray Train workers, and inside a Tune trial."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from typing import Any

import torch
import torch.distributed as dist

from rechub_ray.checkpoint import Store, read
from rechub_ray.data.source import EvalSource, Reader, ThreadReader, TrainSource
from rechub_ray.defaults import evaluation_lists
from rechub_ray.errors import CheckpointError, RechubError, TrainingError
from rechub_ray.evaluation.movement import Movement
from rechub_ray.files import exists, join, masked, open_filesystem, strict_json, write_text
from rechub_ray.fine_tuning import FILE, initialise_from, is_own, transforms_of
from rechub_ray.learner import Learner, Progress
from rechub_ray.loop import Fit, Hooks, schedule_epochs_of, schedule_steps_of
from rechub_ray.negatives.completer import lists_of
from rechub_ray.reports.evidence import Evidence, environment
from rechub_ray.runtime.board import WorkerPlace
from rechub_ray.runtime.preflight import Job
from rechub_ray.runtime.separate import open_evaluator
from rechub_ray.world import World


def execute(job: Job, *, world: World, device: torch.device, reader: Reader, hooks: Hooks) -> dict[str, Any]:
    """Train `job` from its newest checkpoint (or from the start) to the end, then evaluate the test split.

    Returns:
        Plain data: the fields of `FitResult`, `test_metrics`, and `best_checkpoint`.
    """
    config, schema = job.config, job.schema
    store = Store(config.directory(), keep=config.checkpoint.keep)
    _check_shared(store, world)
    train = train_source(job, world, reader)
    learner = Learner(
        config,
        schema,
        world=world,
        device=device,
        total_steps=schedule_steps_of(config, train),
        total_epochs=schedule_epochs_of(config, train),
    )
    wants_report = config.report.page
    movement = Movement(learner.model) if wants_report and world.is_main else None
    progress = _restore(learner, store, world, hooks)
    if config.init_from is not None:  # the weights before are not those that were trained
        movement = Movement(learner.model) if movement is not None and progress.step == 0 else None
    if world.is_main:
        hooks.started(progress.step)
    valid, test = (_eval_source(job, split, world, reader) for split in ("valid", "test"))
    profile = learner.profile() if wants_report else None
    with contextlib.ExitStack() as opened:
        evaluator = None
        if world.is_main and valid is not None and config.train.eval_method == "separate":
            evaluator = opened.enter_context(contextlib.closing(open_evaluator(job)))
        fit = Fit(
            learner, train, valid,
            store=store, hooks=hooks, progress=progress, evaluator=evaluator, profile=profile if test is None else None,
        )  # fmt: skip
        result = fit.run()
    best = world.broadcast(store.best() or store.newest())
    test_metrics: dict[str, float] = {}
    summary = fit.summary
    if test is not None:
        saved = read(join(store.location, best))
        test_metrics = learner.evaluate_saved(saved, test, profile)
        summary = None if profile is None else {"step": saved.state["step"], **profile.summary()}
        if world.is_main:
            hooks.log({f"test/{key}": value for key, value in test_metrics.items()}, step=result.steps)
    if wants_report and world.is_main:
        evidence = Evidence(
            split="valid" if test is None else "test",
            predictions=summary,
            groups=learner.metrics.groups(),
            movement=None if movement is None else movement.since(learner.model),
            environment=environment(device, world),
        )
        evidence.keep(config.directory(), hooks.say)
    return {
        **dataclasses.asdict(result),
        "test_metrics": test_metrics,
        "best_checkpoint": join(store.location, best),
        "workers": world.size,
    }


def train_source(job: Job, world: World, reader: Reader) -> TrainSource:
    """Return the training batches of one worker; a batch holds its rows of one optimizer step."""
    config = job.config
    return TrainSource(
        job.train,
        job.schema,
        batch_size=config.data.batch_size * config.train.accumulate_steps,
        seed=config.seed,
        world=world,
        reader=reader,
        groups=job.groups,
        lists=lists_of(config.negatives or []),
    )


def _eval_source(job: Job, split: str, world: World, reader: Reader) -> EvalSource | None:
    manifest = getattr(job, split)
    if manifest is None:
        return None
    rows = job.config.data.eval_batch_size
    return EvalSource(
        manifest,
        job.schema,
        batch_size=rows,
        world=world,
        reader=reader,
        lists=evaluation_lists(job.config, job.schema),
    )


def _restore(learner: Learner, store: Store, world: World, hooks: Hooks) -> Progress:
    """Load the checkpoint from which the run goes on (rank 0 chooses it, every rank reads it); return its progress."""
    newest = store.read_newest(say=hooks.say) if world.is_main else None
    path = world.broadcast(newest.path if newest is not None else None)
    if path is None:
        config = learner.config
        if config.init_from is not None:
            start = initialise_from(
                learner.model,
                config.init_from,
                config.init_map,
                resize=config.init_resize,
                frozen=learner.frozen,
                transforms=transforms_of(config),
            )
            if world.is_main and not is_own(config):
                write_text(join(config.directory(), FILE), masked(strict_json(start.to_dict())))
        return Progress()
    return learner.restore(newest or read(path, optimizers=True))


def _check_shared(store: Store, world: World) -> None:
    """Check that every worker sees what rank 0 writes: at the start, instead of at the first resume."""
    if world.size == 1:
        return
    filesystem, root = open_filesystem(store.location)
    marker = f"{root}/.shared"
    if world.is_main:
        filesystem.create_dir(root, recursive=True)
        with filesystem.open_output_stream(marker) as stream:
            stream.write(b"")
    world.barrier()
    seen = torch.tensor([int(exists(filesystem, marker))])
    if int(world.sum_(seen).item()) < world.size:
        raise CheckpointError(
            f"model_dir '{store.location}' is not the same folder on every host",
            expected="a shared disk or an object store (s3://...)",
        )


class RemoteHooks:
    """Hooks of a Ray Train worker: events go to the driver's board, checkpoints are reported to Ray."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def started(self, step: int) -> None:
        self._board.push.remote(("started", step))

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        self._board.push.remote(("log", metrics, step))

    def say(self, text: str) -> None:
        self._board.push.remote(("say", text))

    def evaluated(self, epoch: int, score: float) -> None:
        self._board.push.remote(("evaluated", epoch, score))

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        import ray.train

        # every rank reports from this one line (a barrier); the store has written and keeps the files already
        ray.train.report(
            {key: float(value) for key, value in metrics.items()},
            checkpoint=ray.train.Checkpoint(path),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )


def train_loop_per_worker(payload: dict[str, Any]) -> dict[str, Any]:
    """Set a worker of a `TorchTrainer` up, and do its share of the job.

    Args:
        payload: `share` (such as `execute`), `job` (its argument), `config` (the run's), `board` (the driver's actor
            for events), `read_cpus` (what a reading task reserves) and `read` (from what is kept decoded, a
            `SharedBlocks`; None: through Ray Data).
    """
    import importlib

    import ray
    import ray.train.torch

    from rechub_ray.data.ingest import RayReader

    config, board = payload["config"], payload["board"]
    world = World.current(timeout_seconds=config.scaling.collective_timeout_seconds)
    board.join.remote(world.rank, WorkerPlace(ray.util.get_node_ip_address(), os.getpid()))
    try:
        for module in config.imports:
            importlib.import_module(module)
        on_this_host = ray.train.get_context().get_local_world_size()
        torch.set_num_threads(config.train.threads or max(1, len(os.sched_getaffinity(0)) // on_this_host))
        device = torch.device("cpu") if config.train.device == "cpu" else ray.train.torch.get_device()
        kept, stream = payload["read"], RayReader(num_cpus=payload["read_cpus"])
        reader: Reader = stream if kept is None else ThreadReader(read=kept)
        result: dict[str, Any] = payload["share"](
            payload["job"], world=world, device=device, reader=reader, hooks=RemoteHooks(board)
        )
        return result
    except Exception as error:
        if not is_passing(error):
            # reported before it is raised: the exception that Ray makes of it loses its type
            if not isinstance(error, RechubError):
                trace = "".join(traceback.format_exception(error))
                error = TrainingError(f"a worker failed with {type(error).__name__}: {error}\n{trace}")
            ray.get(board.fail.remote(error), timeout=30)
        elif is_timeout(error):
            ray.get(board.gave_up.remote(world.rank, str(error)), timeout=30)
        raise


def is_timeout(error: Exception) -> bool:
    """Return whether this worker has waited for the others for as long as it may."""
    return isinstance(error, TimeoutError) or any(word in str(error).lower() for word in ("timed out", "timeout"))


def is_passing(error: Exception) -> bool:
    """Return whether the same run may get past an error when started again: a lost peer, host, or connection."""
    import ray

    if isinstance(error, RechubError):
        return False
    if isinstance(error, (ConnectionError, TimeoutError, ray.exceptions.RayError, dist.DistError)):
        return True
    return isinstance(error, RuntimeError) and any(
        word in str(error).lower() for word in ("connection", "gloo", "nccl", "timed out", "timeout", "peer")
    )
