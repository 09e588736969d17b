"""Stripe's endpoints, as far as usage-based billing needs them."""

from __future__ import annotations

from sandbox.stripe.api import (
    accounts,
    catalog,
    customers,
    destinations,
    events,
    invoices,
    meter_stream,
    metering,
    meters,
    schedules,
    subscriptions,
    test_clocks,
    usage_records,
)

ROUTES = [
    route
    for module in (
        accounts,
        catalog,
        meters,
        customers,
        subscriptions,
        test_clocks,
        schedules,
        invoices,
        metering,
        meter_stream,
        usage_records,
        events,
        destinations,
    )
    for route in module.ROUTES
]
