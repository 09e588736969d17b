"""What happens to a subscription with time: renewals, ends of trials, cancellations."""

from __future__ import annotations

from sandbox.stripe.books import Books
from sandbox.stripe.errors import invalid
from sandbox.stripe.invoices import CYCLE, UPDATE
from sandbox.stripe.objects import InvoiceLine, Recurring, Subscription, SubscriptionItem
from sandbox.stripe.periods import boundary_before, next_boundary
from sandbox.stripe.phases import enter_next_phase


def due_of(books: Books, id_: str) -> int | None:
    """When time changes a subscription or an invoice next, in UTC unix seconds; anything else: never."""
    subscription = books.account.subscriptions.find(id_)
    if subscription is not None:
        return next_due(books, subscription)
    invoice = books.account.invoices.find(id_)
    return books.invoices.finalization_due(invoice) if invoice else None


def bill(books: Books, due: list[str]) -> None:
    """Do what is due at the account's present instant, invoices before renewals."""
    for invoice in filter(None, map(books.account.invoices.find, due)):
        books.invoices.finalize(invoice)
    for subscription in filter(None, map(books.account.subscriptions.find, due)):
        step(books, subscription)


def next_due(books: Books, subscription: Subscription) -> int | None:
    """When time changes this subscription next, in UTC unix seconds."""
    if not subscription.is_live:
        return None
    delay = books.account.settings.renewal_delay
    due = [] if subscription.is_paused else [min(item.period_end for item in subscription.items) + delay]
    if subscription.cancel_at is not None:
        due.append(subscription.cancel_at + delay)
    if subscription.pause_resumes_at is not None:
        due.append(subscription.pause_resumes_at)
    return min(due, default=None)


def step(books: Books, subscription: Subscription) -> None:
    """Do what is due at the account's present instant."""
    now = books.account.now()
    reached = now - books.account.settings.renewal_delay
    if subscription.pause_resumes_at is not None and subscription.pause_resumes_at <= now:
        before = books.events.render(subscription)
        subscription.pause_behavior = subscription.pause_resumes_at = None
        books.events.emit("customer.subscription.updated", subscription, before)
    elif subscription.cancel_at is not None and subscription.cancel_at <= reached:
        end_at(books, subscription, subscription.cancel_at)
    else:
        renew(books, subscription, reached)


def recurring_of(books: Books, item: SubscriptionItem) -> Recurring:
    """The recurring part of the item's price; every item has one."""
    recurring = books.account.prices.get(item.price).recurring
    if recurring is None:
        raise AssertionError("a subscription item with a one-time price")
    return recurring


def renew(books: Books, subscription: Subscription, reached: int) -> None:
    """Advance the items whose period has ended, invoice them, and say so.

    `invoice.created` comes before `customer.subscription.updated`, as observed in practice.
    """
    if in_trial(subscription) and subscription.missing_payment_method != "create_invoice":
        _end_trial_without_payment(books, subscription)
        return
    before = books.events.render(subscription)
    free = in_trial(subscription)
    ended = [item for item in subscription.items if item.period_end <= reached]
    started = min(item.period_start for item in ended)
    metered = [
        books.invoices.metered_line(subscription, item, item.period_end, free=free)
        for item in ended
        if is_metered(books, item)
    ]
    enter_next_phase(books, subscription, min(item.period_end for item in ended))
    ended = [item for item in subscription.items if item.period_end <= reached]
    for item in ended:
        item.period_start = item.usage_from = item.period_end
        item.period_end = next_boundary(
            subscription.billing_cycle_anchor, recurring_of(books, item), item.period_start
        )
    if subscription.trial_end is not None and subscription.trial_end <= reached:
        subscription.status = "active"
    licensed = [
        books.invoices.licensed_line(subscription, item) for item in ended if not is_metered(books, item)
    ]
    books.invoices.draft(subscription, in_order(metered + licensed), CYCLE, period_start=started)
    books.events.emit("customer.subscription.updated", subscription, before)


def shorten(books: Books, subscription: Subscription, end: int) -> None:
    """Let the running periods end at an instant, as if the anchor had always been there.

    Nobody can do this in Stripe, where only time ends a period, and nothing tells of it. Raises StripeError
    where the instant does not lie within all of them.
    """
    if not subscription.is_live or subscription.is_paused or in_trial(subscription):
        raise invalid(f"the subscription {subscription.id} has no period that is billed", "subscription")
    if not books.account.now() < end < min(item.period_end for item in subscription.items):
        raise invalid("the end must lie ahead, and within the running periods", "at")
    subscription.billing_cycle_anchor = end
    for item in subscription.items:
        item.period_end = end


def _end_trial_without_payment(books: Books, subscription: Subscription) -> None:
    """Pause or cancel (Free trials, "Create free trials without payment"); no invoice is made.

    A paused subscription keeps the period of its trial: it does not advance to new ones.
    """
    if subscription.missing_payment_method == "cancel":
        cancel_now(books, subscription, invoice_now=False)
        return
    before = books.events.render(subscription)
    subscription.status = "paused"
    books.events.emit("customer.subscription.updated", subscription, before)
    books.events.emit("customer.subscription.paused", subscription)


def resume(books: Books, subscription: Subscription, *, anchor: str) -> None:
    """End a pause; every customer here can pay. Usage of the pause is never billed (Free trials).

    `anchor`: `now` begins a period here, `unchanged` goes on with the one that holds this instant.
    """
    if not subscription.is_paused:
        raise invalid("You can only resume a subscription that is paused.", "id")
    now = books.account.now()
    before = books.events.render(subscription)
    if anchor == "now":
        subscription.billing_cycle_anchor = now
    for item in subscription.items:
        recurring = recurring_of(books, item)
        item.period_start = item.usage_from = now
        item.period_end = next_boundary(subscription.billing_cycle_anchor, recurring, now)
        if anchor == "unchanged":
            item.period_start = boundary_before(subscription.billing_cycle_anchor, recurring, now)
    subscription.status = "active"
    licensed = [
        books.invoices.licensed_line(subscription, item)
        for item in subscription.items
        if not is_metered(books, item)
    ]
    if licensed:
        books.invoices.draft(subscription, licensed, UPDATE, period_start=now, at_once=True)
    books.events.emit("customer.subscription.updated", subscription, before)
    books.events.emit("customer.subscription.resumed", subscription)


def restart(books: Books, subscription: Subscription) -> None:
    """End the present period now, bill its usage at once, and put the anchor here."""
    now = books.account.now()
    free = in_trial(subscription)
    started = min(item.period_start for item in subscription.items)
    metered = [
        books.invoices.metered_line(subscription, item, now, free=free)
        for item in subscription.items
        if is_metered(books, item) and item.usage_from < now
    ]
    subscription.billing_cycle_anchor = now
    subscription.status = "active"
    if subscription.trial_end is not None:
        subscription.trial_end = min(subscription.trial_end, now)
    for item in subscription.items:
        item.period_start = item.usage_from = now
        item.period_end = next_boundary(now, recurring_of(books, item), now)
    licensed = [
        books.invoices.licensed_line(subscription, item)
        for item in subscription.items
        if not is_metered(books, item)
    ]
    books.invoices.draft(
        subscription, in_order(metered + licensed), UPDATE, period_start=started, at_once=True
    )


def end_at(books: Books, subscription: Subscription, instant: int) -> None:
    """A scheduled end: the last usage goes on a final draft, which waits like any renewal's."""
    is_closed = books.account.settings.undocumented.last_draft_is_closed
    free = in_trial(subscription)
    lines = [
        books.invoices.metered_line(subscription, item, min(instant, item.period_end), free=free)
        for item in subscription.items
        if is_metered(books, item)
    ]
    _close(subscription, instant)
    if lines or subscription.pending:
        started = min(item.period_start for item in subscription.items)
        books.invoices.draft(subscription, in_order(lines), CYCLE, period_start=started, at_once=is_closed)
    books.events.emit("customer.subscription.deleted", subscription)


def cancel_now(books: Books, subscription: Subscription, *, invoice_now: bool) -> None:
    """An immediate end: usage is dropped, or with `invoice_now` billed as far as received."""
    now = books.account.now()
    undocumented = books.account.settings.undocumented
    invoice_now = invoice_now or undocumented.cancellation_bills_usage
    at_once = not undocumented.invoice_now_waits
    lines: list[InvoiceLine] = []
    if invoice_now and not in_trial(subscription):
        lines = [
            books.invoices.metered_line(subscription, item, now)
            for item in subscription.items
            if is_metered(books, item)
        ]
    _close(subscription, now)
    subscription.canceled_at = now
    if invoice_now and (lines or subscription.pending):
        started = min(item.period_start for item in subscription.items)
        books.invoices.draft(subscription, in_order(lines), UPDATE, period_start=started, at_once=at_once)
    books.events.emit("customer.subscription.deleted", subscription)


def is_metered(books: Books, item: SubscriptionItem) -> bool:
    """Whether the item is billed by usage."""
    return books.account.prices.get(item.price).is_metered


def in_trial(subscription: Subscription) -> bool:
    """Whether what is being used is not billed."""
    return subscription.status == "trialing"


def in_order(lines: list[InvoiceLine]) -> list[InvoiceLine]:
    """Subscription lines newest first, as invoices list them."""
    return sorted(lines, key=lambda line: -line.period_start)


def _close(subscription: Subscription, instant: int) -> None:
    """A schedule ends with its subscription."""
    subscription.status = "canceled"
    subscription.schedule = None
    subscription.ended_at = instant
    if subscription.canceled_at is None:
        subscription.canceled_at = instant
