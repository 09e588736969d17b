"""The Stripe accounts of a world: the platform's own, and those connected to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from sandbox.simulator.history import Act, Contract, History
from sandbox.simulator.merchant import Merchant
from sandbox.simulator.trouble import Trouble
from sandbox.stripe import StripeSandbox
from usage_reporting.accounts import OWN_ACCOUNT, account_in
from usage_reporting.ledger import Item as Stored


@dataclass(slots=True)
class SimulatedAccount:
    """One account: what happens in it, the stand-in for it, who makes its objects, and its own troubles.

    `name`: as it stands in the ledger's keys.
    """

    name: str
    history: History
    stripe: StripeSandbox
    merchant: Merchant
    trouble: Trouble
    done: list[Contract | Act] = field(default_factory=list)
    """What happened, with the instants at which it really did."""
    ticked: dict[str, list[int]] = field(default_factory=lambda: {"closing": [], "all": []})
    """When a tick of a scope ran to its end for this account (UTC seconds)."""

    @property
    def source(self) -> str:
        """Of its usage events: OpenMeter takes two of one source and id for one."""
        return "simulator" if self.name == OWN_ACCOUNT else f"simulator of {self.name}"

    def subject(self, customer: str) -> str:
        """By what OpenMeter knows a customer, with SUBJECT_WITH_ACCOUNT."""
        return self.subject_of(self.merchant.customer(customer))

    def subject_of(self, id_: str) -> str:
        """By what OpenMeter knows a customer of this id."""
        return id_ if self.name == OWN_ACCOUNT else f"{self.name}:{id_}"

    def has(self, pk: str) -> bool:
        """Whether a partition key of the ledger is of this account."""
        return account_in(pk) == self.name

    def own(self, table: Iterable[Stored]) -> Iterator[Stored]:
        """What of a ledger is of this account."""
        return (item for item in table if self.has(item["pk"]))

    def played(self) -> History:
        """The history with the instants at which its contracts and acts really happened."""
        contracts = {one.name: one for one in self.done if isinstance(one, Contract)}
        return replace(
            self.history,
            contracts=tuple(contracts.get(one.name, one) for one in self.history.contracts),
            acts=tuple(one for one in self.done if isinstance(one, Act)),
        )
