"""The page queue: messages, cursors, and pages of at most 100 customer meters of one OpenMeter meter."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.layer.builders import NOON, SETTINGS, Clock, customer_meter, span
from usage_reporting.billing import Billing, Finalized, Listing
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.endings import Endings
from usage_reporting.errors import AskAgainError, BadRequestError, StripeUnavailableError
from usage_reporting.model import CustomerMeter, SpanState, Target
from usage_reporting.pages import (
    Cursor,
    Lister,
    Part,
    Scope,
    SqsQueue,
    cursor_message,
    page_message,
    read_message,
    scope_of,
)
from usage_reporting.windows import HOUR, MINUTE


def numbered(first: int, count: int, meter: str = "m1") -> list[CustomerMeter]:
    return [
        replace(customer_meter(), customer=f"cus_{number}", openmeter_meter=meter)
        for number in range(first, first + count)
    ]


def test_a_page_comes_back_as_it_was_sent() -> None:
    page = numbered(0, 3)

    assert read_message(json.dumps(page_message(page))) == page


@pytest.mark.parametrize("cursor", [Cursor(Scope.ALL), Cursor(Scope.CLOSING, Part.DRAFTS, "in_9")])
def test_a_cursor_comes_back_as_it_was_sent(cursor: Cursor) -> None:
    assert read_message(json.dumps(cursor_message(cursor))) == cursor


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "5",
        "null",
        "[]",
        '"scope"',
        "{}",
        '{"scope": "some"}',
        '{"scope": "all", "part": "x", "after": ""}',
        '{"scope": "all"}',
        '{"customer_meters": 5}',
        '{"customer_meters": [5]}',
        '{"customer_meters": [{}]}',
        "[" * 200_000,
        json.dumps({"customer_meters": [{**customer_meter().to_json(), "seen_at": float("inf")}]}),
        json.dumps({"customer_meters": [{**customer_meter().to_json(), "spans": [[]]}]}),
    ],
)
def test_what_we_did_not_write_is_a_bad_request(body: str) -> None:
    with pytest.raises(BadRequestError, match="not a page of customer meters"):
        read_message(body)


@pytest.mark.parametrize(
    ("event", "scope"), [({"scope": "closing"}, Scope.CLOSING), ({"scope": "all", "x": 1}, Scope.ALL)]
)
def test_the_scope_of_a_scheduled_event(event: object, scope: Scope) -> None:
    assert scope_of(event) is scope


@pytest.mark.parametrize(
    "event", [{}, {"scope": "ALL"}, {"scope": ["all"]}, {"scope": None}, None, "all", []]
)
def test_another_event_has_no_scope(event: object) -> None:
    with pytest.raises(BadRequestError, match="it must be 'closing' or 'all'"):
        scope_of(event)


@dataclass
class MemoryQueue:
    messages: list[dict[str, Any]] = field(default_factory=list)
    delays: list[int] = field(default_factory=list)

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
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


def listed(billing: ListedBilling, cursor: Cursor, budget: Budget, queue: MemoryQueue) -> tuple[int, Any]:
    endings = cast("Endings", ListedEndings(billing.asked))
    lister = Lister(cast("Billing", billing), endings, queue, Clock())
    return asyncio.run(lister.queue_pages(cursor, budget))


def test_pages_are_full_and_of_one_openmeter_meter() -> None:
    queue = MemoryQueue()
    billing = ListedBilling([numbered(0, 70) + numbered(70, 5, "m2"), numbered(80, 170)], [numbered(300, 2)])

    assert listed(billing, Cursor(Scope.ALL), Budget(), queue) == (247, None)

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

    assert listed(billing, Cursor(Scope.CLOSING), Budget(), queue) == (0, None)

    found = [cast("Finalized", read_message(json.dumps(message))) for message in queue.messages]
    assert [len(one.invoices) for one in found] == [20, 20, 5, 1]
    assert [invoice for one in found for invoice in one.invoices] == [f"in_{n}" for n in range(46)]
    assert {one.mode for one in found} == {"test"}


def test_final_invoices_go_on_by_their_cursor() -> None:
    billing, queue = ListedBilling(final=[["in_0"], ["in_1"]]), MemoryQueue()
    _, rest = listed(billing, Cursor(Scope.CLOSING), Steps(0).budget, queue)
    assert rest == Cursor(Scope.CLOSING, Part.FINALIZED, "e0")
    billing.asked.clear()

    assert listed(billing, rest, Budget(), queue) == (0, None)

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
    monkeypatch.setattr("usage_reporting.pages.logger.warning", lambda text, *_: said.append(text))
    billing, queue = ListedBilling([numbered(0, 2)], refuses="the Stripe key may not do this"), MemoryQueue()
    endings = cast("Endings", ListedEndings(billing.asked))
    lister = Lister(cast("Billing", billing), endings, queue, Clock())
    for _ in range(3):
        assert asyncio.run(lister.queue_pages(Cursor(Scope.CLOSING), Budget())) == (2, None)

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

    assert listed(billing, Cursor(Scope.ALL, Part.DRAFTS, "d0"), Budget(), queue) == (5, None)
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
        if rest is None:
            break
        cursor = cast("Cursor", read_message(json.dumps(cursor_message(rest))))
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

    assert listed(billing, Cursor(Scope.CLOSING), Budget(), queue) == (1, None)

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


def test_sqs_takes_compact_json() -> None:
    sent: list[dict[str, Any]] = []

    class Client:
        def send_message(self, **message: Any) -> None:
            sent.append(message)

    SqsQueue("https://sqs.test/pages", Client()).send({"a": [1, 2]}, 240)

    assert sent == [{"QueueUrl": "https://sqs.test/pages", "MessageBody": '{"a":[1,2]}', "DelaySeconds": 240}]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SendMessage"),
        EndpointConnectionError(endpoint_url="https://sqs.test"),
    ],
)
def test_a_queue_that_takes_nothing_is_a_reason_to_ask_again(error: Exception) -> None:
    class Client:
        def send_message(self, **message: str) -> None:
            raise error

    with pytest.raises(AskAgainError, match="the page queue takes no message"):
        SqsQueue("https://sqs.test/pages", Client()).send({})


def test_a_page_of_the_largest_messages_fits_into_sqs() -> None:
    page = [replace(one, refusal="r" * 300, spans=one.spans * 4) for one in numbered(0, 100)]

    assert len(json.dumps(page_message(page), separators=(",", ":"))) < 1024 * 1024
