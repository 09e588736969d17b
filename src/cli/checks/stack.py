"""The stack in AWS: functions, schedules, ticks, queues, ledger, and alarms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from cli import VERSION
from cli.checks.finding import Finding, count, duration, ok, problem, some_of, warning
from cli.checks.patient import Patient, Side
from cli.errors import explain
from cli.stripe_account import is_test_key
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.config import Mode
from usage_reporting.telemetry import NAMESPACE
from usage_reporting.windows import DAY, HOUR, MINUTE

FUNCTIONS = ("WebhookFunctionName", "ScheduleFunctionName", "WorkerFunctionName")
INGRESS = ("WebhookUrl", "StripeEventQueueUrl")
"""One of both: where Stripe's events come in."""
OUTPUTS = (
    "SecretArn",
    "LedgerTableName",
    "QueueUrl",
    "DeadLetterQueueUrl",
    *FUNCTIONS,
)
KEPT = 3600
"""Messages are on the queue for so long; the next tick sends the same customers again."""
ALARMED = frozenset(
    {
        "ClosingUndelivered",
        "Held",
        "Rejected",
        "Refused",
        "VerdictShort",
        "VerdictOver",
        "TickClosing",
        "TickAll",
        "ApproximateNumberOfMessagesVisible",
        "ApproximateAgeOfOldestMessage",
        "ReconciledDrift",
    }
)
"""The metrics that must not go unheard; a test compares them with the template."""

SAMPLED = 100
"""Items of the ledger that are looked at for the mode that they were written in."""

ALL_TICK_HOURS = 3
"""The template's own AllTickAlarmHours."""

Json = Mapping[str, Any]


async def outputs(patient: Patient) -> list[Finding]:
    """Whether it is a stack of this project's, all there."""
    assert patient.stack is not None
    missing = [name for name in OUTPUTS if name not in patient.stack.outputs]
    if not patient.stack.outputs.keys() & {*INGRESS}:
        missing.append(" or ".join(INGRESS))
    if missing:
        patient.unreached[Side.STACK] = "the stack is not all there"
        return [
            problem(
                f"stack {patient.stack.name} lacks the outputs {', '.join(missing)}",
                "deploy this project's template into it; or check --stack and --region",
            )
        ]
    where = f"stack {patient.stack.name} in {patient.stack.session.region_name}"
    deployed = patient.stack.outputs.get("Version", "before 1.0.0")
    if deployed != VERSION:
        return [
            warning(
                f"{where} has version {deployed}, and this usage-reporter {VERSION}",
                "deploy the stack anew, or install the deployed version (docs/upgrade-and-removal.md)",
            )
        ]
    return [ok(f"{where} has all its outputs, and this version, {VERSION}")]


async def functions(patient: Patient) -> list[Finding]:
    """Whether all three functions can run, in which mode, and whether they failed of late."""
    found: list[Finding] = []
    modes: dict[str, str] = {}
    for output in FUNCTIONS:
        name = patient.output(output)
        answer = await patient.aws.call("lambda", "get_function_configuration", FunctionName=name)
        state = answer.get("State", "Active")
        if state == "Pending":
            found.append(warning(f"{name} is still being made", "wait a minute, and run it again"))
        elif state not in {"Active", "Inactive"} or answer.get("LastUpdateStatus") == "Failed":
            found.append(
                problem(f"{name} is {state}: {answer.get('StateReason', 'its update failed')}", _DEPLOY)
            )
        modes[name] = answer.get("Environment", {}).get("Variables", {}).get("MODE", "")
        found += await _errors(patient, name)
    if len({*modes.values()}) > 1:
        shown = ", ".join(f"{name} {mode or 'none'}" for name, mode in modes.items())
        found.append(problem(f"the functions have not one mode: {shown}", _DEPLOY))
    elif set(modes.values()) == {Mode.SHADOW}:
        found.append(
            warning(
                "the stack is in shadow mode: nothing is sent to Stripe",
                "when all else is well, `sam deploy` with Mode=live (README, step 7)",
            )
        )
    found += await _feeds(patient, patient.output("WorkerFunctionName"))
    assert patient.stack is not None
    if patient.stack.is_over_event_bridge:
        found += await _feeds(patient, patient.output("WebhookFunctionName"))
    return found or [ok("the functions are live, fed by the queue, and had no errors within a day")]


_DEPLOY = "deploy the stack anew: `sam deploy --config-env prod`"


async def _errors(patient: Patient, name: str) -> list[Finding]:
    assert patient.stack is not None
    hour = await _sum(patient, "AWS/Lambda", "Errors", {"FunctionName": name}, HOUR)
    day = await _sum(patient, "AWS/Lambda", "Errors", {"FunctionName": name}, DAY)
    if not day:
        return []
    fix = f"`sam logs --stack-name {patient.stack.name} --start-time '1day ago' --filter ERROR` says why"
    seen = f"{name} failed {count(int(day), 'time')} within a day, {hour:.0f} of them within an hour"
    return [problem(seen, fix) if hour else warning(seen, fix)]


async def _feeds(patient: Patient, function: str) -> list[Finding]:
    mappings = await _mappings(patient, function)
    if any(one.get("State") in {"Enabled", "Enabling", "Creating", "Updating"} for one in mappings):
        return []
    return [
        problem(
            f"the queue does not feed {function}: its event source mapping is "
            f"{mappings[0]['State'] if mappings else 'missing'}",
            "enable it in the Lambda console, under the function's triggers, or " + _DEPLOY,
        )
    ]


async def _mappings(patient: Patient, function: str) -> list[Json]:
    """Of the function, or of the alias that SnapStart gives it."""
    queue = "StripeEventQueueUrl" if function == patient.output("WebhookFunctionName") else "QueueUrl"
    name = patient.output(queue).rpartition("/")[2]
    mappings = await patient.aws.pages("lambda", "list_event_source_mappings", "EventSourceMappings")
    return [
        one
        for one in mappings
        if str(one.get("EventSourceArn", "")).rpartition(":")[2] == name
        and function in str(one.get("FunctionArn", "")).split(":")
    ]


async def schedules(patient: Patient) -> list[Finding]:
    """Whether both rhythms are on, and ticks get through."""
    assert patient.stack is not None
    function = patient.output("ScheduleFunctionName")
    summaries = await patient.aws.pages("scheduler", "list_schedules", "Schedules")
    ours = [one for one in summaries if one["Target"]["Arn"].split(":")[6:7] == [function]]
    found = [
        problem(f"the schedule {one['Name']} is {one['State']}", "enable it in the EventBridge console")
        for one in ours
        if one.get("State") != "ENABLED"
    ]
    scopes = {await _scope_of(patient, one) for one in ours}
    found += [
        problem(f'no schedule calls {function} with the scope "{scope}"', _DEPLOY)
        for scope in ("closing", "all")
        if scope not in scopes
    ]
    service = {"service": patient.stack.name}
    rhythms = (
        ("TickClosing", 45 * MINUTE, "closing"),
        ("TickAll", await _all_tick_hours(patient) * HOUR, "all"),
    )
    for metric, within, what in rhythms:
        if not await _sum(patient, NAMESPACE, metric, service, within):
            found.append(
                problem(
                    f'no tick of scope "{what}" got through within {duration(within)}',
                    f"`sam logs --stack-name {patient.stack.name} --name ScheduleFunction` says why, mostly "
                    "the key (docs/runbook.md, AllTickAlarm); in a new stack wait for the first",
                )
            )
    return found or [ok("both schedules are enabled, and their ticks get through")]


async def _scope_of(patient: Patient, schedule: Json) -> str:
    """Which tick it is: a list of schedules does not say what they are called with."""
    group = {"GroupName": schedule["GroupName"]} if "GroupName" in schedule else {}
    answer = await patient.aws.call("scheduler", "get_schedule", Name=schedule["Name"], **group)
    try:
        given = json.loads(answer["Target"].get("Input", ""))
    except ValueError:
        return ""
    return str(given.get("scope", "")) if isinstance(given, dict) else ""


async def _all_tick_hours(patient: Patient) -> int:
    """After how many hours without a tick of all subscriptions the stack's own alarm goes off."""
    assert patient.stack is not None
    answer = await patient.aws.call("cloudformation", "describe_stacks", StackName=patient.stack.name)
    given = {one["ParameterKey"]: one["ParameterValue"] for one in answer["Stacks"][0].get("Parameters", [])}
    return int(given.get("AllTickAlarmHours", ALL_TICK_HOURS))


async def queues(patient: Patient) -> list[Finding]:
    """Whether the worker keeps up, and nothing failed for good."""
    assert patient.stack is not None
    waiting = await _messages(patient, patient.output("QueueUrl"))
    dead = await _messages(patient, patient.output("DeadLetterQueueUrl"))
    name = patient.output("QueueUrl").rpartition("/")[2]
    age = await _most(patient, "AWS/SQS", "ApproximateAgeOfOldestMessage", {"QueueName": name}, 15 * MINUTE)
    found = []
    if dead:
        found.append(
            problem(
                f"{count(dead, 'dead letter')}: pages of customers that failed three times"
                + (", or events of Stripe" if patient.stack.is_over_event_bridge else ""),
                f"{patient.command('redrive')} says why, as the logs do (docs/runbook.md, DeadLetterAlarm), "
                "and sends them again",
            )
        )
    if age > KEPT / 4:
        seen = f"{count(waiting, 'page')} on the queue, the oldest for {duration(int(age))}"
        fix = "raise MaximumConcurrency (and OpenMeterConcurrency, if OpenMeter can bear it)"
        late = age > KEPT * 3 / 4
        found.append(problem(f"{seen}; after an hour they are dropped", fix) if late else warning(seen, fix))
    events = ""
    if patient.stack.is_over_event_bridge:
        on_queue = await _messages(patient, patient.output("StripeEventQueueUrl"))
        events = f"{count(on_queue, 'event')} of Stripe on theirs, "
    return found or [ok(f"{count(waiting, 'page')} on the queue, {events}no dead letters")]


async def _messages(patient: Patient, url: str) -> int:
    answer = await patient.aws.call(
        "sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"]
    )
    return int(answer["Attributes"]["ApproximateNumberOfMessages"])


async def ledger(patient: Patient) -> list[Finding]:
    """Whether the ledger is there and is kept."""
    name = patient.output("LedgerTableName")
    found = [*await _table(patient, name), *await _written_in_mode(patient, name)]
    return found or [ok(f"{name} is active, expires what is old, and can be restored to any second")]


async def entries(patient: Patient) -> list[Finding]:
    """Whether the ledger is the one that its items were written in, and knows who is billed."""
    name = patient.output("LedgerTableName")
    found: list[Finding] = []
    live = await patient.live()
    pks = [one.pk for one in live.customer_meters]
    heads = await patient.operator.ledger.heads(pks)
    made = await patient.operator.ledger.created_at()
    copied = sorted({head.pk for head in heads.values() if head.table != made})
    if copied:
        found.append(
            problem(
                f"{count(len(copied), 'customer meter')} in {name}, written in another table: a restored "
                "copy, so that all of theirs is held",
                patient.command("adopt", "--all"),
            )
        )
    unknown = sorted(
        {one.customer for one in live.customer_meters if one.pk not in heads and not one.refusal}
    )
    if unknown and patient.operator.settings.mode is Mode.LIVE:
        found.append(
            warning(
                f"the ledger does not know {count(len(unknown), 'customer')} yet: {some_of(unknown)}",
                "wait for the next hourly tick; those that are then held: "
                + patient.command("adopt", "--all"),
            )
        )
    return found or [ok(f"{name} knows each customer meter ({len(heads):,})")]


async def _table(patient: Patient, name: str) -> list[Finding]:
    aws = patient.aws
    described = await aws.call("dynamodb", "describe_table", TableName=name)
    status = described["Table"]["TableStatus"]
    expiry = await aws.call("dynamodb", "describe_time_to_live", TableName=name)
    backups = await aws.call("dynamodb", "describe_continuous_backups", TableName=name)
    recovery = backups["ContinuousBackupsDescription"].get("PointInTimeRecoveryDescription", {})
    found = []
    if status not in {"ACTIVE", "UPDATING"}:  # one that is being changed is read and written all the same
        found.append(problem(f"{name} is {status}", "wait, or look at it in the DynamoDB console"))
    if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
        found.append(
            warning(
                f"{name} has no point-in-time recovery: what Stripe was told could be lost",
                "`aws dynamodb update-continuous-backups --table-name "
                f"{name} --point-in-time-recovery-specification PointInTimeRecoveryEnabled=true`",
            )
        )
    told = expiry["TimeToLiveDescription"]
    is_on = told["TimeToLiveStatus"] in {"ENABLED", "ENABLING"} and told.get("AttributeName") == "expires_at"
    if not is_on:
        found.append(
            warning(
                f"{name} has no time to live on expires_at: it grows for ever",
                f"`aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification "
                "Enabled=true,AttributeName=expires_at`",
            )
        )
    return found


async def _written_in_mode(patient: Patient, name: str) -> list[Finding]:
    """The mode of Stripe's that a part of the items was written in, beside that of the key."""
    try:
        key = (await patient.secret()).stripe_api_key
    except Exception:  # noqa: BLE001 - the check of the key says what is wrong with it
        return []
    answer = await patient.aws.call(
        "dynamodb", "scan", TableName=name, Limit=SAMPLED, ProjectionExpression="pk"
    )
    keys = [item["pk"]["S"].split("#") for item in answer["Items"]]
    modes = {parts[1] for parts in keys if parts[0] == OWN_ACCOUNT and parts[1] in {"live", "test"}}
    wanted = "test" if is_test_key(key) else "live"
    if not modes or wanted in modes:
        return []
    return [
        warning(
            f"the ledger was written with a key of {modes.pop()} mode, and the stack's is of {wanted} mode",
            f"if it is not meant so: {patient.command('connect')} with the other key",
        )
    ]


async def alarms(patient: Patient) -> list[Finding]:
    """Whether the alarms are there, somebody hears them, and none is on."""
    ours = [
        one
        for one in await patient.aws.pages("cloudwatch", "describe_alarms", "MetricAlarms")
        if _is_of(one, patient)
    ]
    found: list[Finding] = []
    missing = sorted(ALARMED - {one["MetricName"] for one in ours})
    if missing:
        found.append(problem(f"no alarm on the metrics {', '.join(missing)}", _DEPLOY))
    deaf = [one["AlarmName"] for one in ours if not one.get("ActionsEnabled") or not one.get("AlarmActions")]
    if deaf:
        found.append(
            problem(
                f"{len(deaf)} of {len(ours)} alarms tell nobody: {some_of(sorted(deaf))}",
                "deploy with AlarmTopicArn, the ARN of an SNS topic; alarms that were switched off: "
                "`aws cloudwatch enable-alarm-actions --alarm-names NAME`",
            )
        )
    topics = {action for one in ours for action in one.get("AlarmActions", []) if ":sns:" in action}
    for topic in sorted(topics):
        found += await _unheard(patient, topic)
    on = sorted(one["AlarmName"] for one in ours if one.get("StateValue") == "ALARM")
    found += [problem(f"{name} is on", "see its section in docs/runbook.md") for name in on]
    return found or [ok(f"{len(ours)} alarms, none is on, and somebody hears them")]


def _is_of(alarm: Json, patient: Patient) -> bool:
    assert patient.stack is not None
    dimensions = {one["Name"]: one["Value"] for one in alarm.get("Dimensions", [])}
    if alarm.get("Namespace") == NAMESPACE:
        return dimensions.get("service") == patient.stack.name
    outputs = ("QueueUrl", "DeadLetterQueueUrl", "StripeEventQueueUrl")
    queues = {
        patient.stack.outputs[name].rpartition("/")[2] for name in outputs if name in patient.stack.outputs
    }
    return dimensions.get("QueueName") in queues


async def _unheard(patient: Patient, topic: str) -> list[Finding]:
    try:
        subscriptions = await patient.aws.pages(
            "sns", "list_subscriptions_by_topic", "Subscriptions", TopicArn=topic
        )
    except ClientError as error:  # it may be another account's
        why = explain(error)[0]
        return [warning(f"whether anybody hears {topic} could not be checked: {why}", "look at the topic")]
    if any(one["SubscriptionArn"].startswith("arn:") for one in subscriptions):
        return []
    waiting = f"; {len(subscriptions)} wait to be confirmed" if subscriptions else ""
    return [
        problem(
            f"nobody is subscribed to {topic}{waiting}, so that the alarms are not heard",
            f"`aws sns subscribe --topic-arn {topic} --protocol email --notification-endpoint ADDRESS`, and "
            "confirm the mail",
        )
    ]


async def _sum(patient: Patient, namespace: str, metric: str, of: Json, within: int) -> float:
    return sum(await _points(patient, namespace, metric, of, within, "Sum"))


async def _most(patient: Patient, namespace: str, metric: str, of: Json, within: int) -> float:
    return max(await _points(patient, namespace, metric, of, within, "Maximum"), default=0)


async def _points(
    patient: Patient, namespace: str, metric: str, of: Json, within: int, statistic: str
) -> list[float]:
    answer = await patient.aws.call(
        "cloudwatch",
        "get_metric_statistics",
        Namespace=namespace,
        MetricName=metric,
        Dimensions=[{"Name": name, "Value": value} for name, value in of.items()],
        StartTime=datetime.fromtimestamp(patient.now - within, UTC),
        EndTime=datetime.fromtimestamp(patient.now, UTC),
        Period=5 * MINUTE if within < DAY else HOUR,
        Statistics=[statistic],
    )
    return [float(point[statistic]) for point in answer["Datapoints"]]
