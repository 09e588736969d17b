"""Meter event sessions: short-lived tokens that let their bearer use the meter event stream."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.stripe.account import Account
from sandbox.stripe.errors import StripeError

SESSION_SECONDS = 15 * 60


@dataclass(frozen=True)
class MeterEventSession:
    """`created` in UTC unix seconds."""

    id: str
    token: str
    created: int

    @property
    def expires_at(self) -> int:
        """From when on the token is refused, in UTC unix seconds (API reference, "Meter Event Stream")."""
        return self.created + SESSION_SECONDS


class MeterEventSessions:
    """The sessions of one account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._by_token: dict[str, MeterEventSession] = {}

    def open(self) -> MeterEventSession:
        """Begin a session at the account's present instant."""
        account = self._account
        session = MeterEventSession(account.new_id("mes"), account.new_id("token", 48), account.now())
        self._by_token[session.token] = session
        return session

    def knows(self, authorization: str) -> bool:
        """Whether this account gave out the token of an Authorization header, be it expired or not."""
        return self._find(authorization) is not None

    def _find(self, authorization: str) -> MeterEventSession | None:
        scheme, _, token = authorization.partition(" ")
        return self._by_token.get(token.strip()) if scheme.lower() == "bearer" else None

    def check(self, authorization: str) -> None:
        """Raise StripeError 401 unless the Authorization header bears the token of a session that lasts.

        Only of an expired token is the error documented (API reference, "Error Codes"). One that nobody
        gave out, an API key among them, is refused like an unknown key.
        """
        session = self._find(authorization)
        if session is None:
            raise StripeError(401, "The token is not one of a meter event session.", stored=False)
        if self._account.clock() >= session.expires_at:
            raise StripeError(
                401,
                "The temporary session token has expired.",
                code="billing_meter_event_session_expired",
                type_="temporary_session_expired",
                stored=False,
            )
