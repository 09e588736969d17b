"""Reports of refusals that name a request of the stream only: what is discarded, and what is doubted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.layer.builders import NOON, Clock, MemoryTable, customer_meter, send
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.errors import LostRaceError
from usage_reporting.heads import LONG_AGO
from usage_reporting.ledger import Entry, Head, Item, Key, Ledger
from usage_reporting.meter_event_stream import CARRIED, carried_pk
from usage_reporting.model import CustomerMeter, Send, SendState, Status, StripeMeter
from usage_reporting.rejections import Rejections, Taken
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import DAY, HOUR, rfc3339

DAY_OF = "2026-07-15"
FIRST, SECOND = "stream." + "1" * 32, "stream." + "2" * 32
GONE, ARCHIVED = "meter_event_customer_not_found", "archived_meter"
OTHER = StripeMeter("mtr_2", "calls")

Json = dict[str, Any]


class Table(MemoryTable):
    """A table before each write of which something else may happen."""

    before: Callable[[Item], None] = staticmethod(lambda item: None)

    def put(self, item: Item, read_version: int) -> None:
        self.before(item)
        super().put(item, read_version)


class FakeApi:
    """Stripe's event, and its meters."""

    report: Json
    account: str = OWN_ACCOUNT

    async def get(self, path: str, params: Any = None) -> Json:
        return self.report

    async def pages(self, path: str, params: Any = None) -> AsyncIterator[list[Json]]:
        assert path == "/v1/billing/meters"
        yield [{"id": "mtr_1"}, {"id": "mtr_2"}]


class World:
    """A ledger with streamed sends, and reports about them."""

    def __init__(self) -> None:
        self.clock = Clock(NOON + HOUR + 30)
        self.table = Table()
        self.api = FakeApi()
        ledger = Ledger(self.table)
        self.rejections = Rejections(cast("StripeApi", self.api), ledger, self.clock)

    def sent(self, number: int = 0, owner: CustomerMeter | None = None, **other: Any) -> Send:
        """One that Stripe took, in the ledger with its head."""
        owner = owner or customer_meter(customer=f"cus_{number}")
        holder = owner.meter.id if owner.meter else ""
        values = {"state": SendState.SENT, "is_streamed": True, "sent_at": NOON + HOUR, **other}
        identifier = f"{owner.customer}.{NOON}.0.{holder.encode().hex():0>16}"
        one = replace(send(identifier, number + 1), **values)
        sk = str(NOON) if other.get("stamp") == NOON else DAY_OF
        entry = Entry(owner.pk, sk, sends={one.identifier: one})
        self.table.put(entry.to_item(NOON), 0)
        head = Head(owner.pk, owner.customer, "m1", "1", full_read_at=NOON)
        if (owner.pk, "head") not in self.table.items:
            self.table.put(head.to_item(NOON), 0)
        return one

    def carried(self, request: str, *sends: Send) -> None:
        names = [one.identifier for one in sends]
        key = carried_pk("self", "test", request)
        self.table.put({"pk": key, "sk": CARRIED, "identifiers": names, "version": 1, "expires_at": 1}, 0)

    def told(
        self,
        refusals: list[tuple[str, str]],
        *,
        meter: str = "mtr_1",
        counted: int = 0,
        event: str = "evt_1",
    ) -> Taken:
        """A report of refusals, each by request and code; `counted`: more than it names."""
        by_code = {code: [one for one in refusals if one[1] == code] for _, code in refusals}
        self.api.report = {
            "id": event,
            "related_object": {"id": meter} if meter else None,
            "data": {
                "reason": {
                    "error_count": max(counted, len(refusals)),
                    "error_types": [
                        {
                            "code": code,
                            "error_count": len(of_code),
                            "sample_errors": [
                                {"error_message": "no", "request": {"identifier": request}}
                                for request, _ in of_code
                            ],
                        }
                        for code, of_code in by_code.items()
                    ],
                },
                "validation_start": rfc3339(NOON + HOUR),
                "validation_end": rfc3339(NOON + HOUR + 10),
            },
        }
        return asyncio.run(self.rejections.take({"id": event}))

    def entry(self, pk: str, sk: str = DAY_OF) -> Entry:
        return Entry.from_item(self.table.items[(pk, sk)])

    def head(self, number: int = 0) -> Head:
        return Head.from_item(self.table.items[(customer_meter(customer=f"cus_{number}").pk, "head")])

    @property
    def states(self) -> list[tuple[str, str]]:
        """Of all sends, in the order in which they were made: state and code."""
        entries = [Entry.from_item(item) for item in self.table.items.values() if "sends" in item]
        return [(one.state.value, one.code) for entry in entries for one in entry.sends.values()]

    @property
    def windows(self) -> list[str]:
        return [pk for pk, sk in self.table.items if sk == "doubts"]


@pytest.fixture
def world() -> World:
    return World()


def test_a_request_that_was_refused_whole_is_discarded_and_read_again(world: World) -> None:
    world.carried(FIRST, *(world.sent(number) for number in range(3)))

    taken = world.told([(FIRST, ARCHIVED)] * 3)

    assert taken.outcome[0] == Status.REJECTED
    assert (len(taken.discarded), taken.alarming, taken.is_doubted) == (3, 3, False)
    assert world.states == [("discarded", ARCHIVED)] * 3
    assert {world.head(number).full_read_at for number in range(3)} == {LONG_AGO}
    assert world.windows == []


def test_where_a_part_was_refused_all_is_doubted_and_the_alarm_comes_at_once(world: World) -> None:
    """A deleted customer has no subscription any more: nothing may come back to it later."""
    world.carried(FIRST, *(world.sent(number) for number in range(3)))

    taken = world.told([(FIRST, GONE)])

    assert taken.outcome == (
        "doubted",
        f"Stripe did not name all that it refused ({GONE}); the summaries will tell",
    )
    assert (taken.discarded, taken.alarming) == ([], 1)
    assert world.states == [("doubted", GONE)] * 3
    assert [world.head(number).doubtful for number in range(3)] == [frozenset({DAY_OF})] * 3
    assert {world.head(number).full_read_at for number in range(3)} == {NOON}
    assert world.windows == []


def test_what_mends_itself_raises_no_alarm(world: World) -> None:
    world.carried(FIRST, world.sent(0), world.sent(1))

    assert world.told([(FIRST, "timestamp_in_future")]).alarming == 0


def test_the_entry_of_a_span_is_doubted_without_a_word_in_the_head(world: World) -> None:
    world.carried(FIRST, world.sent(0, stamp=NOON), world.sent(1))

    world.told([(FIRST, GONE)])

    assert world.states == [("doubted", GONE)] * 2
    assert world.head(0).doubtful == frozenset()


def test_a_report_is_about_the_events_of_its_meter_alone(world: World) -> None:
    mine = [world.sent(0), world.sent(1)]
    others = [world.sent(number, customer_meter(customer=f"cus_{number}", meter=OTHER)) for number in (0, 2)]
    world.carried(FIRST, *mine, *others)

    world.told([(FIRST, ARCHIVED)] * 2, meter="mtr_2")

    assert world.states == [("sent", "")] * 2 + [("discarded", ARCHIVED)] * 2


@pytest.mark.parametrize(("refused", "state"), [(1, "doubted"), (2, "discarded")])
def test_events_that_found_no_meter_may_be_of_any(world: World, refused: int, state: str) -> None:
    world.carried(FIRST, world.sent(0), world.sent(1, customer_meter(customer="cus_1", meter=OTHER)))

    world.told([(FIRST, "no_meter")] * refused, meter="")

    assert world.states == [(state, "no_meter")] * 2
    assert world.windows == []


def test_two_reasons_are_not_told_apart(world: World) -> None:
    world.carried(FIRST, *(world.sent(number) for number in range(3)))
    assert world.told([(FIRST, ARCHIVED), (FIRST, GONE)]).alarming == 2
    assert world.states == [("doubted", "")] * 3

    world.carried(SECOND, *(world.sent(number) for number in (3, 4)))
    world.told([(SECOND, ARCHIVED), (SECOND, GONE)], event="evt_2")
    assert world.states[3:] == [("discarded", "")] * 2


def test_a_reason_that_nobody_knows_discards_nothing(world: World) -> None:
    """It may be that Stripe had the event before, and counts it."""
    world.carried(FIRST, world.sent(0), world.sent(1))

    world.told([(FIRST, "duplicate_meter_event")] * 2)

    assert world.states == [("doubted", "duplicate_meter_event")] * 2


@pytest.mark.parametrize(
    "other", [{"state": SendState.INTENT, "sent_at": 0}, {"is_repeated": True}], ids=["open", "repeated"]
)
def test_what_another_request_may_have_carried_is_doubted_not_discarded(
    world: World, other: dict[str, Any]
) -> None:
    """The answer to the refused one was lost, and the event went again: that one may count."""
    world.carried(FIRST, world.sent(0, **other), world.sent(1))

    taken = world.told([(FIRST, ARCHIVED)] * 2)

    assert world.states == [("doubted", ARCHIVED), ("discarded", ARCHIVED)]
    assert (len(taken.discarded), taken.is_doubted) == (1, True)
    assert world.head(0).doubtful == frozenset({DAY_OF})


@pytest.mark.parametrize("state", [SendState.REJECTED, SendState.DISCARDED, SendState.DOUBTED])
def test_what_is_known_better_stays(world: World, state: SendState) -> None:
    world.carried(FIRST, world.sent(0, state=state, code="known"), world.sent(1))

    world.told([(FIRST, GONE)])

    assert world.states == [(state.value, "known"), ("doubted", GONE)]


def test_a_report_of_more_than_it_names_doubts_its_window_too(world: World) -> None:
    world.carried(FIRST, world.sent(0), world.sent(1))

    taken = world.told([(FIRST, GONE)], counted=2)

    assert taken.is_doubted
    assert world.states == [("doubted", GONE)] * 2
    assert world.windows == ["self#test#mtr_1"]


def test_a_request_that_the_ledger_forgot_doubts_the_window(world: World) -> None:
    world.sent(0)

    taken = world.told([(FIRST, GONE)])

    assert (taken.outcome[0], taken.is_doubted) == (Status.DOUBTED, True)
    assert world.windows == ["self#test#mtr_1"]


def test_sends_that_are_in_no_entry_any_more_are_left_alone(world: World) -> None:
    world.carried(FIRST, send(f"cus_9.{NOON}.0.{'0' * 16}"), send("not one of ours"))
    before = dict(world.table.items)

    assert world.told([(FIRST, GONE)]).outcome[0] == "not_ours"

    del before[(carried_pk("self", "test", FIRST), CARRIED)]
    assert all(world.table.items[key] == item for key, item in before.items())


def test_a_report_that_comes_twice_doubts_nothing_anew(world: World) -> None:
    world.carried(FIRST, world.sent(0), world.sent(1))
    world.told([(FIRST, GONE)])
    for item in [item for item in world.table.items.values() if "sends" in item]:
        entry = Entry.from_item(item)
        settled = [replace(one, state=SendState.SENT, code="") for one in entry.sends.values()]
        world.table.put(entry.with_sends(settled).to_item(NOON), entry.version)

    assert world.told([(FIRST, GONE)]).outcome[0] == Status.DOUBTED
    assert world.states == [("sent", "")] * 2

    assert world.told([(FIRST, GONE)], event="evt_2").outcome[0] == Status.DOUBTED
    assert world.states == [("doubted", GONE)] * 2, "another report is about another refusal"


def test_after_a_crash_between_entry_and_head_the_head_is_written(world: World) -> None:
    """An entry of long ago is read only because the head says so."""
    world.carried(FIRST, world.sent(0), world.sent(1))

    def crash(item: Item) -> None:
        if item["sk"] == "head":
            raise LostRaceError("somebody else wrote it")

    world.table.before = crash
    with pytest.raises(LostRaceError):
        world.told([(FIRST, GONE)])
    assert world.head(0).doubtful == frozenset()
    world.table.before = lambda item: None

    world.told([(FIRST, GONE)])

    assert [world.head(number).doubtful for number in range(2)] == [frozenset({DAY_OF})] * 2


def test_an_outcome_that_is_written_meanwhile_is_seen(world: World) -> None:
    world.carried(FIRST, world.sent(0, state=SendState.INTENT, sent_at=0))
    key: Key = (customer_meter(customer="cus_0").pk, DAY_OF)
    left = [1]

    def first(item: Item) -> None:
        if item["sk"] == DAY_OF and left:
            left.clear()
            entry = world.entry(*key)
            sent = [replace(one, state=SendState.SENT) for one in entry.sends.values()]
            MemoryTable.put(world.table, entry.with_sends(sent).to_item(NOON), entry.version)

    world.table.before = first
    world.told([(FIRST, ARCHIVED)])

    assert world.states == [("discarded", ARCHIVED)], "it was in this request alone"


def test_without_a_head_the_entry_is_doubted_all_the_same(world: World) -> None:
    one = world.sent(0)
    world.carried(FIRST, one, world.sent(1))
    del world.table.items[(customer_meter(customer="cus_0").pk, "head")]

    world.told([(FIRST, GONE)])

    assert world.states == [("doubted", GONE)] * 2
    assert (customer_meter(customer="cus_0").pk, "head") not in world.table.items


def test_a_day_long_ago_is_kept_in_mind_beside_others(world: World) -> None:
    world.carried(FIRST, world.sent(0), world.sent(1))
    pk = customer_meter(customer="cus_0").pk
    head = replace(world.head(0), doubtful=frozenset({"2026-06-30"}))
    world.table.put(head.to_item(NOON), head.version)
    world.clock.now += 20 * DAY

    world.told([(FIRST, GONE)])

    assert world.head(0).doubtful == frozenset({"2026-06-30", DAY_OF})
    assert world.entry(pk).doubted != []
