"""What a function finds around it on Lambda, laid out in folders."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from packaging.requirements import Requirement

from tests.infrastructure.template import PROJECT, source

# AWS builds its runtime interface client for Linux alone.
collect_ignore = [] if sys.platform == "linux" else ["test_functions_start.py"]


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layer as SAM builds it: what its requirements.txt pins, and usage_reporting."""
    folder = tmp_path_factory.mktemp("layer")
    requirements = (PROJECT / "src/layer/requirements.txt").read_text()
    _expose(re.findall(r"^[\w-]+(?===)", requirements, re.MULTILINE), folder)
    (folder / "usage_reporting").symlink_to(PROJECT / "src/layer/usage_reporting")
    return folder


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stands in for /var/runtime: the runtime interface client and boto3."""
    folder = tmp_path_factory.mktemp("runtime")
    _expose(_with_dependencies(["awslambdaric", "boto3"]), folder)
    return folder


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


def _with_dependencies(names: Iterable[str]) -> set[str]:
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            requirements = map(Requirement, distribution(name).requires or [])
            waiting += [
                each.name
                for each in requirements
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return found


def _expose(names: Iterable[str], folder: Path) -> None:
    """Put these distributions, and nothing else of this environment, into a folder."""
    for name in names:
        for top in _top_level(distribution(name)):
            (folder / top.name).symlink_to(top)


def _top_level(installed: Distribution) -> set[Path]:
    files = [file for file in installed.files or [] if file.parts[0] not in {"..", "__pycache__"}]
    return {Path(str(installed.locate_file(file.parts[0]))) for file in files}
