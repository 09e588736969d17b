"""The one logger and the one metrics object, and what is counted of a report."""

from __future__ import annotations

import os

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from usage_reporting.model import Report, Status

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
    Status.REFUSED: "Refused",
    Status.HELD: "Held",
    Status.REJECTED: "Rejected",
    Status.UNKNOWN: "Unknown",
    Status.HANDED_OVER: "HandedOver",
}


_UNDELIVERED = frozenset({Status.UNKNOWN, Status.HANDED_OVER, Status.HELD, Status.REJECTED, Status.REFUSED})


def count(name: str, value: float = 1) -> None:
    """Add to a metric of this invocation."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def record(report: Report, now: int) -> None:
    """Log and count one report; `now` in UTC seconds."""
    for line in report.lines:
        logger.info("%s", line)
    name = _COUNTED.get(report.status)
    if name:
        count(name)
    if report.late:
        count("Late", float(report.late))
    if report.unbillable:
        count("Unbillable", float(report.unbillable))
    if report.reasons:
        logger.warning("%s: %s: %s", report.customer_meter.customer, report.status.value, report.reason)
    deadline = report.customer_meter.deadline
    if deadline is not None and report.status in _UNDELIVERED and deadline - now < NEAR_DEADLINE:
        count("ClosingUndelivered")


def flush() -> None:
    """Write this invocation's metrics, if any, in CloudWatch's embedded metric format."""
    if metrics.metric_set:
        metrics.flush_metrics()
