"""All fitted transforms of a data set: made by `prepare`, saved beside the shards, used again to encode raw rows."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pydantic

from rechub_ray.data.fingerprint import FILE, VOCABULARIES, find
from rechub_ray.errors import DataError, nearest, shown
from rechub_ray.files import join, open_filesystem, read_text
from rechub_ray.preparation.forms import FeatureSpec, Table
from rechub_ray.preparation.frames import to_table
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.preparation.sketch import Counter, Moments, Quantiles
from rechub_ray.preparation.transforms import (
    BucketTransform,
    CategoricalTransform,
    Hashing,
    NumericTransform,
    SequenceTransform,
    State,
    Transform,
    Vocabulary,
    last,
    table_name,
    transform_of,
)
from rechub_ray.preparation.values import Flaws, flat
from rechub_ray.schema import Feature

VERSION = 1
_SPECS: pydantic.TypeAdapter[list[FeatureSpec]] = pydantic.TypeAdapter(list[FeatureSpec])


@dataclasses.dataclass
class FitState:
    """Summaries of the training rows of one task, by feature (for ids: by table)."""

    parts: dict[str, State]
    rows: int = 0

    def merge(self, other: FitState) -> None:
        self.rows += other.rows
        for name, part in self.parts.items():
            part.merge(other.parts[name])  # type: ignore[arg-type]


class Encoder:
    """Encodes raw columns as the columns of the schema.

    Args:
        specs: the recipe's features.
        history: the raw column that holds the histories which `prepare` made: their items are rows of their own, which
            the fit counts once.

    Example:
        >>> rows = pa.table({"user": ["ann", "bob", "ann"], "price": [1.0, 3.0, None]})
        >>> features = [{"kind": "categorical", "name": "user"}, {"kind": "numeric", "name": "price"}]
        >>> Encoder.fitted(features, rows).encode(pa.table({"user": ["bob", "new"], "price": [2.5, 0.0]})).to_pydict()
        {'user': [2, 0], 'price': [2.5, 0.0]}
    """

    def __init__(self, specs: tuple[FeatureSpec, ...], history: str | None = None) -> None:
        self.specs, self.history = specs, history
        self.transforms: list[Transform] = [transform_of(spec) for spec in specs]
        self.counts: dict[str, pa.Array] = {}
        for transform in self.transforms:
            if isinstance(transform, CategoricalTransform | SequenceTransform):
                owner = self._owner(transform.spec)
                if owner.hash_buckets is not None:
                    transform.ids = Hashing(owner.hash_buckets)

    def only(self, names: Sequence[str]) -> Encoder:
        """Return the fitted encoder with some of its features alone, in the order of the recipe."""
        chosen = copy.copy(self)
        chosen.specs = tuple(spec for spec in self.specs if spec.name in names)
        chosen.transforms = [transform for transform in self.transforms if transform.spec.name in names]
        return chosen

    def _owner(self, spec: Table) -> Table:
        owner = next(other for other in self.specs if other.name == table_name(spec))
        assert isinstance(owner, Table)
        return owner

    @property
    def columns(self) -> list[str]:
        """The raw columns it reads."""
        return list(dict.fromkeys(spec.source for spec in self.specs))

    @property
    def features(self) -> tuple[Feature, ...]:
        return tuple(transform.feature() for transform in self.transforms)

    @property
    def encodings(self) -> dict[str, str]:
        """The fingerprint of each feature's transform: equal ones make the same of the same raw values."""
        return {transform.spec.name: transform.encoding for transform in self.transforms}

    @property
    def _vocabularies(self) -> dict[str, tuple[Vocabulary, str]]:
        """The vocabularies, with the names of their tables, of the features that have one."""
        return {
            transform.spec.name: (transform.ids, table_name(transform.spec))
            for transform in self.transforms
            if isinstance(transform, CategoricalTransform | SequenceTransform) and isinstance(transform.ids, Vocabulary)
        }

    def take(self, other: Encoder) -> list[str]:
        """Take the fitted transforms of another encoder.

        Returns:
            The features that it lacks, or that it would encode in another way; they are not fitted.
        """
        theirs, differing = {transform.spec.name: transform for transform in other.transforms}, []
        vocabularies = other._vocabularies
        tables: dict[str, str] = {}
        for mine in self.transforms:
            fitted = theirs.get(mine.spec.name)
            is_fitted = True
            if isinstance(mine, NumericTransform) and isinstance(fitted, NumericTransform):
                mine.shift, mine.scale = fitted.shift, fitted.scale
            elif isinstance(mine, BucketTransform) and isinstance(fitted, BucketTransform):
                mine.boundaries = fitted.boundaries
            elif isinstance(mine, CategoricalTransform | SequenceTransform):
                name = table_name(mine.spec)
                if mine.ids is None and mine.spec.name in vocabularies:
                    mine.ids, table = vocabularies[mine.spec.name]
                    self.counts.setdefault(name, other.counts[table])
                is_fitted = mine.ids is not None and tables.setdefault(name, mine.ids.digest) == mine.ids.digest
            if fitted is None or not is_fitted or mine.encoding != fitted.encoding:
                differing.append(f"'{mine.spec.name}'")
        return differing

    def difference(self, other: Encoder, name: str) -> str | None:
        """Return a difference from another encoder of a feature that both have; None where only settings differ."""
        mine, theirs = (next(t for t in encoder.transforms if t.spec.name == name) for encoder in (self, other))
        if isinstance(mine, NumericTransform) and isinstance(theirs, NumericTransform):
            scales = [f"(x - {t.shift:g}) / {t.scale:g}" for t in (mine, theirs)]
            return f"'{name}' is {scales[0]}, was {scales[1]}" if scales[0] != scales[1] else None
        now, before = (e.vocabulary(name) if name in e._vocabularies else None for e in (self, other))
        if now is None or before is None:
            return None
        both = min(len(now), len(before))
        place = pc.index(pc.equal(now[:both], before[:both]), False).as_py()
        if place < 0:
            return f"the first {both:,} ids of '{name}' are the same"
        return f"id {place + 1} of '{name}' is {shown(now[place].as_py())}, was {shown(before[place].as_py())}"

    def parse(self, table: pa.Table, flaws: Flaws) -> dict[str, pa.Array]:
        """Return raw columns as texts, numbers and lists, by feature; rows that cannot be read are marked."""
        return {t.spec.name: t.parse(table, flaws) for t in self.transforms}

    def fit_state(self) -> FitState:
        """Return an empty state with a summary for each transform that has to be fitted."""
        parts: dict[str, State] = {}
        for transform in self.transforms:
            spec = transform.spec
            if isinstance(transform, CategoricalTransform | SequenceTransform):
                if self._owner(transform.spec).hash_buckets is None:
                    parts.setdefault(table_name(transform.spec), Counter())
            elif isinstance(transform, BucketTransform):
                parts[spec.name] = Quantiles()
            elif transform.fitted:
                parts[spec.name] = Moments()
        return FitState(parts)

    def fit(self, state: FitState, parsed: dict[str, pa.Array], first: npt.NDArray[np.bool_] | None = None) -> None:
        """Take training rows into `state`.

        Args:
            state: of the task.
            parsed: training rows, from `parse`.
            first: which rows come first after those that `history.min_length` leaves out, and stand for these too.
        """
        for transform in self.transforms:
            spec = transform.spec
            part = state.parts.get(table_name(spec) if isinstance(spec, Table) else spec.name)
            if part is not None:
                values = parsed[spec.name]
                if isinstance(transform, SequenceTransform) and spec.source == self.history and first is not None:
                    values = self._rows_of_their_own(transform, values, first)
                transform.fit(part, values)

    def _rows_of_their_own(
        self, transform: SequenceTransform, histories: pa.ListArray, first: npt.NDArray[np.bool_]
    ) -> pa.ListArray:
        """Return the items in histories that stand for rows: each row counts once, in however many histories it is.

        Those are rows that `min_length` leaves out; and, in a table that no other feature counts, each row through the
        history of the next one.
        """
        name = table_name(transform.spec)
        alone = all(s.source == self.history for s in self.specs if isinstance(s, Table) and table_name(s) == name)
        parts = [histories.filter(pa.array(first))]
        if alone:
            parts.append(last(histories.filter(pa.array(~first)), 1))
        return pa.concat_arrays(parts)

    def finish(self, state: FitState) -> None:
        """Fit the transforms to the merged state of all tasks."""
        for name, part in state.parts.items():
            if isinstance(part, Counter):
                owner = next(spec for spec in self.specs if spec.name == name)
                assert isinstance(owner, Table)
                self._set_vocabulary(name, part.table(owner.min_frequency, owner.max_values))
        for transform in self.transforms:
            fitted = state.parts.get(transform.spec.name)
            match transform, fitted:
                case NumericTransform(), Moments():
                    transform.finish(fitted)
                case BucketTransform(), Quantiles():
                    transform.finish(fitted)

    def grow(self, state: FitState) -> dict[str, int]:
        """Give ids after those that are there to the values of the merged state that have none.

        Returns:
            How many there are, by table.
        """
        grown = {}
        for name, part in state.parts.items():
            owner = next(spec for spec in self.specs if spec.name == name)
            assert isinstance(owner, Table)
            assert isinstance(part, Counter)
            known, counts = self.vocabulary(name), self.counts[name]
            table = part.table(owner.min_frequency)
            table = table.filter(pa.array(Vocabulary(known)(flat(table["value"])) == 0))
            if owner.max_values is not None:
                table = table.slice(0, max(owner.max_values - len(known), 0))
            values = pa.concat_arrays([known, flat(table["value"])])
            counts = pa.concat_arrays([counts, flat(table["count"]).cast(counts.type)])
            self._set_vocabulary(name, pa.table({"value": values, "count": counts}))
            grown[name] = table.num_rows
        return grown

    def _set_vocabulary(self, name: str, table: pa.Table) -> None:
        vocabulary = Vocabulary(flat(table["value"]))
        self.counts[name] = flat(table["count"])
        for transform in self.transforms:
            if isinstance(transform, CategoricalTransform | SequenceTransform) and table_name(transform.spec) == name:
                transform.ids = vocabulary

    def vocabulary(self, name: str) -> pa.Array:
        """Return the texts of a feature's vocabulary in the order of their ids, which begin at 1."""
        transform = next(t for t in self.transforms if t.spec.name == name)
        assert isinstance(transform, CategoricalTransform | SequenceTransform)
        assert isinstance(transform.ids, Vocabulary)
        return transform.ids.values

    def encode_parsed(self, parsed: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """Return parsed columns as the schema's columns."""
        return {t.spec.name: t.encode(parsed[t.spec.name]) for t in self.transforms}

    @classmethod
    def fitted(cls, features: Sequence[Any], rows: Any) -> Encoder:
        """Return an encoder fitted on rows in memory; `prepare` fits one on files of any size.

        Args:
            features: as in a recipe.
            rows: of training, a pandas DataFrame or a pyarrow Table.

        Raises:
            ConfigError: a feature is wrong.
            DataError: as for `encode`.
        """
        recipe = Recipe.from_dict({"files": ".", "labels": [], "features": features})
        encoder = cls(recipe.features)
        parsed, state = encoder._checked(rows), encoder.fit_state()
        encoder.fit(state, parsed)
        encoder.finish(state)
        return encoder

    def encode(self, rows: Any) -> pa.Table:
        """Return the schema's feature columns for raw rows (side tables already joined, histories already made).

        Args:
            rows: a pandas DataFrame or a pyarrow Table; more columns are left out.

        Raises:
            DataError: a raw column is missing, or a value cannot be read; names column and row (from 1).
        """
        return pa.table(self.encode_parsed(self._checked(rows)))

    def _checked(self, rows: Any) -> dict[str, pa.Array]:
        """Return raw columns as `parse` does, after checking them."""
        table = to_table(rows)
        for name in self.columns:
            if name not in table.column_names:
                raise DataError(f"the raw rows have no column '{name}'", hint=nearest(name, table.column_names))
        flaws = Flaws(table.num_rows)
        parsed = self.parse(table, flaws)
        if flaws.reasons:
            row = min(flaws.reasons)
            raise DataError(f"raw row {row + 1}: {flaws.reasons[row]}")
        return parsed

    def save(self, root: str | Path) -> None:
        """Write preprocess.json and vocab/<feature>.parquet (value, count, id) into the folder `root`."""
        root = Path(root)
        root.mkdir(parents=True, exist_ok=True)
        fitted: dict[str, Any] = {}
        for transform in self.transforms:
            if isinstance(transform, NumericTransform):
                fitted[transform.spec.name] = {"shift": transform.shift, "scale": transform.scale}
            elif isinstance(transform, BucketTransform):
                fitted[transform.spec.name] = {"boundaries": transform.boundaries}
        document = {
            "version": VERSION,
            "features": [s.model_dump(mode="json") for s in self.specs],
            "fitted": fitted,
            "encodings": self.encodings,
        }
        (root / FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for name, counts in self.counts.items():
            (root / VOCABULARIES).mkdir(exist_ok=True)
            values = self.vocabulary(name)
            columns = {"value": values, "count": counts, "id": pa.array(range(1, len(values) + 1), pa.int64())}
            pq.write_table(pa.table(columns), root / VOCABULARIES / f"{name}.parquet")

    @classmethod
    def load(cls, root: str | Path) -> Encoder:
        """Return the encoder of a data set that `prepare` wrote, or the copy that a run keeps; both may be URIs.

        Raises:
            DataError: a file is missing or of another version.
        """
        root = find(str(root)) or root
        place = join(str(root), FILE)
        try:
            document = json.loads(read_text(place))
            if document.get("version") != VERSION:
                raise DataError(f"{place} has version {document.get('version')}", expected=f"version {VERSION}")
            encoder = cls(tuple(_SPECS.validate_python(document["features"])))
            for transform in encoder.transforms:
                values = document["fitted"].get(transform.spec.name, {})
                for key, value in values.items():
                    setattr(transform, key, value)
            for name, part in encoder.fit_state().parts.items():
                if isinstance(part, Counter):
                    filesystem, file = open_filesystem(join(str(root), f"{VOCABULARIES}/{name}.parquet"))
                    encoder._set_vocabulary(name, pq.read_table(file, filesystem=filesystem))
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{root} holds no readable encoder", got=error, hint=f"`rechub-ray prepare` writes {FILE} and vocab/."
            ) from None
        return encoder
