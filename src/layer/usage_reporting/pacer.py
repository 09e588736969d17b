"""Paces the calls to Stripe below its limits, and slows down where Stripe says that they are too many.

Calls are spaced evenly, because what bunches up on the way is counted together when it arrives. A lane is
what Stripe counts calls for: the whole account, one endpoint, or meter events ("Rate limits"). In each lane
callers queue up in order; only the first one looks at the clock, so that a slow-down counts for all who wait.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

SLACK_S = 0.05
"""Calls that begin within one second and so much more may arrive within one second."""
CATCH_UP_S = 0.02
"""A timer that fires late costs nothing up to here; part of the slack."""
LEAST_FULL = 1.0
"""Calls per second that a lane has with the smallest of shares: with less a page would never be done."""

CUT = 0.75
"""What is left of a lane's rate, or of its calls at once, when Stripe turned one away."""
PLATEAU = 0.95
"""The part of the rate at which Stripe turned one away that is held for a while before more is tried."""
LEAST = 0.04
"""The part of the full rate that no slow-down goes below."""
CLIMB = 1e-4
"""How steeply a rate grows away from its plateau, per second cubed: from nothing it is full after 27 s."""
DRAIN_S = 0.5
"""No call begins for so long after a slow-down: Stripe still counts the ones before."""
ONE_MORE_AT_ONCE_S = 4.0
"""One more call at once is tried after each so many seconds."""

_ID = re.compile(r"/[^/]*[A-Z0-9][^/]*")
_TEST_KEYS = ("sk_test_", "rk_test_")
_METER_EVENTS = "/v1/billing/meter_events"
_STREAM = "/v2/billing/meter_event_stream"


@dataclass(frozen=True, slots=True)
class Limits:
    """Calls per second ("Rate limits"; "Record usage for billing"). `own`: paths counted by themselves."""

    account: float
    endpoint: float
    own: dict[str, float] = field(default_factory=dict)
    wide: frozenset[str] = frozenset()
    """Paths that may have all calls of the account."""


LIVE = Limits(account=100, endpoint=25, own={_METER_EVENTS: 1_000, _STREAM: 10_000})
TEST = Limits(account=25, endpoint=25)
LIVE_CONNECTED = Limits(account=100, endpoint=25, wide=frozenset({_METER_EVENTS}))
"""With `Stripe-Account` meter events have no limit of their own ("Record usage for billing with the API")."""


@dataclass(slots=True)
class _Lane:
    """What Stripe counts calls for; `full` calls per second are ours when nothing is slowed down.

    A rate that was cut grows like TCP's (RFC 9438, "CUBIC"): at first fast, slowly near the rate that was too
    much, then ever faster. It depends on the time since then alone.
    """

    full: float
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    head: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the first of those who wait."""
    in_flight: int = 0
    _next: float = float("-inf")
    """When the next call is due if none is late."""
    _slowed_at: float = float("-inf")
    _cut: float = 1.0
    _plateau: float = 1.0
    _crowded_at: float = float("-inf")
    _most: float = float("inf")
    _freed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def rate(self) -> float:
        """Calls per second that may begin now."""
        flat_after = math.cbrt(max(self._plateau - self._cut, 0.0) / CLIMB)
        beyond = self.monotonic() - self._slowed_at - flat_after
        grown = self._plateau + CLIMB * beyond**3
        return self.full * min(1.0, max(self._cut, grown))

    async def opening(self) -> None:
        """Wait until a call may begin; for the holder of `head` alone."""
        while True:
            wait = self._next - CATCH_UP_S - self.monotonic()
            if wait > 0:
                await self.sleep(wait)
            elif self.in_flight >= self._most_at_once():
                self._freed.clear()
                await self._freed.wait()
            else:
                return

    def begin(self) -> None:
        """A call begins."""
        self._next = max(self._next, self.monotonic()) + 1 / self.rate
        self.in_flight += 1

    def end(self) -> None:
        """A call is over."""
        self.in_flight -= 1
        self._freed.set()

    def slow_down(self, began: float) -> None:
        """Stripe turned away a call that began then, for the rate of calls."""
        if began <= self._slowed_at:
            return  # it was under way already
        now, reached = self.monotonic(), self.rate / self.full
        self._plateau, self._cut = PLATEAU * reached, max(CUT * reached, LEAST)
        self._slowed_at = now
        self._next = max(self._next, now + DRAIN_S)

    def thin_out(self, began: float) -> None:
        """Stripe turned away a call that began then, for the number of calls at once."""
        if began > self._crowded_at:
            self._most = max(1.0, CUT * min(self.in_flight, self._most_at_once()))
            self._crowded_at = self.monotonic()

    def _most_at_once(self) -> float:
        if self._most == float("inf"):
            return self._most
        return self._most + (self.monotonic() - self._crowded_at) // ONE_MORE_AT_ONCE_S


def paced(limit: float, share: float = 1.0) -> float:
    """Calls a second that begin where so many may arrive, by a process with such a share of them."""
    return (limit - 1) / (1 + SLACK_S) * share


@dataclass(slots=True)
class Turn:
    """One call's turn: from its beginning until `end`."""

    began: float
    lanes: Sequence[_Lane]
    """The endpoint's and the account's, or the one of a path with a limit of its own."""

    def turned_away(self, reason: str) -> bool:
        """Slow down what Stripe names in `Stripe-Rate-Limited-Reason`; False if the pace is not at fault."""
        scope, _, kind = reason.partition("-")
        lane = {"endpoint": self.lanes[0], "global": self.lanes[-1]}.get(scope)
        if lane is None or kind not in {"rate", "concurrency"}:
            return False
        if kind == "rate":
            lane.slow_down(self.began)
        else:
            lane.thin_out(self.began)
        return True

    def end(self) -> None:
        """The call is over, however it ended."""
        for lane in self.lanes:
            lane.end()


class Pacer:
    """One account's pace in one process, which takes shares of Stripe's limits: others run beside it.

    `share`: of the calls of the whole account; `endpoint_share`: of those of one endpoint. Who lists is alone
    with the lists, and who sends with the meter events, so that theirs may be larger.

    Whether calls for connected accounts count for each of them or for the platform Stripe does not say. A
    process works for one account at a time, so that the sum over all processes stays below either.
    """

    def __init__(
        self,
        share: float = 1.0,
        endpoint_share: float = 1.0,
        *,
        live: Limits = LIVE,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._live = live
        self._share = share
        self._endpoint_share = endpoint_share
        self._monotonic = monotonic
        self._sleep = sleep
        self._lanes: dict[tuple[bool, str], _Lane] = {}

    async def turn(self, key: str, method: str, path: str) -> Turn:
        """Wait until a call with this key may begin; the caller says when it is over."""
        lanes = self._lanes_of(key.startswith(_TEST_KEYS), method, path)
        async with AsyncExitStack() as heads:
            for lane in lanes:
                await heads.enter_async_context(lane.head)
                await lane.opening()
            for lane in lanes:
                lane.begin()
            return Turn(self._monotonic(), lanes)

    def _lanes_of(self, is_test: bool, method: str, path: str) -> list[_Lane]:
        limits = TEST if is_test else self._live
        if path in limits.own:
            return [self._lane(is_test, path, limits.own[path])]
        # Ids hold capitals or digits; names of resources do not, but for the version in front.
        endpoint = f"{method} {path[:3]}{_ID.sub('/*', path[3:])}"
        return [
            self._lane(is_test, endpoint, limits.account if path in limits.wide else limits.endpoint),
            self._lane(is_test, "", limits.account),
        ]

    def _lane(self, is_test: bool, name: str, limit: float) -> _Lane:
        lane = self._lanes.get((is_test, name))
        if lane is None:
            share = self._endpoint_share if name else self._share
            full = max(paced(limit, share), LEAST_FULL)
            lane = self._lanes[(is_test, name)] = _Lane(full, self._monotonic, self._sleep)
        return lane
