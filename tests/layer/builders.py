"""What the tests of the layer are made of: nouns with defaults, and the layer's seams in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx

from usage_reporting.config import Settings
from usage_reporting.connection_pools import ConnectionPools
from usage_reporting.credentials import Secret
from usage_reporting.errors import LostRaceError
from usage_reporting.ledger import Item, Key
from usage_reporting.model import (
    CustomerMeter,
    Reading,
    Send,
    SendState,
    Span,
    SpanState,
    StripeMeter,
    Target,
)
from usage_reporting.pacer import LIVE, Limits, Pacer
from usage_reporting.stripe_api import TIMEOUT_S, StripeApi
from usage_reporting.windows import DAY, HOUR, Slice

NOON = 1_784_116_800
"""2026-07-15T12:00:00Z"""

MONTH_START = NOON - 14 * DAY
MONTH_END = MONTH_START + 31 * DAY

METER = StripeMeter("mtr_1", "tokens")
SETTINGS = Settings(openmeter_url="http://openmeter.test")


def D(text: str | int) -> Decimal:  # noqa: N802 - reads as a number
    return Decimal(text)


def span(start: int = MONTH_START, end: int = MONTH_END, **other: Any) -> Span:
    values: dict[str, Any] = {"subscription": "sub_1", "item": "si_1", "price": "price_1", **other}
    return Span(start=start, end=end, **values)


def customer_meter(*spans: Span, **other: Any) -> CustomerMeter:
    shown = spans or (span(),)
    values: dict[str, Any] = {
        "account": "self",
        "mode": "test",
        "customer": "cus_1",
        "subject": "cus_1",
        "openmeter_meter": "m1",
        "target": Target.MIRROR,
        "spans": shown,
        "bounds": frozenset(edge for one in shown for edge in (one.start, one.end)),
        "meter": METER,
        "seen_at": NOON,
        **other,
    }
    return CustomerMeter(**values)


def legacy(*spans: Span, **other: Any) -> CustomerMeter:
    return customer_meter(*spans, **{"target": Target.USAGE_RECORD, "meter": None, **other})


def reading(
    value: str | int,
    mirrored: str | int = 0,
    *,
    piece: Slice | None = None,
    undelivered: str | int = 0,
    dropped: str | int = 0,
    state: SpanState = SpanState.CURRENT,
    stamp: int | None = -1,
    sequence: int = 0,
) -> Reading:
    piece = piece or Slice(NOON, NOON + HOUR)
    return Reading(
        piece=piece,
        value=D(value),
        mirrored=D(mirrored),
        undelivered=D(undelivered),
        sequence=sequence,
        stamp=piece.end - 1 if stamp == -1 else stamp,
        state=state,
        dropped=D(dropped),
    )


def send(
    identifier: str = "cus_1.1.0.a",
    value: str | int = 1,
    stamp: int = NOON + HOUR - 1,
    *,
    slice_start: int = NOON,
    intended_at: int = NOON + HOUR,
    state: SendState = SendState.INTENT,
    attempt: int = 0,
) -> Send:
    return Send(identifier, slice_start, stamp, D(value), intended_at, state, attempt)


@dataclass
class Clock:
    """UTC seconds, moved by hand."""

    now: int = NOON

    def __call__(self) -> int:
        return self.now


@dataclass
class FixedCredentials:
    """Keys that a test can exchange; `reread` brings the next one, if there is one."""

    keys: list[str] = field(default_factory=lambda: ["sk_test_first"])
    openmeter_keys: list[str | None] = field(default_factory=lambda: [None])
    rereads: int = 0

    def current(self) -> Secret:
        return Secret(self.keys[0], ("whsec_1",), self.openmeter_keys[0])

    def reread(self) -> bool:
        self.rereads += 1
        renewed = False
        for keys in (self.keys, self.openmeter_keys):
            if len(keys) > 1:
                keys.pop(0)
                renewed = True
        return renewed


@dataclass
class MemoryTable:
    """The ledger's table in memory, with its version conditions."""

    items: dict[Key, Item] = field(default_factory=dict)
    made_at: str = "1"

    def created_at(self) -> str:
        return self.made_at

    def get(self, keys: Sequence[Key]) -> list[Item]:
        return [dict(self.items[key]) for key in keys if key in self.items]

    def put(self, item: Item, read_version: int) -> None:
        key = (item["pk"], item["sk"])
        if self.items.get(key, {}).get("version", 0) != read_version:
            raise LostRaceError("somebody else wrote it")
        self.items[key] = item


@dataclass
class Sleeps:
    """Takes the place of asyncio.sleep and remembers how long it was to be."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


Handler = Callable[[httpx.Request], httpx.Response]


def stripe_client(handler: Handler) -> ConnectionPools:
    """The official client's HTTP client, answered by a function instead of a network."""
    return ConnectionPools(TIMEOUT_S, transport=httpx.MockTransport(handler))


def instant_pacer(live: Limits = LIVE) -> Pacer:
    """A pacer whose waits take no time."""
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    return Pacer(live=live, monotonic=lambda: now, sleep=sleep)


def stripe_api(
    handler: Handler, credentials: FixedCredentials | None = None, sleep: Sleeps | None = None
) -> StripeApi:
    return StripeApi(
        credentials or FixedCredentials(),
        http_client=stripe_client(handler),
        pacer=instant_pacer(),
        sleep=sleep or Sleeps(),
    )


def stripe_error(status: int, message: str, **headers: str) -> httpx.Response:
    kind = "api_error" if status >= 500 else "invalid_request_error"
    return httpx.Response(status, json={"error": {"type": kind, "message": message}}, headers=dict(headers))


def stripe_list(objects: Iterable[dict[str, Any]] = (), *, has_more: bool = False) -> httpx.Response:
    return httpx.Response(200, json={"object": "list", "data": list(objects), "has_more": has_more})
