"""The protocol of a send under a magnifying glass: every step can be the last one before a crash.

Coroutines are driven by hand, one step at a time, without an event loop: a process that is not driven on
has crashed. Stripe's stand-in is strict: it stores answers under idempotency keys, knows identifiers for
24 hours and no longer, and may take an event without saying so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, cast

from tests.layer.builders import NOON, Clock, D, MemoryTable, customer_meter, send
from usage_reporting.budget import Budget
from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.ledger import Entry, Key, Ledger
from usage_reporting.meter_event_stream import SESSION, STREAM
from usage_reporting.model import CustomerMeter, Report, Send, SendState
from usage_reporting.sender import Sender
from usage_reporting.stripe_api import API_VERSION, StripeApi
from usage_reporting.windows import DAY, HOUR, MINUTE, rfc3339

DAY_OF = "2026-07-15"
SENDS = [
    send("cus_1.1.0.a", 3, NOON + HOUR - 1),
    send("cus_1.2.0.b", "4.5", NOON + 2 * HOUR - 1, slice_start=NOON + HOUR),
]


class Step:
    """Where a process can be stopped."""

    def __await__(self) -> Generator[None]:
        yield


class Behaviour(StrEnum):
    """What Stripe, or the way to it, does with one call."""

    OK = "ok"
    TAKEN_BUT_500 = "taken, answered 500"
    LOST_AND_500 = "not taken, answered 500"
    TAKEN_BUT_SILENT = "taken, no answer"
    NEVER_ARRIVED = "never arrived"
    BUSY_429 = "throttled"
    BUSY_409 = "another call is under way"
    REJECTED = "refused"


FAILURES = [behaviour for behaviour in Behaviour if behaviour not in {Behaviour.OK, Behaviour.REJECTED}]


@dataclass
class FakeStripe:
    """Meter events and usage records, as strict as the documentation allows."""

    clock: Any
    behaviours: deque[Behaviour] = field(default_factory=deque)
    otherwise: Behaviour = Behaviour.OK
    events: list[tuple[int, Decimal]] = field(default_factory=list)
    """Time stamp and value of each event that counts."""
    records: dict[tuple[str, int], Decimal] = field(default_factory=dict)
    identifiers: dict[str, int] = field(default_factory=dict)
    stored: dict[str, tuple[int, Mapping[str, Any], Exception | None]] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)
    key: str = "sk_test_1"

    async def call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any],
        *,
        idempotency_key: str = "",
        version: str = API_VERSION,
        session: str = "",
    ) -> dict[str, Any]:
        assert method == "post"
        await Step()
        if path == SESSION:
            return self.session()
        assert bool(session) == (path == STREAM)
        self.calls.append({"path": path, "params": params, "key": idempotency_key, "version": version})
        behaviour = self.behaviours.popleft() if self.behaviours else self.otherwise
        answer = self._answer(behaviour, path, params, idempotency_key)
        await Step()
        if answer is not None:
            raise answer
        return {}

    def _answer(
        self, behaviour: Behaviour, path: str, params: Mapping[str, Any], key: str
    ) -> Exception | None:
        if behaviour is Behaviour.NEVER_ARRIVED:
            return StripeUnavailableError("no answer")
        if behaviour in {Behaviour.BUSY_429, Behaviour.BUSY_409}:
            return StripeUnavailableError("busy", turned_away=behaviour is Behaviour.BUSY_429)
        stored_at, stored_params, stored_answer = self.stored.get(key, (-DAY, {}, None))
        if self.clock() - stored_at < DAY:
            if stored_params != params:
                return RejectedError("keys for idempotent requests can only be used with the same parameters")
            return _replayed(stored_answer)
        answer = self._executed(behaviour, path, params)
        if answer is None or path != STREAM:  # the v2 API executes a request that failed anew
            self.stored[key] = (self.clock(), params, answer)
        return StripeUnavailableError("no answer") if behaviour is Behaviour.TAKEN_BUT_SILENT else answer

    def _executed(self, behaviour: Behaviour, path: str, params: Mapping[str, Any]) -> Exception | None:
        if "identifier" in params:
            known_at = self.identifiers.get(params["identifier"], -DAY)
            if self.clock() - known_at < DAY:
                return RejectedError(
                    f"Stripe says: An event already exists with identifier {params['identifier']}."
                )
        if behaviour is Behaviour.REJECTED:
            return RejectedError("Stripe says: the meter is archived")
        if behaviour is Behaviour.LOST_AND_500:
            return StripeUnavailableError("oops", answered=True)
        self._take(path, params)
        taken_but = behaviour is Behaviour.TAKEN_BUT_500
        return StripeUnavailableError("oops", answered=True) if taken_but else None

    def _take(self, path: str, params: Mapping[str, Any]) -> None:
        if path == STREAM:
            for event in params["events"]:
                if self.clock() - self.identifiers.get(event["identifier"], -DAY) >= DAY:
                    stamp = datetime.fromisoformat(event["timestamp"]).timestamp()
                    self._take("", {**event, "timestamp": int(stamp)})
        elif "identifier" in params:
            self.identifiers[params["identifier"]] = self.clock()
            self.events.append((params["timestamp"], Decimal(params["payload"]["value"])))
        else:
            self.records[(path, params["timestamp"])] = Decimal(params["quantity"])

    def session(self) -> dict[str, Any]:
        return {"authentication_token": "token", "expires_at": rfc3339(self.clock() + 15 * MINUTE)}

    def held(self, start: int, end: int) -> Decimal:
        return sum((value for stamp, value in self.events if start <= stamp < end), D(0))

    @property
    def api(self) -> StripeApi:
        return cast("StripeApi", self)


def _replayed(answer: Exception | None) -> Exception | None:
    if isinstance(answer, StripeUnavailableError):
        return StripeUnavailableError(answer.reason, answered=True, replayed=True)
    return answer


class SteppedLedger(Ledger):
    """The ledger without threads; before and after each write a process can be stopped."""

    def __init__(self, table: MemoryTable) -> None:
        super().__init__(table)
        self.memory = table

    async def entries(self, keys: Sequence[Key]) -> dict[Key, Entry]:
        await Step()
        found = {key: Entry(*key) for key in keys}
        for item in self.memory.get(list(found)):
            found[(item["pk"], item["sk"])] = Entry.from_item(item)
        return found

    async def write_entry(self, entry: Entry, now: int) -> Entry:
        await Step()
        self.memory.put(entry.to_item(now), entry.version)
        await Step()
        return Entry.from_item(entry.to_item(now))

    def stored(self, key: Key) -> Entry:
        found = self.memory.get([key])
        return Entry.from_item(found[0]) if found else Entry(*key)


async def no_sleep(seconds: float) -> None:
    """Pauses take no time here."""


@dataclass
class World:
    """One entry, one Stripe, one clock."""

    customer_meter: CustomerMeter = field(default_factory=customer_meter)
    clock: Clock = field(default_factory=lambda: Clock(NOON + HOUR))
    budget: Budget = field(default_factory=Budget)

    def __post_init__(self) -> None:
        self.stripe = FakeStripe(self.clock)
        self.ledger = SteppedLedger(MemoryTable())
        self.sender = Sender(self.stripe.api, self.ledger, self.clock, no_sleep)
        self.key = (self.customer_meter.pk, DAY_OF)

    @property
    def entry(self) -> Entry:
        return self.ledger.stored(self.key)

    @property
    def states(self) -> list[SendState]:
        return [one.state for one in self.entry.sends.values()]

    async def report(self, sends: Sequence[Send] = SENDS) -> Report:
        """What a process does with an entry: repeat what is open, then send what is not there yet."""
        report = Report(self.customer_meter)
        entry = (await self.ledger.entries([self.key]))[self.key]
        entry = await self.sender.repeat_intents(report, entry, self.budget)
        missing = [one for one in sends if one.identifier not in entry.sends]
        if missing and not entry.intents:
            await self.sender.carry_out(report, entry, missing, self.budget)
        return report


def run[T](work: Coroutine[Any, Any, T]) -> T:
    """Drive a process to its end."""
    try:
        while True:
            work.send(None)
    except StopIteration as end:
        return cast("T", end.value)


def crash_after(steps: int, work: Coroutine[Any, Any, Any]) -> bool:
    """Drive a process so many steps and drop it there; False if it came to its end before."""
    try:
        for _ in range(steps):
            work.send(None)
    except StopIteration:
        return False
    work.close()
    return True
