"""Customers."""

from __future__ import annotations

from sandbox.stripe.account import Json
from sandbox.stripe.api.route import Call, Route, fields
from sandbox.stripe.errors import invalid, no_such
from sandbox.stripe.lifecycle import cancel_now
from sandbox.stripe.metadata import merged
from sandbox.stripe.objects import Customer
from sandbox.stripe.schema import EXPAND, METADATA, PAGE, RANGE, Fields, Members, Text, in_range

_TEST_CARD = "pm_card_visa"
_TEXTS = ("email", "name", "description", "phone")


def _create(call: Call) -> Json:
    clock = call.params.get("test_clock")
    if clock is not None:
        call.stripe.test_clocks.room_for_customer(clock)
    customer = Customer(
        id=call.account.new_id("cus", 14),
        created=call.account.now(),
        email=call.params.get("email") or None,
        name=call.params.get("name") or None,
        description=call.params.get("description") or None,
        phone=call.params.get("phone") or None,
        metadata=merged({}, call.params.get("metadata", {})),
        default_payment_method=_payment_method(call),
        test_clock=clock,
    )
    call.account.customers.add(customer)
    call.stripe.events.emit("customer.created", customer)
    return call.show(customer)


def _payment_method(call: Call) -> str | None:
    """A payment method of the customer's own, made of Stripe's test card: the only one that there is here."""
    given = call.params.get("payment_method")
    default = call.params.get("invoice_settings", {}).get("default_payment_method", given)
    if given is None and default is None:
        return None
    if call.account.settings.livemode or given not in (None, _TEST_CARD):
        raise no_such("PaymentMethod", str(given), "payment_method", status=400)
    if default != given:
        raise invalid("The customer does not have this payment method.", "invoice_settings")
    return call.account.new_id("pm")


def _update(call: Call) -> Json:
    customer = _existing(call)
    before = call.stripe.events.render(customer)
    for name in _TEXTS:
        if name in call.params:
            setattr(customer, name, call.params[name] or None)
    customer.metadata = merged(customer.metadata, call.params.get("metadata", {}))
    call.stripe.events.emit("customer.updated", customer, before)
    return call.show(customer)


def _delete(call: Call) -> Json:
    """Deleting a customer cancels its subscriptions at once, dropping their usage."""
    customer = _existing(call)
    for subscription in list(call.account.subscriptions.newest(customer=customer.id))[::-1]:
        if subscription.is_live:
            cancel_now(call.books, subscription, invoice_now=False)
    call.stripe.events.emit("customer.deleted", customer)
    customer.deleted = True
    return call.show(customer)


def _list(call: Call) -> Json:
    params = call.params
    return call.page(
        call.account.customers,
        lambda row: (
            not row.deleted
            and row.test_clock == params.get("test_clock")
            and params.get("email") in (None, row.email)
            and in_range(row.created, params.get("created"))
        ),
    )


def _existing(call: Call) -> Customer:
    customer = call.account.customers.get(call.id)
    if customer.deleted:
        raise no_such("customer", customer.id)
    return customer


_FIELDS: Members = {
    "email": Text(512, clearable=True),
    "name": Text(256, clearable=True),
    "description": Text(clearable=True),
    "phone": Text(20, clearable=True),
    "metadata": METADATA,
    **EXPAND,
}

_NEW: Members = {
    "payment_method": Text(),
    "invoice_settings": Fields({"default_payment_method": Text()}),
    "test_clock": Text(),
}

ROUTES = [
    Route("POST", "/v1/customers", "customer", _create, fields(_FIELDS, _NEW)),
    Route(
        "GET",
        "/v1/customers",
        "customer",
        _list,
        fields(PAGE, email=Text(512), created=RANGE, test_clock=Text()),
    ),
    Route(
        "GET",
        "/v1/customers/{customer}",
        "customer",
        lambda call: call.show(call.account.customers.get(call.id)),
        fields(EXPAND),
    ),
    Route("POST", "/v1/customers/{customer}", "customer", _update, fields(_FIELDS)),
    Route("DELETE", "/v1/customers/{customer}", "customer", _delete),
]
