"""Stripe's API as a migration calls it: also at the last version that knows legacy prices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from usage_reporting.backoff import pause
from usage_reporting.errors import RejectedError, StripeUnavailableError
from usage_reporting.stripe_api import API_VERSION, LEGACY_API_VERSION, PAGE_SIZE, READ_TRIES, StripeApi

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class LegacyApi:
    """Reads and writes with patience. Raises what `StripeApi` raises."""

    api: StripeApi

    async def get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """Read one object as API version 2025-02-24.acacia shows it."""
        return await self._patient("get", path, params or {}, "", LEGACY_API_VERSION)

    async def all(self, path: str, params: Mapping[str, Any]) -> AsyncIterator[Json]:
        """The objects of a list as API version 2025-02-24.acacia shows them."""
        query: Json = {"limit": PAGE_SIZE, **params}
        has_more = True
        while has_more:
            page = await self.get(path, query)
            for one in page["data"]:
                yield one
            has_more = bool(page["data"] and page["has_more"])
            if has_more:
                query["starting_after"] = page["data"][-1]["id"]

    async def prices(self, params: Mapping[str, Any]) -> list[Json]:
        """Prices, archived ones too, newest first: Stripe lists one sort at a time ("List all prices")."""
        found = [
            one
            for is_active in (True, False)
            async for one in self.all("/v1/prices", {**params, "active": is_active})
        ]
        return sorted(found, key=lambda one: int(one["created"]), reverse=True)

    async def change(self, path: str, params: Mapping[str, Any]) -> Json:
        """Write what may be written twice: it says how an object is to be."""
        return await self._patient("post", path, params, "", API_VERSION)

    async def make(self, path: str, params: Mapping[str, Any], key: str) -> Json:
        """Make an object once: a repetition with the same idempotency key makes no second one."""
        return await self._patient("post", path, params, key, API_VERSION)

    async def change_legacy(self, path: str, params: Mapping[str, Any]) -> Json:
        """As `change`, of an object that holds legacy prices."""
        return await self._patient("post", path, params, "", LEGACY_API_VERSION)

    async def once_legacy(self, path: str, params: Mapping[str, Any]) -> Json:
        """One try of a write that may not be made twice; without an answer it is for the next run to see."""
        return await self.api.call("post", path, params, version=LEGACY_API_VERSION)

    async def _patient(
        self, method: str, path: str, params: Mapping[str, Any], key: str, version: str
    ) -> Json:
        own_key = key
        for attempt in range(READ_TRIES):
            try:
                return await self.api.call(method, path, params, idempotency_key=own_key, version=version)
            except StripeUnavailableError as error:
                if attempt == READ_TRIES - 1:
                    raise
                # Stripe keeps the answer to a key for a day, an error as well.
                own_key = f"{key}.{attempt + 1}" if key and error.answered else own_key
                await asyncio.sleep(pause(attempt))
        raise AssertionError("unreachable: the last try returns or raises")


def is_already_so(error: RejectedError) -> bool:
    """Whether Stripe refuses a change because it was made before (meters: "is already inactive")."""
    return "already" in str(error)
