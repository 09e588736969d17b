"""The keys and signing secrets: looked up in Secrets Manager, cached, re-read when one stops working."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from usage_reporting import aws
from usage_reporting.amounts import loads
from usage_reporting.errors import AskAgainError, ConfigurationError, NotConfiguredError

PLACEHOLDER = "replace-me"
CACHED_FOR = 300
REREAD_EVERY = 60


@dataclass(frozen=True, slots=True)
class Secret:
    """What the secret holds; never shown in a representation."""

    stripe_api_key: str = field(repr=False)
    stripe_webhook_secrets: tuple[str, ...] = field(repr=False, default=())
    openmeter_api_key: str | None = field(repr=False, default=None)

    @classmethod
    def from_json(cls, text: str) -> Secret:
        """Read the secret's JSON.

        Raises NotConfiguredError while it holds the template's placeholders, ConfigurationError when a
        part is missing or malformed; the message never holds a value.
        """
        try:
            data = loads(text)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise ConfigurationError("the secret is not a JSON object; run `usage-reporter connect`")
        webhook_secrets = data.get("stripe_webhook_secret")
        if not isinstance(webhook_secrets, list):
            webhook_secrets = [] if webhook_secrets is None else [webhook_secrets]
        key = data.get("stripe_api_key")
        if PLACEHOLDER in [key, *webhook_secrets]:
            raise NotConfiguredError(
                "the secret still holds the template's placeholders; run `usage-reporter connect`"
            )
        if not isinstance(key, str) or not key.strip():
            raise ConfigurationError("the secret has no `stripe_api_key`; run `usage-reporter connect`")
        if not all(isinstance(value, str) and value.strip() for value in webhook_secrets):
            raise ConfigurationError(
                "`stripe_webhook_secret` in the secret must be a text or a list of texts"
            )
        openmeter_key = data.get("openmeter_api_key")
        if openmeter_key is not None and not isinstance(openmeter_key, str):
            raise ConfigurationError("`openmeter_api_key` in the secret must be a text")
        openmeter_key = (openmeter_key or "").strip() or None
        return cls(
            stripe_api_key=key.strip(),
            stripe_webhook_secrets=tuple(value.strip() for value in webhook_secrets),
            openmeter_api_key=None if openmeter_key == PLACEHOLDER else openmeter_key,
        )


class Credentials(Protocol):
    """Where keys come from."""

    def current(self) -> Secret:
        """The keys in force. Raises ConfigurationError or AskAgainError."""

    def reread(self) -> bool:
        """Look the keys up afresh because one stopped working; False if that was done a minute ago."""


class SecretsManagerCredentials:
    """Keys from AWS Secrets Manager, cached for five minutes.

    `clock`: seconds that go on while Lambda has stopped the function, as `monotonic` need not.
    """

    def __init__(
        self,
        secret_id: str,
        client: Any = None,
        monotonic: Callable[[], float] = time.monotonic,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secret_id = secret_id
        self._client = client or aws.client("secretsmanager")
        self._monotonic = monotonic
        self._clock = clock
        self._last_reread = float("-inf")
        self._text = ""
        self._read_at = float("-inf")

    def current(self) -> Secret:
        """The keys in force. Raises ConfigurationError or AskAgainError."""
        if not 0 <= self._clock() - self._read_at < CACHED_FOR:
            return self._read()
        try:
            return Secret.from_json(self._text)
        except NotConfiguredError:
            # What is cached may be from before `connect`.
            return self._read()

    def reread(self) -> bool:
        """Look the keys up afresh, at most once a minute; False if it was not time yet."""
        now = self._monotonic()
        if now - self._last_reread < REREAD_EVERY:
            return False
        self._last_reread = now
        self._read()
        return True

    def _read(self) -> Secret:
        try:
            answer = self._client.get_secret_value(SecretId=self._secret_id)
        except Exception as error:  # whatever it was, there is no secret
            raise AskAgainError(f"Secrets Manager did not give the secret: {error}") from error
        text = answer.get("SecretString")
        self._text = text if isinstance(text, str) else ""
        self._read_at = self._clock()
        return Secret.from_json(self._text)


class EnvironmentCredentials:
    """Keys from STRIPE_KEY, STRIPE_WEBHOOK_SECRET and OPENMETER_API_KEY, for the CLI."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        key = environment.get("STRIPE_KEY", "").strip()
        if not key:
            raise ConfigurationError("STRIPE_KEY is not set; export the Stripe API key to use")
        webhook_secret = environment.get("STRIPE_WEBHOOK_SECRET", "").strip()
        self._secret = Secret(
            stripe_api_key=key,
            stripe_webhook_secrets=(webhook_secret,) if webhook_secret else (),
            openmeter_api_key=environment.get("OPENMETER_API_KEY", "").strip() or None,
        )

    def current(self) -> Secret:
        """The keys that were in the environment at the start."""
        return self._secret

    def reread(self) -> bool:
        """An environment does not change: nothing new."""
        return False
