"""Windows of time in which Stripe refused meter events without naming each, one item a Stripe meter; pure.

There is no index of the sends by meter. So the window is kept once for the meter, read with the heads of a
page (one more key), and each customer meter looks through its own sends when it is next reported: its head
remembers up to which window it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from usage_reporting.amounts import is_same
from usage_reporting.model import Send, SendState
from usage_reporting.windows import BOUNDS_KEPT, MINUTE

DOUBTS = "doubts"

MARGIN = MINUTE
"""Stripe validates an event some time after it took it, and its clock is not ours."""


@dataclass(frozen=True, slots=True)
class Window:
    """A window of refusals, UTC seconds; `number`: its place in the order in which they became known."""

    start: int
    end: int
    number: int

    def concerns(self, send: Send, now: int) -> bool:
        """Whether a send may have been made in the window."""
        last = send.told_at if send.state is not SendState.INTENT else now
        return send.intended_at <= self.end + MARGIN and last >= self.start - MARGIN


@dataclass(frozen=True, slots=True)
class Look:
    """An hour with doubted sends when Stripe's summary of it was looked at, UTC seconds."""

    at: int
    held: Decimal
    """What the summary had."""
    known: Decimal
    """The sum of the sends of the hour that were not doubted."""
    doubted: frozenset[str]
    """The identifiers of those that were."""
    is_repeated: bool = False
    """Whether the look before showed the same, and neither had just one explanation."""

    def shows_the_same(self, other: Look) -> bool:
        """Whether neither the summary nor what is known and doubted changed in between."""
        return is_same(self.held, other.held) and (self.known, self.doubted) == (other.known, other.doubted)

    def to_item(self) -> dict[str, Any]:
        """The look as it stands in an entry."""
        return {
            "at": self.at,
            "held": self.held,
            "known": self.known,
            "doubted": sorted(self.doubted),
            "repeated": self.is_repeated,
        }

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Look:
        """Read what `to_item` wrote."""
        return cls(int(item["at"]), item["held"], item["known"], frozenset(item["doubted"]), item["repeated"])


@dataclass(frozen=True, slots=True)
class Doubts:
    """The windows of one Stripe meter."""

    pk: str
    windows: Mapping[str, Window] = field(default_factory=dict)
    """By the id of Stripe's event."""
    newest: int = 0
    """The number of the newest window ever kept."""
    version: int = 0

    def with_window(self, event: str, start: int, end: int, now: int) -> Doubts:
        """With one window more; the same event adds nothing twice, and windows of 35 days ago are dropped."""
        if event in self.windows:
            return self
        kept = {name: window for name, window in self.windows.items() if window.end > now - BOUNDS_KEPT}
        number = self.newest + 1
        return replace(self, windows={**kept, event: Window(start, end, number)}, newest=number)

    def after(self, number: int) -> list[Window]:
        """The windows that became known after the one of this number."""
        return [window for window in self.windows.values() if window.number > number]

    def to_item(self, now: int) -> dict[str, Any]:
        """The windows as they are stored, one version on."""
        return {
            "pk": self.pk,
            "sk": DOUBTS,
            "windows": {
                event: {"start": window.start, "end": window.end, "number": window.number}
                for event, window in self.windows.items()
            },
            "newest": self.newest,
            "version": self.version + 1,
            "expires_at": now + BOUNDS_KEPT,
        }

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> Doubts:
        """Read what `to_item` wrote."""
        return cls(
            pk=item["pk"],
            windows={
                event: Window(int(window["start"]), int(window["end"]), int(window["number"]))
                for event, window in item["windows"].items()
            },
            newest=int(item["newest"]),
            version=int(item["version"]),
        )
