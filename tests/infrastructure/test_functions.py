"""The functions, and what starts them, have the numbers that the design promises."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pytest

from tests.infrastructure.template import PROJECT, Block, resources, source
from usage_reporting.config import Mode, Settings

FUNCTIONS = {
    "WebhookFunction": "webhook",
    "ScheduleFunction": "schedule",
    "WorkerFunction": "worker",
}
# Every name is one that users set or that outside checks read.
ENVIRONMENT = {
    "SECRET_ID",
    "LEDGER_TABLE",
    "QUEUE_URL",
    "MODE",
    "OPENMETER_URL",
    "OPENMETER_API",
    "OPENMETER_CONCURRENCY",
    "LISTING_CONCURRENCY",
    "OPENMETER_MAP_BY_EVENT_NAME",
    "PERIOD_BOUNDS",
    "SUBJECT_METADATA_KEY",
    "CONNECTED_ACCOUNTS",
    "SUBJECT_WITH_ACCOUNT",
    "OPENMETER_CUSTOMERS",
    "ROUNDING",
    "ALLOW_DECREASE",
    "HOLD_DRAFTS",
    "STRIPE_METER_STREAM",
    "BRAKE_FACTOR",
    "BRAKE_FLOOR",
    "BRAKE_DEADLINE",
    "STRIPE_API_BASE",
    "STRIPE_RATE_SHARE",
    "STRIPE_ENDPOINT_SHARE",
    "POWERTOOLS_LOG_LEVEL",
    "POWERTOOLS_METRICS_NAMESPACE",
    "POWERTOOLS_SERVICE_NAME",
}


OF_TICKS = {"RECONCILE_TOPIC"}
"""What the webhook, which tells nobody of a day, has no use for."""
OF_EVENTS = {"DEAD_LETTER_QUEUE_URL"}
"""What only the webhook needs, for events over EventBridge that cannot be read."""


def only(kind: str) -> Block:
    """The properties of the one resource of this type."""
    (resource,) = resources(kind).values()
    properties: Block = resource["Properties"]
    return properties


def function(name: str) -> Block:
    properties: Block = resources("AWS::Lambda::Function")[name]["Properties"]
    return properties


def test_there_are_three_functions() -> None:
    assert resources("AWS::Lambda::Function").keys() == FUNCTIONS.keys()


@pytest.mark.parametrize(
    ("name", "seconds"),
    [("WebhookFunction", 25), ("ScheduleFunction", 900), ("WorkerFunction", 60)],
)
def test_time_outs(name: str, seconds: int) -> None:
    assert function(name)["Timeout"] == seconds


@pytest.mark.parametrize("name", FUNCTIONS)
def test_runtime(name: str) -> None:
    properties = function(name)
    assert properties["Runtime"] == "python3.13"
    assert properties["Architectures"] == ["arm64"]
    assert len(properties["Layers"]) == 1
    assert 256 <= properties["MemorySize"] <= 1024


@pytest.mark.parametrize(("name", "folder"), FUNCTIONS.items())
def test_handler_is_there(name: str, folder: str) -> None:
    assert function(name)["Handler"] == "app.handler"
    assert source()["Resources"][name]["Properties"]["CodeUri"] == f"src/{folder}"
    module = ast.parse((PROJECT / "src" / folder / "app.py").read_text())
    functions = [node for node in module.body if isinstance(node, ast.FunctionDef)]
    (handler,) = [node for node in functions if node.name == "handler"]
    assert [argument.arg for argument in handler.args.args] == ["event", "context"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_environment(name: str) -> None:
    own = OF_EVENTS if name == "WebhookFunction" else OF_TICKS
    assert function(name)["Environment"]["Variables"].keys() == ENVIRONMENT | own


def test_environment_is_what_the_settings_read() -> None:
    read: set[str] = set()

    class Recording(dict[str, str]):
        def get(self, name: str, default: Any = None) -> Any:
            read.add(name)
            return super().get(name, default)

    parameters = source()["Parameters"]
    variables = source()["Globals"]["Function"]["Environment"]["Variables"]
    values = {
        name: str(parameters.get(value.get("Ref"), {}).get("Default", name))
        for name, value in variables.items()
        if isinstance(value, dict)
    }
    settings = Settings.from_environment(Recording(values))
    assert read == {name for name in ENVIRONMENT if not name.startswith("POWERTOOLS_")} | OF_TICKS | OF_EVENTS
    assert settings.mode is Mode.SHADOW


def shares(variable: str, at_once: int, *, over_event_bridge: bool = False) -> dict[str, float]:
    """The share of one process of each function, when so many workers run at once."""
    read = {}
    for name in FUNCTIONS:
        value = function(name)["Environment"]["Variables"][variable]
        if isinstance(value, dict) and "Fn::If" in value:  # the webhook: over EventBridge, or not
            value = value["Fn::If"][1 if over_event_bridge else 2]
        text = value["Fn::Sub"] if isinstance(value, dict) else value
        share = text.replace("${MaximumConcurrency}", str(at_once))
        settings = Settings.for_operator({"OPENMETER_URL": "https://openmeter.test", variable: share})
        read[name] = float(getattr(settings, variable.lower()))
    return read


@pytest.mark.parametrize("which", ["Default", "MaxValue"])
def test_the_functions_share_stripes_rate_limits(which: str) -> None:
    at_once = source()["Parameters"]["MaximumConcurrency"][which]
    of_account = shares("STRIPE_RATE_SHARE", at_once)
    others = of_account["ScheduleFunction"] + of_account["WebhookFunction"]
    assert of_account["WorkerFunction"] * at_once + others == pytest.approx(1)

    of_endpoint = shares("STRIPE_ENDPOINT_SHARE", at_once)
    senders = of_endpoint["WorkerFunction"] * at_once + of_endpoint["WebhookFunction"]
    assert senders == pytest.approx(1), "meter events: workers and webhooks"
    listers = of_endpoint["ScheduleFunction"] + of_endpoint["WebhookFunction"]
    assert listers == pytest.approx(1), "lists: the schedule, and what a webhook asks for"


@pytest.mark.parametrize("variable", ["STRIPE_RATE_SHARE", "STRIPE_ENDPOINT_SHARE"])
def test_webhooks_on_a_queue_divide_the_share_of_one(variable: str) -> None:
    alone = shares(variable, 4)["WebhookFunction"]
    assert shares(variable, 4, over_event_bridge=True)["WebhookFunction"] * 4 == pytest.approx(alone)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_logs_are_kept_for_a_set_time(name: str) -> None:
    group = function(name)["LoggingConfig"]["LogGroup"]["Ref"]
    properties = resources("AWS::Logs::LogGroup")[group]["Properties"]
    assert properties["RetentionInDays"] == {"Ref": "LogRetentionDays"}


def test_every_log_group_has_retention() -> None:
    for name, group in resources("AWS::Logs::LogGroup").items():
        assert "RetentionInDays" in group["Properties"], name


def test_layer() -> None:
    layer = source()["Resources"]["UsageReportingLayer"]
    assert layer["Metadata"] == {"BuildMethod": "makefile", "BuildArchitecture": "arm64"}
    assert layer["Properties"]["ContentUri"] == "src/layer"
    assert layer["Properties"]["CompatibleRuntimes"] == ["python3.13"]
    # The target that SAM runs, and the version that its bytecode is for.
    makefile = (PROJECT / "src/layer/Makefile").read_text()
    assert re.search(r"^build-UsageReportingLayer:", makefile, re.MULTILINE)
    assert "sys.version_info[:2] != (3, 13)" in makefile


def test_route() -> None:
    assert only("AWS::ApiGatewayV2::Api")["ProtocolType"] == "HTTP"
    assert only("AWS::ApiGatewayV2::Route")["RouteKey"] == "POST /stripe/webhook"
    integration = only("AWS::ApiGatewayV2::Integration")
    function_arn = {"Fn::GetAtt": ["WebhookFunction", "Arn"]}
    assert integration["IntegrationUri"] == {
        "Fn::If": ["UseSnapStart", {"Ref": "WebhookAlias"}, function_arn]
    }
    assert integration["PayloadFormatVersion"] == "2.0"
    assert function("WebhookFunction")["Timeout"] * 1000 < integration["TimeoutInMillis"] <= 30000


def test_api_gateway_may_invoke_the_webhook_alone() -> None:
    permission = only("AWS::Lambda::Permission")
    target = {"Fn::If": ["UseSnapStart", {"Ref": "WebhookAlias"}, {"Ref": "WebhookFunction"}]}
    assert permission["FunctionName"] == target
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert permission["SourceArn"]["Fn::Sub"].endswith("${WebhookApi}/*/POST/stripe/webhook")


def test_throttle() -> None:
    stage = only("AWS::ApiGatewayV2::Stage")
    assert stage["DefaultRouteSettings"] == {
        "ThrottlingRateLimit": {"Ref": "ThrottlingRateLimit"},
        "ThrottlingBurstLimit": {"Ref": "ThrottlingBurstLimit"},
    }
    parameters = source()["Parameters"]
    assert parameters["ThrottlingRateLimit"]["Default"] == 20
    assert parameters["ThrottlingBurstLimit"]["Default"] == 40


def test_access_log() -> None:
    settings = only("AWS::ApiGatewayV2::Stage")["AccessLogSettings"]
    assert settings["DestinationArn"] == {"Fn::GetAtt": ["AccessLogGroup", "Arn"]}
    assert json.loads(settings["Format"])["status"] == "$context.status"


@pytest.mark.parametrize(
    ("name", "expression", "scope"),
    [
        ("ClosingSchedule", "cron(0/15 * * * ? *)", "closing"),
        ("AllSchedule", {"Ref": "AllScheduleExpression"}, "all"),
        ("ReconcileSchedule", "cron(37 5 * * ? *)", "reconcile"),
    ],
)
def test_schedules(name: str, expression: Any, scope: str) -> None:
    schedule = resources("AWS::Scheduler::Schedule")[name]["Properties"]
    assert schedule["ScheduleExpression"] == expression
    assert json.loads(schedule["Target"]["Input"]) == {"scope": scope}
    assert schedule["Target"]["Arn"] == {"Fn::GetAtt": ["ScheduleFunction", "Arn"]}
    # A tick that could not start is given up when the next one is due.
    assert schedule["Target"]["RetryPolicy"]["MaximumEventAgeInSeconds"] <= 900


def test_all_subscriptions_hourly_at_two_past() -> None:
    assert source()["Parameters"]["AllScheduleExpression"]["Default"] == "cron(2 * * * ? *)"


def test_page_queue() -> None:
    queue = resources("AWS::SQS::Queue")["PageQueue"]["Properties"]
    assert queue["VisibilityTimeout"] == 360
    assert queue["VisibilityTimeout"] >= 6 * function("WorkerFunction")["Timeout"]
    assert queue["MessageRetentionPeriod"] == 3600
    assert queue["RedrivePolicy"] == {
        "deadLetterTargetArn": {"Fn::GetAtt": ["DeadLetterQueue", "Arn"]},
        "maxReceiveCount": 3,
    }
    # The third failure must come before the message is dropped for its age.
    assert queue["VisibilityTimeout"] * 3 < queue["MessageRetentionPeriod"]


def test_dead_letters_are_kept_14_days_and_raise_an_alarm() -> None:
    queue = resources("AWS::SQS::Queue")["DeadLetterQueue"]["Properties"]
    assert queue["MessageRetentionPeriod"] == 14 * 24 * 3600
    alarm = resources("AWS::CloudWatch::Alarm")["DeadLetterAlarm"]["Properties"]
    assert alarm["Dimensions"] == [
        {"Name": "QueueName", "Value": {"Fn::GetAtt": ["DeadLetterQueue", "QueueName"]}}
    ]
    assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert alarm["Threshold"] == 1


def test_every_queue_but_the_last_has_dead_letters_and_all_are_encrypted() -> None:
    queues = resources("AWS::SQS::Queue")
    without = {name for name, queue in queues.items() if "RedrivePolicy" not in queue["Properties"]}
    assert without == {"DeadLetterQueue"}
    assert all(queue["Properties"]["SqsManagedSseEnabled"] is True for queue in queues.values())


def test_a_message_is_one_page() -> None:
    mapping = resources("AWS::Lambda::EventSourceMapping")["WorkerFunctionPage"]["Properties"]
    assert mapping["BatchSize"] == 1
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["ScalingConfig"] == {"MaximumConcurrency": {"Ref": "MaximumConcurrency"}}
    assert source()["Parameters"]["MaximumConcurrency"]["Default"] == 2
