"""Models of rechub_ray from Torch-RecHub's feature lists and parameter dictionaries."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

from rechub_ray import schema as house
from rechub_ray.compat.basic.features import DenseFeature, SequenceFeature, SparseFeature
from rechub_ray.errors import ConfigError, SchemaError, nearest
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.models.base import MODELS, Model

Feature: TypeAlias = SparseFeature | SequenceFeature | DenseFeature
LABEL = "label"  # the click's column where the data is a table

_ACTIVATIONS = {"relu": "relu", "sigmoid": "sigmoid", "prelu": "prelu", "leakyrelu": "leaky_relu", "dice": "dice"}
_MLP_KEYS = ("dims", "activation", "dropout", "output_layer")


def build(
    name: str,
    features: Sequence[Feature],
    *,
    labels: Sequence[house.Label] = (house.Label(LABEL),),
    unpooled: Sequence[str] = (),
    **arguments: Any,
) -> Model:
    """Return rechub_ray's model `name` on these features and labels, with the features' initializers applied.

    Its attribute `padding` has the id that pads, by sequence feature, and `freeze` the tables that are not trained.
    """
    by_name = _by_name(features)
    schema = schema_of(list(by_name.values()), labels, unpooled=unpooled)
    model = MODELS.build({"name": name, **arguments}, schema, where="model")
    _initialise(model, by_name)
    return model


def build_retriever(
    name: str,
    user_features: Sequence[Feature],
    item_features: Sequence[Feature],
    /,
    *,
    item_id: str | None = None,
    lists: Sequence[str] = (),
    loss_temperature: float = 1.0,
    **arguments: Any,
) -> Model:
    """Return rechub_ray's model `name` for retrieval, as `build` does.

    Its rows have a label, and its attribute `temperature` is what divides similarities in training.

    Args:
        name: of the model.
        user_features: of the user tower.
        item_features: of the item tower.
        item_id: the item feature that names items; None takes the one whose table a user feature shares, or the first.
        lists: columns of the rows with lists of negatives.
        loss_temperature: see above.
        arguments: of the model.

    Raises:
        ConfigError: `item_id` is no sparse feature of the items, or there is none.
    """
    items = {f.name: f for f in item_features if isinstance(f, SparseFeature)}
    shared = [f.shared_with for f in user_features if isinstance(f, SequenceFeature) and f.shared_with in items]
    item_id = item_id or next(iter([*shared, *items]), None)
    if item_id not in items:
        raise ConfigError(
            "'item_features': none names the items",
            expected=f"item_id of: {', '.join(items) or 'no sparse feature is there'}",
            got=item_id,
        )
    by_name = _by_name([*user_features, *item_features])
    users = _by_name(user_features)
    features = {f.name: f for f in schema_of(list(by_name.values()), ()).features}
    own = tuple(f for f in features.values() if f.name not in users and f.name != item_id)
    table = house.Items(item_id, own, lists=tuple(lists))
    rows = (*(features[n] for n in users if n != item_id), features[item_id])
    schema = house.Schema(rows, (house.Label(LABEL),), items=table)
    model = MODELS.build({"name": name, **arguments}, schema, where="model")
    _initialise(model, by_name)
    model.__dict__["temperature"] = loss_temperature
    return model


def _initialise(model: Model, by_name: Mapping[str, Feature]) -> None:
    """Apply the features' initializers, and note what pads and what is frozen."""
    freeze = []
    for feature in by_name.values():
        if not isinstance(feature, DenseFeature) and feature.shared_with is None:
            bank = model.embedding
            if isinstance(bank, EmbeddingBank) and feature.name in [f.name for f in bank.features]:
                feature.initializer.fill(bank.rows(feature.name).detach())
                freeze += [f"embedding.tables.{glob.escape(feature.name)}"] if feature.initializer.freeze else []
    padding = {
        f.name: f.padding_idx for f in by_name.values() if isinstance(f, SequenceFeature) and f.padding_idx is not None
    }
    model.__dict__.update(padding=padding, freeze=freeze)


def schema_of(
    features: Sequence[Feature], labels: Sequence[house.Label], *, unpooled: Sequence[str] = ()
) -> house.Schema:
    """Return the schema with these features and labels.

    Raises:
        SchemaError: a feature shares the table of one that is not among them.
        ConfigError: a sequence feature's pooling is neither `mean` nor `sum`.
    """
    tables = {f.name: f for f in features if not isinstance(f, DenseFeature)}
    converted: list[house.Feature] = []
    for feature in features:
        if isinstance(feature, DenseFeature):
            converted.append(house.DenseFeature(feature.name, dim=feature.embed_dim))
            continue
        owner = tables.get(feature.shared_with or feature.name)
        if owner is None:
            raise SchemaError(
                f"feature '{feature.name}' shares the table of '{feature.shared_with}', which the model does not have",
                hint=nearest(str(feature.shared_with), tables),
            )
        common: dict[str, Any] = {
            "name": feature.name,
            "vocab_size": owner.vocab_size,
            "embed_dim": owner.embed_dim,
            "shared_with": feature.shared_with,
        }
        if isinstance(feature, SparseFeature):
            converted.append(house.SparseFeature(**common))
        elif feature.pooling in ("mean", "sum") or feature.name in unpooled:
            pooling = cast(Literal["mean", "sum"], "mean" if feature.name in unpooled else feature.pooling)
            converted.append(house.SequenceFeature(**common, pooling=pooling, max_length=feature.max_length))
        else:
            raise ConfigError(
                f"feature '{feature.name}': pooling '{feature.pooling}' has no meaning for this model",
                expected="mean or sum",
            )
    return house.Schema(tuple(converted), tuple(labels))


def names(features: Sequence[Feature]) -> list[str]:
    """Return the features' names.

    Raises:
        ConfigError: something in the list is no feature.
    """
    for feature in features:
        if not isinstance(feature, SparseFeature | SequenceFeature | DenseFeature):
            raise ConfigError(
                "a feature list holds something else",
                expected="features of rechub_ray.compat.basic.features",
                got=repr(feature),
            )
    return [feature.name for feature in features]


def mlp_arguments(mlp_params: Mapping[str, Any]) -> dict[str, Any]:
    """Return `mlp_params` as rechub_ray's arguments; Torch-RecHub normalises every hidden layer.

    Raises:
        ConfigError: an unknown key or activation.
    """
    for key in mlp_params:
        if key not in _MLP_KEYS:
            raise ConfigError(f"'mlp_params' has no '{key}'", hint=nearest(key, _MLP_KEYS))
    activation = str(mlp_params.get("activation", "relu")).lower()
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"'mlp_params': no activation '{activation}'", hint=nearest(activation, _ACTIVATIONS))
    return {
        "hidden_units": list(mlp_params.get("dims") or ()),
        "activation": _ACTIVATIONS[activation],
        "dropout": mlp_params.get("dropout", 0.0),
        "batch_norm": True,
    }


def _by_name(features: Sequence[Feature]) -> dict[str, Feature]:
    """Return each feature once, by name: lists of a model's parts overlap."""
    by_name: dict[str, Feature] = {}
    for name, feature in zip(names(features), features, strict=True):
        known = by_name.setdefault(name, feature)
        if known != feature:
            raise SchemaError(f"two different features are called '{name}'", got=f"{known} and {feature}")
    return by_name
