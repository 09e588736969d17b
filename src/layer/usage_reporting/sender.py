"""The protocol of a send: write the intent, send, write the outcome.

A crash between any two calls ends right, because an intent that stays open is repeated with the same
identifier before anything else is sent for its entry.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from usage_reporting.amounts import to_wire
from usage_reporting.backoff import pause
from usage_reporting.budget import Budget
from usage_reporting.errors import (
    LedgerUnavailableError,
    LostRaceError,
    RejectedError,
    StripeUnavailableError,
)
from usage_reporting.ledger import Entry, Ledger
from usage_reporting.meter_event_stream import MeterEventStream, meter_event
from usage_reporting.model import CustomerMeter, Report, Send, SendState, Status
from usage_reporting.side_by_side import all_ended, side_by_side
from usage_reporting.stripe_api import LEGACY_API_VERSION, StripeApi
from usage_reporting.windows import HOUR

REPEATED_FOR = 23 * HOUR
"""Stripe keeps an identifier unique for at least 24 hours ("Create a billing meter event")."""

TRIES = 5
OUTCOME_TRIES = 6

DUPLICATE = "duplicate_meter_event"
"""Stripe's code in the v2 API; v1 says it in words alone."""

SETTLED_AT_ONCE = 100
"""A whole page: what bounds the calls is what each service can take (connections, threads, pace)."""

_ALREADY_EXISTS = re.compile(r"already exists with identifier", re.IGNORECASE)


@dataclass(slots=True)
class _Outcome:
    send: Send
    reason: str = ""
    answered: bool = True
    """Whether it is known now what became of the send."""
    is_reached: bool = True
    """Whether Stripe answers at all: the next send is not tried otherwise."""


@dataclass(slots=True)
class Sender:
    """Sends to Stripe by the protocol; the sends of one customer meter go one after the other.

    With `is_streaming` new meter events go through Stripe's stream, where those of a whole page share
    requests. After a refusal they go one by one for once: so Stripe names what it refuses.
    """

    api: StripeApi
    ledger: Ledger
    clock: Callable[[], int]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    is_streaming: bool = False
    stream: MeterEventStream = field(init=False)

    def __post_init__(self) -> None:
        """Wire the stream: what once went through it is repeated through it, whatever is set now."""
        self.stream = MeterEventStream(self.api, self.ledger, self.clock)

    async def settle(self, reports: Sequence[Report], work: Callable[[Report], Awaitable[None]]) -> None:
        """Do the work of a page's customer meters side by side; those that stream share requests."""
        pks = [report.customer_meter.pk for report in reports]
        self.stream.join(pks)

        async def alone(report: Report) -> None:
            try:
                await work(report)
            finally:
                self.stream.leave(report.customer_meter.pk)

        try:
            await side_by_side(reports, alone, SETTLED_AT_ONCE)
        finally:
            for pk in pks:
                self.stream.leave(pk)

    async def carry_out(self, report: Report, entry: Entry, sends: Sequence[Send], budget: Budget) -> Entry:
        """Write the intents in one write, send them one by one, write the outcomes in one write.

        The report takes the outcomes. Raises LostRaceError when the entry was written since it was
        read, and LedgerUnavailableError.
        """
        is_metered = report.customer_meter.meter is not None
        if self.is_streaming and is_metered and not entry.is_in_question:
            sends = [replace(send, is_streamed=True) for send in sends]
        sends = [_with_fresh_key(entry, send) for send in sends]
        intended = await self.ledger.write_entry(entry.with_sends(sends), self.clock())
        return await self._send_all(report, intended, sends, budget)

    async def repeat_intents(self, report: Report, entry: Entry, budget: Budget) -> Entry:
        """Send again what an earlier run left open, with the same identifiers.

        No meter event older than REPEATED_FOR may be among it: those are doubted, or told anew.
        """
        intents = entry.intents
        if not intents:
            return entry
        return await self._send_all(report, entry, intents, budget, is_repeated=True)

    async def _send_all(
        self,
        report: Report,
        entry: Entry,
        sends: Sequence[Send],
        budget: Budget,
        *,
        is_repeated: bool = False,
    ) -> Entry:
        outcomes: list[_Outcome] = []
        for some in _in_turns(sends):
            if budget.is_over:
                report.note(Status.HANDED_OVER, "the function's time is nearly over")
                break
            going = [self._send(report.customer_meter, one, budget, may_be_in=is_repeated) for one in some]
            found = await all_ended(going) if len(going) > 1 else [await going[0]]
            outcomes += found
            for outcome in found:
                _note(report, outcome)
            if not all(outcome.is_reached for outcome in found):
                break
        return await self._write_outcomes(entry, [outcome.send for outcome in outcomes])

    async def _send(
        self, customer_meter: CustomerMeter, send: Send, budget: Budget, *, may_be_in: bool
    ) -> _Outcome:
        reason = ""
        for tried in range(TRIES):
            if tried and budget.is_over:
                break
            try:
                await self._call(customer_meter, send)
            except StripeUnavailableError as error:
                reason = error.reason
                may_be_in = may_be_in or not error.turned_away
                if error.answered:
                    # Stripe stored that answer under the key and would replay it for a day.
                    send = replace(send, attempt=send.attempt + 1)
                if not error.replayed and tried < TRIES - 1:
                    await self.sleep(pause(tried))
            except LedgerUnavailableError as error:
                # What a request of the stream carries could not be written down, so that it was not sent.
                reason = error.reason
                break
            except RejectedError as error:
                return self._refused(send, error, may_be_in=may_be_in)
            else:
                return _Outcome(self._taken(send, is_repeated=may_be_in))
        # What never left may go either way: the stream may not be there for this account at all.
        send = replace(send, is_streamed=send.is_streamed and may_be_in)
        return _Outcome(send, reason, answered=False, is_reached=False)

    def _refused(self, send: Send, error: RejectedError, *, may_be_in: bool) -> _Outcome:
        if error.code == DUPLICATE or _ALREADY_EXISTS.search(error.reason):
            return _Outcome(self._taken(send, is_repeated=True))
        if may_be_in:
            # Stripe may have taken the try that it did not answer: its "no" is to the repetition.
            # The next try has a new key, since Stripe may have stored that "no" under this one.
            later = replace(send, attempt=send.attempt + 1)
            return _Outcome(later, error.reason, answered=False)
        return _Outcome(replace(send, state=SendState.REJECTED), error.reason)

    def _taken(self, send: Send, *, is_repeated: bool) -> Send:
        return replace(
            send,
            state=SendState.SENT,
            sent_at=self.clock(),
            is_repeated=send.is_streamed and is_repeated,
        )

    async def _call(self, customer_meter: CustomerMeter, send: Send) -> None:
        if customer_meter.meter is None:
            item = customer_meter.spans[0].item
            record = {"quantity": to_wire(send.value), "timestamp": send.stamp, "action": "set"}
            await self.api.call(
                "post",
                f"/v1/subscription_items/{item}/usage_records",
                record,
                idempotency_key=send.key,
                version=LEGACY_API_VERSION,
            )
        elif send.is_streamed:
            await self.stream.send(customer_meter, send)
        else:
            event = meter_event(customer_meter, send)
            await self.api.call("post", "/v1/billing/meter_events", event, idempotency_key=send.key)

    async def _write_outcomes(self, entry: Entry, settled: Sequence[Send]) -> Entry:
        for _ in range(OUTCOME_TRIES):
            still_open = [send for send in settled if _is_open(entry, send)]
            if not still_open:
                return entry
            try:
                return await self.ledger.write_entry(entry.with_sends(still_open), self.clock())
            except LostRaceError:
                key = (entry.pk, entry.sk)
                entry = (await self.ledger.entries([key]))[key]
        raise LostRaceError("the outcome could not be written: others keep writing the entry")


def _in_turns(sends: Sequence[Send]) -> Iterator[list[Send]]:
    """Those that may go side by side: any that are streamed; else one at a time, which is Stripe's rule for a
    customer and meter ("Record usage for billing", "Rate limits").
    """
    streamed = [send for send in sends if send.is_streamed]
    if streamed:
        yield streamed
    yield from ([send] for send in sends if not send.is_streamed)


def _with_fresh_key(entry: Entry, send: Send) -> Send:
    """A send that Stripe refused before, as the next attempt: it may have stored its "no" under the key."""
    refused = entry.sends.get(send.identifier)
    return send if refused is None else replace(send, attempt=refused.attempt + 1)


def _is_open(entry: Entry, send: Send) -> bool:
    """Whether an outcome is news: what another process knows better must not be overwritten."""
    stored = entry.sends.get(send.identifier)
    if stored is None or stored.state not in {SendState.INTENT, SendState.REJECTED}:
        return False
    if send.state is SendState.SENT:
        return True
    return stored.state is SendState.INTENT and stored != send and stored.attempt <= send.attempt


def _note(report: Report, outcome: _Outcome) -> None:
    if not outcome.answered:
        report.note(Status.UNKNOWN, outcome.reason)
    elif outcome.send.state is SendState.REJECTED:
        report.note(Status.REJECTED, outcome.reason)
    else:
        report.note(Status.SENT, outcome.reason)
        report.sent.append(outcome.send)
