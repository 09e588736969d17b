"""What meters have received, and how it adds up (Configure meters, "Meter attributes")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal, localcontext

from sandbox.stripe.account import Account
from sandbox.stripe.objects import Meter

WINDOW_SECONDS = {"hour": 3600, "day": 24 * 3600}


@dataclass(frozen=True)
class MeterEvent:
    """An accepted event; `number` is its place in the order of receipt."""

    identifier: str
    meter: str
    customer: str
    value: Decimal
    timestamp: int
    received: int
    number: int


class MeterLedger:
    """Accepted meter events per meter and customer."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._events: dict[tuple[str, str], list[MeterEvent]] = {}
        self._received: dict[tuple[str, bool], MeterEvent] = {}
        self._count = 0
        self.rejected: list[MeterEvent] = []

    def record(
        self,
        identifier: str,
        meter: str,
        customer: str,
        value: Decimal,
        timestamp: int,
        *,
        counted: bool = True,
        is_streamed: bool = False,
    ) -> MeterEvent:
        """Keep one event; not `counted`: accepted, and found wrong afterwards (see `validation`)."""
        self._count += 1
        now = self._account.machine_time()
        event = MeterEvent(identifier, meter, customer, value, timestamp, now, self._count)
        self._received[self._way(identifier, is_streamed=is_streamed)] = event
        if counted:
            self._events.setdefault((meter, customer), []).append(event)
        else:
            self.rejected.append(event)
        return event

    def accepted(self) -> list[MeterEvent]:
        """Every event that counts, in order of receipt."""
        rows = [event for events in self._events.values() for event in events]
        return sorted(rows, key=lambda event: event.number)

    def received(self, identifier: str, *, is_streamed: bool = False) -> MeterEvent | None:
        """The newest event that came with this identifier, whichever way: Stripe does not say."""
        return self._received.get(self._way(identifier, is_streamed=is_streamed))

    def _way(self, identifier: str, *, is_streamed: bool) -> tuple[str, bool]:
        return identifier, is_streamed and self._account.settings.undocumented.identifier_per_way

    def cancel(self, event: MeterEvent) -> None:
        """Take one event back (meter event adjustment)."""
        rows = self._events.get((event.meter, event.customer), [])
        if event in rows:
            rows.remove(event)

    def ties(self) -> list[tuple[str, int]]:
        """Customer and stamp where a `last` meter holds two values: Stripe does not say which counts."""
        values: dict[tuple[str, str, int], set[Decimal]] = {}
        for (meter, customer), events in self._events.items():
            if self._account.meters.get(meter).formula == "last":
                for event in events:
                    values.setdefault((meter, customer, event.timestamp), set()).add(event.value)
        return [(customer, stamp) for (_, customer, stamp), several in values.items() if len(several) > 1]

    def events(
        self, meter: Meter, customer: str, start: int, end: int, *, settled: bool = False
    ) -> list[MeterEvent]:
        """Events stamped in [start, end) in order of receipt, as the meter's ingestion leaves them.

        With an event_time_window only the last received event of each UTC window remains, whichever
        period the others were stamped in: the literal reading of the documentation, which is silent
        about a period that ends inside a window. `settled`: only what asynchronous aggregation has
        reached by now.
        """
        rows: Iterable[MeterEvent] = self._events.get((meter.id, customer), ())
        if settled:
            latest = self._account.machine_time() - self._account.settings.aggregation_delay
            rows = [row for row in rows if row.received <= latest]
        if meter.event_time_window is not None:
            size = WINDOW_SECONDS[meter.event_time_window]
            if self._account.settings.undocumented.window_ends_with_period:
                rows = [row for row in rows if start <= row.timestamp < end]
            rows = {row.timestamp // size: row for row in rows}.values()
        return [row for row in rows if start <= row.timestamp < end]

    def usage(self, meter: Meter, customer: str, start: int, end: int, *, settled: bool = False) -> Decimal:
        """The meter's aggregate over a billed time, [start, end)."""
        undocumented = self._account.settings.undocumented
        # Whole seconds: (start, end] is [start + 1, end + 1).
        late = int(undocumented.end_is_in_ended_period)
        events = self.events(meter, customer, start + late, end + late, settled=settled)
        if not events and meter.formula == "last" and undocumented.last_carries_over:
            events = self.events(meter, customer, 0, end, settled=settled)
        return self.aggregate(meter, events)

    def aggregate(self, meter: Meter, events: list[MeterEvent]) -> Decimal:
        """Sum, count, or the value with the newest stamp; 0 without events.

        Which of several values with one stamp is the last is not documented: here it is the one received
        first, which nobody would rely on.
        """
        if not events:
            return Decimal(0)
        if meter.formula == "count":
            return Decimal(len(events))
        if meter.formula == "last":
            return max(events, key=self._lastness).value
        drops = self._account.settings.undocumented.negative_events_are_dropped
        with localcontext(prec=60):
            return sum((row.value for row in events if row.value > 0 or not drops), Decimal(0))

    def _lastness(self, event: MeterEvent) -> tuple[int, int]:
        """What is the greater, the later formula `last` takes an event to be."""
        undocumented = self._account.settings.undocumented
        if undocumented.last_by_receipt:
            return event.number, 0
        return event.timestamp, event.number if undocumented.last_tie_takes_newest else -event.number
