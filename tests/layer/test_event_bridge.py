"""Events over EventBridge: done, given again, or a dead letter; never dropped in silence."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.layer.builders import FixedCredentials
from usage_reporting import event_bridge, webhook
from usage_reporting.budget import Budget
from usage_reporting.config import Mode, Settings
from usage_reporting.container import Container
from usage_reporting.credentials import Secret
from usage_reporting.errors import AskAgainError, NotConfiguredError
from usage_reporting.event_bridge import REASON, SOURCES, DeadLetters

DEAD = "https://sqs.test/dead"
SNAPSHOT = {"id": "evt_1", "object": "event", "type": "customer.subscription.updated", "data": {"object": {}}}


class NoKeys(FixedCredentials):
    def current(self) -> Secret:
        raise NotConfiguredError("the secret still holds the template's placeholders")


class Unreachable(FixedCredentials):
    def current(self) -> Secret:
        raise AskAgainError("Secrets Manager did not give the secret")


@dataclass
class StubContainer:
    """As much of a container as the transport touches."""

    credentials: FixedCredentials = field(default_factory=FixedCredentials)
    mode: Mode = Mode.LIVE
    billing: Any = field(default_factory=lambda: SimpleNamespace(drafted=None))

    def of(self, _account: str) -> Any:
        return self

    @property
    def settings(self) -> Settings:
        return Settings("https://openmeter.test", mode=self.mode)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(work)


class Sqs:
    def __init__(self, *, is_broken: bool = False) -> None:
        self.sent: list[dict[str, Any]] = []
        self.is_broken = is_broken

    def send_message(self, **message: Any) -> None:
        if self.is_broken:
            raise ClientError({"Error": {"Code": "Throttled", "Message": "later"}}, "SendMessage")
        self.sent.append(message)


def envelope(detail: Any = SNAPSHOT, source: str = f"{SOURCES}ed_1") -> dict[str, Any]:
    return {"version": "0", "id": "e", "detail-type": "some.event", "source": source, "detail": detail}


def batch(*bodies: Any) -> dict[str, Any]:
    texts = [body if isinstance(body, str) else json.dumps(body) for body in bodies]
    return {
        "Records": [
            {"messageId": str(number), "body": text, "eventSource": "aws:sqs"}
            for number, text in enumerate(texts)
        ]
    }


def worked_off(
    event: dict[str, Any], container: StubContainer | None = None, sqs: Sqs | None = None
) -> list[str]:
    """The messages that are to be given again."""
    made: Any = container or StubContainer()
    answer = event_bridge.work_off(made, event, DeadLetters(DEAD, sqs or Sqs()))
    return [one["itemIdentifier"] for one in answer["batchItemFailures"]]


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches the core; it answers as `type` says: done, later, or an error."""
    seen: list[dict[str, Any]] = []

    async def handle(
        _container: Container, event: dict[str, Any], budget: Budget | None = None
    ) -> webhook.Answer:
        seen.append(event)
        if event["type"] == "long":
            assert budget is not None
            return webhook.Answer(200, f"{budget.seconds_left:.0f} s")
        if event["type"] == "later":
            return webhook.Answer(503, "unknown", "OpenMeter is down")
        if event["type"] == "defect":
            raise KeyError("defect")
        return webhook.Answer(200, "sent")

    monkeypatch.setattr(webhook, "_handle", handle)
    monkeypatch.setattr(webhook, "_handle_thin", handle)
    return seen


def of_type(type_: str) -> dict[str, Any]:
    return envelope({**SNAPSHOT, "type": type_})


def test_what_is_done_is_taken_off_the_queue(core: list[dict[str, Any]]) -> None:
    assert worked_off(batch(envelope(), envelope())) == []
    assert core == [SNAPSHOT, SNAPSHOT]


def test_thin_events_come_the_same_way(core: list[dict[str, Any]]) -> None:
    thin = {"id": "evt_2", "object": "v2.core.event", "type": "v1.billing.meter.no_meter_found"}
    assert worked_off(batch(envelope(thin))) == []
    assert core == [thin]


@pytest.mark.parametrize("type_", ["later", "defect"])
@pytest.mark.usefixtures("core")
def test_what_may_end_better_is_given_again_and_its_neighbour_is_not(type_: str) -> None:
    assert worked_off(batch(of_type("fine"), of_type(type_), of_type("fine"))) == ["1"]


@pytest.mark.parametrize("credentials", [NoKeys(), Unreachable()])
def test_without_keys_nothing_is_lost(core: list[dict[str, Any]], credentials: FixedCredentials) -> None:
    assert worked_off(batch(envelope()), StubContainer(credentials)) == ["0"]
    assert core == []


@pytest.mark.parametrize("credentials", [FixedCredentials(), NoKeys(), Unreachable()])
@pytest.mark.usefixtures("core")
def test_in_shadow_mode_nothing_is_given_again(credentials: FixedCredentials) -> None:
    assert worked_off(batch(of_type("later")), StubContainer(credentials, Mode.SHADOW)) == []


UNREADABLE = {
    "no JSON": "{",
    "nested too deeply": "[" * 100_000,
    "no object": [],
    "no event of EventBridge": {"customer_meters": []},
    "not of Stripe": envelope(source="com.example"),
    "nearly of Stripe": envelope(source="aws.partner/stripe.com"),
    "no detail": {**envelope(), "detail": None},
    "a detail without a type": envelope({"id": "evt_1"}),
}


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("mode", Mode)
def test_what_nobody_can_read_is_a_dead_letter_at_once(
    core: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, body: Any, mode: Mode
) -> None:
    sqs, event = Sqs(), batch(body)
    with caplog.at_level(logging.ERROR):
        assert worked_off(event, StubContainer(mode=mode), sqs) == []

    [sent] = sqs.sent
    assert (sent["QueueUrl"], sent["MessageBody"]) == (DEAD, event["Records"][0]["body"])
    reason = sent["MessageAttributes"][REASON]["StringValue"]
    assert reason
    assert [line.message for line in caplog.records if reason in line.message]
    assert core == []


def test_an_event_of_ours_that_is_misshapen_is_a_dead_letter() -> None:
    sqs = Sqs()
    assert worked_off(batch(envelope({**SNAPSHOT, "type": "invoice.created"})), sqs=sqs) == []
    assert len(sqs.sent) == 1


def test_a_dead_letter_that_cannot_be_put_away_is_given_again() -> None:
    assert worked_off(batch("{"), sqs=Sqs(is_broken=True)) == ["0"]


def test_there_is_more_time_where_nobody_waits_for_the_answer(core: list[dict[str, Any]]) -> None:
    made: Any = StubContainer()
    long: dict[str, Any] = {**SNAPSHOT, "type": "long"}
    assert event_bridge.invoke(made, envelope(long))["status"] == "18 s"
    assert webhook.answer_event(made, lambda: long).status == "9 s"
    assert core == [long, long]


def test_an_event_itself_is_answered(core: list[dict[str, Any]]) -> None:
    made: Any = StubContainer()
    assert event_bridge.invoke(made, envelope()) == {"code": 200, "status": "sent", "reason": ""}
    assert core == [SNAPSHOT]
    with pytest.raises(AskAgainError, match="OpenMeter is down"):
        event_bridge.invoke(made, of_type("later"))


@pytest.mark.parametrize(
    ("call", "is_batch", "is_event"),
    [
        (batch(envelope()), True, False),
        ({"Records": []}, True, False),
        ({"Records": [{"eventSource": "aws:s3"}]}, False, False),
        (envelope(), False, True),
        ({"version": "2.0", "headers": {}, "body": json.dumps(envelope())}, False, False),
        ({"version": "2.0", "headers": {}, "body": json.dumps(batch(envelope()))}, False, False),
        (None, False, False),
    ],
)
def test_each_way_in_is_told_apart(call: Any, is_batch: bool, is_event: bool) -> None:
    assert event_bridge.is_batch(call) is is_batch
    assert event_bridge.is_event(call) is is_event
