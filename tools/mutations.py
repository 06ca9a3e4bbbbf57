"""Mutants of the semantic rules, as source text: one small mistake each.

Five operators, after the mistakes that were made while the rules were written: a union dropped, a
context dropped, a role swapped, a freeze skipped, a wrong axis.
"""

import ast
import copy
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

Replacement = tuple[str, ast.AST]
LAWS = ("product", "quotient", "sum", "none")
AXIS_CALLS = frozenset({"range", "_along", "_split_axis", "opaque"})
EQUATION = re.compile(r"[a-z]+,[a-z]+->[a-z]*")


@dataclass(frozen=True)
class Mutant:
    """A mistake in one file.

    Attributes:
        path: of the file.
        line: where the mistake is.
        operator: which kind of mistake.
        before, after: the code that it concerns, and what it became.
        source: the whole file with the mistake in it.
        function: name of the function that it is in; empty at module level.
        row: key of the table row that it is in; empty elsewhere.
    """

    path: Path
    line: int
    operator: str
    before: str
    after: str
    source: str
    function: str = ""
    row: str = ""

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.operator}: {self.before} -> {self.after}"


def _called(node: ast.AST) -> str:
    """Name of the function or method that a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _statement(node: ast.Expr) -> Iterator[Replacement]:
    """Mistakes in a call that stands alone."""
    name = _called(node.value)
    if name in ("unite", "meet", "_meet_across"):
        yield "drop a union", ast.Pass()
    if name in ("context", "add_field", "_ride"):
        yield "drop a context", ast.Pass()
    if name in ("release", "release_all"):
        yield "swap a role", ast.Pass()
    if name in ("freeze", "freeze_fields", "freeze_argument", "_needs_partner"):
        yield "skip a freeze", ast.Pass()
    if name == "consume":
        other = copy.deepcopy(node)
        other.value.func.attr = "release"  # type: ignore[attr-defined]
        yield "swap a role", other


def _call(node: ast.Call) -> Iterator[Replacement]:
    """Mistakes in a call whose value is used."""
    name = _called(node)
    if name == "meet":
        yield "drop a union", ast.List([], ast.Load())
    if name == "co_labels":
        yield "drop a context", ast.Constant(None)
    if name == "unite" and len(node.args) == 3:
        yield "drop a context", _with_args(node, node.args[:2])
    if name == "refused":
        yield "skip a freeze", ast.parse("tuple(Names() for _ in call.outs)", mode="eval").body
    if name == "Field" and len(node.args) == 1 and isinstance(node.args[0], ast.Attribute):
        kept = ast.Attribute(copy.deepcopy(node.args[0].value), "carriers", ast.Load())
        yield "swap a role", _with_args(node, [*node.args, kept])
    if name == "opaque_classes":
        yield "drop a context", ast.Tuple([], ast.Load())
    if name in AXIS_CALLS:
        for i, argument in enumerate(node.args):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, int):
                for value in (argument.value - 1, argument.value + 1):
                    args = [*node.args[:i], ast.Constant(value), *node.args[i + 1 :]]
                    yield "wrong axis", _with_args(node, args)


def _with_args(node: ast.Call, args: list[ast.expr]) -> ast.Call:
    return ast.Call(node.func, args, node.keywords)


def _constant(node: ast.Constant) -> Iterator[Replacement]:
    """Mistakes in a law or an equation."""
    if node.value in LAWS:
        for law in LAWS:
            if law != node.value:
                yield "swap a role", ast.Constant(law)
    elif isinstance(node.value, str) and EQUATION.fullmatch(node.value):
        left, out = node.value.split("->")
        a, b = left.split(",")
        for one, other in ((a[::-1], b), (a, b[::-1])):
            text = f"{one},{other}->{out}"
            if text != node.value:
                yield "wrong axis", ast.Constant(text)


def _compare(node: ast.Compare) -> Iterator[Replacement]:
    """An axis compared with the wrong number."""
    right = node.comparators[0]
    equality = isinstance(node.ops[0], ast.Eq | ast.NotEq)
    names_axis = isinstance(node.left, ast.Name) and node.left.id in ("a", "axis", "dim")
    if equality and names_axis and isinstance(right, ast.Constant) and isinstance(right.value, int):
        for value in (right.value - 1, right.value + 1):
            yield "wrong axis", ast.Compare(node.left, node.ops, [ast.Constant(value)])


def _row(value: ast.expr) -> Iterator[Replacement]:
    """Mistakes in the value of a table row: numbers of axes, positions of arguments, laws."""
    numbers = [n for n in ast.walk(value) if isinstance(n, ast.Constant) and type(n.value) is int]
    for index in range(len(numbers)):
        for step in (-1, 1):
            other = copy.deepcopy(value)
            found = [
                n for n in ast.walk(other) if isinstance(n, ast.Constant) and type(n.value) is int
            ]
            found[index].value += step
            yield "wrong axis", other
    swaps = {"_hold": "_drop", "_drop": "_hold"}
    joints = ("_one_factor", "_numerator", "_all_terms", "_drop_both")
    for index, node in enumerate(ast.walk(value)):
        if isinstance(node, ast.Name):
            others = [j for j in joints if j != node.id] if node.id in joints else []
            for name in [*others, *([swaps[node.id]] if node.id in swaps else [])]:
                other = copy.deepcopy(value)
                list(ast.walk(other))[index].id = name  # type: ignore[attr-defined]
                yield "swap a role", other


KINDS: dict[type, Callable[..., Iterator[Replacement]]] = {
    ast.Expr: _statement,
    ast.Call: _call,
    ast.Constant: _constant,
    ast.Compare: _compare,
}


def mutants(path: Path) -> list[Mutant]:
    """Every mutant of one file."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    functions, rows = _functions(tree), _rows(tree)
    types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == "Literal"
        for inner in ast.walk(node)
    }
    found = []
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in types:
            continue
        edits = list(KINDS.get(type(node), lambda _: ())(node)) if id(node) not in rows else []
        if id(node) in rows:
            edits = list(_row(node))  # type: ignore[arg-type]
        for operator, replacement in edits:
            text = _replaced(source, index, replacement)
            if text is not None:
                before, after = ast.unparse(node), ast.unparse(replacement)
                place = functions.get(id(node), "")
                row = rows.get(id(node), "")
                line = node.lineno  # type: ignore[attr-defined]
                found.append(Mutant(path, line, operator, before, after, text, place, row))
    return found


def _functions(tree: ast.Module) -> dict[int, str]:
    """Name of the top-level function or method around each node."""
    return {
        id(inner): node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
    }


def _rows(tree: ast.Module) -> dict[int, str]:
    """Key of each value in a table at module level."""
    rows = {}
    for statement in tree.body:
        value = getattr(statement, "value", None)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and isinstance(value, ast.Dict):
            for key, item in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant):
                    rows[id(item)] = str(key.value)
    return rows


def _replaced(source: str, index: int, replacement: ast.AST) -> str | None:
    """The source with the node at `index` of a walk replaced."""
    tree = ast.parse(source)
    target = list(ast.walk(tree))[index]

    class Replace(ast.NodeTransformer):
        def visit(self, node: ast.AST) -> ast.AST:
            return replacement if node is target else self.generic_visit(node)

    changed = ast.fix_missing_locations(Replace().visit(tree))
    try:
        compile(changed, "mutant", "exec")
    except (SyntaxError, TypeError, ValueError):
        return None
    return ast.unparse(changed)
