"""OpenMeter's customers by their keys, asked many at once and remembered for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from usage_reporting.errors import RefusedError
from usage_reporting.openmeter_dialect import Dialect, OpenMeterCustomer

KEPT_FOR_S = 600
"""How long an answer is believed: a tick later, a customer that was made, deleted or renamed is seen."""


@dataclass(frozen=True, slots=True)
class _Answer:
    customer: OpenMeterCustomer | None
    at: float


class OpenMeterCustomers:
    """Tells which customer of OpenMeter has a key; `clock` in seconds.

    Raises OpenMeterUnavailableError when asking again may help, RefusedError when it will not.
    """

    def __init__(self, dialect: Dialect, clock: Callable[[], float]) -> None:
        self._dialect = dialect
        self._clock = clock
        self._answers: dict[str, _Answer] = {}
        self._asking = asyncio.Lock()

    async def known(self, keys: Iterable[str]) -> dict[str, OpenMeterCustomer]:
        """The customers with these keys, by key; who is missing is not there, or was deleted."""
        wanted = list(dict.fromkeys(keys))
        async with self._asking:
            now = self._clock()
            # A copy: while some are asked for, a query beside this one may `forget` all others.
            answers = {key: self._answers[key] for key in wanted if self._is_fresh(key, now)}
            unknown = [key for key in wanted if key not in answers]
            if unknown:
                found = {one.key: one for one in await self._dialect.customers(unknown)}
                asked = {key: _Answer(found.get(key), now) for key in {*unknown, *found}}
                self._answers |= asked
                answers |= asked
        return {key: one for key in wanted if (one := answers[key].customer) is not None}

    async def every(self, keys: Iterable[str]) -> dict[str, OpenMeterCustomer]:
        """The customers with these keys, by key. Raises RefusedError if one of them is not there."""
        wanted = list(keys)
        found = await self.known(wanted)
        for key in wanted:
            if key not in found:
                raise RefusedError(
                    f"OpenMeter has no customer with key {key!r}, or it was deleted; create it with the "
                    "subject keys that its usage is sent under, or correct what the Stripe customer names"
                )
        return found

    def forget(self) -> None:
        """Believe nothing any more: OpenMeter said that one of them is gone."""
        self._answers.clear()

    def _is_fresh(self, key: str, now: float) -> bool:
        return key in self._answers and now - self._answers[key].at < KEPT_FOR_S
