"""Ranking models with Torch-RecHub's arguments; each function returns a model of rechub_ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rechub_ray.compat.basic.features import SequenceFeature, SparseFeature
from rechub_ray.compat.missing import refuse
from rechub_ray.compat.models.build import Feature, build, mlp_arguments, names
from rechub_ray.errors import ConfigError
from rechub_ray.models.base import Model

__all__ = [
    "AFM",
    "BST",
    "DCN",
    "DIEN",
    "DIN",
    "EDCN",
    "AutoInt",
    "DCNv2",
    "DeepFFM",
    "DeepFM",
    "FatDeepFFM",
    "FiBiNet",
    "WideDeep",
]


def DeepFM(deep_features: Sequence[Feature], fm_features: Sequence[Feature], mlp_params: Mapping[str, Any]) -> Model:
    """Return `rechub_ray.models.DeepFM` on these features.

    Args:
        deep_features: of the deep part.
        fm_features: of the linear term and the interactions; those with embeddings have one embed_dim.
        mlp_params: dims, activation, dropout of the deep part.
    """
    return build(
        "deepfm",
        [*deep_features, *fm_features],
        fm_features=names(fm_features),
        deep_features=names(deep_features),
        **mlp_arguments(mlp_params),
    )


def WideDeep(
    wide_features: Sequence[Feature], deep_features: Sequence[Feature], mlp_params: Mapping[str, Any]
) -> Model:
    """Return `rechub_ray.models.WideDeep` on these features.

    Args:
        wide_features: of the linear part.
        deep_features: of the deep part.
        mlp_params: dims, activation, dropout of the deep part.
    """
    return build(
        "wide_deep",
        [*wide_features, *deep_features],
        wide_features=names(wide_features),
        deep_features=names(deep_features),
        **mlp_arguments(mlp_params),
    )


def DCNv2(
    features: Sequence[Feature],
    n_cross_layers: int,
    mlp_params: Mapping[str, Any],
    model_structure: str = "parallel",
    use_low_rank_mixture: bool = True,
    low_rank: int = 32,
    num_experts: int = 4,
) -> Model:
    """Return `rechub_ray.models.DCNv2` on these features.

    Args:
        features: of both parts.
        n_cross_layers: number of cross layers.
        mlp_params: dims, activation, dropout of the deep part.
        model_structure: `parallel`, `stacked` or `crossnet_only`.
        use_low_rank_mixture: whether cross layers mix low-rank experts; False takes full matrices.
        low_rank: rank of an expert's matrices.
        num_experts: experts a cross layer.
    """
    return build(
        "dcn_v2",
        features,
        structure=model_structure,
        num_cross_layers=n_cross_layers,
        low_rank=low_rank if use_low_rank_mixture else None,
        num_experts=num_experts if use_low_rank_mixture else 1,
        **mlp_arguments(mlp_params),
    )


def DCN(features: Sequence[Feature], n_cross_layers: int, mlp_params: Mapping[str, Any]) -> Model:
    """Return `rechub_ray.models.DCN` on these features.

    Args:
        features: of both parts.
        n_cross_layers: number of cross layers.
        mlp_params: dims, activation, dropout of the deep part.
    """
    return build("dcn", features, num_cross_layers=n_cross_layers, **mlp_arguments(mlp_params))


def EDCN(
    features: Sequence[Feature],
    n_cross_layers: int,
    mlp_params: Mapping[str, Any],
    bridge_type: str = "hadamard_product",
    use_regulation_module: bool = True,
    temperature: float = 1,
) -> Model:
    """Return `rechub_ray.models.EDCN` on these features.

    Args:
        features: of both parts.
        n_cross_layers: number of cross layers.
        mlp_params: activation, dropout of the deep layers, which are as wide as their input: dims are not read.
        bridge_type: `hadamard_product`, `pointwise_addition`, `concatenation` or `attention_pooling`.
        use_regulation_module: whether gates choose what each layer reads.
        temperature: of the gates.
    """
    hidden = mlp_arguments(mlp_params)
    del hidden["hidden_units"]
    return build(
        "edcn",
        features,
        num_cross_layers=n_cross_layers,
        bridge_type=bridge_type,
        regulation=use_regulation_module,
        temperature=temperature,
        **hidden,
    )


def AFM(fm_features: Sequence[Feature], embed_dim: int, t: int = 64) -> Model:
    """Return `rechub_ray.models.AFM` on these features.

    Args:
        fm_features: of the linear term and the interactions, with one embed_dim.
        embed_dim: theirs.
        t: width of the attention's hidden layer.
    """
    return build("afm", fm_features, embedding_dim=embed_dim, attention_dim=t)


def AutoInt(
    sparse_features: Sequence[Feature],
    dense_features: Sequence[Feature] | None,
    num_layers: int = 3,
    num_heads: int = 2,
    dropout: float = 0.0,
    mlp_params: Mapping[str, Any] | None = None,
) -> Model:
    """Return `rechub_ray.models.AutoInt` on these features.

    Args:
        sparse_features: with one embed_dim, which is the attention's width, too.
        dense_features: the numeric features.
        num_layers: attention layers.
        num_heads: attention heads.
        dropout: of the attention's weights.
        mlp_params: dims, activation, dropout of the deep part; None leaves it out.
    """
    return build(
        "autoint",
        [*sparse_features, *(dense_features or ())],
        num_layers=num_layers,
        num_heads=num_heads,
        attention_dim=sparse_features[0].embed_dim,
        attention_dropout=dropout,
        scale=True,
        **({} if mlp_params is None else mlp_arguments(mlp_params)),
    )


def FiBiNet(
    features: Sequence[Feature],
    mlp_params: Mapping[str, Any],
    reduction_ratio: int = 3,
    bilinear_type: str = "field_interaction",
) -> Model:
    """Return `rechub_ray.models.FiBiNET` on these features.

    Args:
        features: with one embed_dim.
        mlp_params: dims, activation, dropout of the perceptron.
        reduction_ratio: of SENet.
        bilinear_type: `field_all`, `field_each` or `field_interaction`.
    """
    return build(
        "fibinet",
        features,
        reduction_ratio=reduction_ratio,
        bilinear_type=bilinear_type,
        **mlp_arguments(mlp_params),
    )


def DeepFFM(
    linear_features: Sequence[Feature],
    cross_features: Sequence[SparseFeature],
    embed_dim: int,
    mlp_params: Mapping[str, Any],
) -> Model:
    """Return `rechub_ray.models.DeepFFM` on these features.

    Args:
        linear_features: of the linear term.
        cross_features: of the interactions; their vocab_size counts each id once for each of them.
        embed_dim: width of each vector.
        mlp_params: dims, activation, dropout of the perceptron.

    Raises:
        ConfigError: a vocab_size that does not.
    """
    return _field_aware("deepffm", linear_features, cross_features, embed_dim, mlp_params)


def FatDeepFFM(
    linear_features: Sequence[Feature],
    cross_features: Sequence[SparseFeature],
    embed_dim: int,
    reduction_ratio: int,
    mlp_params: Mapping[str, Any],
) -> Model:
    """Return `rechub_ray.models.FatDeepFFM` on these features; see `DeepFFM`.

    Args:
        linear_features: of the linear term.
        cross_features: of the interactions.
        embed_dim: width of each vector.
        reduction_ratio: of the attention.
        mlp_params: dims, activation, dropout of the perceptron.

    Raises:
        ConfigError: a vocab_size that does not count each id once for each cross feature.
    """
    return _field_aware(
        "fat_deepffm", linear_features, cross_features, embed_dim, mlp_params, reduction_ratio=reduction_ratio
    )


def _field_aware(
    name: str,
    linear: Sequence[Feature],
    cross: Sequence[SparseFeature],
    width: int,
    mlp_params: Mapping[str, Any],
    **arguments: Any,
) -> Model:
    plain: dict[str, Feature] = {}
    for feature in cross:
        size, rest = divmod(feature.vocab_size, len(cross))
        if rest:
            raise ConfigError(
                f"feature '{feature.name}': vocab_size of a cross feature",
                expected=f"the number of its ids times {len(cross)}, the number of cross features",
                got=feature.vocab_size,
            )
        plain[feature.name] = dataclasses.replace(feature, vocab_size=size, embed_dim=width)
    for other in linear:
        known = plain.setdefault(other.name, other)
        if getattr(known, "vocab_size", None) != getattr(other, "vocab_size", None):
            raise ConfigError(
                f"feature '{other.name}': vocab_size of a cross feature",
                expected=f"that of the linear feature times {len(cross)}, the number of cross features",
            )
    return build(
        name,
        list(plain.values()),
        embedding_dim=width,
        wide_features=names(linear),
        fm_features=names(cross),
        **arguments,
        **mlp_arguments(mlp_params),
    )


def DIN(
    features: Sequence[Feature],
    history_features: Sequence[SequenceFeature],
    target_features: Sequence[SparseFeature],
    mlp_params: Mapping[str, Any],
    attention_mlp_params: Mapping[str, Any],
) -> Model:
    """Return `rechub_ray.models.DIN` on these features.

    Args:
        features: of the perceptron alone.
        history_features: sequences of what users did.
        target_features: what each of them is compared with, in their order; further ones are of the perceptron alone.
        mlp_params: dims, dropout of the perceptron, whose activation is `dice` unless it is given.
        attention_mlp_params: dims, activation, use_softmax of the attention.
    """
    attention = dict(attention_mlp_params)
    softmax = attention.pop("use_softmax", False)
    units = mlp_arguments({"dims": [36], "activation": "dice", **attention})
    return _behaviour(
        "din",
        features,
        history_features,
        target_features,
        mlp_params,
        attention_units=units["hidden_units"],
        attention_activation=units["activation"],
        attention_softmax=softmax,
    )


def DIEN(
    features: Sequence[Feature],
    history_features: Sequence[SequenceFeature],
    neg_history_features: Sequence[SequenceFeature],
    target_features: Sequence[SparseFeature],
    mlp_params: Mapping[str, Any],
    alpha: float = 0.2,
) -> Model:
    """Return `rechub_ray.models.DIEN` on these features. The auxiliary loss is an output of its own.

    Args:
        features: of the perceptron alone.
        history_features: sequences of what users did, as many as targets.
        neg_history_features: sequences of other ids, as long as the histories; none draws them.
        target_features: what each history is compared with.
        mlp_params: dims, dropout of the perceptron, whose activation is `dice` unless it is given.
        alpha: weight of the auxiliary loss.
    """
    return _behaviour(
        "dien",
        [*features, *neg_history_features],
        history_features,
        target_features,
        mlp_params,
        negative_features=names(neg_history_features) or None,
        auxiliary_weight=alpha,
        deep=names(features),
    )


def BST(
    features: Sequence[Feature],
    history_features: Sequence[SequenceFeature],
    target_features: Sequence[SparseFeature],
    mlp_params: Mapping[str, Any],
    nhead: int = 8,
    dropout: float = 0.2,
    num_layers: int = 1,
    max_seq_len: int = 51,
) -> Model:
    """Return `rechub_ray.models.BST` on these features.

    Args:
        features: of the perceptron alone.
        history_features: sequences of what users did, as many as targets; of longer ones the last ids count.
        target_features: what each of them is compared with.
        mlp_params: dims, activation, dropout of the perceptron.
        nhead: attention heads.
        dropout: in the transformer.
        num_layers: of the transformer.
        max_seq_len: longest history, and one more for the target.
    """
    return _behaviour(
        "bst",
        features,
        [dataclasses.replace(f, max_length=min(f.max_length, max_seq_len - 1)) for f in history_features],
        target_features,
        {"activation": "relu", **mlp_params},
        num_heads=nhead,
        attention_dropout=dropout,
        num_layers=num_layers,
    )


def _behaviour(
    name: str,
    features: Sequence[Feature],
    histories: Sequence[SequenceFeature],
    targets: Sequence[SparseFeature],
    mlp_params: Mapping[str, Any],
    *,
    deep: list[str] | None = None,
    **arguments: Any,
) -> Model:
    sequences = [*histories, *(f for f in features if f.name in (arguments.get("negative_features") or ()))]
    # as theirs: what stands behind the targets of the histories is read by the perceptron alone
    targets, others = targets[: len(histories)], targets[len(histories) :]
    features = [*features, *(f for f in others if f.name not in names(features))]
    return build(
        name,
        [*features, *targets, *histories],
        unpooled=names(sequences),
        history_features=names(histories),
        target_features=names(targets),
        deep_features=(names(features) if deep is None else deep) or names(targets),
        **arguments,
        **mlp_arguments({"activation": "dice", **mlp_params}),
    )


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=())
