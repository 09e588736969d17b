"""The plain way, as the original example has it: one call after the other, nothing remembered.

Active subscriptions ten a page; for each metered item one query to OpenMeter and one write to Stripe.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import stripe

from sandbox.bench.stand_ins import (
    OPENMETER_KEY,
    OPENMETER_LATENCY_S,
    OPENMETER_METER,
    START,
    STRIPE_KEY,
    STRIPE_LATENCY_S,
    StandIns,
)

PAGE = 10
SLACK = 0.10
"""So far its time may be from that of its calls: it must not be slow for another reason than its calls."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """What the plain way took, and what its calls alone take."""

    subscriptions: int
    seconds: float
    stripe_calls: int
    openmeter_queries: int

    @property
    def seconds_of_calls(self) -> float:
        """Its calls, as the stand-ins counted them, by the time that one takes."""
        return self.stripe_calls * STRIPE_LATENCY_S + self.openmeter_queries * OPENMETER_LATENCY_S

    @property
    def off_by(self) -> float:
        """How far its time is from that of its calls, as a part of it; fair up to SLACK."""
        return abs(self.seconds / self.seconds_of_calls - 1)

    def seconds_for(self, subscriptions: int) -> float:
        """What it takes for another number of subscriptions: each has its own calls."""
        return self.seconds * subscriptions / self.subscriptions


def measure_baseline(subscriptions: int, progress: Callable[[int], None]) -> Baseline:
    """Run the plain way over so many subscriptions; `progress` is told how many are done."""
    headers = {"Authorization": f"Bearer {OPENMETER_KEY}"}
    with (
        StandIns() as stand_ins,
        httpx.Client(base_url=stand_ins.openmeter_url, headers=headers) as openmeter,
    ):
        stand_ins.use(stand_ins.populate(subscriptions, "shared"), START - START % 3600 - 3600)
        client = stripe.StripeClient(
            STRIPE_KEY,
            base_addresses={"api": stand_ins.stripe_url},
            http_client=stripe.HTTPXClient(allow_sync_methods=True),
            max_network_retries=0,
        )
        stand_ins.count()
        began = time.monotonic()
        pages = client.v1.subscriptions.list({"limit": PAGE})
        for done, subscription in enumerate(pages.auto_paging_iter(), 1):
            for item in subscription["items"].data:
                _report(client, openmeter, str(subscription.customer), item)
            progress(done)
        seconds = time.monotonic() - began
        calls = stand_ins.count()
    return Baseline(subscriptions, seconds, calls.stripe_calls, calls.openmeter_queries)


def _report(client: stripe.StripeClient, openmeter: httpx.Client, customer: str, item: Any) -> None:
    start = datetime.fromtimestamp(item.current_period_start, UTC).replace(second=0)
    end = datetime.fromtimestamp(START, UTC).replace(second=0)
    answer = openmeter.get(
        f"/api/v1/meters/{item.metadata['om_meter_id']}/query",
        params={"subject": customer, "from": start.isoformat(), "to": end.isoformat()},
    )
    answer.raise_for_status()
    total = sum(row["value"] for row in answer.json()["data"])
    client.v1.billing.meter_events.create(
        {
            "event_name": OPENMETER_METER,
            "payload": {"stripe_customer_id": customer, "value": str(total)},
            "timestamp": START - 60,
        }
    )
