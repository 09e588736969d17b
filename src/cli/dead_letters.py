"""The dead-letter queue: what lies on it, why, and how it goes back to the queue that it came from.

SQS itself can move messages back (StartMessageMoveTask), but only all of them, and what is no page of ours
with them. Here each is received, sent and deleted: a crash in between leaves it on both queues, which is
harmless, because a page is read afresh and only differences are sent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from cli.errors import explain
from usage_reporting.accounts import of_account
from usage_reporting.amounts import loads
from usage_reporting.billing import Finalized
from usage_reporting.daily_sums import DailyCursor
from usage_reporting.errors import BadRequestError
from usage_reporting.event_bridge import REASON, SOURCES, is_event
from usage_reporting.model import CustomerMeter
from usage_reporting.pages import Cursor, read_message
from usage_reporting.renewals import checked
from usage_reporting.windows import HOUR, day_of, floor_hour

BATCH = 10
"""As many messages as SQS gives, or takes, at once."""
HIDDEN_S = 120
"""So long a message that is looked at is hidden from others; if this process dies, it comes back then."""
WAIT_S = 1
"""Long polling asks all servers of a queue: only then an empty answer says that it is empty."""
IDLE_ROUNDS = 3
"""So many answers without news end a look: others are hidden, or come round again."""

HOURS_OF_LOG = 24
"""The log is searched for at most so many hours in which messages were sent, the newest ones."""

UNREADABLE = "not ours"
EVENT = "event"
"""One of Stripe's over EventBridge, which the webhook takes from a queue of its own."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that failed three times, or an event that could not be handled."""

    id: str
    body: str
    sent_at: int
    """When it was put on the page queue, UTC seconds."""
    received: int
    """How often it was received in all, this look and those before it included."""
    handle: str = field(repr=False)
    kind: str = UNREADABLE
    meter: str = ""
    about: Sequence[str] = ()
    """Customers, final invoices, the part of a listing, or the event that it names."""
    why: str = ""
    """Why it is here, if that came with it: nobody can read it, or it could not be put on its queue."""

    @classmethod
    def of(cls, message: dict[str, Any]) -> DeadLetter:
        """Read one as SQS gives it."""
        attributes = message.get("Attributes", {})
        return cls(
            id=message["MessageId"],
            body=message["Body"],
            sent_at=int(attributes.get("SentTimestamp", 0)) // 1000,
            received=int(attributes.get("ApproximateReceiveCount", 0)),
            handle=message["ReceiptHandle"],
            why=message.get("MessageAttributes", {}).get(REASON, {}).get("StringValue", ""),
            **_content(message["Body"]),
        )

    @property
    def is_readable(self) -> bool:
        """Whether its function could make anything of it."""
        return self.kind != UNREADABLE


@dataclass(slots=True)
class DeadLetters:
    """A stack's dead-letter queue; its messages came from `queue_url` and `event_queue_url`."""

    sqs: Any
    url: str
    queue_url: str
    event_queue_url: str = ""
    """Empty: the stack does not get Stripe's events over EventBridge."""

    def look(self) -> list[DeadLetter]:
        """All messages, oldest first; each is on the queue again afterwards. Raises botocore's errors."""
        found: dict[str, DeadLetter] = {}
        handles: list[str] = []
        idle = 0
        try:
            while idle < IDLE_ROUNDS and (received := self._receive()):
                handles += [one.handle for one in received]
                news = {one.id: one for one in received if one.id not in found}
                found |= news
                idle = 0 if news else idle + 1
        finally:
            self._put_back(handles)
        return sorted(found.values(), key=lambda one: (one.sent_at, one.id))

    def move(self, ids: Collection[str]) -> Iterator[tuple[str, str]]:
        """Send these to where they came from and take them off here; the id, and why that failed."""
        left, seen = set(ids), set[str]()
        handles: list[str] = []
        idle = 0
        missing = "it is gone, or somebody else looks at it; look again in two minutes"
        try:
            while left and idle < IDLE_ROUNDS and (received := self._receive()):
                # Others may lie before those that are wanted: only what came already is no news.
                idle = 0 if {one.id for one in received} - seen else idle + 1
                seen |= {one.id for one in received}
                wanted = [one for one in received if one.id in left]
                handles += [one.handle for one in received if one.id not in left]
                for one in wanted:
                    left.discard(one.id)
                    problem = self._move(one)
                    if problem:
                        handles.append(one.handle)
                    yield one.id, problem
        except (ClientError, BotoCoreError) as error:
            missing = explain(error)[0]  # what was moved before is told all the same
        finally:
            self._put_back(handles)
        for id_ in sorted(left):
            yield id_, missing

    def _move(self, one: DeadLetter) -> str:
        """Why a message could not be moved, or an empty text."""
        if not one.is_readable:
            return "it is no page of ours, nor an event of Stripe, so that it would be refused again"
        queue = self.event_queue_url if one.kind == EVENT else self.queue_url
        if not queue:
            return "the stack has no queue of events any more; resend it in Stripe's Workbench if need be"
        try:
            self.sqs.send_message(QueueUrl=queue, MessageBody=one.body)
        except (ClientError, BotoCoreError) as error:
            return explain(error)[0]
        try:
            self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=one.handle)
        except (ClientError, BotoCoreError) as error:
            return f"it was sent again, but could not be taken off here: {explain(error)[0]}"
        return ""

    def _receive(self) -> list[DeadLetter]:
        answer = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH,
            VisibilityTimeout=HIDDEN_S,
            WaitTimeSeconds=WAIT_S,
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            MessageAttributeNames=[REASON],
        )
        return [DeadLetter.of(message) for message in answer.get("Messages", [])]

    def _put_back(self, handles: Sequence[str]) -> None:
        """Let everybody see them at once; where that fails, they come back by themselves."""
        for first in range(0, len(handles), BATCH):
            entries = [
                {"Id": str(number), "ReceiptHandle": handle, "VisibilityTimeout": 0}
                for number, handle in enumerate(handles[first : first + BATCH])
            ]
            with suppress(ClientError, BotoCoreError):
                self.sqs.change_message_visibility_batch(QueueUrl=self.url, Entries=entries)


def reasons(logs: Any, group: str, letters: Sequence[DeadLetter]) -> dict[str, str]:
    """Why messages were given back, by id, as their function's log says; the newest reason counts.

    Raises botocore's errors, for credentials that may not read the log among others.
    """
    hours = sorted({floor_hour(one.sent_at) for one in letters})[-HOURS_OF_LOG:]
    wanted = {one.id for one in letters}
    found: dict[str, str] = {}
    for hour in hours:
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=group,
            startTime=hour * 1000,
            # Three tries take 18 minutes; one that was delayed begins 15 minutes later.
            endTime=(hour + 2 * HOUR) * 1000,
            filterPattern='"queue_message"',
        )
        for event in (event for page in pages for event in page["events"]):
            line = _json(event["message"])
            if line.get("queue_message") in wanted:
                found[line["queue_message"]] = str(line.get("reason", ""))
    return found


def _content(body: str) -> dict[str, Any]:
    """What a message is about."""
    try:
        if is_event(event := loads(body)):
            return _of_event(event)
        return _named(read_message(body))
    except (BadRequestError, OverflowError, TypeError, ValueError):
        return {"kind": UNREADABLE}  # of the right form, perhaps, but of no time or name that there is


def _of_event(event: dict[str, Any]) -> dict[str, Any]:
    """Raises BadRequestError for one that is not of Stripe."""
    stripe_event = checked(event["detail"], "the event's detail")
    if not str(event["source"]).startswith(SOURCES):
        raise BadRequestError("the event is not of Stripe")
    return {"kind": EVENT, "about": [f"{stripe_event['type']} {stripe_event.get('id', '')}".strip()]}


def _named(message: Sequence[CustomerMeter] | Cursor | DailyCursor | Finalized) -> dict[str, Any]:
    if isinstance(message, Cursor):
        what = f"{message.scope.value}: {message.part.value}"
        return {"kind": "listing", "about": [of_account(what, message.account)]}
    if isinstance(message, DailyCursor):
        return {"kind": "daily reconciliation", "about": [of_account(day_of(message.day), message.account)]}
    if isinstance(message, Finalized):
        about = [of_account(invoice, message.account) for invoice in message.invoices]
        return {"kind": "final invoices", "about": about}
    return {"kind": "page", "about": _customers(message), "meter": _meters(message)}


def _customers(page: Sequence[CustomerMeter]) -> list[str]:
    return list(dict.fromkeys(of_account(one.customer, one.account) for one in page))


def _meters(page: Sequence[CustomerMeter]) -> str:
    return ", ".join(dict.fromkeys(one.openmeter_meter for one in page if one.openmeter_meter))


def _json(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) else {}
