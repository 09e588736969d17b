"""The levers of the demo's console: what a person wants to happen to the stand-ins, in one word each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import stripe as stripe_package
from stripe import StripeClient

from sandbox.openmeter import OpenMeterSandbox
from sandbox.openmeter.problems import Problem
from sandbox.stripe import StripeSandbox
from sandbox.stripe.errors import StripeError

SOON_S = 3
"""So many seconds from now a period ends, or an invoice becomes final, when it is told to."""
MOST_EVENTS = 100
MOST_UNITS = 10**9
DELIVERIES_SHOWN = 30

_QUERIES = 40

_METER_EVENTS = "/v1/billing/meter_events"


class PlaygroundError(Exception):
    """It cannot be done; the text says why."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """A delivery of an event; `statuses`: what each try was answered, 0 for no answer."""

    number: int
    type: str
    customer: str
    created: int
    """UTC seconds."""
    statuses: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that can go wrong; `says` completes "From now on", or "Next"."""

    says: str
    begin: Callable[[], Any]


class Playground:
    """Steers both stand-ins in this process, and asks Stripe's by `client` what a merchant may.

    `tick` invokes the schedule, and says what came of it. Raises PlaygroundError for what cannot be done.
    """

    def __init__(
        self,
        stripe: StripeSandbox,
        openmeter: OpenMeterSandbox,
        client: StripeClient,
        tick: Callable[[str], str],
    ) -> None:
        self.stripe = stripe
        self.openmeter = openmeter
        self._client: Any = client
        self._tick = tick
        self.faults: Mapping[str, Fault] = {
            **self._of_stripe(),
            **self._of_openmeter(),
            **self._of_webhooks(),
        }

    @property
    def now(self) -> int:
        """The time of Stripe's stand-in, UTC unix seconds."""
        return self.stripe.account.clock()

    def tick(self, scope: str) -> str:
        """Run the schedule now: `all`, or `closing`."""
        if scope not in {"all", "closing"}:
            raise PlaygroundError(f"there is no tick {scope!r}")
        return self._tick(scope)

    def use(self, subject: str, meter: str, units: Decimal, at: int) -> str:
        """Send usage events to OpenMeter that happened at an instant, UTC unix seconds."""
        if at > self.now or not 0 < units <= MOST_UNITS or not subject:
            raise PlaygroundError(
                f"usage needs a customer, up to {MOST_UNITS} units, and a time that is over"
            )
        try:
            found = self.openmeter.meter(meter)
        except Problem as error:
            raise PlaygroundError(f"OpenMeter has no meter {meter!r}") from error
        values = [float(units)]
        if found.aggregation == "COUNT":
            if units != int(units) or units > MOST_EVENTS:
                raise PlaygroundError(f"a meter that counts takes 1 to {MOST_EVENTS} events at once")
            values = [1.0] * int(units)
        for value in values:
            self.openmeter.record(found.event_type, subject, at, value)
        return f"{units} units of {meter} were used by {subject} at {datetime.fromtimestamp(at, UTC):%F %T}"

    def end_periods(self, subscription: str) -> str:
        """Let the running periods of a subscription end right now; Stripe renews it, and sends webhooks."""
        at = self.now + SOON_S
        self._asked(lambda: self.stripe.end_periods(subscription, at))
        return f"The period of {subscription} ends in {SOON_S} s: Stripe makes its draft, and sends webhooks"

    def finalize(self, invoice: str) -> str:
        """Let a draft become final right now, as a merchant may; its webhook asks for the verdict."""
        at = self.now + SOON_S
        changes = {"auto_advance": True, "automatically_finalizes_at": at}
        self._asked(lambda: self._client.v1.invoices.update(invoice, changes))
        return f"{invoice} becomes final in {SOON_S} s; what is not in Stripe by then is on no invoice"

    def inject(self, kind: str) -> str:
        """Let something go wrong, by its name in `faults`."""
        fault = self.faults.get(kind)
        if fault is None:
            raise PlaygroundError(f"there is no fault {kind!r}")
        fault.begin()
        return fault.says

    def be_well(self) -> str:
        """Let nothing go wrong any more."""
        self.stripe.faults.clear()
        self.stripe.webhooks.leave_alone()
        self.openmeter.faults.clear()
        return "Nothing goes wrong any more"

    @property
    def trouble(self) -> str:
        """What still waits to go wrong; empty: nothing."""
        waiting = [
            (len(self.stripe.faults), "faults of Stripe"),
            (len(self.openmeter.faults), "faults of OpenMeter"),
            (self.stripe.webhooks.disturbed, "disturbances of webhooks"),
        ]
        said = [f"{number} {what}" for number, what in waiting if number]
        return ", ".join(["OpenMeter is down", *said] if self.openmeter.faults.down else said)

    @property
    def webhooks(self) -> Sequence[Webhook]:
        """The newest deliveries, newest first."""
        rows = list(self.stripe.webhooks.log)[-DELIVERIES_SHOWN:]
        return [
            Webhook(
                row.number, row.event.type, row.event.customer or "", row.event.created, tuple(row.statuses)
            )
            for row in reversed(rows)
        ]

    def replay(self, number: int) -> str:
        """Deliver an event once more, signed anew, as Stripe's Dashboard can."""
        log = self.stripe.webhooks.log
        if not 0 <= number < len(log):
            raise PlaygroundError(f"there is no delivery {number}")
        status = self.stripe.deliver_again(log[number])
        return f"{log[number].event.type} was delivered again; the answer was {status or 'none'}"

    def _asked(self, act: Callable[[], object]) -> None:
        try:
            act()
        except StripeError as error:
            raise PlaygroundError(str(error)) from error
        except stripe_package.StripeError as error:
            raise PlaygroundError(error.user_message or "Stripe gave no answer") from error

    def _of_stripe(self) -> dict[str, Fault]:
        add = self.stripe.faults.add
        return {
            "stripe_500": Fault(
                "Stripe answers the next 3 meter events with 500, and takes none of them",
                lambda: add("status", "POST", _METER_EVENTS, status=500, times=3),
            ),
            "stripe_500_after": Fault(
                "Stripe takes the next meter event, and answers 500",
                lambda: add("error_after", "POST", _METER_EVENTS, status=500),
            ),
            "stripe_silent": Fault(
                "Stripe takes the next meter event, and its answer is lost on the way",
                lambda: add("drop", "POST", _METER_EVENTS),
            ),
            "stripe_429": Fault(
                "Stripe answers the next 5 meter events with 429: too many requests",
                lambda: add("rate_limited", "POST", _METER_EVENTS, reason="endpoint-rate", times=5),
            ),
            "stripe_refuses_later": Fault(
                "Stripe takes the next meter event, and refuses it afterwards",
                lambda: self.stripe.validation.refuse_next("timestamp_in_future"),
            ),
            "stripe_down": Fault(
                "Stripe answers every call with 503, until you end it",
                lambda: add("status", status=503, times=None),
            ),
        }

    def _of_openmeter(self) -> dict[str, Fault]:
        faults = self.openmeter.faults

        def go_down() -> None:
            faults.down = True

        return {
            "openmeter_500": Fault(
                "OpenMeter answers the next 40 queries with 500, the console's among them",
                lambda: faults.fail(500, times=_QUERIES),
            ),
            "openmeter_slow": Fault(
                "OpenMeter answers the next 40 queries a second late, the console's among them",
                lambda: faults.delay(1.0, times=_QUERIES),
            ),
            "openmeter_empty": Fault(
                "OpenMeter answers the next 40 queries with nothing at all, the console's among them",
                lambda: faults.empty(times=_QUERIES),
            ),
            "openmeter_down": Fault("OpenMeter gives no answer, until you end it", go_down),
        }

    def _of_webhooks(self) -> dict[str, Fault]:
        webhooks = self.stripe.webhooks
        return {
            "webhook_lost": Fault("The next webhook is lost on its way", webhooks.drop_next),
            "webhook_twice": Fault("The next webhook is delivered twice", webhooks.duplicate_next),
            "webhook_twin": Fault(
                "The next change is told by two events of different ids", webhooks.twin_next
            ),
            "webhook_late": Fault(
                "The next webhook comes 30 s late, after those of later events",
                lambda: webhooks.delay_next(30),
            ),
        }
