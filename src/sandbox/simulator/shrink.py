"""The shortest history that still shows a fault, and the test that reproduces it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from sandbox.simulator.history import History, source_of
from sandbox.stripe.undocumented import AS_ASSUMED

MOST_TRIES = 120

Fails = Callable[[History], bool]


_IMPORT = "from sandbox.stripe.undocumented import Undocumented\n"


def shrunk(history: History, fails: Fails, most_tries: int = MOST_TRIES) -> History:
    """Leave out customers, faults, acts and usage, greedily, while it still fails."""
    tries = 0
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(history):
            tries += 1
            if tries > most_tries:
                return history
            if fails(candidate):
                history, smaller = candidate, True
                break
    return history


def _candidates(history: History) -> Iterator[History]:
    """Histories with less in them, the boldest first."""
    for number in range(len(history.connected)):
        yield _with_account(history, number)
    yield from _with_fewer_customers(history)
    length = history.end - history.start
    for part in (0.4, 0.7, 0.9):
        if int(length * part) < length:  # nothing left to cut off would be tried for ever
            yield _ended(history, history.start + int(length * part))
    yield from _with_less(history)
    for number, one in enumerate(history.connected):
        for less in (*_with_fewer_customers(one), *_with_less(one)):
            yield _with_account(history, number, less)


def _with_account(history: History, number: int, *instead: History) -> History:
    """Another history in a connected account's place, or none."""
    before, after = history.connected[:number], history.connected[number + 1 :]
    return replace(history, connected=(*before, *instead, *after))


def _ended(history: History, end: int) -> History:
    return replace(history, end=end, connected=tuple(replace(one, end=end) for one in history.connected))


def _with_fewer_customers(history: History) -> Iterator[History]:
    customers = sorted({contract.customer for contract in history.contracts})
    if len(customers) > 1:
        for half in (customers[: len(customers) // 2], customers[len(customers) // 2 :]):
            yield _only(history, set(half))
        for one in customers:
            yield _only(history, set(customers) - {one})


def _with_less(history: History) -> Iterator[History]:
    for name in ("faults", "acts", "usage"):
        rows = getattr(history, name)
        size = len(rows)
        while size:
            for first in range(0, len(rows), size):
                yield replace(history, **{name: rows[:first] + rows[first + size :]})
            size //= 2


def _only(history: History, customers: set[str]) -> History:
    contracts = tuple(one for one in history.contracts if one.customer in customers)
    names = {one.name for one in contracts}
    return replace(
        history,
        contracts=contracts,
        usage=tuple(use for use in history.usage if use.customer in customers),
        acts=tuple(act for act in history.acts if act.contract in names),
    )


def as_test(history: History) -> str:
    """The pytest that plays a history."""
    stripe = "" if history.undocumented == AS_ASSUMED else _IMPORT
    lines = source_of(history).replace("(Contract(", "(\n        Contract(").replace("), ", "),\n        ")
    return (
        "from sandbox.simulator.history import Act, Contract, Fault, History, Item, Usage\n"
        "from sandbox.simulator.verdict import judge\n"
        f"from sandbox.simulator.world import World\n{stripe}\n\n"
        f"def test_seed_{''.join(c if c.isalnum() else '_' for c in history.seed)}() -> None:\n"
        f"    history = {lines}\n"
        "    assert judge(history, World(history).play()).wrong == []\n"
    )
