"""`om_usage_since` on a subscription item: usage from before its start that its first period bills; pure.

A legacy price's last record ends half an hour before its period does. What was used in that half hour belongs
to the first period of the item that follows, on a price with a meter.
"""

from __future__ import annotations

from typing import Any

from usage_reporting.windows import BOUNDS_KEPT, DAY, rfc3339

Json = dict[str, Any]

OM_USAGE_SINCE = "om_usage_since"
"""In an item's metadata: UTC seconds."""

MADE_LATE = 60
"""Stripe may make a new item so many seconds after the renewal that it begins at."""

_SHORTEST = {"day": DAY, "week": 7 * DAY, "month": 28 * DAY, "year": 365 * DAY}


def usage_since(item: Json, start: int) -> int | None:
    """From when on the usage counts of an item's period that begins at `start`; None: from there.

    UTC seconds. It is said of the first period after that instant, and stays in the metadata for all later
    ones: a schedule may keep the item's id, so that nothing but the time between tells which one it is.
    """
    since = _said(item)
    recurring = item["price"].get("recurring") or {}
    if since is None or not recurring.get("meter") or since >= start:
        return None
    shortest = _SHORTEST.get(str(recurring.get("interval")), DAY) * int(recurring.get("interval_count") or 1)
    reach = BOUNDS_KEPT if _begins_with(item, start) else min(shortest - 1, BOUNDS_KEPT)
    return since if start - since <= reach else None


def refusal(item: Json, start: int) -> str | None:
    """Why a running period is not reported: what the item's metadata says cannot be so."""
    said = (item.get("metadata") or {}).get(OM_USAGE_SINCE)
    if not said or not (item["price"].get("recurring") or {}).get("meter"):
        return None
    what = f"subscription item {item['id']} has {OM_USAGE_SINCE}={said}"
    since = _said(item)
    if since is None:
        return f"{what}, which is no time in UTC seconds; correct it, or take it away"
    if since > start:
        return (
            f"{what}, which is after its period began at {rfc3339(start)}, and would leave usage unbilled; "
            "correct it, or take it away"
        )
    if _begins_with(item, start) and start - since > BOUNDS_KEPT:
        return (
            f"{what}, which is more than 35 days before it began at {rfc3339(start)}; Stripe takes no usage "
            "that old: correct it, or take it away"
        )
    return None


def _begins_with(item: Json, start: int) -> bool:
    """Whether an item is known to have been made with the period that begins at `start`."""
    created = item.get("created")
    return isinstance(created, int) and start <= created <= start + MADE_LATE


def _said(item: Json) -> int | None:
    said = str((item.get("metadata") or {}).get(OM_USAGE_SINCE) or "")
    return int(said) if said.isascii() and said.isdigit() and len(said) <= 10 else None
