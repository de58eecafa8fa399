"""Which indicator calls of a signal can be made once for many combinations, and the function without them.

A combination of parameters decides with its own indicators, but thousands of combinations
share a few dozen of them: ``sma.over("fast")`` is one series per distinct ``fast``. A call
is taken out of the function only where the source proves that it is made exactly once a
bar, with inputs made of the bar alone, and that nothing else touches its slot. Whatever is
not proven stays, and the numbers are the same either way.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import inspect
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quantflow.signals._indicator import Indicator

__all__ = ["Hoist", "HoistedCall", "evaluate_input", "hoist"]

Floats = npt.NDArray[np.float64]

_BRANCHES = (
    ast.BoolOp,
    ast.IfExp,
    ast.Lambda,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
    ast.GeneratorExp,
    ast.NamedExpr,
)
_NESTED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_LEAVES_EARLY = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, *_NESTED)


@dataclass(frozen=True)
class HoistedCall:
    """One call ``indicator(slot, *inputs)``, made exactly once a bar whatever the signal decides.

    Attributes
    ----------
    slot
        Number of its slot among the signal's.
    indicator
        What is called.
    inputs
        Its inputs as expressions of ``bar.<column>`` and numbers.
    answer
        The named tuple of floats that it answers, None where it answers one number.
    """

    slot: int
    indicator: Indicator[typing.Any]
    inputs: tuple[ast.expr, ...]
    answer: type | None

    @property
    def inputs_text(self) -> tuple[str, ...]:
        """The inputs as source: equal text means equal values."""
        return tuple(map(ast.unparse, self.inputs))


@dataclass(frozen=True)
class Hoist:
    """A signal's function in which the slots of ``calls`` hold the indicators' answers instead."""

    decide: types.FunctionType
    calls: tuple[HoistedCall, ...] = ()


def hoist(
    definition: types.FunctionType, slots: Sequence[str], columns: Sequence[str], *, leave: Collection[int] = ()
) -> Hoist:
    """Return the function with every call that is provably unconditional taken out, but those of slots to leave."""
    tree = _source_tree(definition)
    if tree is None:
        return Hoist(definition)
    found = _Search(definition, tree, slots, columns).calls()
    found = {node: call for node, call in found.items() if call.slot not in leave}
    if not found:
        return Hoist(definition)
    code = _code(_Replace({node: call.slot for node, call in found.items()}, slots).visit(tree), definition)
    if code is None:
        return Hoist(definition)
    cells = dict(zip(definition.__code__.co_freevars, definition.__closure__ or (), strict=True))
    decide = types.FunctionType(
        code, definition.__globals__, definition.__name__, None, tuple(cells[name] for name in code.co_freevars)
    )
    return Hoist(decide, tuple(sorted(found.values(), key=lambda call: call.slot)))


def evaluate_input(expression: ast.expr, matrix: Floats, columns: Sequence[str]) -> Floats:
    """Return an input's value at every bar, as the signal itself computes it one bar at a time."""
    if isinstance(expression, ast.Attribute):
        row: Floats = matrix[columns.index(expression.attr)]
        return row
    if isinstance(expression, ast.Constant):
        return np.full(matrix.shape[1], float(typing.cast(float, expression.value)))
    if isinstance(expression, ast.UnaryOp):
        return -evaluate_input(expression.operand, matrix, columns)
    assert isinstance(expression, ast.BinOp)
    left = evaluate_input(expression.left, matrix, columns)
    right = evaluate_input(expression.right, matrix, columns)
    operation = {ast.Add: np.add, ast.Sub: np.subtract, ast.Mult: np.multiply, ast.Div: np.divide}[type(expression.op)]
    with np.errstate(all="ignore"):  # infinity and NaN are values here, as in the loop
        result: Floats = operation(left, right)
    return result


def _source_tree(definition: types.FunctionType) -> ast.FunctionDef | None:
    """Return the function's syntax tree; None where its source is not exactly what runs."""
    try:
        lines, first = inspect.getsourcelines(definition)
        # Indented source is put into a block: taking the indentation out would change its strings.
        indented = lines[0][:1].isspace()
        module = ast.parse("if True:\n" * indented + "".join(lines))
    except (OSError, TypeError, SyntaxError):
        return None
    body = module.body[0].body if isinstance(module.body[0], ast.If) else module.body
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        return None
    tree = body[0]
    ast.increment_lineno(tree, first - 1 - indented)
    # A file edited after its import, or a wrapper that borrowed a name, would show here.
    code = _code(tree, definition)
    return tree if code is not None and _same_code(code, definition.__code__) else None


def _code(tree: ast.FunctionDef, definition: types.FunctionType) -> types.CodeType | None:
    """Return the tree compiled, in a scope with the definition's closure."""
    bare = copy.copy(tree)
    arguments = ", ".join(one.arg for one in tree.args.args)
    bare.args = typing.cast(ast.Lambda, ast.parse(f"lambda {arguments}: 0", mode="eval").body).args
    bare.decorator_list, bare.returns = [], None
    # Python compiles an attribute of what the module imports in another way than a method.
    outer = definition.__globals__
    modules = [name for name in definition.__code__.co_names if isinstance(outer.get(name), types.ModuleType)]
    module = ast.parse("\n".join(f"import {name}" for name in modules))
    if definition.__code__.co_freevars:
        scope = ast.parse(f"def _scope():\n {' = '.join(definition.__code__.co_freevars)} = None").body[0]
        typing.cast(ast.FunctionDef, scope).body.append(bare)
        module.body.append(scope)
    else:
        module.body.append(bare)
    with contextlib.suppress(SyntaxError, ValueError):
        code = compile(ast.fix_missing_locations(module), definition.__code__.co_filename, "exec", dont_inherit=True)
        return next((nested for nested in _codes(code) if nested.co_name == tree.name), None)
    return None


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes(constant)


def _same_code(left: types.CodeType, right: types.CodeType) -> bool:
    fields = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_argcount", "co_name")
    if any(getattr(left, name) != getattr(right, name) for name in fields):
        return False
    pairs = list(zip(left.co_consts, right.co_consts, strict=False))
    return len(left.co_consts) == len(right.co_consts) and all(
        _same_code(one, other)
        if isinstance(one, types.CodeType) and isinstance(other, types.CodeType)
        else repr(one) == repr(other)
        for one, other in pairs
    )


class _Search:
    """Walks a function's first level of statements, up to where it may end early."""

    def __init__(
        self, definition: types.FunctionType, tree: ast.FunctionDef, slots: Sequence[str], columns: Sequence[str]
    ) -> None:
        self.definition = definition
        self.tree = tree
        self.slots = list(slots)
        self.columns = columns
        self.bar = definition.__code__.co_varnames[0]
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        self.loads = _counts(node.id for node in names if isinstance(node.ctx, ast.Load))
        self.stores = _counts(_bound_names(tree))
        #: Local names that stand for an expression of the bar.
        self.known: dict[str, ast.expr] = {}

    def calls(self) -> dict[ast.Call, HoistedCall]:
        found: dict[ast.Call, HoistedCall] = {}
        if self.stores.get(self.bar):
            return found
        for statement in self.tree.body:
            for expression in _evaluated_once(statement):
                for node in _unconditional(expression):
                    call = self._hoisted(node)
                    if call is not None:
                        found[typing.cast(ast.Call, node)] = call
            self._remember(statement)
            if any(isinstance(node, _LEAVES_EARLY) for node in ast.walk(statement)):
                break
        return found

    def _remember(self, statement: ast.stmt) -> None:
        """Note ``middle = (bar.high + bar.low) / 2.0``, if it is the name's only assignment."""
        target, value = None, None
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign):
            target, value = statement.target, statement.value
        if isinstance(target, ast.Name) and value is not None and self.stores.get(target.id) == 1:
            expression = self._of_bar(value)
            if expression is not None and _reads_bar(expression):
                self.known[target.id] = expression

    def _hoisted(self, node: ast.expr) -> HoistedCall | None:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)) or node.keywords or len(node.args) < 2:
            return None
        slot, *given = node.args
        called = self._outer_value(node.func.id)
        if not isinstance(called, Indicator) or not (isinstance(slot, ast.Name) and slot.id in self.slots):
            return None
        if self.loads.get(slot.id) != 1 or self.stores.get(slot.id):
            return None
        inputs = [self._of_bar(one) for one in given]
        if any(one is None or not _is_float(one) for one in inputs):
            return None
        return HoistedCall(
            self.slots.index(slot.id), called, tuple(one for one in inputs if one is not None), _answer(called)
        )

    def _outer_value(self, name: str) -> object:
        """Return what a name of the function's surroundings holds; None for its own names."""
        code = self.definition.__code__
        if name in code.co_freevars:
            cells = self.definition.__closure__ or ()
            return cells[code.co_freevars.index(name)].cell_contents
        if name in code.co_varnames or name in code.co_cellvars or self.stores.get(name):
            return None
        return self.definition.__globals__.get(name)

    def _of_bar(self, node: ast.expr) -> ast.expr | None:
        """Return the expression with local names replaced, if it is made of the bar and numbers alone."""
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            return node if node.value.id == self.bar and node.attr in self.columns else None
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Constant):
            number = isinstance(node.value, float) or (type(node.value) is int and abs(node.value) < 2**53)
            return node if number else None
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            operand = self._of_bar(node.operand)
            return operand and ast.UnaryOp(op=ast.USub(), operand=operand)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
            left, right = self._of_bar(node.left), self._of_bar(node.right)
            # Division may raise: only by a number that is not zero.
            divisible = not isinstance(node.op, ast.Div) or (
                isinstance(node.right, ast.Constant) and node.right.value != 0
            )
            # Integers among themselves would be computed as integers.
            if left and right and divisible and (_is_float(left) or _is_float(right)):
                return ast.BinOp(left=left, op=node.op, right=right)
        return None


class _Replace(ast.NodeTransformer):
    """Puts the slot's name where the call was: in the loop it holds the answer."""

    def __init__(self, calls: Mapping[ast.Call, int], slots: Sequence[str]) -> None:
        self.calls = calls
        self.slots = slots

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Replace a hoisted call; look into all others."""
        if node in self.calls:
            return ast.copy_location(ast.Name(id=self.slots[self.calls[node]], ctx=ast.Load()), node)
        return self.generic_visit(node)


def _evaluated_once(statement: ast.stmt) -> list[ast.expr]:
    """Return the expressions of a statement that are evaluated once whenever it is reached."""
    if isinstance(statement, ast.Expr | ast.Return | ast.Assign | ast.AugAssign | ast.AnnAssign):
        return [statement.value] if statement.value is not None else []
    if isinstance(statement, ast.If | ast.Assert):
        return [statement.test]
    return []


def _unconditional(expression: ast.expr) -> Iterator[ast.expr]:
    """Yield the sub-expressions that are evaluated exactly once whenever ``expression`` is."""
    yield expression
    if isinstance(expression, ast.BoolOp):
        yield from _unconditional(expression.values[0])
    elif isinstance(expression, ast.IfExp):
        yield from _unconditional(expression.test)
    elif isinstance(expression, ast.Compare):
        # In a chain, what follows the second operand may be left out.
        yield from _unconditional(expression.left)
        yield from _unconditional(expression.comparators[0])
    elif not isinstance(expression, _BRANCHES):
        for child in ast.iter_child_nodes(expression):
            if isinstance(child, ast.expr):
                yield from _unconditional(child)


def _is_float(expression: ast.expr) -> bool:
    """Return whether an expression of the bar is a float, not an integer."""
    return _reads_bar(expression) or (isinstance(expression, ast.Constant) and isinstance(expression.value, float))


def _reads_bar(expression: ast.expr) -> bool:
    return any(isinstance(node, ast.Attribute) for node in ast.walk(expression))


def _answer(indicator: Indicator[typing.Any]) -> type | None:
    """Return the named tuple that an indicator is declared to answer, if it is one."""
    with contextlib.suppress(Exception):
        declared = typing.get_type_hints(indicator.update).get("return")
        if isinstance(declared, type) and issubclass(declared, tuple) and hasattr(declared, "_fields"):
            return declared
    return None


def _bound_names(tree: ast.AST) -> Iterator[str]:
    """Yield every name that something inside the function binds or deletes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.MatchAs | ast.MatchStar | ast.ExceptHandler) and node.name:
            yield node.name
        elif isinstance(node, ast.MatchMapping) and node.rest:
            yield node.rest
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).split(".")[0]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node is not tree:
            yield node.name


def _counts(names: Iterator[str]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for name in names:
        counted[name] = counted.get(name, 0) + 1
    return counted
