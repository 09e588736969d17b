"""The pace of calls, against a server that counts them in every window of one second, in virtual time."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.simulator.machine import VirtualClock, VirtualLoop
from usage_reporting.pacer import DRAIN_S, LEAST_FULL, Pacer, paced

LIVE, TEST = "sk_live_1", "rk_test_1"
EVENTS = "/v1/billing/meter_events"
STREAM = "/v2/billing/meter_event_stream"
Path = Callable[[int], str]


@dataclass
class Server:
    """Refuses what is too much in the second before, or at once; it takes 60 ms for a call."""

    clock: VirtualClock
    limit: float
    at_once: int = 1_000_000
    down: range = range(0)
    taken: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    most: int = 0
    _window: deque[float] = field(default_factory=deque)
    _in_flight: int = 0

    async def call(self) -> str:
        """The reason for a refusal, or nothing."""
        now = self.clock.exact
        while self._window and self._window[0] <= now - 1:
            self._window.popleft()
        if int(now) in self.down or len(self._window) >= self.limit:
            self.refused.append(now)
            return "global-rate"
        if self._in_flight >= self.at_once:
            self.refused.append(now)
            return "global-concurrency"
        self.taken.append(now)
        self._window.append(now)
        self.most = max(self.most, len(self._window))
        self._in_flight += 1
        await asyncio.sleep(0.06)
        self._in_flight -= 1
        return ""

    def per_second(self, start: float, end: float) -> float:
        return sum(start <= at < end for at in self.taken) / (end - start)


@dataclass
class World:
    """Processes that call one server as fast as they may."""

    clock: VirtualClock
    loop: VirtualLoop
    random: random.Random = field(default_factory=lambda: random.Random(7))

    def pacer(self, share: float = 1.0) -> Pacer:
        return Pacer(share, monotonic=lambda: self.clock.exact)

    def run(self, *work: Coroutine[Any, Any, Any]) -> None:
        async def all_of_it() -> None:
            await asyncio.gather(*work)

        self.loop.run_until_complete(all_of_it())

    def rush(self, server: Server, pacers: list[Pacer], key: str, path: Path, seconds: float) -> None:
        """48 callers of each pacer, one call after the other, until that time."""

        async def caller(pacer: Pacer, number: int) -> None:
            while self.clock.exact < seconds:
                turn = await pacer.turn(key, "get", path(number))
                await asyncio.sleep(self.random.uniform(0.02, 0.06))
                reason = await server.call()
                await asyncio.sleep(0.02)
                turn.turned_away(reason)
                turn.end()

        self.run(*(caller(pacer, number) for pacer in pacers for number in range(48)))


@pytest.fixture
def world() -> Iterator[World]:
    clock = VirtualClock(0.0)
    loop = VirtualLoop(clock)
    yield World(clock, loop)
    loop.close()


def same(path: str) -> Path:
    return lambda _: path


def many(number: int) -> str:
    return "/v1/" + "abcdefgh"[number % 8]


# The steady pace


@pytest.mark.parametrize(
    ("key", "path", "limit"),
    [
        (LIVE, same("/v1/invoices"), 25),
        (LIVE, many, 100),
        (LIVE, same(EVENTS), 1_000),
        (TEST, same(EVENTS), 25),
        (TEST, same(STREAM), 25),
        (TEST, many, 25),
    ],
    ids=["endpoint", "account", "meter events", "test meter events", "test stream", "test"],
)
def test_a_steady_run_sees_no_refusal_and_uses_most_of_the_limit(
    world: World, key: str, path: Path, limit: float
) -> None:
    server = Server(world.clock, limit)
    # 48 callers, each of which takes 120 ms for a call, make 400 calls a second.
    world.rush(server, [world.pacer()], key, path, 10)

    assert server.refused == []
    assert server.per_second(2, 10) > min(limit * 0.88, 380)


def test_processes_with_shares_stay_below_the_limit_together(world: World) -> None:
    server = Server(world.clock, 100)
    world.rush(server, [world.pacer(share) for share in (0.3, 0.3, 0.25, 0.15)], LIVE, many, 15)

    assert server.refused == []
    assert server.per_second(2, 15) > 88


def test_the_stream_of_live_mode_is_hardly_held_back(world: World) -> None:
    server = Server(world.clock, 10_000)
    world.rush(server, [world.pacer()], LIVE, same(STREAM), 3)

    assert server.per_second(1, 3) > 350


def begun(world: World, pacer: Pacer, calls: list[tuple[str, str, str]]) -> list[float]:
    """When each of these calls began, all asked for at once."""
    times: list[float] = []

    async def one(key: str, method: str, path: str) -> None:
        turn = await pacer.turn(key, method, path)
        times.append(world.clock.exact)
        turn.end()

    start = world.clock.exact
    world.run(*(one(*call) for call in calls))
    return [at - start for at in times]


def test_ids_make_no_endpoint_of_their_own(world: World) -> None:
    of_ids = [(LIVE, "get", f"/v1/billing/meters/mtr_{n}aB/event_summaries") for n in range(40)]
    assert begun(world, world.pacer(), of_ids)[-1] > 1.6

    of_kinds = [(LIVE, "get", f"/v1/{'x' * n}s") for n in range(20)]
    of_kinds += [(LIVE, "post", f"/v1/{'x' * n}s") for n in range(20)]
    assert begun(world, world.pacer(), of_kinds)[-1] < 0.5


def test_what_waits_for_its_endpoint_holds_nobody_else_up(world: World) -> None:
    pacer = world.pacer()
    slow = [(LIVE, "get", "/v1/invoices")] * 50

    times = begun(world, pacer, [*slow, (LIVE, "get", "/v1/customers/cus_1")])
    assert sum(at < 0.025 for at in times) == 3, "two of the fifty, and the other one"
    assert max(times) > 2


def test_another_key_has_its_own_limits(world: World) -> None:
    pacer = world.pacer()

    live = begun(world, pacer, [(LIVE, "post", EVENTS)] * 100)[-1]
    test = begun(world, pacer, [(TEST, "post", EVENTS)] * 100)[-1]
    again = begun(world, pacer, [("rk_live_rolled", "post", EVENTS)] * 100)[-1]

    assert live == pytest.approx(0.09, abs=0.02)
    assert again == pytest.approx(live, abs=1e-6)
    assert test == pytest.approx(99 / paced(25), abs=0.1)


def test_a_tiny_share_does_not_starve(world: World) -> None:
    times = begun(world, world.pacer(0.001), [(TEST, "get", "/v1/invoices")] * 4)

    assert times[-1] == pytest.approx(3 / LEAST_FULL, abs=0.1)


def test_ten_thousand_wait_in_order(world: World) -> None:
    pacer, order = world.pacer(), []

    async def one(number: int) -> None:
        turn = await pacer.turn(LIVE, "post", EVENTS)
        order.append(number)
        turn.end()

    world.run(*(one(number) for number in range(10_000)))

    assert order == list(range(10_000))
    assert world.clock.exact == pytest.approx(10_000 / paced(1_000), rel=0.01)


def test_a_late_timer_costs_nothing(world: World) -> None:
    async def late(seconds: float) -> None:
        await asyncio.sleep(seconds + 0.005)

    pacer = Pacer(monotonic=lambda: world.clock.exact, sleep=late)

    assert begun(world, pacer, [(LIVE, "post", EVENTS)] * 930)[-1] == pytest.approx(
        930 / paced(1_000), abs=0.05
    )


# Slowing down


def test_a_storm_of_refusals_is_recovered_from(world: World) -> None:
    server = Server(world.clock, 25, down=range(10, 20))
    world.rush(server, [world.pacer()], TEST, same("/v1/invoices"), 60)

    assert len(server.refused) < 30
    assert server.per_second(48, 60) > 0.98 * server.per_second(0, 10)
    assert server.per_second(46, 50) > 0.9 * server.per_second(0, 10)


@pytest.mark.parametrize("limit", [8, 15, 20])
def test_a_lower_limit_than_expected_is_found(world: World, limit: int) -> None:
    server = Server(world.clock, limit)
    world.rush(server, [world.pacer()], TEST, same("/v1/invoices"), 120)

    assert server.per_second(30, 120) > 0.85 * limit
    assert sum(at >= 30 for at in server.refused) < 0.015 * limit * 90


async def turned_away(pacer: Pacer, path: str, reason: str, times: int = 1) -> bool:
    """So many calls at once that are all refused."""
    turns = [await pacer.turn(LIVE, "get", path) for _ in range(times)]
    slowed = [turn.turned_away(reason) for turn in turns]
    for turn in turns:
        turn.end()
    return slowed[0]


def speed(world: World, pacer: Pacer, path: str) -> float:
    """Calls that begin in the second after the next one."""

    async def wait() -> None:
        await asyncio.sleep(DRAIN_S)

    world.run(wait())
    return sum(1 < at <= 2 for at in begun(world, pacer, [(LIVE, "get", path)] * 90))


def test_refusals_of_what_was_under_way_count_once(world: World) -> None:
    pacer = world.pacer()
    world.run(turned_away(pacer, "/v1/invoices", "endpoint-rate", times=10))

    assert speed(world, pacer, "/v1/invoices") == pytest.approx(0.75 * paced(25), abs=2)


def test_an_endpoint_that_is_slowed_down_leaves_the_others_as_they_were(world: World) -> None:
    pacer = world.pacer()
    world.run(turned_away(pacer, "/v1/invoices", "endpoint-rate"))

    assert speed(world, pacer, "/v1/customers") >= 22


def test_an_account_that_is_slowed_down_slows_all_but_meter_events(world: World) -> None:
    pacer = world.pacer()
    for _ in range(8):
        world.run(turned_away(pacer, "/v1/invoices", "global-rate"))

    assert speed(world, pacer, "/v1/customers") < 16
    assert speed(world, pacer, EVENTS) == 0, "all 90 began at once"


@pytest.mark.parametrize("reason", ["", "resource-specific", "endpoint-other", "rate"])
def test_what_is_not_the_paces_fault_changes_nothing(world: World, reason: str) -> None:
    pacer = world.pacer()

    async def refused() -> None:
        assert not await turned_away(pacer, "/v1/invoices", reason)

    world.run(refused())
    assert speed(world, pacer, "/v1/invoices") >= 22


def test_no_call_begins_until_those_before_are_forgotten(world: World) -> None:
    pacer = world.pacer()
    world.run(turned_away(pacer, "/v1/invoices", "endpoint-rate"))

    assert begun(world, pacer, [(LIVE, "get", "/v1/invoices")])[0] == pytest.approx(DRAIN_S, abs=0.03)


# Calls at once


def test_calls_at_once_are_limited_when_stripe_says_so(world: World) -> None:
    server = Server(world.clock, 1_000, at_once=12)
    world.rush(server, [world.pacer()], LIVE, same(EVENTS), 60)

    assert sum(at > 5 for at in server.refused) < 0.02 * len(server.taken)
    # 12 at once at 60 ms are 200 a second, less the way there and back, on which ours count too.
    assert server.per_second(10, 60) > 75


def test_more_calls_at_once_are_tried_as_time_goes_by(world: World) -> None:
    pacer = world.pacer()
    at_once: list[int] = []
    in_flight = 0

    async def one(seconds: float) -> None:
        nonlocal in_flight
        turn = await pacer.turn(LIVE, "post", EVENTS)
        in_flight += 1
        at_once.append(in_flight)
        await asyncio.sleep(seconds)
        in_flight -= 1
        turn.end()

    world.run(turned_away(pacer, EVENTS, "endpoint-concurrency", times=4))
    world.run(*(one(1.0) for _ in range(9)))
    assert max(at_once) == 3

    world.clock.advance(12)
    at_once.clear()
    world.run(*(one(1.0) for _ in range(30)))
    assert 6 <= max(at_once) <= 8


# Who goes away


@pytest.mark.parametrize("waits_for", ["a slot", "the rate", "the first in the queue"])
def test_who_gives_up_leaves_no_gap(world: World, waits_for: str) -> None:
    pacer = world.pacer()
    path = EVENTS if waits_for == "a slot" else "/v1/invoices"

    async def story() -> None:
        first = await pacer.turn(LIVE, "get", path)
        if waits_for == "a slot":
            first.turned_away("global-concurrency")
        else:
            first.turned_away("endpoint-rate")
        queue = [asyncio.ensure_future(pacer.turn(LIVE, "get", path)) for _ in range(3)]
        await asyncio.sleep(0.01)
        gone = queue.pop(1 if waits_for == "the first in the queue" else 0)
        gone.cancel()
        await asyncio.wait([gone])
        first.end()
        for waiting in queue:
            (await waiting).end()

    world.run(story())

    assert world.clock.exact < DRAIN_S + 0.2
    lanes = pacer._lanes.values()
    assert [lane.in_flight for lane in lanes] == [0] * len(lanes)
    assert not any(lane.head.locked() for lane in lanes)


def test_a_slow_down_counts_for_those_who_wait_already(world: World) -> None:
    pacer, times = world.pacer(), []

    async def one() -> None:
        turn = await pacer.turn(LIVE, "get", "/v1/invoices")
        times.append(world.clock.exact)
        turn.end()

    async def refusal() -> None:
        turn = await pacer.turn(LIVE, "get", "/v1/invoices")
        turn.end()
        await asyncio.sleep(0.5)
        turn.turned_away("endpoint-rate")

    world.run(refusal(), *(one() for _ in range(40)))

    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) == pytest.approx(DRAIN_S, abs=0.06)
    assert gaps[-1] == pytest.approx(1 / (0.75 * paced(25)), rel=0.1)


def test_an_endpoint_has_a_share_of_its_own(world: World) -> None:
    server = Server(world.clock, 25)
    lister = Pacer(0.25, 0.85, monotonic=lambda: world.clock.exact)

    world.rush(server, [lister], LIVE, same("/v1/subscriptions"), 20)

    assert server.per_second(5, 20) == pytest.approx(0.85 * paced(25), rel=0.03)
    assert server.refused == []
