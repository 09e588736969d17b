"""AWS in memory answers as moto does, call by call; the ledger's table has a contract of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.integration.aws import Clients, InMemory

KEY = {"pk": {"S": "a"}, "sk": {"S": "head"}}
ITEM = {**KEY, "version": {"N": "1"}, "sends": {"M": {"x": {"L": [{"BOOL": True}, {"NULL": True}]}}}}
STILL = {"ConditionExpression": "version = :read"}


@pytest.fixture(params=["moto", "memory"])
def aws(request: pytest.FixtureRequest) -> Clients:
    made: Clients = request.getfixturevalue("moto") if request.param == "moto" else InMemory(lambda: 0)
    made.dynamodb.create_table(
        TableName="ledger",
        KeySchema=[{"AttributeName": "pk", "KeyType": "HASH"}, {"AttributeName": "sk", "KeyType": "RANGE"}],
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in ("pk", "sk")],
        BillingMode="PAY_PER_REQUEST",
    )
    return made


def code_of(call: Callable[..., Any], **arguments: Any) -> str:
    """The code of the error that it answers with."""
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return str(raised.value.response["Error"]["Code"])


def test_a_table_of_items(aws: Clients) -> None:
    tables = aws.dynamodb
    tables.put_item(TableName="ledger", Item=ITEM)
    tables.put_item(TableName="ledger", Item={**ITEM, "sk": {"S": "b"}})
    tables.delete_item(TableName="ledger", Key={**KEY, "sk": {"S": "b"}})
    tables.delete_item(TableName="ledger", Key={**KEY, "sk": {"S": "never there"}})

    assert tables.scan(TableName="ledger")["Items"] == [ITEM]
    read = tables.batch_get_item(RequestItems={"ledger": {"Keys": [KEY], "ConsistentRead": True}})
    assert (read["Responses"], read["UnprocessedKeys"]) == ({"ledger": [ITEM]}, {})


@pytest.mark.parametrize(
    ("condition", "is_met"),
    [
        ({"ConditionExpression": "attribute_not_exists(pk)"}, False),
        (
            {"ConditionExpression": "version = :read", "ExpressionAttributeValues": {":read": {"N": "1"}}},
            True,
        ),
        (
            {"ConditionExpression": "version = :read", "ExpressionAttributeValues": {":read": {"N": "2"}}},
            False,
        ),
    ],
)
def test_a_write_under_a_condition(aws: Clients, condition: dict[str, Any], is_met: bool) -> None:
    aws.dynamodb.put_item(TableName="ledger", Item=ITEM)
    later: dict[str, Any] = {"TableName": "ledger", "Item": {**ITEM, "version": {"N": "2"}}, **condition}

    if is_met:
        aws.dynamodb.put_item(**later)
    else:
        assert code_of(aws.dynamodb.put_item, **later) == "ConditionalCheckFailedException"
    [stored] = aws.dynamodb.scan(TableName="ledger")["Items"]
    assert stored["version"] == {"N": "2" if is_met else "1"}


def test_what_a_table_refuses(aws: Clients) -> None:
    tables = aws.dynamodb
    refused = "ValidationException"
    assert code_of(tables.put_item, TableName="ledger", Item={"pk": {"S": "a"}}) == refused
    assert code_of(tables.put_item, TableName="ledger", Item={**KEY, "sk": {"S": ""}}) == refused
    large = {**KEY, "text": {"S": "x" * 400 * 1024}}
    assert code_of(tables.put_item, TableName="ledger", Item=large) == refused
    assert code_of(tables.batch_get_item, RequestItems={"ledger": {"Keys": [KEY, KEY]}}) == refused
    many = [{**KEY, "sk": {"S": str(number)}} for number in range(101)]
    assert code_of(tables.batch_get_item, RequestItems={"ledger": {"Keys": many}}) == refused
    assert code_of(tables.create_table, TableName="ledger", **DEFINITION) == "ResourceInUseException"


DEFINITION: dict[str, Any] = {
    "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
    "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
    "BillingMode": "PAY_PER_REQUEST",
}


def test_a_table_that_is_gone(aws: Clients) -> None:
    tables = aws.dynamodb
    tables.delete_table(TableName="ledger")

    gone = "ResourceNotFoundException"
    assert code_of(tables.describe_table, TableName="ledger") == gone
    assert code_of(tables.scan, TableName="ledger") == gone
    assert code_of(tables.put_item, TableName="ledger", Item=ITEM) == gone
    assert code_of(tables.delete_item, TableName="ledger", Key=KEY) == gone
    assert code_of(tables.batch_get_item, RequestItems={"ledger": {"Keys": [KEY]}}) == gone


def test_a_message_is_hidden_once_it_is_received(aws: Clients) -> None:
    queue = aws.sqs.create_queue(QueueName="pages")["QueueUrl"]
    assert aws.sqs.create_queue(QueueName="pages")["QueueUrl"] == queue
    for number in range(3):
        aws.sqs.send_message(QueueUrl=queue, MessageBody=f"{number}")
    aws.sqs.send_message(QueueUrl=queue, MessageBody="later", DelaySeconds=900)

    first = aws.sqs.receive_message(QueueUrl=queue, VisibilityTimeout=0)["Messages"]
    both = aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=2, VisibilityTimeout=3600)["Messages"]
    aws.sqs.delete_message(QueueUrl=queue, ReceiptHandle=both[0]["ReceiptHandle"])
    last = aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]

    assert [[one["Body"] for one in some] for some in (first, both, last)] == [["0"], ["0", "1"], ["2"]]
    assert first[0]["MessageId"] == both[0]["MessageId"]
    assert "Messages" not in aws.sqs.receive_message(QueueUrl=queue)


def test_what_comes_back_unfinished_or_late() -> None:
    now = 0
    aws = InMemory(lambda: now)
    queue = aws.sqs.create_queue(QueueName="pages")["QueueUrl"]
    aws.sqs.send_message(QueueUrl=queue, MessageBody="late", DelaySeconds=60)
    assert aws.sqs.receive_message(QueueUrl=queue) == {}
    now = 60
    [message] = aws.sqs.receive_message(QueueUrl=queue, VisibilityTimeout=10)["Messages"]
    assert aws.sqs.receive_message(QueueUrl=queue) == {}
    now = 70
    [again] = aws.sqs.receive_message(QueueUrl=queue)["Messages"]
    assert (again["MessageId"], again["Body"]) == (message["MessageId"], "late")


def test_what_a_queue_refuses(aws: Clients) -> None:
    queue = aws.sqs.create_queue(QueueName="pages")["QueueUrl"]
    send = aws.sqs.send_message

    assert code_of(send, QueueUrl=queue, MessageBody="x", DelaySeconds=901) == "InvalidParameterValue"
    assert code_of(send, QueueUrl=queue, MessageBody="x" * (1024 * 1024 + 1)) == "InvalidParameterValue"
    missing = "AWS.SimpleQueueService.NonExistentQueue"
    assert code_of(send, QueueUrl=queue + "-2", MessageBody="x") == missing
    assert code_of(aws.sqs.receive_message, QueueUrl=queue + "-2") == missing


def test_a_secret(aws: Clients) -> None:
    secrets = aws.secrets
    missing = "ResourceNotFoundException"
    assert code_of(secrets.get_secret_value, SecretId="keys") == missing
    assert code_of(secrets.put_secret_value, SecretId="keys", SecretString="b") == missing
    secrets.create_secret(Name="keys", SecretString="a")
    secrets.put_secret_value(SecretId="keys", SecretString="b")

    assert secrets.get_secret_value(SecretId="keys")["SecretString"] == "b"
    assert code_of(secrets.create_secret, Name="keys", SecretString="c") == "ResourceExistsException"
