"""Metered items that name no OpenMeter meter: not ours, but for those whose name somebody took away."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from usage_reporting.errors import LedgerUnavailableError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.telemetry import logger
from usage_reporting.windows import DAY

TOLD_FOR = 3 * DAY


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
            f"subscription item {self.item} of {self.subscription} names no OpenMeter meter, though usage of "
            "this customer was sent to its Stripe meter; what is used from now on will be on no invoice. Put "
            "om_meter_id on the item, its price or its product. If it is meant so, this ends three days "
            "after the period"
        )


async def names_taken_away(ledger: Ledger, unmapped: Collection[Unmapped], now: int) -> list[Unmapped]:
    """Those whose customer meter the ledger knows, where no item with a name has a period at `now`.

    A name may have been taken away before the ledger saw the period that runs, so the last one counts, too.
    """
    try:
        heads = await ledger.heads([one.pk for one in unmapped])
    except LedgerUnavailableError as error:
        logger.warning("items that lost their om_meter_id are looked for by the next tick: %s", error.reason)
        return []
    nameless = {one.item for one in unmapped}
    return [one for one in unmapped if one.pk in heads and _is_nameless(heads[one.pk], nameless, now)]


def _is_nameless(head: Head, nameless: Collection[str], now: int) -> bool:
    recent = [span for span in head.spans if span.end > now - TOLD_FOR]
    running = {span.item for span in recent if span.state.takes_usage and span.end > now}
    return bool(recent) and running.issubset(nameless)
