"""PERIOD_BOUNDS: where usage is cut for each instant at which Stripe's billing changes; pure.

With `exact` a bound and its cut are the same second. Otherwise a renewal is cut at the start of the UTC
window (minute, hour or day) that holds it: usage from there on is stamped at or after the renewal, so that
the next period bills it. OpenMeter servers before March 2025 refuse odd seconds ("from must be rounded to
MINUTE"), so a first start is cut at the next full minute, and a last end at the one before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from usage_reporting.model import Span, SpanState
from usage_reporting.windows import DAY, HOUR, MINUTE, ceil_minute, floor_minute

type Cuts = Mapping[int, int]
"""Where usage is cut, by the bound that it is cut for: UTC seconds, and never falling."""


class PeriodBounds(StrEnum):
    """To which window a renewal is rounded down."""

    EXACT = "exact"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        """The length of the window, in seconds."""
        return _SECONDS[self]

    def renewal(self, instant: int) -> int:
        """Where a renewal is cut: at the start of its window."""
        return instant - instant % self.seconds

    def first_start(self, instant: int) -> int:
        """Where the very start of billing is cut: nothing from before it is billed."""
        return instant if self is PeriodBounds.EXACT else ceil_minute(instant)

    def last_end(self, instant: int) -> int:
        """Where the very end of billing is cut: nothing from after it is billed."""
        return instant if self is PeriodBounds.EXACT else floor_minute(instant)


_SECONDS = {
    PeriodBounds.EXACT: 1,
    PeriodBounds.MINUTE: MINUTE,
    PeriodBounds.HOUR: HOUR,
    PeriodBounds.DAY: DAY,
}


_LEFT = frozenset({SpanState.BILLED, SpanState.DROPPED})


def cuts_of(
    bounds: Iterable[int],
    spans: Iterable[Span],
    setting: PeriodBounds,
    *,
    stamps: Sequence[int] = (),
    kept: Cuts | None = None,
) -> dict[int, int]:
    """Where usage is cut for each bound, in their order; no cut lies before that of an earlier bound.

    `stamps`: of what Stripe was told, ascending. What was stamped before a bound became known stays in the
    period that it is in, so that nothing is billed in two. `kept`: cuts by which usage was sent before;
    they outlive a change of the setting.
    """
    own = _own_cuts(known := tuple(spans))
    known = tuple(span for span in known if span.state is not SpanState.BESIDE)
    # What goes on at another price in the same second did not start there.
    went_on = {(span.item, span.end) for span in known if span.state in _LEFT}
    starts = {span.start for span in known if span.first and (span.item, span.start) not in went_on}
    pauses = [one for one in known if one.state is SpanState.FREE and one.when_left is not SpanState.FREE]
    starts.update(span.end for span in pauses)
    ends = {span.end for span in known if span.last or span.state in _LEFT}
    kept = kept or {}
    cuts: dict[int, int] = {}
    latest = 0
    for bound in sorted(bounds):
        if bound in own:
            at = kept.get(bound, own[bound])
        elif bound in ends - starts:
            # A renewal that turned out to be the end: no next period bills what its window holds.
            at = max(setting.last_end(bound), kept.get(bound, 0))
        elif bound in kept:
            at = kept[bound]
        elif bound in starts:
            at = setting.first_start(bound)
        else:
            at = setting.renewal(bound)
        latest = max(latest, _beside_stamps(bound, at, stamps))
        cuts[bound] = latest
    return cuts


def _own_cuts(spans: Sequence[Span]) -> dict[int, int]:
    """The cuts that spans themselves ask for, by their bounds.

    Where a legacy price's usage begins and ends, what its meter holds beside the records does, too. The
    first period at the new price begins there: that nothing is lost between the two, what the records bill
    goes before what the new item says. A period that renews at the same instant is cut as ever.
    """
    billed = sorted((one for one in spans if one.state is not SpanState.BESIDE), key=lambda one: one.start)
    beside = [one for one in spans if one.state is SpanState.BESIDE]
    firsts: dict[tuple[str, int], Span] = {}
    for span in billed:
        if span.usage_since is not None:
            firsts.setdefault((span.item, span.usage_since), span)
    found = {span.start: since for (_, since), span in firsts.items()}
    found |= {span.start: span.usage_since for span in beside if span.usage_since is not None}
    found |= {one.end: min(one.usage_until, one.end) for one in beside if one.usage_until is not None}
    renewing = {span.end for span in billed}
    return {bound: at for bound, at in found.items() if bound not in renewing}


def measured(span: Span, cuts: Cuts) -> tuple[int, int]:
    """The usage that a span bills: [start, end), UTC seconds; empty where its rounded ends meet."""
    start = cuts.get(span.start, span.start)
    return start, max(cuts.get(span.end, span.end), start)


def _beside_stamps(bound: int, at: int, stamps: Sequence[int]) -> int:
    """A cut that separates what is stamped before its bound from what is stamped after it."""
    if bisect_left(stamps, at) > bisect_left(stamps, bound):
        at = floor_minute(bound)
    earlier = bisect_left(stamps, bound)
    if earlier and stamps[earlier - 1] >= at:
        return min(ceil_minute(stamps[earlier - 1] + 1), bound)
    return at
