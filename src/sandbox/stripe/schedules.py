"""Setting up subscription schedules (Subscription schedules)."""

from __future__ import annotations

from typing import Any

from sandbox.stripe.books import Books
from sandbox.stripe.errors import invalid, missing, unknown
from sandbox.stripe.objects import Phase, Price, Subscription, SubscriptionItem, SubscriptionSchedule
from sandbox.stripe.periods import next_boundary
from sandbox.stripe.subscriptions import check_intervals, recurring_part, usable_price
from sandbox.stripe.versions import ApiVersion

Params = dict[str, Any]


def from_subscription(books: Books, subscription: Subscription, version: ApiVersion) -> SubscriptionSchedule:
    """A schedule whose only phase is the running period of a subscription.

    No legacy price comes onto a schedule from 2025-03-31.basil on ("Removes legacy usage-based billing");
    that this counts for one made from a subscription is not said in so many words.
    """
    for item in subscription.items:
        usable_price(books, {"price": item.price}, version, "from_subscription")
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
        if start != (phases[-1].end if phases else running.start):
            raise invalid("Each phase starts where the one before it ends.", f"{param}[start_date]")
        prices = [usable_price(books, item, version, f"{param}[items]") for item in row["items"]]
        subscription = books.account.subscriptions.get(schedule.subscription)
        check_intervals(prices, flexible=subscription.is_flexible)
        _check_currency(row, param, subscription, version)
        end = _end(row, param, start, subscription, prices, version)
        behavior = row.get("proration_behavior", "create_prorations")
        phases.append(Phase(start, end, [dict(item) for item in row["items"]], behavior))
    prices_now = [row["price"] for row in running.items]
    if [row["price"] for row in phases[0].items] != prices_now or phases[0].end != running.end:
        raise invalid("This stand-in leaves the running phase as it is.", "phases[0]")
    schedule.phases[schedule.current :] = phases


def _check_currency(row: Params, param: str, subscription: Subscription, version: ApiVersion) -> None:
    if "currency" not in row:
        return
    if version.is_basil:
        raise unknown(f"{param}[currency]")
    if row["currency"] != subscription.currency:
        raise invalid("The currency of a subscription cannot be changed.", f"{param}[currency]")


def _end(
    row: Params, param: str, start: int, subscription: Subscription, prices: list[Price], version: ApiVersion
) -> int:
    """When a phase ends: at a date, or after so many periods of its prices ("Set the length of a phase")."""
    if "iterations" not in row:
        if "end_date" not in row:
            raise missing(f"{param}[end_date]")
        end = int(row["end_date"])
        if end <= start:
            raise invalid("A phase ends after its start.", f"{param}[end_date]")
        return end
    if version.is_basil:
        raise unknown(f"{param}[iterations]")
    if "end_date" in row:
        raise invalid("Only one of end_date and iterations can be set.", f"{param}[iterations]")
    end = start
    for _ in range(row["iterations"]):
        anchor = subscription.billing_cycle_anchor
        end = min(next_boundary(anchor, recurring_part(price), end) for price in prices)
    return end


def _row_of(item: SubscriptionItem) -> Params:
    quantity = {} if item.quantity is None else {"quantity": item.quantity}
    return {"price": item.price, "metadata": dict(item.metadata), **quantity}
