"""A tick over many subscriptions: several ranges at once, one message for each that is left, flat memory."""

from __future__ import annotations

import asyncio
import gc
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from tests.layer.builders import NOON, SETTINGS, Clock, MemoryTable, customer_meter, span
from tests.layer.test_creation_ranges import Listed, ListedPage, exponential
from tests.layer.test_lister import ListedBilling, ListedEndings, MemoryQueue, Steps
from usage_reporting import telemetry, temporary_rows
from usage_reporting.billing import Billing
from usage_reporting.budget import Budget
from usage_reporting.creation_ranges import CreationRange
from usage_reporting.endings import Endings
from usage_reporting.errors import StripeUnavailableError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.lister import Lister
from usage_reporting.model import CustomerMeter, Target
from usage_reporting.pages import Cursor, Part, Scope, cursor_message, read_message
from usage_reporting.unmapped import Unmapped
from usage_reporting.windows import DAY

CHAINS = 3
NOBODY = customer_meter()


@dataclass
class RangedBilling(ListedBilling):
    """As many subscriptions as there are instants; `shown`: what each is shown as."""

    listed: Listed = field(default_factory=lambda: Listed(exponential()))
    shown: Callable[[CustomerMeter], CustomerMeter | None] = lambda one: one

    def __post_init__(self) -> None:
        self.settings = replace(SETTINGS, listing_concurrency=CHAINS)

    async def subscription_page(self, filters: Mapping[str, Any], cursor: str = "") -> ListedPage:
        bounds = filters.get("created", {})
        wanted = CreationRange(bounds.get("gte", 0), bounds.get("lt", 0), cursor)
        listing = await self.listed.ask(wanted)
        found = [shown for one in listing.customer_meters if (shown := self.shown(one))]
        return replace(listing, customer_meters=found)


def lister_of(
    billing: ListedBilling, queue: MemoryQueue, ledger: Ledger | None = None, whole_pages: int = 20
) -> Lister:
    endings = cast("Endings", ListedEndings(billing.asked))
    known = ledger or Ledger(MemoryTable())
    return Lister(cast("Billing", billing), endings, known, queue, Clock(), whole_pages)


def customers(queue: MemoryQueue) -> Counter[str]:
    return Counter(one.customer for page in queue.pages for one in page)


def all_of(billing: RangedBilling) -> Counter[str]:
    return Counter(str(number) for number in range(len(billing.listed.created)))


def test_each_of_5000_subscriptions_is_queued_once() -> None:
    billing, queue = RangedBilling(listed=Listed(exponential(), delay=lambda: 20)), MemoryQueue()

    found = asyncio.run(lister_of(billing, queue).queue_pages(Cursor(Scope.ALL), Budget()))

    assert found == (5_000, [])
    assert customers(queue) == all_of(billing)
    assert billing.listed.at_once == CHAINS
    assert [part for part, *_ in billing.asked] == ["drafts", "endings"]


@pytest.mark.parametrize("seed", range(5))
def test_each_range_that_is_left_is_a_message_and_every_part_is_done_once(seed: int) -> None:
    """As ticks do: what is left is on the queue, a message each, and a worker goes on with it."""
    chance = random.Random(seed)
    drafted = replace(NOBODY, customer="drafted")
    billing, queue = RangedBilling(draft_pages=[[drafted]]), MemoryQueue()
    lister = lister_of(billing, queue, whole_pages=3)
    waiting, total, most = [Cursor(Scope.ALL)], 0, 0
    while waiting:
        cursor = waiting.pop(chance.randrange(len(waiting)))
        looks = chance.randrange(2, 9)
        queued, rest = asyncio.run(lister.queue_pages(cursor, Steps(looks).budget))
        total += queued
        waiting += [cast("Cursor", read_message(json.dumps(cursor_message(one)))) for one in rest]
        most = max(most, len(waiting))
        if cursor != Cursor(Scope.ALL):
            assert len([one for one in rest if one.part is cursor.part]) <= 1

    assert total == 5_001
    assert customers(queue) == all_of(billing) + Counter(["drafted"])
    assert most <= CHAINS + 1
    assert Counter(part for part, *_ in billing.asked) == {"drafts": 1, "endings": 1}


def test_what_a_tick_leaves_in_ranges_has_one_cursor_for_the_next_part() -> None:
    billing = RangedBilling()
    lister = lister_of(billing, MemoryQueue(), whole_pages=3)

    _, rest = asyncio.run(lister.queue_pages(Cursor(Scope.ALL), Steps(9).budget))

    *ranges, drafts = rest
    assert drafts == Cursor(Scope.ALL, Part.DRAFTS)
    assert 2 <= len(ranges) <= CHAINS
    assert all(one.part is Part.SUBSCRIPTIONS and not one.range.is_whole for one in ranges)


def test_before_it_is_parted_a_listing_has_one_cursor_as_ever() -> None:
    billing = RangedBilling()

    _, rest = asyncio.run(lister_of(billing, MemoryQueue()).queue_pages(Cursor(Scope.ALL), Steps(1).budget))

    assert rest == [Cursor(Scope.ALL, Part.SUBSCRIPTIONS, "199")]


def test_a_worker_goes_on_with_one_chain() -> None:
    for cursor in (Cursor(Scope.ALL, after="99"), Cursor(Scope.ALL, since=5), Cursor(Scope.ALL, until=NOON)):
        billing = RangedBilling()
        lister = lister_of(billing, MemoryQueue(), whole_pages=1)
        asyncio.run(lister.queue_pages(cursor, Budget()))

        assert billing.listed.at_once == 1
        assert len(billing.asked) == (2 if cursor.range.is_whole else 0)


def test_a_listing_that_fails_leaves_queued_what_was_queued_and_nothing_running() -> None:
    billing, queue = RangedBilling(listed=Listed(exponential(), fails_at=40)), MemoryQueue()

    async def run() -> None:
        with pytest.raises(StripeUnavailableError):
            await lister_of(billing, queue).queue_pages(Cursor(Scope.ALL), Budget())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    assert billing.listed.under_way == 0
    assert sum(customers(queue).values()) >= 3_000


# Memory


@dataclass
class Counting(MemoryQueue):
    """Counts the customer meters that are alive while a message is sent."""

    most: int = 0

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        super().send(message, delay)
        if len(self.messages) % 12 == 0:
            alive = sum(type(one) is CustomerMeter for one in gc.get_objects())
            self.most = max(self.most, alive)


@pytest.mark.parametrize("target", [Target.MIRROR, Target.LAST])
def test_memory_does_not_grow_with_the_subscriptions(target: Target) -> None:
    most = {}
    gc.collect()
    before = sum(type(one) is CustomerMeter for one in gc.get_objects())
    for count in (1_500, 5_000):
        listed = Listed([NOON - 97 * number for number in range(count)])
        billing = RangedBilling(listed=listed, shown=lambda one: replace(one, target=target))
        queue = Counting()
        asyncio.run(lister_of(billing, queue, whole_pages=5).queue_pages(Cursor(Scope.ALL), Budget()))
        assert customers(queue) == all_of(billing)
        most[count] = queue.most - before

    # A page in each chain, those that fill one, those that are sent.
    assert max(most.values()) <= 100 * (CHAINS + 10)


def test_two_subscriptions_of_a_customer_years_apart_come_in_one_message() -> None:
    """Where the last value counts: whether spans overlap is known when all are listed."""

    def shown(one: CustomerMeter) -> CustomerMeter:
        number = int(one.customer)
        bills = span(NOON - DAY, NOON + number, item=f"si_{number}")
        return replace(one, customer=f"cus_{number % 2_500}", target=Target.LAST, spans=(bills,))

    billing, queue = RangedBilling(shown=shown), MemoryQueue()

    queued, _ = asyncio.run(lister_of(billing, queue).queue_pages(Cursor(Scope.ALL), Budget()))

    assert queued == 2_500
    assert [len(page) for page in queue.pages] == [100] * 25
    for one in (one for page in queue.pages for one in page):
        number = int(one.customer.removeprefix("cus_"))
        assert {each.item for each in one.spans} == {f"si_{number}", f"si_{number + 2_500}"}


def test_a_listing_ends_early_enough_to_send_what_waited_for_its_end() -> None:
    """1 s is left, and 1,000 are surely sent in that."""
    billing = RangedBilling(shown=lambda one: replace(one, target=Target.LAST))
    queue = MemoryQueue()

    queued, rest = asyncio.run(
        lister_of(billing, queue).queue_pages(Cursor(Scope.ALL), Budget(1.0, lambda: 0.0))
    )

    assert queued == 1_000
    assert rest


def test_a_listing_ends_when_there_is_no_room_for_more_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary_rows, "MOST_CHARACTERS", 100_000)
    billing = RangedBilling(shown=lambda one: replace(one, target=Target.LAST))
    queue = MemoryQueue()
    lister = lister_of(billing, queue, whole_pages=1)

    queued, rest = asyncio.run(lister.queue_pages(Cursor(Scope.ALL), Budget()))
    assert 0 < queued < 1_000
    while rest:
        rest += asyncio.run(lister.queue_pages(rest.pop(), Budget()))[1]

    assert customers(queue) == all_of(billing)


# What is left out


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()
    monkeypatch.setattr(telemetry, "count", lambda name, value=1: found.update({name: int(value)}))
    return found


def test_items_without_a_name_are_looked_up_while_it_goes_on(counted: Counter[str]) -> None:
    """Each customer has two subscriptions, thousands apart; the ledger knows two customers."""
    table, asked = MemoryTable(), list[int]()
    ledger = Ledger(table)
    for customer, items in (("1", ("si_1", "si_2501")), ("2", ("si_2", "si_2502", "si_named"))):
        running = tuple(span(NOON - DAY, NOON + DAY, item=item) for item in items)
        asyncio.run(ledger.write_head(Head(f"pk_{customer}", "s", "m1", "1", spans=running), NOON))

    def nameless(one: CustomerMeter) -> None:
        number = int(one.customer)
        item = f"si_{number}"
        billing.unmapped[item] = Unmapped(item, f"sub_{number}", f"pk_{number % 2_500}")
        asked.append(len(billing.unmapped))

    billing = RangedBilling(shown=nameless)
    asyncio.run(lister_of(billing, MemoryQueue(), ledger).queue_pages(Cursor(Scope.ALL), Budget()))

    assert max(asked) <= 1_000 + 100 * CHAINS
    assert counted == {"Unmapped": 5_000, "Held": 2}
    assert billing.unmapped == {}


def test_what_cannot_be_read_is_said_page_by_page(
    counted: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    def unreadable(one: CustomerMeter) -> None:
        billing.unreadable[one.customer] = "it has no period"
        assert len(billing.unreadable) <= 100 * (CHAINS + 1)

    billing = RangedBilling(shown=unreadable)
    asyncio.run(lister_of(billing, MemoryQueue()).queue_pages(Cursor(Scope.ALL), Budget()))

    assert counted == {"Refused": 5_000, "Unmapped": 0}
    assert "17: refused: it has no period" in caplog.text
    assert billing.unreadable == {}
