"""Programs one small change away from a given one: what `tests.campaigns.mutation` has the tests find out.

Reading order: `Mutant`, `mutants_of`, `places` (what may be changed), `changes` (into what), then the changes
by kind of node. Left alone is what decides nothing: annotations, docstrings, imports, decorators, `__all__`,
what a class is made with, and the wording of errors.
"""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

__all__ = ["Mutant", "mutants_of"]

Step: TypeAlias = tuple[str, int | None]  # a field of a node, and the place in it where it is a list


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one module."""

    module: str
    function: str  # the qualified name of the innermost function around it; "" outside of all of them
    name: str  # the same after lines have moved; no two of a module have one name
    lines: range  # of what is changed
    starts: int  # the line at which the function's code begins; 0 outside of all of them
    path: tuple[Step, ...]
    new: ast.AST | None  # None: removed from its list

    def tree(self, source: ast.Module) -> ast.Module:
        """The whole module, changed; *source* stays as it is."""
        changed = copy.deepcopy(source)
        owner: Any = changed
        for field, place in self.path[:-1]:
            owner = getattr(owner, field) if place is None else getattr(owner, field)[place]
        field, place = self.path[-1]
        if place is None:
            setattr(owner, field, copy.deepcopy(self.new))
        elif self.new is None:
            del getattr(owner, field)[place]
        else:
            getattr(owner, field)[place] = copy.deepcopy(self.new)
        return ast.fix_missing_locations(changed)


class Place(NamedTuple):
    """A node that may be changed."""

    node: ast.AST
    path: tuple[Step, ...]
    function: str
    starts: int


def mutants_of(module: str, source: str) -> list[Mutant]:
    """Every mutant of *source*, in the order of its lines."""
    seen: Counter[str] = Counter()
    found = []
    for place in places(ast.parse(source), Place(ast.Pass(), (), "", 0)):
        for step, old, new in changes(place):
            before, after = _shown(old), "nothing" if new is None else _shown(new)
            name = f"{module}.{place.function or '<module>'}: {before} -> {after}"
            seen[name] += 1
            name += f" #{seen[name]}" if seen[name] > 1 else ""
            lines = range(_line(old, "lineno", place), _line(old, "end_lineno", place) + 1)
            path = place.path if step is None else (*place.path, step)
            found.append(Mutant(module, place.function, name, lines, place.starts, path, new))
    return sorted(found, key=lambda mutant: mutant.lines.start)


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else f"{text[:60]} ... {text[-25:]}"


def _line(node: ast.AST, field: str, place: Place) -> int:
    return getattr(node, field, getattr(place.node, field, 0))


# --- what may be changed ---

_LEFT_ALONE = {"annotation", "returns", "decorator_list", "bases", "type_params"}


def places(node: ast.AST, around: Place) -> Iterator[Place]:
    """The nodes below *node*, parents first."""
    for field, value in ast.iter_fields(node):
        if field in _LEFT_ALONE or (field == "keywords" and isinstance(node, ast.ClassDef)):
            continue
        for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            is_piece = isinstance(node, ast.JoinedStr) and isinstance(child, ast.Constant)  # see `_text`
            if isinstance(child, ast.AST) and not is_piece and not _decides_nothing(child):
                here = _place(child, around, (field, at))
                yield here
                yield from () if isinstance(child, ast.Raise) else places(child, here)


def _place(node: ast.AST, around: Place, step: Step) -> Place:
    function, starts = around.function, around.starts
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}" if function else node.name
    if isinstance(node, ast.FunctionDef):
        starts = min([node.lineno, *(each.lineno for each in node.decorator_list)])
    elif isinstance(node, ast.arguments):  # defaults are made where the function is
        starts = 0
    return Place(node, (*around.path, step), function, starts)


def _decides_nothing(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.expr_context():
            return True
        case ast.Expr(value=ast.Constant()):  # a docstring
            return True
        case ast.Assign(targets=[ast.Name(id="__all__" | "__slots__")]):
            return True
        case ast.AnnAssign(value=None) | ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
    return False


# --- into what ---

Change: TypeAlias = tuple[Step | None, ast.AST, ast.AST | None]  # below the place; what is changed; into what


def changes(place: Place) -> Iterator[Change]:
    """The changes of this node itself, not of those below it."""
    make = _CHANGES.get(type(place.node))
    return iter(()) if make is None else make(place.node)


def _compare(node: ast.Compare) -> Iterator[Change]:
    for at, operator in enumerate(node.ops):
        changed = copy.deepcopy(node)
        changed.ops[at] = _OTHER_COMPARISON[type(operator)]()
        yield None, node, changed


def _both_or_either(node: ast.BoolOp) -> Iterator[Change]:
    changed = copy.deepcopy(node)
    changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield None, node, changed
    for left_out in range(len(node.values)):
        fewer = [value for at, value in enumerate(node.values) if at != left_out]
        yield None, node, fewer[0] if len(fewer) == 1 else ast.BoolOp(node.op, fewer)


def _without_sign(node: ast.UnaryOp) -> Iterator[Change]:
    yield None, node, node.operand


def _calculation(node: ast.BinOp) -> Iterator[Change]:
    if isinstance(node.op, ast.BitOr | ast.BitAnd | ast.BitXor):
        yield None, node, node.left
        yield None, node, node.right
    elif (other := _OTHER_OPERATOR.get(type(node.op))) is not None:
        yield None, node, ast.BinOp(node.left, other(), node.right)


def _constant(node: ast.Constant) -> Iterator[Change]:
    match node.value:
        case bool(truth):
            yield None, node, ast.Constant(not truth)
        case int(number) | float(number):
            yield None, node, ast.Constant(number + 1)
        case str(text):
            yield None, node, ast.Constant(f"XX{text}XX")
        case bytes(data):
            yield None, node, ast.Constant(b"XX" + data + b"XX")


def _text(node: ast.JoinedStr) -> Iterator[Change]:
    for at, piece in enumerate(node.values):
        if isinstance(piece, ast.Constant):
            changed = copy.deepcopy(node)
            changed.values[at] = ast.Constant(f"XX{piece.value}XX")
            yield None, node, changed


def _condition(node: ast.If | ast.While | ast.IfExp) -> Iterator[Change]:
    yield ("test", None), node.test, ast.Constant(value=False)
    if not isinstance(node, ast.While):
        yield ("test", None), node.test, ast.Constant(value=True)


def _filters(node: ast.comprehension) -> Iterator[Change]:
    for at, test in enumerate(node.ifs):
        yield ("ifs", at), test, ast.Constant(value=True)


def _result(node: ast.Return) -> Iterator[Change]:
    if node.value is not None and not isinstance(node.value, ast.Constant):
        yield None, node, ast.Return(ast.Constant(None))


def _left_out(node: ast.stmt) -> Iterator[Change]:
    yield None, node, ast.Pass()


def _call_left_out(node: ast.Expr) -> Iterator[Change]:
    if isinstance(node.value, ast.Call):
        yield None, node, ast.Pass()


def _assignment(node: ast.Assign | ast.AnnAssign) -> Iterator[Change]:
    target = node.targets[0] if isinstance(node, ast.Assign) else node.target
    if isinstance(target, ast.Attribute | ast.Subscript):
        yield None, node, ast.Pass()


def _call(node: ast.Call) -> Iterator[Change]:
    for at, keyword in enumerate(node.keywords):
        yield ("keywords", at), keyword, None
    match node.func:
        case ast.Name(id=name) if name in _OTHER_FUNCTION:
            yield None, node, ast.Call(ast.Name(_OTHER_FUNCTION[name], ast.Load()), node.args, node.keywords)
        case ast.Attribute(value=owner, attr=name) if name in _OTHER_METHOD:
            method = ast.Attribute(owner, _OTHER_METHOD[name], ast.Load())
            yield None, node, ast.Call(method, node.args, node.keywords)


def _cases(node: ast.Match) -> Iterator[Change]:
    if len(node.cases) > 1:
        for at, case in enumerate(node.cases):
            yield ("cases", at), case.pattern, None


def _guard(node: ast.match_case) -> Iterator[Change]:
    if node.guard is not None:
        yield ("guard", None), node.guard, ast.Constant(value=True)


def _slice(node: ast.Slice) -> Iterator[Change]:
    if node.lower is not None:
        yield None, node, ast.Slice(None, node.upper, node.step)
    if node.upper is not None:
        yield None, node, ast.Slice(node.lower, None, node.step)


_OTHER_COMPARISON: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OTHER_OPERATOR: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_OTHER_FUNCTION = {"min": "max", "max": "min", "any": "all", "all": "any"}
_OTHER_METHOD = {
    "endswith": "startswith",
    "intersection": "union",
    "ljust": "rjust",
    "lower": "upper",
    "partition": "rpartition",
    "rpartition": "partition",
    "startswith": "endswith",
    "strip": "rstrip",
    "upper": "lower",
}
_CHANGES: dict[type[ast.AST], Callable[[Any], Iterator[Change]]] = {
    ast.AnnAssign: _assignment,
    ast.Assign: _assignment,
    ast.AugAssign: _left_out,
    ast.BinOp: _calculation,
    ast.BoolOp: _both_or_either,
    ast.Break: _left_out,
    ast.Call: _call,
    ast.Compare: _compare,
    ast.Constant: _constant,
    ast.Continue: _left_out,
    ast.Expr: _call_left_out,
    ast.If: _condition,
    ast.IfExp: _condition,
    ast.JoinedStr: _text,
    ast.Match: _cases,
    ast.Raise: _left_out,
    ast.Return: _result,
    ast.Slice: _slice,
    ast.UnaryOp: _without_sign,
    ast.While: _condition,
    ast.comprehension: _filters,
    ast.match_case: _guard,
}
