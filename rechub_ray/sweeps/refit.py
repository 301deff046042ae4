"""The winner trained once more, on train + validation, for as long as it took to its best score."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.config import RunConfig
from rechub_ray.data.plan import Position
from rechub_ray.errors import ConfigError, ExportError, RechubError
from rechub_ray.files import write_text
from rechub_ray.runtime.launch import train
from rechub_ray.runtime.preflight import Job, check
from rechub_ray.runtime.same_encoding import keep_transforms
from rechub_ray.sweeps.exports import copy_exports, exported
from rechub_ray.sweeps.group import train_trial
from rechub_ray.sweeps.heartbeat import Watchdog, beating

_OUTCOME = "refit.json"
_LOOK_SECONDS = 1.0


@dataclasses.dataclass(frozen=True)
class Refit:
    """How the refit went; its files are in `best/refit/`.

    Args:
        trial_id: the trial whose configuration was trained again.
        epochs: epochs trained.
        checkpoint: path of the result; None where the refit failed.
        onnx: path of the ONNX file; None without one.
        test_metrics: metrics of the test split; empty without one.
        seconds: time of the training run.
        error: why the refit failed, or has no ONNX file.
    """

    trial_id: str
    epochs: float
    checkpoint: str | None = None
    onnx: str | None = None
    test_metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


def check_refit(job: Job) -> None:
    """Check that a run can be trained again without its validation split.

    Raises:
        ConfigError: a part of it depends on the validation's scores.
    """
    try:
        check(refit_config(job, epochs=1.0, directory=job.config.directory()))
    except RechubError as error:
        raise ConfigError(
            f"'refit' trains without a validation split: {error.message}", got=error.got, hint="Add refit=false."
        ) from None


def refit_config(job: Job, *, epochs: float, directory: str) -> RunConfig:
    """Return a run on the training and the validation rows of another one, that ends after `epochs` and nowhere else.

    Learning-rate schedules run over as many epochs as those of the other run, so that the rate of an epoch is the
    same. There is a checkpoint at least once an epoch.
    """
    config, data = job.config, job.config.model_dump(mode="json")
    whole = config.train.epochs or (config.train.steps or 1) / job.steps_per_epoch
    per_epoch = int((job.train.rows + (job.valid.rows if job.valid else 0)) / job.rows_per_step)
    trained = data["data"]["train"]
    splits = [*([trained] if isinstance(trained, str) else trained), data["data"]["valid"]]
    data["data"].update(train=splits, valid=None)
    is_whole = float(epochs).is_integer()
    data["train"].update(
        epochs=int(epochs) if is_whole else None,
        steps=None if is_whole else max(round(epochs * per_epoch), 1),
        schedule_epochs=config.train.schedule_epochs or whole,
    )
    data["train"]["early_stopping"]["patience"] = None
    data["checkpoint"]["every_steps"] = min(config.checkpoint.every_steps or per_epoch, per_epoch)
    data["trackers"] = [node for node in data["trackers"] if node["name"] != "console"]
    data.update(name=f"{config.name}_refit", model_dir=directory)
    return config_module.validate(data)


def refit(
    directory: str, trial_id: str, *, bundle: Mapping[str, float], retries: int, say: Callable[[str], None]
) -> Refit:
    """Train the run in `best/` of a sweep's folder again and put the result into `best/refit/`.

    An interrupted refit goes on from its last checkpoint in `refit/`, a finished one is only copied. An error
    becomes part of the result, because the sweep itself is done.

    Args:
        directory: the sweep's folder.
        trial_id: the winner.
        bundle: what each process of the training reserves.
        retries: further starts after a process was lost.
        say: takes lines on the progress.
    """
    best, folder = Path(directory, "best"), f"{directory}/refit/{trial_id}"
    saved = read(best / "checkpoint")
    job = check(saved.config)
    position = Position.from_dict(saved.state["position"])
    epochs = position.epoch + min(position.rows_done / job.train.rows, 1.0)
    run = refit_config(job, epochs=epochs, directory=folder)
    told = Refit(trial_id=trial_id, epochs=epochs)
    outcome = _finished(folder, run)
    if outcome is None:
        say(f"refit: {trial_id} again on {' + '.join(run.data.train)}, {epochs:g} epochs")
        outcome = _train_somewhere(run, bundle=bundle, retries=retries)
        if "test_metrics" not in outcome:
            say(f"refit: {outcome['error']}")
            return dataclasses.replace(told, error=outcome["error"])
        write_text(f"{folder}/{_OUTCOME}", json.dumps({**outcome, "config": _comparable(run)}, indent=1))
    onnx = exported(folder)
    told = dataclasses.replace(
        told,
        checkpoint=str(best / "refit" / "checkpoint"),
        onnx=onnx and str(best / "refit" / onnx),
        **{key: outcome[key] for key in ("test_metrics", "seconds", "error")},
    )
    _place(best, folder, told, run)
    for other in Path(directory, "refit").iterdir():  # of an earlier winner
        if other.name != trial_id:
            shutil.rmtree(other)
    return told


def _comparable(run: RunConfig) -> dict[str, Any]:
    """Return the settings that decide the result; the folder may have been moved."""
    return run.model_dump(mode="json", exclude={"model_dir", "scaling", "trackers"})


def _finished(folder: str, run: RunConfig) -> dict[str, Any] | None:
    try:
        outcome: dict[str, Any] = json.loads(Path(folder, _OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome if outcome["config"] == _comparable(run) else None


def _train_somewhere(run: RunConfig, *, bundle: Mapping[str, float], retries: int) -> dict[str, Any]:
    """Train in one process, or as many as a trial has, each on a host that has what a trial's process reserves."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    size, patience = run.processes, run.scaling.start_timeout_seconds
    group = ray.util.placement_group([dict(bundle)] * size)
    above, name = os.path.split(run.directory())
    watchdog = Watchdog(above, run.scaling.collective_timeout_seconds)
    outcome: dict[str, Any] = {
        "error": f"no room for the refit: {size} x {dict(bundle)}, {patience:g} s long; --resume tries again"
    }
    try:
        task = ray.remote(num_cpus=bundle["CPU"], num_gpus=bundle.get("GPU", 0), max_retries=0)(_train_alive)
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        for _ in range(retries + 1):
            if not group.wait(patience):
                break
            killed = None
            future = task.options(scheduling_strategy=place).remote(run.model_dump(mode="json"), bundle)
            while not ray.wait([future], timeout=_LOOK_SECONDS)[0]:
                killed = watchdog.look([name]).get(name, killed)
            try:
                outcome = ray.get(future)
                break
            except ray.exceptions.RayError as error:  # a lost process, memory: another start may get past it
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                outcome = {"error": killed or lines[-1]}
    finally:
        ray.util.remove_placement_group(group)  # whatever runs in it ends
    return outcome


def _train_alive(settings: dict[str, Any], bundle: Mapping[str, float]) -> dict[str, Any]:
    """Do the work of `_train`, and say meanwhile that this process is alive."""
    with beating(settings["model_dir"], settings["scaling"]["collective_timeout_seconds"]):
        return _train(settings, bundle)


def _train(settings: dict[str, Any], bundle: Mapping[str, float]) -> dict[str, Any]:
    """Train from where the run stands; return an error that a user can mend as text, as Ray's errors lose its type."""
    missing = None
    executor = functools.partial(train_trial, bundle=bundle)
    try:
        config = config_module.validate(settings)
        try:
            result = train(config, executor=executor)
        except ExportError as error:
            missing = f"no ONNX: {error}"
            export = config.export.model_copy(update={"onnx": False})
            result = train(config.model_copy(update={"export": export}), executor=executor)  # it is trained already
    except RechubError as error:
        return {"error": str(error)}
    return {"test_metrics": result.test_metrics, "seconds": result.details["seconds"]["run"], "error": missing}


def _place(best: Path, folder: str, told: Refit, run: RunConfig) -> None:
    """Fill `best/refit/`, whole or not at all, and note the refit in `best/metrics.json`."""
    new = best / ".refit"
    shutil.rmtree(new, ignore_errors=True)
    store = Store(folder)
    shutil.copytree(f"{store.location}/{store.newest()}", new / "checkpoint")
    copy_exports(folder, new)
    (new / "config.yaml").write_text(config_module.dump(run), encoding="utf-8")
    keep_transforms(run, str(new))
    metrics = json.loads((best / "metrics.json").read_text(encoding="utf-8"))
    own = {
        "trial_id": told.trial_id,
        "trained_on": run.data.train,
        "epochs": told.epochs,
        "test_metrics": told.test_metrics,
        "error": told.error,
    }
    (new / "metrics.json").write_text(
        json.dumps({**own, "test_metrics_of_the_trial": metrics["test_metrics"]}, indent=1), encoding="utf-8"
    )
    shutil.rmtree(best / "refit", ignore_errors=True)
    new.rename(best / "refit")
    write_text(str(best / "metrics.json"), json.dumps({**metrics, "refit": own}, indent=1))
