"""What Stripe's events say about prices that were put on an item, or taken off it, in a period; pure.

A subscription itself does not say since when an item has its price. Where the last value of a time counts,
that has to be known, because it is there that a new price begins to count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from usage_reporting.customer_meters import period_of
from usage_reporting.model import Span, SpanState
from usage_reporting.renewals import price_of, resumed_at

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Swap:
    """An item's price taken off at `at`, UTC seconds."""

    at: int
    subscription: str
    item: str
    old: str
    new: str
    """Empty: the item was removed."""
    begins: int | None = None
    """Where the item's new period begins, when the change came with one."""
    is_resumption: bool = False
    """The price is the same as before, but what was used in a pause until then is not billed."""


def swaps_of(event: Json) -> list[Swap]:
    """The changes of price that a `customer.subscription.updated` event tells of."""
    data = event.get("data") or {}
    subscription, previous = data.get("object") or {}, data.get("previous_attributes") or {}
    if resumed_at(event) is not None:
        return [_resumed(event, item) for item in _items(subscription)]
    now_on = {item.get("id"): item for item in _items(subscription)}
    found = []
    for old in _items(previous):
        new = now_on.get(old.get("id"))
        if new is not None and price_of(new) == price_of(old):
            continue
        found.append(
            Swap(
                at=int(event["created"]),
                subscription=str(subscription.get("id", "")),
                item=str(old.get("id", "")),
                old=price_of(old),
                new="" if new is None else price_of(new),
                begins=None if new is None else _new_start(subscription, previous, old, new),
            )
        )
    return found


def within(span: Span, swaps: Iterable[Swap], since: int) -> list[Swap]:
    """Those that took the item's price off in the span, from `since` on (UTC seconds); oldest first."""
    return sorted(
        (
            swap
            for swap in swaps
            if (swap.subscription, swap.item) == (span.subscription, span.item)
            and max(span.start + 1, since) <= swap.at < span.end
            and swap.begins != span.start
        ),
        key=lambda swap: swap.at,
    )


def parts(span: Span, swaps: Iterable[Swap]) -> list[Span]:
    """A span cut where its item's price changed: to all but the last part nothing can be added."""
    found: list[Span] = []
    start, rest = span.start, True
    for swap in swaps:
        if swap.at > start:
            state = SpanState.FREE if swap.is_resumption else span.when_left
            part = replace(span, start=start, end=swap.at, price=swap.old, state=state, deadline=None)
            found.append(part)
        start, rest = swap.at, bool(swap.new) and swap.begins is None
        price = swap.new
    if rest and found:
        found.append(replace(span, start=start, price=price, state=SpanState.CURRENT, deadline=None))
    return found


def _resumed(event: Json, item: Json) -> Swap:
    price, subscription = price_of(item), str(event["data"]["object"]["id"])
    return Swap(int(event["created"]), subscription, str(item["id"]), price, price, is_resumption=True)


def _items(holder: Json) -> list[Json]:
    return list((holder.get("items") or {}).get("data", []))


def _new_start(subscription: Json, previous: Json, old: Json, new: Json) -> int | None:
    """Where the new period begins; periods stood on the subscription before API 2025-03-31.basil."""
    after = period_of(subscription, new)
    before = period_of({**subscription, **previous}, old)
    return after[0] if after and before and after[0] != before[0] else None
