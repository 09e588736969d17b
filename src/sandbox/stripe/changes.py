"""Changing subscriptions and their items (Manage billing setup; Billing mode)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from sandbox.stripe.books import Books
from sandbox.stripe.errors import StripeError, invalid, no_such
from sandbox.stripe.invoices import UPDATE
from sandbox.stripe.lifecycle import in_trial, is_metered, recurring_of, restart
from sandbox.stripe.objects import Price, Subscription, SubscriptionItem
from sandbox.stripe.periods import next_boundary
from sandbox.stripe.subscriptions import (
    MAX_ITEMS,
    add_item,
    check_collection,
    check_intervals,
    schedule_end,
    usable_price,
)
from sandbox.stripe.versions import ApiVersion

Params = dict[str, Any]


def update_subscription(
    books: Books, subscription: Subscription, params: Params, version: ApiVersion
) -> None:
    """Apply the parameters of an update; raises StripeError for what cannot be changed."""
    _check_live(subscription)
    with all_or_nothing(books, subscription):
        _update(books, subscription, params, version)


@contextmanager
def all_or_nothing(books: Books, subscription: Subscription) -> Iterator[None]:
    """Leave the subscription as it was when the change is refused half-way."""
    kept = deepcopy(subscription)
    try:
        yield
    except StripeError:
        for item in subscription.items:
            if books.account.items.find(item.id):
                books.account.items.remove(item.id)
        vars(subscription).update(vars(kept))
        for item in subscription.items:
            books.account.items.put_back(item)
        raise


def _update(books: Books, subscription: Subscription, params: Params, version: ApiVersion) -> None:
    before = books.events.render(subscription)
    prorates = params.get("proration_behavior", "create_prorations")
    resets = change_items(books, subscription, params.get("items", []), prorates, version)
    if "trial_end" in params:
        resets = _change_trial(books, subscription, params["trial_end"]) or resets
    if params.get("billing_cycle_anchor") == "now" or resets:
        restart(books, subscription)
    elif prorates == "always_invoice" and subscription.pending:
        _invoice_pending(books, subscription)
    schedule_end(subscription, params, books.account.now())
    _change_settings(subscription, params)
    if books.events.render(subscription) != before:
        books.events.emit("customer.subscription.updated", subscription, before)


def change_items(
    books: Books, subscription: Subscription, rows: list[Params], prorates: str, version: ApiVersion
) -> bool:
    """Add, change and remove items; answers whether the billing period has to begin anew."""
    resets = False
    for number, row in enumerate(rows):
        param = f"items[{number}]"
        if "id" not in row:
            _add(books, subscription, row, usable_price(books, row, version, param))
            continue
        item = _item_of(books, subscription, row["id"], f"{param}[id]")
        if row.get("deleted"):
            remove_item(books, subscription, item, row, prorates)
        else:
            resets = change_item(books, subscription, item, row, prorates, version, param) or resets
    if len(subscription.items) > MAX_ITEMS:
        raise invalid(f"A subscription takes at most {MAX_ITEMS} items.", "items")
    if not subscription.items:
        raise invalid("A subscription must have at least one active item.", "items")
    prices = [books.account.prices.get(item.price) for item in subscription.items]
    check_intervals(prices, flexible=subscription.is_flexible)
    return resets


def change_item(
    books: Books,
    subscription: Subscription,
    item: SubscriptionItem,
    row: Params,
    prorates: str,
    version: ApiVersion,
    param: str,
) -> bool:
    """Change one item; answers whether the billing period has to begin anew.

    A new price ends what the old one bills: flexible subscriptions make an invoice item of the usage
    received so far, classic ones never bill it. Neither splits nor prorates usage otherwise.
    """
    if "metadata" in row:
        item.metadata = merged(item.metadata, row["metadata"])
    resets = False
    if "price" in row and row["price"] != item.price:
        price = usable_price(books, row, version, param)
        if any(other.price == price.id for other in subscription.items):
            raise invalid(
                f"Cannot add multiple subscription items with the same plan: {price.id}",
                f"{param}[price]",
            )
        resets = _swap(books, subscription, item, price, prorates)
    if "quantity" in row:
        if is_metered(books, item):
            raise invalid(
                "You cannot set the quantity of an item with a metered price.",
                f"{param}[quantity]",
            )
        item.quantity = row["quantity"]
    return resets


def remove_item(
    books: Books,
    subscription: Subscription,
    item: SubscriptionItem,
    row: Params,
    prorates: str,
) -> None:
    """Take an item off; its usage is billed as far as received (flexible) or dropped (classic)."""
    price = books.account.prices.get(item.price)
    clears = row.get("clear_usage", False)
    if clears and not price.is_metered:
        raise invalid("`clear_usage` goes with metered prices only.", "clear_usage")
    if price.is_legacy and books.usage.records(item) and not clears:
        raise invalid(
            f"Subscription item {item.id} cannot be removed because it has usage; pass "
            "clear_usage=true to delete that usage.",
            "clear_usage",
        )
    if clears:
        books.usage.clear(item)
    else:
        _bill_so_far(books, subscription, item, prorates)
    subscription.items.remove(item)
    books.account.items.remove(item.id)


def merged(old: dict[str, str], new: dict[str, str]) -> dict[str, str]:
    """Metadata after an update: an empty value unsets its key, an empty string everything."""
    if new == {"": ""}:
        return {}
    return {key: value for key, value in {**old, **new}.items() if value}


def _add(books: Books, subscription: Subscription, row: Params, price: Price) -> None:
    """A further item shares the anchor; its usage counts from now on."""
    now = books.account.now()
    trial_end = subscription.trial_end if in_trial(subscription) else None
    item = add_item(books, subscription, row, price, now, trial_end)
    alike = [
        other.period_start
        for other in subscription.items
        if other is not item and recurring_of(books, other) == recurring_of(books, item)
    ]
    item.period_start = min(alike, default=now)


def _swap(
    books: Books, subscription: Subscription, item: SubscriptionItem, price: Price, prorates: str
) -> bool:
    old = recurring_of(books, item)
    _bill_so_far(books, subscription, item, prorates)
    item.price = price.id
    item.usage_from = books.account.now()
    item.quantity = None if price.is_metered else (item.quantity or 1)
    new = recurring_of(books, item)
    if (old.interval, old.interval_count) == (new.interval, new.interval_count):
        return False
    if not subscription.is_flexible:
        return True
    item.period_start = books.account.now()
    item.period_end = next_boundary(subscription.billing_cycle_anchor, new, item.period_start)
    return False


def _bill_so_far(
    books: Books, subscription: Subscription, item: SubscriptionItem, prorates: str
) -> None:
    price = books.account.prices.get(item.price)
    if (
        price.meter is not None
        and subscription.is_flexible
        and prorates != "none"
        and not in_trial(subscription)
    ):
        now = books.account.now()
        subscription.pending.insert(0, books.invoices.item_line(subscription, item, now))


def _invoice_pending(books: Books, subscription: Subscription) -> None:
    started = min(item.period_start for item in subscription.items)
    books.invoices.draft(subscription, [], UPDATE, period_start=started, at_once=True)


def _change_trial(books: Books, subscription: Subscription, trial_end: int | str) -> bool:
    """Only an existing trial can be ended or moved here; answers whether it ends now."""
    now = books.account.now()
    if not in_trial(subscription):
        raise invalid(
            "This stand-in changes the trial of trialing subscriptions only.", "trial_end"
        )
    if trial_end == "now":
        return True
    if int(trial_end) <= now:
        raise invalid(
            "Invalid timestamp: must be an integer Unix timestamp in the future.", "trial_end"
        )
    subscription.trial_end = subscription.billing_cycle_anchor = int(trial_end)
    for item in subscription.items:
        item.period_end = int(trial_end)
    return False


def _change_settings(subscription: Subscription, params: Params) -> None:
    if "metadata" in params:
        subscription.metadata = merged(subscription.metadata, params["metadata"])
    if "description" in params:
        subscription.description = params["description"] or None
    if "collection_method" in params:
        subscription.collection_method = params["collection_method"]
        if params["collection_method"] == "charge_automatically":
            subscription.days_until_due = None
    if "days_until_due" in params:
        subscription.days_until_due = params["days_until_due"]
    check_collection(subscription)
    if "pause_collection" in params:
        pause = params["pause_collection"] or {}
        subscription.pause_behavior = pause.get("behavior")
        subscription.pause_resumes_at = pause.get("resumes_at")


def _item_of(books: Books, subscription: Subscription, id_: str, param: str) -> SubscriptionItem:
    item = next((row for row in subscription.items if row.id == id_), None)
    if item is None:
        raise no_such("subscription_item", id_, param, status=400)
    return item


def _check_live(subscription: Subscription) -> None:
    if not subscription.is_live:
        raise invalid(
            "A canceled subscription can only update its cancellation_details and metadata.", "id"
        )
