"""Data of matching models under Torch-RecHub's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from rechub_ray.compat.missing import refuse
from rechub_ray.compat.utils.data import df_to_dict, pad_sequences
from rechub_ray.errors import ConfigError

__all__ = ["gen_model_input", "generate_seq_feature_match", "negative_sample"]
_MISSING = ("Annoy", "Faiss", "Milvus", "gather_inbatch_logits", "inbatch_negative_sampling")

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


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)
