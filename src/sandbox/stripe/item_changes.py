"""Adding, changing and removing the items of a subscription (Manage billing setup)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sandbox.stripe.books import Books
from sandbox.stripe.errors import invalid, no_such
from sandbox.stripe.lifecycle import in_trial, is_metered, recurring_of
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import Price, Subscription, SubscriptionItem
from sandbox.stripe.periods import next_boundary
from sandbox.stripe.subscriptions import add_item, check_count, check_intervals, usable_price
from sandbox.stripe.versions import ApiVersion

Params = dict[str, Any]


@dataclass(frozen=True)
class ItemChanges:
    """Changes to the items of one subscription; `prorates`: the proration behavior asked for.

    A new price ends what the old one bills. Flexible subscriptions make an invoice item of the
    usage received so far, classic ones never bill it; usage is not prorated otherwise.
    """

    books: Books
    subscription: Subscription
    prorates: str
    version: ApiVersion

    def apply(self, rows: list[Params]) -> bool:
        """Apply the rows of `items`; answers whether the billing period has to begin anew."""
        resets = False
        for number, row in enumerate(rows):
            param = f"items[{number}]"
            if "id" not in row:
                self._add(row, usable_price(self.books, row, self.version, param))
                continue
            item = self._item(row["id"], f"{param}[id]")
            if row.get("deleted"):
                self._remove(item, row)
            else:
                resets = self._change(item, row, param) or resets
        self._check()
        return resets

    def _check(self) -> None:
        check_count(len(self.subscription.items), flexible=self.subscription.is_flexible)
        prices = [self.books.account.prices.get(item.price) for item in self.subscription.items]
        check_intervals(prices, flexible=self.subscription.is_flexible)

    def _add(self, row: Params, price: Price) -> None:
        """A further item shares the anchor; its usage counts from now on."""
        now = self.books.account.now()
        trial_end = self.subscription.trial_end if in_trial(self.subscription) else None
        item = add_item(self.books, self.subscription, row, price, now, trial_end)
        alike = [
            other.period_start
            for other in self.subscription.items
            if other is not item and other.period_end == item.period_end
        ]
        item.period_start = min(alike, default=now)

    def _change(self, item: SubscriptionItem, row: Params, param: str) -> bool:
        if "metadata" in row:
            item.metadata = merged(item.metadata, row["metadata"])
        resets = False
        if row.get("price", item.price) != item.price:
            price = usable_price(self.books, row, self.version, param)
            if any(other.price == price.id for other in self.subscription.items):
                raise invalid(
                    f"Cannot add multiple subscription items with the same plan: {price.id}",
                    f"{param}[price]",
                )
            resets = self._swap(item, price)
        if "quantity" in row:
            if is_metered(self.books, item):
                raise invalid(
                    "You cannot set the quantity of an item with a metered price.",
                    f"{param}[quantity]",
                )
            item.quantity = row["quantity"]
        return resets

    def _remove(self, item: SubscriptionItem, row: Params) -> None:
        price = self.books.account.prices.get(item.price)
        clears = row.get("clear_usage", False)
        if clears and not price.is_metered:
            raise invalid("`clear_usage` goes with metered prices only.", "clear_usage")
        if price.is_legacy and self.books.usage.records(item) and not clears:
            raise invalid(
                f"Subscription item {item.id} cannot be removed because it has usage; pass "
                "clear_usage=true to delete that usage.",
                "clear_usage",
            )
        if not clears:
            self._bill_so_far(item)
        self.subscription.items.remove(item)
        self.books.account.items.remove(item.id)

    def _swap(self, item: SubscriptionItem, price: Price) -> bool:
        now = self.books.account.now()
        old = recurring_of(self.books, item)
        self._bill_so_far(item)
        item.price = price.id
        item.usage_from = now
        item.quantity = None if price.is_metered else (item.quantity or 1)
        new = recurring_of(self.books, item)
        if (old.interval, old.interval_count) == (new.interval, new.interval_count):
            return False
        if not self.subscription.is_flexible:
            return True
        item.period_start = now
        item.period_end = next_boundary(self.subscription.billing_cycle_anchor, new, now)
        return False

    def _bill_so_far(self, item: SubscriptionItem) -> None:
        price = self.books.account.prices.get(item.price)
        if (
            price.meter is not None
            and self.subscription.is_flexible
            and self.prorates != "none"
            and not in_trial(self.subscription)
        ):
            now = self.books.account.now()
            line = self.books.invoices.item_line(self.subscription, item, now)
            self.subscription.pending.insert(0, line)

    def _item(self, id_: str, param: str) -> SubscriptionItem:
        item = next((row for row in self.subscription.items if row.id == id_), None)
        if item is None:
            raise no_such("subscription_item", id_, param, status=400)
        return item
