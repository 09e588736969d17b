"""From Stripe's subscriptions to customer meters: mapping, spans, bounds and refusals; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from usage_reporting import usage_since
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.model import CustomerMeter, Span, SpanState, StripeMeter, Target, ledger_pk
from usage_reporting.renewals import mode_of
from usage_reporting.windows import HOUR

Json = dict[str, Any]

OM_METER_ID = "om_meter_id"
SHORTEST_LEGACY_PERIOD = 2 * HOUR
CREATED_TOGETHER = 60
"""Items made within these seconds of their subscription or period came with it; later ones were added."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What has to be known of a subscription's surroundings to map it; read by `billing`."""

    meters: Mapping[str, Json]
    """Stripe meters by id."""
    customer_metadata: Mapping[str, Any] | None
    """None when the subject is the customer's id."""
    asked_at: int
    """UTC seconds."""
    is_deleted: bool = False
    """Whether the customer was deleted, and its metadata with it."""
    account: str = OWN_ACCOUNT
    """As it stands in the ledger's keys."""


def is_metered(item: Json) -> bool:
    """Whether an item is billed by usage."""
    recurring = item.get("price", {}).get("recurring") or {}
    return recurring.get("usage_type") == "metered"


def meter_id_of(price: Json) -> str:
    """The Stripe meter that a price bills; empty for a legacy price."""
    return (price.get("recurring") or {}).get("meter") or ""


def product_of(price: Json) -> str:
    """The id of a price's product, expanded or not."""
    return id_of(price.get("product"))


def id_of(reference: Any) -> str:
    """The id of an object that Stripe gives either as an id or expanded."""
    return str(reference.get("id", "")) if isinstance(reference, dict) else str(reference or "")


def named_meter(item: Json) -> str:
    """The OpenMeter meter that the item or its price names; empty when the product has to be asked."""
    for holder in (item, item["price"]):
        name = (holder.get("metadata") or {}).get(OM_METER_ID)
        if name:
            return str(name)
    return ""


def pk_of(subscription: Json, item: Json, account: str = OWN_ACCOUNT) -> str:
    """The ledger's partition key of an item's customer meter."""
    holder = meter_id_of(item["price"]) or item["id"]
    return ledger_pk(account, mode_of(subscription), id_of(subscription["customer"]), holder)


def period_of(subscription: Json, item: Json) -> tuple[int, int] | None:
    """The item's billing period; before API 2025-03-31.basil it stood on the subscription."""
    start = item.get("current_period_start", subscription.get("current_period_start"))
    end = item.get("current_period_end", subscription.get("current_period_end"))
    return (start, end) if isinstance(start, int) and isinstance(end, int) else None


def in_period(item: Json, start: int, end: int) -> Json:
    """An item as of a period, or a part of one, other than that which it is in now; UTC seconds."""
    return {**item, "current_period_start": start, "current_period_end": end}


def bounds_of(subscription: Json, item: Json) -> frozenset[int]:
    """The instants at which billing of an item changes, UTC seconds."""
    pause = subscription.get("pause_collection") or {}
    instants = [
        *(subscription.get(name) for name in ("start_date", "trial_start", "trial_end")),
        *(subscription.get(name) for name in ("cancel_at", "ended_at")),
        pause.get("resumes_at"),
        *(period_of(subscription, item) or ()),
    ]
    if was_added(subscription, item):
        instants.append(item["created"])
    return frozenset(instant for instant in instants if isinstance(instant, int))


def was_added(subscription: Json, item: Json) -> bool:
    """Whether the item came to the subscription in the course of the period that it is in.

    A schedule may put a new item in place of another at a renewal, which Stripe makes some seconds late.
    """
    created, born, period = item.get("created"), subscription.get("created"), period_of(subscription, item)
    if not isinstance(created, int) or not isinstance(born, int):
        return False
    return all(created > start + CREATED_TOGETHER for start in (born, *(period or ())[:1]))


def span_of(subscription: Json, item: Json, state: SpanState = SpanState.CURRENT) -> Span | None:
    """What Stripe bills on the item in its period; None when that is nothing."""
    period = period_of(subscription, item)
    if period is None:
        return None
    start, period_end = period
    first = start == subscription.get("start_date")
    if was_added(subscription, item):
        start, first = item["created"], True
    ends = [period_end, subscription.get("ended_at"), subscription.get("cancel_at")]
    end = min(instant for instant in ends if isinstance(instant, int))
    if end <= start:
        return None
    is_trial = is_in_trial(subscription, start, end)
    when_left = SpanState.FREE if is_trial else _when_left(subscription)
    if subscription.get("status") == "paused" and state is SpanState.CURRENT:
        state = SpanState.FREE
    elif subscription.get("ended_at") and (end < period_end or when_left is SpanState.FREE):
        state = SpanState.FREE if when_left is SpanState.FREE else SpanState.CANCELED
    return Span(
        start=start,
        end=end,
        subscription=subscription["id"],
        item=item["id"],
        price=item["price"]["id"],
        state=state,
        first=first,
        when_left=when_left,
        last=is_last_end(subscription, end),
        is_trial=is_trial,
        currency=other_currency(subscription, item["price"]),
        usage_since=usage_since.usage_since(item, start),
    )


def is_last_end(subscription: Json, instant: int) -> bool:
    """Whether the subscription ends at an instant, rather than renews."""
    return instant in {subscription.get("ended_at"), subscription.get("cancel_at")}


def is_in_trial(subscription: Json, start: int, end: int) -> bool:
    """Whether all of [start, end) is a trial; one may be given to a subscription that was billed before."""
    began, trial_end = subscription.get("trial_start"), subscription.get("trial_end")
    return isinstance(trial_end, int) and end <= trial_end and (not isinstance(began, int) or began <= start)


def other_currency(billed: Json, price: Json) -> str:
    """What a subscription or invoice is billed in, if that is not the price's own currency; else empty."""
    currency = str(billed.get("currency") or "")
    return currency if currency != str(price.get("currency") or currency) else ""


def _when_left(subscription: Json) -> SpanState:
    """What Stripe does with usage whose price leaves in mid-period, and not in a trial.

    Flexible billing mode bills what was received, classic mode never bills it ("Manage billing setup").
    """
    mode = (subscription.get("billing_mode") or {}).get("type")
    return SpanState.DROPPED if mode == "classic" else SpanState.BILLED


def customer_meter(
    subscription: Json, item: Json, facts: Facts, *, openmeter_meter: str, spans: Sequence[Span]
) -> CustomerMeter:
    """The customer meter of one metered item, with the reason if it will not be reported."""
    price = item["price"]
    meter_id = meter_id_of(price)
    meter = facts.meters[meter_id] if meter_id else None
    target = target_of(meter)
    if target is Target.LAST:
        spans = [_after_trial(span, subscription) for span in spans]
    customer = id_of(subscription["customer"])
    subject = customer if facts.customer_metadata is None else ""
    return CustomerMeter(
        account=facts.account,
        mode=mode_of(subscription),
        customer=customer,
        subject=subject,
        openmeter_meter=openmeter_meter,
        target=target,
        spans=tuple(spans),
        bounds=bounds_of(subscription, item) | {edge for span in spans for edge in _edges(span)},
        meter=stripe_meter(meter) if meter else None,
        seen_at=facts.asked_at,
        is_deleted=facts.is_deleted,
        refusal=_threshold_refusal(subscription, item, target)
        or (meter_refusal(meter) if meter else _legacy_refusal(item["id"], spans))
        or _since_refusal(item, spans),
    )


def target_of(meter: Json | None) -> Target:
    """How a Stripe meter is made to hold usage; None: a legacy price without one."""
    if meter is None:
        return Target.USAGE_RECORD
    return Target.LAST if _formula(meter) == "last" else Target.MIRROR


def _formula(meter: Json) -> Any:
    return (meter.get("default_aggregation") or {}).get("formula")


def _after_trial(span: Span, subscription: Json) -> Span:
    """The part of a span that is billed: a trial's usage is not, and must not be in the total."""
    trial_end = subscription.get("trial_end")
    if not isinstance(trial_end, int) or not span.start < trial_end < span.end:
        return span
    return replace(span, start=trial_end, first=True)


def _edges(span: Span) -> tuple[int, ...]:
    """A draft's line may begin where a price was swapped, and that hour is not cut: see `heads`."""
    return (span.end,) if span.state is SpanState.DRAFT else (span.start, span.end)


def with_subject(found: CustomerMeter, metadata_key: str, metadata: Mapping[str, Any]) -> CustomerMeter:
    """The customer meter with the subject that the customer's metadata names."""
    subject = metadata.get(metadata_key)
    if found.is_deleted:
        return found  # the ledger knows it
    if subject:
        return replace(found, subject=str(subject))
    reason = (
        f"customer {found.customer} has no metadata {metadata_key!r}, which SUBJECT_METADATA_KEY asks for; "
        "set it to the subject in OpenMeter"
    )
    return replace(found, refusal=found.refusal or reason)


def with_account(found: CustomerMeter) -> CustomerMeter:
    """The customer meter of a connected account with that account in its subject (SUBJECT_WITH_ACCOUNT)."""
    if found.account == OWN_ACCOUNT or not found.subject:
        return found
    return replace(found, subject=f"{found.account}:{found.subject}")


def stripe_meter(meter: Json) -> StripeMeter:
    """How a Stripe meter is fed."""
    return StripeMeter(
        id=meter["id"],
        event_name=meter["event_name"],
        customer_key=(meter.get("customer_mapping") or {}).get("event_payload_key") or "stripe_customer_id",
        value_key=(meter.get("value_settings") or {}).get("event_payload_key") or "value",
    )


def meter_refusal(meter: Json) -> str | None:
    """Why a Stripe meter cannot be made to hold the usage; None where it can."""
    name = f"Stripe meter {meter['id']} ({meter['event_name']})"
    if meter.get("status") not in {None, "active"}:
        return f"{name} is not active; reactivate it"
    formula = _formula(meter)
    if formula not in {"sum", "last"}:
        return (
            f"{name} aggregates by {formula!r}, under which neither hours nor totals give the usage; "
            "create a meter with formula 'sum' or 'last' and put its price on the subscription"
        )
    if meter.get("event_time_window"):
        return (
            f"{name} has event_time_window {meter['event_time_window']!r}: a later event in a window takes "
            "the place of an earlier one, also across the end of a period; create a meter without it"
        )
    return None


def _since_refusal(item: Json, spans: Sequence[Span]) -> str | None:
    running = (span.start for span in spans if span.state is SpanState.CURRENT)
    return next(filter(None, (usage_since.refusal(item, start) for start in running)), None)


def _threshold_refusal(subscription: Json, item: Json, target: Target) -> str | None:
    if target is Target.MIRROR or not (
        subscription.get("billing_thresholds") or item.get("billing_thresholds")
    ):
        return None
    return (
        f"subscription {subscription['id']} has billing thresholds, by which Stripe bills in the course of a "
        "period, at a time that is not known before; remove them, or use a meter with formula 'sum'"
    )


def _legacy_refusal(item: str, spans: Sequence[Span]) -> str | None:
    if any(span.end - span.start < SHORTEST_LEGACY_PERIOD for span in spans):
        return f"subscription item {item} is billed by usage records in a period under two hours; use a meter"
    return None


def as_of(instant: int, found: Iterable[CustomerMeter]) -> list[CustomerMeter]:
    """Customer meters that Stripe showed no later than at an instant, UTC seconds."""
    return [one if one.seen_at <= instant else replace(one, seen_at=instant) for one in found]


def merged(found: Iterable[CustomerMeter]) -> list[CustomerMeter]:
    """One customer meter for each ledger key; two OpenMeter meters or subjects on one are refused."""
    by_key: dict[str, CustomerMeter] = {}
    for one in found:
        other = by_key.get(one.pk)
        if other is None:
            by_key[one.pk] = one
            continue
        both = other.merged_with(one)
        named = sorted({one.openmeter_meter, other.openmeter_meter} - {""})
        if len(named) > 1 and one.is_beside == other.is_beside:
            reason = (
                f"customer {one.customer} has two OpenMeter meters on one Stripe meter, "
                f"{' and '.join(named)}; "
                "give each its own Stripe meter"
            )
            both = replace(both, refusal=both.refusal or reason)
        elif not both.openmeter_meter and named:
            both = replace(both, openmeter_meter=named[0])
        by_key[one.pk] = both
    return list(by_key.values())
