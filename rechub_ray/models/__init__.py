"""All models; importing this package registers them."""

from rechub_ray.models.base import MODELS, Model
from rechub_ray.models.ranking import FM, LR, DCNv2, DeepFM, MLPRanker, WideDeep

__all__ = ["FM", "LR", "MODELS", "DCNv2", "DeepFM", "MLPRanker", "Model", "WideDeep"]
