"""Two towers that are trained by a softmax over the batch, corrected for how often items are in it."""

from __future__ import annotations

from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.dssm import DSSM


@MODELS.register("youtube_sbc", "youtubesbc")
class YoutubeSBC(DSSM):
    """The two perceptrons of `DSSM` with the corrected softmax over the items of a step as default loss.

    With cosines s, temperature T and the probability q_j of item j in a column, a row's scores are `s_j / T - log q_j`:
    `losses: [{name: sampled_softmax, temperature: 0.05, logq: true}]`. It is the loss that corrects, with `logq`, and
    not the model: the same correction is there for every model for retrieval, and none is in what is served. The paper
    estimates q by the steps between two appearances of an item; here it is the item's share of the training rows, which
    `prepare` has counted. (Torch-RecHub divides by T after the correction, which scales it by 1 / T.)

    When to use: as `dssm`, with other rows' items for negatives and a skewed popularity.

    Args:
        schema: the features; has items.
        common: the arguments of `DSSM`.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.

    Reference: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations (RecSys 2019),
    sections 3 and 4.
    """

    default_losses = ({"name": "sampled_softmax", "temperature": 0.05, "logq": True},)
