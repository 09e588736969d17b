"""Compares what the product itself found on final invoices with what it had to find."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sandbox.simulator.bills import is_same, quantity
from sandbox.simulator.history import Item, Usage
from sandbox.simulator.oracle import Segment
from sandbox.simulator.outcome import Judged, Line

MINUTE = 60
_BESIDE = 5 * MINUTE
"""An answer that came back empty so near to a verdict may have been the one that it rests on."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The product's verdicts, by line; `used` is what a segment used, `emptied` when an answer was empty."""

    judged: dict[tuple[str, Item, int, int], Judged]
    used: Callable[[Segment], Sequence[Usage]]
    emptied: Sequence[int]

    @classmethod
    def of(
        cls,
        judged: Iterable[Judged],
        used: Callable[[Segment], Sequence[Usage]],
        struck: Iterable[tuple[int, str]],
    ) -> Findings:
        """From what a world came to."""
        by_line = {(one.customer, one.item, one.start, one.end): one for one in judged}
        return cls(by_line, used, [at for at, kind in struck if kind == "openmeter_empty"])

    def wrong(self, segment: Segment, line: Line) -> str:
        """What is wrong with the verdict on a line; empty: nothing, or there is none yet.

        What was used around a swapped price may be on either side: of such a segment do not ask.
        """
        one = self.judged.get((segment.customer, segment.item, segment.start, segment.end))
        if (
            one is None
            or one.finding == "not_judged"
            or any(abs(one.at - at) <= _BESIDE for at in self.emptied)
        ):
            return ""
        # Clocks are askew, and a function takes its time.
        right = {self._finding(segment, line, one.at + seconds) for seconds in (-MINUTE, 0, MINUTE)}
        if segment.how == "free":
            right = {"free", "exact"}  # whatever was used: nothing is charged
        if one.finding in right:
            return ""
        return f"judged {one.finding} at {one.at}, though it is {' or '.join(sorted(right))}"

    def _finding(self, segment: Segment, line: Line, at: int) -> str:
        seen = [use for use in self.used(segment) if use.seen_at <= at]
        owed = quantity(segment, seen)
        if is_same(owed, line.quantity):
            return "exact"
        return "short" if line.quantity < owed else "over"
