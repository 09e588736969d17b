"""`make mutation`: how many small changes of the code that decides what is billed do the tests notice?

The known tools do not fit. mutmut leaves out properties, other decorated functions and all code outside
of functions, and finds no package in a folder below `src`; cosmic-ray starts all tests anew each time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.mutation.coverage import uses_of_names
from tests.mutation.mutants import Mutant, mutants_of
from tests.mutation.runner import PYTEST, Outcome, Runner

ROOT = Path(__file__).parents[2]
LAYER = ROOT / "src/layer/usage_reporting"
ON_REQUEST = {
    # what fetches, listens or is configured
    "backoff",
    "budget",
    "config",
    "container",
    "credentials",
    "errors",
    "openmeter",
    "openmeter_customers",
    "openmeter_dialect",
    "openmeter_http",
    "openmeter_v1",
    "openmeter_v3",
    "pages",
    "renewals",
    "stripe_api",
    "telemetry",
    "ticks",
    "webhook",
    # what advises or judges afterwards
    "advice",
    "draft_holds",
    "error_reports",
    "final_invoices",
    "judging",
    "metered_lines",
    "rejections",
    "verdict",
}
"""Mutated when they are named. All other modules, also future ones, decide what is billed."""
TESTS = ("tests/layer", "tests/ledger")
"""What only tests/integration notice is not pinned down, and takes too long to find."""
AT_LEAST = 90.0


class Table:
    """Counts outcomes, and shows survivors as they are found."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._begun = time.monotonic()
        self.counts: dict[Path, Counter[Outcome]] = defaultdict(Counter)

    def add(self, mutant: Mutant, outcome: Outcome, _killer: str) -> None:
        """Count a mutant; say which one was not noticed."""
        self._done += 1
        if outcome is Outcome.NO_PYTHON:
            return
        self.counts[mutant.path][outcome] += 1
        if outcome is Outcome.SURVIVED:
            place = f"{mutant.path.relative_to(LAYER)}:{mutant.lines.start}"
            print(f"survived  {place}  {mutant.function or 'module'}\n    - {mutant.before}", flush=True)
            print(f"    + {mutant.after}", flush=True)
        elif self._done % 250 == 0:
            seconds = time.monotonic() - self._begun
            print(f"          {self._done} of {self._total} in {seconds:.0f} s", flush=True)

    def show(self) -> float:
        """Print a line for each file and one for all; the share of mutants that were noticed."""
        print(f"\n{'file':<28}{'mutants':>8}{'killed':>8}{'survived':>10}{'timed out':>11}{'%':>8}")
        whole: Counter[Outcome] = Counter()
        for path in sorted(self.counts):
            self._line(str(path.relative_to(LAYER)), self.counts[path])
            whole += self.counts[path]
        return self._line("total", whole)

    @staticmethod
    def _line(name: str, counts: Counter[Outcome]) -> float:
        total, survived = counts.total(), counts[Outcome.SURVIVED]
        share = 100 * (total - survived) / total if total else 0.0
        killed, expired = counts[Outcome.KILLED], counts[Outcome.TIMED_OUT]
        print(f"{name:<28}{total:>8}{killed:>8}{survived:>10}{expired:>11}{share:>8.1f}")
        return share


def main() -> int:
    """Run the mutants that the arguments choose; 1 when too few of them are noticed."""
    parser = argparse.ArgumentParser(prog="make mutation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("chosen", nargs="*", metavar="FILE[:LINE]", help="below src/layer/usage_reporting")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH", help="where to look for tests")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    options = parser.parse_args()
    mutants = [mutant for one in options.chosen or _deciding() for mutant in _chosen(one)]
    if not mutants:
        parser.error("there is nothing to mutate")

    table = Table(len(mutants))
    runner = Runner(mutants, options.jobs, table.add, uses_of_names(LAYER))
    os.chdir(ROOT)
    os.environ["HYPOTHESIS_PROFILE"] = "mutation"
    print(f"{len(mutants)} mutants; first the tests without any, to see which lines each of them runs")
    code = pytest.main([*PYTEST, *options.tests], plugins=[runner])
    if code or runner.problem or not runner.baseline:
        print(runner.problem or f"pytest ended with {code}", file=sys.stderr)
        return 1
    share = table.show()
    print(f"\n{share:.1f} % of the mutants were noticed; at least {AT_LEAST:.0f} % must be")
    return 0 if share >= AT_LEAST else 1


def _deciding() -> list[str]:
    paths = [path for path in LAYER.rglob("*.py") if path.stem not in ON_REQUEST]
    return sorted(str(path.relative_to(LAYER)) for path in paths)


def _chosen(text: str) -> list[Mutant]:
    name, _, line = text.partition(":")
    path = LAYER / name
    paths = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    return [one for path in paths for one in mutants_of(path) if not line or int(line) in one.lines]


if __name__ == "__main__":
    sys.exit(main())
