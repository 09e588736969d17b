"""Stripe's events as Amazon EventBridge hands them over: bus, rule, queue, webhook function.

They are not signed: nobody but Stripe can put events on the bus of its partner event source, and nobody but
rules on such buses of this AWS account on the queue (Amazon EventBridge, "Receiving events from a SaaS
partner").
The bus has taken them for good, so nobody asks again but the queue, and no draft waits for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from usage_reporting import aws, telemetry
from usage_reporting.amounts import loads
from usage_reporting.config import Mode
from usage_reporting.container import Container
from usage_reporting.errors import AskAgainError, BadRequestError, NotConfiguredError
from usage_reporting.renewals import checked
from usage_reporting.telemetry import logger
from usage_reporting.webhook import NOT_CONFIGURED, Answer, answer_event

SOURCES = "aws.partner/stripe.com/"
"""How the `source` of each event of Stripe begins (Stripe, "Send events to Amazon EventBridge")."""
REASON = "ERROR_MESSAGE"
"""The message attribute that says why, as EventBridge names it on dead letters of its own."""

BUDGET_S = 20.0
"""Nobody waits at the other end, but what is given back comes five minutes later; the function has 25 s."""

_LONGEST_REASON = 500
_DETAIL_TYPE = "detail-type"
_SQS = "aws:sqs"

Json = dict[str, Any]


class DeadLetters:
    """Where events go that nobody will ever be able to read."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._given = client

    def send(self, body: str, reason: str) -> None:
        """Put a message there as it came, with the reason. Raises AskAgainError."""
        attributes = {REASON: {"DataType": "String", "StringValue": reason[:_LONGEST_REASON]}}
        client = self._given or aws.client("sqs")
        try:
            client.send_message(QueueUrl=self._url, MessageBody=body or "{}", MessageAttributes=attributes)
        except (ClientError, BotoCoreError) as error:
            raise AskAgainError(f"the dead-letter queue takes no message: {error}") from error


def is_batch(event: object) -> bool:
    """Whether the function was called with messages of the queue."""
    records = event.get("Records") if isinstance(event, Mapping) else None
    return isinstance(records, list) and all(
        isinstance(one, Mapping) and one.get("eventSource") == _SQS for one in records
    )


def is_event(event: object) -> bool:
    """Whether the function was called with an event itself, as `sam local invoke` does."""
    return isinstance(event, Mapping) and {_DETAIL_TYPE, "source", "detail"} <= event.keys()


def work_off(container: Container, batch: Mapping[str, Any], dead_letters: DeadLetters) -> Json:
    """Do what each message of the queue is about.

    Messages that may end better later are named in `batchItemFailures`, so that SQS gives them again; those
    that cannot be read go to the dead letters at once. In shadow mode none is given again.
    """
    failures = [
        {"itemIdentifier": str(record.get("messageId", ""))}
        for record in batch["Records"]
        if not _is_done(container, record, dead_letters)
    ]
    return {"status": "ask_again" if failures else "done", "batchItemFailures": failures}


def invoke(container: Container, event: Mapping[str, Any]) -> Json:
    """Do what an event is about; the answer. Raises AskAgainError where it should be given again."""
    told = answer_event(container, lambda: _read(container, event), BUDGET_S)
    if told.code == 503:
        raise AskAgainError(told.reason)
    return {"code": told.code, "status": told.status, "reason": told.reason}


def _is_done(container: Container, record: Mapping[str, Any], dead_letters: DeadLetters) -> bool:
    name, body = str(record.get("messageId", "")), str(record.get("body", ""))
    told = answer_event(container, lambda: _read(container, _envelope(body)), BUDGET_S)
    if told.code == 400:
        fields = {"queue_message": name, "reason": told.reason}
        logger.error("no event of Stripe, to the dead letters: %s", told.reason, extra=fields)
        try:
            dead_letters.send(body, told.reason)
        except AskAgainError as error:
            telemetry.given_back(name, error.reason, is_bad=False)
            return False
    elif told.code == 503 and container.settings.mode is not Mode.SHADOW:
        telemetry.given_back(name, told.reason, is_bad=False)
        return False
    return True


def _envelope(body: str) -> object:
    try:
        return loads(body)
    except ValueError as error:
        raise BadRequestError("the message is not JSON") from error


def _read(container: Container, event: object) -> Json | Answer:
    """Stripe's event in EventBridge's. Raises BadRequestError, AskAgainError and ConfigurationError."""
    if not is_event(event):
        raise BadRequestError("the message is not an event of EventBridge")
    assert isinstance(event, Mapping)
    if not str(event["source"]).startswith(SOURCES):
        raise BadRequestError(f"the event's source is {event['source']!r}, and Stripe's begin with {SOURCES}")
    stripe_event = checked(event["detail"], "the event's detail")
    try:
        container.credentials.current()
    except NotConfiguredError as error:
        return Answer(503, NOT_CONFIGURED, error.reason)
    return stripe_event
