"""Label expressions against Python."""

from __future__ import annotations

import pyarrow as pa
import pytest

from rechub_ray.errors import ConfigError
from rechub_ray.preparation.expressions import Expression

TABLE = pa.table(
    {"rating": ["1", "3.5", "5", None], "n": pa.array([3, -1, 9007199254740993, 0]), "job": ["x", "y", "50000+.", "z"]}
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rating >= 4", [0, 0, 1, None]),
        ("1 < rating <= 5", [0, 1, 1, None]),
        ("job == '50000+.'", [0, 0, 1, 0]),
        ('"y" != job', [1, 0, 1, 1]),
        ("job in ('x', 'z')", [1, 0, 0, 1]),
        ("n not in [3, 0]", [0, 1, 1, 0]),
        ("n == 9007199254740993", [0, 0, 1, 0]),
        ("n == 9007199254740992", [0, 0, 0, 0]),
        ("rating > 2 and not n < 0", [0, 0, 1, None]),
        ("rating > 2 or n == 0", [0, 1, 1, 1]),
        ("-n / 2 + 1 * 2", [0.5, 2.5, 2 - 9007199254740993 / 2, 2]),
        ("rating", [1, 3.5, 5, None]),
        ("1", [1, 1, 1, 1]),
        ("n >= 2.5", [1, 0, 1, 0]),
        ("n in (2.5, 3)", [1, 0, 0, 0]),
        ("n + 0.5", [3.5, -0.5, 9007199254740993 + 0.5, 0.5]),
    ],
)
def test_values(text: str, expected: list[float | None]) -> None:
    values, flaws = Expression(text).values(TABLE)
    assert values.to_pylist() == expected
    assert not flaws.reasons


def test_columns_and_unreadable_values() -> None:
    expression = Expression("rating >= 4 and job == 'x' and n > 0")
    assert expression.columns == ["rating", "job", "n"]
    _, flaws = Expression("job > 1").values(TABLE)
    assert sorted(flaws.reasons) == [0, 1, 2, 3]
    assert "'x' is not a number" in flaws.reasons[0]


@pytest.mark.parametrize(
    "text",
    ["rating >=", "rating.real > 1", "open('x')", "[r for r in x]", "lambda: 1", "a if b else c", "x is None", "f'{a}'",
     "a[0]", "a in b", "a in ('x', 1)", "2 ** 99", "a; b", "", "(y := 1)"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Expression(text)
