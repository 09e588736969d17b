"""Everything once more, long after: whatever a history told the functions is told to them again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import Any, Final, Protocol

from sandbox.simulator.ledger_strikes import LedgerTable
from sandbox.simulator.machine import VirtualClock
from sandbox.simulator.queue import MemoryQueue
from sandbox.stripe import StripeSandbox

HOUR: Final = 3600
OFFSETS: Final = (HOUR, 25 * HOUR, 36 * 24 * HOUR)
"""After the end, in seconds: inside the day in which identifiers are unique, after it, and after the 35
days in which usage can be sent."""

State = dict[str, Any]


class Played(Protocol):
    """What is needed of a world whose history is over."""

    clock: VirtualClock
    stripe: StripeSandbox
    table: LedgerTable
    queue: MemoryQueue

    @property
    def stand_ins(self) -> Mapping[str, StripeSandbox]:
        """The stand-in for each of its Stripe accounts."""

    def run_tick(self, scope: str) -> None:
        """Run a tick, and work its pages off."""

    def work(self) -> None:
        """Work the queue off."""


def changed_by_replay(world: Played) -> Iterator[str]:
    """Play all events, messages and ticks again at each offset; what that changed."""
    end = world.clock()
    bodies = list(dict.fromkeys(world.queue.sent))
    deliveries = [(one, delivery) for one in world.stand_ins.values() for delivery in one.webhooks.log]
    invoices = {
        (name, invoice.id) for name, one in world.stand_ins.items() for invoice in one.account.invoices
    }
    before = _state(world, invoices, end)
    for offset in OFFSETS:
        _pass_time(world, end + offset)
        for one, delivery in deliveries:
            _again(world, partial(one.deliver_again, delivery))
        for body in bodies:
            _again(world, partial(world.queue.send, json.loads(body)))
        for scope in ("closing", "all"):
            world.run_tick(scope)
        after = _state(world, invoices, end)
        for what in sorted(before.keys() | after.keys()):
            if before.get(what) != after.get(what):
                yield f"+{offset} s: {what} was {before.get(what)}, is {after.get(what)}"
        before = after


def _again(world: Played, send: Callable[[], object]) -> None:
    send()
    world.work()


def _pass_time(world: Played, until: int) -> None:
    """Stripe bills on; nobody listens meanwhile."""
    stripe = world.stripe
    deliver, stripe.deliver = stripe.deliver, lambda _url, _headers, _body: 200
    hand_over, stripe.hand_over = stripe.hand_over, lambda _entry: True
    world.clock.reach(until)
    stripe.run_due()
    stripe.deliver, stripe.hand_over = deliver, hand_over


def _state(world: Played, invoices: set[tuple[str, str]], end: int) -> State:
    """Bills, what Stripe holds of before `end`, and what the ledger counts."""
    state: State = {}
    for name, one in world.stand_ins.items():
        for invoice in one.account.invoices:
            is_told = (name, invoice.id) in invoices
            if is_told and invoice.finalized_at is not None and invoice.finalized_at <= end:
                for line in invoice.lines:
                    state[f"line {line.id} of {invoice.id} of {name}"] = line.quantity
        for event in one.meters.accepted():
            key = f"received of {event.customer} of {name} on {event.meter}"
            state[key] = state.get(key, Decimal(0)) + event.value
    for item in world.table.items():
        for start, units in item.get("undelivered", {}).items():
            state[f"counted of {item['pk']} at {start}"] = units
    return state
