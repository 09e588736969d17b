"""Whether anything of one Stripe account is in another's, or stands under another's key in the ledger.

Bills are judged account by account; this finds what no bill shows. The accounts of a world have the same
customers, meters and prices by their ids, so that an identifier, made of the ledger's key, tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sandbox.simulator.accounts import SimulatedAccount
from usage_reporting.ledger import HEAD
from usage_reporting.ledger import Item as Stored


def mixed_up(accounts: Sequence[SimulatedAccount], tables: Sequence[Sequence[Stored]]) -> Iterator[str]:
    """What one account has of another's; `tables`: all that the ledger held."""
    names = {one.name for one in accounts}
    for item in (item for table in tables for item in table):
        if (account := item["pk"].partition("#")[0]) not in names:
            yield f"the ledger has a key of {account}: {item['pk']}"
    sent = {one.name: _identifiers(one, tables) for one in accounts}
    for one in accounts:
        yield from _subjects(one, tables)
        for event in one.stripe.meters.accepted():
            others = [name for name in names - {one.name} if event.identifier in sent[name]]
            if others and event.identifier not in sent[one.name]:
                yield f"{one.name} was sent {event.value} of {event.customer}, which is of {others[0]}"


def _identifiers(account: SimulatedAccount, tables: Sequence[Sequence[Stored]]) -> set[str]:
    """Of every meter event that the ledger says was meant for an account."""
    return {
        identifier for table in tables for item in account.own(table) for identifier in item.get("sends", ())
    }


def _subjects(account: SimulatedAccount, tables: Sequence[Sequence[Stored]]) -> Iterator[str]:
    """Heads of an account that are filled with the usage of another's customer."""
    for table in tables:
        for item in account.own(table):
            if item["sk"] == HEAD:
                customer, subject = item["pk"].split("#")[2], item["subject"]
                if subject != account.subject_of(customer):
                    yield f"{account.name}: the usage of {subject} is billed to {customer}"
