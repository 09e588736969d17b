"""What a subscription schedule does with time: prices that change at the end of a period."""

from __future__ import annotations

from sandbox.stripe.books import Books
from sandbox.stripe.errors import invalid
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import Phase, Subscription, SubscriptionItem, SubscriptionSchedule


def release(books: Books, schedule: SubscriptionSchedule) -> None:
    """Let the subscription go on with what it has."""
    if schedule.status != "active":
        raise invalid(f"You cannot release a schedule that is {schedule.status}.", "id")
    subscription = books.account.subscriptions.get(schedule.subscription)
    schedule.status, schedule.released_at = "released", books.account.now()
    subscription.schedule = None
    books.events.emit("subscription_schedule.released", schedule)


def enter_next_phase(books: Books, subscription: Subscription, instant: int) -> None:
    """At a renewal: put on what the phase asks for that begins there, or let go after the last one."""
    schedule = books.account.schedules.find(subscription.schedule)
    if schedule is None or schedule.phases[schedule.current].end > instant:
        return
    if schedule.current + 1 == len(schedule.phases):
        release(books, schedule)
        return
    schedule.current += 1
    _put_on(books, subscription, schedule.phases[schedule.current])
    books.events.emit("subscription_schedule.updated", schedule)


def _put_on(books: Books, subscription: Subscription, phase: Phase) -> None:
    """The phase's items, each in the place of one with the same price, else of the next one left over."""
    left = list(subscription.items)
    kept = {row["price"]: item for row in phase.items for item in left if item.price == row["price"]}
    free = [item for item in left if item not in kept.values()]
    replaces = books.account.settings.undocumented.schedule_replaces_items
    subscription.items = []
    for row in phase.items:
        item = kept.get(row["price"])
        if item is None:
            old = free.pop(0) if free else left[0]
            item = old if not replaces and old not in subscription.items else _new_item(books, old)
            item.price = row["price"]
            price = books.account.prices.get(item.price)
            item.quantity = None if price.is_metered else row.get("quantity", 1)
        item.metadata = merged(item.metadata, row.get("metadata", {}))
        subscription.items.append(item)
    for item in left:
        if item not in subscription.items:
            books.account.items.remove(item.id)


def _new_item(books: Books, old: SubscriptionItem) -> SubscriptionItem:
    """An item of this instant, with the old one's period: that is about to be renewed."""
    item = SubscriptionItem(
        id=books.account.new_id("si", 14),
        created=books.account.now(),
        subscription=old.subscription,
        price=old.price,
        period_start=old.period_start,
        period_end=old.period_end,
        usage_from=old.usage_from,
    )
    return books.account.items.add(item)
