"""Deliveries of events: signed to webhook endpoints, or to a bus; retried, and disturbed on demand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush

from sandbox.stripe.account import Account
from sandbox.stripe.events import AnyEvent, Events, encode_event
from sandbox.stripe.objects import EventDestination, EventSource, WebhookEndpoint, WebhookSecret
from sandbox.stripe.signing import sign
from sandbox.stripe.thin_events import ThinEvent

Deliver = Callable[[str, Mapping[str, str], bytes], int]
"""Posts a body to a URL and answers the HTTP status; 0 when there was no answer."""
Endpoint = WebhookEndpoint | EventDestination
_DAY = 24 * 3600
_PENDING_S = 7 * _DAY


@dataclass
class Delivery:
    """An event on its way to one endpoint; `statuses`: what each try was answered."""

    event: AnyEvent
    endpoint: str
    due: int
    number: int
    statuses: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Attempt:
    """One try of a delivery, ready to be posted."""

    delivery: Delivery
    due: int
    url: str
    headers: Mapping[str, str]
    body: bytes
    source: EventSource | None = None
    """It goes to the bus of this partner event source; `body` is then the `detail`."""


@dataclass
class _Disturbance:
    kind: str
    type: str | None
    customer: str | None
    times: int
    seconds: int = 0

    def meets(self, event: AnyEvent) -> bool:
        return self.times > 0 and self.type in (None, event.type) and self.customer in (None, event.customer)


class Webhooks:
    """The deliveries of one account. `log` keeps every delivery ever begun."""

    def __init__(self, account: Account, events: Events) -> None:
        self._account = account
        self._events = events
        self._disturbances: list[_Disturbance] = []
        self._queue: list[tuple[int, int, Delivery]] = []
        self._open: Counter[tuple[str, str]] = Counter()
        self._platform = account.platform
        self.log: list[Delivery] = []
        events.listeners.append(self._enqueue)

    def drop_next(self, *, type: str | None = None, customer: str | None = None, times: int = 1) -> None:
        """Lose the next matching deliveries; for Stripe they count as delivered."""
        self._disturbances.append(_Disturbance("drop", type, customer, times))

    def duplicate_next(self, *, type: str | None = None, customer: str | None = None, times: int = 1) -> None:
        """Deliver the next matching events twice."""
        self._disturbances.append(_Disturbance("duplicate", type, customer, times))

    def twin_next(self, *, type: str | None = None, customer: str | None = None, times: int = 1) -> None:
        """Deliver the next matching changes twice, as two events with ids of their own.

        Webhooks, "Handle duplicate events": this happens in some cases.
        """
        self._disturbances.append(_Disturbance("twin", type, customer, times))

    def delay_next(
        self,
        seconds: int,
        *,
        type: str | None = None,
        customer: str | None = None,
        times: int = 1,
    ) -> None:
        """Deliver the next matching events so many seconds late, after events that came later."""
        self._disturbances.append(_Disturbance("delay", type, customer, times, seconds))

    @property
    def disturbed(self) -> int:
        """How many deliveries are still to be lost, doubled or delayed."""
        return sum(row.times for row in self._disturbances)

    def leave_alone(self) -> None:
        """Disturb nothing any more."""
        self._disturbances.clear()

    def roll_secret(self, endpoint_id: str, expires_in: int = _DAY) -> str:
        """A new signing secret; the old one keeps signing for at most 24 hours (seconds)."""
        if not 0 <= expires_in <= _DAY:
            raise ValueError("an old secret stays valid for at most 24 hours")
        endpoint = self._endpoint(endpoint_id) or self._account.endpoints.get(endpoint_id)
        old = endpoint.secrets[0]
        old.expires_at = self._account.now() + expires_in
        endpoint.secrets = [WebhookSecret(self._account.new_id("whsec", 32)), old]
        return endpoint.secrets[0].value

    def next_due(self) -> int | None:
        """When the next try is due, in UTC unix seconds."""
        return self._queue[0][0] if self._queue else None

    def take_due(self, until: int) -> list[Attempt]:
        """The tries due until this instant, in order; each must be answered with `settle`."""
        attempts = []
        while self._queue and self._queue[0][0] <= until:
            _, _, row = heappop(self._queue)
            endpoint = self._endpoint(row.endpoint)
            if endpoint is None or endpoint.status != "enabled":
                self._close(row, row.due, delivered=False)
            else:
                attempts.append(self._attempt(row, endpoint))
        return attempts

    def settle(self, attempt: Attempt, status: int, at: int) -> None:
        """Note an answer that came at an instant: all but a 2xx is tried again later."""
        row = attempt.delivery
        row.statuses.append(status)
        if 200 <= status < 300:
            self._close(row, at, delivered=True)
            return
        delays = self._account.settings.retry_delays
        if len(row.statuses) > len(delays):
            self._close(row, at, delivered=False)
        else:
            self._wait(row, at + delays[len(row.statuses) - 1])

    def _endpoint(self, id_: str) -> Endpoint | None:
        account = self._account
        found = account.endpoints.find(id_) or account.destinations.find(id_)
        if found is None and self._platform is not None:
            found = self._platform.endpoints.find(id_) or self._platform.destinations.find(id_)
        return found

    def attempt(self, row: Delivery) -> Attempt | None:
        """One more try of a delivery, due or not; None when its endpoint is gone."""
        endpoint = self._endpoint(row.endpoint)
        return self._attempt(row, endpoint) if endpoint else None

    def _attempt(self, row: Delivery, endpoint: Endpoint) -> Attempt:
        now, settings = self._account.clock(), self._account.settings
        origin = settings.account_id if endpoint.connect else None
        body = encode_event(row.event.body(settings.livemode, endpoint.api_version, origin))
        if (source := _source(endpoint)) is not None:
            return Attempt(row, row.due, source.arn, {}, body, source)
        secrets = [
            secret.value
            for secret in endpoint.secrets
            if secret.expires_at is None or secret.expires_at > now
        ]
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": sign(body, secrets, now),
        }
        return Attempt(row, row.due, endpoint.url, headers, body)

    def _enqueue(self, event: AnyEvent) -> None:
        for endpoint in self._listeners(event):
            if endpoint.status == "enabled" and _listens(endpoint, event.type):
                self._add(event, endpoint)
        if not event.waiting:
            event.acknowledged_at = event.created

    def _listeners(self, event: AnyEvent) -> Iterator[Endpoint]:
        """The account's own endpoints, and its platform's for connected accounts (Connect webhooks)."""
        account, platform = self._account, self._account.platform
        yield from (one for one in self._of_kind(account, event) if not one.connect)
        if platform is not None:
            yield from (one for one in self._of_kind(platform, event) if one.connect)

    def _of_kind(self, account: Account, event: AnyEvent) -> Iterator[Endpoint]:
        """Who gets thin events, or snapshots; a bus only while it is associated with its source."""
        is_thin = isinstance(event, ThinEvent)
        if not is_thin:
            yield from account.endpoints
        for one in account.destinations:
            if (one.event_payload == "thin") is is_thin and _is_reached(one, self._account.now()):
                yield one

    def _add(self, event: AnyEvent, endpoint: Endpoint) -> None:
        disturbance = next((row for row in self._disturbances if row.meets(event)), None)
        due, copies = self._account.machine_time(), 1
        if disturbance is not None:
            disturbance.times -= 1
            due += disturbance.seconds
            copies = {"drop": 0, "duplicate": 2, "delay": 1, "twin": 1}[disturbance.kind]
            if disturbance.kind == "twin":
                self._events.repeat(event)
        for _ in range(copies):
            delivery = Delivery(event, endpoint.id, due, len(self.log))
            if _source(endpoint) is None:
                event.waiting.add(endpoint.id)
            self._open[event.id, endpoint.id] += 1
            self.log.append(delivery)
            self._wait(delivery, due)

    def _wait(self, row: Delivery, due: int) -> None:
        row.due = due
        heappush(self._queue, (due, row.number, row))

    def _close(self, row: Delivery, at: int, *, delivered: bool) -> None:
        event = row.event
        self._open[event.id, row.endpoint] -= 1
        if self._open[event.id, row.endpoint]:
            return
        del self._open[event.id, row.endpoint]
        was_awaited = row.endpoint in event.waiting
        event.waiting.discard(row.endpoint)
        if not delivered:
            event.failed.add(row.endpoint)
        # A bus takes an event without saying what comes of it: nothing waits for that.
        if was_awaited and not event.waiting:
            clock = self._account.test_clocks.find(event.test_clock)
            event.acknowledged_at = clock.frozen_time if clock else at


def _source(endpoint: Endpoint) -> EventSource | None:
    return endpoint.event_source if isinstance(endpoint, EventDestination) else None


def _is_reached(destination: EventDestination, now: int) -> bool:
    """Whether something can be delivered to it ("once its provider configuration is active")."""
    expire(destination, now)
    return destination.event_source is None or destination.event_source.status == "active"


def expire(destination: EventDestination, now: int) -> None:
    """Delete a source that nothing was associated with for 7 days; its destination is then disabled.

    Stripe, "Send events to Amazon EventBridge", "Associate the partner event source".
    """
    source = destination.event_source
    if source is not None and source.status == "pending" and now >= destination.created + _PENDING_S:
        source.status = "deleted"
    if source is not None and source.status == "deleted" and destination.status == "enabled":
        destination.status, destination.disabled_reason = "disabled", "no_aws_event_source_exists"


def _listens(endpoint: Endpoint, type_: str) -> bool:
    return "*" in endpoint.enabled_events or type_ in endpoint.enabled_events
