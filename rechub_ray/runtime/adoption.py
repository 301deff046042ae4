"""Fingerprints for data sets and runs from before there were any."""

from __future__ import annotations

from rechub_ray.checkpoint import read
from rechub_ray.data.fingerprint import find
from rechub_ray.data.plan import Position
from rechub_ray.errors import DataError
from rechub_ray.files import absolute, split
from rechub_ray.preparation import earlier
from rechub_ray.runtime.preflight import check
from rechub_ray.runtime.same_data import check_same
from rechub_ray.runtime.same_encoding import keep_transforms


def adopt(path: str) -> str:
    """Add fingerprints to a data set, or to a run whose data is still that which it began with.

    Args:
        path: folder or URI of a data set, a run or a checkpoint.

    Returns:
        The folder that has them now: the data set, or the run's folder of checkpoints.

    Raises:
        DataError: the run's files are not those that it began with, or its data has no transforms.
        RechubError: the data set, the run or its data cannot be read.
    """
    place = find(absolute(path))
    if place is None:
        saved = read(absolute(path), weights=False)
        job = check(saved.config)
        check_same(job, Position(step=1))
        place = split(saved.path)[0]
        if not keep_transforms(job.config, place):
            raise DataError(
                f"{job.config.data.root} has no transforms whose fingerprint {path} could take",
                expected="a data set that `rechub-ray prepare` wrote",
            )
    earlier.adopt(place)
    return place
