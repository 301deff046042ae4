"""Expressions of labels and of `where`: arithmetic and comparisons over raw columns, and nothing else."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rechub_ray.errors import ConfigError
from rechub_ray.preparation.values import Flaws, to_float, to_number, to_text

Kind: TypeAlias = Literal["column", "number", "truth", "text"]

_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("subtract", operator.sub),
    ast.Mult: ("multiply", operator.mul),
    ast.Div: ("divide", operator.truediv),
}
_ALLOWED = 'column names, column("a b"), numbers, True, False, texts, + - * /, comparisons, in, and, or, not'
_MAX_DEPTH = 100
_LOWEST, _HIGHEST = -(2**63), 2**63 - 1


class Expression:
    """A checked expression.

    A column is read as text where it is compared with a text, as a number elsewhere; True and the texts `true`, `True`
    and `TRUE` are 1, False likewise 0. Null in, null out, with the three-valued logic of SQL (`null or true` is true).
    Whole numbers are exact within 64 bits. A row whose value is past that, past float64, or a division by zero, is a
    bad row, unless an earlier part of an `and` or `or` has settled it (`n > 0 and clicks / n > 0.1`).

    Args:
        text: such as `rating >= 4` or `income == "50000+." and age in (30, 31)`; `column("Did buy?") == "yes"` names a
            column that is no Python name.

    Raises:
        ConfigError: not an expression, or one with anything but names, constants, arithmetic, comparisons and logic; a
            constant past 64 bits; more than 100 levels deep.

    Example:
        >>> Expression("rating >= 4").values(pa.table({"rating": ["5", "3", None]}))[0].to_pylist()
        [1.0, 0.0, None]
    """

    def __init__(self, text: str) -> None:
        self.text = text.strip()
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except (RecursionError, MemoryError):
            raise self._too_deep() from None
        except (SyntaxError, ValueError) as error:
            raise ConfigError(f"{self._name} is not an expression", expected=_ALLOWED, got=str(error)) from None
        # the bound is checked without recursion, so that everything below may recurse
        waiting: list[tuple[ast.AST, int]] = [(self._tree, 0)]
        while waiting:
            node, depth = waiting.pop()
            if depth > _MAX_DEPTH:
                raise self._too_deep()
            chain = node.left if isinstance(node, ast.BinOp) else None
            waiting += [(child, depth + (child is not chain)) for child in ast.iter_child_nodes(node)]
        self._names: dict[str, None] = {}
        if self._check(self._tree) == "text":
            raise ConfigError(f"{self._name} is a text, not a number or a truth value", expected=_ALLOWED)

    @property
    def columns(self) -> list[str]:
        """The raw columns it reads."""
        return list(self._names)

    @property
    def canonical(self) -> str:
        """The text in one form: blanks, quotes and brackets that mean nothing do not change it."""
        try:
            return ast.unparse(self._tree)
        except RecursionError:  # a sum of a thousand columns
            return self.text

    def values(self, table: pa.Table) -> tuple[pa.Array, Flaws]:
        """Return one float64 a row, and which rows could not be computed.

        Raises:
            ConfigError: a column has a type that the expression cannot take (a list, a struct).
        """
        flaws = Flaws(table.num_rows)
        try:
            result = _rows(self._evaluate(self._tree, table, flaws), table.num_rows)
        except pa.ArrowException as error:
            raise ConfigError(f"{self._name} cannot be computed", got=str(error).split("\n")[0]) from None
        return to_float(result), flaws

    @property
    def _name(self) -> str:
        return f"the expression '{self.text}'" if len(self.text) <= 200 else f"the expression '{self.text[:200]}...'"

    def _too_deep(self) -> ConfigError:
        return ConfigError(
            f"{self._name} is nested too deeply",
            expected=f"at most {_MAX_DEPTH} levels",
            hint="The operators of one `a + b - c` and the parts of one `and` or `or` are one level.",
        )

    def _check(self, node: ast.expr) -> Kind:
        """Return the kind of value that the node gives; raise ConfigError for a node that is not allowed."""
        if (name := _column(node)) is not None:
            self._names[name] = None
            return "column"
        match node:
            case ast.Constant():
                return self._constant(node.value, node)
            case ast.BoolOp():
                for part in node.values:
                    self._operand(part)
                return "truth"
            case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
                self._operand(node.operand)
                return "truth" if isinstance(node.op, ast.Not) else "number"
            case ast.BinOp():
                first, chain = _chain(node)
                self._operand(first)
                for part in chain:
                    if type(part.op) not in _ARITHMETIC:
                        raise self._refusal(part)
                    self._operand(part.right)
                return "number"
            case ast.Compare():
                left = self._check(node.left)
                for op, side in zip(node.ops, node.comparators, strict=True):
                    if isinstance(op, ast.In | ast.NotIn):
                        right: Kind = "text" if isinstance(self._members(side)[0], str) else "number"
                    elif type(op) in _COMPARISONS:
                        right = self._check(side)
                    else:
                        raise self._refusal(node)
                    if {left, right} not in ({"text"}, {"text", "column"}) and "text" in (left, right):
                        raise ConfigError(f"{self._name} compares a text with a {({left, right} - {'text'}).pop()}")
                    left = right
                return "truth"
        raise self._refusal(node)

    def _operand(self, node: ast.expr) -> None:
        if self._check(node) == "text":
            part = ast.get_source_segment(self.text, node)
            raise ConfigError(f"in {self._name} the text {part} stands where a number belongs")

    def _constant(self, value: Any, node: ast.expr) -> Kind:
        if isinstance(value, bool):
            return "truth"
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ConfigError(f"{self._name} holds a text that is not Unicode") from None
            return "text"
        if isinstance(value, int) and not _LOWEST <= value <= _HIGHEST:
            raise ConfigError(f"{self._name} holds a number past 64 bits", expected=f"{_LOWEST} to {_HIGHEST}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{self._name} holds a number past float64", expected="at most 1.797e308")
        if not isinstance(value, int | float):
            raise self._refusal(node)
        return "number"

    def _members(self, node: ast.expr) -> list[Any]:
        """Return the list behind `in`, True and False as 1 and 0."""
        if isinstance(node, ast.Tuple | ast.List | ast.Set) and node.elts:
            try:
                values = [ast.literal_eval(element) for element in node.elts]
            except ValueError:
                values = []
            if values and (
                all(isinstance(value, str) for value in values)
                or all(isinstance(value, int | float) for value in values)
            ):
                for value in values:
                    self._constant(value, node)
                return [int(value) if isinstance(value, bool) else value for value in values]
        raise ConfigError(f"in {self._name}, `in` needs a list of numbers or a list of texts")

    def _refusal(self, node: ast.AST) -> ConfigError:
        part = ast.get_source_segment(self.text, node) or type(node).__name__
        return ConfigError(f"{self._name} may not hold '{part[:200]}'", expected=_ALLOWED)

    def _evaluate(self, node: ast.expr, table: pa.Table, flaws: Flaws, as_text: bool = False) -> Any:
        if (name := _column(node)) is not None:
            return to_text(table[name]) if as_text else to_number(table[name], name, flaws)
        match node:
            case ast.Constant():
                return pa.scalar(int(node.value) if isinstance(node.value, bool) else node.value)
            case ast.BoolOp():
                return self._logic(node, table, flaws)
            case ast.UnaryOp():
                value = self._evaluate(node.operand, table, flaws)
                if isinstance(node.op, ast.Not):
                    return pc.invert(_truth(value))
                value = _numeric(value)
                return (
                    self._arithmetic(ast.Sub, pa.scalar(0), value, node, flaws)
                    if isinstance(node.op, ast.USub)
                    else value
                )
            case ast.BinOp():
                first, chain = _chain(node)
                value = _numeric(self._evaluate(first, table, flaws))
                for part in chain:
                    right = _numeric(self._evaluate(part.right, table, flaws))
                    value = self._arithmetic(type(part.op), value, right, part, flaws)
                return value
            case ast.Compare():
                return self._compare(node, table, flaws)
        raise self._refusal(node)

    def _logic(self, node: ast.BoolOp, table: pa.Table, flaws: Flaws) -> Any:
        """Return an `and` or `or`; what a part cannot compute counts only where the parts before it leave it open."""
        conjunction = isinstance(node.op, ast.And)
        function = pc.and_kleene if conjunction else pc.or_kleene
        result: Any = pa.scalar(conjunction)
        for part in node.values:
            inner = Flaws(table.num_rows)
            value = _truth(self._evaluate(part, table, inner))
            if inner.reasons:
                open_rows = pc.fill_null(pc.equal(_rows(result, table.num_rows), conjunction), True).to_numpy(False)
                for row, reason in inner.reasons.items():
                    if open_rows[row]:
                        flaws.reasons.setdefault(row, reason)
            result = function(result, value)
        return result

    def _arithmetic(self, op: type[ast.operator], left: Any, right: Any, node: ast.expr, flaws: Flaws) -> Any:
        """Return `left op right`; a value past 64 bits, past float64 or over zero is null and marks its row."""
        name, exact = _ARITHMETIC[op]
        left, right = (to_float(left), to_float(right)) if op is ast.Div else _align(left, right)
        if pa.types.is_integer(left.type) and pa.types.is_integer(right.type):
            try:
                return pc.call_function(f"{name}_checked", [left, right])
            except pa.ArrowInvalid:
                pairs = zip(*(_rows(side, flaws.rows).to_pylist() for side in (left, right)), strict=True)
                values = [None if None in pair else exact(*pair) for pair in pairs]
            wrong = np.array([value is not None and not _LOWEST <= value <= _HIGHEST for value in values], dtype=bool)
            result = pa.array([None if bad else value for value, bad in zip(values, wrong, strict=True)], pa.int64())
            self._mark(wrong, "is past 64 bits", node, flaws)
            return result
        result = pc.call_function(name, [left, right])
        finite = pc.fill_null(pc.is_finite(result), True)
        if pc.all(_rows(finite, flaws.rows)).as_py():
            return result
        wrong = ~_rows(finite, flaws.rows).to_numpy(zero_copy_only=False)
        self._mark(wrong, "divides by zero, or is past float64" if op is ast.Div else "is past float64", node, flaws)
        return pc.if_else(finite, result, None)

    def _mark(self, wrong: npt.NDArray[np.bool_], problem: str, node: ast.expr, flaws: Flaws) -> None:
        part = ast.get_source_segment(self.text, node) or self.text
        flaws.add(wrong, f"in {self._name}, `{part[:80]}` {problem}")

    def _compare(self, node: ast.Compare, table: pa.Table, flaws: Flaws) -> Any:
        result: Any = None
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, sides[1:], strict=False):
            if isinstance(op, ast.In | ast.NotIn):
                members = self._members(right)
                value = self._evaluate(left, table, flaws, as_text=isinstance(members[0], str))
                value, known = _align(_numeric(value), pa.array(members))
                part = pc.if_else(pc.is_valid(value), pc.is_in(value, value_set=known), None)
                part = pc.invert(part) if isinstance(op, ast.NotIn) else part
            else:
                text = any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (left, right))
                pair = [_numeric(self._evaluate(side, table, flaws, text)) for side in (left, right)]
                part = pc.call_function(_COMPARISONS[type(op)], list(_align(*pair)))
            result = part if result is None else pc.and_kleene(result, part)
        return result


def _column(node: ast.expr) -> str | None:
    """Return the column that a node names, by its name or as `column("its name")`; None of another node."""
    match node:
        case ast.Name():
            return node.id
        case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)], keywords=[]):
            return name
    return None


def _chain(node: ast.BinOp) -> tuple[ast.expr, list[ast.BinOp]]:
    """Return `a + b - c` as a and [+ b, - c]: however long, it takes no recursion."""
    chain, first = [node], node.left
    while isinstance(first, ast.BinOp):
        chain.append(first)
        first = first.left
    return first, chain[::-1]


def _rows(value: Any, rows: int) -> pa.Array:
    """Return the value, a constant as one value a row."""
    return pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value


def _align(left: Any, right: Any) -> tuple[Any, Any]:
    """Return both sides, whole numbers beside fractions as fractions: Arrow itself refuses those beyond 2^53."""
    if pa.types.is_floating(left.type) or pa.types.is_floating(right.type):
        left, right = (to_float(x) if pa.types.is_integer(x.type) else x for x in (left, right))
    return left, right


def _truth(value: Any) -> Any:
    return value if pa.types.is_boolean(value.type) else pc.not_equal(value, 0)


def _numeric(value: Any) -> Any:
    return pc.cast(value, pa.int64()) if pa.types.is_boolean(value.type) else value
