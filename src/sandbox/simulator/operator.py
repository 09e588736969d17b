"""What an operator does: `report --customer`, right before a change that Stripe bills at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from sandbox.simulator.processes import Process
from usage_reporting.heads import Options


def report_customer(customer: str, account: str) -> Callable[[Process], Coroutine[Any, Any, None]]:
    """The work of reporting all usage of one customer of an account up to the last full minute."""

    async def work(process: Process) -> None:
        parts = process.container.of(account)
        options = Options(full=True, eager=True)
        async for listing in parts.billing.subscriptions({"customer": customer}):
            if listing.customer_meters:
                await parts.reporter.report(listing.customer_meters, options)

    return work
