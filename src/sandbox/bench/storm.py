"""A storm of 429s: how soon the calls to Stripe are at the allowed rate again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from sandbox.bench.deployment import Keys
from sandbox.bench.processes import started
from sandbox.bench.stand_ins import StandIns
from usage_reporting.connection_pools import ConnectionPools
from usage_reporting.errors import StripeUnavailableError
from usage_reporting.pacer import LIVE, Pacer
from usage_reporting.stripe_api import TIMEOUT_S, StripeApi

CALLERS = 16
BEFORE_S = 5.0
STORM_S = 5.0
RECOVERY_S = 28.0
AFTER_S = 6.0
_PATH = "/v1/subscriptions"
_ENDS: Final = BEFORE_S + STORM_S


@dataclass(frozen=True, slots=True)
class Storm:
    """Calls a second before and after a storm, and Stripe's own limit of the endpoint."""

    before: float
    after: float
    refused_outside: int
    """Calls that were too many while no storm was on."""
    limit: float = LIVE.endpoint

    @property
    def recovered(self) -> float:
        """The part of the allowed rate that is reached again."""
        return self.after / self.limit


class StormMeasurement:
    """Runs beside other measurements: it waits most of its time."""

    def __init__(self) -> None:
        self._process, self._ours = started(_measure, has_children=True)

    def result(self) -> Storm:
        """Wait for its end. Raises RuntimeError when it failed."""
        try:
            found: Storm = self._ours.recv()
        except EOFError:
            raise RuntimeError("the process that measures a storm of 429s failed") from None
        finally:
            self._process.join()
        return found


def _measure(pipe: Any) -> None:
    with StandIns() as stand_ins:
        stand_ins.populate(1, "shared")
        pipe.send(asyncio.run(_calls(stand_ins)))


async def _calls(stand_ins: StandIns) -> Storm:
    http = ConnectionPools(TIMEOUT_S)
    api = StripeApi(Keys(), api_base=stand_ins.stripe_url, http_client=http, pacer=Pacer())
    done: list[float] = []
    began = time.monotonic()
    ends_at = began + _ENDS + RECOVERY_S + AFTER_S

    async def caller() -> None:
        while time.monotonic() < ends_at:
            try:
                await api.call("get", _PATH, {"limit": 1})
            except StripeUnavailableError:
                continue
            done.append(time.monotonic() - began)

    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    await asyncio.sleep(BEFORE_S)
    refused = await asyncio.to_thread(_refused, stand_ins)
    await asyncio.to_thread(stand_ins.storm, is_on=True)
    await asyncio.sleep(STORM_S)
    await asyncio.to_thread(stand_ins.storm, is_on=False)
    await asyncio.to_thread(_refused, stand_ins)
    await asyncio.gather(*callers)
    refused += await asyncio.to_thread(_refused, stand_ins)
    await http.close_async()
    return Storm(
        _rate(done, 1, BEFORE_S), _rate(done, _ENDS + RECOVERY_S, _ENDS + RECOVERY_S + AFTER_S), refused
    )


def _refused(stand_ins: StandIns) -> int:
    return sum(stand_ins.count().refused.values())


def _rate(done: list[float], start: float, end: float) -> float:
    return sum(start <= at < end for at in done) / (end - start)
