"""Setting up subscription schedules (Subscription schedules)."""

from __future__ import annotations

from typing import Any

from sandbox.stripe.books import Books
from sandbox.stripe.errors import invalid, missing
from sandbox.stripe.objects import Phase, Subscription, SubscriptionItem, SubscriptionSchedule
from sandbox.stripe.subscriptions import check_intervals, usable_price
from sandbox.stripe.versions import ApiVersion

Params = dict[str, Any]


def from_subscription(books: Books, subscription: Subscription) -> SubscriptionSchedule:
    """A schedule whose only phase is the running period of a subscription."""
    if not subscription.is_live:
        raise invalid("You cannot schedule a canceled subscription.", "from_subscription")
    if subscription.schedule is not None:
        raise invalid(
            f"The subscription is already attached to a schedule: {subscription.schedule}",
            "from_subscription",
        )
    account = books.account
    schedule = SubscriptionSchedule(
        id=account.new_id("sub_sched"),
        created=account.now(),
        customer=subscription.customer,
        subscription=subscription.id,
        phases=[
            Phase(
                start=min(item.period_start for item in subscription.items),
                end=min(item.period_end for item in subscription.items),
                items=[_row_of(item) for item in subscription.items],
            )
        ],
    )
    account.schedules.add(schedule)
    subscription.schedule = schedule.id
    books.events.emit("subscription_schedule.created", schedule)
    return schedule


def set_phases(books: Books, schedule: SubscriptionSchedule, rows: list[Params], version: ApiVersion) -> None:
    """Replace the phases from the running one on; raises StripeError for those that do not fit together.

    The running phase may not change here, and phases end where a period does: that is all that usage
    based billing needs of them.
    """
    running = schedule.phases[schedule.current]
    phases: list[Phase] = []
    for number, row in enumerate(rows):
        param = f"phases[{number}]"
        start = row.get("start_date", phases[-1].end if phases else running.start)
        if "end_date" not in row:
            raise missing(f"{param}[end_date]")
        if start != (phases[-1].end if phases else running.start):
            raise invalid("Each phase starts where the one before it ends.", f"{param}[start_date]")
        if row["end_date"] <= start:
            raise invalid("A phase ends after its start.", f"{param}[end_date]")
        prices = [usable_price(books, item, version, f"{param}[items]") for item in row["items"]]
        subscription = books.account.subscriptions.get(schedule.subscription)
        check_intervals(prices, flexible=subscription.is_flexible)
        behavior = row.get("proration_behavior", "create_prorations")
        phases.append(Phase(start, row["end_date"], [dict(item) for item in row["items"]], behavior))
    prices_now = [row["price"] for row in running.items]
    if [row["price"] for row in phases[0].items] != prices_now or phases[0].end != running.end:
        raise invalid("This stand-in leaves the running phase as it is.", "phases[0]")
    schedule.phases[schedule.current :] = phases


def _row_of(item: SubscriptionItem) -> Params:
    quantity = {} if item.quantity is None else {"quantity": item.quantity}
    return {"price": item.price, "metadata": dict(item.metadata), **quantity}
