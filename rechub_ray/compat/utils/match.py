"""Data of matching models, and indexes of their vectors, under Torch-RecHub's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from rechub_ray.compat.missing import package, refuse
from rechub_ray.compat.utils.data import df_to_dict, pad_sequences
from rechub_ray.errors import ConfigError, DataError

__all__ = ["Annoy", "Faiss", "gen_model_input", "generate_seq_feature_match", "negative_sample"]
_MISSING = ("Milvus", "gather_inbatch_logits", "inbatch_negative_sampling")

_ANNOY_METRICS = ("angular", "euclidean", "manhattan", "hamming", "dot")
_LABELS = {0: "label", 1: "neg_items", 2: "neg_items"}


def negative_sample(items_cnt_order: Mapping[Any, int], ratio: int, method_id: int = 0) -> npt.NDArray[Any]:
    """Return drawn items; `np.random.seed` decides which.

    Args:
        items_cnt_order: how often each item occurs, the most frequent one first.
        ratio: how many to draw, >= 0.
        method_id: 0 draws all alike; 1 by count^0.75; 2 by log(count + 1) + 1e-6; 3 without replacement, an item of
            rank k by log((k + 2) / (k + 1)).

    Raises:
        ConfigError: there is no such method.
    """
    counts = np.array(list(items_cnt_order.values()), dtype=np.float64)
    weights = {
        0: np.ones_like(counts),
        1: counts**0.75,
        2: np.log(counts + 1) + 1e-6,
        3: np.diff(np.log(np.arange(1, len(counts) + 2))),
    }
    if method_id not in weights:
        raise ConfigError("'method_id': no such method", expected="0, 1, 2 or 3", got=method_id)
    p = weights[method_id] / weights[method_id].sum()
    return np.random.choice(np.array(list(items_cnt_order)), size=ratio, replace=method_id != 3, p=p)


def generate_seq_feature_match(
    data: pd.DataFrame,
    user_col: str,
    item_col: str,
    time_col: str,
    item_attribute_cols: Sequence[str] | None = None,
    sample_method: int = 0,
    mode: int = 0,
    neg_ratio: int = 0,
    min_item: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return training and test rows: each user's item with those before it; the last one is for the test.

    Columns are the user, the item, `hist_<item>`, `histlen_<item>`, `hist_<attribute>` for each attribute, and a last
    one: in mode 0 `label`, with `neg_ratio` rows of drawn items and label 0 behind each training row; in mode 1
    `neg_items`, one drawn item; in mode 2 `neg_items`, a list of `neg_ratio`. Rows are shuffled by `np.random`.

    Args:
        data: a row an interaction.
        user_col: names users.
        item_col: names items.
        time_col: orders the rows of a user.
        item_attribute_cols: columns of the items whose histories are made, too.
        sample_method: as of `negative_sample`.
        mode: 0, 1 or 2; see above.
        neg_ratio: drawn items a row, >= 0; in mode 2 >= 1.
        min_item: users with fewer items are left out.

    Raises:
        ConfigError: no such mode, or no negatives in mode 2.
    """
    if mode not in _LABELS:
        raise ConfigError("'mode': no such mode", expected="0, 1 or 2", got=mode)
    if mode == 2 and neg_ratio < 1:
        raise ConfigError("'neg_ratio' in mode 2", expected=">= 1", got=neg_ratio)
    ratio = 1 if mode == 1 else neg_ratio
    rows = data.sort_values(time_col, kind="stable")
    counts = rows[item_col].value_counts(sort=True)
    drawn = negative_sample(dict(counts), len(rows) * ratio, sample_method).reshape(len(rows), ratio)
    attributes, used = list(item_attribute_cols or ()), 0
    train: list[list[Any]] = []
    test: list[list[Any]] = []
    for user, own in rows.groupby(user_col):
        items = own[item_col].tolist()
        others = [own[name].tolist() for name in attributes]
        if len(items) < min_item:
            continue
        for i in range(1, len(items)):
            past = [items[:i], i, *(values[:i] for values in others)]
            if i == len(items) - 1:
                test.append([user, items[i], *past, 1])
                continue
            negatives = drawn[used].tolist()
            used += 1
            if mode == 0:
                train.append([user, items[i], *past, 1])
                train += [[user, item, *past, 0] for item in negatives]
            else:
                train.append([user, items[i], *past, negatives[0] if mode == 1 else negatives])
    names = [user_col, item_col, f"hist_{item_col}", f"histlen_{item_col}", *(f"hist_{name}" for name in attributes)]
    first, second = (
        pd.DataFrame([some[i] for i in np.random.permutation(len(some))], columns=[*names, _LABELS[mode]])
        for some in (train, test)
    )
    return first, second


def gen_model_input(
    df: pd.DataFrame,
    user_profile: pd.DataFrame,
    user_col: str,
    item_profile: pd.DataFrame,
    item_col: str,
    seq_max_len: int,
    padding: Literal["pre", "post"] = "pre",
    truncating: Literal["pre", "post"] = "pre",
) -> dict[str, npt.NDArray[Any]]:
    """Return the rows' columns with those of their users and items, lists of `hist_` and `tag_` padded with 0.

    Args:
        df: rows with histories.
        user_profile: a row a user.
        user_col: names users.
        item_profile: a row an item.
        item_col: names items.
        seq_max_len: width of the lists.
        padding: whether zeros stand before or after a short list.
        truncating: whether a long list loses its start or its end.
    """
    whole = df.merge(user_profile, on=user_col, how="left").merge(item_profile, on=item_col, how="left")
    for name in whole.columns:
        if str(name).startswith(("hist_", "tag_")):
            lists = pad_sequences(whole[name].tolist(), maxlen=seq_max_len, padding=padding, truncating=truncating)
            whole[name] = lists.tolist()
    return df_to_dict(whole)


class Annoy:
    """An index by Annoy's trees; needs the package `annoy`.

    Args:
        metric: of Annoy: angular, euclidean, manhattan, hamming or dot.
        n_trees: number of trees, >= 1.
        search_k: nodes that a query looks at; -1: n_trees times the number of neighbours.

    Raises:
        ConfigError: annoy is not installed, or there is no such metric.
    """

    def __init__(self, metric: str = "angular", n_trees: int = 10, search_k: int = -1) -> None:
        self._package = package("annoy", "Annoy", "pip install annoy")
        if metric not in _ANNOY_METRICS:
            raise ConfigError("'metric': there is no such one", expected=", ".join(_ANNOY_METRICS), got=metric)
        self._metric, self._n_trees, self._search_k = metric, n_trees, search_k
        self._index: Any = None

    def fit(self, X: Any) -> None:
        """Build the index of vectors.

        Args:
            X: (N, D), a tensor or an array; a row's number is its id.

        Raises:
            DataError: its shape is another one.
        """
        vectors = _vectors(X)
        self._index = self._package.AnnoyIndex(vectors.shape[1], self._metric)
        for number, vector in enumerate(vectors):
            self._index.add_item(number, vector)
        self._index.build(self._n_trees)

    def set_query_arguments(self, search_k: int) -> None:
        """Let queries look at that many nodes."""
        self._search_k = search_k

    def query(self, v: Any, n: int) -> tuple[list[int], list[float]]:
        """Return the ids of the nearest vectors, nearest first, and their distances.

        Args:
            v: (D,).
            n: how many.

        Raises:
            ConfigError: `fit` comes first.
            DataError: the vector is of another width.
        """
        if self._index is None:
            raise ConfigError("the index has no vectors yet", expected="fit(X) before query(v, n)", got="query")
        [vector] = _vectors(v, self._index.f)
        ids, distances = self._index.get_nns_by_vector(vector, n, self._search_k, include_distances=True)
        return ids, distances

    def __str__(self) -> str:
        return f"Annoy(n_trees={self._n_trees}, search_k={self._search_k})"


class Faiss:
    """An index by faiss; needs `rechub_ray[faiss]`.

    Args:
        dim: width of the vectors.
        index_type: flat, ivf or hnsw.
        nlist: lists of ivf, of which a query looks at a quarter.
        m: links of a vector in hnsw.
        metric: l2, or ip for inner products.

    Raises:
        ConfigError: faiss is not installed, or there is no such type or metric.
    """

    def __init__(self, dim: int, index_type: str = "flat", nlist: int = 100, m: int = 32, metric: str = "l2") -> None:
        faiss = self._package = package("faiss", "Faiss", "pip install rechub_ray[faiss]")
        self.dim, self.index_type, self.nlist, self.metric = dim, index_type.lower(), nlist, metric.lower()
        kinds = {"flat": "Flat", "ivf": f"IVF{nlist},Flat", "hnsw": f"HNSW{m},Flat"}
        metrics = {"l2": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}
        for key, known, got in (("index_type", kinds, self.index_type), ("metric", metrics, self.metric)):
            if got not in known:
                raise ConfigError(f"'{key}': there is no such one", expected=", ".join(known), got=got)
        self.index: Any = faiss.index_factory(dim, kinds[self.index_type], metrics[self.metric])
        if self.index_type == "ivf":
            self.index.nprobe = max(1, nlist // 4)

    def fit(self, X: Any) -> None:
        """Train the index where its type is trained, and add vectors.

        Args:
            X: (N, D), a tensor or an array; a row's number is its id.

        Raises:
            DataError: its shape is another one, or it has fewer vectors than ivf has lists.
        """
        vectors = _vectors(X, self.dim)
        if self.index_type == "ivf" and len(vectors) < self.nlist:
            raise DataError("too few vectors for the lists of ivf", expected=f"{self.nlist} (nlist)", got=len(vectors))
        self.index.train(vectors)
        self.index.add(vectors)

    def set_query_arguments(self, nprobe: int | None = None, efSearch: int | None = None) -> None:
        """Let queries look at `nprobe` lists of ivf, or `efSearch` vectors of hnsw; None: as before."""
        if self.index_type == "ivf" and nprobe is not None:
            self.index.nprobe = min(nprobe, self.nlist)
        if self.index_type == "hnsw" and efSearch is not None:
            self.index.hnsw.efSearch = efSearch

    def query(self, v: Any, n: int) -> tuple[list[list[int]], list[list[float]]]:
        """Return for each vector the ids of the nearest ones, nearest first, and their distances or products.

        Args:
            v: (D,) or (N, D).
            n: how many.

        Raises:
            ConfigError: `fit` comes first.
            DataError: the vectors are of another width.
        """
        if self.index.ntotal == 0:
            raise ConfigError("the index has no vectors yet", expected="fit(X) before query(v, n)", got="query")
        distances, ids = self.index.search(_vectors(v, self.dim), n)
        return ids.tolist(), distances.tolist()

    def save_index(self, filepath: str) -> None:
        """Write the index into a file of faiss."""
        self._package.write_index(self.index, filepath)

    def load_index(self, filepath: str) -> None:
        """Take the index of a file instead of this one."""
        self.index = self._package.read_index(filepath)

    def __str__(self) -> str:
        return f"Faiss(index_type={self.index_type}, dim={self.dim}, metric={self.metric}, ntotal={self.index.ntotal})"


def _vectors(values: Any, width: int | None = None) -> npt.NDArray[np.float32]:
    """Return vectors (N, D) as float32 on the CPU, of one vector (D,) with N 1 where the width is known."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float32)
    array = array[None] if array.ndim == 1 and width is not None else array
    if array.ndim != 2 or width not in (None, array.shape[1]):
        raise DataError("vectors of another shape", expected=f"(N, {width or 'D'})", got=np.shape(values))
    return np.ascontiguousarray(array)


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)
