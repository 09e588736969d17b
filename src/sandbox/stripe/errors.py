"""Errors as Stripe answers them (API reference, "Errors")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StripeError(Exception):
    """An answer other than 2xx: HTTP status and the members of Stripe's error object.

    `stored`: whether the answer is kept under the Idempotency-Key and replayed. Stripe keeps
    results only once an endpoint began to execute: not for authentication, validation, rate or
    concurrency errors.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type_: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
        stored: bool = True,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.type = type_
        self.headers = dict(headers or {})
        self.stored = stored

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        error: dict[str, Any] = {"message": self.message, "type": self.type}
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = "https://stripe.com/docs/error-codes/" + self.code.replace("_", "-")
        if self.param is not None:
            error["param"] = self.param
        return {"error": error}


def invalid(message: str, param: str | None = None, code: str | None = None) -> StripeError:
    """400 for a value that the endpoint refused once it ran."""
    return StripeError(400, message, code=code, param=param)


def malformed(message: str, param: str, code: str | None = None) -> StripeError:
    """400 for parameters that fail validation before the endpoint runs; never replayed."""
    return StripeError(400, message, code=code, param=param, stored=False)


def missing(param: str) -> StripeError:
    """400 `parameter_missing`."""
    return malformed(f"Missing required param: {param}.", param, "parameter_missing")


def unknown(param: str) -> StripeError:
    """400 `parameter_unknown`."""
    return malformed(f"Received unknown parameter: {param}", param, "parameter_unknown")


def no_such(resource: str, id_: str, param: str = "id", *, status: int = 404) -> StripeError:
    """404 (400 when another object was asked to refer to it) `resource_missing`."""
    return StripeError(status, f"No such {resource}: '{id_}'", code="resource_missing", param=param)
