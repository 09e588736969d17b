"""Legacy prices that are to be followed by prices with a meter: their usage goes to that meter, too; pure.

While no subscription of a customer has a price on a meter, what it holds is on no invoice ("Migrate to
billing meters"). So the meter's summary of a period can be compared with the period's usage record, before
any price is exchanged.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from usage_reporting.customer_meters import meter_refusal, stripe_meter, target_of
from usage_reporting.model import CustomerMeter, Span, SpanState, StripeMeter, Target
from usage_reporting.period_bounds import PeriodBounds
from usage_reporting.targets.usage_record import measured_span

Json = dict[str, Any]

OM_SUCCESSOR_PRICE = "om_successor_price"
"""In a legacy price's metadata: the price that is to take its place."""


def successor_of(price: Json) -> str:
    """The price that is to take a legacy price's place; empty where none is."""
    is_legacy = not (price.get("recurring") or {}).get("meter")
    return str((price.get("metadata") or {}).get(OM_SUCCESSOR_PRICE) or "") if is_legacy else ""


def beside(legacy: CustomerMeter, meter: Json, setting: PeriodBounds) -> CustomerMeter:
    """The customer meter that holds a legacy price's usage beside its records, on the successor's meter.

    It is cut where the records are: what they leave to the next period is stamped in the next period.
    """
    return replace(
        legacy,
        target=target_of(meter),
        spans=tuple(_beside(span, setting) for span in legacy.spans),
        meter=stripe_meter(meter),
        refusal=legacy.refusal or meter_refusal(meter),
    )


def without_meter(legacy: CustomerMeter, successor: str, why: str) -> CustomerMeter:
    """The same where the successor has no meter that could hold anything; `why` ends a sentence."""
    name = f"{OM_SUCCESSOR_PRICE} of price {legacy.spans[0].price} is {successor!r}"
    return replace(
        legacy,
        target=Target.MIRROR,
        spans=tuple(replace(span, state=SpanState.BESIDE) for span in legacy.spans),
        meter=StripeMeter(successor, ""),
        refusal=f"{name}, {why}",
    )


def _beside(span: Span, setting: PeriodBounds) -> Span:
    start, end = measured_span(span, setting)
    return replace(span, state=SpanState.BESIDE, usage_since=start, usage_until=end)
