"""Errors that end a command, each with one line for the operator and an exit code."""

from __future__ import annotations

import traceback
from pathlib import Path

import stripe
from botocore import exceptions as aws

from usage_reporting.errors import (
    BadRequestError,
    ConfigurationError,
    NotFoundError,
    RefusedError,
    UsageReportingError,
)
from usage_reporting.stripe_api import redacted

NOT_DELIVERED = 1
WRONG_USE = 2

_MISUSE = (BadRequestError, ConfigurationError, NotFoundError, RefusedError)
_AWS_MISUSE = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.NoRegionError,
    aws.InvalidRegionError,
    aws.ProfileNotFound,
)


class CliError(Exception):
    """A command cannot go on; its text says what, why, and what to do."""

    exit_code = NOT_DELIVERED


class NotDoneError(CliError):
    """Something was not delivered, though the command was used rightly."""


class WrongUseError(CliError):
    """A bad setting, a missing key, an unknown name."""

    exit_code = WRONG_USE


def explain(error: Exception) -> tuple[str, int]:
    """One line for the operator, free of keys, and the exit code."""
    line, code = _explained(error)
    return redacted(" ".join(line.split())), code


def _explained(error: Exception) -> tuple[str, int]:
    match error:
        case CliError():
            found = str(error), error.exit_code
        case UsageReportingError():
            found = error.reason, WRONG_USE if isinstance(error, _MISUSE) else NOT_DELIVERED
        case stripe.StripeError():
            found = _of_stripe(error)
        case aws.ClientError():
            found = _of_aws(error)
        case aws.BotoCoreError() if isinstance(error, _AWS_MISUSE):
            found = f"AWS: {error}; set AWS_PROFILE or the AWS_ variables, and --region", WRONG_USE
        case aws.BotoCoreError():
            found = (
                f"AWS gave no answer: {error}; check the network (and AWS_ENDPOINT_URL) and try again",
                NOT_DELIVERED,
            )
        case _:
            what = type(error).__name__
            found = f"unexpected {what} at {_place(error)}; please report this", NOT_DELIVERED
    return found


def _of_stripe(error: stripe.StripeError) -> tuple[str, int]:
    if isinstance(error, stripe.AuthenticationError):
        return "Stripe does not accept the key in STRIPE_KEY; export one that is not revoked", WRONG_USE
    if isinstance(error, stripe.PermissionError):
        said = error.user_message or "it lacks a permission"
        return f"the key in STRIPE_KEY may not do this: {said}; add the permission to the key", WRONG_USE
    if error.http_status is None:
        return "Stripe gave no answer; check the network (and STRIPE_API_BASE) and try again", NOT_DELIVERED
    return f"Stripe says ({error.http_status}): {error.user_message or 'no reason'}", NOT_DELIVERED


def _of_aws(error: aws.ClientError) -> tuple[str, int]:
    said = error.response.get("Error", {})
    code, message = said.get("Code", ""), said.get("Message", "")
    if "AccessDenied" in code or "Token" in code or "Unauthorized" in code:
        return f"AWS does not allow {error.operation_name}: {message}; use other AWS credentials", WRONG_USE
    return f"AWS refused {error.operation_name} ({code}): {message}", NOT_DELIVERED


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
