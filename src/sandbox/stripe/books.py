"""The parts of the stand-in that billing works with."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.stripe.account import Account
from sandbox.stripe.events import Events
from sandbox.stripe.invoices import Invoices
from sandbox.stripe.meter_ledger import MeterLedger
from sandbox.stripe.usage_ledger import UsageLedger


@dataclass(frozen=True)
class Books:
    account: Account
    events: Events
    meters: MeterLedger
    usage: UsageLedger
    invoices: Invoices
