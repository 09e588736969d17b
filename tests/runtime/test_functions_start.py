"""Each function starts in AWS's runtime with nothing on its path but its folder and the layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.runtime_api import serve_event, start_function
from tests.infrastructure.template import PROJECT, resources, source

WEBHOOK = {
    "version": "2.0",
    "routeKey": "POST /stripe/webhook",
    "rawPath": "/stripe/webhook",
    "rawQueryString": "",
    "headers": {"content-type": "application/json", "stripe-signature": "t=1,v1=00"},
    "requestContext": {
        "http": {"method": "POST", "path": "/stripe/webhook", "sourceIp": "127.0.0.1"},
        "requestId": "request",
        "stage": "$default",
    },
    "body": '{"id": "evt_1", "object": "event"}',
    "isBase64Encoded": False,
}
SCHEDULE = {"scope": "closing"}
PAGE = {
    "Records": [
        {
            "messageId": "message",
            "receiptHandle": "handle",
            "body": '{"customer_meters": []}',
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "1767225600000"},
            "messageAttributes": {},
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:PageQueue",
            "awsRegion": "us-east-1",
        }
    ]
}


def first_invocation(
    function: str, event: object, environment: dict[str, str], path: list[Path]
) -> tuple[Any, str]:
    """What a function answers to its first event, and prints; fails on an error, with both."""
    task = PROJECT / "src" / function
    timeout = source()["Resources"][f"{function.title()}Function"]["Properties"]["Timeout"]
    with serve_event(event, timeout) as api, start_function(api, task, path, environment) as process:
        try:
            kind, body = api.result(process)
        finally:
            process.kill()
            printed = process.communicate()[0]
    assert kind == "/invocation/id/response", f"{kind}: {json.dumps(body, indent=1)}\n{printed}"
    return body, printed


@pytest.fixture
def path(layer: Path, runtime: Path) -> list[Path]:
    """Where Python looks on Lambda after the function's own folder, in this order."""
    return [layer, runtime]


def test_webhook(environment: dict[str, str], path: list[Path]) -> None:
    response, _ = first_invocation("webhook", WEBHOOK, environment, path)
    assert response["statusCode"] == 503
    assert json.loads(response["body"])["status"] == "not_configured"


def test_schedule(environment: dict[str, str], path: list[Path]) -> None:
    response, printed = first_invocation("schedule", SCHEDULE, environment, path)
    assert response["status"] == "not_configured"
    # A tick is a tick: no alarm while nothing is configured.
    (metrics,) = [json.loads(line) for line in printed.splitlines() if '"_aws"' in line]
    alarm = resources("AWS::CloudWatch::Alarm")["ClosingTickAlarm"]["Properties"]
    (directive,) = metrics["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == alarm["Namespace"]
    assert directive["Dimensions"] == [[each["Name"] for each in alarm["Dimensions"]]]
    assert alarm["MetricName"] in [metric["Name"] for metric in directive["Metrics"]]
    assert metrics[alarm["MetricName"]] == [1]
    # The alarm's dimension is the name of the stack: two of them in an account are told apart.
    assert metrics["service"] == environment["POWERTOOLS_SERVICE_NAME"] == "a-stack"


def test_worker(environment: dict[str, str], path: list[Path]) -> None:
    response, _ = first_invocation("worker", PAGE, environment, path)
    assert response["status"] == "not_configured"
    assert response["batchItemFailures"] == []


def test_what_the_layer_lacks_is_missing(tmp_path: Path, environment: dict[str, str], runtime: Path) -> None:
    # The tests' own environment has stripe: were it in reach, the tests above would prove nothing.
    probe = tmp_path / "usage_reporting"
    probe.mkdir()
    (probe / "__init__.py").write_text("import stripe\n")
    with pytest.raises(AssertionError, match="No module named 'stripe'"):
        first_invocation("schedule", SCHEDULE, environment, [tmp_path, runtime])
