"""Stripe's meters, prices and products, asked seldom: in the process for minutes, in the ledger for hours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from usage_reporting.amounts import loads
from usage_reporting.customer_meters import OM_METER_ID
from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import Item, Ledger
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import HOUR, MINUTE

Json = dict[str, Any]

REMEMBERED_FOR = 10 * MINUTE
"""In a process: metadata given to a product is seen soon, though a process may live for hours."""

KEPT_FOR = 2 * HOUR
"""In the ledger, for the processes to come: longer than from one hourly tick to the next."""

CATALOG = "catalog"


@dataclass(slots=True)
class Catalog:
    """Asks Stripe for what seldom changes; a ledger that is out of reach only costs a call more.

    Raises what `StripeApi.get` raises.
    """

    api: StripeApi
    ledger: Ledger | None
    """None: nothing is kept for other processes."""
    clock: Callable[[], int]
    _remembered: dict[str, tuple[int, Json]] = field(default_factory=dict)
    _asking: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def get(self, path: str, expand: str = "") -> Json:
        """The object at a path such as `/v1/prices/price_1`; `expand`: with a part that must be asked for.

        Then it is remembered by itself: what was remembered without that part does not have it.
        """
        name = f"{path}?expand[]={expand}" if expand else path
        if (found := self._recent(name)) is None:
            async with self._asking:  # of a page's customer meters most have the same price
                if (found := self._recent(name)) is None:
                    found = await self._kept_or_asked(name, path, {"expand": [expand]} if expand else {})
                    self._remembered[name] = (self.clock(), found)
        return found

    def _recent(self, name: str) -> Json | None:
        asked_at, found = self._remembered.get(name, (0, None))
        return found if self.clock() - asked_at <= REMEMBERED_FOR else None

    async def _kept_or_asked(self, name: str, path: str, query: Json) -> Json:
        stored = await self._stored(name)
        now = self.clock()
        if stored is not None and now - int(stored["asked_at"]) <= KEPT_FOR:
            kept: Json = loads(stored["object"])
            return kept
        found = await self.api.get(path, query)
        if self.ledger is not None and _lets_usage_through(found):
            read_version = int(stored["version"]) if stored else 0
            item = {
                **self._key(name),
                "object": json.dumps(found, default=str, separators=(",", ":")),
                "asked_at": now,
                "version": read_version + 1,
                "expires_at": now + KEPT_FOR,
            }
            try:
                await self.ledger.write_item(item, read_version)
            except (LostRaceError, LedgerUnavailableError):
                return found  # another process keeps it, or the next one will
        return found

    async def _stored(self, name: str) -> Item | None:
        if self.ledger is None:
            return None
        key = self._key(name)
        try:
            return (await self.ledger.items([(key["pk"], key["sk"])])).get((key["pk"], key["sk"]))
        except LedgerUnavailableError:
            return None

    def _key(self, name: str) -> dict[str, str]:
        return {"pk": f"{self.api.account}#{CATALOG}#{name}", "sk": CATALOG}


def _lets_usage_through(found: Json) -> bool:
    """Whether usage can be reported as it is: what has to be mended is not to look broken for hours."""
    if found.get("object") == "product":
        return bool((found.get("metadata") or {}).get(OM_METER_ID))
    return bool(found.get("status", "active") == "active")
