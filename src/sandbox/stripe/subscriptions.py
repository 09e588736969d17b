"""Creating subscriptions."""

from __future__ import annotations

from typing import Any

from sandbox.stripe.books import Books
from sandbox.stripe.errors import invalid, missing, unknown
from sandbox.stripe.invoices import CREATE
from sandbox.stripe.lifecycle import in_order, is_metered
from sandbox.stripe.objects import (
    InvoiceLine,
    Price,
    Recurring,
    Subscription,
    SubscriptionItem,
)
from sandbox.stripe.periods import next_boundary
from sandbox.stripe.test_clocks import MOST_SUBSCRIPTIONS
from sandbox.stripe.versions import ApiVersion

Params = dict[str, Any]
MAX_ITEMS = 20
# Raised in August 2026 (flexible billing mode); this number only makes pages necessary.
MAX_ITEMS_FLEXIBLE = 250
_DAY = 86_400


def create_subscription(books: Books, params: Params, version: ApiVersion) -> Subscription:
    """A new subscription with its first invoice, if there is something to invoice.

    Raises StripeError for combinations that Stripe refuses. Without any line (flexible mode makes
    no zero lines at creation) no invoice is made: the documentation does not say, and this leaves
    `latest_invoice` empty, the harder case for readers.
    """
    account = books.account
    now = account.now()
    customer = account.customers.refer(params["customer"], "customer")
    if customer.deleted:
        raise invalid(f"No such customer: '{customer.id}'", "customer", "resource_missing")
    held = [row for row in account.subscriptions.newest(customer=customer.id) if row.is_live]
    if customer.test_clock and len(held) >= MOST_SUBSCRIPTIONS:
        raise invalid(
            f"A customer with a test clock takes at most {MOST_SUBSCRIPTIONS} subscriptions.", "customer"
        )
    rows = params["items"]
    prices = [usable_price(books, row, version, f"items[{n}]") for n, row in enumerate(rows)]
    mode = _billing_mode(params, version)
    check_count(len(rows), flexible=mode == "flexible")
    check_intervals(prices, flexible=mode == "flexible")
    start = _start(params, now)
    trial_end = _trial_end(params, now)
    anchor = _anchor(params, now, trial_end, prices)
    subscription = Subscription(
        id=account.new_id("sub"),
        created=now,
        customer=customer.id,
        currency=prices[0].currency,
        billing_mode=mode,
        billing_cycle_anchor=anchor,
        start_date=start,
        status="trialing" if trial_end else "active",
        trial_start=now if trial_end else None,
        trial_end=trial_end,
        collection_method=params.get("collection_method", "charge_automatically"),
        days_until_due=params.get("days_until_due"),
        description=params.get("description"),
        metadata=params.get("metadata", {}),
        missing_payment_method=missing_payment_method(params, "create_invoice"),
    )
    check_collection(subscription)
    first = _first_start(params, subscription, start, now)
    for row, price in zip(rows, prices, strict=True):
        add_item(books, subscription, row, price, first, trial_end)
    schedule_end(subscription, params, now)
    account.subscriptions.add(subscription)
    books.events.emit("customer.subscription.created", subscription)
    _bill_first(books, subscription, params, start)
    return subscription


def missing_payment_method(params: Params, otherwise: str) -> str:
    """What happens at a trial's end; here no customer has a payment method on file."""
    end_behavior = params.get("trial_settings", {}).get("end_behavior", {})
    return str(end_behavior.get("missing_payment_method", otherwise))


def add_item(
    books: Books,
    subscription: Subscription,
    row: Params,
    price: Price,
    period_start: int,
    period_end: int | None,
) -> SubscriptionItem:
    """Put a price on the subscription; its usage counts from `period_start` (UTC unix seconds)."""
    recurring = recurring_part(price)
    quantity = row.get("quantity")
    if price.is_metered and quantity is not None:
        raise invalid("You cannot set the quantity of an item with a metered price.", "items[quantity]")
    item = SubscriptionItem(
        id=books.account.new_id("si", 14),
        created=books.account.now(),
        subscription=subscription.id,
        price=price.id,
        period_start=period_start,
        period_end=period_end or next_boundary(subscription.billing_cycle_anchor, recurring, period_start),
        usage_from=period_start,
        quantity=None if price.is_metered else (1 if quantity is None else quantity),
        metadata=row.get("metadata", {}),
    )
    if any(other.price == price.id for other in subscription.items):
        raise invalid(f"Cannot add multiple subscription items with the same plan: {price.id}", "items")
    subscription.items.append(books.account.items.add(item))
    return item


def usable_price(books: Books, row: Params, version: ApiVersion, param: str) -> Price:
    """The row's price; raises StripeError when it cannot be put on a subscription."""
    if "price" not in row:
        raise missing(f"{param}[price]")
    price = books.account.prices.refer(row["price"], f"{param}[price]")
    if not price.active:
        raise invalid(f"The price specified is inactive: {price.id}", f"{param}[price]")
    recurring_part(price)
    if price.is_legacy and version.is_basil:
        raise invalid(
            "Legacy metered prices, without a meter, cannot be attached to subscriptions in API "
            "versions from 2025-03-31.basil on.",
            f"{param}[price]",
        )
    return price


def recurring_part(price: Price) -> Recurring:
    """The price's recurring part; raises StripeError when it is paid once."""
    if price.recurring is None:
        raise invalid(
            "The price specified is set to `type=one_time` but this field only accepts prices "
            f"with `type=recurring`: {price.id}",
            "items[0][price]",
        )
    return price.recurring


def check_intervals(prices: list[Price], *, flexible: bool) -> None:
    """Raise StripeError for prices that do not go together."""
    if len({price.currency for price in prices}) > 1:
        raise invalid("All prices on a subscription must have the same `currency`.", "items")
    rhythms = {(part.interval, part.interval_count) for part in map(recurring_part, prices)}
    if len(rhythms) > 1 and not flexible:
        raise invalid(
            "Currently, all prices on a classic subscription must have the same "
            "`recurring.interval` and `recurring.interval_count`.",
            "items",
        )


def check_count(items: int, *, flexible: bool) -> None:
    """Raise StripeError for too many items, or none."""
    most = MAX_ITEMS_FLEXIBLE if flexible else MAX_ITEMS
    if not 1 <= items <= most:
        raise invalid(f"A subscription takes 1 to {most} items.", "items")


def check_collection(subscription: Subscription) -> None:
    """Raise StripeError unless `days_until_due` goes with `collection_method`."""
    sends = subscription.collection_method == "send_invoice"
    if sends and subscription.days_until_due is None:
        raise invalid("You must pass `days_until_due` with `send_invoice`.", "days_until_due")
    if not sends and subscription.days_until_due is not None:
        raise invalid("`days_until_due` goes with `send_invoice` only.", "days_until_due")


def schedule_end(subscription: Subscription, params: Params, now: int) -> None:
    """Set or unset the end that `cancel_at` or `cancel_at_period_end` ask for."""
    if params.get("cancel_at") not in (None, "") and params.get("cancel_at_period_end"):
        raise invalid("Only one of cancel_at and cancel_at_period_end can be set.", "cancel_at")
    if "cancel_at_period_end" in params:
        subscription.cancel_at_period_end = params["cancel_at_period_end"]
        ends = params["cancel_at_period_end"]
        period_end = min(item.period_end for item in subscription.items)
        _set_cancel_at(subscription, period_end if ends else None, now)
    if "cancel_at" in params:
        _schedule_cancel_at(subscription, params["cancel_at"], now)


def _schedule_cancel_at(subscription: Subscription, asked: int | str, now: int) -> None:
    ends = [item.period_end for item in subscription.items]
    words = {"": None, "min_period_end": min(ends), "max_period_end": max(ends)}
    instant = words[asked] if isinstance(asked, str) else asked
    if instant is not None and instant <= now:
        raise invalid("`cancel_at` must be a timestamp in the future.", "cancel_at")
    subscription.cancel_at_period_end = False
    _set_cancel_at(subscription, instant, now)


def _set_cancel_at(subscription: Subscription, instant: int | None, now: int) -> None:
    subscription.cancel_at = instant
    subscription.canceled_at = None if instant is None else now


def _billing_mode(params: Params, version: ApiVersion) -> str:
    if "billing_mode" in params and not version.has_billing_mode:
        raise unknown("billing_mode")
    default = "flexible" if version.defaults_to_flexible else "classic"
    mode: str = params.get("billing_mode", {}).get("type", default)
    return mode


def _start(params: Params, now: int) -> int:
    start: int = params.get("backdate_start_date", now)
    if start > now:
        raise invalid("`backdate_start_date` must be in the past.", "backdate_start_date")
    return start


def _trial_end(params: Params, now: int) -> int | None:
    if "trial_period_days" in params:
        if "trial_end" in params:
            raise invalid("Only one of trial_end and trial_period_days can be set.", "trial_end")
        return now + _DAY * int(params["trial_period_days"])
    trial_end = params.get("trial_end")
    if trial_end in (None, "now"):
        return None
    if trial_end <= now:
        raise invalid("Invalid timestamp: must be an integer Unix timestamp in the future.", "trial_end")
    return int(trial_end)


def _anchor(params: Params, now: int, trial_end: int | None, prices: list[Price]) -> int:
    anchor = params.get("billing_cycle_anchor")
    if anchor is None:
        return trial_end or now
    if trial_end is not None:
        raise invalid("This stand-in takes either a trial or a billing_cycle_anchor.", "billing_cycle_anchor")
    if anchor <= now:
        raise invalid(
            "Invalid timestamp: must be an integer Unix timestamp in the future.",
            "billing_cycle_anchor",
        )
    latest = min(next_boundary(now, recurring_part(price), now) for price in prices)
    if anchor > latest:
        raise invalid(
            f"billing_cycle_anchor cannot be later than next natural billing date ({latest}).",
            "billing_cycle_anchor",
        )
    return int(anchor)


def _first_start(params: Params, subscription: Subscription, start: int, now: int) -> int:
    """Where the first period begins: classic with an anchor covers backdated time in it.

    Flexible subscriptions bill backdated usage on the first invoice, classic ones with the first
    cycle (Backdate subscriptions).
    """
    if subscription.is_flexible or "billing_cycle_anchor" not in params:
        return now
    return now if params.get("proration_behavior") == "none" else start


def _bill_first(books: Books, subscription: Subscription, params: Params, start: int) -> None:
    now = books.account.now()
    trial = subscription.status == "trialing"
    backdated = start < now and params.get("proration_behavior") != "none" and not trial
    lines: list[InvoiceLine] = []
    for item in subscription.items:
        if not is_metered(books, item):
            lines.append(books.invoices.licensed_line(subscription, item, free=trial))
        elif subscription.is_flexible and backdated:
            item.usage_from = start
            lines.append(books.invoices.metered_line(subscription, item, now))
            item.usage_from = item.period_start
        elif not subscription.is_flexible:
            lines.append(_zero_line(books, subscription, item, now, free=trial))
            if backdated:
                item.usage_from = start
    if lines:
        books.invoices.draft(subscription, in_order(lines), CREATE, period_start=now, at_once=True)


def _zero_line(
    books: Books, subscription: Subscription, item: SubscriptionItem, now: int, *, free: bool
) -> InvoiceLine:
    usage_from, item.usage_from = item.usage_from, now
    line = books.invoices.metered_line(subscription, item, now, free=free)
    item.usage_from = usage_from
    return line
