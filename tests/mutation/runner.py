"""Runs mutants: the tests are collected once, and each mutant is a fork of that process.

In the fork the changed function takes the place of the original, wherever that is held, and the tests
that run the changed lines are run, fast ones first, up to the first failure. A change outside of
functions needs a fresh import: then the fork forgets the project's modules and collects those tests anew.
"""

from __future__ import annotations

import gc
import importlib.abc
import importlib.util
import os
import pickle
import resource
import select
import signal
import sys
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.machinery import ModuleSpec
from types import CodeType, FunctionType, ModuleType
from typing import NoReturn

import pytest

from tests.mutation.coverage import Cache, Hits, Recorder, caches_of, functions_in
from tests.mutation.mutants import Mutant

OURS = {"cli", "sandbox", "tests", "usage_reporting"}
PYTEST = ["-s", "-o", "addopts=--import-mode=importlib"]
PYTEST += [part for plugin in ("cacheprovider", "terminal", "xdist") for part in ("-p", f"no:{plugin}")]

LONGEST_SEARCH = 3.0
"""Seconds of tests, by their usual time, that a mutant is given; what survives them has survived."""

TIMES_SLOWER = 10
CPU_GRACE = 3.0
REAL_GRACE = 15.0
MOST_MEMORY = 6 * 2**30


Child = Callable[[int], NoReturn]
"""What a fork does; it may write into the pipe that it is given."""
Ended = Callable[[int, bytes], None]
"""Told a child's exit status and what it wrote."""


class Outcome(StrEnum):
    """What became of a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"
    NO_PYTHON = "no python"
    """No compiler takes it, so it is no mutant: as when a name that an inner function changes is gone."""


_OUTCOMES = {
    int(pytest.ExitCode.OK): Outcome.SURVIVED,
    int(pytest.ExitCode.TESTS_FAILED): Outcome.KILLED,
    int(pytest.ExitCode.USAGE_ERROR): Outcome.KILLED,  # a conftest.py could not be imported
}
NO_PYTHON = 71
_OUTCOMES[NO_PYTHON] = Outcome.NO_PYTHON
BROKEN = 70
"""Ended by a fault of these tools: no other outcome may hide it."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a test does without mutants."""

    seconds: float
    """Of computing."""
    hits: Hits
    passed: bool


@dataclass(slots=True, eq=False)
class Runner:
    """A plugin of pytest: instead of running the collected tests once, it runs the mutants."""

    mutants: Sequence[Mutant]
    jobs: int
    finished: Callable[[Mutant, Outcome, str], None]
    """Called with each mutant, its outcome, and the test that killed it."""
    uses: Mapping[str, Hits]
    """Where each name is used: a definition outside of functions has no lines that a test could run."""
    baseline: dict[str, Baseline] = field(default_factory=dict)
    problem: str = ""
    _killers: dict[str, deque[str]] = field(default_factory=dict)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Measure the tests, then run every mutant."""
        items = {item.nodeid: item for item in session.items}
        paths = {str(mutant.path) for mutant in self.mutants}
        watched = paths | {path for lines in self.uses.values() for path, _ in lines}
        functions = list(functions_in(paths))
        caches = list(caches_of(functions))
        self.baseline = _measured(session.items, watched, caches, self.jobs)
        broken = [name for name, test in self.baseline.items() if not test.passed]
        if broken:
            self.problem = f"without mutants these tests fail: {broken}"
            return True
        gc.freeze()  # or each fork would copy all of the memory that its collector looks at
        _Forks(self.jobs).run(self._children(items, functions, caches))
        return True

    def _children(
        self, items: dict[str, pytest.Item], functions: list[FunctionType], caches: list[Cache]
    ) -> Iterator[tuple[Child, Ended]]:
        for mutant in self.mutants:
            tests = self._tests(mutant)
            if not tests:
                self.finished(mutant, Outcome.SURVIVED, "")
                continue

            def child(pipe: int, mutant: Mutant = mutant, tests: list[str] = tests) -> NoReturn:
                watch = _Watch(self.baseline, pipe)
                if mutant.function:
                    _replace_code(mutant, functions, caches)
                    _run([items[test] for test in tests], watch)
                _run_anew(mutant, tests, watch)

            def ended(status: int, killer: bytes, mutant: Mutant = mutant) -> None:
                test = killer.decode()
                outcome = _outcome(mutant, status, test)
                if test:
                    self._killers.setdefault(mutant.function, deque(maxlen=5)).appendleft(test)
                self.finished(mutant, outcome, test)

            yield child, ended

    def _tests(self, mutant: Mutant) -> list[str]:
        """The tests that run the mutant's lines: the latest killers, then units, then fast ones."""
        if mutant.function:
            wanted = {(str(mutant.path), line) for line in mutant.lines}
        else:
            wanted = {hit for name in mutant.names for hit in self.uses.get(name, ())}
        found = [name for name, test in self.baseline.items() if not wanted.isdisjoint(test.hits)]
        killers = list(self._killers.get(mutant.function, ()))

        def rank(name: str) -> tuple[int, bool, float]:
            first = killers.index(name) if name in killers else len(killers)
            return first, "/integration/" in name, self.baseline[name].seconds

        seconds, chosen = 0.0, list[str]()
        for name in sorted(found, key=rank):
            seconds += self.baseline[name].seconds
            if chosen and seconds > LONGEST_SEARCH:
                break
            chosen.append(name)
        return chosen


def _outcome(mutant: Mutant, status: int, said: str) -> Outcome:
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in {signal.SIGPROF, signal.SIGALRM}:
        return Outcome.TIMED_OUT
    found = _OUTCOMES.get(os.waitstatus_to_exitcode(status))
    if found is None:
        raise RuntimeError(f"the process of {mutant} ended with {status}: {said}")
    return found


# Processes


@dataclass(slots=True)
class _Forks:
    """Some children at a time; each may say something through a pipe before it ends."""

    most: int
    _running: dict[int, _Running] = field(default_factory=dict)
    """By the end of the pipe that is read."""

    def run(self, children: Iterator[tuple[Child, Ended]]) -> None:
        for child, ended in children:
            self._start(child, ended)
            if len(self._running) >= self.most:
                self._wait()
        while self._running:
            self._wait()

    def _start(self, child: Child, ended: Ended) -> None:
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            try:
                os.close(reader)
                silent = os.open(os.devnull, os.O_RDWR)
                os.dup2(silent, 1)
                os.dup2(silent, 2)
                child(writer)
            except BaseException:  # noqa: BLE001 - the parent's code must not go on in the child
                os.write(writer, traceback.format_exc().encode())
            finally:
                os._exit(BROKEN)
        os.close(writer)
        self._running[reader] = _Running(process, ended)

    def _wait(self) -> None:
        """Read what the children say until one of them has closed its pipe: it has ended."""
        while True:
            for reader in select.select(list(self._running), [], [])[0]:
                said = os.read(reader, 2**16)
                if said:
                    self._running[reader].said += said
                    continue
                os.close(reader)
                child = self._running.pop(reader)
                child.ended(os.waitpid(child.process, 0)[1], bytes(child.said))
                return


@dataclass(slots=True)
class _Running:
    process: int
    ended: Ended
    said: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, eq=False)
class _Watch:
    """A plugin in a fork: each test has its time, and the first failure ends the process."""

    baseline: dict[str, Baseline]
    pipe: int

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        usual = self.baseline[item.nodeid].seconds * TIMES_SLOWER
        signal.setitimer(signal.ITIMER_PROF, usual + CPU_GRACE)
        signal.setitimer(signal.ITIMER_REAL, usual + REAL_GRACE)
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        """End before a traceback is made, which takes longer than most tests."""
        if call.excinfo is not None and not call.excinfo.errisinstance(pytest.skip.Exception):
            self._end(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._end(report.nodeid)

    def _end(self, test: str) -> NoReturn:
        os.write(self.pipe, test.encode())
        os._exit(1)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            os._exit(1)


def _run(items: Sequence[pytest.Item], watch: _Watch) -> NoReturn:
    config = items[0].config
    config.pluginmanager.register(watch)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    for item, following in zip(items, [*items[1:], None], strict=True):
        config.hook.pytest_runtest_protocol(item=item, nextitem=following)
    os._exit(0)


def _run_anew(mutant: Mutant, tests: Sequence[str], watch: _Watch) -> NoReturn:
    """Import the project afresh with the mutant in it, and run these tests."""
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        if not name.startswith("tests.mutation"):
            del sys.modules[name]
    sys.meta_path.insert(0, _Importer(mutant))
    # Nothing is imported by the tests' collection that could not hang.
    signal.setitimer(signal.ITIMER_REAL, 60.0)
    os._exit(int(pytest.main([*PYTEST, "-x", *tests], plugins=[watch])))


@dataclass(slots=True)
class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one module: the mutant's."""

    mutant: Mutant

    def find_spec(self, name: str, path: object, target: object = None) -> ModuleSpec | None:
        parts = self.mutant.path.with_suffix("").parts
        if name != ".".join(parts[parts.index("usage_reporting") :]):
            return None
        return importlib.util.spec_from_loader(name, self, origin=str(self.mutant.path))

    def exec_module(self, module: ModuleType) -> None:
        exec(_compiled(self.mutant), module.__dict__)


def _compiled(mutant: Mutant) -> CodeType:
    try:
        return compile(mutant.apply(), str(mutant.path), "exec", dont_inherit=True)
    except SyntaxError:
        os._exit(NO_PYTHON)


def _replace_code(mutant: Mutant, functions: Sequence[FunctionType], caches: Sequence[Cache]) -> None:
    """Put the changed function's code into every function that has the original's."""
    changed = next(_named(_compiled(mutant), mutant.function))
    path = str(mutant.path)
    replaced = [
        function
        for function in functions
        if function.__code__.co_qualname == mutant.function and function.__code__.co_filename == path
    ]
    assert replaced, mutant
    with warnings.catch_warnings():
        # A generator whose only `yield` is lost becomes a plain function.
        warnings.simplefilter("ignore", DeprecationWarning)
        for function in replaced:
            function.__code__ = changed
    for kept in caches:
        kept.cache_clear()


def _named(code: CodeType, qualified: str) -> Iterator[CodeType]:
    if code.co_qualname == qualified:
        yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _named(constant, qualified)


# Without mutants


def _measured(
    items: Sequence[pytest.Item], paths: set[str], caches: Sequence[Cache], jobs: int
) -> dict[str, Baseline]:
    """Run all tests as they are, in as many processes as there may be: time, lines, outcome of each."""
    measured: dict[str, Baseline] = {}

    def share(part: Sequence[pytest.Item]) -> Child:
        def child(pipe: int) -> NoReturn:
            found = _Measure(Recorder(paths), caches).run(part)
            with os.fdopen(pipe, "wb") as output:
                pickle.dump(found, output)
            os._exit(0)

        return child

    def ended(status: int, said: bytes) -> None:
        if status:
            raise RuntimeError(f"a process that measured the tests died of {status}: {said.decode()}")
        measured.update(pickle.loads(said))

    modules = sorted({item.path for item in items})
    parts = [[item for item in items if modules.index(item.path) % jobs == job] for job in range(jobs)]
    _Forks(jobs).run((share(part), ended) for part in parts if part)
    return measured


@dataclass(slots=True, eq=False)
class _Measure:
    recorder: Recorder
    caches: Sequence[Cache]
    failed: set[str] = field(default_factory=set)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def run(self, items: Sequence[pytest.Item]) -> dict[str, Baseline]:
        config = items[0].config
        config.pluginmanager.register(self)
        found = {}
        for item, following in zip(items, [*items[1:], None], strict=True):
            self.recorder.take()
            for cache in self.caches:
                cache.cache_clear()  # what an earlier test made it remember, this one may need, too
            begun = time.process_time()  # other work on the machine must not change what is chosen
            config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            seconds = time.process_time() - begun
            found[item.nodeid] = Baseline(seconds, self.recorder.take(), item.nodeid not in self.failed)
        return found
