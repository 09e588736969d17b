"""Every error of this package.

UsageReportingError
├── ConfigurationError            a setting or the secret is wrong; names it and says what to do
│   └── NotConfiguredError        the secret still holds the template's placeholders
├── BadRequestError               a webhook call that is not Stripe's, or not readable
├── RefusedError                  we will not report this: what, why, what to do
│   ├── UnknownCustomerError      OpenMeter has no customer with an id that it gave before
│   └── UnknownMeterError         OpenMeter has no such meter, or not any more
├── HeldError                     something must be looked at by a person before anything is sent
├── RejectedError                 Stripe read the request and said no; asking again would not help
│   ├── NotFoundError             Stripe knows no such object
│   └── NoAccessError             the key may not act for a connected account, or not any more
└── AskAgainError                 not done now; the same call may succeed later
    ├── OpenMeterUnavailableError
    ├── StripeUnavailableError    no answer, throttled, answered 5xx, or the key does not work
    │   ├── NotPermittedError     the key lacks a permission
    │   └── SessionExpiredError   a session for streaming meter events is over
    ├── LedgerUnavailableError
    ├── LostRaceError             somebody else wrote the ledger entry since it was read
    └── OutOfTimeError            the function's time is nearly over
"""

from __future__ import annotations


class UsageReportingError(Exception):
    """Base of all errors of this package; its text is fit to be shown to an operator."""

    @property
    def reason(self) -> str:
        """The text shown to an operator: what happened, why, and what to do."""
        return str(self)


class ConfigurationError(UsageReportingError):
    """A setting or the secret is wrong."""


class NotConfiguredError(ConfigurationError):
    """The secret still holds the placeholders that the template created it with."""


class BadRequestError(UsageReportingError):
    """A webhook call that is not Stripe's, or that cannot be read."""


class RefusedError(UsageReportingError):
    """This usage cannot be reported as it is set up."""


class UnknownCustomerError(RefusedError):
    """OpenMeter has no customer with this id: it was deleted since it was asked for its key."""


class UnknownMeterError(RefusedError):
    """OpenMeter has no such meter, or not any more."""


class HeldError(UsageReportingError):
    """Nothing may be sent before a person has looked."""


class RejectedError(UsageReportingError):
    """Stripe read the request and refused it.

    `code` is Stripe's error code, or an empty string.
    """

    def __init__(self, message: str, *, code: str = "", status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class NotFoundError(RejectedError):
    """Stripe knows no such object."""


class NoAccessError(RejectedError):
    """The key may not act for a connected account: it was never connected, or its access was revoked."""


class AskAgainError(UsageReportingError):
    """Not done now; the same call may succeed later."""


class OpenMeterUnavailableError(AskAgainError):
    """OpenMeter gave no usable answer."""


class StripeUnavailableError(AskAgainError):
    """Stripe gave no answer, throttled us, answered 5xx, or does not accept the key.

    `answered` says whether Stripe answered with a server error: it then stores that answer under the
    idempotency key (API reference, "Idempotent requests"). `replayed`: it was such a stored answer.
    `turned_away`: Stripe did not begin with the request, so nothing of it was done.
    """

    def __init__(
        self, message: str, *, answered: bool = False, replayed: bool = False, turned_away: bool = False
    ) -> None:
        super().__init__(message)
        self.answered = answered
        self.replayed = replayed
        self.turned_away = turned_away


class NotPermittedError(StripeUnavailableError):
    """The Stripe key lacks a permission; the message names what it may not do."""


class SessionExpiredError(StripeUnavailableError):
    """Stripe does not accept the session of a stream of meter events any more."""


class LedgerUnavailableError(AskAgainError):
    """DynamoDB could not be read or written."""


class LostRaceError(AskAgainError):
    """The ledger entry was written by somebody else since it was read."""


class OutOfTimeError(AskAgainError):
    """The function's time is nearly over."""
