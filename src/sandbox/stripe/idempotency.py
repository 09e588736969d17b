"""Stored answers (API reference, "Idempotent requests")."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.stripe.account import Account
from sandbox.stripe.errors import StripeError
from sandbox.stripe.messages import Response

MAX_KEY_LENGTH = 255
KEPT_SECONDS = 24 * 3600
KEPT_SECONDS_V2 = 30 * 24 * 3600


@dataclass
class _Stored:
    fingerprint: bytes
    at: int
    kept: int
    response: Response | None = None


class Idempotency:
    """First answers by key, replayed for 24 hours; server errors are replayed as well."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._stored: dict[str, _Stored] = {}

    def begin(self, key: str, fingerprint: bytes, kept: int = KEPT_SECONDS) -> Response | None:
        """The answer to replay, kept so many seconds, or None to go ahead; `store` or `forget` must follow.

        Raises StripeError: 400 for other parameters under the same key or a key that is too long,
        409 while the first request is still being worked on.
        """
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            raise StripeError(
                400,
                f"Idempotency keys must have 1 to {MAX_KEY_LENGTH} characters.",
                type_="idempotency_error",
                stored=False,
            )
        now = self._account.clock()
        stored = self._stored.get(key)
        if stored is None or now - stored.at >= stored.kept:
            self._stored[key] = _Stored(fingerprint, now, kept)
            return None
        if stored.fingerprint != fingerprint:
            raise StripeError(
                400,
                "Keys for idempotent requests can only be used with the same parameters they were "
                f"first used with. Try using a key other than '{key}' if you meant to execute a "
                "different request.",
                type_="idempotency_error",
                stored=False,
            )
        if stored.response is None:
            raise StripeError(
                409,
                "There is currently another in-progress request using this Idempotent Key: "
                f"{key}. Please try again later.",
                code="idempotency_key_in_use",
                type_="idempotency_error",
                stored=False,
            )
        return stored.response.replayed()

    def store(self, key: str | None, response: Response) -> None:
        """Keep the answer for those who ask again with its key, if it has one."""
        if key is not None:
            self._stored[key].response = response

    def forget(self, key: str | None) -> None:
        """The request was not executed: its key, if it has one, is free again."""
        if key is not None:
            self._stored.pop(key, None)
