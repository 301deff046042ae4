"""Two towers that are trained by a margin."""

from __future__ import annotations

from rechub_ray.models.base import MODELS
from rechub_ray.models.matching.dssm import DSSM


@MODELS.register("facebook_dssm", "dssm_facebook")
class FaceBookDSSM(DSSM):
    """The two perceptrons of `DSSM`, whose default loss is a margin between the row's own item and others.

    With cosines s, a row loses the mean over its negatives j of `max(0, 0.2 + s_j - s_i)`: `losses: [{name: hinge,
    margin: 0.2}]`, with `negatives: [uniform]`, the paper's random ones; `hard` beside it are its hard ones. Among the
    items of other rows (`in_batch`) popular ones are frequent, and no `logq` corrects a margin for that.

    When to use: as `dssm`, where hard negatives matter: a margin stops pushing items that are far away already.

    Args:
        schema: the features; has items.
        common: the arguments of `DSSM`.

    Shapes:
        `user` (B, D), `item` (C, D)

    Raises:
        SchemaError: the schema has no items.

    Reference: Huang et al., Embedding-based Retrieval in Facebook Search (KDD 2020), eq. 1 and section 2.4. The margin,
    which the paper tunes, is not given there.
    """

    default_losses = ({"name": "hinge", "margin": 0.2},)
    default_negatives = ("uniform",)
