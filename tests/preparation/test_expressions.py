"""Label expressions against Python."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from rechub_ray.errors import ConfigError, DataError
from rechub_ray.preparation.expressions import Expression

TABLE = pa.table(
    {
        "rating": ["1", "3.5", "5", None],
        "n": pa.array([3, -1, 9007199254740993, 0]),
        "job": ["x", "y", "50000+.", "z"],
        "done": ["True", "false", "TRUE", None],
        "flag": [True, False, True, None],
    }
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
        ("n / 9007199254740993", [3 / 2**53, -1 / 2**53, 1, 0]),
        ("done == True", [1, 0, 1, None]),
        ("False == done", [0, 1, 0, None]),
        ("done in (True,)", [1, 0, 1, None]),
        ("not done or n == 0", [0, 1, 0, 1]),
        ("done", [1, 0, 1, None]),
        ("flag != True and flag == (n > 0)", [0, 1, 0, None]),
        ("(n > 0) == True", [1, 0, 1, 0]),
        ("(n > 0) == 1", [1, 0, 1, 0]),
        ("(n > 0) in (0, 1)", [1, 1, 1, 1]),
        ("n != 0 and 6 / n > 1", [1, 0, 0, 0]),
        ("n == 0 or 6 / n > 1", [1, 0, 0, 1]),
        ("job == 'x' and n > 0 or job != 'x'", [1, 1, 1, 1]),
        ("True", [1, 1, 1, 1]),
        ("'a' < 'b'", [1, 1, 1, 1]),
        (" + ".join(["n"] * 501) + " > 0", [1, 0, 1, 0]),
        (" and ".join(["n > 0"] * 501), [1, 0, 1, 0]),
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
    ("text", "rows"),
    [
        ("n * 4000000000000000000 > 0", [0, 2]),
        ("n + 9223372036854775807", [0, 2]),
        ("-9223372036854775807 - n < 0", [0, 2]),
        ("-(-9223372036854775807 + n) > 0", [1]),
        ("1 / n", [3]),
        ("n / 0", [0, 1, 2, 3]),
        ("1 / 0 > 2", [0, 1, 2, 3]),
        ("9223372036854775807 + 1 > n", [0, 1, 2, 3]),
        ("(n + 0.5) * 1e300 * 1e300", [0, 1, 2, 3]),
        ("n > 0 and 1 / (n - 3) > 0", [0]),
        ("n <= 0 or 1 / (n - 3) > 0", [0]),
        ("rating == 5 and job > 0", [2, 3]),
    ],
)
def test_what_cannot_be_computed_marks_its_row(text: str, rows: list[int]) -> None:
    """64 bits do not wrap, nothing is infinite, and a guard in front of a division is one."""
    values, flaws = Expression(text).values(TABLE)
    assert sorted(flaws.reasons) == rows
    assert all(math.isfinite(value) for row, value in enumerate(values.to_pylist()) if row not in rows and value)


def test_columns_that_are_no_python_names() -> None:
    table = pa.table({"Did buy?": ["yes", "no", None], "class": [1, 2, 3], "größe": [3, 4, 5]})
    expression = Expression('column("Did buy?") == "yes" and column("class") + column("größe") < 5')
    assert expression.columns == ["Did buy?", "class", "größe"]
    assert expression.values(table)[0].to_pylist() == [1, 0, 0]
    assert Expression(expression.canonical).columns == expression.columns


def test_past_64_bits_names_the_file_and_the_row(lab: Any) -> None:
    lab.write(train__csv="a,b\n1,1\n2,2\n3,3\n")
    label = {"name": "y", "expression": "b * 4000000000000000000 > 0"}
    with pytest.raises(DataError, match=r"train\.csv, row 4: .*`b \* 4000000000000000000` is past 64 bits"):
        lab.prepare(files="train.csv", split=None, labels=[label], features=[{"kind": "categorical", "name": "a"}])


def test_a_column_of_lists_is_one_line() -> None:
    with pytest.raises(DataError, match=r"column 'x' is list<.*one value a row"):
        Expression("x > 1").values(pa.table({"x": [[1], [2]]}))


@pytest.mark.parametrize(
    "text",
    ["n > 9223372036854775808", "n in (1, 18446744073709551616)", "n > 1e999", "n == '\\ud800'", "job > 'a' + 1",
     "(n > 1) == 'x'", "'x' == True", "'x' in (1, 2)", "-'x'", "not 'x'", "n and 'x'", "'x'", "not " * 3000 + "n",
     "(" * 150 + "n" + ")" * 150 + "(", "-" * 101 + "n", "(" * 3000 + "n" + ")" * 3000, "n + " * 20000 + "n",
     "9" * 5000 + " > n", "1j", "b'x' == job", "None == n", "n > 2 ** 3 + 1"],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Expression(text)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "text",
    ["rating >=", "rating.real > 1", "open('x')", "[r for r in x]", "lambda: 1", "a if b else c", "x is None", "f'{a}'",
     "a[0]", "a in b", "a in ('x', 1)", "2 ** 99", "a; b", "", "(y := 1)",
     "column(a) > 1", "column('a', 'b') > 1", "column() > 1", "column(1) > 1", "f('a') > 1"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Expression(text)
