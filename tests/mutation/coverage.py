"""Which lines each test runs, by the interpreter's own monitoring: only the mutated files are watched."""

from __future__ import annotations

import ast
import functools
import gc
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator
from pathlib import Path
from types import CodeType, FunctionType

_TOOL = 3
"""A number that neither coverage nor a debugger uses (sys.monitoring)."""

Hits = frozenset[tuple[str, int]]
"""File and line."""


type Cache = functools._lru_cache_wrapper[object]


def functions_in(paths: Collection[str]) -> Iterator[FunctionType]:
    """All live functions whose source is in these files, whatever decorates or copied them."""
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and found.__code__.co_filename in paths:
            yield found


def caches_of(functions: Collection[FunctionType]) -> Iterator[Cache]:
    """What remembers answers of these functions, from before a change."""
    for found in gc.get_objects():
        if isinstance(found, functools._lru_cache_wrapper) and found.__wrapped__ in functions:
            yield found


class Recorder:
    """Remembers the lines that ran since it was last asked."""

    def __init__(self, paths: Collection[str]) -> None:
        self._hits: set[tuple[str, int]] = set()
        events = sys.monitoring.events
        sys.monitoring.use_tool_id(_TOOL, "mutation")
        sys.monitoring.register_callback(_TOOL, events.LINE, self._line)
        for function in functions_in(paths):
            for code in _nested(function.__code__):
                sys.monitoring.set_local_events(_TOOL, code, events.LINE)

    def _line(self, code: CodeType, line: int) -> object:
        self._hits.add((code.co_filename, line))
        return sys.monitoring.DISABLE

    def take(self) -> Hits:
        """The lines since the last call; all lines are watched again."""
        hits = frozenset(self._hits)
        self._hits.clear()
        sys.monitoring.restart_events()
        return hits


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def uses_of_names(folder: Path) -> dict[str, Hits]:
    """For each name, the lines of the functions of a package that use it, or are called so."""
    found: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for path in folder.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first, last = function.body[0].lineno, function.end_lineno or function.lineno
            lines = {(str(path), line) for line in range(first, last + 1)}
            for name in {function.name, *_names(function)}:
                found[name] |= lines
    return {name: frozenset(lines) for name, lines in found.items()}


def _names(function: ast.AST) -> Iterator[str]:
    for node in ast.walk(function):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.keyword(arg=str(name)):
                yield name
