"""Streamed meter events: who shares a request, who sends it, and what becomes of each in it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from sandbox.simulator.machine import VirtualClock, VirtualLoop
from tests.layer.builders import NOON, MemoryTable, customer_meter, send
from usage_reporting.errors import (
    LedgerUnavailableError,
    RejectedError,
    SessionExpiredError,
    StripeUnavailableError,
    UsageReportingError,
)
from usage_reporting.ledger import Item, Key, Ledger
from usage_reporting.meter_event_stream import (
    CARRIED,
    LINGER_S,
    MOST_EVENTS,
    SESSION,
    STREAM,
    MeterEventStream,
    carried_pk,
    is_streamed,
)
from usage_reporting.model import CustomerMeter, Report, Send, StripeMeter
from usage_reporting.sender import Sender
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import HOUR, MINUTE, rfc3339

Json = dict[str, Any]


class Table(MemoryTable):
    """A table that can be out of reach."""

    is_down = False

    def put(self, item: Item, read_version: int) -> None:
        if self.is_down:
            raise LedgerUnavailableError("DynamoDB is away")
        super().put(item, read_version)


@dataclass
class FakeStripe:
    """The stream and its sessions; what was in the ledger when a request came is remembered with it."""

    clock: VirtualClock
    table: Table
    key: str = "sk_1"
    latency: float = 0.1
    sessions: list[float] = field(default_factory=list)
    """When each was opened."""
    requests: list[Json] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    answers: Callable[[Sequence[Json]], Exception | None] = lambda events: None
    on_session: Exception | Json | None = None

    async def call(
        self, method: str, path: str, params: Json, *, idempotency_key: str = "", session: str = ""
    ) -> Json:
        assert method == "post"
        if path == SESSION:
            return await self._opened()
        assert path == STREAM
        carried = self.table.items[(carried_pk("self", "test", idempotency_key), CARRIED)]
        assert carried["identifiers"] == [event["identifier"] for event in params["events"]]
        self.requests.append({"events": params["events"], "key": idempotency_key, "at": self.clock.exact})
        self.tokens.append(session)
        await asyncio.sleep(self.latency)
        answer = self.answers(params["events"])
        if answer is not None:
            raise answer
        return {}

    async def _opened(self) -> Json:
        await asyncio.sleep(self.latency)
        self.sessions.append(self.clock.exact)
        if isinstance(self.on_session, Exception):
            raise self.on_session
        token = {"authentication_token": f"token_{len(self.sessions)}"}
        return self.on_session or {**token, "expires_at": rfc3339(self.clock() + 15 * MINUTE)}

    @property
    def sizes(self) -> list[int]:
        return [len(request["events"]) for request in self.requests]

    @property
    def told(self) -> list[str]:
        """Identifiers, in order."""
        return [event["identifier"] for request in self.requests for event in request["events"]]


class World:
    """One process: a stream, and members of it that do what a test says; waiting takes virtual time."""

    def __init__(self) -> None:
        self.clock = VirtualClock(NOON)
        self.loop = VirtualLoop(self.clock)
        self.table = Table()
        self.stripe = FakeStripe(self.clock, self.table)
        self.sender = Sender(cast("StripeApi", self.stripe), Ledger(self.table), self.clock)
        self.stream: MeterEventStream = self.sender.stream
        self.errors: dict[str, UsageReportingError] = {}

    def run[T](self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def of(self, number: int, *, event_name: str = "tokens") -> CustomerMeter:
        meter = StripeMeter(f"mtr_{event_name}", event_name)
        return customer_meter(customer=f"cus_{number}", meter=meter)

    async def tell(self, number: int, hour: int = 0, **other: Any) -> None:
        """Send one event, and remember what was raised."""
        one = event_of(number, hour)
        try:
            await self.stream.send(self.of(number), replace(one, **other))
        except UsageReportingError as error:
            self.errors[one.identifier] = error

    def settle(self, *works: Callable[[], Coroutine[Any, Any, None]]) -> list[Report]:
        """A page: each customer meter does its work."""
        return self.run(self.settling(*works))

    async def settling(self, *works: Callable[[], Coroutine[Any, Any, None]]) -> list[Report]:
        reports = [Report(self.of(number)) for number in range(len(works))]
        by_pk = {report.customer_meter.pk: work for report, work in zip(reports, works, strict=True)}
        await self.sender.settle(reports, lambda report: by_pk[report.customer_meter.pk]())
        return reports

    def page(self, size: int) -> list[Report]:
        """A page of which each sends one event."""
        return self.settle(*(functools.partial(self.tell, number) for number in range(size)))


def event_of(number: int, hour: int = 0) -> Send:
    start = NOON + hour * HOUR
    return send(f"cus_{number}.{start}.0.{number:016x}", number + 1, start + HOUR - 1, slice_start=start)


async def nothing() -> None:
    """A member without anything to send."""


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    assert not asyncio.all_tasks(made.loop), "nothing goes on unseen"
    assert not made.stream._members
    made.loop.close()


# Who shares a request


def test_a_request_holds_what_each_event_says(world: World) -> None:
    world.page(2)

    [request] = world.stripe.requests
    assert is_streamed(request["key"])
    assert request["events"][1] == {
        "event_name": "tokens",
        "identifier": f"cus_1.{NOON}.0.0000000000000001",
        "payload": {"stripe_customer_id": "cus_1", "value": "2"},
        "timestamp": "2026-07-15T12:59:59Z",
    }
    carried = world.table.items[(f"self#test#{request['key']}", "carried")]
    assert carried["expires_at"] > world.clock()


@pytest.mark.parametrize(
    ("size", "sizes"), [(1, [1]), (99, [99]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])]
)
def test_a_page_goes_out_in_as_few_requests_as_may_be_at_once(
    world: World, size: int, sizes: list[int]
) -> None:
    assert MOST_EVENTS == 100
    world.page(size)

    assert world.stripe.sizes == sizes
    assert len(set(world.stripe.told)) == size
    assert world.errors == {}
    assert world.clock.exact < NOON + 1, "nobody waits for those who have nothing to send"


def test_it_waits_for_who_may_still_send_but_not_for_ever(world: World) -> None:
    async def slow(number: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await world.tell(number)

    world.settle(
        lambda: world.tell(0),
        lambda: slow(1, 0.5),
        lambda: slow(2, 30),
        nothing,
    )

    assert world.stripe.sizes == [2, 1]
    assert world.stripe.requests[0]["at"] == pytest.approx(NOON + LINGER_S + world.stripe.latency)


@pytest.mark.parametrize("trouble", [None, StripeUnavailableError("why"), KeyError("why")])
def test_who_sends_nothing_or_fails_holds_up_nobody(world: World, trouble: Exception | None) -> None:
    async def other() -> None:
        await asyncio.sleep(0.2)
        if trouble is not None:
            raise trouble

    world.settle(lambda: world.tell(0), other, lambda: world.tell(2))

    assert world.stripe.sizes == [2]
    assert world.stripe.requests[0]["at"] == pytest.approx(NOON + 0.2 + world.stripe.latency)


def test_several_events_of_one_customer_meter_share_a_request(world: World) -> None:
    async def both() -> None:
        await asyncio.gather(world.tell(0, 0), world.tell(0, 1))

    world.settle(both, lambda: world.tell(1))

    assert world.stripe.sizes == [3]


def test_one_after_the_other_takes_a_request_each(world: World) -> None:
    async def both() -> None:
        await world.tell(0, 0)
        await world.tell(0, 1)

    world.settle(both, lambda: world.tell(1))

    assert world.stripe.sizes == [2, 1]
    assert world.clock.exact < NOON + 1


def test_events_beside_any_page_go_at_once(world: World) -> None:
    async def together() -> None:
        await asyncio.gather(world.tell(0), world.tell(1))

    world.run(together())

    assert world.stripe.sizes == [2]
    assert world.clock.exact < NOON + 1


def test_a_customer_meter_of_two_pages_holds_up_neither(world: World) -> None:
    async def two_pages() -> None:
        await asyncio.gather(
            world.settling(lambda: world.tell(0, 0), lambda: world.tell(1, 0)),
            world.settling(lambda: world.tell(0, 1), nothing),
        )

    world.run(two_pages())

    assert sorted(world.stripe.told) == sorted(
        one.identifier for one in (event_of(0, 0), event_of(1, 0), event_of(0, 1))
    )
    assert world.clock.exact < NOON + 2 * LINGER_S


# What is refused, and what fails


def refusing(*numbers: int, error: Exception | None = None) -> Callable[[Sequence[Json]], Exception | None]:
    """Refuses requests with an event of one of these customers."""
    customers = {f"cus_{number}" for number in numbers}

    def answer(events: Sequence[Json]) -> Exception | None:
        if customers & {event["payload"]["stripe_customer_id"] for event in events}:
            return error or RejectedError("Stripe says: no")
        return None

    return answer


def test_a_refused_request_is_halved_down_to_the_culprit(world: World) -> None:
    world.stripe.answers = refusing(37)
    world.page(100)

    assert [*world.errors] == [event_of(37).identifier]
    assert isinstance(world.errors[event_of(37).identifier], RejectedError)
    taken = [
        event["identifier"]
        for request in world.stripe.requests
        if world.stripe.answers(request["events"]) is None
        for event in request["events"]
    ]
    assert sorted(taken) == sorted(event_of(number).identifier for number in range(100) if number != 37)
    assert len(world.stripe.requests) < 20


def test_a_page_that_is_refused_whole_takes_no_longer_than_the_way_down_to_one(world: World) -> None:
    world.stripe.answers = refusing(*range(100))
    world.page(100)

    assert len(world.errors) == 100
    assert world.clock.exact < NOON + 1, "halves are sent side by side"


def test_no_answer_is_told_to_all_of_the_request_and_to_nobody_else(world: World) -> None:
    world.stripe.answers = refusing(100, error=StripeUnavailableError("gave no answer"))
    world.page(101)

    assert [*world.errors] == [event_of(100).identifier]
    world.stripe.answers = refusing(0, error=StripeUnavailableError("gave no answer", answered=True))
    world.page(3)
    assert len(world.errors) == 4
    assert all(isinstance(error, StripeUnavailableError) for error in world.errors.values())


def test_what_cannot_be_written_down_is_not_sent(world: World) -> None:
    world.table.is_down = True
    world.page(3)

    assert world.stripe.requests == []
    assert {type(error) for error in world.errors.values()} == {LedgerUnavailableError}


def test_an_event_that_cannot_be_written_as_one_fails_alone(world: World) -> None:
    async def odd() -> None:
        await world.tell(1, stamp=10**15)

    reports = world.settle(lambda: world.tell(0), odd, lambda: world.tell(2))

    assert [report.reason for report in reports] == [
        "",
        "unexpected ValueError; see the function's log",
        "",
    ]
    assert world.stripe.sizes == [2]


def test_an_error_that_nobody_expected_ends_for_everybody(world: World) -> None:
    world.stripe.answers = refusing(0, error=KeyError("odd"))
    reports = world.page(3)

    assert [report.reason for report in reports] == [
        "unexpected KeyError; see the function's log",
        "",
        "",
    ]
    assert {one: error.reason for one, error in world.errors.items()} == {
        event_of(number).identifier: "the request with the meter event was given up" for number in (1, 2)
    }


def test_the_same_events_have_the_same_key_until_stripe_stored_an_answer(world: World) -> None:
    for attempt in (0, 0, 1):
        world.settle(functools.partial(world.tell, 0, attempt=attempt))

    first, again, other = (request["key"] for request in world.stripe.requests)
    assert first == again != other


# Who is stopped


def stopped(world: World, *works: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
    """A page that is stopped as a function does before its time is over."""

    async def page() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.settling(*works), seconds)

    world.run(page())


@pytest.mark.parametrize("seconds", [0.05, 0.15, 0.5, LINGER_S + 0.05])
def test_after_a_stopped_page_the_next_one_goes_on(world: World, seconds: float) -> None:
    world.stripe.latency = 0.2
    stopped(world, lambda: world.tell(0), lambda: asyncio.sleep(60), seconds=seconds)
    before = len(world.stripe.requests)

    world.page(3)

    assert world.stripe.sizes[before:] == [3]
    assert world.errors == {}


def test_when_the_one_who_sends_is_stopped_the_others_are_told(world: World) -> None:
    async def stops() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(world.tell(0), 0.05)

    world.settle(stops, lambda: world.tell(1))

    assert world.stripe.sizes == []
    error = world.errors[event_of(1).identifier]
    assert isinstance(error, StripeUnavailableError)
    assert not error.turned_away, "Stripe may have it"


def test_who_is_stopped_the_moment_it_is_to_send_passes_that_on(world: World) -> None:
    async def page() -> None:
        first = asyncio.ensure_future(world.tell(0))
        second = asyncio.ensure_future(world.tell(1))
        await asyncio.sleep(0)
        assert len(world.stream._waiting) == 2
        world.stream._look(is_late=True)
        first.cancel()
        await asyncio.wait([first, second])

    world.run(page())

    assert [*world.errors] == [event_of(1).identifier]
    assert world.stripe.requests == []


# Sessions


def test_a_session_serves_many_requests_until_a_minute_before_its_end(world: World) -> None:
    for seconds in (0, 13 * MINUTE, 14 * MINUTE, 20 * MINUTE):
        world.clock.reach(NOON + seconds)
        world.page(1)

    assert world.stripe.tokens == ["token_1", "token_1", "token_2", "token_2"]


def test_a_session_that_stripe_takes_no_more_is_renewed_once(world: World) -> None:
    world.page(1)
    over = SessionExpiredError("over", turned_away=True)
    world.stripe.answers = lambda events: over if world.stripe.tokens[-1] == "token_1" else None
    world.page(2)
    assert world.errors == {}
    assert world.stripe.tokens == ["token_1", "token_1", "token_2"]

    world.stripe.answers = lambda events: over
    world.page(1)
    assert isinstance(world.errors[event_of(0).identifier], SessionExpiredError)
    assert world.stripe.tokens[3:] == ["token_2", "token_3"]
    world.stripe.answers = lambda events: None
    world.page(1)
    assert world.stripe.tokens[5:] == ["token_4"]


def test_another_api_key_takes_another_session(world: World) -> None:
    """It may be that of another account, or of live mode."""
    world.page(1)
    world.stripe.key = "sk_2"
    world.page(1)

    assert world.stripe.tokens == ["token_1", "token_2"]


@pytest.mark.parametrize(
    "answer",
    [
        RejectedError("Stripe says: not available in test mode"),
        StripeUnavailableError("busy", turned_away=True),
        {"authentication_token": "t"},
        {"authentication_token": "t", "expires_at": "soon"},
        {"authentication_token": "t", "expires_at": 5},
    ],
)
def test_without_a_session_nothing_is_sent_and_no_event_is_to_blame(
    world: World, answer: Exception | Json
) -> None:
    world.stripe.on_session = answer
    world.page(20)

    assert world.stripe.requests == []
    assert len(world.stripe.sessions) == 1
    assert len(world.errors) == 20
    for error in world.errors.values():
        assert isinstance(error, StripeUnavailableError)
        assert error.turned_away


def test_ledger_items_are_found_by_account_mode_and_request() -> None:
    key: Key = (carried_pk("self", "live", "stream." + "0" * 32), CARRIED)
    assert key == ("self#live#stream.00000000000000000000000000000000", "carried")
    assert not is_streamed("cus_1.1.0.a")
    assert not is_streamed("stream." + "0" * 32 + ".0")
