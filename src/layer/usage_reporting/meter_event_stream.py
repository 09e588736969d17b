"""Stripe's stream of meter events: up to 100 of them in one request, each with its own outcome.

Stripe checks a streamed event only after it took the request ("Meter event stream"), and then names no more
than the request in which it came. So the ledger keeps, before a request goes out, which sends it carries.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from usage_reporting.amounts import to_wire
from usage_reporting.errors import (
    LostRaceError,
    RejectedError,
    SessionExpiredError,
    StripeUnavailableError,
    UsageReportingError,
)
from usage_reporting.ledger import Ledger
from usage_reporting.model import CustomerMeter, Send
from usage_reporting.once_soon import OnceSoon
from usage_reporting.side_by_side import all_ended
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import BOUNDS_KEPT, MINUTE, rfc3339

SESSION = "/v2/billing/meter_event_session"
STREAM = "/v2/billing/meter_event_stream"

MOST_EVENTS = 100
"""In one request ("Create billing meter event stream")."""
RENEWED_BEFORE = MINUTE
"""So long before its end, 15 minutes after its creation, a session is not used any more."""
LINGER_S = 1.0
"""So long an event waits at most for others that are to come with it."""

CARRIED = "carried"
"""The sort key of the ledger's item that says what a request carried."""

_REQUEST = re.compile(r"stream\.[0-9a-f]{32}")

Json = dict[str, Any]


def is_streamed(request: str) -> bool:
    """Whether an idempotency key is that of a request to the stream."""
    return _REQUEST.fullmatch(request) is not None


def carried_pk(account: str, mode: str, request: str) -> str:
    """The partition key under which the ledger keeps what a request carried."""
    return f"{account}#{mode}#{request}"


@dataclass(eq=False, slots=True)
class _Event:
    """An event that waits for its request; `turn` yields the batch to whoever is to send it."""

    owner: CustomerMeter
    send: Send
    body: Json
    turn: asyncio.Future[Sequence[_Event]]
    error: UsageReportingError | None = field(
        default_factory=lambda: StripeUnavailableError("the request with the meter event was given up")
    )


@dataclass(slots=True)
class MeterEventStream:
    """Gathers the events of customer meters that are settled side by side, and sends them together.

    A request goes out when it is full, or when everybody who may still send something waits for it.
    """

    api: StripeApi
    ledger: Ledger
    clock: Callable[[], int]
    _members: set[str] = field(default_factory=set)
    _waiting: list[_Event] = field(default_factory=list)
    _token: str = field(default="", repr=False)
    _token_ends: float = 0.0
    _opened_with: str = field(default="", repr=False)
    """The API key of the session: another one may be another account's."""
    _renewing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _late: asyncio.TimerHandle | None = None
    _ask_to_look: OnceSoon = field(init=False)

    def __post_init__(self) -> None:
        """Wire what looks whether it is time."""
        self._ask_to_look = OnceSoon(self._look)

    def join(self, pks: Iterable[str]) -> None:
        """Wait for these customer meters before a request goes out that is not full."""
        self._members.update(pks)

    def leave(self, pk: str) -> None:
        """Do not wait for a customer meter any more."""
        self._members.discard(pk)
        self._look_soon()

    async def send(self, owner: CustomerMeter, send: Send) -> None:
        """Send one event with others; Stripe's answer is to the request, and comes before any check.

        Raises RejectedError for an event that Stripe does not take, and AskAgainError.
        """
        body = {**meter_event(owner, send), "timestamp": rfc3339(send.stamp)}
        event = _Event(owner, send, body, asyncio.get_running_loop().create_future())
        self._waiting.append(event)
        self._look_soon()
        try:
            batch = await event.turn
        except asyncio.CancelledError:
            if event.turn.done() and not event.turn.cancelled():
                _go_on(event.turn.result())
            raise
        if batch:
            await self._send_for_all(batch)
        if event.error is not None:
            raise event.error

    def _look_soon(self) -> None:
        """Not at once: what is ready to join the same request comes first."""
        if self._waiting:
            self._ask_to_look()

    def _look(self, *, is_late: bool = False) -> None:
        """Let one of those who wait send for all, if it is time."""
        self._waiting = [event for event in self._waiting if not event.turn.done()]
        while self._waiting and (is_late or self._is_time):
            batch, self._waiting = self._waiting[:MOST_EVENTS], self._waiting[MOST_EVENTS:]
            batch[0].turn.set_result(batch)
        if self._late is not None and not self._waiting:
            self._late.cancel()
            self._late = None
        if self._waiting and self._late is None:
            loop = asyncio.get_running_loop()
            self._late = loop.call_later(LINGER_S, self._look_late)

    def _look_late(self) -> None:
        self._late = None
        self._look(is_late=True)

    @property
    def _is_time(self) -> bool:
        if len(self._waiting) >= MOST_EVENTS:
            return True
        if len(self._waiting) < len(self._members):
            return False
        return self._members <= {event.owner.pk for event in self._waiting}

    async def _send_for_all(self, batch: Sequence[_Event]) -> None:
        try:
            await self._deliver(batch)
        finally:
            _go_on(batch)

    async def _deliver(self, batch: Sequence[_Event]) -> None:
        """Send a batch; what Stripe does not take as a whole is sent by halves, down to the culprit."""
        error: UsageReportingError | None = None
        try:
            await self._request(batch)
        except RejectedError as refused:
            if len(batch) > 1:
                half = len(batch) // 2
                await all_ended([self._deliver(batch[:half]), self._deliver(batch[half:])])
                return
            error = refused
        except UsageReportingError as failed:
            error = failed
        for event in batch:
            event.error = error

    async def _request(self, batch: Sequence[_Event]) -> None:
        key = _key_of(batch)
        await self._write_down(key, batch)
        events = [event.body for event in batch]
        try:
            await self._stream(events, key)
        except SessionExpiredError:
            await self._stream(events, key)

    async def _stream(self, events: Sequence[Json], key: str) -> None:
        token = await self._session()
        try:
            await self.api.call("post", STREAM, {"events": events}, idempotency_key=key, session=token)
        except SessionExpiredError:
            if self._token == token:  # not yet another one's
                self._token = ""
            raise

    async def _session(self) -> str:
        """The token of a session, which holds for 15 minutes and for many requests."""
        async with self._renewing:
            is_over = self.clock() >= self._token_ends - RENEWED_BEFORE
            if not self._token or is_over or self._opened_with != self.api.key:
                await self._open_session()
            return self._token

    async def _open_session(self) -> None:
        try:
            found = await self.api.call("post", SESSION, {})
            ends = datetime.fromisoformat(found["expires_at"]).timestamp()
            self._token, self._token_ends = str(found["authentication_token"]), ends
        except RejectedError as error:
            # That is not about any event of the request.
            raise StripeUnavailableError(
                f"Stripe opens no session for streaming meter events; without STRIPE_METER_STREAM they go "
                f"one by one: {error.reason}",
                turned_away=True,
            ) from error
        except (KeyError, TypeError, ValueError) as error:
            raise StripeUnavailableError(
                f"Stripe answered the request for a meter event session with odd data: {error!r}",
                turned_away=True,
            ) from error
        self._opened_with = self.api.key

    async def _write_down(self, key: str, batch: Sequence[_Event]) -> None:
        """Keep in the ledger what a request carries: a report of refusals names nothing but the request."""
        owner = batch[0].owner
        item = {
            "pk": carried_pk(owner.account, owner.mode, key),
            "sk": CARRIED,
            "identifiers": [event.send.identifier for event in batch],
            "version": 1,
            "expires_at": self.clock() + BOUNDS_KEPT,
        }
        try:
            await self.ledger.write_item(item, 0)
        except LostRaceError:
            return  # the very same request, once more


def meter_event(owner: CustomerMeter, send: Send) -> Json:
    """A meter event as Stripe takes it by itself; in the stream its time is written out."""
    meter = owner.meter
    assert meter is not None
    return {
        "event_name": meter.event_name,
        "identifier": send.identifier,
        "payload": {meter.customer_key: owner.customer, meter.value_key: to_wire(send.value)},
        "timestamp": send.stamp,
    }


def _go_on(batch: Sequence[_Event]) -> None:
    """Let those go on whose events one of them has sent, or gave up."""
    for event in batch:
        if not event.turn.done():
            event.turn.set_result(())


def _key_of(batch: Sequence[_Event]) -> str:
    """The request's idempotency key: the same for the same attempts of the same sends alone."""
    attempts = "\n".join(event.send.key for event in batch)
    return "stream." + hashlib.sha256(attempts.encode()).hexdigest()[:32]
