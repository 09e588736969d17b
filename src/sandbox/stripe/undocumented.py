"""What Stripe does not document, each as a setting: as it stands, what the product takes for true."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True)
class Undocumented:
    """How the stand-in behaves where Stripe's documentation is silent, or could be read in two ways.

    `usage-reporter probe` finds out which way a Stripe account behaves (docs/probe.md).
    """

    end_is_in_ended_period: bool = False
    """An event stamped at the second in which a period ends counts in that period."""
    last_by_receipt: bool = False
    """Formula `last` takes the event received last, whatever its stamp; so also of two with one stamp."""
    last_tie_takes_newest: bool = False
    """Of two events of one stamp, formula `last` takes the one received later."""
    last_carries_over: bool = False
    """Formula `last` bills a period without an event by the value of an earlier one."""
    drafts_are_closed: bool = False
    """A renewal's draft takes no usage that comes after it was made."""
    last_draft_is_closed: bool = False
    """The invoice of a cancellation at a period's end is final at once."""
    cancellation_bills_usage: bool = False
    """An immediate cancellation bills its usage without `invoice_now`, too."""
    invoice_now_waits: bool = False
    """The invoice of an immediate cancellation with `invoice_now` waits as a draft, and takes usage."""
    negative_events_are_dropped: bool = False
    """A negative event does not lower a sum."""
    negative_totals_are_billed: bool = False
    """A total below zero is billed as it is, not as zero."""
    set_replaces_all: bool = False
    """A usage record with `action=set` replaces those at other instants of the period as well."""
    window_ends_with_period: bool = False
    """With `event_time_window`, an event of the next period replaces none of the ended one."""
    custom_time_keeps_hold: bool = False
    """A draft with a finalization time of its own waits for the webhook all the same."""
    swap_line_spans_period: bool = False
    """The line of a price that was put on in mid-period shows the whole period."""
    swapped_usage_stays_open: bool = False
    """What a swapped price bills in flexible mode is counted when its invoice becomes final."""
    schedule_replaces_items: bool = False
    """A phase with other prices makes new subscription items, rather than changing the old ones.

    "Subscription schedules" says that the items' metadata is updated, and so that they stay, but not of
    which.
    """
    lines_show_packages: bool = False
    """The line of a price that divides quantities (`transform_quantity`) shows packages, not units."""
    identifier_per_way: bool = False
    """An identifier of the v1 API is unknown to the stream of the v2 API."""
    stamps_checked_by_real_time: bool = False
    """Of a customer on a test clock, 35 days and 5 minutes are counted from the real time."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From settings by name. Raises ValueError for one that does not exist, or is no truth value."""
        known = {field.name for field in fields(cls)}
        for name, value in values.items():
            if name not in known or not isinstance(value, bool):
                raise ValueError(f"{name}={value!r} is no setting of the stand-in")
        return cls(**values)


AS_ASSUMED = Undocumented()
"""All as the product takes it to be."""


@dataclass(frozen=True)
class Facts:
    """What a file of `usage-reporter probe` says: how to behave, and what cannot be imitated."""

    undocumented: Undocumented
    not_imitated: tuple[str, ...]
    """The names of facts that differ in a way for which the stand-in has no setting."""

    @property
    def different(self) -> list[str]:
        """The settings that are not as the product takes them to be."""
        return [field.name for field in fields(self.undocumented) if getattr(self.undocumented, field.name)]


def read_facts(path: str | Path) -> Facts:
    """Read a file that `usage-reporter probe` wrote.

    A fact that could not be seen keeps its default. Raises OSError, or ValueError for what is no such file.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["facts"]
        settings = {name: value for fact in found for name, value in fact["sandbox"].items()}
        missing = [fact["name"] for fact in found if fact["result"] == "differs" and not fact["sandbox"]]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no file of `usage-reporter probe`") from error
    return Facts(Undocumented.of(settings), tuple(missing))
