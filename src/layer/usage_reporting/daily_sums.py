"""What the daily reconciliation has found so far, and where it goes on: a message of the queue."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import islice
from typing import Any

from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.pricing import money
from usage_reporting.windows import day_of

MOST_NAMED = 10
"""Differences that are named; the others are counted. The log names all."""
LONGEST_NAME = 300
MOST_SEEN = 500
"""Customers with several subscriptions, which several list pages show; beyond that they are counted again."""


class DailyPart(StrEnum):
    """The lists that a daily reconciliation goes through, in this order."""

    SUBSCRIPTIONS = "subscriptions"
    DRAFTS = "drafts"
    FINALIZED = "finalized"


@dataclass(slots=True)
class DailySums:
    """How many were found to be what; `money` in minor units by currency."""

    customer_meters: dict[str, int] = field(default_factory=dict)
    """By finding."""
    held: int = 0
    ledger_differs: int = 0
    drift: int = 0
    """Customer meters with a difference that no other alarm tells of."""
    invoices: int = 0
    lines: dict[str, int] = field(default_factory=dict)
    """By finding."""
    money: dict[str, int] = field(default_factory=dict)
    named: list[str] = field(default_factory=list)
    unnamed: int = 0
    seen: list[str] = field(default_factory=list)
    """Ledger keys of customers with several subscriptions."""

    def name(self, text: str) -> None:
        """Name a difference, as long as there are few."""
        if len(self.named) < MOST_NAMED:
            self.named.append(text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 3] + "...")
        else:
            self.unnamed += 1

    def see(self, pks: Iterable[str]) -> None:
        """Remember customer meters that were compared and that another list page may show."""
        self.seen.extend(islice(pks, MOST_SEEN - len(self.seen)))

    def line(self, day: int, stack: str) -> str:
        """The one line of a day, `day` being its start in UTC seconds."""
        billed = [money(Decimal(units), currency) for currency, units in sorted(self.money.items())]
        lines = _plural(sum(self.lines.values()), "metered line") + _counted(self.lines)
        compared = _plural(sum(self.customer_meters.values()), "customer meter")
        said = [
            f"{_plural(self.invoices, 'invoice')} became final with {lines}",
            f"they bill {' and '.join(billed)} by usage" if billed else "",
            f"{compared} compared{_counted(self.customer_meters)}",
            f"{self.held} held",
            f"the ledger differs of {self.ledger_differs}" if self.ledger_differs else "",
            "differs: " + "; ".join(self.named) if self.named else "",
            f"and {self.unnamed} more" if self.unnamed else "",
        ]
        return f"{day_of(day)} {stack}: " + "; ".join(part for part in said if part)


@dataclass(frozen=True, slots=True)
class DailyCursor:
    """Where the daily reconciliation of a UTC day goes on; `day` is its start in UTC seconds."""

    day: int
    part: DailyPart = DailyPart.SUBSCRIPTIONS
    after: str = ""
    """The last object of the list page before."""
    done: str = ""
    """The last of this page that was looked at: a ledger key, or an invoice."""
    sums: DailySums = field(default_factory=DailySums)
    account: str = OWN_ACCOUNT
    """Whose lists these are, as it stands in the ledger's keys."""
    accounts: tuple[str, ...] = ()
    """Connected accounts of the same list page that come next."""
    accounts_after: str = ""
    """The last account of that page."""

    def to_json(self) -> dict[str, Any]:
        """The cursor as it stands in a message."""
        data: dict[str, Any] = {
            "day": self.day,
            "part": self.part.value,
            "after": self.after,
            "done": self.done,
            "sums": asdict(self.sums),
        }
        if self.account != OWN_ACCOUNT:
            data |= {
                "account": self.account,
                "accounts": self.accounts,
                "accounts_after": self.accounts_after,
            }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> DailyCursor:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError for anything else."""
        return cls(
            day=int(data["day"]),
            part=DailyPart(data["part"]),
            after=str(data["after"]),
            done=str(data["done"]),
            sums=DailySums(**data["sums"]),
            account=str(data.get("account", OWN_ACCOUNT)),
            accounts=tuple(str(account) for account in data.get("accounts", ())),
            accounts_after=str(data.get("accounts_after", "")),
        )


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _counted(found: Mapping[str, int]) -> str:
    said = [f"{count:,} {name.replace('_', ' ').upper()}" for name, count in sorted(found.items()) if count]
    return f" ({', '.join(said)})" if said else ""
