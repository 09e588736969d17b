"""The keys: read from the secret, cached, re-read when one stops working, and never shown."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import boto3
import pytest
from moto import mock_aws

from usage_reporting.credentials import (
    EnvironmentCredentials,
    Secret,
    SecretsManagerCredentials,
)
from usage_reporting.errors import AskAgainError, ConfigurationError, NotConfiguredError

KEY = "sk_live_veryprivate"
SIGNING = "whsec_veryprivate"
OPENMETER = "om_veryprivate"
WHOLE: dict[str, Any] = {
    "stripe_api_key": KEY,
    "stripe_webhook_secret": SIGNING,
    "openmeter_api_key": OPENMETER,
}


def secret_of(**changes: Any) -> Secret:
    return Secret.from_json(json.dumps({**WHOLE, **changes}))


def test_all_parts() -> None:
    assert secret_of() == Secret(KEY, (SIGNING,), OPENMETER)


def test_several_signing_secrets() -> None:
    assert secret_of(stripe_webhook_secret=["whsec_1", "whsec_2"]).stripe_webhook_secrets == (
        "whsec_1",
        "whsec_2",
    )


@pytest.mark.parametrize("absent", [None, "", "replace-me"])
def test_openmeter_may_need_no_key(absent: str | None) -> None:
    assert secret_of(openmeter_api_key=absent).openmeter_api_key is None


def test_absent_parts_that_may_be_absent() -> None:
    assert Secret.from_json(json.dumps({"stripe_api_key": KEY})) == Secret(KEY, (), None)
    assert secret_of(stripe_webhook_secret=None).stripe_webhook_secrets == ()


def test_white_space_around_a_pasted_key_is_dropped() -> None:
    pasted = secret_of(
        stripe_api_key=f" {KEY}\n",
        stripe_webhook_secret=f"{SIGNING}\n",
        openmeter_api_key=f"{OPENMETER}\n",
    )

    assert pasted == Secret(KEY, (SIGNING,), OPENMETER)


@pytest.mark.parametrize(
    "placeholder",
    [
        {"stripe_api_key": "replace-me"},
        {"stripe_webhook_secret": "replace-me"},
        {"stripe_webhook_secret": ["whsec_1", "replace-me"]},
        dict.fromkeys(WHOLE, "replace-me"),
    ],
)
def test_placeholders_mean_not_configured(placeholder: dict[str, Any]) -> None:
    with pytest.raises(NotConfiguredError, match="usage-reporter connect"):
        secret_of(**placeholder)


@pytest.mark.parametrize(
    "text",
    [
        f'{{"stripe_api_key": "{KEY}", ',
        KEY,
        f'"{KEY}"',
        f'["{KEY}"]',
        "null",
        "",
        "[" * 200_000,
        json.dumps({"stripe_webhook_secret": SIGNING}),
        *(json.dumps({**WHOLE, "stripe_api_key": bad}) for bad in ("", "  ", None, 5, [KEY], {"a": KEY})),
        *(
            json.dumps({**WHOLE, "stripe_webhook_secret": bad})
            for bad in (5, True, {"a": SIGNING}, [5], [""], [[SIGNING]])
        ),
        *(json.dumps({**WHOLE, "openmeter_api_key": bad}) for bad in (5, True, [OPENMETER])),
    ],
)
def test_a_malformed_secret_is_a_configuration_error_that_shows_no_value(text: str) -> None:
    with pytest.raises(ConfigurationError) as problem:
        Secret.from_json(text)

    assert not isinstance(problem.value, NotConfiguredError)
    assert "veryprivate" not in "".join(traceback.format_exception_only(problem.value))
    assert "secret" in problem.value.reason
    assert problem.value.__cause__ is None


def test_no_representation_shows_a_value() -> None:
    secret = secret_of()

    assert "veryprivate" not in f"{secret!r} {secret}"


@dataclass
class StubSecretsManager:
    """Answers with the text of the moment, and counts."""

    text: str = field(default_factory=lambda: json.dumps(WHOLE))
    calls: int = 0
    error: Exception | None = None

    def get_secret_value(self, **asked: Any) -> dict[str, Any]:
        self.calls += 1
        if self.error:
            raise self.error
        assert asked == {"SecretId": "keys"}
        return {"SecretString": self.text}


@dataclass
class Monotonic:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_secret_is_cached() -> None:
    client = StubSecretsManager()
    credentials = SecretsManagerCredentials("keys", client)

    assert credentials.current() == credentials.current() == Secret(KEY, (SIGNING,), OPENMETER)
    assert client.calls == 1


def test_it_is_cached_for_five_minutes_of_real_time() -> None:
    # The monotonic clock may stand still while Lambda has stopped the function.
    client, clock = StubSecretsManager(), Monotonic()
    credentials = SecretsManagerCredentials("keys", client, Monotonic(), clock)
    credentials.current()
    client.text = json.dumps({**WHOLE, "stripe_api_key": "sk_live_new"})

    clock.now += 299.9
    assert credentials.current().stripe_api_key == KEY
    clock.now += 0.1
    assert credentials.current().stripe_api_key == "sk_live_new"
    clock.now -= 3600
    credentials.current()
    assert client.calls == 3


def test_what_is_cached_serves_while_it_cannot_be_read_again() -> None:
    client = StubSecretsManager()
    credentials = SecretsManagerCredentials("keys", client)
    credentials.current()
    client.error = RuntimeError("throttled")

    with pytest.raises(AskAgainError):
        credentials.reread()
    assert credentials.current().stripe_api_key == KEY


def test_placeholders_are_looked_up_again_each_time() -> None:
    client = StubSecretsManager(json.dumps({**WHOLE, "stripe_api_key": "replace-me"}))
    credentials = SecretsManagerCredentials("keys", client)
    for _ in range(2):
        with pytest.raises(NotConfiguredError):
            credentials.current()
    client.text = json.dumps(WHOLE)

    assert credentials.current().stripe_api_key == KEY


def test_it_is_reread_at_most_once_a_minute() -> None:
    client, monotonic = StubSecretsManager(), Monotonic()
    credentials = SecretsManagerCredentials("keys", client, monotonic)
    credentials.current()
    client.text = json.dumps({**WHOLE, "stripe_api_key": "sk_live_new"})

    assert credentials.current().stripe_api_key == KEY
    assert credentials.reread() is True
    assert credentials.current().stripe_api_key == "sk_live_new"
    monotonic.now += 59.9
    assert credentials.reread() is False
    monotonic.now += 0.1
    assert credentials.reread() is True
    assert client.calls == 3


def test_a_secret_that_cannot_be_read_is_a_reason_to_ask_again() -> None:
    credentials = SecretsManagerCredentials("keys", StubSecretsManager(error=RuntimeError("throttled")))

    with pytest.raises(AskAgainError, match="Secrets Manager did not give the secret: throttled"):
        credentials.current()


@pytest.fixture
def secrets_manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        yield boto3.client("secretsmanager", region_name="us-east-1")


def test_the_secret_in_secrets_manager(secrets_manager: Any) -> None:
    arn = secrets_manager.create_secret(Name="keys", SecretString=json.dumps(WHOLE))["ARN"]

    for secret_id in ("keys", arn):
        assert SecretsManagerCredentials(secret_id, secrets_manager).current().stripe_api_key == KEY


def test_a_binary_or_missing_secret(secrets_manager: Any) -> None:
    secrets_manager.create_secret(Name="binary", SecretBinary=json.dumps(WHOLE).encode())

    with pytest.raises(ConfigurationError, match="not a JSON object"):
        SecretsManagerCredentials("binary", secrets_manager).current()
    with pytest.raises(AskAgainError, match="ResourceNotFoundException"):
        SecretsManagerCredentials("missing", secrets_manager).current()


def test_keys_of_the_environment() -> None:
    credentials = EnvironmentCredentials(
        {"STRIPE_KEY": f" {KEY} ", "STRIPE_WEBHOOK_SECRET": SIGNING, "OPENMETER_API_KEY": OPENMETER}
    )

    assert credentials.current() == Secret(KEY, (SIGNING,), OPENMETER)
    assert credentials.reread() is False
    assert EnvironmentCredentials({"STRIPE_KEY": KEY}).current() == Secret(KEY, (), None)


@pytest.mark.parametrize("environment", [{}, {"STRIPE_KEY": ""}, {"STRIPE_KEY": "  "}])
def test_an_environment_without_the_stripe_key(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=r"^STRIPE_KEY is not set"):
        EnvironmentCredentials(environment)
