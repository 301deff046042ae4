"""Transforms that were fitted earlier, for new rows: those of a data set, or those that a run keeps."""

from __future__ import annotations

import dataclasses
import json

from rechub_ray.data.fingerprint import FILE, RECIPE, SCHEMA, find, is_there
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.files import join, read_text, write_text
from rechub_ray.preparation.encoder import Encoder
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.schema import Schema


@dataclasses.dataclass(frozen=True)
class Earlier:
    """What `like` in a recipe names: where it is, its transforms, its schema."""

    place: str
    encoder: Encoder
    schema: Schema

    @classmethod
    def load(cls, path: str) -> Earlier:
        """Return the transforms that a data set, a run or a checkpoint holds.

        Raises:
            ConfigError: it holds none.
            DataError: they cannot be read.
        """
        place = find(path)
        if place is None:
            raise ConfigError(
                f"'like': no transforms in {path}",
                expected=f"a folder with {FILE}, which `rechub-ray prepare` writes, or a run that was trained on one",
                hint=f"A run on data of `rechub-ray prepare`, from before runs kept them, gets them with "
                f"`rechub-ray prepare --adopt {path}`; other data has none.",
            )
        return cls(path, Encoder.load(place), Schema.load(join(place, SCHEMA)))

    def encoder_of(self, recipe: Recipe) -> Encoder:
        """Return the recipe's encoder with these transforms.

        Raises:
            ConfigError: a feature of the recipe is not among them, or would be encoded in another way.
        """
        encoder = Encoder.of(recipe)
        differing = encoder.take(self.encoder)
        if differing:
            raise ConfigError(
                f"'features': {', '.join(differing)} would be encoded otherwise than in {self.place}",
                expected="the features that it has, with the same transforms; `column` and counts may differ",
                got=f"features there: {', '.join(t.spec.name for t in self.encoder.transforms)}",
            )
        return encoder

    def settled(self, recipe: Recipe) -> Recipe:
        """Return the recipe with as many classes of each label as there are here, where it does not say how many."""
        counts = {label.name: label.num_classes for label in self.schema.labels}
        labels = (
            spec.model_copy(update={"num_classes": spec.num_classes or counts.get(spec.name)}) for spec in recipe.labels
        )
        return recipe.model_copy(update={"labels": tuple(labels)})


def adopt(root: str) -> None:
    """Add the fingerprints of its transforms, and how its labels were made, to a data set from before there were any.

    Args:
        root: folder or URI with `schema.json`, `preprocess.json` and `vocab/`.

    Raises:
        DataError: they cannot be read, or do not belong together.
        SchemaError: the schema cannot be read.
    """
    encoder, schema = Encoder.load(root), Schema.load(join(root, SCHEMA))
    made = {feature.name: feature for feature in (*encoder.features, *encoder.item_features)}
    for feature in schema.encoded({}).all_features:
        sizes = [getattr(f, "vocab_size", None) for f in (feature, made.get(feature.name, feature))]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"{root}: {SCHEMA} and {FILE} are not of one data set",
                expected=f"'{feature.name}' with {sizes[0]} ids",
                got=sizes[1],
                hint="Prepare the data again.",
            )
    if is_there(join(root, RECIPE)):
        specs = Recipe.from_dict(json.loads(read_text(join(root, RECIPE)))).labels
        expressions = {spec.name: spec.canonical for spec in specs}
        labels = (dataclasses.replace(x, expression=expressions.get(x.name, "")) for x in schema.labels)
        schema = dataclasses.replace(schema, labels=tuple(labels))
    document = json.loads(read_text(join(root, FILE)))
    write_text(join(root, FILE), json.dumps({**document, "encodings": encoder.encodings}, indent=2) + "\n")
    write_text(join(root, SCHEMA), json.dumps(schema.encoded(encoder.encodings).to_dict(), indent=2) + "\n")
