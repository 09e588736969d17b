"""The page queue and its messages: pages of customer meters, and where a listing goes on.

A page holds up to 100 customer meters of one OpenMeter meter, because that is what one query takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, Protocol

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from usage_reporting import aws
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.amounts import loads
from usage_reporting.billing import Finalized
from usage_reporting.creation_ranges import CreationRange
from usage_reporting.daily_sums import DailyCursor
from usage_reporting.errors import AskAgainError, BadRequestError
from usage_reporting.model import CustomerMeter


class Scope(StrEnum):
    """Which subscriptions a tick looks at."""

    CLOSING = "closing"
    """Those whose period ends about now, and draft invoices."""
    ALL = "all"
    """Every live subscription."""
    RECONCILE = "reconcile"
    """Nothing is reported: the last day of everyone is compared on both sides."""


class Part(StrEnum):
    """The lists that a tick goes through, in this order."""

    SUBSCRIPTIONS = "subscriptions"
    DRAFTS = "drafts"
    ENDINGS = "endings"
    """What ended without a draft of its own, by Stripe's events; only when every subscription is listed."""
    FINALIZED = "finalized"
    """Invoices that became final a short while ago; closing ticks only."""
    ACCOUNTS = "accounts"
    """Connected accounts: each is listed by a message of its own."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a listing goes on; with bounds, UTC seconds, that of one range alone and of no other part."""

    scope: Scope
    part: Part = Part.SUBSCRIPTIONS
    after: str = ""
    since: int = 0
    until: int = 0
    account: str = OWN_ACCOUNT
    """Whose lists these are, as it stands in the ledger's keys."""

    @property
    def range(self) -> CreationRange:
        """What is left of its part."""
        return CreationRange(self.since, self.until, self.after)


class Queue(Protocol):
    """The page queue."""

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put one message on the queue, to be seen after `delay` seconds. Raises AskAgainError."""


class SqsQueue:
    """The page queue in SQS; its client is made on first use, for the webhook never needs it."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._given = client

    @cached_property
    def _client(self) -> Any:
        config = Config(retries={"mode": "standard", "total_max_attempts": 5})
        return self._given or aws.client("sqs", config)

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        """Put one message on the queue, to be seen after at most 900 seconds. Raises AskAgainError."""
        body = json.dumps(message, separators=(",", ":"))
        try:
            self._client.send_message(QueueUrl=self._url, MessageBody=body, DelaySeconds=delay)
        except (ClientError, BotoCoreError) as error:
            raise AskAgainError(f"the page queue takes no message: {error}") from error


type Message = list[CustomerMeter] | Cursor | DailyCursor | Finalized
"""What a message of the queue is about."""


def page_message(customer_meters: Sequence[CustomerMeter]) -> dict[str, Any]:
    """The message that carries a page."""
    return {"customer_meters": [one.to_json() for one in customer_meters]}


def cursor_message(cursor: Cursor) -> dict[str, Any]:
    """The message that carries a listing that is not finished."""
    bounds = {name: bound for name, bound in (("since", cursor.since), ("until", cursor.until)) if bound}
    where = {"scope": cursor.scope.value, "part": cursor.part.value, "after": cursor.after}
    return {**where, **bounds, **_whose(cursor.account)}


def finalized_message(found: Finalized) -> dict[str, Any]:
    """The message that carries a page of final invoices."""
    return {"mode": found.mode, "finalized": list(found.invoices), **_whose(found.account)}


def daily_message(cursor: DailyCursor) -> dict[str, Any]:
    """The message that carries a daily reconciliation that is not finished."""
    return {"reconcile": cursor.to_json()}


def _whose(account: str) -> dict[str, str]:
    """The account of a message; those for the key's own are as they were before others could be served."""
    return {} if account == OWN_ACCOUNT else {"account": account}


def read_message(body: str) -> Message:
    """Read a message of the queue. Raises BadRequestError for one that we did not write."""
    try:
        data = loads(body)
        if "scope" in data:
            return Cursor(
                scope=Scope(data["scope"]),
                part=Part(data["part"]),
                after=str(data["after"]),
                since=int(data.get("since", 0)),
                until=int(data.get("until", 0)),
                account=str(data.get("account", OWN_ACCOUNT)),
            )
        if "reconcile" in data:
            return DailyCursor.from_json(data["reconcile"])
        if "finalized" in data:
            invoices = [str(invoice) for invoice in data["finalized"]]
            return Finalized(str(data["mode"]), invoices, account=str(data.get("account", OWN_ACCOUNT)))
        return [CustomerMeter.from_json(one) for one in data["customer_meters"]]
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise BadRequestError(f"the message is not a page of customer meters: {error!r}") from error


def scope_of(event: object) -> Scope:
    """The scope that a scheduled event asks for. Raises BadRequestError."""
    scope = event.get("scope") if isinstance(event, dict) else None
    if not isinstance(scope, str) or scope not in set(Scope):
        raise BadRequestError(f"the event's scope is {scope!r}; it must be 'closing', 'all' or 'reconcile'")
    return Scope(scope)
