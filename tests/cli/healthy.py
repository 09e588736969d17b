"""A deployment in which all is well: both sides fit, and the stack in AWS has all that the template makes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from cli.checks.stack import ALARMED
from tests.cli.conftest import (
    STACK,
    Result,
    Run,
    aws,
    make_functions,
    make_stack,
    outputs_of,
)
from tests.integration.conftest import Moto
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World

REGION = "us-east-1"
ACCOUNT = "123456789012"
RENEWAL = NOON + 31 * DAY
NOW = RENEWAL + 3 * HOUR + 20 * MINUTE


@dataclass
class Healthy:
    """The deployment, at a time when one period was closed three hours ago and its draft is still open."""

    world: World
    run: Run
    customer: str
    price: str
    meter: str
    outputs: dict[str, str]
    topic: str = ""

    def doctor(self, *options: str) -> Examination:
        """Examine it."""
        self.feed()
        result = self.run("doctor", "--stack", STACK, "--json", *options)
        return Examination(result, result.json["findings"])

    def feed(self) -> None:
        """Let the queue feed the worker: after the last message, which moto would run it for."""
        functions = aws("lambda")
        if not functions.list_event_source_mappings(FunctionName="worker")["EventSourceMappings"]:
            functions.create_event_source_mapping(
                EventSourceArn=f"arn:aws:sqs:{REGION}:{ACCOUNT}:pages", FunctionName="worker", BatchSize=1
            )

    def unfeed(self) -> None:
        """Let messages be put on the queue again."""
        functions = aws("lambda")
        for one in functions.list_event_source_mappings(FunctionName="worker")["EventSourceMappings"]:
            functions.delete_event_source_mapping(UUID=one["UUID"])

    def event(self, customer: str, hour: int, value: str = "7", event_name: str = "tokens") -> None:
        """Usage that somebody else sends to Stripe."""
        self.world.client.v1.billing.meter_events.create(
            {
                "event_name": event_name,
                "payload": {"stripe_customer_id": customer, "value": value},
                "timestamp": hour + MINUTE,
            }
        )

    def metric(self, namespace: str, name: str, value: float, age: int, **dimensions: str) -> None:
        """A point of a metric, `age` seconds ago."""
        at = datetime.fromtimestamp(self.world.clock(), UTC) - timedelta(seconds=age)
        aws("cloudwatch").put_metric_data(
            Namespace=namespace,
            MetricData=[
                {
                    "MetricName": name,
                    "Value": value,
                    "Timestamp": at,
                    "Dimensions": [{"Name": key, "Value": text} for key, text in dimensions.items()],
                }
            ],
        )

    def deploy(self, **variables: str) -> None:
        """Give all functions other settings."""
        functions = aws("lambda")
        for name in ("webhook", "schedule", "worker"):
            held = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
            functions.update_function_configuration(
                FunctionName=name, Environment={"Variables": {**held, **variables}}
            )

    def restrict(self, monkeypatch: pytest.MonkeyPatch, **scopes: str) -> None:
        """Give the functions the key that README describes, but for some scopes."""
        key = "rk_test_functions"
        granted = {**LEAST, **scopes}
        self.world.stripe.change_settings(restricted_keys={key: granted})
        secret = self.world.secrets.get_secret_value(SecretId="keys")["SecretString"]
        self.world.secrets.put_secret_value(
            SecretId="keys", SecretString=secret.replace("sk_test_sandbox", key)
        )
        monkeypatch.delenv("STRIPE_KEY")


LEAST = {
    "subscription": "read",
    "plan": "read",
    "product": "read",
    "billing_meter": "read",
    "billing_meter_event": "write",
    "invoice": "read",
    "event": "read",
    "customer": "read",
    "usage_record": "write",
    "webhook": "read",
    "event_destination": "read",
}
"""README's table, and destinations only to be read."""


@dataclass(frozen=True)
class Examination:
    """What the doctor found."""

    result: Result
    findings: list[dict[str, str]]

    def of(self, check: str) -> list[dict[str, str]]:
        """The findings of one check."""
        return [one for one in self.findings if one["check"] == check]

    def only(self, check: str) -> dict[str, str]:
        """The one finding that is not well, of this check; there must be no other anywhere."""
        (one,) = [one for one in self.findings if one["level"] != "ok"]
        assert one["check"] == check, one
        return one


@pytest.fixture
def healthy(world_in_moto: Moto, world: World, run: Run, monkeypatch: pytest.MonkeyPatch) -> Healthy:
    """All is well with it, and one customer has used something."""
    monkeypatch.setattr(
        "moto.core.responses.utcnow", lambda: datetime.fromtimestamp(world.clock(), UTC).replace(tzinfo=None)
    )
    world.stripe.change_settings(finalization_grace=72 * HOUR)
    world.stripe.deliver = lambda *_: 200
    price, meter = world.metered_price()
    customer = world.customer()
    made = Healthy(world, run, customer, price, meter, _deployed(world))
    assert run("connect", "--stack", STACK).code == 0
    world.subscription(price, customer)
    world.travel(RENEWAL + HOUR + 10 * MINUTE)
    world.use(customer, RENEWAL - DAY, 3)
    world.use(customer, RENEWAL + MINUTE, 4)
    world.tick()
    world.travel(NOW)
    _watched(made)
    return made


def _deployed(world: World) -> dict[str, str]:
    make_functions(world, "webhook", "schedule", "worker")
    dead = world.sqs.create_queue(QueueName="dead")["QueueUrl"]
    outputs = {
        **outputs_of(world),
        "ScheduleFunctionName": "schedule",
        "WorkerFunctionName": "worker",
        "QueueUrl": world.queue_url,
        "DeadLetterQueueUrl": dead,
    }
    make_stack(outputs)
    for name in ("closing", "all"):
        aws("scheduler").create_schedule(
            Name=name,
            ScheduleExpression="rate(1 hour)",
            FlexibleTimeWindow={"Mode": "OFF"},
            Target={
                "Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:schedule",
                "RoleArn": f"arn:aws:iam::{ACCOUNT}:role/role",
                "Input": f'{{"scope": "{name}"}}',
            },
        )
    world.dynamodb.update_time_to_live(
        TableName="ledger", TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires_at"}
    )
    world.dynamodb.update_continuous_backups(
        TableName="ledger", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
    )
    return outputs


def _watched(made: Healthy) -> None:
    """Alarms that somebody hears, and the traces of ticks."""
    sns = aws("sns")
    made.topic = sns.create_topic(Name="alarms")["TopicArn"]
    sns.subscribe(TopicArn=made.topic, Protocol="sms", Endpoint="+15005550006")
    for metric in sorted(ALARMED):
        is_ours = not metric.startswith("Approximate")
        namespace = "UsageReporting" if is_ours else "AWS/SQS"
        dimension, value = ("service", STACK) if is_ours else ("QueueName", "dead")
        aws("cloudwatch").put_metric_alarm(
            AlarmName=f"{metric}Alarm",
            Namespace=namespace,
            MetricName=metric,
            Dimensions=[{"Name": dimension, "Value": value}],
            Statistic="Sum",
            Period=300,
            EvaluationPeriods=1,
            Threshold=1,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
            AlarmActions=[made.topic],
        )
    made.metric("UsageReporting", "TickClosing", 1, 5 * MINUTE, service=STACK)
    made.metric("UsageReporting", "TickAll", 1, 20 * MINUTE, service=STACK)


__all__ = ["Healthy", "healthy"]
