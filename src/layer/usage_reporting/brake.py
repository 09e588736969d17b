"""The brake: finds usage that jumps far above what is usual of a customer meter; pure.

An hour is compared with the highest hour of the last weeks, which the head of the customer meter remembers; a
total with the period before, of which the ledger knows what Stripe was told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import ROUND_DOWN, Context, Decimal
from enum import StrEnum
from typing import Any

from usage_reporting import advice
from usage_reporting.amounts import ZERO, to_wire
from usage_reporting.model import Reading
from usage_reporting.windows import DAY, HOUR, MINUTE, OLDEST_SLICE, rfc3339

NEAR = 20 * MINUTE
"""So long before a draft becomes final usage is let go, where that is set: two closing reads fall into it."""
NEAR_PERIOD_END = 2 * HOUR
"""So long before the end of a legacy price's period: closing ticks do not list one that is canceled in its
course, and two hourly ones fall into that time."""

APART = 2
"""Days between an hour and those that it is compared with: what grows read by read is not its own measure."""
FAMILIAR_AFTER = 7
"""Days from the first known usage: a weekly pattern has been seen once, and a new customer is no anomaly."""
REMEMBERED = OLDEST_SLICE // DAY + FAMILIAR_AFTER + 1
"""Days: of the oldest hour that is read a week before it is known; a monthly peak is among them."""

_15_DIGITS = Context(prec=15)


class AtDeadline(StrEnum):
    """What becomes of held usage whose invoice is about to be final."""

    HOLD = "hold"
    SEND = "send"


@dataclass(frozen=True, slots=True)
class Usual:
    """What is remembered of a customer meter's hours, in units an hour; held usage is not among it."""

    peaks: Mapping[int, Decimal] = field(default_factory=dict)
    """The highest hour of each UTC day with usage, by the day's number since 1970."""
    accepted: Decimal = ZERO
    """The highest hour that an operator accepted: it counts at once."""
    accepted_at: int = 0
    """When, UTC seconds."""

    def before(self, start: int) -> Decimal:
        """The highest hour that one from `start` on, UTC seconds, is compared with.

        Later days say nothing: what is held is not let go because more followed. 0: too little is known, so
        that nothing is a jump.
        """
        own = start // DAY
        counted = {day: peak for day, peak in self.peaks.items() if day <= own - APART}
        if min(counted, default=own) > own - FAMILIAR_AFTER:
            return ZERO
        return max([*counted.values(), self.accepted])

    def remembering(self, readings: Iterable[Reading], now: int) -> Usual:
        """With what was read of more hours; what is six weeks old at `now`, UTC seconds, is forgotten."""
        oldest = now // DAY - REMEMBERED
        peaks = dict(self.peaks)
        for one in readings:
            day = one.piece.start // DAY
            peaks[day] = max(an_hour(one), peaks.get(day, ZERO))
        kept = {day: peak for day, peak in sorted(peaks.items()) if day >= oldest and peak > 0}
        is_forgotten = self.accepted_at // DAY < oldest
        return replace(Usual() if is_forgotten else self, peaks=kept)

    def accepting(self, readings: Iterable[Reading], now: int) -> Usual:
        """With hours that an operator took as right at `now`, UTC seconds."""
        highest = max([self.accepted, *map(an_hour, readings)])
        return replace(self, accepted=highest, accepted_at=now)

    def to_item(self) -> dict[str, Any]:
        """The memory as it stands in the head."""
        peaks = {str(day): peak for day, peak in self.peaks.items()}
        accepted = {"accepted": self.accepted, "accepted_at": self.accepted_at} if self.accepted_at else {}
        return {"peaks": peaks, **accepted}

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Usual:
        """Read what `to_item` wrote."""
        return cls(
            peaks={int(day): peak for day, peak in item.get("peaks", {}).items()},
            accepted=item.get("accepted", ZERO),
            accepted_at=int(item.get("accepted_at", 0)),
        )


def usual_total(told: Decimal, seconds: int, own_seconds: int) -> Decimal:
    """What is usual of a period after one of so many seconds of which Stripe was told so much.

    A period that is longer may have as much more; a shorter one is given the same, for it may be level usage.
    """
    return _15_DIGITS.create_decimal(told * max(own_seconds, seconds) / seconds) if seconds > 0 else ZERO


@dataclass(frozen=True, slots=True)
class Jump:
    """Usage far above what is usual of so much time, in units."""

    what: str
    """The time that it is of, in words."""
    value: Decimal
    usual: Decimal
    than: str
    """Of what it is so many times, in words."""

    @property
    def times(self) -> Decimal:
        """How many times the usual it is."""
        return self.value / self.usual


@dataclass(frozen=True, slots=True)
class Brake:
    """The setting: from what on usage is held, and what becomes of it at the deadline."""

    factor: Decimal = ZERO
    """0: off."""
    floor: Decimal = ZERO
    """Units (of an hour, or of a period) up to which nothing is held."""
    at_deadline: AtDeadline = AtDeadline.HOLD

    @property
    def is_on(self) -> bool:
        """Whether anything is held at all."""
        return self.factor > 0

    def jumps(self, readings: Iterable[Reading], usual: Usual) -> dict[Reading, Jump]:
        """The slices that jump and of which more would be sent.

        A slice may be longer than an hour where PERIOD_BOUNDS rounds; a shorter one counts as an hour.
        """
        found: dict[Reading, Jump] = {}
        for one in readings if self.is_on else ():
            if one.takes_usage and one.changed and one.difference > 0:
                known = usual.before(one.piece.start) * hours_in(one)
                if self.is_jump(one.value, known, hours_in(one)):
                    hour = f"the hour {rfc3339(one.piece.hour)}"
                    found[one] = Jump(hour, one.value, known, "times its highest hour of the weeks before")
        return found

    def total_jump(self, start: int, value: Decimal, usual: Decimal) -> Jump | None:
        """A period that jumps; `usual`: its `usual_total`, `start` in UTC seconds."""
        if not self.is_on or not self.is_jump(value, usual):
            return None
        return Jump(f"the period from {rfc3339(start)}", value, usual, "times the period before it")

    def is_jump(self, value: Decimal, usual: Decimal, hours: Decimal = Decimal(1)) -> bool:
        """Whether `value` is above the factor and the floor; where nothing is usual, nothing is."""
        return usual > 0 and value > max(usual * self.factor, self.floor * hours)

    def lets_go(self, deadline: int | None, now: int, near: int = NEAR) -> bool:
        """Whether what is held is sent now; None: its invoice has no deadline yet. UTC seconds."""
        return self.at_deadline is AtDeadline.SEND and deadline is not None and deadline - now <= near

    def reason(self, jumps: Iterable[Jump], customer: str, *, is_legacy: bool = False) -> str:
        """What jumped, why it is held, what becomes of it, and what releases it."""
        found = sorted(jumps, key=lambda jump: jump.times, reverse=True)
        worst, others = found[0], len(found) - 1
        more = f", and {others} more like it" if others else ""
        times = worst.times.quantize(Decimal("0.1"), rounding=ROUND_DOWN)
        at_last = "it stays held past its invoice"
        if self.at_deadline is AtDeadline.SEND:
            before = f"{NEAR // MINUTE} minutes before its invoice is final"
            at_end = f"{NEAR_PERIOD_END // HOUR} hours before its period ends"
            at_last = f"it is sent {at_end if is_legacy else before}"
        return (
            f"{worst.what} has {to_wire(worst.value)} in OpenMeter, {to_wire(times)} {worst.than} "
            f"({to_wire(worst.usual)}){more}; BRAKE_FACTOR is {to_wire(self.factor)}, so it is held and "
            f"{at_last}; if it is wrong, correct the events in OpenMeter; if it is right, release it with "
            + advice.accept(customer)
        )


def hours_in(reading: Reading) -> Decimal:
    """How many hours' usage a slice may have."""
    return max(Decimal(reading.piece.end - reading.piece.start) / HOUR, Decimal(1))


def an_hour(reading: Reading) -> Decimal:
    """What was used in an hour of a slice."""
    return _15_DIGITS.create_decimal(reading.value / hours_in(reading))
