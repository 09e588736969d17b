"""The commands in this process: both stand-ins over HTTP, a stack by moto that looks deployed."""

from __future__ import annotations

import functools
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from cli import VERSION
from cli.main import app
from tests.integration.conftest import Moto, aws_environment, moto, servers, world, world_in_moto
from tests.integration.world import API_KEY, World
from tests.layer.builders import instant_pacer

__all__ = ["aws_environment", "moto", "servers", "world", "world_in_moto"]

STACK = "billing"
WEBHOOK_URL = "https://abc123.execute-api.us-east-1.amazonaws.com/stripe/webhook"
OPENMETER_KEY = "om_secret_4711"


@dataclass(frozen=True)
class Result:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Result]


@functools.cache
def _session(*arguments: Any, **named: Any) -> boto3.Session:
    """Sessions and clients are dear to make; moto intercepts them in whichever test they are used."""
    return boto3.session.Session(*arguments, **named)


class WorldSession:
    """A session of boto3 that gives the world's own clients of its table, its queues and its secret."""

    def __init__(self, world: World, *arguments: Any, **named: Any) -> None:
        self._session = _session(*arguments, **named)
        self._ours = {"dynamodb": world.dynamodb, "sqs": world.sqs, "secretsmanager": world.secrets}
        self.region_name = self._session.region_name

    def client(self, service: str) -> Any:
        """A client of a service."""
        return self._ours.get(service) or self._session.client(service)


@functools.cache
def aws(service: str) -> Any:
    """A client of AWS."""
    return boto3.client(service)  # type: ignore[call-overload,unused-ignore]


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as an operator with all keys would, at the world's time."""
    monkeypatch.setattr("usage_reporting.container.system_clock", world.clock)
    monkeypatch.setattr("cli.stack.boto3", SimpleNamespace(Session=functools.partial(WorldSession, world)))
    for waiting in ("openmeter_http", "sender", "stripe_api"):
        monkeypatch.setattr(f"usage_reporting.{waiting}.pause", lambda _: 0.0)
    monkeypatch.setattr("usage_reporting.stripe_api.Pacer", instant_pacer)
    monkeypatch.setenv("STRIPE_KEY", API_KEY)
    monkeypatch.setenv("STRIPE_API_BASE", world.stripe_url)
    monkeypatch.setenv("OPENMETER_URL", world.openmeter_url)
    for name in ("OPENMETER_API", "OPENMETER_API_KEY", "STRIPE_WEBHOOK_SECRET", "MODE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, input: str = "") -> Result:
        result = CliRunner().invoke(app, list(arguments), input=input)
        assert "Traceback" not in result.output
        for secret in ("sk_test_s", "dbox*", "*dbox", OPENMETER_KEY, "whsec_"):
            assert secret not in result.output
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def stack(moto: Moto, world: World) -> str:
    """A stack of the world's table, secret and queue, whose functions report to the stand-ins."""
    make_functions(world, "webhook")
    make_stack(outputs_of(world))
    return STACK


def make_functions(world: World, *names: str) -> None:
    """Functions in live mode, with the settings of the world."""
    role = aws("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("app.py", "")
    variables = {
        "MODE": "live",
        "OPENMETER_URL": world.openmeter_url,
        "STRIPE_API_BASE": world.stripe_url,
        "SUBJECT_METADATA_KEY": "",
        "CONNECTED_ACCOUNTS": "",
    }
    for name in names:
        aws("lambda").create_function(
            FunctionName=name,
            Runtime="python3.13",
            Role=role,
            Handler="app.handler",
            Code={"ZipFile": archive.getvalue()},
            Environment={"Variables": variables},
        )


def outputs_of(world: World) -> dict[str, str]:
    """What the commands need to know of a stack."""
    return {
        "Version": VERSION,
        "WebhookUrl": WEBHOOK_URL,
        "SecretArn": world.secrets.describe_secret(SecretId="keys")["ARN"],
        "LedgerTableName": "ledger",
        "WebhookFunctionName": "webhook",
        "QueueUrl": world.queue_url,
        "DeadLetterQueueUrl": world.sqs.create_queue(QueueName="dead")["QueueUrl"],
    }


def make_stack(outputs: dict[str, str], name: str = STACK) -> None:
    """A stack with these outputs, and next to nothing in it."""
    template = {
        "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    aws("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))


def secret_of(world: World) -> dict[str, Any]:
    """What the stack's secret holds."""
    held: dict[str, Any] = json.loads(world.secrets.get_secret_value(SecretId="keys")["SecretString"])
    return held
