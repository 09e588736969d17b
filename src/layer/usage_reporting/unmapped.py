"""Metered items that name no OpenMeter meter: not ours, but for those whose name somebody took away."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from usage_reporting.errors import LedgerUnavailableError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import SpanState
from usage_reporting.telemetry import logger
from usage_reporting.temporary_rows import TemporaryRows
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


class LostNames:
    """Finds those whose customer meter the ledger knows, where no item with a name has a period now.

    Items of one customer meter may come one by one: which of them all have no name is known at the end. A
    name may have been taken away before the ledger saw the period that runs, so the last one counts, too.
    Close it.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rows = TemporaryRows()

    async def look_up(self, unmapped: Collection[Unmapped], now: int) -> None:
        """Ask the ledger about some items that have no name at `now`, UTC seconds."""
        try:
            heads = await self._ledger.heads([one.pk for one in unmapped])
        except LedgerUnavailableError as error:
            logger.warning(
                "items that lost their om_meter_id are looked for by the next tick: %s", error.reason
            )
            return
        running = {
            pk: sorted(items) for pk, head in heads.items() if (items := _running(head, now)) is not None
        }
        self._rows.add(
            (one.pk, one.item, {"subscription": one.subscription, "running": running[one.pk]})
            for one in unmapped
            if one.pk in running
        )

    def found(self) -> Iterator[Unmapped]:
        """Those that were found among all that were looked up, by customer meter."""
        for pk, rows in groupby(self._rows.groups(), key=itemgetter(0)):
            nameless = {item: bodies[-1] for _, item, bodies in rows}
            for item, seen in nameless.items():
                if nameless.keys() >= set(seen["running"]):
                    yield Unmapped(item, seen["subscription"], pk)

    def close(self) -> None:
        """Forget everything."""
        self._rows.close()


def _running(head: Head, now: int) -> set[str] | None:
    """The items with a period at `now`, UTC seconds; None: it is long since one had."""
    recent = [span for span in head.spans if span.end > now - TOLD_FOR]
    if not recent:
        return None
    billed = [span for span in recent if span.state is not SpanState.BESIDE]
    return {span.item for span in billed if span.state.takes_usage and span.end > now}
