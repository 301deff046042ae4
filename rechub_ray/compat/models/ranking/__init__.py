"""Ranking models with Torch-RecHub's arguments; each function returns a model of rechub_ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rechub_ray.compat.missing import refuse
from rechub_ray.compat.models.build import Feature, build, mlp_arguments, names
from rechub_ray.models.base import Model

__all__ = ["DCNv2", "DeepFM", "WideDeep"]
_MISSING = ("AFM", "AutoInt", "BST", "DCN", "DIEN", "DIN", "DeepFFM", "EDCN", "FatDeepFFM", "FiBiNet")


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


def __getattr__(name: str) -> Any:
    refuse(__name__, name, known=__all__, missing=_MISSING)
