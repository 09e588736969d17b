"""As much of AWS as the functions ask of it, in memory: over moto tests take twice as long.

Each call takes what boto3's takes and answers what boto3 gives, as far as anybody reads it; another call, or
an argument of another name, is an error. test_aws.py and tests/ledger ask these and moto the same. Tests of
more than this ask for the fixture `world_in_moto`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Context, Decimal, Inexact, Rounded
from typing import Any, Protocol

from botocore.exceptions import ClientError

Json = dict[str, Any]

LARGEST_MESSAGE = 1_048_576
LONGEST_DELAY = 900
LONGEST_READ = 100
LARGEST_ITEM = 400 * 1024

_NUMBERS = Context(prec=38, Emin=-128, Emax=126, traps=[Inexact, Rounded])
"""DynamoDB, "Supported data types and naming rules": up to 38 digits."""


class Clients(Protocol):
    """The clients of AWS that a world is made of."""

    @property
    def dynamodb(self) -> Any:
        """DynamoDB's."""

    @property
    def sqs(self) -> Any:
        """That of SQS."""

    @property
    def secrets(self) -> Any:
        """That of Secrets Manager."""


class InMemory:
    """A region of its own, on one clock (UTC seconds)."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self.dynamodb = MemoryDynamo(clock)
        self.sqs = MemorySqs(clock)
        self.secrets = MemorySecrets()


def refused(operation: str, code: str, message: str = "") -> ClientError:
    """What boto3 raises for an answer of AWS that is an error."""
    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


class MemoryDynamo:
    """Tables with the key (pk, sk), both texts; the conditions are those that the ledger puts."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._tables: dict[str, _Table] = {}
        self._lock = threading.Lock()

    def create_table(self, *, TableName: str, **_definition: Any) -> Json:  # noqa: N803
        """A new, empty table."""
        if TableName in self._tables:
            raise refused("CreateTable", "ResourceInUseException", f"Table already exists: {TableName}")
        self._tables[TableName] = _Table(datetime.fromtimestamp(self._clock(), UTC), {})
        return {}

    def delete_table(self, *, TableName: str) -> Json:  # noqa: N803
        """The table is gone with all its items."""
        self._table("DeleteTable", TableName)
        del self._tables[TableName]
        return {}

    def describe_table(self, *, TableName: str) -> Json:  # noqa: N803
        """Its name, and when it was made."""
        table = self._table("DescribeTable", TableName)
        return {"Table": {"TableName": TableName, "CreationDateTime": table.created}}

    def batch_get_item(self, *, RequestItems: Mapping[str, Any]) -> Json:  # noqa: N803
        """The items of up to 100 different keys that there are."""
        responses = {}
        for name, asked in RequestItems.items():
            table = self._table("BatchGetItem", name)
            keys = [_key("BatchGetItem", one) for one in asked["Keys"]]
            if not 0 < len(keys) <= LONGEST_READ or len(set(keys)) != len(keys):
                why = "Provided list of item keys contains duplicates, is empty or too long"
                raise refused("BatchGetItem", "ValidationException", why)
            responses[name] = [_copy(table.items[key]) for key in keys if key in table.items]
        return {"Responses": responses, "UnprocessedKeys": {}}

    def put_item(
        self,
        *,
        TableName: str,  # noqa: N803
        Item: Json,  # noqa: N803
        ConditionExpression: str = "",  # noqa: N803
        ExpressionAttributeValues: Mapping[str, Any] | None = None,  # noqa: N803
    ) -> Json:
        """Write an item if its condition holds of what is stored."""
        table = self._table("PutItem", TableName)
        key, written = _key("PutItem", Item), _copy(Item)
        if len(repr(written)) > LARGEST_ITEM:
            raise refused("PutItem", "ValidationException", "Item size has exceeded the maximum allowed size")
        with self._lock:
            if not _holds(table.items.get(key), ConditionExpression, ExpressionAttributeValues or {}):
                raise refused("PutItem", "ConditionalCheckFailedException", "The conditional request failed")
            table.items[key] = written
        return {}

    def delete_item(self, *, TableName: str, Key: Json) -> Json:  # noqa: N803
        """The item is gone, if there was one."""
        self._table("DeleteItem", TableName).items.pop(_key("DeleteItem", Key), None)
        return {}

    def scan(self, *, TableName: str) -> Json:  # noqa: N803
        """All items, in one page."""
        return {"Items": [_copy(item) for item in self._table("Scan", TableName).items.values()]}

    def _table(self, operation: str, name: str) -> _Table:
        if name not in self._tables:
            raise refused(operation, "ResourceNotFoundException", "Requested resource not found")
        return self._tables[name]


@dataclass(frozen=True, slots=True)
class _Table:
    created: datetime
    items: dict[tuple[str, str], Json]


def _key(operation: str, item: Mapping[str, Any]) -> tuple[str, str]:
    try:
        key = (item["pk"]["S"], item["sk"]["S"])
    except KeyError as error:
        why = "The provided key element does not match the schema"
        raise refused(operation, "ValidationException", why) from error
    if not all(isinstance(part, str) and part for part in key):
        raise refused(operation, "ValidationException", "a key cannot contain an empty string value")
    return key


def _holds(stored: Json | None, condition: str, values: Mapping[str, Any]) -> bool:
    match condition:
        case "":
            return True
        case "attribute_not_exists(pk)":
            return stored is None
        case "version = :read":
            return stored is not None and _number(stored["version"]) == _number(values[":read"])
    raise NotImplementedError(f"the ledger puts no condition {condition!r}")


def _number(value: Mapping[str, str]) -> Decimal:
    return Decimal(value["N"])


def _copy(item: Mapping[str, Any]) -> Json:
    return {name: _value(value) for name, value in item.items()}


def _value(value: Mapping[str, Any]) -> Json:
    """A copy of an attribute's value. Raises what boto3 does for one that DynamoDB cannot hold."""
    ((kind, held),) = value.items()
    match kind:
        case "S" if isinstance(held, str):
            return {"S": held}
        case "N" if isinstance(held, str):
            _NUMBERS.create_decimal(held)
            return {"N": held}
        case "BOOL" if isinstance(held, bool):
            return {"BOOL": held}
        case "NULL" if held is True:
            return {"NULL": True}
        case "M":
            return {"M": _copy(held)}
        case "L":
            return {"L": [_value(each) for each in held]}
    raise refused("PutItem", "SerializationException", f"{value!r} is no value")


@dataclass(slots=True)
class _Message:
    number: int
    body: str
    visible_at: int
    handle: str = ""


class MemorySqs:
    """Standard queues: a message is hidden once it is received, until it is deleted or its time is up."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._count = 0
        self._queues: dict[str, list[_Message]] = {}

    def create_queue(self, *, QueueName: str) -> Json:  # noqa: N803
        """A queue, or the one of that name."""
        url = f"https://sqs.us-east-1.amazonaws.com/123456789012/{QueueName}"
        self._queues.setdefault(url, [])
        return {"QueueUrl": url}

    def send_message(self, *, QueueUrl: str, MessageBody: str, DelaySeconds: int = 0) -> Json:  # noqa: N803
        """Put a message on the queue, to be seen after so many seconds."""
        queue = self._queue("SendMessage", QueueUrl)
        if not MessageBody or len(MessageBody.encode()) > LARGEST_MESSAGE:
            raise refused("SendMessage", "InvalidParameterValue", "One or more parameters are invalid")
        if not 0 <= DelaySeconds <= LONGEST_DELAY:
            raise refused("SendMessage", "InvalidParameterValue", f"Value {DelaySeconds} is invalid")
        self._count += 1
        queue.append(_Message(self._count, MessageBody, self._clock() + DelaySeconds))
        return {"MessageId": str(self._count)}

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803
        MaxNumberOfMessages: int = 1,  # noqa: N803
        VisibilityTimeout: int = 30,  # noqa: N803
    ) -> Json:
        """Up to so many visible messages, oldest first, hidden for so many seconds."""
        now = self._clock()
        visible = [one for one in self._queue("ReceiveMessage", QueueUrl) if one.visible_at <= now]
        for message in visible[:MaxNumberOfMessages]:
            self._count += 1
            message.handle = str(self._count)
            message.visible_at = now + VisibilityTimeout
        received = [
            {"MessageId": str(one.number), "Body": one.body, "ReceiptHandle": one.handle}
            for one in visible[:MaxNumberOfMessages]
        ]
        return {"Messages": received} if received else {}

    def delete_message(self, *, QueueUrl: str, ReceiptHandle: str) -> Json:  # noqa: N803
        """Done with the message that was received with this handle."""
        queue = self._queue("DeleteMessage", QueueUrl)
        queue[:] = [one for one in queue if one.handle != ReceiptHandle]
        return {}

    def _queue(self, operation: str, url: str) -> list[_Message]:
        if url not in self._queues:
            code = "AWS.SimpleQueueService.NonExistentQueue"
            raise refused(operation, code, "The specified queue does not exist.")
        return self._queues[url]


class MemorySecrets:
    """Secrets, each with its newest text."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def create_secret(self, *, Name: str, SecretString: str) -> Json:  # noqa: N803
        """A new secret."""
        if Name in self._texts:
            raise refused("CreateSecret", "ResourceExistsException")
        self._texts[Name] = SecretString
        return {"Name": Name}

    def describe_secret(self, *, SecretId: str) -> Json:  # noqa: N803
        """What a secret is, not what it holds; here it is its name that identifies it."""
        self.get_secret_value(SecretId=SecretId)
        return {"ARN": SecretId, "Name": SecretId}

    def put_secret_value(self, *, SecretId: str, SecretString: str) -> Json:  # noqa: N803
        """Replace what a secret holds."""
        self.get_secret_value(SecretId=SecretId)
        self._texts[SecretId] = SecretString
        return {"Name": SecretId}

    def get_secret_value(self, *, SecretId: str) -> Json:  # noqa: N803
        """What a secret holds."""
        if SecretId not in self._texts:
            raise refused(
                "GetSecretValue",
                "ResourceNotFoundException",
                "Secrets Manager can't find the specified secret.",
            )
        return {"Name": SecretId, "SecretString": self._texts[SecretId]}
