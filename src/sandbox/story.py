"""The demo's story: who is billed when, what they use, and what their invoices must say.

All of it is the demo's own plan and arithmetic: nothing here is asked of anyone. Instants are UTC
unix seconds.
"""

from __future__ import annotations

import calendar
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final, Literal

DURATION: Final = "execution_duration"
"""An OpenMeter meter that sums."""
CALLS: Final = "api_calls"
"""An OpenMeter meter that counts."""

HOUR: Final = 3600
_DAY: Final = 24 * HOUR
_DAYS_USED = 10
_HOURS_A_DAY = 3
_EVENTS_AN_HOUR = (8, 20)
_AROUND_AN_ANCHOR = (-2, -1, 0, 1, 2)


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A customer with one subscription, whose month [start, end) is billed while you watch."""

    name: str
    start: int
    end: int
    billing_mode: Literal["classic", "flexible"]
    anchor: int
    signed_up: int | None
    """None: signs up today, backdated to `start`."""
    meters: tuple[str, ...] = (DURATION,)
    is_licensed_too: bool = False
    webhook: Literal["once", "twice", "never"] = "once"
    has_late_usage: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """One usage event; `is_late`: it reaches OpenMeter only after its month was reported."""

    id: str
    customer: str
    meter: str
    time: int
    value: Decimal
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class Bill:
    """A customer's usage on one meter: what the demo's own events add up to, and the invoice line."""

    customer: str
    meter: str
    metered: Decimal
    billed: Decimal
    invoice: str
    amount: int
    """Of the whole invoice, in cents."""

    @property
    def verdict(self) -> str:
        """EXACT to the last decimal, or SHORT or OVER by how much."""
        if self.billed == self.metered:
            return "EXACT"
        word = "SHORT" if self.billed < self.metered else "OVER"
        return f"{word} by {abs(self.billed - self.metered).normalize():f}"


def months_before(instant: int, months: int) -> int:
    """The same day and time so many months earlier; where there is no such day, the month's last."""
    then = datetime.fromtimestamp(instant, UTC)
    year, month = divmod(then.year * 12 + then.month - 1 - months, 12)
    day = min(then.day, calendar.monthrange(year, month + 1)[1])
    return int(then.replace(year=year, month=month + 1, day=day).timestamp())


def subscribers(first_end: int) -> list[Subscriber]:
    """Six customers whose months end within a quarter of a minute, the first one's at `first_end`.

    No two end in the same second, and none at a full minute.
    """
    ends = [first_end + seconds for seconds in range(1, 60) if (first_end + seconds) % 60]
    return [
        _longstanding("Ada", ends[0], stub=9 * _DAY + 41_017, has_late_usage=True),
        _backdated("Bell", ends[3], webhook="twice", has_late_usage=True),
        _longstanding(
            "Curie",
            ends[5],
            stub=4 * _DAY + 7_233,
            meters=(DURATION, CALLS),
            is_licensed_too=True,
            has_late_usage=True,
        ),
        _longstanding("Dirac", ends[8], stub=17 * _DAY + 3, billing_mode="classic"),
        _longstanding("Euler", ends[11], stub=22 * _DAY + 59_999, webhook="never", has_late_usage=True),
        _backdated("Fermi", ends[13]),
    ]


def usage_of(people: Iterable[Subscriber], seed: int) -> list[Usage]:
    """All usage of all, in the order of time: the same for the same seed and months."""
    chance = random.Random(seed)
    events = [
        event for person in people for meter in person.meters for event in _usage(chance, person, meter)
    ]
    return sorted(events, key=lambda event: (event.time, event.id))


def metered(events: Iterable[Usage], person: Subscriber, meter: str) -> Decimal:
    """What a customer used on a meter within the month: the sum of these events' values."""
    theirs = [event for event in events if (event.customer, event.meter) == (person.name, meter)]
    return sum((event.value for event in theirs if person.start <= event.time < person.end), Decimal(0))


def _longstanding(
    name: str,
    end: int,
    *,
    stub: int,
    billing_mode: Literal["classic", "flexible"] = "flexible",
    meters: tuple[str, ...] = (DURATION,),
    is_licensed_too: bool = False,
    webhook: Literal["once", "twice", "never"] = "once",
    has_late_usage: bool = False,
) -> Subscriber:
    """Signed up `stub` seconds before an anchor one or two months ago, whose day of the month is `end`'s."""
    anchor = next(
        instant
        for instant in (months_before(end, 1), months_before(end, 2))
        if _day_of_month(instant) == _day_of_month(end)
    )
    return Subscriber(
        name=name,
        start=months_before(end, 1),
        end=end,
        billing_mode=billing_mode,
        anchor=anchor,
        signed_up=anchor - stub,
        meters=meters,
        is_licensed_too=is_licensed_too,
        webhook=webhook,
        has_late_usage=has_late_usage,
    )


def _backdated(
    name: str,
    end: int,
    *,
    webhook: Literal["once", "twice", "never"] = "once",
    has_late_usage: bool = False,
) -> Subscriber:
    """Signs up today for a month that began long ago; only classic billing puts that on the renewal.

    Source: Stripe documentation, "Backdate subscriptions".
    """
    return Subscriber(
        name=name,
        start=months_before(end, 1),
        end=end,
        billing_mode="classic",
        anchor=end,
        signed_up=None,
        webhook=webhook,
        has_late_usage=has_late_usage,
    )


def _usage(chance: random.Random, person: Subscriber, meter: str) -> Iterator[Usage]:
    times = list(_times(chance, person))
    late = list(_late_times(chance, person)) if person.has_late_usage else []
    for number, (time, is_late) in enumerate([*((t, False) for t in times), *((t, True) for t in late)]):
        value = Decimal(chance.randint(1, 20_000)).scaleb(-3) if meter == DURATION else Decimal(1)
        yield Usage(f"{person.name}-{meter}-{number}", person.name, meter, time, value, is_late)


def _times(chance: random.Random, person: Subscriber) -> Iterator[int]:
    """In a few dozen hours of the month, and before, at and after both anchors to the second.

    Before the month only of those whom nobody billed before: of others that would be usage of a period whose
    invoice was final before the stack was there.
    """
    earliest = 0 if person.signed_up is None else person.start
    first, last = _hour_of(person.start), _hour_of(person.end)
    days = chance.sample(range(first + HOUR, last - _DAY, _DAY), _DAYS_USED)
    between = [day + hour * HOUR for day in days for hour in chance.sample(range(20), _HOURS_A_DAY)]
    hours = [first, *between, last - HOUR, last]
    for hour in hours:
        open_until = min(hour + HOUR, person.end)
        for _ in range(chance.randint(*_EVENTS_AN_HOUR) if hour < open_until else 0):
            yield chance.randrange(max(hour, earliest), open_until)
    around = (anchor + seconds for anchor in (person.start, person.end) for seconds in _AROUND_AN_ANCHOR)
    yield from (instant for instant in around if instant >= earliest)


def _late_times(chance: random.Random, person: Subscriber) -> Iterator[int]:
    """All inside the month: its very first and last seconds, and some in between."""
    yield from (person.start, person.end - 1, person.end - 1, person.end - 30)
    yield from (chance.randrange(person.end - 2 * HOUR, person.end) for _ in range(4))
    yield from (chance.randrange(person.start, person.end) for _ in range(8))


def _hour_of(instant: int) -> int:
    return instant - instant % HOUR


def _day_of_month(instant: int) -> int:
    return datetime.fromtimestamp(instant, UTC).day
