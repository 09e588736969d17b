"""What a stack keeps, permits, asks for, watches and tells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infrastructure.template import Block, resources, source
from usage_reporting.accounts import ConnectedAccounts

LOGS = {"logs:CreateLogStream", "logs:PutLogEvents"}
LEDGER = {"dynamodb:BatchGetItem", "dynamodb:DescribeTable", "dynamodb:PutItem"}
ACTIONS = {
    "WebhookRole": LOGS | LEDGER | {"secretsmanager:GetSecretValue"},
    "ScheduleRole": LOGS | LEDGER | {"secretsmanager:GetSecretValue", "sqs:SendMessage"},
    "WorkerRole": LOGS
    | LEDGER
    | {"secretsmanager:GetSecretValue", "sqs:SendMessage"}
    | {"sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ReceiveMessage"},
    "SchedulerRole": {"lambda:InvokeFunction"},
}
ALARMS = resources("AWS::CloudWatch::Alarm")


OPPOSITE = {"UseWebhookApi": "UseEventBridge", "UseEventBridge": "UseWebhookApi"}
IMPLIED = {"UseThinEventSource": ["UseEventBridge"], "LogsWebhookCalls": ["UseWebhookApi"]}


def statements(role: str) -> Iterator[Block]:
    for policy in resources("AWS::IAM::Role")[role]["Properties"]["Policies"]:
        yield from policy["PolicyDocument"]["Statement"]


def texts(value: Any) -> Iterator[str]:
    """Every text in a block, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from texts(each)


def test_every_role_is_accounted_for() -> None:
    assert resources("AWS::IAM::Role").keys() == ACTIONS.keys()


@pytest.mark.parametrize(("role", "actions"), ACTIONS.items())
def test_a_role_may_do_what_its_function_does(role: str, actions: set[str]) -> None:
    granted: set[str] = set()
    for statement in statements(role):
        action = statement["Action"]
        granted |= {action} if isinstance(action, str) else set(action)
    assert granted == actions


@pytest.mark.parametrize("role", ACTIONS)
def test_no_wildcard_where_a_name_could_stand(role: str) -> None:
    for statement in statements(role):
        assert statement["Effect"] == "Allow"
        assert not [text for text in texts(statement) if "*" in text]
    properties = resources("AWS::IAM::Role")[role]["Properties"]
    assert "ManagedPolicyArns" not in properties
    principals = texts(properties["AssumeRolePolicyDocument"])
    assert not [text for text in principals if "*" in text]


def test_the_daily_line_may_be_published_where_it_is_wanted_and_to_its_topic_alone() -> None:
    policy = source()["Resources"]["DailyLinePolicy"]
    [statement] = policy["Properties"]["PolicyDocument"]["Statement"]
    assert policy["Condition"] == "PublishDailyLine"
    assert policy["Properties"]["Roles"] == [{"Ref": "ScheduleRole"}, {"Ref": "WorkerRole"}]
    assert statement == {
        "Effect": "Allow",
        "Action": "sns:Publish",
        "Resource": {"Ref": "AlarmTopicArn"},
    }
    wanted = [{"Condition": "UseDailyReconcile"}, {"Condition": "HasAlarmTopic"}]
    assert source()["Conditions"]["PublishDailyLine"] == {"Fn::And": wanted}
    topic = {"Fn::If": ["PublishDailyLine", {"Ref": "AlarmTopicArn"}, ""]}
    for name in ("ScheduleFunction", "WorkerFunction"):
        function = resources("AWS::Lambda::Function")[name]["Properties"]
        assert function["Environment"]["Variables"]["RECONCILE_TOPIC"] == topic


def test_without_the_daily_reconciliation_nothing_of_it_is_there() -> None:
    assert source()["Resources"]["ReconcileSchedule"]["Condition"] == "UseDailyReconcile"
    assert source()["Conditions"]["UseDailyReconcile"] == {"Fn::Equals": [{"Ref": "DailyReconcile"}, "true"]}


def test_functions_have_a_role_each() -> None:
    roles = [
        function["Properties"]["Role"]["Fn::GetAtt"][0]
        for function in resources("AWS::Lambda::Function").values()
    ]
    assert sorted(roles) == ["ScheduleRole", "WebhookRole", "WorkerRole"]


def test_ledger_table() -> None:
    (table,) = resources("AWS::DynamoDB::Table").values()
    properties = table["Properties"]
    assert properties["KeySchema"] == [
        {"AttributeName": "pk", "KeyType": "HASH"},
        {"AttributeName": "sk", "KeyType": "RANGE"},
    ]
    assert properties["AttributeDefinitions"] == [
        {"AttributeName": "pk", "AttributeType": "S"},
        {"AttributeName": "sk", "AttributeType": "S"},
    ]
    assert properties["BillingMode"] == "PAY_PER_REQUEST"
    assert properties["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert properties["SSESpecification"] == {"SSEEnabled": True}


def test_secret_holds_placeholders() -> None:
    (secret,) = resources("AWS::SecretsManager::Secret").values()
    assert json.loads(secret["Properties"]["SecretString"]) == {
        "stripe_api_key": "replace-me",
        "stripe_webhook_secret": "replace-me",
        "openmeter_api_key": "replace-me",
    }


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("LedgerTable", "ExistingLedgerTable"), ("Secret", "ExistingSecretArn")],
)
def test_table_and_secret_outlive_the_stack_and_can_be_taken_over(name: str, parameter: str) -> None:
    resource = source()["Resources"][name]
    assert resource["DeletionPolicy"] == "RetainExceptOnCreate"
    assert resource["UpdateReplacePolicy"] == "Retain"
    condition = source()["Conditions"][resource["Condition"]]
    assert condition == {"Fn::Equals": [{"Ref": parameter}, ""]}
    assert source()["Parameters"][parameter]["Default"] == ""


def test_conditional_resources_are_named_under_their_condition_alone() -> None:
    conditional = {
        name: resource["Condition"]
        for name, resource in source()["Resources"].items()
        if "Condition" in resource
    }
    blocks = [*source()["Resources"].values(), *source()["Outputs"].values(), source()["Globals"]]
    for block in blocks:
        for name, condition in _references(block, block.get("Condition")):
            assert conditional.get(name) in {None, condition, *IMPLIED.get(condition or "", ())}, name


def _references(value: Any, under: str | None) -> Iterator[tuple[str, str | None]]:
    if isinstance(value, list):
        for each in value:
            yield from _references(each, under)
    elif isinstance(value, dict) and value.keys() == {"Fn::If"}:
        condition, then, otherwise = value["Fn::If"]
        yield from _references(then, condition)
        yield from _references(otherwise, OPPOSITE.get(condition, under))
    elif isinstance(value, dict):
        if "Ref" in value:
            yield value["Ref"], under
        if "Fn::GetAtt" in value:
            yield value["Fn::GetAtt"][0], under
        if "Fn::Sub" in value:
            text = value["Fn::Sub"] if isinstance(value["Fn::Sub"], str) else value["Fn::Sub"][0]
            yield from ((name, under) for name in re.findall(r"\$\{(\w+)(?:\.\w+)?\}", text))
        for each in value.values():
            yield from _references(each, under)


def test_alarms_page_on_money() -> None:
    assert {name: alarm["Properties"]["MetricName"] for name, alarm in ALARMS.items()} == {
        "ClosingUndeliveredAlarm": "ClosingUndelivered",
        "HeldAlarm": "Held",
        "RefusedAlarm": "Refused",
        "RejectedAlarm": "Rejected",
        "ShortAlarm": "VerdictShort",
        "OverAlarm": "VerdictOver",
        "ReconciledDriftAlarm": "ReconciledDrift",
        "ClosingTickAlarm": "TickClosing",
        "AllTickAlarm": "TickAll",
        "QueueAgeAlarm": "ApproximateAgeOfOldestMessage",
        "EventQueueAgeAlarm": "ApproximateAgeOfOldestMessage",
        "DeadLetterAlarm": "ApproximateNumberOfMessagesVisible",
    }


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_notifies_the_topic_when_there_is_one(name: str) -> None:
    alarm = ALARMS[name]["Properties"]
    topic = [{"Ref": "AlarmTopicArn"}]
    assert alarm["AlarmActions"] == {"Fn::If": ["HasAlarmTopic", topic, {"Ref": "AWS::NoValue"}]}


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_says_where_to_read_what_to_do(name: str) -> None:
    description = ALARMS[name]["Properties"]["AlarmDescription"]["Fn::Sub"]
    assert re.fullmatch(rf".+\. What to do: \$\{{RunbookUrl\}}#{name.lower()}", description)
    # CloudWatch takes 1,024 characters (AWS::CloudWatch::Alarm, AlarmDescription).
    assert len(description) < 400


@pytest.mark.parametrize(
    "name",
    [
        "ClosingUndeliveredAlarm",
        "HeldAlarm",
        "RefusedAlarm",
        "RejectedAlarm",
        "ShortAlarm",
        "OverAlarm",
        "ReconciledDriftAlarm",
    ],
)
def test_one_is_too_many(name: str) -> None:
    alarm = ALARMS[name]["Properties"]
    assert (alarm["Statistic"], alarm["Threshold"]) == ("Sum", 1)
    assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert alarm["EvaluationPeriods"] * alarm["Period"] <= 300
    assert alarm["TreatMissingData"] == "notBreaching"


def test_two_missing_closing_ticks_are_too_many() -> None:
    alarm = ALARMS["ClosingTickAlarm"]["Properties"]
    assert (alarm["Period"], alarm["EvaluationPeriods"]) == (15 * 60, 2)
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert alarm["TreatMissingData"] == "breaching"


def test_missing_ticks_of_all_are_too_many() -> None:
    alarm = ALARMS["AllTickAlarm"]["Properties"]
    assert (alarm["Period"], alarm["EvaluationPeriods"]) == (3600, {"Ref": "AllTickAlarmHours"})
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert alarm["TreatMissingData"] == "breaching"
    hours = source()["Parameters"]["AllTickAlarmHours"]
    assert hours["Default"] == 3
    assert hours["MaxValue"] * 3600 <= 7 * 24 * 3600  # CloudWatch looks back a week at most


def test_pages_that_wait_are_told_of_before_they_are_dropped() -> None:
    alarm = ALARMS["QueueAgeAlarm"]["Properties"]
    queue = resources("AWS::SQS::Queue")["PageQueue"]["Properties"]
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": {"Fn::GetAtt": ["PageQueue", "QueueName"]}}]
    longest_without_trouble = 900 + 3 * queue["VisibilityTimeout"]
    assert longest_without_trouble < alarm["Threshold"] <= queue["MessageRetentionPeriod"] - 900
    assert (alarm["Statistic"], alarm["EvaluationPeriods"] * alarm["Period"]) == ("Maximum", 300)
    assert alarm["TreatMissingData"] == "notBreaching"


def test_events_that_nobody_takes_are_told_of() -> None:
    # They are never received, so that none of them becomes a dead letter.
    alarm, pages = (ALARMS[name]["Properties"] for name in ("EventQueueAgeAlarm", "QueueAgeAlarm"))
    queue = {"Fn::GetAtt": ["StripeEventQueue", "QueueName"]}
    assert alarm["Dimensions"] == [{"Name": "QueueName", "Value": queue}]
    apart = {"AlarmDescription", "Dimensions"}
    assert {name: alarm[name] for name in alarm.keys() - apart} == {
        name: pages[name] for name in pages.keys() - apart
    }
    # An event that is given back counts until it was received three times.
    tried = 3 * resources("AWS::SQS::Queue")["StripeEventQueue"]["Properties"]["VisibilityTimeout"]
    assert alarm["Threshold"] > tried


def test_own_metrics_are_those_of_this_stack() -> None:
    variables = source()["Globals"]["Function"]["Environment"]["Variables"]
    own = [alarm["Properties"] for alarm in ALARMS.values() if alarm["Properties"]["Namespace"] != "AWS/SQS"]
    assert len(own) > 5
    for alarm in own:
        assert alarm["Namespace"] == variables["POWERTOOLS_METRICS_NAMESPACE"] == "UsageReporting"
        assert alarm["Dimensions"] == [{"Name": "service", "Value": variables["POWERTOOLS_SERVICE_NAME"]}]


@pytest.mark.parametrize(("name", "parameter"), source()["Parameters"].items())
def test_a_parameter_explains_itself_and_has_a_valid_default(name: str, parameter: Block) -> None:
    assert len(parameter["Description"]) > 10, name
    default = parameter["Default"]
    bounded = parameter.keys() & {"AllowedValues", "AllowedPattern", "MinValue"}
    assert bounded, f"{name} takes anything"
    if "AllowedValues" in parameter:
        assert default in parameter["AllowedValues"]
    if "AllowedPattern" in parameter:
        assert re.fullmatch(parameter["AllowedPattern"], default)
        assert "ConstraintDescription" in parameter
    if "MinValue" in parameter:
        assert parameter["MinValue"] <= default <= parameter.get("MaxValue", default)


def test_parameters_are_grouped_for_the_console_and_used() -> None:
    groups = source()["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    listed = [name for group in groups for name in group["Parameters"]]
    assert sorted(listed) == sorted(source()["Parameters"])
    used = {name for name, _ in _references([source()["Resources"], source()["Globals"]], None)}
    used |= {name for name, _ in _references(source()["Conditions"], None)}
    assert source()["Parameters"].keys() <= used


@pytest.mark.parametrize(
    ("name", "default", "allowed"),
    [
        ("Mode", "shadow", ["shadow", "live"]),
        ("OpenMeterApi", "v1", ["v1", "v3"]),
        ("PeriodBounds", "exact", ["exact", "minute", "hour", "day"]),
        ("Rounding", "half_up", ["half_up", "down", "up"]),
        ("AllowDecrease", "false", ["true", "false"]),
        ("HoldDrafts", "false", ["true", "false"]),
        ("MeterStream", "false", ["true", "false"]),
        ("DailyReconcile", "false", ["true", "false"]),
        ("MapByEventName", "false", ["true", "false"]),
        ("SubjectWithAccount", "false", ["true", "false"]),
        ("OpenMeterCustomers", "false", ["true", "false"]),
    ],
)
def test_choices(name: str, default: str, allowed: list[str]) -> None:
    parameter = source()["Parameters"][name]
    assert (parameter["Default"], parameter["AllowedValues"]) == (default, allowed)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("OpenMeterUrl", "openmeter.example.com"),
        ("OpenMeterUrl", "https://openmeter.example.com?x=1"),
        ("AllScheduleExpression", "every hour"),
        ("ExistingSecretArn", "my-secret"),
        ("ExistingLedgerTable", "arn:aws:dynamodb:us-east-1:111122223333:table/ledger"),
        ("AlarmTopicArn", "topic"),
        ("SubjectMetadataKey", "a[b]"),
        ("ConnectedAccounts", "ALL"),
        ("ConnectedAccounts", "acct_1,,acct_2"),
        ("ConnectedAccounts", "cus_1"),
        ("StripeApiBase", "localhost:80"),
        ("StripeEventSource", "ed_61U01usPHMtMsghiU16"),
        ("StripeEventSource", "aws.partner/example.com/ed_61U01usPHMtMsghiU16"),
        ("StripeThinEventSource", "arn:aws:events:us-east-1::event-source/aws.partner/stripe.com/ed_1"),
        ("RunbookUrl", "https://example.com/runbook.md#heldalarm"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_made(name: str, wrong: str) -> None:
    assert not re.fullmatch(source()["Parameters"][name]["AllowedPattern"], wrong)


@pytest.mark.parametrize("right", ["", "all", "acct_1Abc", "acct_1Abc,acct_1Def", "acct_1Abc, acct_1Def"])
def test_connected_accounts_are_none_all_or_given(right: str) -> None:
    assert re.fullmatch(source()["Parameters"]["ConnectedAccounts"]["AllowedPattern"], right)
    assert ConnectedAccounts.parse(right).serves("acct_1Abc") is bool(right)


def test_outputs_tell_the_webhook_url_first() -> None:
    assert list(source()["Outputs"]) == [
        "Version",
        "WebhookUrl",
        "SecretArn",
        "LedgerTableName",
        "QueueUrl",
        "DeadLetterQueueUrl",
        "StripeEventQueueUrl",
        "StripeEventSourceName",
        "StripeThinEventSourceName",
        "DashboardName",
        "WebhookFunctionName",
        "ScheduleFunctionName",
        "WorkerFunctionName",
    ]
    assert source()["Outputs"]["WebhookUrl"]["Value"]["Fn::Sub"].endswith("/stripe/webhook")
    assert all(output["Description"] for output in source()["Outputs"].values())
