"""What parts of a recipe ask of each other: shared tables, histories, the item table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rechub_ray.errors import ConfigError, nearest
from rechub_ray.preparation.forms import Categorical, LeaveLastOut, Sequence, Table
from rechub_ray.schema import COUNT

if TYPE_CHECKING:
    from rechub_ray.preparation.recipe import Recipe


def check_tables(recipe: Recipe) -> None:
    """Check which tables features share.

    Raises:
        ConfigError: a feature shares a table that is not one.
    """
    tables = {spec.name: spec for spec in recipe.all_features if isinstance(spec, Table)}
    for spec in tables.values():
        if spec.shared_with is None:
            continue
        owner = tables.get(spec.shared_with)
        where = f"feature '{spec.name}': 'shared_with: {spec.shared_with}'"
        if owner is None or owner is spec:
            raise ConfigError(f"{where} is no feature with a table", hint=nearest(spec.shared_with, tables))
        if owner.shared_with is not None:
            raise ConfigError(f"{where} itself shares the table of '{owner.shared_with}'")
        if (spec.min_frequency, spec.max_values, spec.hash_buckets) != (1, None, None):
            raise ConfigError(f"{where}: min_frequency, max_values and hash_buckets are the owner's to give")
        if isinstance(owner, Sequence) and owner.numbers:
            raise ConfigError(f"{where} has no table: it holds numbers")


def check_histories(recipe: Recipe) -> None:
    """Check that lists fit each other, and the split.

    Raises:
        ConfigError: a sequence is aligned with none, or the history asks for what the rest of the recipe does not give.
    """
    history, split = recipe.history, recipe.split
    for specs in (recipe.features, recipe.items.features if recipe.items is not None else ()):
        lists = {spec.name: spec for spec in specs if isinstance(spec, Sequence)}
        for spec in lists.values():
            if spec.aligned_with is None:
                continue
            other = lists.get(spec.aligned_with)
            where = f"feature '{spec.name}': 'aligned_with: {spec.aligned_with}'"
            if other is None or other is spec or other.aligned_with is not None:
                rest = [name for name, one in lists.items() if one is not spec and one.aligned_with is None]
                raise ConfigError(f"{where} is no other sequence", hint=nearest(spec.aligned_with, rest))
            if other.max_length != spec.max_length:
                raise ConfigError(f"{where} differs in max_length", got=f"{spec.max_length} and {other.max_length}")
    if history is None:
        return
    if history.rows == "latest":
        raise ConfigError(
            "'history.rows: latest' has the row itself in its history, so nothing can be learned from it",
            expected="each, windows or both",
        )
    joined = {name for join in recipe.joins for name in join.columns}
    for name, column in history.lists.items():
        if column in joined:
            raise ConfigError(
                f"'history.lists.{name}': '{column}' is a column of a side table",
                expected="a column of the input files",
                hint="What belongs to an item can stand in the item table ('items').",
            )
    if history.rows != "each" and not (split is None or isinstance(split, LeaveLastOut)):
        raise ConfigError(
            f"'history.rows: {history.rows}' needs a split that counts from each user's last row",
            expected="split: {by: leave_last_out}, or none",
            got=f"by: {split.by}",
        )
    if history.exclude is not None:
        if not recipe.held_out:
            raise ConfigError(
                "'history.exclude' lists what users have seen for the rows of valid and test",
                expected="split: {by: leave_last_out}",
                got=f"by: {split.by}" if split is not None else "no split",
            )
        if recipe.items is None:
            raise ConfigError("'history.exclude' is for rankings of all items", expected="'items', the item table")
        for use in recipe.uses:
            if use.column == history.exclude:
                raise ConfigError(
                    f"'history.exclude': the list '{use.column}' is for evaluation and cannot be {use.what}"
                )


def check_items(recipe: Recipe) -> None:
    """Check the description of the item table.

    Raises:
        ConfigError: its id is no vocabulary of items, or it does not say where its features come from.
    """
    items = recipe.items
    if items is None:
        return
    specs = {spec.name: spec for spec in recipe.features}
    spec = specs.get(items.id)
    if spec is None:
        raise ConfigError(f"'items.id': there is no feature '{items.id}'", hint=nearest(items.id, specs))
    if not isinstance(spec, Categorical) or spec.shared_with is not None or spec.hash_buckets is not None:
        got = "hash_buckets" if isinstance(spec, Table) and spec.hash_buckets is not None else f"kind: {spec.kind}"
        raise ConfigError(
            f"'items.id': feature '{items.id}' cannot name items",
            expected="a categorical feature with a vocabulary of its own, so that an id is one item",
            got=f"shared_with: {spec.shared_with}" if isinstance(spec, Table) and spec.shared_with else got,
        )
    if recipe.history is not None and recipe.history.exclude is not None and spec.source != recipe.history.item:
        raise ConfigError(f"'history.item: {recipe.history.item}' is not the column of 'items.id'", got=spec.source)
    if (items.file is not None and bool(items.from_rows)) or (
        bool(items.features) and not items.file and not items.from_rows
    ):
        raise ConfigError("'items': name either 'file' or 'from_rows', where the features come from")
    for key in ("key", "joins"):
        if getattr(items, key) and items.file is None:
            raise ConfigError(f"'items.{key}' is for 'items.file', which is missing")
    if items.from_rows and recipe.like:
        raise ConfigError(
            "'items.from_rows' does not go with 'like': rows of other items would be missing",
            hint="Write the items into a file, and name it in 'items.file'.",
        )
    sources = [spec.source for spec in items.features]
    if items.file is not None and not sources:
        raise ConfigError("'items.features' is empty", expected="features of the items, or no 'items.file'")
    for name in dict.fromkeys([*items.from_rows, *sources] if items.from_rows else []):
        if name not in sources or name not in items.from_rows:
            raise ConfigError(
                f"'items.from_rows' and 'items.features' differ in '{name}'",
                expected="every column of one in the other",
            )
    for name in sorted({COUNT} & {items.id, *(spec.name for spec in items.features)}):
        raise ConfigError(
            f"'items': '{name}' is the name of a column that is added", hint="Give the feature another 'name'."
        )
