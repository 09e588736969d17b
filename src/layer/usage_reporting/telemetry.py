"""The one logger and the one metrics object, and what is counted of a report."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from usage_reporting.model import Report, Status
from usage_reporting.verdict import Finding, JudgedLine

SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME") or "usage-reporter"
"""The stack's name in a deployed function, so that two stacks of one account keep their metrics apart."""
NAMESPACE = "UsageReporting"
NEAR_DEADLINE = 20 * 60

logger = Logger(service=SERVICE)
metrics = Metrics(namespace=NAMESPACE, service=SERVICE)

_COUNTED = {
    Status.SENT: "Reported",
    Status.UNCHANGED: "Unchanged",
    Status.SHADOW: "Shadowed",
    Status.DOUBTED: "Doubted",
    Status.REFUSED: "Refused",
    Status.HELD: "Held",
    Status.REJECTED: "Rejected",
    Status.UNKNOWN: "Unknown",
    Status.HANDED_OVER: "HandedOver",
}

_VERDICTS = {
    Finding.EXACT: "VerdictExact",
    Finding.SHORT: "VerdictShort",
    Finding.OVER: "VerdictOver",
    Finding.NOT_JUDGED: "NotJudged",
}


def count(name: str, value: float = 1) -> None:
    """Add to a metric of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def record(reports: Iterable[Report], now: int) -> None:
    """Log and count a page's reports; `now` in UTC seconds.

    What is unchanged is logged for debugging alone: every hour of every customer costs more than it tells.
    """
    counted: defaultdict[str, float] = defaultdict(float)
    for report in reports:
        is_news = report.status is not Status.UNCHANGED
        for line in report.lines:
            (logger.info if is_news else logger.debug)("%s", line)
        if report.reasons:
            logger.warning("%s: %s: %s", report.customer_meter.customer, report.status.value, report.reason)
        for name, value in _counts_of(report, now):
            counted[name] += value
    for name, value in counted.items():
        count(name, value)


def _counts_of(report: Report, now: int) -> Iterator[tuple[str, float]]:
    if name := _COUNTED.get(report.status):
        yield name, 1
    if report.is_braked:
        yield "Braked", 1
    if report.late:
        yield "Late", float(report.late)
    if report.unbillable:
        yield "Unbillable", float(report.unbillable)
    deadline = report.customer_meter.deadline
    if deadline is not None and report.status.is_undelivered and deadline - now < NEAR_DEADLINE:
        yield "ClosingUndelivered", 1


def record_verdict(invoice: str, lines: Iterable[JudgedLine], *, is_counted: bool) -> None:
    """Log and count what was found of an invoice's lines; in shadow mode it is said and not counted."""
    for line in lines:
        is_fine = line.finding in {Finding.EXACT, Finding.FREE}
        (logger.info if is_fine else logger.warning)("stripe_invoice: %s, %s", invoice, line)
        name = _VERDICTS.get(line.finding)
        if name and is_counted:
            count(name)


def flush() -> None:
    """Write this invocation's metrics, if any, in CloudWatch's embedded metric format."""
    if metrics.metric_set:
        metrics.flush_metrics()
