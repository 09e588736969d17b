"""Mutants of a module: small changes of its code, each of which a test has to notice.

Left alone are only docstrings, annotations, imports and what decorators are given: nothing of these is
behaviour. Every function is mutated, whatever decorates it, and so is code outside functions.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}

_CALCULATED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}

_SWAPPED_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}

_EXTREMES = {"min", "max"}

_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
Place = Callable[[ast.AST], None]


@dataclass(slots=True)
class Mutant:
    """One change of one module; `apply` makes it, in the module's own tree, for good."""

    path: Path
    tree: ast.Module = field(repr=False)
    lines: range
    """The lines that the change is in."""
    function: str
    """The qualified name of the outermost function that it is in; empty outside of functions."""
    names: frozenset[str]
    """Outside of functions: the names that it gives another meaning."""
    before: str
    after: str
    place: Place = field(repr=False)
    replacement: ast.AST = field(repr=False)

    def apply(self) -> ast.Module:
        """The tree with the change in it."""
        self.place(self.replacement)
        return ast.fix_missing_locations(self.tree)


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of a source file, in the order of its lines."""
    tree = ast.parse(path.read_text("utf-8"), str(path))
    found = list(_Maker(path, tree).module())
    return sorted(found, key=lambda mutant: mutant.lines.start)


@dataclass(slots=True)
class _Maker:
    path: Path
    tree: ast.Module
    function: str = ""
    names: frozenset[str] = frozenset()
    scope: tuple[str, ...] = ()

    def module(self) -> Iterator[Mutant]:
        yield from self._body(self.tree, "body")

    # Statements

    def _body(self, owner: ast.AST, name: str) -> Iterator[Mutant]:
        statements: list[ast.stmt] = getattr(owner, name)
        for index, statement in enumerate(statements):
            yield from self._statement(statement, _in_list(statements, index))

    def _statement(self, node: ast.stmt, place: Place) -> Iterator[Mutant]:
        if isinstance(node, ast.Import | ast.ImportFrom | ast.TypeAlias) or _is_text(node):
            return
        if isinstance(node, _DEFINITIONS):
            yield from self._definition(node)
            return
        if isinstance(node, ast.ClassDef):
            inside = _Maker(self.path, self.tree, "", frozenset({node.name}), (*self.scope, node.name))
            yield from inside._body(node, "body")
            return
        maker = self if self.function else self._naming(node)
        # Without one of its definitions a module would not even be imported.
        if self.function or not isinstance(node, ast.Assign | ast.AnnAssign):
            for replacement in _other_statements(node):
                yield maker._mutant(node, replacement, place)
        yield from maker._children(node)

    def _naming(self, node: ast.stmt) -> _Maker:
        targets = {
            child.id
            for child in ast.walk(node)
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store)
        }
        return _Maker(self.path, self.tree, "", frozenset(targets) | self.names, self.scope)

    def _definition(self, node: Function) -> Iterator[Mutant]:
        named = frozenset({node.name})
        outside = self if self.function else _Maker(self.path, self.tree, "", named, self.scope)
        for defaults in (node.args.defaults, node.args.kw_defaults):
            for index, default in enumerate(defaults):
                if default is not None:
                    yield from outside._expression(default, _in_list(defaults, index))
        function = self.function or ".".join((*self.scope, node.name))
        yield from _Maker(self.path, self.tree, function, frozenset(), self.scope)._body(node, "body")

    # Expressions

    def _children(self, node: ast.AST) -> Iterator[Mutant]:
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "ctx", "type_comment", "keywords_only"}:
                continue
            if isinstance(value, list):
                yield from self._each(value)
            elif isinstance(value, ast.AST):
                yield from self._child(value, _in_field(node, name))

    def _each(self, nodes: list[ast.AST]) -> Iterator[Mutant]:
        for index, child in enumerate(nodes):
            if isinstance(child, ast.AST):
                yield from self._child(child, _in_list(nodes, index))

    def _child(self, node: ast.AST, place: Place) -> Iterator[Mutant]:
        if isinstance(node, ast.stmt):
            yield from self._statement(node, place)
        elif isinstance(node, ast.expr):
            yield from self._expression(node, place)
        else:
            yield from self._children(node)

    def _expression(self, node: ast.expr, place: Place) -> Iterator[Mutant]:
        for replacement in _other_expressions(node):
            yield self._mutant(node, replacement, place)
        yield from self._children(node)

    def _mutant(self, node: ast.stmt | ast.expr, replacement: ast.AST, place: Place) -> Mutant:
        before, after = _shown(node), _shown(replacement)
        lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        if isinstance(node, ast.stmt) and hasattr(node, "body"):
            lines = range(node.lineno, node.lineno + 1)
        ast.copy_location(replacement, node)
        return Mutant(
            self.path, self.tree, lines, self.function, self.names, before, after, place, replacement
        )


def _in_list(nodes: list[Any], index: int) -> Place:
    def place(node: ast.AST) -> None:
        nodes[index] = node

    return place


def _in_field(owner: ast.AST, name: str) -> Place:
    return lambda node: setattr(owner, name, node)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _shown(node: ast.AST) -> str:
    return " ".join(ast.unparse(ast.fix_missing_locations(node)).split())


# What becomes of a statement


def _other_statements(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.Expr() | ast.Raise() | ast.Assign() | ast.AnnAssign(value=ast.expr()):
            yield ast.Pass()
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.AugAssign(target=target, op=op, value=value):
            yield ast.Pass()
            if type(op) in _CALCULATED:
                yield ast.AugAssign(target, _CALCULATED[type(op)](), value)
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case _:
            yield from _other_blocks(node)


def _other_blocks(node: ast.stmt) -> Iterator[ast.stmt]:
    match node:
        case ast.If(body=body, orelse=orelse, test=test):
            tests = [ast.Constant(True), ast.Constant(False), *_without_each(test)]
            yield from (ast.If(one, body, orelse) for one in tests)
        case ast.For(target=target, body=body, orelse=orelse):
            yield ast.For(target, ast.Tuple([], ast.Load()), body, orelse)
        case ast.While(body=body, orelse=orelse):
            yield ast.While(ast.Constant(False), body, orelse)
        case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=finalbody):
            for index, handler in enumerate(handlers):
                if not _only_raises(handler):
                    others = [*handlers[:index], _raising(handler), *handlers[index + 1 :]]
                    yield ast.Try(body, others, orelse, finalbody)


def _only_raises(handler: ast.ExceptHandler) -> bool:
    return isinstance(handler.body[0], ast.Raise) and handler.body[0].exc is None


def _raising(handler: ast.ExceptHandler) -> ast.ExceptHandler:
    return ast.copy_location(ast.ExceptHandler(handler.type, handler.name, [ast.Raise()]), handler)


# What becomes of an expression


def _other_expressions(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(value=value):
            yield from _other_constants(value)
        case ast.Compare(left=left, ops=ops, comparators=comparators):
            for index, op in enumerate(ops):
                for other in _COMPARED[type(op)]:
                    yield ast.Compare(left, [*ops[:index], other(), *ops[index + 1 :]], comparators)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _CALCULATED:
            yield ast.BinOp(left, _CALCULATED[type(op)](), right)
        case ast.BoolOp(op=op, values=values):
            yield ast.BoolOp(ast.And() if isinstance(op, ast.Or) else ast.Or(), values)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.IfExp(body=body, orelse=orelse):
            yield from (body, orelse)
        case _:
            yield from _other_collections(node)


def _other_collections(node: ast.expr) -> Iterator[ast.expr]:
    match node:
        case ast.Call():
            yield from _other_calls(node)
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            yield from _without_conditions(node)
        case ast.Lambda(args=args) if not _is_none(node.body):
            yield ast.Lambda(args, ast.Constant(None))
        case ast.Dict(keys=keys, values=values):
            for index in range(len(keys)):
                yield ast.Dict(_without(keys, index), _without(values, index))
        case ast.Set(elts=elements) if len(elements) > 1:
            for index in range(len(elements)):
                yield ast.Set(_without(elements, index))


def _other_constants(value: object) -> Iterator[ast.expr]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str):
        # A sentence is lost as a whole; a name becomes another.
        yield ast.Constant("" if " " in value else f"XX{value}XX")


def _other_calls(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    arguments, keywords = node.args, node.keywords
    if name in _SWAPPED_CALLS:
        yield ast.Call(ast.Name(_SWAPPED_CALLS[name], ast.Load()), arguments, keywords)
    elif name[:1].islower() and len(arguments) == 1 and not keywords and _stands_alone(arguments[0]):
        yield arguments[0]
    for index in range(len(keywords)):
        yield ast.Call(node.func, arguments, _without(keywords, index))
    if name in _EXTREMES and not keywords:
        for index in range(len(arguments)):
            rest = _without(arguments, index)
            if rest:
                yield rest[0] if len(rest) == 1 and _stands_alone(rest[0]) else ast.Call(node.func, rest, [])
    elif len(arguments) > 1 and _stands_alone(arguments[-1]):
        yield ast.Call(node.func, arguments[:-1], keywords)


def _stands_alone(argument: ast.expr) -> bool:
    return not isinstance(argument, ast.Starred | ast.GeneratorExp)


def _without_conditions(
    node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp,
) -> Iterator[ast.expr]:
    for number, generator in enumerate(node.generators):
        for index in range(len(generator.ifs)):
            other = ast.comprehension(
                generator.target, generator.iter, _without(generator.ifs, index), generator.is_async
            )
            generators = [*node.generators[:number], other, *node.generators[number + 1 :]]
            if isinstance(node, ast.DictComp):
                yield ast.DictComp(node.key, node.value, generators)
            else:
                yield type(node)(node.elt, generators)


def _without_each(node: ast.expr) -> Iterator[ast.expr]:
    if not isinstance(node, ast.BoolOp):
        return
    for rest in itertools.combinations(node.values, len(node.values) - 1):
        yield rest[0] if len(rest) == 1 else ast.BoolOp(node.op, list(rest))


def _without[T](nodes: list[T], index: int) -> list[T]:
    return nodes[:index] + nodes[index + 1 :]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
