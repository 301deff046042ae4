"""The course of a sweep, from its file to its best model: checks, Ray Tune, `best/`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rechub_ray.config import ScalingSection
from rechub_ray.data.reader import read_piece
from rechub_ray.data.source import ReadPiece
from rechub_ray.errors import CheckpointError, ConfigError, ResourceError, TrainingError
from rechub_ray.files import write_text
from rechub_ray.lock import locked
from rechub_ray.reports import missing, write_report
from rechub_ray.runtime.cluster import connected, nodes_of
from rechub_ray.runtime.preflight import Node, check_memory
from rechub_ray.runtime.same_encoding import check_alike
from rechub_ray.runtime.share import kept, room_for_trials
from rechub_ray.schema import Schema
from rechub_ray.space import Point
from rechub_ray.sweeps import sweep as sweep_module
from rechub_ray.sweeps.console import SweepConsole
from rechub_ray.sweeps.heartbeat import Watchdog
from rechub_ray.sweeps.ledger import FINAL, Ledger, Record
from rechub_ray.sweeps.live import served
from rechub_ray.sweeps.lost import losses_cost_one_trial
from rechub_ray.sweeps.objectives import values_of
from rechub_ray.sweeps.population import Exploit
from rechub_ray.sweeps.refit import Refit, refit
from rechub_ray.sweeps.results import Best, SweepResult, export_stopped, make_best, prune
from rechub_ray.sweeps.schedulers import SCORE, build, rungs
from rechub_ray.sweeps.search import OptunaModel, listed, model_based, numbered
from rechub_ray.sweeps.sweep import CheckedSweep, Sweep, check_sweep
from rechub_ray.sweeps.trial import TrialJob, set_aside, trainable
from rechub_ray.sweeps.watch import Watch, callback, stopper

_SETTINGS = {  # Ray Tune reads these when a sweep starts
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the trials write their own logs
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def tune(
    source: str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    resume: str | Path | None = None,
    verbose: bool = False,
    serve: int | None = None,
) -> SweepResult:
    """Run a sweep and leave its best model in `best/` of its folder.

    Args:
        source: the sweep file, or its content; None with `resume`.
        overrides: `path=value` strings or a mapping; `base.<path>` reaches into the base configuration.
        resume: folder of an interrupted or finished sweep: its finished trials are kept, unfinished ones go on from
            their last checkpoint, and overrides may add trials or lengthen the stop criteria.
        verbose: show progress on stderr: a live table on a terminal, elsewhere a line for each event.
        serve: port of 127.0.0.1 that shows the sweep's page as long as it runs; 0 takes a free one, None serves none.

    Raises:
        ConfigError: both or none of `source` and `resume` are given, a setting is wrong, the folder holds a sweep, or
            the port is not free.
        RechubError: anything else that a user can mend.
        KeyboardInterrupt: after Ctrl-C; what was trained is kept for `resume`.
    """
    if (source is None) == (resume is None):
        raise ConfigError("a sweep needs one of a sweep file and a folder to resume")
    if resume is not None:
        sweep = _resumed(Path(resume), overrides)
    else:
        assert source is not None
        sweep = sweep_module.load(source, overrides)
    checked = check_sweep(sweep)
    sweep = checked.sweep
    directory = sweep.directory()
    with (
        served(directory, serve) if serve is not None else contextlib.nullcontext() as address,
        locked(directory, what="'sweep_dir'", hint="Wait until it has ended, stop it, or name another sweep_dir."),
    ):
        ledger = Ledger(
            directory, checked.space, objectives=checked.objectives, rungs=rungs(sweep.scheduler, checked.epochs)
        )
        if resume is not None:
            ledger.read()
        elif ledger.path.exists():
            raise ConfigError(
                f"'{directory}' holds a sweep already",
                hint=f"Go on with --resume {directory}, or name another sweep_dir.",
            )
        _check_data(checked)
        write_text(f"{directory}/sweep.yaml", sweep_module.dump(sweep))
        # one Ray for the trials and what comes after them; it starts after the console, which shields it from SIGHUP
        cluster = connected(_alone(checked)) if sweep.refit else contextlib.nullcontext()
        with SweepConsole() if verbose else contextlib.nullcontext() as console, cluster:
            for line in (address and f"the sweep's page while it runs: {address}", missing()):
                if console is not None and line:
                    console.say(line)
            return _run(checked, ledger, console)


def _resumed(directory: Path, overrides: Sequence[str] | Mapping[str, Any]) -> Sweep:
    if not (directory / "sweep.yaml").is_file():
        raise CheckpointError(f"no sweep to resume in '{directory}'", expected="a folder with sweep.yaml")
    old = sweep_module.load(directory / "sweep.yaml")
    new = sweep_module.load(directory / "sweep.yaml", overrides).model_copy(update={"sweep_dir": str(directory)})
    changeable = {
        "trials",
        "stop",
        "max_concurrent",
        "resources",
        "keep",
        "refit",
        "retries",
        "share_data",
        "sweep_dir",
    }
    for key in Sweep.model_fields:
        if key not in changeable and getattr(old, key) != getattr(new, key):
            raise ConfigError(f"'{key}' cannot change when a sweep is resumed", expected=", ".join(sorted(changeable)))
    return new


def _check_data(checked: CheckedSweep) -> None:
    """Check that a sweep goes on with data that is encoded as it was; note how in `schema.json`."""
    file, job = Path(checked.sweep.directory(), "schema.json"), checked.job
    if file.is_file():
        check_alike(Schema.load(file), job.schema, "base.data.root", job.config.data.root, of=str(file.parent))
    write_text(str(file), json.dumps(job.schema.to_dict(), indent=1))


def _run(checked: CheckedSweep, ledger: Ledger, console: SweepConsole | None) -> SweepResult:
    sweep, directory, began = checked.sweep, checked.sweep.directory(), time.time()
    waiting, total = _queue(checked, ledger)
    watch = Watch(checked, ledger, total=total, console=console)
    before = _earlier(directory)
    earlier = float(before["wall_seconds"])
    facts: dict[str, Any] = {
        "name": sweep.name,
        "metric": checked.metric,
        "mode": checked.mode,
        "objectives": [objective.model_dump() for objective in checked.objectives],
        "front": [],
        "search": sweep.search.name,
        "scheduler": sweep.scheduler.name,
        "rungs": ledger.rungs,
        "trials": total,
        "epochs": checked.epochs,
        "concurrency": before["concurrency"],
        "resources": {**sweep.resources.model_dump(), "workers": checked.workers},
        "finished": False,
        "ended_because": None,
        "refit": None,
        "wall_seconds": earlier,
    }
    watch.check_budget()
    if waiting and not watch.is_over():
        with connected(_alone(checked)) as ray, _environment(len(waiting)):
            nodes = nodes_of(ray)
            places = concurrency(sweep, nodes, len(waiting), checked.workers)
            check_memory(checked.job, nodes, at_once=places.limit)
            facts["concurrency"] = max(before["concurrency"], places.limit)
            watch.say(places.arithmetic)
            write_text(f"{directory}/sweep.json", json.dumps(facts, indent=1))
            with kept(room_for_trials(checked.job, say=watch.say) if sweep.share_data else 0) as read:
                _fit(checked, ledger, watch, waiting, places, read or read_piece)
    if watch.ending is not None:
        ledger.end_all(watch.ending)
    done = len(ledger.records) >= total and all(record["status"] in FINAL for record in ledger)
    ledger.write()
    facts.update(
        wall_seconds=earlier + time.time() - began,
        finished=done or watch.ending is not None,
        ended_because=watch.ending or ("every trial is done" if done else "interrupted"),
    )
    # Ray Tune ends in order at the first Ctrl-C; `best/` and the report wait for the end of the sweep
    is_interrupted = not facts["finished"] and any(record["status"] not in FINAL for record in ledger)
    if is_interrupted or not any(record["score"] is not None for record in ledger):
        write_text(f"{directory}/sweep.json", json.dumps(facts, indent=1))
        if not facts["finished"]:
            raise KeyboardInterrupt
        reasons = sorted({str(record["reason"]) for record in ledger if record["reason"]})
        got = "; ".join(reasons[:3]) or facts["ended_because"]
        raise TrainingError("no trial of the sweep came to an evaluation", got=got)
    best = make_best(checked, ledger)
    if facts["finished"]:
        export_stopped(checked, ledger, watch.say)
        prune(checked, ledger)
    again = _refit(sweep, best, watch) if facts["finished"] and sweep.refit else None
    facts["refit"] = dataclasses.asdict(again) if again is not None else None
    facts["best_trial"] = best.record["trial_id"]
    facts["front"] = [record["trial_id"] for record in ledger.front()]
    facts["wall_seconds"] = earlier + time.time() - began
    write_text(f"{directory}/sweep.json", json.dumps(facts, indent=1))
    try:
        watch.say(f"report: {write_report(directory)}")
    except Exception as error:  # the sweep is done
        watch.say(f"no report: {type(error).__name__}: {error}")
    return SweepResult(
        directory=directory,
        metric=checked.metric,
        is_finished=facts["finished"],
        best=best.record,
        front=ledger.front(),
        objectives=checked.objectives,
        trials=list(ledger),
        best_checkpoint=best.checkpoint,
        onnx=best.onnx,
        refit=again,
    )


def _alone(checked: CheckedSweep) -> ScalingSection:
    """Return how to join Ray, without workers: `concurrency` decides what a trial reserves."""
    return checked.job.config.scaling.model_copy(update={"num_workers": 0})


def _refit(sweep: Sweep, best: Best, watch: Watch) -> Refit:
    wanted = sweep.resources
    bundle = {"CPU": wanted.cpus} | ({"GPU": wanted.gpus} if wanted.gpus else {})
    trial = best.record["trial_id"]
    return refit(sweep.directory(), trial, bundle=bundle, retries=sweep.retries, say=watch.say)


def _earlier(directory: str) -> dict[str, Any]:
    """Return what earlier starts of the sweep left in sweep.json."""
    path = Path(directory, "sweep.json")
    return {"wall_seconds": 0.0, "concurrency": 0, **(json.loads(path.read_text()) if path.is_file() else {})}


def _queue(checked: CheckedSweep, ledger: Ledger) -> tuple[list[str | None], int]:
    """Return ids of the trials to run, unfinished ones first, and the number of trials of the whole sweep.

    Model-based searches choose the rest of their points later; the list holds None for each of those.
    """
    sweep, seed = checked.sweep, int(checked.job.config.seed)
    queue: list[str | None] = []
    for record in ledger:
        if record["status"] not in FINAL or record["goes_on"]:
            record.update(status="pending", reason=None, goes_on=False)
            queue.append(record["trial_id"])
    total = max(checked.total_points() * sweep.seeds, len(ledger.records))
    points = checked.planned()
    for number in range(len(ledger.records), min(len(points) * sweep.seeds, total)):
        record = ledger.open(points[number // sweep.seeds], seed + number % sweep.seeds, number // sweep.seeds)
        queue.append(record["trial_id"])
    ledger.write()
    return [*queue, *[None] * (total - len(ledger.records))], total


@dataclasses.dataclass(frozen=True)
class Places:
    """How many trials run at the same time, and what each of them reserves.

    Args:
        limit: trials at the same time.
        bundles: what a trial reserves, all of it or nothing: one a worker, and more where `max_concurrent` needs it.
        arithmetic: how the limit follows from the cluster, as text.
    """

    limit: int
    bundles: list[dict[str, float]]
    arithmetic: str


def concurrency(sweep: Sweep, nodes: list[Node], trials: int, workers: int) -> Places:
    """Return how many trials run at the same time, and what each reserves.

    Trials cannot block each other: a trial gets the places of all its workers at once or none, all places are of one
    size, and the limit is set by what trials reserve, so that one that waits for others (HyperBand) holds no place.

    Args:
        sweep: its `resources` and `max_concurrent` count.
        nodes: the hosts.
        trials: number of trials to run.
        workers: processes of a trial.

    Raises:
        ResourceError: not even one trial fits.
    """
    wanted = sweep.resources

    def places(cpus: float) -> int:
        return sum(_fitting(node, cpus, wanted.gpus) for node in nodes)

    fit = places(wanted.cpus) // workers
    if fit < 1:
        by = f"{workers} workers of {wanted.cpus:g} CPU and {wanted.gpus:g} GPU, each on one host"
        raise ResourceError(
            "not even one trial fits the cluster",
            expected=by if workers > 1 else f"{wanted.cpus:g} CPU and {wanted.gpus:g} GPU on one host",
            got="; ".join(f"{n.cpus:g} CPU, {n.gpus:g} GPU" for n in nodes),
            hint="Use a smaller resources.cpus or resources.gpus"
            + (", or base.scaling.num_workers." if workers > 1 else "."),
        )
    limit, cpus, count = fit, wanted.cpus, workers
    if sweep.max_concurrent is not None and sweep.max_concurrent < fit:
        limit, cpus, count = _reserved(sweep, nodes, places, workers)
    hosts = " + ".join(f"{n.cpus:g}" for n in nodes)
    text = (
        f"{min(limit, trials)} trials at a time: {hosts} CPU on {len(nodes)} host(s) / {wanted.cpus:g} CPU"
        + (f" and {wanted.gpus:g} GPU" if wanted.gpus else "")
        + f" each = {places(wanted.cpus)} places"
        + (f" / {workers} workers a trial = {fit} trials" if workers > 1 else "")
        + (f", max_concurrent {sweep.max_concurrent}" if sweep.max_concurrent else "")
        + f", {trials} trials to run"
    )
    bundle = {"CPU": cpus} | ({"GPU": wanted.gpus} if wanted.gpus else {})
    return Places(min(limit, trials), [bundle] * count, text)


def _fitting(node: Node, cpus: float, gpus: float) -> int:
    by_cpu = math.floor(node.cpus / cpus + 1e-9)
    return min(by_cpu, math.floor(node.gpus / gpus + 1e-9)) if gpus else by_cpu


def _reserved(sweep: Sweep, nodes: list[Node], places: Callable[[float], int], workers: int) -> tuple[int, float, int]:
    """Return trials at a time, CPU of a place and places of a trial, so that at most `max_concurrent` trials fit.

    Makes places larger where that is enough, else reserves more of them than there are workers.
    """
    wanted, most = sweep.resources.cpus, sweep.max_concurrent or 1
    sizes = {wanted} | {
        math.floor(n.cpus / k * 1e4) / 1e4 for n in nodes for k in range(1, math.floor(n.cpus / wanted + 1e-9) + 1)
    }
    found = []
    for size in sizes:
        count = max(workers, places(size) // (most + 1) + 1)
        found.append((places(size) // count, -count, -size))
    limit, count, size = max(found)
    return limit, -size, -count


@contextlib.contextmanager
def _environment(trials: int) -> Iterator[None]:
    before = {key: os.environ.get(key) for key in [*_SETTINGS, "TUNE_MAX_PENDING_TRIALS_PG"]}
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # Watch reports the events, in one line each
    os.environ.update(_SETTINGS, TUNE_MAX_PENDING_TRIALS_PG=str(min(trials, 64)))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    try:
        with warnings.catch_warnings(), losses_cost_one_trial():
            warnings.filterwarnings("ignore", module="sklearn.gaussian_process")  # of each fit of pb2's model
            yield
    finally:
        logger.setLevel(level)
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)  # Tune leaves its own behind, which swallows the next Ctrl-C
        for key, value in before.items():
            os.environ.pop(key, None) if value is None else os.environ.__setitem__(key, value)


def _fit(
    checked: CheckedSweep,
    ledger: Ledger,
    watch: Watch,
    waiting: list[str | None],
    places: Places,
    read: ReadPiece,
) -> None:
    import ray.tune

    sweep, directory = checked.sweep, checked.sweep.directory()
    shared = TrialJob(
        base={**sweep.base, "model_dir": None},
        job=checked.job,
        space=checked.space,
        directory=f"{directory}/trials",
        group=sweep.name,
        metric=checked.metric,
        mode=checked.mode,
        objectives=checked.objectives,
        bundle=places.bundles[0],
        read=read,
    )

    def given(record: Record) -> dict[str, Any]:
        return {**record["point"], "_trial": record["trial_id"], "_seed": record["seed"]}

    def opened(point: Point) -> dict[str, Any]:
        record = ledger.open(point, int(checked.job.config.seed), len(ledger.records))
        ledger.write()
        return given(record)

    def exploited(exploit: Exploit) -> None:
        set_aside(exploit.checkpoint, f"{shared.directory}/{exploit.trial['_trial']}")
        ledger.exploit(exploit)
        watch.say(f"{exploit.trial['_trial']}: goes on from a copy of {exploit.donor['_trial']}")

    watchdog = Watchdog(shared.directory, checked.job.config.scaling.collective_timeout_seconds)
    # another seed at each start: a model that starts again must not repeat its first points
    inner = model_based(sweep.search, checked.space, checked.objectives, seed=sweep.seed + len(ledger.records))
    if isinstance(inner, OptunaModel):  # the only one that takes earlier trials
        for record in ledger:
            values = values_of(record, checked.objectives)
            if values is not None and record["status"] in FINAL:
                inner.add(record["point"], values)
    known = [given(record) for record in map(ledger.records.__getitem__, filter(None, waiting))]
    if inner is None:
        algorithm, param_space = listed(known)
    else:
        algorithm, param_space = numbered(known, inner, len(waiting), opened, objectives=checked.objectives), {}
    tuner = ray.tune.Tuner(
        ray.tune.with_resources(trainable(shared), ray.tune.PlacementGroupFactory(places.bundles)),
        param_space=param_space,
        tune_config=ray.tune.TuneConfig(
            metric=SCORE,
            mode=checked.mode,
            search_alg=algorithm,
            scheduler=build(
                sweep.scheduler,
                checked.space,
                epochs=checked.epochs,
                takes_turns=places.limit < len(waiting),
                exploited=exploited,
            ),
            num_samples=len(waiting),
            reuse_actors=True,
        ),
        run_config=ray.tune.RunConfig(
            name=f"start-{int(time.time() * 1000)}",
            storage_path=f"{directory}/ray",
            stop=stopper(watch),
            callbacks=[callback(watch, watchdog)],
            failure_config=ray.tune.FailureConfig(max_failures=sweep.retries),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        watch.leave()
