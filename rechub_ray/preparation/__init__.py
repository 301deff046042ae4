"""Raw logs -> encoded parquet shards with a schema, the fitted transforms and a statistics report."""

from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.pipeline import PrepareResult, prepare
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.preparation.statistics import print_report

__all__ = ["Encoder", "PrepareResult", "Recipe", "prepare", "print_report"]
