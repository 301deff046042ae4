"""Label expressions: arithmetic and comparisons over raw columns, and nothing else."""

from __future__ import annotations

import ast
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import ConfigError
from rechub_ray.preparation.values import Flaws, to_float, to_number, to_text

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_ARITHMETIC: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
}
_ALLOWED = "column names, numbers, texts, + - * /, comparisons, in, and, or, not"


class Expression:
    """A checked expression.

    A column is read as text where it is compared with a text, as a number elsewhere. Null in, null out, with the
    three-valued logic of SQL (`null or true` is true).

    Args:
        text: such as `rating >= 4` or `income == "50000+." and age in (30, 31)`.

    Raises:
        ConfigError: not an expression, or one with anything but names, constants, arithmetic, comparisons and logic.

    Example:
        >>> Expression("rating >= 4").values(pa.table({"rating": ["5", "3", None]}))[0].to_pylist()
        [1.0, 0.0, None]
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"'{text}' is not an expression", expected=_ALLOWED, got=str(error)) from None
        self._names: dict[str, None] = {}
        self._check(self._tree)

    @property
    def columns(self) -> list[str]:
        """The raw columns it reads."""
        return list(self._names)

    def values(self, table: pa.Table) -> tuple[pa.Array, Flaws]:
        """One float64 a row, and which rows could not be read."""
        flaws = Flaws(table.num_rows)
        result = self._evaluate(self._tree, table, flaws)
        if isinstance(result, pa.Scalar):
            result = pa.array(np.full(table.num_rows, float(result.as_py())))
        return to_float(result), flaws

    def _check(self, node: ast.expr) -> None:
        children: list[ast.expr]
        match node:
            case ast.Name():
                self._names[node.id] = None
                return
            case ast.Constant() if isinstance(node.value, bool | int | float | str):
                return
            case ast.BoolOp():
                children = node.values
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
                children = [node.operand]
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                children = [node.left, node.right]
            case ast.Compare():
                children = [node.left]
                for op, right in zip(node.ops, node.comparators, strict=True):
                    if isinstance(op, ast.In | ast.NotIn):
                        _members(right, self.text)
                    elif type(op) in _COMPARISONS:
                        children.append(right)
                    else:
                        raise self._refusal(node)
            case _:
                raise self._refusal(node)
        for child in children:
            self._check(child)

    def _refusal(self, node: ast.AST) -> ConfigError:
        part = ast.get_source_segment(self.text.strip(), node) or type(node).__name__
        return ConfigError(f"the expression '{self.text}' may not hold '{part}'", expected=_ALLOWED)

    def _evaluate(self, node: ast.expr, table: pa.Table, flaws: Flaws, as_text: bool = False) -> Any:
        match node:
            case ast.Name():
                return to_text(table[node.id]) if as_text else to_number(table[node.id], node.id, flaws)
            case ast.Constant():
                return pa.scalar(node.value if as_text or isinstance(node.value, bool) else _number(node.value))
            case ast.BoolOp():
                function = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
                parts = [_truth(self._evaluate(part, table, flaws)) for part in node.values]
                result = parts[0]
                for part in parts[1:]:
                    result = function(result, part)
                return result
            case ast.UnaryOp():
                value = self._evaluate(node.operand, table, flaws)
                if isinstance(node.op, ast.Not):
                    return pc.invert(_truth(value))
                return pc.negate(_numeric(value)) if isinstance(node.op, ast.USub) else _numeric(value)
            case ast.BinOp():
                left, right = _align(
                    *(_numeric(self._evaluate(side, table, flaws)) for side in (node.left, node.right))
                )
                if isinstance(node.op, ast.Div):
                    left = to_float(left)
                return pc.call_function(_ARITHMETIC[type(node.op)], [left, right])
            case ast.Compare():
                return self._compare(node, table, flaws)
        raise self._refusal(node)

    def _compare(self, node: ast.Compare, table: pa.Table, flaws: Flaws) -> Any:
        result: Any = None
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                members = _members(right, self.text)
                value = self._evaluate(left, table, flaws, as_text=isinstance(members[0], str))
                value, known = _align(value, pa.array(members))
                part = pc.if_else(pc.is_valid(value), pc.is_in(value, value_set=known), None)
                part = pc.invert(part) if isinstance(op, ast.NotIn) else part
            else:
                text = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (left, right))
                pair = [self._evaluate(side, table, flaws, text) for side in (left, right)]
                part = pc.call_function(_COMPARISONS[type(op)], list(_align(*pair)))
            result = part if result is None else pc.and_kleene(result, part)
        return result


def _members(node: ast.expr, text: str) -> list[Any]:
    if isinstance(node, ast.Tuple | ast.List | ast.Set) and node.elts:
        try:
            values = [ast.literal_eval(element) for element in node.elts]
        except ValueError:
            values = []
        if values and (
            all(isinstance(value, str) for value in values)
            or all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
        ):
            return values
    raise ConfigError(f"in the expression '{text}', `in` needs a list of numbers or a list of texts")


def _number(value: Any) -> Any:
    if isinstance(value, str):
        raise ConfigError(f"the text '{value}' stands where an expression needs a number")
    return value


def _align(left: Any, right: Any) -> tuple[Any, Any]:
    """Whole numbers beside fractions become fractions: Arrow itself refuses beyond 2^53."""
    if pa.types.is_floating(left.type) or pa.types.is_floating(right.type):
        left, right = (to_float(x) if pa.types.is_integer(x.type) else x for x in (left, right))
    return left, right


def _truth(value: Any) -> Any:
    return value if pa.types.is_boolean(value.type) else pc.not_equal(value, 0)


def _numeric(value: Any) -> Any:
    return pc.cast(value, pa.int64()) if pa.types.is_boolean(value.type) else value
