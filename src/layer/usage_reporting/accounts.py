"""Which Stripe accounts one deployment bills: the key's own one, and those that are connected to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OWN_ACCOUNT = "self"
"""Stands in the ledger's keys for the account that the API key belongs to."""

ALL = "all"

_ACCOUNT = re.compile(r"acct_[A-Za-z0-9]{1,250}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ConnectedAccounts:
    """The connected accounts that are billed beside the key's own (CONNECTED_ACCOUNTS)."""

    is_all: bool = False
    """Every one that Stripe lists."""
    given: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> ConnectedAccounts:
        """Read the setting: nothing, `all`, or ids with commas between. Raises ValueError."""
        text = text.strip()
        if text == ALL:
            return cls(is_all=True)
        given = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
        if odd := [one for one in given if not is_account(one)]:
            raise ValueError(f"{odd[0]!r} is not the id of an account")
        return cls(given=given)

    def __bool__(self) -> bool:
        """Whether any account is billed beside the key's own."""
        return self.is_all or bool(self.given)

    def serves(self, account: str) -> bool:
        """Whether an account, or the key's own, is billed by this deployment."""
        if account == OWN_ACCOUNT:
            return True
        return is_account(account) if self.is_all else account in self.given


NONE_CONNECTED = ConnectedAccounts()


def is_account(text: str) -> bool:
    """Whether a text looks like the id of an account."""
    return _ACCOUNT.fullmatch(text) is not None


def account_of(event: Mapping[str, Any]) -> str:
    """The account that an event happened in.

    Snapshot events of a connected account have `account`, thin ones `context` ("Connect webhooks";
    changelog 2025-04-30, "Adds context field to event payload"); of the key's own both are empty.
    """
    return str(event.get("account") or event.get("context") or OWN_ACCOUNT)


def account_in(pk: str) -> str:
    """The account that a partition key of the ledger begins with."""
    return pk.partition("#")[0]


def of_account(who: str, account: str) -> str:
    """Who, or what, a line is about; the account is named when it is not the key's own."""
    return who if account == OWN_ACCOUNT else f"{who} of {account}"
