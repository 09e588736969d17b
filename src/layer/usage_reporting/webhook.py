"""One Stripe event in, one answer out; what is to be reported is reported before the 2xx."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import stripe

from usage_reporting import telemetry
from usage_reporting.accounts import account_of
from usage_reporting.budget import Budget
from usage_reporting.config import Mode
from usage_reporting.container import Container, Parts
from usage_reporting.error_reports import THIN_EVENTS, THIN_OBJECT
from usage_reporting.errors import (
    AskAgainError,
    BadRequestError,
    ConfigurationError,
    NoAccessError,
    NotConfiguredError,
    NotFoundError,
    RejectedError,
)
from usage_reporting.judging import record_judged
from usage_reporting.model import CustomerMeter, Report, Status, Target
from usage_reporting.renewals import (
    HANDLED,
    INVOICE_CREATED,
    INVOICE_FINALIZED,
    invoice_id,
    mode_of,
    parse,
)
from usage_reporting.telemetry import logger

LARGEST_BODY = 1024 * 1024
TOLERANCE_S = 300
BUDGET_S = 10.0
"""Stripe waits for an answer, and asks again."""
NOT_CONFIGURED = "not_configured"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Stripe is told: 200 done or not ours, 400 not Stripe's, 503 ask again."""

    code: int
    status: str
    reason: str = ""

    def to_proxy(self) -> dict[str, Any]:
        """The answer in API Gateway's payload format 2.0."""
        body = json.dumps({"status": self.status, "reason": self.reason})
        return {
            "statusCode": self.code,
            "headers": {"content-type": "application/json"},
            "body": body,
        }


def answer(container: Container, call: object) -> Answer:
    """Answer one call of the webhook route; in shadow mode Stripe is never asked to come again."""
    return answer_event(container, lambda: _posted(container, call))


def answer_event(
    container: Container, read: Callable[[], dict[str, Any] | Answer], seconds: float = BUDGET_S
) -> Answer:
    """Answer one event, whichever way it came, within so many seconds.

    `read` gives it, or the answer where there is nothing to do.

    What `read` raises is answered as well: BadRequestError by 400, AskAgainError and ConfigurationError by
    503.
    """
    about: dict[str, str] = {}
    told = _answer(container, read, Budget.of(seconds), about)
    is_shadow = container.settings.mode is Mode.SHADOW
    asks_again = told.code == 503 and told.status != NOT_CONFIGURED
    final = replace(told, code=200) if is_shadow and asks_again else told
    telemetry.answered(final.code, final.status, final.reason, about, is_fine=told.code == 200)
    return final


def _answer(
    container: Container,
    read: Callable[[], dict[str, Any] | Answer],
    budget: Budget,
    about: dict[str, str],
) -> Answer:
    """The answer; `about` takes the id and the type of the event once it is known to be Stripe's."""
    try:
        stripe_event = read()
        if isinstance(stripe_event, Answer):
            return stripe_event
        about.update(stripe_event=str(stripe_event.get("id", "")), event_type=str(stripe_event["type"]))
        return container.run(_handled_in_time(container, stripe_event, budget))
    except BadRequestError as error:
        return Answer(400, "bad_request", error.reason)
    except RejectedError as error:
        status = Status.REFUSED if isinstance(error, NoAccessError) else Status.REJECTED
        telemetry.count(status.value.capitalize())
        telemetry.problem(about.get("stripe_event", "an event"), status, error.reason)
        return Answer(200, status.value, error.reason)
    except (AskAgainError, ConfigurationError) as error:
        return Answer(503, "unavailable", error.reason)
    except Exception as error:  # noqa: BLE001 - Stripe gets an answer that it can act on
        logger.exception("unexpected error")
        return Answer(503, "unavailable", f"unexpected {type(error).__name__}; see the function's log")


async def _handled_in_time(container: Container, event: dict[str, Any], budget: Budget) -> Answer:
    try:
        async with asyncio.timeout(budget.seconds_left):
            if event.get("object") == THIN_OBJECT:
                return await _handle_thin(container, event)
            return await _handle(container, event, budget.part(0.9))
    except TimeoutError:
        return Answer(503, "unavailable", "not done in time; ask again")


async def _handle(container: Container, event: dict[str, Any], budget: Budget) -> Answer:
    if event["type"] not in HANDLED:
        return Answer(200, "ignored", "not an event that ends a billing period")
    if (not_served := _not_served(container, event)) is not None:
        return not_served
    if event["type"] == INVOICE_FINALIZED:
        return await _judged(container, event, budget)
    return await _reported(container, event, budget)


def _not_served(container: Container, event: dict[str, Any]) -> Answer | None:
    """The answer to an event of an account that this deployment does not bill; else None."""
    account = account_of(event)
    if container.settings.connected_accounts.serves(account):
        return None
    reason = f"the event is of the connected account {account}, which ConnectedAccounts does not name"
    return Answer(200, "not_ours", reason)


async def _reported(container: Container, event: dict[str, Any], budget: Budget) -> Answer:
    parts = container.of(account_of(event))
    try:
        ended = await _ended(parts, event)
    except NotFoundError as error:
        return Answer(200, "not_ours", error.reason)
    if ended is None:
        return Answer(200, "ignored", "no billing period ended")
    # Stripe takes no usage record for a period that has ended; the schedule was in time for it.
    ended = [one for one in ended if one.target is not Target.USAGE_RECORD]
    if not ended:
        return Answer(200, "not_ours", "nothing metered by OpenMeter ended")
    with telemetry.timed(ended):
        reports = await parts.reporter.report(ended, budget=budget)
    telemetry.record(reports, container.clock())
    return _answer_for(reports)


async def _judged(container: Container, event: dict[str, Any], budget: Budget) -> Answer:
    """Judge a final invoice; nothing can be mended any more, so that a bad verdict is no error."""
    judge = container.of(account_of(event)).judge
    [judged] = await judge.judge([invoice_id(event)], mode_of(event), budget)
    record_judged(judged, container.settings.mode, container.clock())
    if isinstance(judged.error, NotFoundError):
        return Answer(200, "not_ours", judged.error.reason)
    if judged.error is not None:
        raise judged.error
    found = judged.judgement
    if found is None or found.worst is None:
        return Answer(200, "not_ours", "nothing metered by OpenMeter is on the invoice")
    return Answer(200, found.worst.value, "; ".join(line.verdict for line in found.lines))


async def _handle_thin(container: Container, event: dict[str, Any]) -> Answer:
    """Meter events that Stripe took and does not count."""
    if event["type"] not in THIN_EVENTS:
        return Answer(200, "ignored", "not a report of refused meter events")
    if (not_served := _not_served(container, event)) is not None:
        return not_served
    if container.settings.mode is Mode.SHADOW:
        return Answer(200, "ignored", "in shadow mode nothing was sent that could be refused")
    try:
        taken = await container.of(account_of(event)).rejections.take(event)
    except NotFoundError as error:
        return Answer(200, "not_ours", error.reason)
    for one in taken.discarded:
        telemetry.problem(one.customer, Status.REJECTED, one.reason, account_of(event))
    if taken.alarming:
        telemetry.count("Rejected", taken.alarming)
    if taken.unbillable:
        telemetry.count("Unbillable", float(taken.unbillable))
    return Answer(200, *taken.outcome)


async def _ended(parts: Parts, event: dict[str, Any]) -> list[CustomerMeter] | None:
    """The customer meters of what ended; None when the event says that nothing did."""
    if event["type"] == INVOICE_CREATED:
        return await parts.billing.drafted(invoice_id(event))
    return await parts.endings.of(event)


def _answer_for(reports: Sequence[Report]) -> Answer:
    worst = max((report.status for report in reports), key=list(Status).index)
    reasons = "; ".join(report.reason for report in reports if report.reason)
    return Answer(503 if worst.ask_again else 200, worst.value, reasons)


def _posted(container: Container, event: object) -> dict[str, Any] | Answer:
    """The event that API Gateway hands over, its signature checked. Raises BadRequestError."""
    call = _call(event)
    body = _body(call)
    no_keys = _verify(container, body, _headers(call).get("stripe-signature", ""))
    return parse(body) if no_keys is None else no_keys


def _call(event: object) -> Mapping[str, Any]:
    if not isinstance(event, Mapping):
        raise BadRequestError("the call is not one of API Gateway's")
    return event


def _headers(event: Mapping[str, Any]) -> dict[str, str]:
    headers = event.get("headers")
    if not isinstance(headers, Mapping):
        return {}
    return {str(name).lower(): str(value) for name, value in headers.items()}


def _body(event: Mapping[str, Any]) -> bytes:
    raw = event.get("body")
    if not isinstance(raw, str) or not raw:
        raise BadRequestError("the call has no body")
    try:
        body = base64.b64decode(raw, validate=True) if event.get("isBase64Encoded") else raw.encode()
    except (binascii.Error, ValueError) as error:
        raise BadRequestError("the body is not what API Gateway sends") from error
    if len(body) > LARGEST_BODY:
        raise BadRequestError("the body is larger than 1 MiB")
    return body


def _verify(container: Container, body: bytes, signature: str) -> Answer | None:
    """Check Stripe's signature; an answer when there are no secrets to check it with.

    Who called is not known yet, so that answer tells nothing of ours. Raises BadRequestError.
    """
    if not signature.isascii() or not signature:
        raise BadRequestError("the call has no Stripe-Signature header in ASCII")
    try:
        _check_signature(container, body, signature)
    except NotConfiguredError as error:
        return Answer(503, NOT_CONFIGURED, error.reason)
    except (AskAgainError, ConfigurationError) as error:
        logger.warning("the signing secrets cannot be read: %s", error.reason)
        return Answer(503, "unavailable", "the signing secrets cannot be read; see the function's log")
    return None


def _check_signature(container: Container, body: bytes, signature: str) -> None:
    """A secret newer than the cached ones is looked up once a minute. Raises BadRequestError."""
    secrets = container.credentials.current().stripe_webhook_secrets
    problem = _problem(body, signature, secrets, container.clock())
    if problem and container.credentials.reread():
        secrets = container.credentials.current().stripe_webhook_secrets
        problem = _problem(body, signature, secrets, container.clock())
    if problem:
        raise BadRequestError(problem)


def _problem(body: bytes, signature: str, secrets: Sequence[str], now: int) -> str:
    stamped = _timestamp(signature)
    if stamped is None:
        return "the Stripe-Signature header has no time stamp"
    if abs(now - stamped) > TOLERANCE_S:
        return "the signature's time stamp is stale or in the future"
    text = body.decode("utf-8", "replace")
    for secret in secrets:
        try:
            stripe.WebhookSignature.verify_header(text, signature, secret, tolerance=None)
        except (stripe.SignatureVerificationError, ValueError):
            continue
        return ""
    return "no signing secret fits the signature"


def _timestamp(signature: str) -> int | None:
    for part in signature.split(","):
        # The first exact `t`, as the library reads it: another one must not stand in for it here.
        name, _, value = part.partition("=")
        if name == "t":
            return int(value) if value.isascii() and value.isdigit() and len(value) <= 12 else None
    return None
