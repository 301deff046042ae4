"""Raw logs -> encoded parquet shards with a schema, the fitted transforms and a statistics report."""

from rechub_ray.data.prepare.encoder import Encoder
from rechub_ray.data.prepare.pipeline import PrepareResult, prepare
from rechub_ray.data.prepare.recipe import Recipe
from rechub_ray.data.prepare.statistics import print_report

__all__ = ["Encoder", "PrepareResult", "Recipe", "prepare", "print_report"]
