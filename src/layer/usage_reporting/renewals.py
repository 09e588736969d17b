"""What a Stripe event says about periods that ended, and whose they are; pure.

An event is a hint: the caller fetches the object. Only ids and `previous_attributes` are taken from
the payload, which comes in two shapes: since API 2025-03-31.basil the periods stand on the items
(changelog, "Deprecates subscription-level current period"), before it on the subscription.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from usage_reporting.amounts import loads
from usage_reporting.errors import BadRequestError

Json = dict[str, Any]

UPDATED = "customer.subscription.updated"
DELETED = "customer.subscription.deleted"
INVOICE_CREATED = "invoice.created"
INVOICE_FINALIZED = "invoice.finalized"
HANDLED = frozenset({UPDATED, DELETED, INVOICE_CREATED, INVOICE_FINALIZED})

_SUBSCRIPTION = re.compile(r"sub_[A-Za-z0-9_]{1,250}")
_INVOICE = re.compile(r"in_[A-Za-z0-9_]{1,250}")
_OBJECT_ID = re.compile(r"[A-Za-z0-9_]{1,255}")
_LAST_INSTANT = 2**33


@dataclass(frozen=True, slots=True)
class EndedPeriod:
    """A period that an event says has ended, UTC seconds.

    `item` is the old subscription item in full where the payload holds it; None means: every item of
    the subscription.
    """

    start: int
    end: int
    item: Json | None = None
    price_left: bool = False
    """Whether its price was taken off the item before it would have ended."""


def parse(body: bytes) -> Json:
    """Read an event's body. Raises BadRequestError for anything that is not a Stripe event."""
    try:
        event = loads(body.decode("utf-8"))
    except ValueError as error:
        raise BadRequestError("the body is not JSON in UTF-8") from error
    return checked(event, "the body")


def checked(event: object, what: str) -> Json:
    """An event that was read already. Raises BadRequestError, with `what` it was, for anything else."""
    if not isinstance(event, dict) or not isinstance(event.get("type"), str):
        raise BadRequestError(f"{what} is not a Stripe event: it has no `type`")
    return event


def subscription_id(event: Json) -> str:
    """The id of the subscription that an event is about. Raises BadRequestError."""
    return _id_like(_SUBSCRIPTION, event, "subscription")


def invoice_id(event: Json) -> str:
    """The id of the invoice that an event is about. Raises BadRequestError."""
    return _id_like(_INVOICE, event, "invoice")


def mode_of(event: Json) -> str:
    """Stripe's mode, `live` or `test`, as it stands in the ledger's keys."""
    return "live" if event.get("livemode") else "test"


def ended_periods(event: Json) -> list[EndedPeriod]:
    """The periods that a `customer.subscription.updated` event says are over; empty for other updates.

    Raises BadRequestError when `data` is not what Stripe sends.
    """
    subscription, previous = _object(event), _previous(event)
    if "current_period_start" in previous:
        old_items: list[Json | None] = list(_items(previous)) if "items" in previous else [None]
        period = _moved_period(previous, subscription)
        if period is None:
            return []
        start, end, is_cut_short = period
        now_on = _by_id(subscription) if is_cut_short and "items" in previous else {}
        return [EndedPeriod(start, end, item, item is not None and _left(item, now_on)) for item in old_items]
    if "items" in previous:
        return _by_items(_items(previous), _by_id(subscription))
    return []


def taken_off(event: Json) -> list[EndedPeriod]:
    """The items whose meter a `customer.subscription.updated` event left without a price in mid-period.

    A price that another one of the same meter replaced is not among them: that one bills the hour. `end`
    is when it happened. Raises BadRequestError when `data` is not what Stripe sends.
    """
    subscription, previous, at = _object(event), _previous(event), _instant(event.get("created"))
    if at is None or "items" not in previous:
        return []
    still_metered = {_meter(item) for item in _items(subscription)} | {""}
    gone = []
    for item in _items(previous):
        start, end = (
            _instant(item.get(name, subscription.get(name)))
            for name in ("current_period_start", "current_period_end")
        )
        if start is not None and end is not None and start < at < end and _meter(item) not in still_metered:
            gone.append(EndedPeriod(start, at, item))
    return gone


def paused_at(event: Json) -> int | None:
    """When a `customer.subscription.updated` event began a pause, UTC seconds; None if it did not."""
    was_paused = _previous(event).get("status", "paused") == "paused"
    is_paused = _object(event).get("status") == "paused"
    return _instant(event.get("created")) if is_paused and not was_paused else None


def resumed_at(event: Json) -> int | None:
    """When a `customer.subscription.updated` event ended a pause, UTC seconds; None if it did not."""
    was_paused = _previous(event).get("status") == "paused" and _object(event).get("status") != "paused"
    return _instant(event.get("created")) if was_paused else None


def _meter(item: Json) -> str:
    return (item.get("price", {}).get("recurring") or {}).get("meter") or ""


def _id_like(pattern: re.Pattern[str], event: Json, what: str) -> str:
    found = _object(event).get("id")
    if not isinstance(found, str) or not pattern.fullmatch(found):
        raise BadRequestError(f"`data.object.id` is not the id of a {what}")
    return found


def _object(event: Json) -> Json:
    data = event.get("data")
    found = data.get("object") if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise BadRequestError("`data.object` is not an object")
    return found


def _previous(event: Json) -> Json:
    _object(event)
    previous = event["data"].get("previous_attributes") or {}
    if not isinstance(previous, dict):
        raise BadRequestError("`data.previous_attributes` is not an object")
    return previous


def _by_id(subscription: Json) -> dict[str, Json]:
    return {item["id"]: item for item in _items(subscription)}


def _by_items(old_items: list[Json], now_on: dict[str, Json]) -> list[EndedPeriod]:
    new_starts = {id_: _instant(item.get("current_period_start")) for id_, item in now_on.items()}
    ended = []
    for item in old_items:
        start = _instant(item.get("current_period_start"))
        end = _instant(item.get("current_period_end"))
        if start is None or end is None:
            continue
        # An item that left at the renewal has no new period of its own: its siblings' tells.
        moved_to = new_starts.get(item["id"]) if item["id"] in new_starts else _follower(new_starts, end)
        if moved_to is not None and moved_to > start and min(end, moved_to) > start:
            left = moved_to < end and _left(item, now_on)
            ended.append(EndedPeriod(start, min(end, moved_to), item, left))
    return ended


def _follower(new_starts: dict[str, int | None], end: int) -> int | None:
    return end if end in new_starts.values() else None


def _left(old: Json, now_on: dict[str, Json]) -> bool:
    """Whether an item is still there, and has another price than before."""
    new = now_on.get(old["id"])
    return new is not None and price_of(old) not in {"", price_of(new)}


def price_of(item: Json) -> str:
    """The id of an item's price; empty where it is not shown."""
    return str((item.get("price") or {}).get("id", ""))


def _moved_period(previous: Json, subscription: Json) -> tuple[int, int, bool] | None:
    start = _instant(previous.get("current_period_start"))
    new_start = _instant(subscription.get("current_period_start"))
    end = _instant(previous.get("current_period_end", new_start))
    if start is None or end is None or new_start is None or new_start <= start:
        return None
    ended_at = min(end, new_start)
    return (start, ended_at, new_start < end) if ended_at > start else None


def _items(holder: Json) -> list[Json]:
    listed = holder.get("items")
    items = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(items, list) or not all(_is_item(item) for item in items):
        raise BadRequestError("`items.data` is not a list of subscription items")
    return items


def _is_item(item: object) -> bool:
    """An item as Stripe shows it; a price that it does not show is asked for."""
    if not isinstance(item, dict) or not isinstance(price := item.get("price", {"id": "unseen"}), dict):
        return False
    recurring = price.get("recurring")
    product = price.get("product")
    return (
        all(_is_id(found) for found in (item.get("id"), price.get("id")))
        and isinstance(recurring, dict | None)
        and (not recurring or recurring.get("meter") is None or _is_id(recurring["meter"]))
        and (product is None or _is_id(product.get("id") if isinstance(product, dict) else product))
        and all(_is_metadata(holder.get("metadata")) for holder in (item, price))
    )


def _is_id(value: object) -> bool:
    return isinstance(value, str) and bool(_OBJECT_ID.fullmatch(value))


def _is_metadata(value: object) -> bool:
    return value is None or (
        isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
    )


def _instant(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LAST_INSTANT:
        return value
    return None
