"""How calls, time, units of AWS and dollars grow with the number of subscriptions; see docs/scale.md.

Assumed is the worst hour: every subscription has one metered item of a monthly price, and new usage. Calls
are what the code makes, and `usage-reporter bench` compares them with what it counts; how long a list call of
Stripe's and a page in a worker take are estimates, which are named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Final

from usage_reporting.lister import WHOLE_PAGES
from usage_reporting.meter_event_stream import MOST_EVENTS
from usage_reporting.openmeter import MOST_SUBJECTS
from usage_reporting.pacer import LIVE, paced
from usage_reporting.stripe_api import PAGE_SIZE

HOURS_A_MONTH: Final = 730
RENEWALS_SEEN_H: Final = 1.75
"""Hours around its period's end for which a subscription is among those that a closing tick lists."""
DRAFT_H: Final = 1.0
EVENTS_SEEN_H: Final = 26.0
FINAL_SEEN_H: Final = 3.0
FULL_READ_TICKS: Final = 20
QUERIES_OF_A_MONTH: Final = 5
"""Of at most 7 days each."""

LIST_CALL_S: Final = 0.3
"""A page of 100 subscriptions, as Stripe takes for it."""
PAGE_S: Final = {True: 1.0, False: 2.0}
"""A page of 100 customer meters in a worker of 512 MB, streamed or not."""
CHAINS: Final = 4
"""ListingConcurrency."""
SPLITS: Final = 20
"""Calls that find out where in time the subscriptions lie, beyond those that are listed as one chain."""
SCHEDULE_SHARE: Final = 0.85
WORKERS_SHARE: Final = 0.85

CARRIED_KB: Final = 6
"""What one streamed request carried: written before it goes out."""

WRITE_UNIT_USD: Final = 0.625e-6
READ_UNIT_USD: Final = 0.125e-6
SQS_REQUEST_USD: Final = 0.4e-6
LAMBDA_GB_S_USD: Final = 13.33e-6
LAMBDA_GB: Final = 0.5
LOG_GB_USD: Final = 0.5
LOG_LINE_KB: Final = 0.33

TICKS_A_MONTH: Final = {"all": 720, "closing": 2_880}
PERIOD_S: Final = {"all": 3_600, "closing": 900}
WRITES: Final = {"all": 2 * 2 + 1 / 3, "closing": 2 * 2}
"""Write units of a customer meter: the intent and the outcome in a day's entry of 2 KB on average (150 bytes
for each changed hour), and every third hour its head."""

_METER_EVENTS = "/v1/billing/meter_events"
_STREAM = "/v2/billing/meter_event_stream"


class Rhythm(StrEnum):
    """The two kinds of tick."""

    ALL = "all"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Estimate:
    """One tick in the worst case; seconds, units, and dollars for a month of such ticks."""

    rhythm: Rhythm
    subscriptions: int
    customer_meters: int
    """Those that the tick finds, each with something new."""
    list_calls: int
    sends: int
    """Calls that carry meter events, and those that open sessions for them."""
    queries: int
    list_seconds: float
    send_seconds: float
    page_seconds: float
    """Of all pages together, one after the other."""
    workers: int
    read_units: int
    write_units: int
    sqs_requests: int

    @property
    def calls(self) -> int:
        """Calls to Stripe."""
        return self.list_calls + self.sends

    @property
    def seconds(self) -> float:
        """How long the tick takes: its parts overlap."""
        return max(self._parts.values())

    @property
    def binds(self) -> str:
        """The part that takes longest."""
        return max(self._parts, key=self._parts.__getitem__)

    @property
    def is_in_time(self) -> bool:
        """Whether the tick is over before the next one begins."""
        return self.seconds <= PERIOD_S[self.rhythm]

    @property
    def dollars(self) -> float:
        """For a month of such ticks: DynamoDB, SQS, Lambda, logs."""
        units = self.write_units * WRITE_UNIT_USD + self.read_units * READ_UNIT_USD
        lambda_usd = (self.list_seconds + self.page_seconds) * LAMBDA_GB * LAMBDA_GB_S_USD
        logs_usd = self.customer_meters * LOG_LINE_KB / 1e6 * LOG_GB_USD
        one = units + self.sqs_requests * SQS_REQUEST_USD + lambda_usd + logs_usd
        return one * TICKS_A_MONTH[self.rhythm]

    @property
    def _parts(self) -> dict[str, float]:
        return {
            "the list of subscriptions": self.list_seconds,
            "meter events": self.send_seconds,
            "workers": self.page_seconds / self.workers,
        }


def estimate(subscriptions: int, rhythm: Rhythm, *, stream: bool, workers: int | None = None) -> Estimate:
    """One tick over so many subscriptions; without a number of workers, with as many as it takes."""
    if rhythm is Rhythm.ALL:
        listed, drafts, events = subscriptions, 0, subscriptions * EVENTS_SEEN_H / HOURS_A_MONTH
        # Mostly the last hours of today's entry; in every twentieth tick the whole period.
        queries_a_page, entries = 1 + QUERIES_OF_A_MONTH / FULL_READ_TICKS, 1.25 + 31 / FULL_READ_TICKS
    else:
        listed = ceil(subscriptions * RENEWALS_SEEN_H / HOURS_A_MONTH)
        drafts = ceil(subscriptions * DRAFT_H / HOURS_A_MONTH)
        events = subscriptions * FINAL_SEEN_H / HOURS_A_MONTH
        queries_a_page, entries = QUERIES_OF_A_MONTH, 31.0
    found = listed + drafts
    pages = ceil(found / MOST_SUBJECTS)
    list_calls = sum(max(ceil(of_one / PAGE_SIZE), 1) for of_one in (listed, drafts, events))
    list_calls += SPLITS if rhythm is Rhythm.ALL and pages > WHOLE_PAGES else 0
    page_seconds = pages * PAGE_S[stream]
    running = workers or max(2, ceil(page_seconds / (PERIOD_S[rhythm] / 2)))
    requests = ceil(found / MOST_EVENTS) if stream else found
    return Estimate(
        rhythm=rhythm,
        subscriptions=subscriptions,
        customer_meters=found,
        list_calls=list_calls,
        sends=requests + (min(running, pages) if stream else 0),
        queries=round(pages * queries_a_page),
        list_seconds=list_calls / min(CHAINS / LIST_CALL_S, paced(LIVE.endpoint, SCHEDULE_SHARE)),
        send_seconds=requests / paced(LIVE.own[_STREAM if stream else _METER_EVENTS], WORKERS_SHARE),
        page_seconds=page_seconds,
        workers=running,
        read_units=round(found * (1 + entries)),
        write_units=round(found * WRITES[rhythm] + (requests * CARRIED_KB if stream else 0)),
        sqs_requests=pages * 3,
    )


SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def table(rhythm: Rhythm, *, stream: bool) -> str:
    """The estimates as a table in Markdown."""
    lines = [
        "| subscriptions | calls | queries | seconds | binds | workers | reads | writes | SQS | USD |",
        "|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    for size in SIZES:
        one = estimate(size, rhythm, stream=stream)
        late = "" if one.is_in_time else " (**too long**)"
        lines.append(
            f"| {size:,} | {one.calls:,} | {one.queries:,} | {one.seconds:,.0f} | {one.binds}{late} | "
            f"{one.workers:,} | {one.read_units:,} | {one.write_units:,} | {one.sqs_requests:,} | "
            f"{one.dollars:,.0f} |"
        )
    return "\n".join(lines)
