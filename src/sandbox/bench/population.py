"""Many customers with a metered subscription each, and what they used, made in process.

The endpoints' own functions make them: nothing but the HTTP around the calls is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sandbox.openmeter import OpenMeterSandbox
from sandbox.openmeter.instants import local_text
from sandbox.stripe import DEFAULT_API_VERSION, StripeSandbox
from sandbox.stripe.account import Json
from sandbox.stripe.api import customers, subscriptions
from sandbox.stripe.api.route import Call, Route
from sandbox.stripe.versions import ApiVersion

_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A customer and its only subscription, by their ids in Stripe."""

    customer: str
    subscription: str


def scattered(count: int, start: int, end: int) -> list[int]:
    """So many instants evenly over [start, end), in UTC unix seconds."""
    return [start + (end - start) * number // count for number in range(count)]


def subscribe(
    stripe: StripeSandbox,
    price: str,
    anchors: Iterable[int],
    *,
    item_metadata: Mapping[str, str] | None = None,
) -> list[Subscriber]:
    """A new customer for each anchor, subscribed at that instant (UTC unix seconds), in the order of time.

    Anchors lie in the past; periods that have ended since are renewed when the stand-in's time goes on.
    Make the price and its meter before, and at an earlier time of the account, as over HTTP. Raises
    ValueError for an anchor in the future, StripeError for a price that cannot be subscribed to.
    """
    create_customer = _caller(stripe, customers.ROUTES, "/v1/customers")
    create_subscription = _caller(stripe, subscriptions.ROUTES, "/v1/subscriptions")
    item = {"price": price, "metadata": dict(item_metadata or {})}
    made = []
    for number, anchor in enumerate(sorted(anchors)):
        with stripe.account.lock, stripe.account.at(anchor):
            if anchor > stripe.account.clock():
                raise ValueError(f"the anchor {anchor} lies in the future")
            customer = create_customer({"email": f"customer-{number}@example.com"})["id"]
            subscription = create_subscription({"customer": customer, "items": [item]})["id"]
        made.append(Subscriber(customer, subscription))
    return made


def use(
    openmeter: OpenMeterSandbox,
    event_type: str,
    subjects: Sequence[str],
    hours: Iterable[int],
    *,
    value: float = 1.0,
) -> int:
    """One event with this value for each subject in each hour (its start, UTC unix seconds); how many.

    They are spread over the hour, each subject's at the same second of every hour.
    """
    data = {"value": value}
    return sum(
        openmeter.ingest(
            {
                "specversion": "1.0",
                "id": f"{event_type}-{hour}-{number}",
                "source": "population",
                "type": event_type,
                "subject": subject,
                "time": local_text(hour + number % _HOUR),
                "data": data,
            }
            for number, subject in enumerate(subjects)
        )
        for hour in hours
    )


def _caller(stripe: StripeSandbox, routes: list[Route], template: str) -> Callable[[Json], Json]:
    """The function of a POST endpoint, as a request without an idempotency key runs it."""
    route = next(one for one in routes if (one.method, one.template) == ("POST", template))
    account, version = stripe.account, ApiVersion(DEFAULT_API_VERSION)

    def call(params: Json) -> Json:
        account.request_id = account.new_id("req", 14)
        try:
            return route.run(Call(stripe, version, template, (), params))
        finally:
            account.request_id = None

    return call
