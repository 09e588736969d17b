"""`usage-reporter setup`: a metered price and a subscription on it, made once and found afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import stripe
import typer
from stripe.params import PriceCreateParamsRecurring

from cli.errors import WrongUseError
from cli.output import AsJson, print_json, print_table
from cli.stripe_account import dashboard_link, required_key, stripe_client
from usage_reporting.customer_meters import OM_METER_ID
from usage_reporting.stripe_api import LEGACY_API_VERSION, PAGE_SIZE

MARKER = "usage_reporter"
"""The metadata key by which a later run finds what an earlier one made."""

PRODUCT_NAME = "Execution Duration"
EVENT_NAME = "execution_duration"
PRICE_CENTS = 10
EMAIL = "usage-reporter@example.com"
DAYS_UNTIL_DUE = 30


@dataclass(frozen=True, slots=True)
class Made:
    """One object, made now or by an earlier run."""

    object: str
    id: str
    created: bool
    link: str


def setup(
    meter: Annotated[
        str, typer.Option("--meter", help="The meter in OpenMeter whose usage is billed: its slug.")
    ] = "m1",
    legacy: Annotated[
        bool, typer.Option("--legacy", help="A price without a Stripe meter, billed by usage records.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a product, a meter, a metered price, a customer and a subscription in Stripe.

    The price is 0.10 USD a unit, monthly. Run it again, and it finds what it made. It uses the account
    of STRIPE_KEY: take a sandbox.

    Example: `STRIPE_KEY=sk_test_... usage-reporter setup --meter m1`
    """
    key = required_key(os.environ)
    with stripe_client(key, os.environ) as client:
        made = Shop(client, key, legacy=legacy).set_up(meter)
    if as_json:
        print_json({one.object: asdict(one) for one in made})
        return
    rows = [[one.object, one.id, "created" if one.created else "found", one.link] for one in made]
    print_table(["", "id", "", "Dashboard"], rows)


@dataclass(slots=True)
class Shop:
    """What there is to bill with, in one Stripe account."""

    client: stripe.StripeClient
    key: str
    legacy: bool = False
    marker: str = field(init=False)

    def __post_init__(self) -> None:
        """Name what belongs together."""
        self.marker = "setup-legacy" if self.legacy else "setup"

    def set_up(self, om_meter: str) -> list[Made]:
        """Find or make everything.

        Raises WrongUseError where something else stands in the way.
        """
        product = self._product()
        made = [product]
        meter_id = ""
        if not self.legacy:
            meter = self._meter()
            meter_id = meter.id
            made.append(meter)
        price = self._price(product.id, meter_id)
        customer = self._customer()
        subscription = self._subscription(customer.id, price.id, om_meter)
        return [*made, price, customer, subscription]

    def _product(self) -> Made:
        found = self._marked(
            self.client.v1.products.list({"active": True, "limit": PAGE_SIZE}).auto_paging_iter(), "setup"
        )
        created = found is None
        product = found or self.client.v1.products.create(
            {"name": PRODUCT_NAME, "metadata": {MARKER: "setup"}}
        )
        return self._made("product", "products", product.id, created=created)

    def _meter(self) -> Made:
        """The meter of our event name; an archived one is taken up again, for the name is taken."""
        service = self.client.v1.billing.meters
        named = [
            meter
            for meter in service.list({"limit": PAGE_SIZE}).auto_paging_iter()
            if meter.event_name == EVENT_NAME
        ]
        meter = next(iter(sorted(named, key=lambda meter: meter.status != "active")), None)
        if meter is None:
            meter = service.create(
                {
                    "display_name": PRODUCT_NAME,
                    "event_name": EVENT_NAME,
                    "default_aggregation": {"formula": "sum"},
                }
            )
            return self._made("meter", "meters", meter.id, created=True)
        if meter.default_aggregation.formula != "sum" or meter.event_time_window:
            raise WrongUseError(
                f"Stripe meter {meter.id} has the event name {EVENT_NAME!r} but does not sum single events, "
                "so hourly usage would not add up; archive it, or use another Stripe sandbox"
            )
        if meter.status != "active":
            service.reactivate(meter.id)
        return self._made("meter", "meters", meter.id, created=False)

    def _price(self, product: str, meter: str) -> Made:
        prices = self.client.v1.prices.list({"product": product, "active": True, "limit": PAGE_SIZE})
        found = self._marked(
            price
            for price in prices.auto_paging_iter()
            if price.recurring and (price.recurring.meter or "") == meter
        )
        created = found is None
        recurring: PriceCreateParamsRecurring = {"interval": "month", "usage_type": "metered"}
        if meter:
            recurring["meter"] = meter
        price = found or self.client.v1.prices.create(
            {
                "product": product,
                "currency": "usd",
                "unit_amount": PRICE_CENTS,
                "recurring": recurring,
                "metadata": {MARKER: self.marker},
            },
            self._options(),
        )
        return self._made("price", "prices", price.id, created=created)

    def _customer(self) -> Made:
        customers = self.client.v1.customers.list({"email": EMAIL, "limit": PAGE_SIZE})
        found = self._marked(customers.auto_paging_iter(), "setup")
        created = found is None
        customer = found or self.client.v1.customers.create(
            {"name": "Usage Reporter", "email": EMAIL, "metadata": {MARKER: "setup"}}
        )
        return self._made("customer", "customers", customer.id, created=created)

    def _subscription(self, customer: str, price: str, om_meter: str) -> Made:
        listed = self.client.v1.subscriptions.list({"customer": customer, "price": price, "limit": PAGE_SIZE})
        found = self._marked(listed.auto_paging_iter())
        if found is not None:
            self._check_mapping(found, om_meter)
            return self._made("subscription", "subscriptions", found.id, created=False)
        subscription = self.client.v1.subscriptions.create(
            {
                "customer": customer,
                "items": [{"price": price, "metadata": {OM_METER_ID: om_meter}}],
                # Charging at once (`charge_automatically`) asks for a payment method, which this customer
                # has not; an invoice by e-mail asks for an address alone. Real customers are mostly
                # charged: their drafts wait for the webhook, drafts to be sent by e-mail do not.
                "collection_method": "send_invoice",
                "days_until_due": DAYS_UNTIL_DUE,
                "metadata": {MARKER: self.marker},
            },
            self._options(),
        )
        return self._made("subscription", "subscriptions", subscription.id, created=True)

    def _check_mapping(self, subscription: stripe.Subscription, om_meter: str) -> None:
        item = subscription.items.data[0]
        mapped = _metadata(item).get(OM_METER_ID)
        if mapped != om_meter:
            raise WrongUseError(
                f"subscription {subscription.id} of an earlier run takes its usage from OpenMeter meter "
                f"{mapped!r}, not {om_meter!r}; pass --meter {mapped}, or change metadata {OM_METER_ID} of "
                f"{item.id} in Stripe"
            )

    def _options(self) -> stripe.RequestOptions:
        """Stripe makes no prices without a meter, nor subscriptions on them, since API 2025-03-31.basil."""
        return {"stripe_version": LEGACY_API_VERSION} if self.legacy else {}

    def _made(self, object: str, kind: str, id: str, *, created: bool) -> Made:
        return Made(object, id, created, dashboard_link(self.key, kind, id))

    def _marked[T: stripe.StripeObject](self, objects: Iterable[T], marker: str = "") -> T | None:
        wanted = marker or self.marker
        return next((one for one in objects if _metadata(one).get(MARKER) == wanted), None)


def _metadata(holder: stripe.StripeObject) -> dict[str, Any]:
    return holder.to_dict().get("metadata") or {}
