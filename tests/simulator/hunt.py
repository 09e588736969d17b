"""Looks for the first world in which the layer that is on the path bills wrongly; run by another process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace

from sandbox.simulator.generate import history_of
from sandbox.simulator.history import Contract, Fault, History, Item, Usage
from sandbox.simulator.trouble import KINDS
from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World

PLAIN = ("trial", "second_subscription", "resubscribe", "cancel_at_period_end")
"""What else the generator's worlds hold: enough for these bugs."""
HOUR = 3600
QUARTER = 900
START = 1_799_712_000
END = START + 36 * HOUR + 3000
"""Of the first period, in the histories that are written down."""


def worlds(kind: str, first: int, count: int) -> Iterator[History]:
    """The worlds of a kind, from the recorded one on: four kinds (`crash`, `overtaken`, ...) are written
    down, all others are the generator's, with just this kind of fault."""
    for number in range(first, first + count):
        if kind in {"crash", "overtaken"}:
            yield written_down(kind, number)
        elif kind == "pages":
            yield in_short_pages(number)
        elif kind == "accounts":
            yield of_two_accounts(number)
        else:
            yield history_of(f"planted.{number}", [one for one in KINDS if one == kind], PLAIN)


def written_down(kind: str, skip: int) -> History:
    """One day, usage at its end, and one fault that strikes after so many chances."""
    used = [Usage("c0", "m1", END - ago, "2", END - ago) for ago in (2900, 1500, 600)]
    at, fault = END - 2000, "crash"
    if kind == "overtaken":
        # While one worker waits a minute, the rest shows up, and another worker sends it.
        tick = END - END % QUARTER + 2 * QUARTER
        used.append(Usage("c0", "m1", END - 4000, "5", tick + 20))
        at, fault = tick, "two_workers"
    contract = Contract("s0", "c0", END - 24 * HOUR, "day", (Item(),))
    faults = (Fault(fault, at, skip, seconds=60 if kind == "overtaken" else 0),)
    return History(f"{kind}.{skip}", START, END + 5 * HOUR, (contract,), tuple(used), faults=faults)


def in_short_pages(number: int) -> History:
    """Customers on several of Stripe's list pages; no webhook comes after their usage can be seen."""
    customers = [f"c{place}" for place in range(number, number + 5)]
    used = tuple(Usage(customer, "m1", END - 600, "2", END + 1500) for customer in customers)
    contracts = tuple(
        Contract(f"{customer}s0", customer, END - 24 * HOUR + place, "day", (Item(),))
        for place, customer in enumerate(customers)
    )
    return History(f"pages.{number}", START, END + 5 * HOUR, contracts, used, page_size=2)


def of_two_accounts(number: int) -> History:
    """The same customer in two accounts, with other usage and other ends of its days."""
    own, other = (
        History(
            f"accounts.{number}",
            START,
            END + 5 * HOUR,
            (Contract("s0", "c0", END - 24 * HOUR + beside, "day", (Item(),)),),
            (Usage("c0", "m1", END - HOUR, value, END - HOUR),),
        )
        for beside, value in ((0, "2"), (number + 60, "30"))
    )
    return replace(own, connected=(other,))


def main() -> None:
    """`hunt.py KIND FIRST COUNT` prints the first wrong world's seed and what is wrong there, as JSON."""
    kind, first, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    for number, made in enumerate(worlds(kind, first, count), first):
        if wrong := judge(made, World(made).play()).wrong:
            found = {"number": number, "seed": made.seed, "wrong": [str(one) for one in wrong]}
            print(json.dumps(found))
            return


if __name__ == "__main__":
    main()
