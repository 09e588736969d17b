"""Connected accounts that bill nothing by usage: closing ticks leave them out, hourly ones look again.

Most accounts of a platform may be like that, and each closing tick asks Stripe three lists of each account.
Who is left out was found so by the last hourly tick: one that failed, or did not come, leaves nobody out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import Item, Key, Ledger
from usage_reporting.windows import DAY, HOUR, MINUTE

RACES = 6

IDLE = "idle"
"""The sort key of what is noted of an account."""

LEFT_OUT_AFTER = DAY
"""So long nothing was there to bill: what ended of late still has an invoice to be judged."""
BELIEVED_FOR = 70 * MINUTE
"""Until the next hourly tick, and no longer: what came meanwhile may be billed before the one after that."""
KEPT_FOR = 26 * HOUR


@dataclass(frozen=True, slots=True)
class IdleAccounts:
    """The ledger's word on them; a ledger that is out of reach only costs calls to Stripe."""

    ledger: Ledger
    clock: Callable[[], int]

    async def note(self, account: str, *, is_idle: bool) -> None:
        """Note what an hourly tick found of an account: that it has nothing to bill, or that it has again."""
        key = _key_of(account)
        for _ in range(1 if is_idle else RACES):
            try:
                before = (await self.ledger.items([key])).get(key, {})
                if (item := self._noted(before, key, is_idle=is_idle)) is not None:
                    await self.ledger.write_item(item, int(before.get("version", 0)))
            except LostRaceError:
                continue
            except LedgerUnavailableError:
                pass  # what was noted before is soon believed no more
            return

    def _noted(self, before: Item, key: Key, *, is_idle: bool) -> Item | None:
        """What the ledger is to hold; None: it does, or needs nothing."""
        now, since = self.clock(), int(before.get("since", 0))
        if not is_idle and not since:
            return None
        return {
            "pk": key[0],
            "sk": key[1],
            "since": (since or now) if is_idle else 0,
            "noted_at": now,
            "version": int(before.get("version", 0)) + 1,
            "expires_at": now + KEPT_FOR,
        }

    async def left_out(self, accounts: Sequence[str]) -> set[str]:
        """Those of some accounts that had nothing to bill for a day at least."""
        try:
            noted = await self.ledger.items([_key_of(one) for one in accounts])
        except LedgerUnavailableError:
            return set()
        return {one for one in accounts if self._is_long_idle(noted.get(_key_of(one), {}))}

    def _is_long_idle(self, item: Item) -> bool:
        now, since = self.clock(), int(item.get("since", 0))
        return 0 < since <= now - LEFT_OUT_AFTER and now - int(item["noted_at"]) < BELIEVED_FOR


def _key_of(account: str) -> Key:
    return f"{account}#{IDLE}", IDLE
