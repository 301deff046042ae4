"""Matching models of a history alone; `rechub_ray.compat.models.matching` has their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rechub_ray.compat.basic.features import SequenceFeature, SparseFeature
from rechub_ray.compat.basic.initializers import Initializer, RandomNormal
from rechub_ray.compat.models.build import Feature, build_retriever, names
from rechub_ray.compat.models.calls import callable_on_lists
from rechub_ray.errors import ConfigError
from rechub_ray.models.base import Model

TARGET = "target"
"""The column of rows' items where the data has none: what trainers make of labels."""


def NARM(
    item_history_feature: SequenceFeature,
    hidden_dim: int,
    emb_dropout_p: float,
    session_rep_dropout_p: float,
    item_feature: SparseFeature | None = None,
) -> Model:
    """Return `rechub_ray.models.NARM` on this history.

    Without `item_feature`, labels are the ids of the rows' items, `MatchTrainer` of mode 2 compares with all items, and
    the model called with `{name: (B, T) ids}` returns the scores of all ids, (B, V).

    Args:
        item_history_feature: the list of the user's items, in which 0 is nothing.
        hidden_dim: width of the states.
        emb_dropout_p: dropout of the items' vectors.
        session_rep_dropout_p: dropout of the session's.
        item_feature: the column of the rows' items.
    """
    own = {"hidden_dim": hidden_dim, "emb_dropout_p": emb_dropout_p, "session_rep_dropout_p": session_rep_dropout_p}
    return _session("narm", item_history_feature, item_feature, RandomNormal(0, 1), own)


def STAMP(
    item_history_feature: SequenceFeature,
    weight_std: float,
    emb_std: float,
    item_feature: SparseFeature | None = None,
) -> Model:
    """Return `rechub_ray.models.STAMP` on this history; see `NARM`.

    Args:
        item_history_feature: as for `NARM`.
        weight_std: standard deviation of the initial matrices.
        emb_std: standard deviation of the items' initial vectors.
        item_feature: as for `NARM`.
    """
    return _session("stamp", item_history_feature, item_feature, RandomNormal(0, emb_std), {"weight_std": weight_std})


def SINE(
    history_features: Sequence[str],
    item_features: Sequence[str],
    neg_item_features: Sequence[str],
    num_items: int,
    embedding_dim: int,
    hidden_dim: int,
    num_concept: int,
    num_intention: int,
    seq_max_len: int,
    num_heads: int = 1,
    temperature: float = 1.0,
) -> Model:
    """Return `rechub_ray.models.SINE` on these columns.

    Args:
        history_features: the column of the user's items, in which 0 is nothing.
        item_features: the column of the rows' items.
        neg_item_features: the column of a row's negatives.
        num_items: number of ids, 0 among them.
        embedding_dim: width of the vectors.
        hidden_dim: width of the attention.
        num_concept: number of prototypes.
        num_intention: how many of them a history activates.
        seq_max_len: length of histories.
        num_heads: must be 1.
        temperature: of the interests' weights.

    Raises:
        ConfigError: `num_heads` is not 1, or there are several columns.
    """
    if num_heads != 1:
        raise ConfigError("'num_heads': attention has one head", expected="1", got=num_heads)
    for key, found in (("history_features", history_features), ("item_features", item_features)):
        if len(found) != 1:
            raise ConfigError(f"'{key}'", expected="one column's name", got=list(found))
    item = SparseFeature(item_features[0], num_items, embedding_dim)
    history = SequenceFeature(
        history_features[0], num_items, embedding_dim, shared_with=item.name, padding_idx=0, max_length=seq_max_len
    )
    return build_retriever(
        "sine",
        [history],
        [item],
        lists=list(neg_item_features),
        history=history.name,
        hidden_dim=hidden_dim,
        num_concept=num_concept,
        num_intention=num_intention,
        temperature=temperature,
    )


def GRU4Rec(
    user_features: Sequence[Feature],
    history_features: Sequence[Feature],
    item_features: Sequence[Feature],
    neg_item_feature: Sequence[Feature],
    user_params: Mapping[str, Any],
    temperature: float = 1.0,
) -> Model:
    """Return `rechub_ray.models.GRU4Rec` on this history, trained at its last position, as each row has an item.

    As in its paper, it reads the history alone: `user_features` have no effect, and of `user_params` only `num_layers`
    and `dropout` have one.

    Args:
        user_features: see above.
        history_features: the list of the user's items, in which 0 is nothing.
        item_features: the item's id.
        neg_item_feature: the list of a row's negatives.
        user_params: see above.
        temperature: divides similarities in list-wise training.

    Raises:
        ConfigError: there is no one history, or no one item.
    """
    history, item = _one("history_features", history_features), _one("item_features", item_features)
    if not isinstance(history, SequenceFeature):
        raise ConfigError("'history_features'", expected="one SequenceFeature", got=list(history_features))
    return build_retriever(
        "gru4rec",
        [_padded(history, item.name)],
        [item],
        lists=names(neg_item_feature),
        loss_temperature=temperature,
        history=history.name,
        positions="last",
        num_layers=user_params.get("num_layers", 2),
        dropout=user_params.get("dropout", 0.0),
    )


def SASRec(
    features: Sequence[SequenceFeature],
    max_len: int = 50,
    dropout_rate: float = 0.5,
    num_blocks: int = 2,
    num_heads: int = 1,
    item_feature: SparseFeature | None = None,
) -> Model:
    """Return `rechub_ray.models.SASRec` on the first of three lists: of the history, of what comes next, of negatives.

    Every position of the history learns which item comes next. So of the second list only the last item is read, as the
    row's own, and the third one is not: negatives are drawn for each position, none of the user's items. With
    `item_feature` the row's item stands in that column, and the last position alone learns it.

    Args:
        features: see above; 0 is nothing.
        max_len: of the history.
        dropout_rate: of tokens, attention and layers.
        num_blocks: number of blocks.
        num_heads: of attention.
        item_feature: see above.

    Raises:
        ConfigError: there are no three lists, or no `item_feature`.
    """
    if len(features) < (3 if item_feature is None else 1):
        raise ConfigError(
            "'features'", expected="the lists of the history, of what comes next, and of negatives", got=names(features)
        )
    arguments = {"num_blocks": num_blocks, "num_heads": num_heads, "dropout": dropout_rate}
    history = dataclasses.replace(features[0], max_length=max_len)
    if item_feature is not None:
        return _sequence(history, item_feature, {**arguments, "positions": "last"})
    model = _sequence(history, SparseFeature(TARGET, history.vocab_size, history.embed_dim), arguments)
    model.__dict__.update(negatives=["uniform_per_row"], item_of=LastOf(features[1].name))
    return model


@dataclasses.dataclass(frozen=True)
class LastOf:
    """Makes the column of rows' items of the last ones in a list.

    Args:
        name: the column of the lists, in which 0 is nothing.
    """

    name: str

    def __call__(self, columns: Mapping[str, Any], labels: Any) -> dict[str, Tensor]:
        """Return the column, of a batch and its labels; nothing where the batch has no such lists."""
        if self.name not in columns:
            return {}
        ids = torch.as_tensor(columns[self.name])
        last = ids.shape[1] - 1 - (ids.flip(1) != 0).int().argmax(1, keepdim=True)
        return {TARGET: ids.gather(1, last).squeeze(1)}


class OfLabels:
    """Makes the column of rows' items of their labels."""

    def __call__(self, columns: Mapping[str, Any], labels: Any) -> dict[str, Tensor]:
        """Return the column, of a batch and its labels; nothing where there are no labels."""
        return {} if labels is None else {TARGET: torch.as_tensor(labels).reshape(-1).long()}


def _session(
    name: str,
    history: SequenceFeature,
    item: SparseFeature | None,
    initializer: Initializer,
    arguments: Mapping[str, Any],
) -> Model:
    if not isinstance(history, SequenceFeature):
        raise ConfigError("'item_history_feature'", expected="a SequenceFeature", got=repr(history))
    own = SparseFeature(TARGET if item is None else item.name, history.vocab_size, history.embed_dim)
    own.initializer = initializer
    model = build_retriever(name, [_padded(history, own.name)], [own], history=history.name, **arguments)
    if item is None:
        model.__dict__.update(losses={2: "full_softmax"}, negatives=["all"], item_of=OfLabels())
        callable_on_lists(model, history.name)
    return model


def _sequence(history: SequenceFeature, item: SparseFeature, arguments: Mapping[str, Any]) -> Model:
    own = dataclasses.replace(item, vocab_size=history.vocab_size, embed_dim=history.embed_dim)
    own.initializer = RandomNormal(0, 0.02)  # the house's, with which the model is known to learn
    return build_retriever("sasrec", [_padded(history, own.name)], [own], history=history.name, **arguments)


def _padded(history: SequenceFeature, item: str) -> SequenceFeature:
    return dataclasses.replace(history, pooling="mean", padding_idx=history.padding_idx or 0, shared_with=item)


def _one(key: str, features: Sequence[Feature]) -> Feature:
    if len(features) != 1:
        raise ConfigError(f"'{key}'", expected="one feature", got=names(features))
    return features[0]
