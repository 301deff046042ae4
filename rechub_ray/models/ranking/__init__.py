"""Ranking models: the probability that a row's label is 1."""

from rechub_ray.models.ranking.dcn_v2 import DCNv2
from rechub_ray.models.ranking.deepfm import DeepFM
from rechub_ray.models.ranking.fm import FM
from rechub_ray.models.ranking.lr import LR
from rechub_ray.models.ranking.mlp import MLPRanker
from rechub_ray.models.ranking.wide_deep import WideDeep

__all__ = ["FM", "LR", "DCNv2", "DeepFM", "MLPRanker", "WideDeep"]
