"""Matching models with Torch-RecHub's arguments; each function returns a model of rechub_ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rechub_ray.compat.basic.features import SequenceFeature
from rechub_ray.compat.missing import refuse
from rechub_ray.compat.models.build import Feature, build_retriever, mlp_arguments, names
from rechub_ray.compat.models.matching.sessions import NARM, SINE, STAMP, GRU4Rec, SASRec
from rechub_ray.errors import ConfigError
from rechub_ray.models.base import Model

__all__ = [
    "DSSM",
    "MIND",
    "NARM",
    "SINE",
    "STAMP",
    "ComirecDR",
    "ComirecSA",
    "FaceBookDSSM",
    "GRU4Rec",
    "SASRec",
    "YoutubeDNN",
    "YoutubeSBC",
]


def DSSM(
    user_features: Sequence[Feature],
    item_features: Sequence[Feature],
    user_params: Mapping[str, Any],
    item_params: Mapping[str, Any],
    temperature: float = 1.0,
    *,
    item_id: str | None = None,
) -> Model:
    """Return `rechub_ray.models.DSSM` on these features.

    Args:
        user_features: of the user tower.
        item_features: of the item tower.
        user_params: dims, activation and dropout of the user tower; the last of dims is the width of the vectors.
        item_params: those of the item tower; they differ in the inner dims alone.
        temperature: divides similarities in list-wise training.
        item_id: the item feature that names items; None takes the one whose table a user feature shares, or the first.
    """
    return _two_towers("dssm", user_features, item_features, user_params, item_params, temperature, item_id)


def FaceBookDSSM(
    user_features: Sequence[Feature],
    pos_item_features: Sequence[Feature],
    neg_item_features: Sequence[Feature],
    user_params: Mapping[str, Any],
    item_params: Mapping[str, Any],
    temperature: float = 1.0,
    *,
    item_id: str | None = None,
) -> Model:
    """Return `rechub_ray.models.FaceBookDSSM` on these features.

    Args:
        user_features: of the user tower.
        pos_item_features: of the item tower.
        neg_item_features: of a row's negative, the one that shares the table of the items' ids, or as many as
            `pos_item_features`, in their order; its id is read, by which the item table has the others.
        user_params: as for `DSSM`.
        item_params: as for `DSSM`.
        temperature: as for `DSSM`.
        item_id: as for `DSSM`.

    Raises:
        ConfigError: no negative feature is the items' ids.
    """
    own = names(pos_item_features)
    shared = [f.shared_with for f in user_features if isinstance(f, SequenceFeature) and f.shared_with in own]
    named = item_id or next(iter([*shared, *own]))
    ids = [f.name for f in neg_item_features if getattr(f, "shared_with", None) == named]
    if not ids and len(own) == len(neg_item_features):  # one for one, as scripts have them
        ids = [names(neg_item_features)[own.index(named)]] if named in own else []
    if not ids:
        raise ConfigError("'neg_item_features': none is the id of an item", expected=f"shared_with='{named}'")
    return _two_towers(
        "facebook_dssm", user_features, pos_item_features, user_params, item_params, temperature, item_id, lists=ids[:1]
    )


def YoutubeSBC(
    user_features: Sequence[Feature],
    item_features: Sequence[Feature],
    sample_weight_feature: Sequence[Feature],
    user_params: Mapping[str, Any],
    item_params: Mapping[str, Any],
    batch_size: int,
    n_neg: int = 3,
    temperature: float = 1.0,
    *,
    item_id: str | None = None,
) -> Model:
    """Return `rechub_ray.models.YoutubeSBC` on these features.

    Its negatives are the items of all other rows, corrected by their training rows: so `sample_weight_feature`,
    `batch_size` and `n_neg` have no effect.

    Args:
        user_features: of the user tower.
        item_features: of the item tower.
        sample_weight_feature: see above.
        user_params: as for `DSSM`.
        item_params: as for `DSSM`.
        batch_size: see above.
        n_neg: see above.
        temperature: as for `DSSM`.
        item_id: as for `DSSM`.
    """
    model = _two_towers("youtube_sbc", user_features, item_features, user_params, item_params, temperature, item_id)
    model.__dict__["in_batch_neg"] = True
    return model


def _two_towers(
    name: str,
    user_features: Sequence[Feature],
    item_features: Sequence[Feature],
    user_params: Mapping[str, Any],
    item_params: Mapping[str, Any],
    temperature: float,
    item_id: str | None,
    lists: Sequence[str] = (),
) -> Model:
    (user, width), (item, other) = (_tower(params) for params in (user_params, item_params))
    rest = [{key: value for key, value in one.items() if key != "hidden_units"} for one in (user, item)]
    if width != other or rest[0] != rest[1]:
        raise ConfigError(
            "'user_params' and 'item_params' differ in more than inner dims",
            expected="one activation and dropout, and one last dim",
            got=f"{dict(user_params)} and {dict(item_params)}",
        )
    return build_retriever(
        name,
        user_features,
        item_features,
        item_id=item_id,
        lists=lists,
        loss_temperature=temperature,
        vector_dim=width,
        user_units=user["hidden_units"],
        item_units=item["hidden_units"],
        similarity="cosine",
        linear_end=name != "dssm",  # whose last layer Torch-RecHub normalises and activates
        **rest[0],
    )


def YoutubeDNN(
    user_features: Sequence[Feature],
    item_features: Sequence[Feature],
    neg_item_feature: Sequence[Feature],
    user_params: Mapping[str, Any],
    temperature: float = 1.0,
) -> Model:
    """Return `rechub_ray.models.YoutubeDNN` on these features.

    Args:
        user_features: of the user tower.
        item_features: the item's id.
        neg_item_feature: the list of a row's negatives.
        user_params: dims, activation and dropout of the user tower; the last dim is the width of the id's embedding.
        temperature: divides similarities in list-wise training.

    Raises:
        ConfigError: there is more than the item's id, or the vectors' width is not that of the items' embeddings.
    """
    user, width = _tower(user_params)
    if len(item_features) != 1:
        raise ConfigError("'item_features': the item's id", expected="one feature", got=names(item_features))
    item = item_features[0]
    if width != getattr(item, "embed_dim", None):
        raise ConfigError(
            "'user_params': the last dim is the width of the items' embeddings",
            expected=f"{getattr(item, 'embed_dim', None)}, the embed_dim of '{item.name}'",
            got=width,
        )
    return build_retriever(
        "youtube_dnn",
        user_features,
        item_features,
        lists=names(neg_item_feature),
        loss_temperature=temperature,
        similarity="cosine",
        **user,
    )


def MIND(
    user_features: Sequence[Feature],
    history_features: Sequence[Feature],
    item_features: Sequence[Feature],
    neg_item_feature: Sequence[Feature],
    max_length: int,
    temperature: float = 1.0,
    interest_num: int = 4,
    dynamic_interest: bool = False,
) -> Model:
    """Return `rechub_ray.models.MIND` on these features.

    Args:
        user_features: of the user beside the history.
        history_features: the list of the user's items, in which 0 is nothing.
        item_features: the item's id.
        neg_item_feature: the list of a row's negatives.
        max_length: of the history.
        temperature: divides similarities in list-wise training.
        interest_num: number of interests.
        dynamic_interest: whether short histories have fewer.
    """
    features = user_features, history_features, item_features, neg_item_feature
    own: dict[str, Any] = {
        "interest_num": interest_num,
        "dynamic_interest": dynamic_interest,
        "user_features": names(user_features),
    }
    return _interests("mind", features, temperature, max_length, own)


def ComirecSA(
    user_features: Sequence[Feature],
    history_features: Sequence[Feature],
    item_features: Sequence[Feature],
    neg_item_feature: Sequence[Feature],
    temperature: float = 1.0,
    interest_num: int = 4,
) -> Model:
    """Return `rechub_ray.models.ComiRecSA` on these features; see `MIND`."""
    features = user_features, history_features, item_features, neg_item_feature
    own: dict[str, Any] = {"interest_num": interest_num, "user_features": names(user_features) or None}
    return _interests("comirec_sa", features, temperature, None, own)


def ComirecDR(
    user_features: Sequence[Feature],
    history_features: Sequence[Feature],
    item_features: Sequence[Feature],
    neg_item_feature: Sequence[Feature],
    max_length: int,
    temperature: float = 1.0,
    interest_num: int = 4,
) -> Model:
    """Return `rechub_ray.models.ComiRecDR` on these features; see `MIND`."""
    features = user_features, history_features, item_features, neg_item_feature
    own: dict[str, Any] = {"interest_num": interest_num, "user_features": names(user_features) or None}
    return _interests("comirec_dr", features, temperature, max_length, own)


def _interests(
    name: str,
    features: tuple[Sequence[Feature], Sequence[Feature], Sequence[Feature], Sequence[Feature]],
    temperature: float,
    max_length: int | None,
    arguments: Mapping[str, Any],
) -> Model:
    user_features, history_features, item_features, neg_item_feature = features
    history = history_features[0] if len(history_features) == 1 else None
    if not isinstance(history, SequenceFeature):
        raise ConfigError("'history_features'", expected="one SequenceFeature", got=list(history_features))
    read = dataclasses.replace(
        history, pooling="mean", padding_idx=history.padding_idx or 0, max_length=max_length or history.max_length
    )
    return build_retriever(
        name,
        [*user_features, read],
        item_features,
        lists=names(neg_item_feature),
        loss_temperature=temperature,
        history=history.name,
        similarity="cosine",
        **arguments,
    )


def _tower(params: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return a tower's arguments, and the width of its vectors."""
    arguments = mlp_arguments(params)
    if not arguments["hidden_units"]:
        raise ConfigError("'dims' of a tower is empty", expected="at least the width of the vectors")
    *units, width = arguments["hidden_units"]
    return {**arguments, "hidden_units": units}, int(width)


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=())
