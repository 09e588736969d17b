"""Switches subscriptions to their new prices at their renewal, by schedules, and takes that back before it.

A schedule is made of a subscription in two calls, for Stripe takes nothing else beside `from_subscription`
("Create a schedule"). A mark on the subscription comes first, so that a run that was cut short between the
calls knows its own schedule again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cli.migration.comparing import Compared
from cli.migration.few_at_once import few_at_once
from cli.migration.found import (
    OM_SWITCH_AT,
    OM_SWITCH_REASON,
    Found,
    LegacyItem,
    LegacyPrice,
    seconds,
)
from cli.migration.legacy_api import LegacyApi
from cli.migration.neighbours import Neighbours
from cli.migration.periods import cut_of
from cli.migration.phases import UnreadablePhaseError, put_on, two_phases
from cli.migration.proposal import successor_refusal
from cli.migration.step import Step
from cli.wiring import Operator
from usage_reporting.customer_meters import id_of
from usage_reporting.errors import RefusedError
from usage_reporting.model import Span
from usage_reporting.usage_since import OM_USAGE_SINCE
from usage_reporting.windows import MINUTE, rfc3339

Json = dict[str, Any]
Pairs = Sequence[tuple[LegacyPrice, LegacyItem]]

MARK, MAKE_SCHEDULE, PLAN = "mark for the switch", "make schedule", "plan the switch"
RELEASE, UNMARK = "release schedule", "take the mark away"

TOO_CLOSE = 10 * MINUTE
"""Before a renewal: a schedule that is made in it might be made of the next period."""
LONGEST_REASON = 500
"""Characters of a metadata value (Stripe's page "Metadata")."""


@dataclass(slots=True)
class Switch:
    """Schedules subscriptions whose items were compared."""

    parts: Operator
    step: Step
    compared: Mapping[str, Compared]
    """By the id of the item."""
    reason: str = ""
    """Why subscriptions are switched that did not compare exact; empty: they are not."""
    limit: int = 0
    """How many further subscriptions are switched at most; 0: all."""
    api: LegacyApi = field(init=False)
    neighbours: Neighbours = field(init=False)

    def __post_init__(self) -> None:
        """Wire the parts that speak to Stripe."""
        self.api = LegacyApi(self.parts.billing.api)
        self.neighbours = Neighbours(self.parts)

    async def switch(self, found: Found) -> None:
        """Schedule all that can be; one that fails does not stop the others."""
        ready = self._within_limit(await self._willing(found))

        async def one(pairs: Pairs) -> None:
            await self.step.guarded(pairs[0][1].subscription["id"], self._schedule(pairs))

        await few_at_once(ready, one)

    async def _willing(self, found: Found) -> dict[str, Pairs]:
        """The subscriptions that are scheduled, and those that can be; why not the others is said."""
        willing: dict[str, Pairs] = {}
        for name, pairs in subscriptions_of(found).items():
            if why := self._refusal(pairs):
                self.step.left[name] = why
            else:
                willing[name] = pairs
        await self.neighbours.read(pairs[0][1].customer for pairs in willing.values() if _is_new(pairs))
        self._leave(willing, lambda pairs: next(filter(None, map(self._conflict, pairs)), ""))
        while not self.reason and self._leave(willing, lambda pairs: self._stray(pairs, willing)):
            pass  # what goes together with one that is left is left, too
        return willing

    def _leave(self, willing: dict[str, Pairs], refusal: Callable[[Pairs], str]) -> bool:
        """Take out what is refused; whether anything was."""
        new = ((name, refusal(pairs)) for name, pairs in willing.items() if _is_new(pairs))
        refused = {name: why for name, why in new if why}
        self.step.left |= refused
        for name in refused:
            del willing[name]
        return bool(refused)

    def _conflict(self, pair: tuple[LegacyPrice, LegacyItem]) -> str:
        return self.neighbours.conflict(*pair)

    def _stray(self, pairs: Pairs, willing: Mapping[str, Pairs]) -> str:
        """Why a subscription is not switched by itself: another one would be caught between the two."""
        covered = {item.id for each in willing.values() for _, item in each}
        for span in self._together(pairs):
            if span.item not in covered:
                return (
                    f"{span.item} of {span.subscription} has to be switched together with it, for both renew "
                    "at the same time and share a Stripe meter; see why that one is left (--price, or a "
                    "reason of its own); --force with a reason switches this one without it, for good"
                )
        return ""

    def _together(self, pairs: Pairs) -> list[Span]:
        return [span for pair in pairs for span in self.neighbours.together_with(*pair)]

    def _within_limit(self, willing: Mapping[str, Pairs]) -> list[Pairs]:
        """What was scheduled before, done or to be gone on with, and as much else as the limit lets in."""
        ready = {name: pairs for name, pairs in willing.items() if not _is_new(pairs)}
        new = 0
        for name in willing:
            if name in ready:
                continue
            group = [one for one in self._group(name, willing) if one not in ready]
            if self.limit and new + len(group) > self.limit:
                more = f"; {len(group)} subscriptions go together here" if len(group) > 1 else ""
                self.step.left[name] = f"--limit {self.limit} is reached{more}"
            else:
                ready |= {one: willing[one] for one in group}
                new += len(group)
        return list(ready.values())

    def _group(self, name: str, willing: Mapping[str, Pairs]) -> list[str]:
        """A subscription and those that are switched with it."""
        group = [name]
        for one in group:
            group += {
                span.subscription
                for span in self._together(willing[one])
                if span.subscription in willing and span.subscription not in group
            }
        return group

    def _refusal(self, pairs: Pairs) -> str:
        """Why a subscription is not switched now; empty where it is."""
        if pairs[0][1].is_scheduled:
            return ""
        if why := next(filter(None, (self._pair_refusal(*pair) for pair in pairs)), ""):
            return why
        archived = [one["price"]["id"] for one in _items(pairs) if not one["price"]["active"]]
        if archived:
            return (
                f"its price {archived[0]} is archived, and a schedule takes active prices alone; reactivate "
                "it until the switch is planned"
            )
        return self._too_close(pairs[0][1].period[1])

    def _pair_refusal(self, price: LegacyPrice, item: LegacyItem) -> str:
        if item.refusal or price.refusal:
            return item.refusal or f"{item.id}: {price.refusal}"
        if not price.is_mirrored:
            return f"its price {price.id} has no successor yet; first: migrate prepare --apply"
        if why := successor_refusal(price, item):
            return why
        compared = self.compared.get(item.id)
        if (compared is None or not compared.is_exact) and not self.reason:
            return f"{item.id} {_not_exact(compared)}; --force with a reason switches it all the same"
        return ""

    def _too_close(self, end: int) -> str:
        if end - self.parts.clock() >= TOO_CLOSE:
            return ""
        return f"it renews at {rfc3339(end)}, too soon for a schedule; run this again after that"

    async def _schedule(self, pairs: Pairs) -> None:
        item = pairs[0][1]
        name, end = item.subscription["id"], item.period[1]
        schedule = id_of(item.subscription.get("schedule"))
        if schedule and await self._is_done(schedule):
            self.step.left[name] = f"it is switched at {rfc3339(end)} already, by {schedule}"
            return
        if _is_new(pairs) and (why := self._too_close(end)):
            self.step.left[name] = why  # others took their time
            return
        mark = {"metadata": {OM_SWITCH_AT: str(end)}}
        if seconds(item.subscription["metadata"].get(OM_SWITCH_AT)) != end:
            path = f"/v1/subscriptions/{name}"
            await self.step.do(MARK, name, lambda: self.api.change_legacy(path, mark), name)
        shown: Json | None
        if schedule:
            shown = await self.api.get(f"/v1/subscription_schedules/{schedule}")
        else:
            origin = {"from_subscription": name}
            shown = await self.step.do(
                MAKE_SCHEDULE, name, lambda: self.api.once_legacy("/v1/subscription_schedules", origin)
            )
        await self._plan(name, pairs, end, shown)

    async def _plan(self, name: str, pairs: Pairs, end: int, shown: Json | None) -> None:
        if shown is None:
            await self.step.do(PLAN, name, None)
            return
        self._check(shown, end)
        try:
            phases = two_phases(shown, end, self._put_on(pairs, shown))
        except UnreadablePhaseError as error:
            raise RefusedError(f"{error}; switch it by hand, after migrate switch --undo") from error
        why = {OM_SWITCH_REASON: self.reason[:LONGEST_REASON]} if self.reason else {}
        params = {
            "end_behavior": "release",
            "proration_behavior": "none",
            "phases": phases,
            "metadata": {OM_SWITCH_AT: str(end), **why},
        }
        path = f"/v1/subscription_schedules/{shown['id']}"
        await self.step.do(PLAN, name, lambda: self.api.change_legacy(path, params), shown["id"])

    def _check(self, shown: Json, end: int) -> None:
        """A subscription may have renewed while it was looked at."""
        phase = shown["phases"][0]
        if shown["end_behavior"] != "release":
            raise RefusedError(
                f"the subscription is to end now, and schedule {shown['id']} would end it; "
                "run migrate switch --undo"
            )
        if phase["end_date"] != end:
            raise RefusedError(
                f"schedule {shown['id']} has the period up to {rfc3339(phase['end_date'])}, not the one up "
                f"to {rfc3339(end)}; run migrate switch --undo, then this again"
            )

    def _put_on(self, pairs: Pairs, shown: Json) -> dict[str, Json]:
        """The items on the new prices, by the old price; each says from when on its usage is billed."""
        held = {id_of(item["price"]): item for item in shown["phases"][0]["items"]}
        found: dict[str, Json] = {}
        for price, item in pairs:
            if item.span is None or price.successor is None or price.id not in held:
                raise RefusedError(f"schedule {shown['id']} does not hold price {price.id}")
            _, cut = cut_of(self.parts, item.span)
            own = {**(item.item.get("metadata") or {}), OM_USAGE_SINCE: str(cut)}
            found[price.id] = put_on(held[price.id], price.successor["id"], own)
        return found

    async def _is_done(self, schedule: str) -> bool:
        shown = await self.api.get(f"/v1/subscription_schedules/{schedule}")
        return OM_SWITCH_AT in (shown.get("metadata") or {}) and len(shown["phases"]) > 1


@dataclass(slots=True)
class SwitchBack:
    """Takes schedules back before their renewal."""

    parts: Operator
    step: Step
    api: LegacyApi = field(init=False)

    def __post_init__(self) -> None:
        """Wire the part that speaks to Stripe."""
        self.api = LegacyApi(self.parts.billing.api)

    async def undo(self, found: Found) -> None:
        """Release every schedule of a migration whose renewal is ahead, and take its mark away."""

        async def one(item: LegacyItem) -> None:
            await self.step.guarded(item.subscription["id"], self._release(item))

        # Whatever has become of its price or its metadata since: its schedule would switch it.
        firsts = {item.subscription["id"]: item for _, item in found.items}.values()
        marked = [one for one in firsts if (one.subscription.get("metadata") or {}).get(OM_SWITCH_AT)]
        await few_at_once(marked, one)
        for subscription in switched_of(found):
            self.step.left[subscription["id"]] = (
                "it is switched, and billed by its meter; that cannot be undone"
            )

    async def _release(self, item: LegacyItem) -> None:
        name, schedule = item.subscription["id"], id_of(item.subscription.get("schedule"))
        if item.is_scheduled:
            path = f"/v1/subscription_schedules/{schedule}/release"
            await self.step.do(RELEASE, name, lambda: self.api.change_legacy(path, {}), schedule)
        path = f"/v1/subscriptions/{name}"
        unmarked = {"metadata": {OM_SWITCH_AT: ""}}
        await self.step.do(UNMARK, name, lambda: self.api.change_legacy(path, unmarked), name)


def subscriptions_of(found: Found) -> dict[str, list[tuple[LegacyPrice, LegacyItem]]]:
    """The items that can be migrated, by the id of their subscription; the others stay as they are on it."""
    by_subscription: dict[str, list[tuple[LegacyPrice, LegacyItem]]] = {}
    for price, item in found.items:
        if item.customer_meter is not None and not price.refusal:
            by_subscription.setdefault(item.subscription["id"], []).append((price, item))
    return by_subscription


def _is_new(pairs: Pairs) -> bool:
    return not pairs[0][1].is_scheduled


def _items(pairs: Pairs) -> Sequence[Json]:
    """All items of a subscription, also those that stay as they are."""
    found: Sequence[Json] = pairs[0][1].subscription["items"]["data"]
    return found


def switched_of(found: Found) -> Collection[Json]:
    """The live subscriptions that were switched, each once."""
    return {one["id"]: one for price in found.prices for one in price.switched}.values()


def _not_exact(compared: Compared | None) -> str:
    if compared is None:
        return "was not compared"
    if compared.problem:
        return f"could not be compared: {compared.problem}"
    if compared.differs:
        return "differs from its new meter"
    return f"has no whole period that was compared; the first can be after {rfc3339(compared.first_possible)}"
