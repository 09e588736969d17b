"""Heads: what must be looked at by a person before anything is sent, and what a price swap leaves behind."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, cast

import pytest

from tests.layer.builders import (
    METER,
    MONTH_END,
    MONTH_START,
    NOON,
    Clock,
    D,
    MemoryTable,
    customer_meter,
    legacy,
    span,
)
from usage_reporting.billing import Billing
from usage_reporting.errors import HeldError, LostRaceError, StripeUnavailableError
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import CustomerMeter, Span, SpanState
from usage_reporting.swaps import Swap
from usage_reporting.windows import DAY, HOUR

LATER = NOON + HOUR

ADOPT = "`usage-reporter adopt --stack NAME --customer cus_1`"


@dataclass
class FakeBilling:
    """Knows what Stripe holds, and when a price was put on."""

    held: Decimal = Decimal(0)
    changed_at: int | None = None
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    changes: list[Swap] | None = field(default_factory=list)
    """None: the key may not read events."""

    @property
    def price_changes(self) -> FakeBilling:
        return self

    async def usage_held(self, customer: str, meter: str, start: int, end: int) -> Decimal:
        self.asked.append((customer, meter, start, end))
        return self.held

    async def swaps(self, since: int, seen_at: int) -> list[Swap]:
        self.asked.append(("swaps", since, seen_at))
        if self.changes is None:
            raise StripeUnavailableError("events cannot be read")
        return self.changes

    async def left_at(self, one: Span, since: int, now: int) -> int:
        self.asked.append((one.item, one.price, since, now))
        return now if self.changed_at is None else self.changed_at


@dataclass
class World:
    billing: FakeBilling = field(default_factory=FakeBilling)
    table: MemoryTable = field(default_factory=MemoryTable)
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.table)
        self.heads = Heads(cast("Billing", self.billing), self.ledger, self.clock)

    @property
    def stored(self) -> Head | None:
        found = self.table.get([(customer_meter().pk, "head")])
        return Head.from_item(found[0]) if found else None

    def check(self, one: CustomerMeter, options: Options | None = None) -> Head:
        stored = asyncio.run(self.ledger.heads([one.pk])).get(one.pk)
        return asyncio.run(self.heads.checked(one, stored, options or Options()))


def seen(*spans: Span, at: int = LATER, **other: Any) -> CustomerMeter:
    return customer_meter(*spans, seen_at=at, **other)


@pytest.fixture
def world() -> World:
    """A ledger that knows the customer meter since noon; it is one o'clock now."""
    made = World()
    made.check(customer_meter())
    made.billing.asked.clear()
    made.clock.now = LATER
    return made


# First sight


@pytest.mark.parametrize("held", ["0", "0.0000000001", "-0"])
def test_a_customer_meter_that_stripe_holds_nothing_of_is_begun(held: str) -> None:
    world = World(FakeBilling(D(held)))

    head = world.check(customer_meter())

    assert world.stored == head
    assert (head.version, head.subject, head.openmeter_meter, head.table) == (1, "cus_1", "m1", "1")
    assert head.spans == (span(),)
    assert head.bounds == {MONTH_START, MONTH_END}
    assert (head.seen_at, head.full_read_at, head.known_from) == (NOON, 0, 0)
    assert world.billing.asked[0] == ("cus_1", METER.id, NOON - 35 * DAY, NOON)


@pytest.mark.parametrize("held", ["1", "0.001", "-1"])
@pytest.mark.parametrize("accept", [True, False])
def test_a_customer_meter_that_stripe_holds_usage_of_is_held(held: str, accept: bool) -> None:
    world = World(FakeBilling(D(held)))

    with pytest.raises(HeldError, match=rf"Stripe already holds .* run {ADOPT}"):
        world.check(customer_meter(), Options(accept=accept))
    assert world.stored is None


def test_a_legacy_price_is_begun_without_asking() -> None:
    world = World(FakeBilling(D(5)))

    head = world.check(legacy())

    assert (head.version, head.known_from) == (1, NOON)
    assert world.billing.asked == []


def test_a_dry_run_writes_no_head(world: World) -> None:
    assert world.check(seen(span(end=NOON + 5)), Options(dry_run=True)).spans[0].end == NOON + 5
    assert world.stored is not None
    assert world.stored.version == 1

    fresh = World()
    assert fresh.check(customer_meter(), Options(dry_run=True)).version == 0
    assert fresh.stored is None


# Looks that follow


def test_nothing_new_is_not_written(world: World) -> None:
    assert world.check(seen()).version == 1


def test_new_bounds_are_written_before_they_are_used(world: World) -> None:
    head = world.check(seen(bounds=frozenset({NOON + 7})))

    assert head == world.stored
    assert head.version == 2
    assert head.bounds == {MONTH_START, MONTH_END, NOON + 7}
    assert head.seen_at == LATER


def test_another_writer_wins(world: World) -> None:
    stored = world.stored
    world.check(seen(bounds=frozenset({NOON + 7})))

    with pytest.raises(LostRaceError):
        asyncio.run(world.heads.checked(seen(bounds=frozenset({NOON + 8})), stored, Options()))


def test_a_full_read_is_remembered(world: World) -> None:
    assert world.stored is not None
    asyncio.run(world.heads.was_read(world.stored, LATER, is_full=True))

    assert (world.stored.full_read_at, world.stored.read_at) == (LATER, LATER)


def test_reading_the_last_hours_is_no_full_read(world: World) -> None:
    assert world.stored is not None
    before = world.stored.full_read_at
    asyncio.run(world.heads.was_read(world.stored, LATER, is_full=False))

    assert (world.stored.full_read_at, world.stored.read_at) == (before, LATER)


@pytest.mark.parametrize("options", [Options(), Options(accept=True), Options(dry_run=True)])
def test_a_restored_table_is_held(world: World, options: Options) -> None:
    world.table.made_at = "2"
    restored = World(world.billing, world.table, world.clock)

    with pytest.raises(HeldError, match=rf"another table.*run {ADOPT}"):
        restored.check(seen(), options)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [("subject", "acme", "the subject"), ("openmeter_meter", "m2", "the OpenMeter meter")],
)
def test_another_subject_or_meter_is_held_until_it_is_released(
    world: World, name: str, value: str, what: str
) -> None:
    before = getattr(world.stored, name)
    change: dict[str, Any] = {name: value}

    with pytest.raises(HeldError) as held:
        world.check(seen(**change))
    assert held.value.reason.startswith(f"{what} is now {value!r}")
    assert repr(before) in held.value.reason
    assert "`usage-reporter report --stack NAME --customer cus_1 --accept`" in held.value.reason
    assert getattr(world.stored, name) == before

    world.check(seen(**change), Options(accept=True))
    assert getattr(world.stored, name) == value
    world.check(seen(**change))


def test_what_only_the_ledger_knows_stays(world: World) -> None:
    head = world.check(seen(subject="", openmeter_meter=""))

    assert (head.subject, head.openmeter_meter) == ("cus_1", "m1")


# A price swapped, an item removed

SWAPPED = span(price="price_2")


def test_a_swapped_price_is_closed_where_stripe_says(world: World) -> None:
    world.billing.changed_at = NOON + 100

    head = world.check(seen(SWAPPED))

    assert head.spans == (
        span(end=NOON + 100, state=SpanState.BILLED),
        span(NOON + 100, price="price_2"),
    )
    assert world.billing.asked == [("si_1", "price_1", MONTH_START, LATER)]
    assert world.stored == head


def test_a_swap_that_no_event_shows_is_closed_now(world: World) -> None:
    assert world.check(seen(SWAPPED)).spans == (
        span(end=LATER, state=SpanState.BILLED),
        span(LATER, price="price_2"),
    )


def test_a_removed_item_is_closed(world: World) -> None:
    world.billing.changed_at = NOON + 100
    other = span(item="si_2", price="price_2")

    assert world.check(seen(other)).spans == (span(end=NOON + 100, state=SpanState.BILLED), other)


def test_a_swap_before_the_span_closes_it_empty(world: World) -> None:
    world.billing.changed_at = MONTH_START - 5

    closed = world.check(seen(SWAPPED)).spans[0]

    assert (closed.start, closed.end, closed.state) == (MONTH_START, MONTH_START, SpanState.BILLED)


def test_a_closed_span_stays_closed(world: World) -> None:
    world.billing.changed_at = NOON + 100
    world.check(seen(SWAPPED))
    world.billing.asked.clear()
    world.clock.now += HOUR

    head = world.check(seen(SWAPPED, at=LATER + HOUR))

    assert head.spans[0] == span(end=NOON + 100, state=SpanState.BILLED)
    assert len(head.spans) == 2
    assert world.billing.asked == []


@pytest.mark.parametrize(
    "shown",
    [
        (span(),),
        (span(end=NOON + 5),),
        (span(), span(item="si_2", price="price_2")),
        (span(subscription="sub_2", item="si_2"),),
        (span(MONTH_END, MONTH_END + 31 * DAY, price="price_2"),),
    ],
    ids=["same", "to be canceled", "item added", "another subscription", "swapped at the renewal"],
)
def test_other_changes_close_nothing(world: World, shown: tuple[Span, ...]) -> None:
    head = world.check(seen(*shown))

    asked = [one for one in world.billing.asked if one[0] != "swaps"]
    assert asked == [], "nothing is closed; whether a price was swapped unseen is another question"
    assert SpanState.BILLED not in {one.state for one in head.spans}


def test_an_ended_span_needs_no_closing(world: World) -> None:
    world.clock.now = MONTH_END

    world.check(seen(span(MONTH_END, MONTH_END + DAY, item="si_2"), at=MONTH_END))

    assert world.billing.asked == []


def ended(*spans: Span) -> CustomerMeter:
    return seen(*spans, at=MONTH_END + 9, closing=True, partial=True)


def test_a_price_that_was_swapped_just_before_its_period_ended_is_closed(world: World) -> None:
    world.clock.now = MONTH_END + 9
    world.billing.changed_at = MONTH_END - 40

    head = world.check(ended(span(price="price_2", state=SpanState.ENDED)))

    assert head.spans == (
        span(end=MONTH_END - 40, state=SpanState.BILLED),
        span(MONTH_END - 40, price="price_2"),
    )


@pytest.mark.parametrize("changed_at", [MONTH_END, None])
def test_a_price_that_no_event_takes_off_in_its_period_is_not_closed(
    world: World, changed_at: int | None
) -> None:
    world.clock.now = MONTH_END + 9
    world.billing.changed_at = changed_at

    head = world.check(ended(span(price="price_2", state=SpanState.ENDED)))

    assert head.spans[0] == span()


@pytest.mark.parametrize(
    "shown",
    [
        span(state=SpanState.ENDED),
        span(item="si_2", price="price_2", state=SpanState.ENDED),
        span(NOON, price="price_2", state=SpanState.ENDED),
        span(end=MONTH_END + 1, price="price_2", state=SpanState.ENDED),
    ],
    ids=["same price", "another item", "another start", "another end"],
)
def test_other_ended_periods_close_nothing(world: World, shown: Span) -> None:
    world.clock.now = MONTH_END + 9

    head = world.check(ended(shown))

    assert head.spans[0].state is SpanState.CURRENT
    assert world.billing.asked == []


def test_ended_periods_say_nothing_of_a_period_that_goes_on(world: World) -> None:
    world.clock.now = MONTH_END - 1

    assert world.check(ended(span(price="price_2", state=SpanState.ENDED))).spans[0] == span()
    assert world.billing.asked == []


def test_a_page_of_drafts_says_nothing_of_prices(world: World) -> None:
    draft = span(MONTH_START - 31 * DAY, MONTH_START, item="si_0", state=SpanState.DRAFT)

    world.check(seen(draft, closing=True))

    assert world.billing.asked == []


def test_a_message_older_than_the_head_closes_nothing(world: World) -> None:
    world.check(seen(SWAPPED))
    world.billing.asked.clear()

    world.check(seen(span(), at=LATER - 60))

    assert world.billing.asked == []


def test_a_message_older_than_the_swap_opens_no_closed_price(world: World) -> None:
    world.billing.changed_at = NOON + 100
    swapped = world.check(seen(SWAPPED))
    waited = seen(span(), at=NOON + 50)

    head = world.check(waited)

    assert head.spans == swapped.spans
    world.clock.now += HOUR
    assert world.check(seen(SWAPPED, at=LATER + HOUR)).spans == swapped.spans


def test_a_message_older_than_the_removal_opens_no_removed_item(world: World) -> None:
    world.billing.changed_at = NOON + 100
    other = span(item="si_2", price="price_2")
    removed = world.check(seen(other))

    head = world.check(seen(span(), other, at=NOON + 50))

    assert head.spans == removed.spans


def test_a_stale_message_still_brings_a_new_subscription(world: World) -> None:
    world.check(seen(bounds=frozenset({NOON + 7})))
    other = span(subscription="sub_2", item="si_2")

    assert other in world.check(seen(other, at=NOON + 50)).spans


def test_a_stale_message_does_not_set_back_the_time_of_the_look(world: World) -> None:
    world.check(seen(bounds=frozenset({NOON + 7})))

    assert world.check(seen(bounds=frozenset({NOON + 8}), at=NOON + 50)).seen_at == LATER


def test_a_price_put_back_is_billed_again_from_then_on(world: World) -> None:
    world.billing.changed_at = NOON + 100
    world.check(seen(SWAPPED))
    world.clock.now += HOUR
    world.billing.changed_at = LATER + 100

    head = world.check(seen(span(), at=LATER + HOUR))

    assert head.spans == (
        span(end=NOON + 100, state=SpanState.BILLED),
        span(NOON + 100, LATER + 100, price="price_2", state=SpanState.BILLED),
        span(LATER + 100),
    )


def test_a_third_price_is_billed_from_the_second_swap_on(world: World) -> None:
    world.billing.changed_at = NOON + 100
    world.check(seen(SWAPPED))
    world.clock.now += HOUR
    world.billing.changed_at = LATER + 100

    head = world.check(seen(span(price="price_3"), at=LATER + HOUR))

    assert head.spans[-1] == span(LATER + 100, price="price_3")


def test_a_price_that_was_swapped_before_anything_was_reported_keeps_its_part() -> None:
    world = World()
    running = span(NOON - HOUR, NOON + DAY)
    swap = Swap(NOON, running.subscription, running.item, "price_old", running.price)
    world.billing.changes = [swap]

    head = world.check(seen(running))

    assert [(one.start, one.end, one.price, one.state) for one in head.spans] == [
        (NOON - HOUR, NOON, "price_old", SpanState.BILLED),
        (NOON, NOON + DAY, running.price, SpanState.CURRENT),
    ]


def test_a_key_that_may_not_read_events_stops_nobody_at_first_sight() -> None:
    world = World()
    world.billing.changes = None
    running = span(NOON - HOUR, NOON + DAY)

    assert [one.start for one in world.check(seen(running)).spans] == [NOON - HOUR]
