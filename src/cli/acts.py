"""The acts of the demo, one after the other."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

import boto3

from cli.connect import connect_stack
from cli.destination import Destinations
from cli.errors import NotDoneError
from cli.event_sources import PARAMETERS, EventSources
from cli.evidence import InvoiceEvidence, summary
from cli.explain import explain_invoices
from cli.narrator import Narrator
from cli.setup import Shop
from cli.stack import Stack
from sandbox.clock import system_clock
from sandbox.cloud import ACCOUNT, REGION
from sandbox.stage import OPENMETER_KEY, STACK, STRIPE_KEY, FinalLine, Stage, wait_until
from sandbox.story import CALLS, DURATION, Bill, Subscriber, Usage, metered, subscribers, usage_of
from usage_reporting.amounts import to_wire
from usage_reporting.customer_meters import OM_METER_ID
from usage_reporting.windows import rfc3339

UNTIL_FIRST_END_S = 10.0
BRISK_START_S = 5.0
"""How long the functions' first start takes on a machine with nothing else to do; others get more time."""
PATIENCE_S = 60.0
FINAL_IN_S = 3
VERDICTS_S = 15.0

FEE_CENTS = 2000
CALL_CENTS = Decimal("0.2")


class Acts:
    """What the acts hand on to each other; `prices` by meter, and `fee`."""

    def __init__(self, stage: Stage, tell: Narrator, seed: int) -> None:
        self.stage = stage
        self.tell = tell
        self.seed = seed
        self.pace = 1.0
        self.people: list[Subscriber] = []
        self.events: list[Usage] = []
        self.to_come: list[Usage] = []
        self.prices: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        """The template's parameters that name event sources; without them Stripe posts to API Gateway."""
        self.explained: list[InvoiceEvidence] = []
        """The final invoices, as `explain` finds them through the deployed stack."""

    def play(self) -> list[Bill]:
        """From an empty cloud to final invoices; what these bill."""
        self.deploy()
        self.wake()
        self.set_up()
        self.connect()
        self.use()
        self.report_so_far()
        self.months_end()
        self.late_usage()
        bills = self.invoices()
        self.explain()
        return bills

    def deploy(self) -> None:
        """The real template, by the real SAM."""
        with self.tell.step(
            "deploy", "sam build and sam deploy put the real template into a cloud on this machine"
        ):
            if self.stage.over_event_bridge:
                self._make_event_sources()
            self.stage.deploy(**self.sources)
            self.tell.say(
                f"Stripe's stand-in: {self.stage.stripe_url}; OpenMeter's: {self.stage.openmeter_url}"
            )
            if not self.stage.over_event_bridge:
                self.tell.say(f"the webhook: {self.stage.webhook_url}")
            for name in self.sources.values():
                self.tell.say(f"a bus of its own for {name}")

    def wake(self) -> None:
        """Each function's first start, which shows how fast this machine is."""
        with self.tell.step(
            "start", "The three functions start; before `connect` they know no keys, and say so"
        ):
            began = time.monotonic()
            answers = self.stage.wake()
            self.pace = max(1.0, (time.monotonic() - began) / BRISK_START_S)
            for function, answer in answers.items():
                self.tell.say(f"{function}: {answer}")

    def set_up(self) -> None:
        """Prices by `setup`'s own code, and customers of long standing."""
        with self.tell.step(
            "setup", "`setup` makes what is sold; customers of long standing subscribe to it"
        ):
            for made in Shop(self.stage.client, STRIPE_KEY).set_up(DURATION):
                self.tell.say(f"made {made.object} {made.id}")
                if made.object == "price":
                    self.prices[DURATION] = made.id
            self._price_the_rest()
            self.people = subscribers(system_clock() + round(UNTIL_FIRST_END_S * self.pace))
            longstanding = [person for person in self.people if person.signed_up is not None]
            for person in sorted(longstanding, key=lambda one: one.signed_up or 0):
                self.stage.turn_clock(person.signed_up)
                self.stage.sign_up(person, self._items(person))
            self.stage.turn_clock(None)
            self.tell.say(
                f"{_names(longstanding)} signed up weeks ago (Stripe's clock was turned back for it)"
            )

    def connect(self) -> None:
        """Stripe's events to the stack, keys into its secret; from here on customers sign up as usual."""
        with self.tell.step("connect", "`connect` tells Stripe where the webhook is, and the stack its keys"):
            deployed = Stack.read(STACK)
            destinations: Destinations | EventSources
            if self.stage.over_event_bridge:
                destinations = EventSources(self.stage.client, deployed)
            else:
                destinations = Destinations(self.stage.client, self.stage.outputs["WebhookUrl"], STACK)
            connect_stack(deployed, destinations, STRIPE_KEY, OPENMETER_KEY)
            self.stage.associate(self.sources.values())
            for line in destinations.done:
                self.tell.say(line)
            today = [person for person in self.people if person.signed_up is None]
            for person in today:
                self.stage.sign_up(person, self._items(person))
            self.tell.say(f"{_names(today)} sign up now, backdated to the month's start")
            for person in self.people:
                self._check_period(person)
                self.stage.disturb(person)
                self.tell.say(
                    f"{person.name}: {person.billing_mode} billing, "
                    f"{rfc3339(person.start)} to {rfc3339(person.end)}"
                )

    def use(self) -> None:
        """A month of usage; what is stamped later than now is sent when its time has come."""
        with self.tell.step("usage", "A month of usage goes into OpenMeter"):
            self.stage.create_meters()
            self.events = usage_of(self.people, self.seed)
            now = system_clock()
            self.to_come = [event for event in self.events if event.time >= now and not event.is_late]
            sent = self.stage.use(event for event in self.events if event.time < now and not event.is_late)
            self.tell.say(f"{sent:,} events of {len(self.people)} customers")

    def report_so_far(self) -> None:
        """The hourly tick."""
        with self.tell.step("tick", 'A tick of the schedule, {"scope": "all"}, reports the month so far'):
            answer = self.stage.tick("all")
            self.tell.say(f"the schedule function queued {answer['customer_meters']} customer meters")
            self._wait_for_queue()
            self.tell.say(f"the worker sent {self.stage.meter_events():,} meter events to Stripe")

    def months_end(self) -> None:
        """Renewals, drafts, and webhooks: once, twice, never."""
        first, last = self.people[0].end, max(person.end for person in self.people)
        with self.tell.step(
            "renewals", "The months end while usage goes on; Stripe renews and sends webhooks"
        ):
            copies = {"once": 1, "twice": 2, "never": 0}
            expected = sum(copies[person.webhook] for person in self.people)
            answered: set[int] = set()

            def is_over() -> bool:
                self._use_what_came_due()
                for number, one in enumerate(self.stage.renewals(first)):
                    if 200 in one.statuses and number not in answered:
                        answered.add(number)
                        what = "webhook was answered"
                        if self.sources:
                            what = "event was handed to the bus:"
                        self.tell.say(f"{one.customer}: the renewal's {what} {_then(one.statuses)}")
                return not self.to_come and len(answered) == expected

            if not wait_until(is_over, last - system_clock() + PATIENCE_S * self.pace):
                self.tell.say("not every webhook was answered; the next tick has to do without")
            never = [person for person in self.people if person.webhook == "never"]
            self.tell.say(f"{_names(never)}: the renewal's webhook was lost on its way")

    def late_usage(self) -> None:
        """Usage of the ended months that arrives late, and the tick that mends it."""
        with self.tell.step("late", 'Late usage arrives; the next tick, {"scope": "closing"}, mends it'):
            late = [event for event in self.events if event.is_late]
            units = sum((event.value for event in late), Decimal(0))
            self.stage.use(late)
            self.tell.say(f"{len(late)} events of {to_wire(units)} units, stamped before the months ended")
            before = self.stage.meter_events()
            self.stage.tick("closing")
            self._wait_for_queue()
            self.tell.say(f"the worker sent {self.stage.meter_events() - before} more meter events to Stripe")

    def invoices(self) -> list[Bill]:
        """Final invoices; beside their lines what the demo's own events add up to."""
        with self.tell.step(
            "invoices", f"The drafts, due in an hour, are told to be final in {FINAL_IN_S} s"
        ):
            for person in self.people:
                self.stage.finalize(person, system_clock() + FINAL_IN_S)
            lines: dict[str, dict[str, FinalLine]] = {}

            def are_final() -> bool:
                for person in self.people:
                    if person.name not in lines and (final := self.stage.final_lines(person)):
                        lines[person.name] = final
                return len(lines) == len(self.people)

            if wait_until(are_final, PATIENCE_S * self.pace):
                self.tell.say("all are final")
            else:
                self.tell.say("not final: " + _names(one for one in self.people if one.name not in lines))
            self._say_verdicts()
            return [self._bill(person, meter, lines) for person in self.people for meter in person.meters]

    def explain(self) -> None:
        """Each line of the final invoices, from OpenMeter's hours to the billed quantity."""
        with self.tell.step(
            "explain", "`explain` asks both sides and the ledger afresh how each quantity came about"
        ):
            invoices = [one for person in self.people for one in self.stage.final_invoices(person)]
            self.explained = asyncio.run(explain_invoices(Stack.read(STACK), invoices))
            for found in self.explained:
                for line in found.lines:
                    for one in line.findings:
                        self.tell.say(f"{found.id}: {one.name.value}: {one.text}")
            self.tell.say(summary(self.explained))

    def _say_verdicts(self) -> None:
        """What the webhook, told that the invoices are final, found of their lines."""
        expected = sum(len(person.meters) for person in self.people)
        wait_until(lambda: len(self.stage.verdicts()) >= expected, VERDICTS_S * self.pace)
        found = Counter(self.stage.verdicts())
        said = ", ".join(f"{count} {name.upper()}" for name, count in sorted(found.items())) or "none yet"
        self.tell.say(f"the functions' own verdicts on the metered lines: {said}")

    def _bill(self, person: Subscriber, meter: str, lines: Mapping[str, Mapping[str, FinalLine]]) -> Bill:
        nothing = FinalLine(Decimal(0), "", 0)
        line = lines.get(person.name, {}).get(self.prices[meter], nothing)
        total = metered(self.events, person, meter)
        return Bill(person.name, meter, total, line.quantity, line.invoice, line.amount)

    def _make_event_sources(self) -> None:
        """Destinations over EventBridge, as `connect --ingress eventbridge` makes them."""
        arn = f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/{STACK}/to-be"
        sources = EventSources(self.stage.client, Stack(STACK, {}, boto3.Session(), arn=arn))
        sources.prepare({})
        for line in sources.done:
            self.tell.say(line)
        self.sources = {PARAMETERS[payload]: name for payload, name in sources.names.items()}

    def _price_the_rest(self) -> None:
        """Beside the price of `setup`: a second metered one, mapped by itself, and a fee paid in advance."""
        client = self.stage.client.v1
        meter = client.billing.meters.create(
            {"display_name": "API calls", "event_name": CALLS, "default_aggregation": {"formula": "sum"}}
        )
        self.prices[CALLS] = client.prices.create(
            {
                "product_data": {"name": "API calls"},
                "currency": "usd",
                "unit_amount_decimal": CALL_CENTS,
                "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
                "metadata": {OM_METER_ID: CALLS},
            }
        ).id
        self.prices["fee"] = client.prices.create(
            {
                "product_data": {"name": "Platform fee"},
                "currency": "usd",
                "unit_amount": FEE_CENTS,
                "recurring": {"interval": "month"},
            }
        ).id

    def _items(self, person: Subscriber) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = [{"price": self.prices["fee"]}] if person.is_licensed_too else []
        for meter in person.meters:
            mapping = {} if meter == CALLS else {"metadata": {OM_METER_ID: meter}}
            items.append({"price": self.prices[meter], **mapping})
        return items

    def _check_period(self, person: Subscriber) -> None:
        shown = self.stage.period_of(person)
        if shown != (person.start, person.end):
            said, planned = (" to ".join(map(rfc3339, pair)) for pair in (shown, (person.start, person.end)))
            raise NotDoneError(f"{person.name}'s month is {said} in Stripe, and not {planned} as planned")

    def _use_what_came_due(self) -> None:
        now = system_clock()
        due = [event for event in self.to_come if event.time <= now]
        self.to_come = [event for event in self.to_come if event.time > now]
        self.stage.use(due)

    def _wait_for_queue(self) -> None:
        if not self.stage.wait_for_queue(PATIENCE_S * self.pace):
            self.tell.say("the queue is not empty yet; going on")


def _names(people: Iterable[Subscriber]) -> str:
    return ", ".join(person.name for person in people)


def _then(statuses: Sequence[int]) -> str:
    return ", then ".join(str(status or "not at all") for status in statuses)
