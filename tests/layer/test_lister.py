"""What a tick lists: full pages of one OpenMeter meter on the queue, and all of it once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layer.builders import NOON, SETTINGS, Clock, MemoryTable, customer_meter, span
from tests.layer.test_creation_ranges import ListedPage
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.billing import Billing, Finalized, Listing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.endings import Endings
from usage_reporting.errors import StripeUnavailableError
from usage_reporting.ledger import Ledger
from usage_reporting.lister import Lister
from usage_reporting.model import CustomerMeter, SpanState, Target
from usage_reporting.pages import Cursor, Part, Scope, cursor_message, read_message
from usage_reporting.unmapped import Unmapped
from usage_reporting.windows import HOUR, MINUTE


def numbered(first: int, count: int, meter: str = "m1") -> list[CustomerMeter]:
    return [
        replace(customer_meter(), customer=f"cus_{number}", openmeter_meter=meter)
        for number in range(first, first + count)
    ]


@dataclass
class MemoryQueue:
    messages: list[dict[str, Any]] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)

    lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        with self.lock:
            self.messages.append(json.loads(json.dumps(message)))
            self.delays.append(delay)

    @property
    def pages(self) -> list[list[CustomerMeter]]:
        return [cast("list[CustomerMeter]", read_message(json.dumps(message))) for message in self.messages]


@dataclass
class ListedBilling:
    """Lists made-up pages; a cursor is the number of the last page."""

    subscription_pages: list[list[CustomerMeter]] = field(default_factory=list)
    draft_pages: list[list[CustomerMeter]] = field(default_factory=list)
    asked: list[tuple[str, Any, str]] = field(default_factory=list)
    final: list[list[str]] = field(default_factory=list)
    settings: Settings = SETTINGS
    refuses: str = ""
    unmapped: dict[str, Unmapped] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    account: str = OWN_ACCOUNT

    async def finalized(self, since: int, cursor: str = "") -> AsyncIterator[Finalized]:
        self.asked.append(("finalized", since, cursor))
        if self.refuses:
            raise StripeUnavailableError(self.refuses)
        first = int(cursor.removeprefix("e")) + 1 if cursor else 0
        for number, invoices in list(enumerate(self.final))[first:]:
            yield Finalized("test", invoices, f"e{number}")

    def subscriptions(self, filters: Mapping[str, Any], cursor: str = "") -> AsyncIterator[Listing]:
        self.asked.append(("subscriptions", dict(filters), cursor))
        return _listed(self.subscription_pages, "s", cursor)

    async def subscription_page(self, filters: Mapping[str, Any], cursor: str = "") -> ListedPage:
        self.asked.append(("subscriptions", dict(filters), cursor))
        number = int(cursor.removeprefix("s")) + 1 if cursor else 0
        if number >= len(self.subscription_pages):
            return ListedPage([], "")
        has_more = number + 1 < len(self.subscription_pages)
        return ListedPage(list(self.subscription_pages[number]), f"s{number}", NOON, has_more)

    async def read_page(self, page: ListedPage) -> Listing:
        return Listing(page.customer_meters, page.cursor)

    def drafts(self, cursor: str = "") -> AsyncIterator[Listing]:
        self.asked.append(("drafts", None, cursor))
        return _listed(self.draft_pages, "d", cursor)


@dataclass
class ListedEndings:
    """Nothing ended; remembers that it was asked."""

    asked: list[tuple[str, Any, str]]

    def listings(self, after: str = "") -> AsyncIterator[Listing]:
        self.asked.append(("endings", None, after))
        return _listed([], "e", after)


async def _listed(pages: list[list[CustomerMeter]], kind: str, cursor: str) -> AsyncIterator[Listing]:
    first = int(cursor.removeprefix(kind)) + 1 if cursor else 0
    for number, page in list(enumerate(pages))[first:]:
        yield Listing(list(page), f"{kind}{number}")
    if not pages:
        yield Listing([], "")


@dataclass
class Steps:
    """A clock that lets a number of looks pass before the time is up."""

    left: int

    def __call__(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 1.0

    @property
    def budget(self) -> Budget:
        return Budget(1.0, self)


def lister_of(billing: ListedBilling, queue: MemoryQueue) -> Lister:
    endings = cast("Endings", ListedEndings(billing.asked))
    return Lister(cast("Billing", billing), endings, Ledger(MemoryTable()), queue, Clock())


def listed(
    billing: ListedBilling, cursor: Cursor, budget: Budget, queue: MemoryQueue
) -> tuple[int, list[Cursor]]:
    return asyncio.run(lister_of(billing, queue).queue_pages(cursor, budget))


def test_pages_are_full_and_of_one_openmeter_meter() -> None:
    queue = MemoryQueue()
    billing = ListedBilling([numbered(0, 70) + numbered(70, 5, "m2"), numbered(80, 170)], [numbered(300, 2)])

    assert listed(billing, Cursor(Scope.ALL), Budget(), queue) == (247, [])

    sizes = Counter((page[0].openmeter_meter, len(page)) for page in queue.pages)
    assert sizes == {("m1", 100): 2, ("m1", 42): 1, ("m2", 5): 1}
    assert all(len({one.openmeter_meter for one in page}) == 1 for page in queue.pages)
    customers = [one.customer for page in queue.pages for one in page]
    assert len(set(customers)) == len(customers) == 247


def test_all_lists_every_live_subscription_the_drafts_and_what_ended() -> None:
    billing = ListedBilling()
    listed(billing, Cursor(Scope.ALL), Budget(), MemoryQueue())

    assert billing.asked == [("subscriptions", {}, ""), ("drafts", None, ""), ("endings", None, "")]


def test_closing_lists_what_ends_about_now_and_the_drafts() -> None:
    billing = ListedBilling()
    listed(billing, Cursor(Scope.CLOSING), Budget(), MemoryQueue())

    ends = {"gte": NOON - HOUR, "lte": NOON + 45 * MINUTE}
    assert billing.asked == [
        ("subscriptions", {"current_period_end": ends}, ""),
        ("drafts", None, ""),
        ("finalized", NOON - 3 * HOUR, ""),
    ]


def test_closing_queues_what_became_final_twenty_a_message() -> None:
    billing, queue = ListedBilling(final=[[f"in_{n}" for n in range(45)], ["in_45"]]), MemoryQueue()

    assert listed(billing, Cursor(Scope.CLOSING), Budget(), queue) == (0, [])

    found = [cast("Finalized", read_message(json.dumps(message))) for message in queue.messages]
    assert [len(one.invoices) for one in found] == [20, 20, 5, 1]
    assert [invoice for one in found for invoice in one.invoices] == [f"in_{n}" for n in range(46)]
    assert {one.mode for one in found} == {"test"}


def test_final_invoices_go_on_by_their_cursor() -> None:
    billing, queue = ListedBilling(final=[["in_0"], ["in_1"]]), MemoryQueue()
    _, rest = listed(billing, Cursor(Scope.CLOSING), Steps(0).budget, queue)
    assert rest == [Cursor(Scope.CLOSING, Part.FINALIZED, "e0")]
    billing.asked.clear()

    assert listed(billing, rest[0], Budget(), queue) == (0, [])

    assert billing.asked == [("finalized", NOON - 3 * HOUR, "e0")]
    assert [message["finalized"] for message in queue.messages] == [["in_0"], ["in_1"]]


def test_shadow_mode_looks_back_one_tick_alone() -> None:
    billing = ListedBilling(settings=replace(SETTINGS, mode=Mode.SHADOW))
    listed(billing, Cursor(Scope.CLOSING), Budget(), MemoryQueue())

    assert billing.asked[-1] == ("finalized", NOON - 20 * MINUTE, "")


def test_without_the_permission_for_events_the_tick_goes_on_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr("usage_reporting.lister.logger.warning", lambda text, *_: said.append(text))
    billing, queue = ListedBilling([numbered(0, 2)], refuses="the Stripe key may not do this"), MemoryQueue()
    lister = lister_of(billing, queue)
    for _ in range(3):
        assert asyncio.run(lister.queue_pages(Cursor(Scope.CLOSING), Budget())) == (2, [])

    assert len(said) == 1


def test_where_the_last_value_counts_all_of_a_customer_comes_in_one_message() -> None:
    """Whether a customer's spans overlap is known only when all subscriptions are listed."""
    several = [replace(one, target=Target.LAST) for one in numbered(0, 150)]
    again = replace(several[0], spans=(span(NOON, item="si_2"),))
    queue = MemoryQueue()

    listed(ListedBilling([several, [again, *numbered(0, 100)]]), Cursor(Scope.ALL), Budget(), queue)

    by_target = Counter(one.target for page in queue.pages for one in page)
    assert by_target == {Target.LAST: 150, Target.MIRROR: 100}
    assert all(len({one.target for one in page}) == 1 for page in queue.pages)
    [found] = [
        one for page in queue.pages for one in page if one.pk == again.pk and one.target is Target.LAST
    ]
    assert {one.item for one in found.spans} == {"si_1", "si_2"}


def test_a_cursor_in_the_drafts_lists_no_subscriptions_again() -> None:
    billing = ListedBilling([numbered(0, 5)], [numbered(10, 5), numbered(20, 5)])
    queue = MemoryQueue()

    assert listed(billing, Cursor(Scope.ALL, Part.DRAFTS, "d0"), Budget(), queue) == (5, [])
    assert billing.asked == [("drafts", None, "d0"), ("endings", None, "")]
    assert [one.customer for one in queue.pages[0]] == [f"cus_{number}" for number in range(20, 25)]


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 130), max_size=5),
    st.lists(st.integers(0, 130), max_size=4),
    st.integers(0, 3),
)
def test_however_often_the_time_runs_out_everything_is_queued_once(
    subscriptions: list[int], drafts: list[int], looks: int
) -> None:
    starts = iter(range(0, 10_000, 200))
    billing = ListedBilling(
        [numbered(next(starts), count, f"m{count % 2}") for count in subscriptions],
        [numbered(next(starts), count) for count in drafts],
    )
    queue, cursor, total = MemoryQueue(), Cursor(Scope.ALL), 0
    for _ in range(len(subscriptions) + len(drafts) + 1):
        queued, rest = listed(billing, cursor, Steps(looks).budget, queue)
        total += queued
        if not rest:
            break
        [cursor] = [cast("Cursor", read_message(json.dumps(cursor_message(one)))) for one in rest]
    else:
        pytest.fail("it never came to an end")

    queued_customers = sorted(one.customer for page in queue.pages for one in page)
    wanted = [one for page in billing.subscription_pages + billing.draft_pages for one in page]
    assert queued_customers == sorted(one.customer for one in wanted)
    assert total == len(wanted)


def due_in(seconds: int, customer: str = "cus_1") -> CustomerMeter:
    """A customer meter whose draft becomes final so many seconds after the tick at noon."""
    one = replace(customer_meter(), customer=customer)
    drafted = replace(one.spans[0], state=SpanState.DRAFT, deadline=NOON + seconds)
    return replace(one, spans=(drafted,))


@pytest.mark.parametrize(
    ("deadline", "delay"),
    [
        (9 * MINUTE, None),
        (10 * MINUTE + 59, None),
        (11 * MINUTE, 1 * MINUTE),
        (14 * MINUTE + 30, 4 * MINUTE),
        (18 * MINUTE - 1, 7 * MINUTE),
        (18 * MINUTE, None),
        (30 * MINUTE, None),
    ],
)
def test_what_is_final_before_the_next_tick_is_read_once_more_ten_minutes_before(
    deadline: int, delay: int | None
) -> None:
    billing, queue = ListedBilling(draft_pages=[[due_in(deadline)]]), MemoryQueue()

    assert listed(billing, Cursor(Scope.CLOSING), Budget(), queue) == (1, [])

    assert queue.delays == ([0] if delay is None else [0, delay])
    assert all(page == [due_in(deadline)] for page in queue.pages)


def test_those_with_one_last_look_at_the_same_minute_share_a_page() -> None:
    page = [due_in(12 * MINUTE, "a"), due_in(12 * MINUTE + 59, "b"), due_in(14 * MINUTE, "c"), due_in(0, "d")]
    billing, queue = ListedBilling(draft_pages=[page]), MemoryQueue()

    listed(billing, Cursor(Scope.CLOSING), Budget(), queue)

    later = {
        delay: {one.customer for one in page}
        for delay, page in zip(queue.delays, queue.pages, strict=True)
        if delay
    }
    assert later == {2 * MINUTE: {"a", "b"}, 4 * MINUTE: {"c"}}
