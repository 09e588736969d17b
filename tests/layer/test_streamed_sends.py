"""The protocol of a send with the stream: which way each goes, and what the ledger says of it afterwards."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.layer.builders import NOON, Clock, MemoryTable, customer_meter, legacy, send
from tests.layer.protocol import DAY_OF, SENDS, Behaviour, FakeStripe, no_sleep
from usage_reporting.budget import Budget
from usage_reporting.errors import LedgerUnavailableError
from usage_reporting.ledger import Entry, Item, Ledger
from usage_reporting.meter_event_stream import CARRIED, MOST_EVENTS, STREAM
from usage_reporting.model import CustomerMeter, Report, Send, SendState, Status
from usage_reporting.sender import Sender
from usage_reporting.windows import DAY, HOUR

V1 = "/v1/billing/meter_events"


class Table(MemoryTable):
    """A table that takes so many lists of what a request carries."""

    room: int = 10**6

    def put(self, item: Item, read_version: int) -> None:
        if item["sk"] == CARRIED:
            self.room -= 1
            if self.room < 0:
                raise LedgerUnavailableError("DynamoDB is away")
        super().put(item, read_version)


class World:
    """One entry, one Stripe, and processes that stream or do not."""

    def __init__(self, owner: CustomerMeter | None = None) -> None:
        self.clock = Clock(NOON + 2 * HOUR)
        self.stripe = FakeStripe(self.clock)
        self.table = Table()
        self.owner = owner or customer_meter()

    @property
    def entry(self) -> Entry:
        key = (self.owner.pk, DAY_OF)
        return Entry.from_item(self.table.items[key]) if key in self.table.items else Entry(*key)

    def write(self, *sends: Send) -> None:
        entry = self.entry.with_sends(sends)
        self.table.put(entry.to_item(self.clock()), entry.version)

    def tell(self, *sends: Send, streaming: bool = True) -> Report:
        """A process that repeats what is open, and tells what is new."""
        report = Report(self.owner)
        sender = Sender(self.stripe.api, Ledger(self.table), self.clock, no_sleep, is_streaming=streaming)

        async def work(report: Report) -> None:
            entry = await sender.repeat_intents(report, self.entry, Budget())
            if sends and not entry.intents:
                await sender.carry_out(report, entry, sends, Budget())

        asyncio.run(sender.settle([report], work))
        return report

    @property
    def ways(self) -> list[str]:
        return [str(call["path"]) for call in self.stripe.calls]

    @property
    def states(self) -> list[SendState]:
        return [one.state for one in self.entry.sends.values()]

    @property
    def told(self) -> list[Send]:
        return list(self.entry.sends.values())


def counted(sends: Sequence[Send]) -> list[tuple[int, object]]:
    return sorted((one.stamp, one.value) for one in sends)


def test_the_sends_of_an_entry_share_a_request() -> None:
    world = World()
    report = world.tell(*SENDS)

    assert (report.status, [one.identifier for one in report.sent]) == (
        Status.SENT,
        [one.identifier for one in SENDS],
    )
    assert world.ways == [STREAM]
    assert counted(SENDS) == sorted(world.stripe.events)
    assert world.states == [SendState.SENT] * 2
    assert all(one.is_streamed and not one.is_repeated for one in world.told)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_usage_record_is_never_streamed(*, streaming: bool) -> None:
    world = World(legacy())
    world.tell(SENDS[0], streaming=streaming)

    assert world.ways == ["/v1/subscription_items/si_1/usage_records"]


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_open_is_repeated_the_way_it_went_whatever_is_set_now(*, streamed: bool) -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_SILENT])
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    assert world.tell(*SENDS, streaming=streamed).status is Status.UNKNOWN
    way = STREAM if streamed else V1
    assert set(world.ways) == {way}
    world.stripe.otherwise = Behaviour.OK
    world.stripe.calls.clear()

    assert world.tell(streaming=not streamed).status is Status.SENT

    assert set(world.ways) == {way}
    assert counted(SENDS) == sorted(world.stripe.events)
    later = replace(send("cus_1.3.0.c", 7), slice_start=NOON + 2 * HOUR, stamp=NOON + 3 * HOUR - 1)
    world.tell(later, streaming=not streamed)
    assert world.ways[-1] == (V1 if streamed else STREAM)


@pytest.mark.parametrize("way", [Behaviour.BUSY_429, Behaviour.NEVER_ARRIVED])
def test_only_what_never_left_may_go_another_way(way: Behaviour) -> None:
    """An account that has no stream at all must not wait a day for what was to go through it."""
    world = World()
    world.stripe.otherwise = way
    world.tell(SENDS[0])
    world.stripe.otherwise = Behaviour.OK

    world.tell(streaming=False)

    assert world.ways[-1] == (V1 if way is Behaviour.BUSY_429 else STREAM)
    assert counted(SENDS[:1]) == world.stripe.events


def test_what_a_second_request_may_have_carried_is_remembered() -> None:
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_SILENT])
    world.tell(SENDS[0])
    assert [one.is_repeated for one in world.told] == [True]

    other = World()
    other.stripe.behaviours = deque([Behaviour.BUSY_429])
    other.tell(SENDS[0])
    assert [one.is_repeated for one in other.told] == [False], "the first was not begun"

    crashed = World()
    crashed.write(replace(SENDS[0], is_streamed=True))
    assert crashed.told[0].may_count_by_another
    crashed.tell()
    assert [(one.state, one.is_repeated) for one in crashed.told] == [(SendState.SENT, True)]


@pytest.mark.parametrize("state", [SendState.REJECTED, SendState.DOUBTED, SendState.DISCARDED])
def test_after_a_refusal_the_next_goes_alone_and_then_they_are_streamed_again(state: SendState) -> None:
    """A stream names no event, and takes what it refuses each time: one would put a hundred in doubt."""
    world = World()
    world.write(
        send("cus_1.0.0.y", 1, NOON - 1, intended_at=NOON - 1, state=SendState.SENT),
        replace(SENDS[0], state=state, is_streamed=True),
    )

    world.tell(replace(SENDS[1], intended_at=NOON + 2 * HOUR))
    world.tell(replace(SENDS[1], identifier="cus_1.2.1.c", intended_at=NOON + 3 * HOUR))

    assert world.ways == [V1, STREAM]


def test_a_rejected_event_is_told_again_alone() -> None:
    world = World()
    world.stripe.otherwise = Behaviour.REJECTED
    assert world.tell(SENDS[0]).status is Status.REJECTED
    world.stripe.otherwise = Behaviour.OK

    assert world.tell(SENDS[0]).status is Status.SENT

    assert world.ways == [STREAM, V1]
    assert world.stripe.calls[-1]["key"] == "cus_1.1.0.a.1"


def test_what_one_request_could_not_do_leaves_the_outcomes_of_the_other() -> None:
    world = World()
    many = [
        send(f"cus_1.{n}.0.a", n + 1, NOON + n, slice_start=NOON + n, intended_at=NOON + 2 * HOUR)
        for n in range(MOST_EVENTS + 1)
    ]
    world.table.room = 1

    report = world.tell(*many)

    assert (report.status, report.reason) == (Status.UNKNOWN, "DynamoDB is away")
    assert sorted(map(world.states.count, (SendState.SENT, SendState.INTENT))) == [1, MOST_EVENTS]
    world.table.room = 10
    assert world.tell().status is Status.SENT
    assert counted(many) == sorted(world.stripe.events)


def test_an_error_that_nobody_expected_waits_for_the_other_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    ended: list[str] = []

    async def streamed(sender: Sender, owner: CustomerMeter, one: Send) -> None:
        if one.identifier == SENDS[0].identifier:
            raise KeyError("odd")
        await asyncio.sleep(0.01)
        ended.append(one.identifier)

    monkeypatch.setattr(Sender, "_call", streamed)
    report = world.tell(*SENDS)

    assert report.reason == "unexpected KeyError; see the function's log"
    assert ended == [SENDS[1].identifier]


@pytest.mark.parametrize("days", [0, 2])
def test_the_same_request_is_answered_from_stripes_store(days: int) -> None:
    """The v2 API keeps an answer for 30 days; identifiers would protect for one alone."""
    world = World()
    world.stripe.behaviours = deque([Behaviour.TAKEN_BUT_SILENT])
    world.stripe.otherwise = Behaviour.NEVER_ARRIVED
    world.tell(*SENDS)
    first = world.stripe.calls[0]["key"]
    world.stripe.otherwise = Behaviour.OK
    world.clock.now += days * DAY
    world.tell()

    assert {call["key"] for call in world.stripe.calls} == {first}
