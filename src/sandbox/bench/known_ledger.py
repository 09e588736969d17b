"""A ledger that knows everybody, as after a first tick: seeing a customer for the first time takes a call."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from sandbox.bench.deployment import Keys
from sandbox.bench.stand_ins import StandIns
from sandbox.file_table import FileTable
from usage_reporting.billing import Billing
from usage_reporting.config import Settings
from usage_reporting.connection_pools import ConnectionPools
from usage_reporting.ledger import Head, Item
from usage_reporting.model import CustomerMeter
from usage_reporting.pacer import Pacer
from usage_reporting.stripe_api import TIMEOUT_S, StripeApi


def know_everybody(stand_ins: StandIns, file: Path, now: int) -> int:
    """Write the heads of all customer meters, read in full at `now` (UTC seconds); how many."""
    return asyncio.run(_know(stand_ins, file, now))


async def _know(stand_ins: StandIns, file: Path, now: int) -> int:
    pacer = Pacer(share=1_000, endpoint_share=1_000)
    http = ConnectionPools(TIMEOUT_S)
    api = StripeApi(Keys(), api_base=stand_ins.stripe_url, http_client=http, pacer=pacer)
    billing = Billing(api, Settings(openmeter_url=stand_ins.openmeter_url), lambda: now)
    table = FileTable(file)
    count = 0
    try:
        async for listing in billing.subscriptions({}):
            made_at = table.created_at()
            table.put_all([known(one, made_at, now) for one in listing.customer_meters])
            count += len(listing.customer_meters)
    finally:
        await http.close_async()
        table.close()
    return count


def known(customer_meter: CustomerMeter, table: str, now: int) -> Item:
    """The head of a customer meter of which Stripe held nothing at first sight, just read in full."""
    seen = Head.at_first_sight(customer_meter, table, now).sees(customer_meter, now)
    return replace(seen, full_read_at=now, read_at=now).to_item(now)
