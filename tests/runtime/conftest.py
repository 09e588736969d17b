"""What a function finds around it on Lambda, laid out in folders."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from sandbox.bench.layer import layer_folder, runtime_folder
from tests.infrastructure.template import source

# AWS builds its runtime interface client for Linux alone.
collect_ignore = [] if sys.platform == "linux" else ["test_functions_start.py"]


@pytest.fixture(scope="session")
def layer() -> Path:
    """The layer as `sam build` makes it: what its requirements.txt pins, and usage_reporting."""
    return layer_folder()


@pytest.fixture(scope="session")
def runtime() -> Path:
    """What stands in for /var/runtime: the runtime interface client and boto3."""
    return runtime_folder()


@pytest.fixture(scope="session")
def environment() -> Iterator[dict[str, str]]:
    """The template's environment variables, for a stack that has just been deployed."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    cloud = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield cloud | _stack_variables(cloud["AWS_ENDPOINT_URL"])
    finally:
        server.stop()


def _stack_variables(endpoint: str) -> dict[str, str]:
    template = source()
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    resources = template["Resources"]
    secret = session.client("secretsmanager", endpoint_url=endpoint).create_secret(
        Name="Secret", SecretString=resources["Secret"]["Properties"]["SecretString"]
    )
    table = session.client("dynamodb", endpoint_url=endpoint).create_table(
        TableName="LedgerTable",
        **{
            key: resources["LedgerTable"]["Properties"][key]
            for key in ("AttributeDefinitions", "BillingMode", "KeySchema")
        },
    )
    queue = session.client("sqs", endpoint_url=endpoint).create_queue(QueueName="PageQueue")
    known = {name: str(each["Default"]) for name, each in template["Parameters"].items()} | {
        "AWS::StackName": "a-stack",
        "LedgerTable": table["TableDescription"]["TableName"],
        "PageQueue": queue["QueueUrl"],
        "Secret.Id": secret["ARN"],
    }
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    return {name: _resolve(value, known) for name, value in variables.items()}


def _resolve(value: Any, known: dict[str, str]) -> str:
    """The value of an intrinsic function where all conditions hold."""
    if isinstance(value, str):
        return value
    ((function, argument),) = value.items()
    if function == "Fn::If":
        return _resolve(argument[1], known)
    return known[argument if function == "Ref" else ".".join(argument)]
