"""What is doubtful about a finished run: its scores, and the data that it had."""

from __future__ import annotations

from collections.abc import Mapping

from rechub_ray.data.doubts import doubts, sample
from rechub_ray.errors import RechubError
from rechub_ray.runtime.preflight import Job

_GUESS, _NEAR = 0.5, 0.02
_OF_ORDER = ("auc", "auc_histogram", "xauc")
"""Metrics of which a guess has .5."""


def of_run(job: Job, metrics: Mapping[str, float]) -> list[str]:
    """Return what is to be said at the end of a run, a line each.

    The driver finds it, by the scores that the run reports and by a sample of its shards, so it is the same on workers.

    Args:
        job: the run.
        metrics: of its best evaluation of the validation split.
    """
    lines = of_scores(metrics)
    splits = {"train": job.train, "valid": job.valid, "test": job.test}
    try:
        samples = {name: sample(manifest, job.schema) for name, manifest in splits.items() if manifest is not None}
    except RechubError:  # the files are gone: the run is whole all the same
        return lines
    return lines + doubts(samples, job.schema)


def of_scores(metrics: Mapping[str, float]) -> list[str]:
    """Return a line for each score that is no better than a guess."""
    lines = []
    for key, value in metrics.items():
        if key.rpartition("/")[2] in _OF_ORDER and value < _GUESS + _NEAR:
            what = "worse than a guess, which has" if value < _GUESS - _NEAR else "that of a guess,"
            lines.append(
                f"val/{key} is {value:.4f}, {what} {_GUESS:g}. Look whether labels and features are of the same rows "
                "and the label's values are not turned round, at the learning rates (train/loss should fall), and "
                "at ids that training has not seen"
            )
    return lines
