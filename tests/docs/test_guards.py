"""Each way of losing money that the README names is guarded by a test that exists."""

from __future__ import annotations

import ast
import re
from collections import Counter

from tests.docs.documents import PROJECT, README, section, tables

HEADING = "The ways usage billing loses money"


def functions() -> Counter[str]:
    """Every test function, by its name."""
    found: Counter[str] = Counter()
    for file in (PROJECT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                found[node.name] += any(isinstance(inner, ast.Assert | ast.With) for inner in ast.walk(node))
    return found


def test_each_way_is_guarded_by_a_test_that_asserts_something() -> None:
    [rows] = tables(section(README, HEADING))
    assert len(rows) >= 20
    known = functions()
    for way, guards in rows:
        named = re.findall(r"`(test_\w+)`", guards)
        assert named, f"nothing guards: {way}"
        for name in named:
            assert known[name] == 1, f"{name} is no test, is two, or asserts nothing"


def test_no_way_is_named_twice() -> None:
    [rows] = tables(section(README, HEADING))
    assert len({way for way, _ in rows}) == len(rows)
