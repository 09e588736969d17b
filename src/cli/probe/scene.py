"""A test clock with one customer, on which a fact is looked at; deleted at the end, come what may."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from types import TracebackType
from typing import Any, Self

from cli.probe.fact import NotSeenError
from cli.probe.workshop import CLOCK_PATIENCE, CLOCK_POLL, TITLE, Json, Workshop

MINUTE = 60
HOUR = 3600
DAY = 86_400

_STARTS_BEFORE = 20 * DAY
"""So far back a clock starts that its stamps are fine by its own time and by the real time: 35 days back,
5 minutes ahead."""
_OFF_THE_HOUR = 37 * MINUTE + 42
_STEP = DAY
_CARD = "pm_card_visa"
_POLL = 10
_AFTER_THE_TIME = 5 * MINUTE
"""An invoice is looked at so long after the time at which it should be final."""
_MORE_HOURS = 3


@dataclass(slots=True)
class Scene:
    """A context manager: all times in UTC seconds of the clock."""

    workshop: Workshop
    fact: str
    clock: str = ""
    customer: str = ""
    now: int = 0
    _reported: list[tuple[str, int, Decimal]] = field(default_factory=list)
    _last_report: int = 0

    def __enter__(self) -> Self:
        """Make the clock, at an odd second in mid-hour, and its customer, who can pay."""
        start = (self.workshop.pace.now() - _STARTS_BEFORE) // HOUR * HOUR + _OFF_THE_HOUR
        made = self.workshop.post("test_helpers/test_clocks", frozen_time=start, name=f"{TITLE}: {self.fact}")
        self.clock, self.now = made["id"], start
        try:
            self.customer = self.workshop.post(
                "customers",
                name=f"{TITLE}: {self.fact}",
                test_clock=self.clock,
                payment_method=_CARD,
                invoice_settings={"default_payment_method": _CARD},
            )["id"]
        except BaseException:
            self._delete_clock()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Delete the clock, and with it the customer."""
        self._delete_clock()

    def subscribe(self, price: Json, *, version: str = "", **params: Any) -> tuple[str, int]:
        """A subscription from now on: its id, and the end of its first period."""
        mode = {} if version else {"billing_mode": {"type": "flexible"}}
        made = self.workshop.post(
            "subscriptions", version, customer=self.customer, items=[{"price": price["id"]}], **mode, **params
        )
        return made["id"], self.item(made["id"])["current_period_end"]

    def item(self, subscription: str) -> Json:
        """The only item of a subscription."""
        found: Json = self.workshop.get("subscription_items", subscription=subscription)["data"][0]
        return found

    def report(self, meter: Json, value: str, at: int, identifier: str = "") -> None:
        """Send one meter event."""
        self.workshop.post("billing/meter_events", **self.event(meter, value, at, identifier))
        self._reported.append((meter["id"], at, Decimal(value)))
        self._last_report = self.workshop.pace.now()

    def event(self, meter: Json, value: str, at: int, identifier: str = "") -> Json:
        """A meter event of the customer."""
        payload = {"stripe_customer_id": self.customer, "value": value}
        named = {"identifier": identifier} if identifier else {}
        return {"event_name": meter["event_name"], "payload": payload, "timestamp": at, **named}

    def wait_until_counted(self, meter: Json) -> None:
        """Wait until Stripe's hourly summaries show what was reported; in the end go on without.

        Raises NotSeenError when they show nothing at all.
        """
        pace = self.workshop.pace
        deadline = self._last_report + pace.patience
        while not self._is_counted(meter, found := self.hours(meter)):
            if pace.now() >= deadline:
                if found:
                    return
                raise NotSeenError(
                    f"Stripe's summaries showed no usage of {self.customer} on {meter['id']} after "
                    f"{pace.patience // MINUTE} minutes; try again with a longer --patience"
                )
            pace.sleep(_POLL)
        self.workshop.lags.append(pace.now() - self._last_report)

    def wait_for_nothing(self) -> None:
        """Wait for what the summaries cannot tell: as long as usage took so far, twice, and a minute."""
        self.workshop.pace.sleep(MINUTE + 2 * max(self.workshop.lags, default=0))

    def hours(self, meter: Json) -> dict[int, Decimal]:
        """What Stripe's summaries hold, by hour."""
        stamps = [at for id_, at, _ in self._reported if id_ == meter["id"]]
        rows = self.workshop.all(
            f"billing/meters/{meter['id']}/event_summaries",
            customer=self.customer,
            start_time=min(stamps) // HOUR * HOUR,
            end_time=max(stamps) // HOUR * HOUR + HOUR,
            value_grouping_window="hour",
        )
        return {row["start_time"]: Decimal(str(row["aggregated_value"])) for row in rows}

    def go_to(self, instant: int) -> None:
        """Advance the clock, a day at a time, and wait until it is there. Raises NotSeenError if it fails."""
        while self.now < instant:
            target = min(self.now + _STEP, instant)
            self.workshop.post(f"test_helpers/test_clocks/{self.clock}/advance", frozen_time=target)
            self._wait_until_ready()
            self.now = target

    def invoices(self, subscription: str) -> list[Json]:
        """The invoices of a subscription, newest first."""
        return self.workshop.all("invoices", subscription=subscription)

    def draft(self, subscription: str) -> Json:
        """The newest invoice, which must be a draft. Raises NotSeenError if it is none."""
        newest = next(iter(self.invoices(subscription)), {"id": "no invoice", "status": "missing"})
        if newest["status"] != "draft":
            raise NotSeenError(f"Stripe made no draft that waits: {newest['id']} is {newest['status']}")
        return newest

    def finish(self, subscription: str) -> None:
        """Go on until every invoice that there is now is final: by itself, else by a call."""
        waiting = [row for row in self.invoices(subscription) if row["status"] == "draft"]
        due = [row["automatically_finalizes_at"] or self.now for row in waiting]
        self.go_to(max(due, default=self.now) + _AFTER_THE_TIME)
        for _ in range(_MORE_HOURS):
            if not (waiting := self._still_drafts(waiting)):
                return
            self.go_to(self.now + HOUR)
        for invoice in self._still_drafts(waiting):
            self.workshop.post(f"invoices/{invoice['id']}/finalize")

    def lines(self, subscription: str, price: Json, *, end: int | None = None) -> list[Json]:
        """The lines of a price on final invoices, newest first; `end`: of the period that ends there."""
        return [
            {**line, "invoice": invoice["id"]}
            for invoice in self.invoices(subscription)
            if invoice["status"] != "draft"
            for line in self.workshop.all(f"invoices/{invoice['id']}/lines")
            if line["pricing"]["price_details"]["price"] == price["id"]
            and end in (None, line["period"]["end"])
        ]

    def _still_drafts(self, invoices: list[Json]) -> list[Json]:
        read = [self.workshop.get(f"invoices/{row['id']}") for row in invoices]
        return [row for row in read if row["status"] == "draft"]

    def _is_counted(self, meter: Json, found: dict[int, Decimal]) -> bool:
        stamps: dict[int, dict[int, set[Decimal]]] = {}
        for id_, at, value in self._reported:
            if id_ == meter["id"]:
                stamps.setdefault(at // HOUR * HOUR, {}).setdefault(at, set()).add(value)
        if meter["default_aggregation"]["formula"] == "sum" and not meter["event_time_window"]:
            sums = {
                hour: sum(
                    (v for i, at, v in self._reported if i == meter["id"] and at // HOUR * HOUR == hour)
                )
                for hour in stamps
            }
            return all(found.get(hour) == total for hour, total in sums.items())
        return all(found.get(hour) in by_stamp[max(by_stamp)] for hour, by_stamp in stamps.items())

    def _wait_until_ready(self) -> None:
        pace = self.workshop.pace
        deadline = pace.now() + CLOCK_PATIENCE
        while (status := self.workshop.clock_status(self.clock)) == "advancing" and pace.now() < deadline:
            pace.sleep(CLOCK_POLL)
        if status != "ready":
            raise NotSeenError(f"the test clock {self.clock} did not get ready: it is {status}")

    def _delete_clock(self) -> None:
        self.workshop.put_away_one(self.clock, lambda: self.workshop.delete_clock(self.clock))


def quantity(lines: list[Json]) -> Decimal:
    """What lines bill together, in units."""
    return sum((Decimal(line["quantity_decimal"]) for line in lines), Decimal(0))


def ids(lines: list[Json]) -> tuple[str, ...]:
    """The invoices and lines that show something."""
    return tuple(dict.fromkeys(id_ for line in lines for id_ in (line["invoice"], line["id"])))
