"""Metered items that name no OpenMeter meter: not ours, but for those whose name somebody took away."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from usage_reporting.errors import LedgerUnavailableError
from usage_reporting.ledger import Ledger
from usage_reporting.telemetry import logger


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A metered item without an OpenMeter meter."""

    item: str
    subscription: str
    pk: str
    """The partition key of its customer meter in the ledger, if it is one."""

    @property
    def reason(self) -> str:
        """Why nothing is sent, though usage was sent before."""
        return (
            f"subscription item {self.item} of {self.subscription} names no OpenMeter meter any more, so "
            "that its further usage of this period will be on no invoice; put om_meter_id back on the item, "
            "its price or its product. If it is meant, this ends with the period"
        )


async def names_taken_away(ledger: Ledger, unmapped: Collection[Unmapped], now: int) -> list[Unmapped]:
    """Those of which the ledger knows a period that goes on at `now`, UTC seconds."""
    try:
        heads = await ledger.heads([one.pk for one in unmapped])
    except LedgerUnavailableError as error:
        logger.warning("items that lost their om_meter_id are looked for by the next tick: %s", error.reason)
        return []
    going_on = {
        (pk, span.item)
        for pk, head in heads.items()
        for span in head.spans
        if span.state.takes_usage and span.end > now
    }
    return [one for one in unmapped if (one.pk, one.item) in going_on]
