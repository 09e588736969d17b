"""What an operator does: `report --customer`, right before a change that Stripe bills at once."""

from __future__ import annotations

from sandbox.simulator.processes import Process
from usage_reporting.heads import Options


async def report_customer(process: Process, customer: str) -> None:
    """Report all usage of one customer up to the last full minute."""
    container = process.container
    options = Options(full=True, eager=True)
    async for listing in container.billing.subscriptions({"customer": customer}):
        if listing.customer_meters:
            await container.reporter.report(listing.customer_meters, options)
