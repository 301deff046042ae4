"""The check that data is encoded as a run's own was, by the fingerprints that lie in their schemas."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

from rechub_ray.checkpoint import Checkpoint
from rechub_ray.config import RunConfig
from rechub_ray.data.fingerprint import FILE, encodings_in, find, homes, is_there, keep
from rechub_ray.errors import DataError, RechubError, SchemaError
from rechub_ray.files import join
from rechub_ray.fine_tuning import transforms_of
from rechub_ray.schema import Schema

_log = logging.getLogger(__name__)


def check_encoding(
    schema: Schema,
    config: RunConfig,
    places: Mapping[str, str | Sequence[str] | None],
    *,
    of: str,
    targets: bool = True,
) -> None:
    """Check that each data set is encoded as the features of `schema` are; say where that cannot be known.

    Args:
        schema: what the data is compared with, of the features in use.
        config: its `data.root` and `data.schema_file`.
        places: files and folders of shards, by the configuration key that names them.
        of: the data set or checkpoint that has `schema`.
        targets: the labels are read too.

    Raises:
        DataError: a data set differs; names it and the features.
    """
    for key, home, theirs in _data_sets(config, places):
        check_alike(schema, theirs, key, home, of=of, targets=targets)
        known, is_prepared = is_known(schema), is_there(join(home, FILE))
        if is_prepared and not is_known(theirs):
            _log.warning(
                "%s has no fingerprint, so other data that is put in its place would go unnoticed; "
                "`rechub-ray prepare --adopt %s` adds it",
                home,
                home,
            )
        elif is_prepared and not known:
            _log.warning(
                "%s has no fingerprint of its data, so %s was not compared with it; `rechub-ray prepare --adopt %s` "
                "adds it",
                of,
                home,
                of,
            )


def check_alike(before: Schema, now: Schema, key: str, home: str, *, of: str, targets: bool = True) -> None:
    """Check that a data set is made of raw values as that of a run is.

    Args:
        before: that of the run.
        now: that of the data set.
        key: of the configuration, which names the data set.
        home: the data set.
        of: the other data set, or the run or checkpoint.
        targets: the labels are read too.

    Raises:
        DataError: it is not; names the features and labels, with an example.
    """
    features = before.encoded_otherwise(now)
    labels = before.labelled_otherwise(now) if targets else {}
    named = [f"'{name}' ({said})" for name, said in {**features, **labels}.items()]
    if not named:
        return
    listed = ", ".join(named[:5]) + (f" and {len(named) - 5} more" if len(named) > 5 else "")
    what = "vocabularies or transforms" if features else "expressions of its labels"
    same_label = "Prepare it with the label's earlier expression, or give the new label a name of its own."
    raise DataError(
        f"'{key}': {home} was prepared with other {what} than the data of {of}: {listed}",
        got=_example(home, of, features) if features else None,
        hint=f"`rechub-ray prepare RECIPE --like {of}` encodes new rows as that data is." if features else same_label,
    )


def _example(home: str, of: str, names: Iterable[str]) -> str | None:
    """Return one difference of two data sets' transforms; None where one of them is not there any more."""
    from rechub_ray.preparation import Encoder  # it takes a while, and only errors need it

    place, place_before = find(home), find(of)
    if place is None or place_before is None:
        return None
    with contextlib.suppress(RechubError, StopIteration):
        now, before = Encoder.load(place), Encoder.load(place_before)
        return next((text for name in names if (text := now.difference(before, name)) is not None), None)
    return None


def trained_on(checkpoint: Checkpoint) -> Schema:
    """Return a checkpoint's schema; where it has no fingerprints, with those of the transforms that its run keeps."""
    place = None if is_known(checkpoint.schema) else find(checkpoint.path)
    if place is None:
        return checkpoint.schema
    return checkpoint.schema.encoded(encodings_in(place))


def keep_transforms(config: RunConfig, target: str) -> bool:
    """Copy the transforms of a run's training data into the folder `target`; return whether it has any."""
    home = transforms_of(config)
    if home is not None:
        keep(home, target)
    return home is not None


def _data_sets(
    config: RunConfig, places: Mapping[str, str | Sequence[str] | None]
) -> Iterator[tuple[str, str, Schema]]:
    """Yield each data set once: the first key that names it, its folder, its schema; some have no schema."""
    seen = set()
    for key, paths in places.items():
        for file, home in homes(config.data.root, config.data.schema_file, paths or []).items():
            if file not in seen:
                seen.add(file)
                with contextlib.suppress(SchemaError):
                    yield key, home, Schema.load(file)


def is_known(schema: Schema) -> bool:
    """Return whether a schema has fingerprints."""
    return any(feature.encoding for feature in schema.all_features)
