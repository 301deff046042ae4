"""All fitted transforms of a data set: made by `prepare`, saved beside the shards, used again to encode raw rows."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Collection, Sequence
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
    Numbers,
    NumericTransform,
    SequenceTransform,
    State,
    Transform,
    Vocabulary,
    id_type,
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

    def pop(self, name: str) -> FitState:
        """Take one part out, and return it as a state of its own; an empty one where it is not there."""
        return FitState({name: self.parts.pop(name)} if name in self.parts else {}, self.rows)

    def merge(self, other: FitState) -> None:
        self.rows += other.rows
        for name, part in self.parts.items():
            part.merge(other.parts[name])  # type: ignore[arg-type]


class Encoder:
    """Encodes raw columns as the columns of the schema.

    Args:
        specs: the recipe's features.
        histories: the raw columns that hold the histories which `prepare` made: what is in them are rows of their own,
            which the fit counts once.
        item_id: the feature that names a row's item; None where there is no item table.
        item_specs: the features of the item table.

    Example:
        >>> rows = pa.table({"user": ["ann", "bob", "ann"], "price": [1.0, 3.0, None]})
        >>> features = [{"kind": "categorical", "name": "user"}, {"kind": "numeric", "name": "price"}]
        >>> Encoder.fitted(features, rows).encode(pa.table({"user": ["bob", "new"], "price": [2.5, 0.0]})).to_pydict()
        {'user': [2, 0], 'price': [2.5, 0.0]}
    """

    def __init__(
        self,
        specs: tuple[FeatureSpec, ...],
        histories: Collection[str] = (),
        item_id: str | None = None,
        item_specs: tuple[FeatureSpec, ...] = (),
    ) -> None:
        self.specs, self.histories = specs, frozenset(histories)
        self.item_id, self.item_specs = item_id, item_specs
        self._of_rows: list[Transform] = [transform_of(spec) for spec in specs]
        self._of_items: list[Transform] = [transform_of(spec) for spec in item_specs]
        self.counts: dict[str, pa.Array] = {}
        for transform in self.transforms:
            if isinstance(transform, CategoricalTransform | SequenceTransform):
                owner = self._owner(table_name(transform.spec))
                if owner.hash_buckets is not None:
                    transform.ids = Hashing(owner.hash_buckets)

    def only(self, names: Collection[str]) -> Encoder:
        """Return the fitted encoder with some of its features alone, in the order of the recipe."""
        chosen = copy.copy(self)
        chosen.specs, chosen.item_specs = (
            tuple(spec for spec in specs if spec.name in names) for specs in (self.specs, self.item_specs)
        )
        chosen._of_rows, chosen._of_items = (
            [transform for transform in own if transform.spec.name in names] for own in (self._of_rows, self._of_items)
        )
        return chosen

    @classmethod
    def of(cls, recipe: Recipe) -> Encoder:
        """Return the encoder of a recipe, not fitted."""
        history, items = recipe.history, recipe.items
        return cls(
            recipe.features,
            () if history is None else history.names,
            None if items is None else items.id,
            () if items is None else items.features,
        )

    def _owner(self, table: str) -> Table:
        owner = next(spec for spec in (*self.specs, *self.item_specs) if spec.name == table)
        assert isinstance(owner, Table)
        return owner

    @property
    def transforms(self) -> list[Transform]:
        """The transforms of the rows' features, then those of the items'."""
        return [*self._of_rows, *self._of_items]

    @property
    def columns(self) -> list[str]:
        """The raw columns of rows that it reads."""
        return list(dict.fromkeys(spec.source for spec in self.specs))

    @property
    def features(self) -> tuple[Feature, ...]:
        return tuple(transform.feature() for transform in self._of_rows)

    @property
    def item_features(self) -> tuple[Feature, ...]:
        return tuple(transform.feature() for transform in self._of_items)

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
        return _parsed(self._of_rows, table, flaws)

    def parse_items(self, table: pa.Table, flaws: Flaws) -> dict[str, pa.Array]:
        """Return raw columns by feature of the items, as `parse` does for those of rows."""
        return _parsed(self._of_items, table, flaws)

    def fit_state(self) -> FitState:
        """Return an empty state with a summary for each transform that has to be fitted."""
        parts: dict[str, State] = {}
        for transform in self.transforms:
            spec = transform.spec
            if isinstance(transform, CategoricalTransform | SequenceTransform):
                if not isinstance(transform.ids, Hashing | Numbers):
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
        counted = set()
        for transform in self._of_rows:
            spec, values = transform.spec, parsed[transform.spec.name]
            part = state.parts.get(_part(spec))
            if isinstance(transform, SequenceTransform) and spec.source in self.histories and first is not None:
                if (_part(spec), spec.source) in counted or any(_part(spec) == other.name for other in self.item_specs):
                    continue
                counted.add((_part(spec), spec.source))
                values = self._rows_of_their_own(transform, values, first)
            if part is not None:
                transform.fit(part, values)

    def fit_items(self, state: FitState, parsed: dict[str, pa.Array]) -> None:
        """Take rows of the item table, from `parse_items`, into `state`."""
        for transform in self._of_items:
            part = state.parts.get(_part(transform.spec))
            if part is not None:
                transform.fit(part, parsed[transform.spec.name])

    def _rows_of_their_own(
        self, transform: SequenceTransform, histories: pa.ListArray, first: npt.NDArray[np.bool_]
    ) -> pa.ListArray:
        """Return what in histories stands for rows: each row counts once, in however many histories it is.

        Those are rows that `min_length` leaves out; and, in a table that no other feature counts, each row through the
        history of the next one.
        """
        name = table_name(transform.spec)
        alone = all(
            spec.source in self.histories
            for spec in (*self.specs, *self.item_specs)
            if isinstance(spec, Table) and table_name(spec) == name
        )
        parts = [histories.filter(pa.array(first))]
        if alone:
            parts.append(last(histories.filter(pa.array(~first)), 1))
        return pa.concat_arrays(parts)

    def finish(self, state: FitState) -> None:
        """Fit the transforms to the merged state of all tasks."""
        for name, part in state.parts.items():
            if isinstance(part, Counter):
                owner = self._owner(name)
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
            owner = self._owner(name)
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
        return {t.spec.name: t.encode(parsed[t.spec.name]) for t in self._of_rows}

    def encode_items(self, parsed: dict[str, pa.Array]) -> dict[str, pa.Array]:
        """Return parsed columns as the columns of the item table's features."""
        return {t.spec.name: t.encode(parsed[t.spec.name]) for t in self._of_items}

    def item_ids(self, lists: pa.ListArray) -> pa.ListArray:
        """Return lists of items' texts as lists of ids, without those that have none."""
        ids = next(t.ids for t in self._of_rows if t.spec.name == self.item_id and isinstance(t, CategoricalTransform))
        assert ids is not None
        found = ids(lists.flatten())
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(lists)), lengths)[found > 0]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(lists)))])
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(found[found > 0], id_type(ids.size)))

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
        document: dict[str, Any] = {
            "version": VERSION,
            "features": [s.model_dump(mode="json") for s in self.specs],
            "fitted": fitted,
            "encodings": self.encodings,
        }
        if self.item_id is not None:
            specs = [s.model_dump(mode="json") for s in self.item_specs]
            document["items"] = {"id": self.item_id, "features": specs}
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
            items = document.get("items", {})
            encoder = cls(
                tuple(_SPECS.validate_python(document["features"])),
                item_id=items.get("id"),
                item_specs=tuple(_SPECS.validate_python(items.get("features", []))),
            )
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


def _part(spec: FeatureSpec) -> str:
    """Return what the summary of a feature is called: by its table, where it has ids."""
    return table_name(spec) if isinstance(spec, Table) else spec.name


def _parsed(transforms: list[Transform], table: pa.Table, flaws: Flaws) -> dict[str, pa.Array]:
    parsed = {t.spec.name: t.parse(table, flaws) for t in transforms}
    for spec in (t.spec for t in transforms if isinstance(t, SequenceTransform)):
        if spec.aligned_with is not None:
            one, other = (pc.list_value_length(parsed[name]) for name in (spec.name, spec.aligned_with))
            flaws.add(
                pc.not_equal(one, other), f"the lists of '{spec.name}' and '{spec.aligned_with}' differ in length"
            )
    return parsed
