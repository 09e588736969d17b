"""The commands that reasons name, complete, so that an operator can copy them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from usage_reporting.accounts import OWN_ACCOUNT

STACK: ContextVar[str] = ContextVar("stack", default="")
"""The stack that a command of the operator's works on; a function's is in its environment."""


ACCOUNT: ContextVar[str] = ContextVar("account", default=OWN_ACCOUNT)
"""The account whose customers are being worked on, as it stands in the ledger's keys."""


@contextmanager
def about(account: str) -> Iterator[None]:
    """Name an account in the commands of the meantime, unless it is the key's own."""
    before = ACCOUNT.set(account)
    try:
        yield
    finally:
        ACCOUNT.reset(before)


def command(name: str, customer: str, *options: str) -> str:
    """A command of `usage-reporter` for one customer of this stack."""
    stack = STACK.get() or os.environ.get("POWERTOOLS_SERVICE_NAME") or "NAME"
    account = ACCOUNT.get()
    if account != OWN_ACCOUNT:
        options = (f"--account {account}", *options)
    return " ".join([f"`usage-reporter {name} --stack {stack} --customer {customer}", *options]) + "`"


def accept(customer: str) -> str:
    """Releases what is held of a customer."""
    return command("report", customer, "--accept")


def accept_empty(customer: str) -> str:
    """Releases what is held of a customer for whom OpenMeter has nothing any more."""
    return command("report", customer, "--accept-empty")


def adopt(customer: str) -> str:
    """Rebuilds a customer's ledger from Stripe."""
    return command("adopt", customer)
