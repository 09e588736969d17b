"""Makes the meters and the prices that take the place of legacy ones, and takes them away again.

Each call finds what an earlier one has made: meters by their event name, prices by their metadata. So a run
that was cut short between any two calls is gone on with by the next.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from cli.migration.found import OM_MIRRORED_SINCE, OM_PREDECESSOR_PRICE, Found, LegacyPrice
from cli.migration.legacy_api import LegacyApi, is_already_so
from cli.migration.proposal import event_names, fits, meter_for, meter_params, price_params
from cli.migration.step import Act, Step
from usage_reporting.errors import RefusedError, RejectedError
from usage_reporting.successors import OM_SUCCESSOR_PRICE

Json = dict[str, Any]

MAKE_METER, TAKE_METER, REACTIVATE_METER = "make meter", "use meter", "reactivate meter"
MAKE_PRICE, REACTIVATE_PRICE, MIRROR = "make price", "reactivate price", "begin to mirror"
STOP, DEACTIVATE_PRICE, DEACTIVATE_METER = "stop to mirror", "archive price", "deactivate meter"


@dataclass(slots=True)
class Preparation:
    """Gives each legacy price its successor; `now` in UTC seconds."""

    api: LegacyApi
    step: Step
    now: int
    _meters: list[Json] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    """Meters that are spoken of already: several prices may share one."""

    async def prepare(self, found: Found) -> None:
        """Prepare all prices that can be migrated and are not being mirrored; one after the other."""
        self._meters = [one async for one in self.api.all("/v1/billing/meters", {})]
        for price in found.prices:
            if price.refusal:
                self.step.left[price.id] = price.refusal
            elif not price.is_mirrored and price.items:
                await self.step.guarded(price.id, self._prepare(price))

    async def _prepare(self, price: LegacyPrice) -> None:
        meter = await self._meter_of(price)
        successor = await self._successor(price, meter)
        marks = {OM_SUCCESSOR_PRICE: successor, OM_MIRRORED_SINCE: str(self.now)}
        path = f"/v1/prices/{price.id}"
        await self.step.do(MIRROR, price.id, lambda: self.api.change(path, {"metadata": marks}), price.id)

    async def _meter_of(self, price: LegacyPrice) -> str:
        """The id of the Stripe meter; empty where it would be made."""
        found: Json | str
        if price.successor is not None:
            found = await self.api.get(f"/v1/billing/meters/{price.meter}")
        else:
            found = meter_for(price.openmeter_meter, price.formula, self._meters)
        if isinstance(found, dict):
            return await self._taken(price, found)
        if not found:
            raise RefusedError(
                f"the event names {' and '.join(event_names(price.openmeter_meter))} are those of Stripe "
                f"meters that do not fit (formula {price.formula!r}, no event_time_window); give the "
                "OpenMeter meter another slug"
            )
        return await self._made(price, found)

    async def _taken(self, price: LegacyPrice, meter: Json) -> str:
        if not fits(meter, price.formula):
            raise RefusedError(
                f"Stripe meter {meter['id']} of its new price does not aggregate by {price.formula!r}, which "
                f"OpenMeter meter {price.openmeter_meter} needs; take its metadata "
                f"{OM_PREDECESSOR_PRICE} away, and another one is made"
            )
        if meter["id"] in self._said:
            return str(meter["id"])
        self._said.add(meter["id"])
        if meter["status"] != "active":
            path = f"/v1/billing/meters/{meter['id']}/reactivate"
            await self.step.do(REACTIVATE_METER, price.id, lambda: self._unless_so(path), meter["id"])
        else:
            self.step.acts.append(Act(TAKE_METER, price.id, meter["id"]))
        return str(meter["id"])

    async def _made(self, price: LegacyPrice, event_name: str) -> str:
        params = meter_params(price.openmeter_meter, event_name, price.formula)
        made = None
        if event_name not in self._said:
            made = await self.step.do(
                MAKE_METER,
                price.id,
                lambda: self.api.make("/v1/billing/meters", params, _key("meter", event_name, params)),
            )
            self._said.add(event_name)
        if made is None:
            return ""
        self._meters.append(made)
        self._said.add(made["id"])
        return str(made["id"])

    async def _successor(self, price: LegacyPrice, meter: str) -> str:
        """The id of the new price; empty where it would be made."""
        held = price.successor
        if held is None:
            params = price_params(price, meter)
            key = _key("price", price.id, params)
            made = await self.step.do(MAKE_PRICE, price.id, lambda: self.api.make("/v1/prices", params, key))
            return str(made["id"]) if made else ""
        if not held["active"]:
            path = f"/v1/prices/{held['id']}"
            await self.step.do(
                REACTIVATE_PRICE, price.id, lambda: self.api.change(path, {"active": True}), held["id"]
            )
        return str(held["id"])

    async def _unless_so(self, path: str) -> Json | None:
        try:
            return await self.api.change(path, {})
        except RejectedError as error:
            if is_already_so(error):
                return None
            raise


@dataclass(slots=True)
class Withdrawal:
    """Takes away what a preparation made, as long as nobody is billed by it."""

    api: LegacyApi
    step: Step
    _archived: set[str] = field(default_factory=set)

    async def withdraw(self, found: Found) -> None:
        """Stop to mirror all prices, archive their successors, and deactivate meters that serve no other."""
        meters: dict[str, str] = {}
        for price in found.prices:
            if price.successor is None:
                continue
            scheduled = sorted({item.subscription["id"] for item in price.items if item.is_scheduled})
            if found.unread:
                self.step.left[price.id] = found.unread
            elif holders := len(price.switched) + price.begun:
                self.step.left[price.id] = (
                    f"{holders} subscriptions are billed by {price.successor['id']} already; what is "
                    "switched, or was sold, cannot be taken back"
                )
            elif scheduled:
                self.step.left[price.id] = (
                    f"{', '.join(scheduled[:3])} will be switched to it; first: "
                    "usage-reporter migrate switch --undo --apply"
                )
            else:
                await self.step.guarded(price.id, self._withdraw(price))
                meters[price.meter] = price.id
                self._archived.add(price.successor["id"])
        for meter, of in meters.items():
            await self.step.guarded(of, self._deactivate(meter, of))

    async def _withdraw(self, price: LegacyPrice) -> None:
        marks = {OM_SUCCESSOR_PRICE: "", OM_MIRRORED_SINCE: ""}
        if price.metadata.get(OM_SUCCESSOR_PRICE):
            path = f"/v1/prices/{price.id}"
            await self.step.do(STOP, price.id, lambda: self.api.change(path, {"metadata": marks}), price.id)
        if price.successor and price.successor["active"]:
            path = f"/v1/prices/{price.successor['id']}"
            await self.step.do(
                DEACTIVATE_PRICE,
                price.id,
                lambda: self.api.change(path, {"active": False}),
                price.successor["id"],
            )

    async def _deactivate(self, meter: str, of: str) -> None:
        shown = await self.api.get(f"/v1/billing/meters/{meter}")
        if shown["status"] != "active" or await self._serves_others(meter):
            return
        path = f"/v1/billing/meters/{meter}/deactivate"
        await self.step.do(DEACTIVATE_METER, of, lambda: self.api.change(path, {}), meter)

    async def _serves_others(self, meter: str) -> bool:
        """Whether a price is on the meter that was not made here, or that is still to be sold."""
        others = [
            one
            for one in await self.api.prices({"recurring": {"meter": meter}})
            if not (one.get("metadata") or {}).get(OM_PREDECESSOR_PRICE)
            or (one["active"] and one["id"] not in self._archived)
        ]
        return bool(others)


def _key(kind: str, name: str, params: Json) -> str:
    """The idempotency key of what is made: the same for the same thing, made at any time."""
    said = json.dumps(params, sort_keys=True, default=str)
    return f"usage-reporter-migrate-{kind}-{name}-{hashlib.sha256(said.encode()).hexdigest()[:12]}"
