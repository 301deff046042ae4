"""The base of multi-task models whose labels are of any kind."""

from __future__ import annotations

import functools
from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor

from rechub_ray.batch import Features
from rechub_ray.layers.activation import Activation
from rechub_ray.layers.embedding import EmbeddingBank
from rechub_ray.layers.inputs import DeepInput, choose, embedded
from rechub_ray.layers.mlp import HiddenUnits, Probability
from rechub_ray.layers.towers import Towers
from rechub_ray.models.base import Model
from rechub_ray.outputs import OutputKind
from rechub_ray.schema import PositiveInt, Schema


class MultiTaskModel(Model):
    """Embeddings at the bottom and a tower a label on top; a subclass builds what is between, and calls `add_towers`.

    Args:
        schema: the features, and the labels, which may be of different kinds.
        embedding_dim: width of the embeddings of features without their own `embed_dim`, >= 1.
        tower_units: widths of each tower's hidden layers.
        activation: after each hidden layer.
        dropout: in the hidden layers, in [0, 1).
        batch_norm: whether the hidden layers are batch-normalised.
        deep_features: names of the features to use; None takes all.
        heads: by label, the kind of its output; filled in from the losses where it is left out.
        init_std: standard deviation of the initial embeddings, >= 0.

    Attributes:
        bank: makes further embeddings of the same features, by `name`.
        hidden: the arguments that all hidden layers have: activation, dropout, batch_norm.
        width: of the input.

    Shapes:
        an output a label, (B,), or (B, C) of a multiclass one
    """

    def __init__(
        self,
        schema: Schema,
        *,
        embedding_dim: PositiveInt = 16,
        tower_units: HiddenUnits = (64,),
        activation: Activation = "relu",
        dropout: Probability = 0.0,
        batch_norm: bool = False,
        deep_features: list[str] | None = None,
        heads: dict[str, OutputKind] | None = None,
        init_std: Annotated[float, Ge(0)] = 1e-4,
    ) -> None:
        super().__init__(schema)
        names = choose(schema, deep_features, key="deep_features")
        self.bank = functools.partial(
            EmbeddingBank, schema, dim=embedding_dim, features=embedded(schema, names), init_std=init_std
        )
        self.embedding = self.bank()
        self.deep_input = DeepInput(schema, self.embedding, names)
        self.width = self.deep_input.width
        self.hidden: dict[str, Any] = {"activation": activation, "dropout": dropout, "batch_norm": batch_norm}
        self._tower = {"hidden_units": tower_units, "heads": heads, **self.hidden}

    def add_towers(self, width: int) -> None:
        """Build the towers, whose input has the given width, and declare their outputs.

        Raises:
            SchemaError: the schema has no label.
            ConfigError: an unknown label in `heads`, or a head that the label cannot have.
        """
        self.towers = Towers(self.schema, width, **self._tower)
        self.outputs = self.towers.outputs

    def read(self, features: Features) -> Tensor:
        """Return the input of the layers above the embeddings, [e_1, ..., e_K, dense].

        Shapes:
            (B, width)
        """
        x: Tensor = self.deep_input(self.embedding.flat(features), features.dense)
        return x
