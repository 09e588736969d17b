"""Legacy usage records (Legacy usage-based billing, "Record usage for billing")."""

from __future__ import annotations

from decimal import Decimal

from sandbox.stripe.objects import SubscriptionItem


class UsageLedger:
    """Quantities of usage records per subscription item and exact instant."""

    def __init__(self) -> None:
        self._records: dict[str, dict[int, int]] = {}

    def put(
        self,
        item: SubscriptionItem,
        timestamp: int,
        quantity: int,
        action: str,
        replaces_from: int | None = None,
    ) -> int:
        """Set or increment what the item holds at this instant; answers the new quantity.

        `replaces_from`: setting also replaces what is held at other instants from there on.
        """
        records = self._records.setdefault(item.id, {})
        if action == "set" and replaces_from is not None:
            for instant in [at for at in records if at >= replaces_from]:
                del records[instant]
        held = records.get(timestamp, 0) if action == "increment" else 0
        records[timestamp] = held + quantity
        return records[timestamp]

    def clear(self, item: SubscriptionItem) -> None:
        """Forget the item's usage."""
        self._records.pop(item.id, None)

    def records(self, item: SubscriptionItem) -> dict[int, int]:
        """Quantity per instant."""
        return dict(self._records.get(item.id, {}))

    def usage(self, item: SubscriptionItem, how: str | None, start: int, end: int) -> Decimal:
        """The item's total over [start, end) by `aggregate_usage`."""
        records = self._records.get(item.id, {})
        inside = {at: records[at] for at in sorted(records) if start <= at < end}
        if how == "last_ever":
            before = [records[at] for at in sorted(records) if at < end]
            return Decimal(before[-1] if before else 0)
        if not inside:
            return Decimal(0)
        if how == "max":
            return Decimal(max(inside.values()))
        if how == "last_during_period":
            return Decimal(list(inside.values())[-1])
        return Decimal(sum(inside.values()))
