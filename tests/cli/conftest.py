"""The commands in this process: both stand-ins over HTTP, AWS by moto, a stack that looks deployed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.integration.conftest import servers, world
from tests.integration.world import API_KEY, World
from tests.layer.builders import instant_pacer

__all__ = ["servers", "world"]

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


@pytest.fixture
def run(world: World, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as an operator with all keys would, at the world's time."""
    monkeypatch.setattr("usage_reporting.container.system_clock", world.clock)
    for waiting in ("openmeter", "sender", "stripe_api"):
        monkeypatch.setattr(f"usage_reporting.{waiting}.pause", lambda _: 0.0)
    monkeypatch.setattr("usage_reporting.stripe_api.Pacer", instant_pacer)
    monkeypatch.setenv("STRIPE_KEY", API_KEY)
    monkeypatch.setenv("STRIPE_API_BASE", world.stripe_url)
    monkeypatch.setenv("OPENMETER_URL", world.openmeter_url)
    for name in ("OPENMETER_API_KEY", "STRIPE_WEBHOOK_SECRET", "MODE"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, input: str = "") -> Result:
        result = CliRunner().invoke(app, list(arguments), input=input)
        assert "Traceback" not in result.output
        for secret in ("sk_test_s", "dbox*", "*dbox", OPENMETER_KEY, "whsec_"):
            assert secret not in result.output
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def stack(world: World) -> str:
    """A stack of the world's table, secret and queue, whose functions report to the stand-ins."""
    role = boto3.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("app.py", "")
    variables = {
        "MODE": "live",
        "OPENMETER_URL": world.openmeter_url,
        "STRIPE_API_BASE": world.stripe_url,
        "SUBJECT_METADATA_KEY": "",
    }
    boto3.client("lambda").create_function(
        FunctionName="webhook",
        Runtime="python3.13",
        Role=role,
        Handler="app.handler",
        Code={"ZipFile": archive.getvalue()},
        Environment={"Variables": variables},
    )
    outputs = {
        "WebhookUrl": WEBHOOK_URL,
        "SecretArn": world.secrets.describe_secret(SecretId="keys")["ARN"],
        "LedgerTableName": "ledger",
        "WebhookFunctionName": "webhook",
    }
    template = {
        "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}},
        "Outputs": {name: {"Value": value} for name, value in outputs.items()},
    }
    boto3.client("cloudformation").create_stack(StackName=STACK, TemplateBody=json.dumps(template))
    return STACK


def secret_of(world: World) -> dict[str, Any]:
    """What the stack's secret holds."""
    held: dict[str, Any] = json.loads(world.secrets.get_secret_value(SecretId="keys")["SecretString"])
    return held
