"""The mutants themselves: which changes are made, where, and that a fork runs the changed code."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.coverage import uses_of_names
from tests.mutation.mutants import Mutant, mutants_of


def made(folder: Path, source: str) -> list[Mutant]:
    path = folder / "module.py"
    path.write_text(source)
    return mutants_of(path)


@pytest.mark.parametrize(
    ("expression", "others"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a < b <= c", {"a <= b <= c", "a >= b <= c", "a < b < c", "a < b > c"}),
        ("a is b", {"a is not b"}),
        ("a + b", {"a - b"}),
        ("a and b", {"a or b"}),
        ("not a", {"a"}),
        ("a if b else c", {"a", "c"}),
        ("min(a, b)", {"max(a, b)", "a", "b"}),
        ("min(a)", {"max(a)"}),
        ("any(a)", {"all(a)"}),
        ("f(a)", {"a"}),
        ("sum(a, b)", {"sum(a)"}),
        ("floor(a)", {"a"}),
        ("f(a, b)", {"f(a)"}),
        ("f(a, b=c)", {"f(a)"}),
        ("[a for a in b if c]", {"[a for a in b]"}),
        ("{a: b, c: d}", {"{a: b}", "{c: d}"}),
        ("lambda: a", {"lambda: None"}),
        ("1", {"2"}),
        ("True", {"False"}),
        ("'name'", {"'XXnameXX'"}),
        ("'a sentence'", {"''"}),
    ],
)
def test_an_expression_becomes_others(tmp_path: Path, expression: str, others: set[str]) -> None:
    found = made(tmp_path, f"def f():\n    yield {expression}\n")

    assert {one.after for one in found if one.before == expression} == others


@pytest.mark.parametrize(
    ("statement", "others"),
    [
        ("return a", {"return None"}),
        ("call()", {"pass"}),
        ("raise a", {"pass"}),
        ("a = b", {"pass"}),
        ("a += b", {"pass", "a -= b"}),
        ("if a: b", {"if True: b", "if False: b"}),
        ("if a and b: c", {"if True: c", "if False: c", "if a: c", "if b: c"}),
        ("for a in b: c", {"for a in (): c"}),
        ("while a: b", {"while False: b"}),
    ],
)
def test_a_statement_becomes_others(tmp_path: Path, statement: str, others: set[str]) -> None:
    found = made(tmp_path, f"def f():\n    {statement}\n")

    assert {one.after for one in found if one.before == statement} == others


def test_an_error_is_no_longer_caught(tmp_path: Path) -> None:
    found = made(tmp_path, "def f():\n    try:\n        a\n    except B:\n        return 1\n")

    assert "try: a except B: raise" in {one.after for one in found}


def test_neither_documentation_nor_annotations_nor_decorators_are_changed(tmp_path: Path) -> None:
    source = (
        '"""Text."""\nimport a\n@d(1)\nclass C:\n    """Text."""\n'
        '    b: int\n    """Text."""\n    @property\n    def f(self) -> "int":\n        """Text."""\n'
    )

    assert made(tmp_path, source) == []


def test_every_function_is_changed_whatever_decorates_it(tmp_path: Path) -> None:
    source = (
        "class C:\n    @property\n    def p(self):\n        return a\n"
        "    @d\n    async def q(self):\n        def r():\n            return b\n"
    )
    found = made(tmp_path, source)

    assert [(one.function, one.before) for one in found] == [("C.p", "return a"), ("C.q", "return b")]


def test_code_outside_of_functions_is_changed_by_its_names(tmp_path: Path) -> None:
    source = "DAY = 24\nclass C:\n    size: int = 3\ndef f(wide=False):\n    pass\n"
    found = made(tmp_path, source)

    assert [(one.function, set(one.names), one.after) for one in found] == [
        ("", {"DAY"}, "25"),
        ("", {"C", "size"}, "4"),
        ("", {"f"}, "True"),
    ]


def test_a_mutant_makes_its_own_change_alone(tmp_path: Path) -> None:
    source = "def f(a):\n    return a + 1\n\n\ndef g(a):\n    return a + 1\n"
    chosen = [one for one in made(tmp_path, source) if one.function == "g" and one.after == "a - 1"]

    assert ast.unparse(chosen[0].apply()) == source.replace("\n\n\n", "\n\n").strip()[:-5] + "a - 1"


def test_names_are_found_in_the_functions_that_use_them(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("DAY = 24\n\n\ndef f():\n    return DAY\n\n\ndef g():\n    f()\n    return 1\n")

    uses = uses_of_names(tmp_path)

    assert uses["DAY"] == {(str(path), 5)}
    assert uses["f"] == {(str(path), 5), (str(path), 9), (str(path), 10)}


PACKAGE = """
LIMIT = 3


class Counter:
    def __init__(self):
        self.count = 0

    @property
    def is_full(self):
        return self.count >= LIMIT


def untested():
    return 1
"""

STEPS = """
    def steps(self):
        while self.count < LIMIT:
            self.count += 1
        return self.count
"""

TESTS = """
from usage_reporting.thing import Counter


def test_it():
    counter = Counter()
    counter.count = 3
    assert counter.is_full
    counter.count = 2
    assert not counter.is_full
"""

DRIVER = """
import sys
from pathlib import Path

import pytest

sys.path[:0] = [REPOSITORY]
from tests.mutation.coverage import uses_of_names
from tests.mutation.mutants import mutants_of
from tests.mutation.runner import PYTEST, Runner

package = Path("usage_reporting").resolve()


def finished(mutant, outcome, _test):
    print(f"{mutant.before} => {mutant.after}: {outcome}", flush=True)


runner = Runner(mutants_of(package / "thing.py"), 2, finished, uses_of_names(package))
pytest.main([*PYTEST, "tests"], plugins=[runner])
print(runner.problem)
"""


def run_mutants(folder: Path, tests: str, package: str = PACKAGE) -> list[str]:
    (folder / "usage_reporting").mkdir()
    (folder / "usage_reporting/__init__.py").touch()
    (folder / "usage_reporting/thing.py").write_text(package)
    (folder / "tests").mkdir()
    (folder / "tests/test_thing.py").write_text(tests)
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    repository = str(Path(__file__).parents[2])
    driver = DRIVER.replace("REPOSITORY", repr(repository))
    done = subprocess.run(
        [sys.executable, "-c", driver], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    return sorted(done.stdout.strip().splitlines())


def test_mutants_are_killed_by_tests_that_fail_and_survive_otherwise(tmp_path: Path) -> None:
    assert run_mutants(tmp_path, TESTS) == [
        "0 => 1: survived",
        "1 => 2: survived",
        "3 => 4: killed",
        "return self.count >= LIMIT => return None: killed",
        "self.count = 0 => pass: survived",
        "self.count >= LIMIT => self.count < LIMIT: killed",
        "self.count >= LIMIT => self.count > LIMIT: killed",
    ]


def test_nothing_is_counted_when_the_tests_fail_by_themselves(tmp_path: Path) -> None:
    [said] = run_mutants(tmp_path, TESTS.replace("count = 3", "count = 2"))

    assert said == "without mutants these tests fail: ['tests/test_thing.py::test_it']"


def test_a_mutant_that_never_ends_is_timed_out(tmp_path: Path) -> None:
    tests = TESTS + "\n\ndef test_steps():\n    assert Counter().steps() == 3\n"
    found = run_mutants(tmp_path, tests, PACKAGE.replace("    @property", STEPS + "\n    @property"))

    assert "self.count += 1 => pass: timed out" in found


NONLOCAL = """

def count():
    n = 0

    def up():
        nonlocal n
        n += 1

    up()
    return n
"""

COUNTED = """

def test_count():
    from usage_reporting.thing import count

    assert count() == 1
"""


def test_what_is_no_python_is_no_mutant(tmp_path: Path) -> None:
    assert "n = 0 => pass: no python" in run_mutants(tmp_path, TESTS + COUNTED, PACKAGE + NONLOCAL)


CACHED = """

import functools


@functools.cache
def one():
    n = 0
    return n + 1
"""

KNOWN = """

from usage_reporting.thing import one

KNOWN = one()


def test_one():
    assert one() == 1
"""


def test_what_was_remembered_before_a_change_is_forgotten(tmp_path: Path) -> None:
    assert "n + 1 => n - 1: killed" in run_mutants(tmp_path, TESTS + KNOWN, PACKAGE + CACHED)
