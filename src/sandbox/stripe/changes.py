"""Changing subscriptions and their items (Manage billing setup; Billing mode)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from sandbox.stripe.books import Books
from sandbox.stripe.errors import StripeError, invalid
from sandbox.stripe.invoices import UPDATE
from sandbox.stripe.item_changes import ItemChanges
from sandbox.stripe.lifecycle import in_trial, restart
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import Subscription
from sandbox.stripe.subscriptions import check_collection, missing_payment_method, schedule_end
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
    changes = ItemChanges(books, subscription, prorates, version)
    resets = changes.apply(params.get("items", []))
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


def _invoice_pending(books: Books, subscription: Subscription) -> None:
    started = min(item.period_start for item in subscription.items)
    books.invoices.draft(subscription, [], UPDATE, period_start=started, at_once=True)


def _change_trial(books: Books, subscription: Subscription, trial_end: int | str) -> bool:
    """Only an existing trial can be ended or moved here; answers whether it ends now."""
    now = books.account.now()
    if not in_trial(subscription):
        raise invalid("This stand-in changes the trial of trialing subscriptions only.", "trial_end")
    if trial_end == "now":
        return True
    if int(trial_end) <= now:
        raise invalid("Invalid timestamp: must be an integer Unix timestamp in the future.", "trial_end")
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
    subscription.missing_payment_method = missing_payment_method(params, subscription.missing_payment_method)
    if "pause_collection" in params:
        pause = params["pause_collection"] or {}
        subscription.pause_behavior = pause.get("behavior")
        subscription.pause_resumes_at = pause.get("resumes_at")


def _check_live(subscription: Subscription) -> None:
    if not subscription.is_live:
        raise invalid("A canceled subscription can only update its cancellation_details and metadata.", "id")
