"""What a listing leaves out, counted and said while it goes on: none of it piles up."""

from __future__ import annotations

from collections.abc import Callable

from usage_reporting import telemetry
from usage_reporting.billing import Billing
from usage_reporting.ledger import Ledger
from usage_reporting.model import Status
from usage_reporting.telemetry import logger
from usage_reporting.unmapped import LostNames

PORTION = 1_000
"""So many items without a name are looked up in the ledger together."""


class LeftOut:
    """What one listing leaves out. Close it."""

    def __init__(self, billing: Billing, ledger: Ledger, clock: Callable[[], int]) -> None:
        self._billing = billing
        self._clock = clock
        self._lost_names = LostNames(ledger)

    async def tell_some(self) -> None:
        """Tell of what came up since the last time, when it is worth the calls."""
        self._tell_unreadable()
        if len(self._billing.unmapped) >= PORTION:
            await self._tell_unmapped()

    async def tell_all(self) -> None:
        """Tell of all that is left, and which items lost their names."""
        self._tell_unreadable()
        await self._tell_unmapped()
        for one in self._lost_names.found():
            telemetry.problem(one.item, Status.HELD, one.reason, self._billing.account)
            telemetry.count("Held")

    def close(self) -> None:
        """Forget everything."""
        self._lost_names.close()

    def _tell_unreadable(self) -> None:
        for unreadable, reason in self._billing.unreadable.items():
            telemetry.problem(unreadable, Status.REFUSED, reason, self._billing.account)
            telemetry.count("Refused")
        self._billing.unreadable.clear()

    async def _tell_unmapped(self) -> None:
        unmapped = list(self._billing.unmapped.values())
        self._billing.unmapped.clear()
        for one in unmapped:
            logger.debug("metered item %s of %s has no om_meter_id: not ours", one.item, one.subscription)
        telemetry.count("Unmapped", len(unmapped))
        if unmapped:
            await self._lost_names.look_up(unmapped, self._clock())
