"""Labels as they stand in the shards, and how many classes they have."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import DataError
from rechub_ray.preparation.expressions import Expression
from rechub_ray.preparation.forms import LabelSpec
from rechub_ray.preparation.values import FLOAT32_MAX, Flaws, to_float, to_number
from rechub_ray.schema import Label

_MAX_CLASSES = 2**24 - 1


def label_column(spec: LabelSpec, table: pa.Table, flaws: Flaws) -> pa.Array:
    """Return a label as float32, one value a row; null only where the label is optional.

    Args:
        spec: the recipe's label.
        table: raw rows.
        flaws: rows whose label is missing or impossible are marked.
    """
    if spec.expression is not None:
        values, inner = Expression(spec.expression).values(table)
        for row, reason in inner.reasons.items():
            flaws.reasons.setdefault(row, reason)
    else:
        values = to_float(to_number(table[spec.name], spec.name, flaws))
    if not spec.optional:
        wanted = "`optional: true` keeps such rows for the other labels"
        flaws.add(pc.is_null(values), f"label '{spec.name}' is null ({wanted})")
    if spec.kind == "binary":
        signs = f"write expression: '{spec.expression or spec.name} > 0' for labels of -1 and 1"
        flaws.add(pc.equal(values, -1), f"label '{spec.name}' is -1, expected 0 or 1 ({signs})")
        neither = pc.invert(pc.or_(pc.equal(values, 0), pc.equal(values, 1)))
        flaws.add(neither, f"label '{spec.name}' is {{value}}, expected 0 or 1", values)
    elif spec.kind == "multiclass":
        top = (spec.num_classes or _MAX_CLASSES) - 1
        fits = pc.and_(
            pc.equal(values, pc.floor(values)), pc.and_(pc.greater_equal(values, 0), pc.less_equal(values, top))
        )
        flaws.add(
            pc.invert(fits),
            f"label '{spec.name}' is {{value}}, expected a class from 0 to {top} (num_classes)",
            values,
        )
    else:
        past = pc.greater(pc.abs(values), FLOAT32_MAX)
        flaws.add(past, f"label '{spec.name}' is {{value}}, which is past float32", values)
    return pc.cast(values, pa.float32(), safe=False)


class Classes:
    """Which classes of each multiclass label occur in the training split."""

    def __init__(self, specs: tuple[LabelSpec, ...]) -> None:
        self.seen: dict[str, set[int]] = {spec.name: set() for spec in specs if spec.kind == "multiclass"}

    def add(self, columns: dict[str, pa.Array]) -> None:
        """Take in training rows."""
        for name, seen in self.seen.items():
            seen.update(int(value) for value in columns[name].drop_null().unique().to_pylist())

    def merge(self, other: Classes) -> None:
        for name, seen in other.seen.items():
            self.seen[name] |= seen

    def label(self, spec: LabelSpec) -> Label:
        """Return the schema's label; without `num_classes` in the recipe it is the highest class of training, plus 1.

        Raises:
            DataError: a multiclass label of fewer than two classes.
        """
        if spec.kind != "multiclass":
            return Label(spec.name, spec.kind, optional=spec.optional, expression=spec.canonical)
        count = spec.num_classes or max(self.seen[spec.name], default=-1) + 1
        if count < 2:
            raise DataError(
                f"label '{spec.name}' has {'one class' if count else 'no value'} in the training split",
                expected="classes 0, 1, ... (at least two)",
                hint="Or give 'num_classes'.",
            )
        return Label(spec.name, spec.kind, optional=spec.optional, num_classes=count, expression=spec.canonical)

    def absent(self, label: Label) -> str | None:
        """Return a sentence on the classes that training does not hold; None where it holds all of them."""
        seen = self.seen.get(label.name)
        if seen is None or len(seen) == label.num_classes:
            return None
        assert label.num_classes is not None
        first = next(number for number in range(label.num_classes) if number not in seen)
        missing = label.num_classes - len(seen)
        more = f" and {missing - 1:,} others do" if missing > 1 else " does"
        start = " (classes start at 0)" if first == 0 else ""
        return f"label '{label.name}': class {first}{more} not occur in the training split{start}"
