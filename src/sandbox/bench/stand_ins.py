"""Stripe and OpenMeter in a process of their own, with the time that a call takes, and their limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Final, Literal, Self

import stripe

from sandbox.bench.population import scattered, subscribe, use
from sandbox.bench.processes import started
from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings
from sandbox.openmeter import create_app as openmeter_app
from sandbox.serve import serve
from sandbox.stripe import StripeSandbox, StripeSettings
from sandbox.stripe import create_app as stripe_app

STRIPE_KEY: Final = "sk_live_benchmark"
OPENMETER_KEY: Final = "om_benchmark"
OPENMETER_METER: Final = "tokens"
STRIPE_LATENCY_S: Final = 0.08
OPENMETER_LATENCY_S: Final = 0.05

HOUR: Final = 3600
DAY: Final = 24 * HOUR
START: Final = 1_798_765_320
"""2027-01-01T01:02:00Z: two minutes past an hour, as the hourly tick comes; the same in every run."""
_MEMBERS_SINCE: Final = 28 * DAY

type Anchors = Literal["shared", "scattered"]
"""Whether all subscriptions renew at one instant, or each at its own in the month."""


@dataclass(frozen=True, slots=True)
class Calls:
    """What the stand-ins were asked since the last count."""

    stripe: dict[str, int]
    """By method and path template."""
    openmeter_queries: int
    refused: dict[str, int]
    """Stripe's 429s by reason."""

    @property
    def stripe_calls(self) -> int:
        """All calls to Stripe."""
        return sum(self.stripe.values())

    def to(self, name: str) -> int:
        """Calls to one endpoint of Stripe, such as `GET /v1/subscriptions`."""
        return self.stripe.get(name, 0)


class StandIns:
    """A context manager: the process with both stand-ins. Raises RuntimeError when it does not start."""

    stripe_url: str
    openmeter_url: str
    price: str

    def __enter__(self) -> Self:
        self._process, self._pipe = started(_serve)
        self.stripe_url, self.openmeter_url, self.price = self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    def populate(self, count: int, anchors: Anchors) -> list[str]:
        """So many customers with a subscription of one metered item each; their ids, newest first."""
        return list(self._do("populate", count, anchors))

    def use(self, customers: Sequence[str], hour: int) -> None:
        """One unit more for each of these customers in an hour (its start, UTC seconds)."""
        self._do("use", customers, hour)

    def travel(self, now: int) -> None:
        """Let time pass up to an instant (UTC seconds); Stripe renews on the way."""
        self._do("travel", now)

    def set(self, **settings: Any) -> None:
        """Change settings of the Stripe stand-in."""
        self._do("set", settings)

    def storm(self, *, is_on: bool) -> None:
        """Answer every call to Stripe with 429, or no more."""
        self._do("storm", is_on)

    def held(self) -> int:
        """The units that Stripe holds of everybody."""
        return int(self._do("held"))

    def count(self) -> Calls:
        """The calls since the last count."""
        found: Calls = self._do("count")
        return found

    def _do(self, name: str, *arguments: Any) -> Any:
        self._pipe.send((name, arguments))
        return self._answer()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except EOFError:
            raise RuntimeError("the process of the stand-ins is gone") from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@dataclass(slots=True)
class _Host:
    """The other side of the pipe."""

    clock: ManualClock = field(default_factory=lambda: ManualClock(START - _MEMBERS_SINCE - DAY))
    stripe: StripeSandbox = field(init=False)
    openmeter: OpenMeterSandbox = field(init=False)
    price: str = ""

    def __post_init__(self) -> None:
        self.stripe = StripeSandbox(
            self.clock,
            StripeSettings(
                api_keys=frozenset({STRIPE_KEY}),
                livemode=True,
                latency=STRIPE_LATENCY_S,
                enforce_rate_limits=True,
                meter_event_latency=0,
                log_requests=False,
                seed=1,
            ),
        )
        settings = OpenMeterSettings(api_key=OPENMETER_KEY, latency=OPENMETER_LATENCY_S)
        self.openmeter = OpenMeterSandbox(self.clock, settings)

    def populate(self, count: int, anchors: Anchors) -> list[str]:
        self.clock.set(START)
        since = START - _MEMBERS_SINCE
        instants = [since] * count if anchors == "shared" else scattered(count, since, START - HOUR)
        found = subscribe(self.stripe, self.price, instants, item_metadata={"om_meter_id": OPENMETER_METER})
        self.stripe.run_due()
        return [one.customer for one in reversed(found)]

    def use(self, customers: Sequence[str], hour: int) -> None:
        use(self.openmeter, OPENMETER_METER, customers, [hour], value=1)

    def travel(self, now: int) -> None:
        self.clock.set(now)
        self.stripe.run_due()

    def set(self, settings: dict[str, Any]) -> None:
        self.stripe.change_settings(**settings)

    def storm(self, is_on: bool) -> None:
        self.stripe.faults.clear()
        if is_on:
            self.stripe.faults.add("rate_limited", reason="endpoint-rate", times=None)

    def held(self) -> int:
        return int(sum(event.value for event in self.stripe.meters.accepted()))

    def count(self) -> Calls:
        counts = {f"{method} {path}": calls for (method, path), calls in self.stripe.calls.items()}
        found = Calls(counts, len(self.openmeter.calls.queries), dict(self.stripe.log.limited))
        self.stripe.log.clear()
        self.openmeter.calls.reset()
        return found


def _serve(pipe: Connection) -> None:
    host = _Host()
    host.openmeter.create_meter(OPENMETER_METER, OPENMETER_METER)
    with (
        serve(stripe_app(host.stripe, ticker=False)) as stripe_url,
        serve(openmeter_app(host.openmeter)) as openmeter_url,
    ):
        host.price = _metered_price(stripe_url)
        pipe.send((stripe_url, openmeter_url, host.price))
        while True:
            try:
                name, arguments = pipe.recv()
            except EOFError:
                return
            try:
                pipe.send(getattr(host, name)(*arguments))
            except Exception as error:  # noqa: BLE001 - it belongs to who asked
                pipe.send(error)


def _metered_price(url: str) -> str:
    """A price of $0.10 a unit and month, with its meter and product."""
    http = stripe.HTTPXClient(allow_sync_methods=True)
    client = stripe.StripeClient(STRIPE_KEY, base_addresses={"api": url}, http_client=http)
    meter = client.v1.billing.meters.create(
        {
            "display_name": OPENMETER_METER,
            "event_name": OPENMETER_METER,
            "default_aggregation": {"formula": "sum"},
        }
    )
    price = client.v1.prices.create(
        {
            "currency": "usd",
            "unit_amount": 10,
            "recurring": {"interval": "month", "usage_type": "metered", "meter": meter.id},
            "product_data": {"name": OPENMETER_METER},
        }
    )
    return str(price.id)
