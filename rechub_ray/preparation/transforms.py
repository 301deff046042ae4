"""Fitted transforms: one class a kind of feature. parse (raw -> values), fit (training rows only), encode (-> ids)."""

from __future__ import annotations

import functools
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.data.fingerprint import digest
from rechub_ray.preparation.forms import Bucket, Categorical, Numeric, Sequence, Table
from rechub_ray.preparation.sketch import Counter, Moments, Quantiles
from rechub_ray.preparation.values import (
    FLOAT32_MAX,
    Flaws,
    hash64,
    to_float,
    to_lists,
    to_number,
    to_text,
    whole_form,
    windows,
)
from rechub_ray.schema import DenseFeature, Feature, SequenceFeature, SparseFeature

State: TypeAlias = Counter | Moments | Quantiles
NUMBERS = 2**31 - 1
"""One past the largest of whole numbers in lists, so that they fit into 32 bits: in seconds, 68 years."""


class Ids(Protocol):
    """Turns texts into ids in [0, size); `digest` tells two ways of doing so apart."""

    size: int

    @property
    def digest(self) -> str: ...

    def __call__(self, texts: pa.Array) -> npt.NDArray[np.int64]: ...


class Vocabulary:
    """Texts by id: the most frequent is 1; null and unknown texts are 0.

    An unknown whole number is also looked up in its other form: "7.0" finds "7", and "7" finds "7.0".
    """

    def __init__(self, values: pa.Array) -> None:
        self.values = values
        self.size = len(values) + 1

    @functools.cached_property
    def digest(self) -> str:
        return digest("vocabulary", self.values)

    def __call__(self, texts: pa.Array) -> npt.NDArray[np.int64]:
        coded = texts.dictionary_encode()
        found = pc.index_in(coded.dictionary, value_set=self.values)
        if found.null_count:
            found = pc.coalesce(found, pc.index_in(other_form(coded.dictionary, found), value_set=self.values))
        return _spread(coded, pc.fill_null(found, -1).to_numpy(zero_copy_only=False).astype(np.int64) + 1)


def other_form(texts: pa.Array, known: pa.Array) -> pa.Array:
    """Return whole numbers with `.0` without it, and the other way around; null for the rest, and where `known` is."""
    texts = pc.if_else(pc.is_valid(known), None, texts)
    whole = pc.match_substring_regex(texts, r"^-?\d+(\.0)?$")
    pointed = pc.ends_with(texts, ".0")
    bare = whole_form(texts)
    return pc.if_else(whole, pc.if_else(pointed, bare, pc.binary_join_element_wise(bare, ".0", "")), None)


def _spread(coded: pa.DictionaryArray, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the ids of the dictionary's entries at every row; 0 for null."""
    places = pc.fill_null(coded.indices, len(coded.dictionary)).to_numpy(zero_copy_only=False)
    spread: npt.NDArray[np.int64] = np.append(ids, 0)[places]
    return spread


class Hashing:
    """1 + hash64(text) % (buckets - 1), of whole numbers without `.0`: "7.0" gets the id of "7". Null is 0."""

    def __init__(self, buckets: int) -> None:
        self.size = buckets
        self.digest = digest("hashing", "whole numbers without .0", buckets)

    def __call__(self, texts: pa.Array) -> npt.NDArray[np.int64]:
        coded = texts.dictionary_encode()
        return _spread(coded, (hash64(whole_form(coded.dictionary)) % np.uint64(self.size - 1)).astype(np.int64) + 1)


class Numbers:
    """Whole numbers as they are, at most NUMBERS - 1; null is 0."""

    size = NUMBERS
    digest = digest("numbers")

    def __call__(self, texts: pa.Array) -> npt.NDArray[np.int64]:
        numbers = pc.fill_null(to_float(to_number(texts, "", Flaws(len(texts)))), 0.0).to_numpy(zero_copy_only=False)
        capped: npt.NDArray[np.int64] = np.minimum(numbers, self.size - 1).astype(np.int64)
        return capped


def id_type(size: int) -> pa.DataType:
    """Return the narrowest of int32 and int64 that holds ids below `size`."""
    return pa.int32() if size <= 2**31 else pa.int64()


class CategoricalTransform:
    """One id a row."""

    def __init__(self, spec: Categorical, ids: Ids | None = None) -> None:
        self.spec, self.ids = spec, ids

    def parse(self, table: pa.Table, flaws: Flaws) -> pa.Array:
        return to_text(table[self.spec.source], self.spec.source, flaws)

    def fit(self, state: State, values: pa.Array) -> None:
        assert isinstance(state, Counter)
        state.add(values)

    def encode(self, values: pa.Array) -> pa.Array:
        assert self.ids is not None
        return pa.array(self.ids(values), id_type(self.ids.size))

    @property
    def encoding(self) -> str:
        assert self.ids is not None
        return digest("categorical", self.ids.digest)

    def feature(self) -> Feature:
        assert self.ids is not None
        spec = self.spec
        return SparseFeature(
            spec.name,
            self.ids.size,
            embed_dim=spec.embed_dim,
            shared_with=spec.shared_with,
            encoding=self.encoding,
        )


class SequenceTransform:
    """A list of ids a row, the last `max_length` ones."""

    def __init__(self, spec: Sequence, ids: Ids | None = None) -> None:
        self.spec = spec
        self.ids = Numbers() if spec.numbers else ids

    def parse(self, table: pa.Table, flaws: Flaws) -> pa.Array:
        spec = self.spec
        lists = to_lists(table[spec.source], spec.separator, spec.source, flaws)
        return _whole_numbers(lists, spec.source, flaws) if spec.numbers else lists

    def fit(self, state: State, values: pa.Array) -> None:
        assert isinstance(state, Counter)
        state.add(last(values, self.spec.max_length).flatten())

    def encode(self, values: pa.Array) -> pa.Array:
        assert self.ids is not None
        kept = last(values, self.spec.max_length)
        ids = pa.array(self.ids(kept.flatten()), id_type(self.ids.size))
        return pa.ListArray.from_arrays(kept.offsets, ids)

    @property
    def encoding(self) -> str:
        assert self.ids is not None
        return digest("sequence", self.ids.digest, self.spec.separator, self.spec.max_length)

    def feature(self) -> Feature:
        assert self.ids is not None
        spec = self.spec
        return SequenceFeature(
            spec.name,
            self.ids.size,
            max_length=spec.max_length,
            pooling=spec.pooling,
            embed_dim=spec.embed_dim,
            shared_with=spec.shared_with,
            encoding=self.encoding,
            numbers=spec.numbers,
            aligned_with=spec.aligned_with,
        )


def _whole_numbers(lists: pa.ListArray, name: str, flaws: Flaws) -> pa.ListArray:
    """Return lists of texts; rows with one that is not a whole number from 0 on are marked."""
    texts = lists.flatten()
    inner = Flaws(len(texts))
    numbers = to_float(to_number(texts, name, inner))
    wrong = pc.or_(pc.less(numbers, 0.0), pc.not_equal(numbers, pc.floor(numbers)))
    inner.add(wrong, f"column '{name}': {{value}} is not a whole number from 0 on", texts)
    inner.pass_on(flaws, np.repeat(np.arange(len(lists)), pc.list_value_length(lists).to_numpy()))
    return lists


def last(lists: pa.ListArray, count: int) -> pa.ListArray:
    """Return each list's last `count` elements."""
    offsets, elements = lists.offsets.to_numpy().astype(np.int64), lists.flatten()
    offsets -= offsets[0]
    begins = np.maximum(offsets[:-1], offsets[1:] - count)
    if (begins == offsets[:-1]).all():
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), elements)
    return windows(elements, begins, offsets[1:])


class NumericTransform:
    """A number, or `dim` of them, through the transforms; x' = (x - shift) / scale for the fitted ones."""

    def __init__(self, spec: Numeric, shift: float = 0.0, scale: float = 1.0) -> None:
        self.spec, self.shift, self.scale = spec, shift, scale

    @property
    def fitted(self) -> bool:
        return any(name != "log1p" for name in self.spec.transforms)

    def parse(self, table: pa.Table, flaws: Flaws) -> pa.Array:
        spec = self.spec
        if spec.dim == 1:
            numbers = to_float(to_number(table[spec.source], spec.source, flaws))
            self._mark_overflows(numbers, flaws)
            return numbers
        lists = to_lists(table[spec.source], spec.separator, spec.source, flaws)
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        flaws.add(lengths != spec.dim, f"column '{spec.source}' does not hold {spec.dim} numbers")
        inner = Flaws(len(lists.flatten()))
        numbers = to_float(to_number(lists.flatten(), spec.source, inner))
        self._mark_overflows(numbers, inner)
        inner.pass_on(flaws, np.repeat(np.arange(len(lists)), lengths))
        return pa.ListArray.from_arrays(lists.offsets, numbers)

    def _mark_overflows(self, numbers: pa.Array, flaws: Flaws) -> None:
        """Mark numbers past float32, as they are or after the transforms (which do nothing until they are fitted)."""
        raw = pc.fill_null(numbers, 0.0).to_numpy(zero_copy_only=False)
        scaled = (self._logged(raw) - self.shift) / self.scale
        past = np.maximum(np.abs(raw), np.abs(scaled)) > FLOAT32_MAX
        flaws.add(past, f"column '{self.spec.source}': {{value}} is past float32", numbers)

    def _raw(self, values: pa.Array) -> pa.Array:
        return values.flatten() if pa.types.is_list(values.type) else values

    def _logged(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        for name in self.spec.transforms:
            if name == "log1p":
                numbers = np.sign(numbers) * np.log1p(np.abs(numbers))
        return numbers

    def fit(self, state: State, values: pa.Array) -> None:
        assert isinstance(state, Moments)
        state.add(self._logged(self._raw(values).drop_null().to_numpy(zero_copy_only=False)))

    def finish(self, state: Moments) -> None:
        """Take shift and scale from the training split; a constant column is only shifted."""
        if self.spec.transforms[-1] == "min_max":
            self.shift, spread = state.minimum, state.maximum - state.minimum
        else:
            self.shift, spread = state.mean, state.std
        if not state.count:
            self.shift, spread = 0.0, 1.0
        self.scale = spread if spread > 0 else 1.0

    def encode(self, values: pa.Array) -> pa.Array:
        raw = self._raw(values)
        known = pc.is_valid(raw).to_numpy(zero_copy_only=False)
        numbers = self._logged(np.asarray(pc.fill_null(raw, 0.0).to_numpy(zero_copy_only=False), dtype=np.float64))
        numbers = np.where(known, (numbers - self.shift) / self.scale, self.spec.fill).astype(np.float32)
        encoded = pa.array(numbers)
        return encoded if self.spec.dim == 1 else pa.FixedSizeListArray.from_arrays(encoded, self.spec.dim)

    @property
    def encoding(self) -> str:
        spec = self.spec
        separator = spec.separator if spec.dim > 1 else None
        return digest("numeric", "log1p" in spec.transforms, self.shift, self.scale, spec.fill, spec.dim, separator)

    def feature(self) -> Feature:
        return DenseFeature(self.spec.name, self.spec.dim, encoding=self.encoding)


class BucketTransform:
    """Id 1 + (number of inner boundaries below x); the boundaries are quantiles of the training split."""

    def __init__(self, spec: Bucket, boundaries: list[float] | None = None) -> None:
        self.spec, self.boundaries = spec, boundaries or []

    def parse(self, table: pa.Table, flaws: Flaws) -> pa.Array:
        return to_float(to_number(table[self.spec.source], self.spec.source, flaws))

    def fit(self, state: State, values: pa.Array) -> None:
        assert isinstance(state, Quantiles)
        state.add(values.drop_null().to_numpy(zero_copy_only=False))

    def finish(self, state: Quantiles) -> None:
        """Take the boundaries from the training split; equal ones (a value more frequent than a bucket) become one."""
        count = self.spec.num_buckets
        inner = state.at([k / count for k in range(1, count)])
        top = state.values[-1] if len(state.values) else 0.0
        self.boundaries = sorted({value for value in inner if value < top})

    def encode(self, values: pa.Array) -> pa.Array:
        known = pc.is_valid(values).to_numpy(zero_copy_only=False)
        numbers = np.asarray(pc.fill_null(values, 0.0).to_numpy(zero_copy_only=False), dtype=np.float64)
        ids = 1 + np.searchsorted(np.asarray(self.boundaries), numbers, side="left")
        return pa.array(np.where(known, ids, 0), pa.int32())

    @property
    def encoding(self) -> str:
        return digest("bucket", self.boundaries)

    def feature(self) -> Feature:
        size = len(self.boundaries) + 2
        return SparseFeature(self.spec.name, size, embed_dim=self.spec.embed_dim, encoding=self.encoding)


Transform: TypeAlias = CategoricalTransform | SequenceTransform | NumericTransform | BucketTransform


def transform_of(spec: Any) -> Transform:
    """Return the unfitted transform for a feature of the recipe."""
    if isinstance(spec, Categorical):
        return CategoricalTransform(spec)
    if isinstance(spec, Sequence):
        return SequenceTransform(spec)
    return NumericTransform(spec) if isinstance(spec, Numeric) else BucketTransform(spec)


def table_name(spec: Table) -> str:
    """Return the name of the feature whose table this one uses."""
    return spec.shared_with or spec.name
