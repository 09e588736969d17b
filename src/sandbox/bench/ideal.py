"""The least time that a tick can take, by formula, however good the program is."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sandbox.bench.deployment import WORKERS
from sandbox.bench.stand_ins import OPENMETER_LATENCY_S, STRIPE_LATENCY_S
from usage_reporting.config import Settings
from usage_reporting.meter_event_stream import MOST_EVENTS
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.pacer import LIVE
from usage_reporting.stripe_api import PAGE_SIZE

OTHER_LISTS = 2
"""Draft invoices, and events of what ended: each tick lists them after the subscriptions."""

_METER_EVENTS = "/v1/billing/meter_events"
_STREAM = "/v2/billing/meter_event_stream"


@dataclass(frozen=True, slots=True)
class Ideal:
    """Seconds that each part of a tick takes at least; they overlap, so that the longest counts."""

    lists: float
    """Pages of a list come one after the other."""
    queries: float
    sends: float

    @property
    def seconds(self) -> float:
        """The longest."""
        return max(self.lists, self.queries, self.sends)


def ideal(subscriptions: int, changed: int, *, stream: bool) -> Ideal:
    """The ideal of one tick over so many subscriptions of which so many changed in one hour."""
    concurrency = WORKERS * Settings(openmeter_url="").openmeter_concurrency
    requests = ceil(changed / MOST_EVENTS) if stream else changed
    a_second = LIVE.own[_STREAM if stream else _METER_EVENTS]
    return Ideal(
        lists=(ceil(subscriptions / PAGE_SIZE) + OTHER_LISTS) * STRIPE_LATENCY_S,
        queries=ceil(ceil(subscriptions / MOST_SUBJECTS) / concurrency) * OPENMETER_LATENCY_S,
        sends=max(requests / a_second, STRIPE_LATENCY_S if requests else 0.0),
    )
