"""`redrive` shows dead letters without taking them away, and sends them again without billing twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from itertools import count
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from tests.cli.conftest import STACK, Run, make_stack, outputs_of
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.billing import Finalized
from usage_reporting.pages import Cursor, Scope, cursor_message, finalized_message
from usage_reporting.ticks import tick

pytestmark = pytest.mark.usefixtures("world_in_moto")

LOG = f"/aws/lambda/{STACK}-worker"


@pytest.fixture
def dead(world: World, stack: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the stack's dead-letter queue, which has but one server to ask."""
    monkeypatch.setattr("cli.dead_letters.WAIT_S", 0)
    return str(world.sqs.get_queue_url(QueueName="dead")["QueueUrl"])


@pytest.fixture
def page(world: World, dead: str) -> tuple[str, str]:
    """A customer's page that lies on the dead-letter queue: the customer, and the message."""
    price, _ = world.metered_price()
    customer = str(world.subscription(price).customer)
    world.use(customer, NOON + MINUTE, 5)
    world.travel(NOON + 2 * HOUR)
    tick(world.container(), {"scope": "all"}, None)
    bodies = [body for body in taken(world, world.queue_url) if customer in body]
    return customer, put(world, dead, bodies[0])


def put(world: World, queue: str, body: str) -> str:
    return str(world.sqs.send_message(QueueUrl=queue, MessageBody=body)["MessageId"])


def taken(world: World, queue: str) -> list[str]:
    """All messages that can be seen on a queue, taken off it."""
    found = []
    while messages := world.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
        for message in messages:
            found.append(message["Body"])
            world.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    return found


def visible(world: World, queue: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = world.sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
    assert found["ApproximateNumberOfMessagesNotVisible"] == "0", "a message is left hidden"
    return int(found["ApproximateNumberOfMessages"])


def log(lines: Sequence[dict[str, Any]], at: int) -> None:
    """What the worker wrote, at `at` (UTC seconds)."""
    logs = boto3.client("logs")
    logs.create_log_group(logGroupName=LOG)
    logs.create_log_stream(logGroupName=LOG, logStreamName="one")
    events = [{"timestamp": at * 1000, "message": json.dumps(line)} for line in lines]
    logs.put_log_events(logGroupName=LOG, logStreamName="one", logEvents=events)


def sent_at(world: World, queue: str) -> int:
    [message] = world.sqs.receive_message(
        QueueUrl=queue, VisibilityTimeout=0, MessageSystemAttributeNames=["SentTimestamp"]
    )["Messages"]
    return int(message["Attributes"]["SentTimestamp"]) // 1000


def test_an_empty_queue_is_said_to_be_empty(run: Run, dead: str) -> None:
    result = run("redrive", "--stack", STACK)

    assert (result.code, result.out) == (0, "there are no dead letters\n")
    assert run("redrive", "--stack", STACK, "--all", "--yes").code == 0


def test_a_list_says_whose_and_why_and_takes_nothing_away(
    run: Run, world: World, dead: str, page: tuple[str, str]
) -> None:
    customer, message = page
    log(
        [
            {"message": "ask again: x", "queue_message": "another", "reason": "something else"},
            {
                "message": "ask again: x",
                "queue_message": message,
                "reason": "OpenMeter answered 500, 4 times",
            },
        ],
        sent_at(world, dead) + 60,
    )

    for _ in range(2):
        result = run("redrive", "--stack", STACK)

        assert result.code == 0
        [_, row, *end] = result.out.splitlines()
        assert all(text in row for text in (message, customer, "page", "m1", "OpenMeter answered 500"))
        assert end[0] == "1 dead letter, all still there"
        assert visible(world, dead) == 1
    assert visible(world, world.queue_url) == 0


def test_a_list_of_many_is_whole_and_each_is_there_once(
    run: Run, world: World, dead: str, page: tuple[str, str]
) -> None:
    [body] = set(taken(world, dead))
    ids = {put(world, dead, body) for _ in range(37)}

    document = run("redrive", "--stack", STACK, "--json").json

    assert {one["message"] for one in document["messages"]} == ids
    assert (document["moved"], document["left"]) == (0, 37)
    assert visible(world, dead) == 37


def test_each_kind_of_message_is_told_apart(run: Run, world: World, dead: str, page: tuple[str, str]) -> None:
    put(world, dead, json.dumps(cursor_message(Cursor(Scope.ALL, after="sub_1"))))
    put(world, dead, json.dumps(finalized_message(Finalized("test", ["in_1", "in_2"]))))
    put(world, dead, "hello")

    document = run("redrive", "--stack", STACK, "--json").json

    kinds = {one["kind"]: one["about"] for one in document["messages"]}
    assert kinds == {
        "page": [page[0]],
        "listing": ["all: subscriptions"],
        "final invoices": ["in_1", "in_2"],
        "not ours": [],
    }
    assert {one["why"] for one in document["messages"]} == {None}
    assert all(one["received"] >= 1 for one in document["messages"])


def test_all_are_sent_again_and_the_worker_does_the_work(
    run: Run, world: World, dead: str, page: tuple[str, str]
) -> None:
    result = run("redrive", "--stack", STACK, "--all", "--yes")

    assert result.code == 0, result.err
    assert "sent again: 1, not moved: 0, left: 0" in result.out
    assert visible(world, dead) == 0
    assert world.work() == 0
    assert world.held(page[0], NOON, NOON + HOUR) == 5


def test_an_old_page_bills_nothing_twice(run: Run, world: World, dead: str, page: tuple[str, str]) -> None:
    """Days later, after a renewal, when ticks have long reported the same customer."""
    customer, _ = page
    world.use(customer, NOON + 40 * DAY, 2)
    for instant in (NOON + 31 * DAY + MINUTE, NOON + 31 * DAY + 30 * MINUTE, NOON + 40 * DAY + 2 * HOUR):
        world.travel(instant)
        world.tick("closing")
        world.tick("all")
    before = world.meter_events()
    assert sum(row["value"] for row in before) == 7

    assert run("redrive", "--stack", STACK, "--all", "--yes").code == 0
    assert world.work() == 0

    assert world.meter_events() == before
    world.travel(NOON + 62 * DAY + 2 * HOUR)
    [subscription] = [str(one.id) for one in world.client.v1.subscriptions.list({"customer": customer}).data]
    assert [units for _, units, _ in world.billed(subscription)] == [Decimal(5), Decimal(2)]


def test_one_is_sent_again_and_the_others_stay(
    run: Run, world: World, dead: str, page: tuple[str, str]
) -> None:
    _, message = page
    others = {put(world, dead, "hello"), put(world, dead, json.dumps(cursor_message(Cursor(Scope.ALL))))}

    result = run("redrive", "--stack", STACK, "--message", message, "--yes", "--json")

    assert result.code == 0
    moved = {one["message"]: one["moved"] for one in result.json["messages"]}
    assert moved == {message: True, **dict.fromkeys(others, False)}
    assert result.json["left"] == 2
    assert visible(world, dead) == 2
    assert visible(world, world.queue_url) == 1


def test_what_is_no_page_of_ours_is_not_sent_again(run: Run, world: World, dead: str) -> None:
    message = put(world, dead, "hello")

    result = run("redrive", "--stack", STACK, "--all", "--yes")

    assert result.code == 1
    assert f"not moved: {message}: it is no page of ours" in result.out
    assert visible(world, dead) == 1
    assert visible(world, world.queue_url) == 0


def test_nothing_is_lost_when_the_queue_takes_nothing(
    run: Run, world: World, dead: str, page: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(monkeypatch, "SendMessage", "AccessDenied")

    result = run("redrive", "--stack", STACK, "--all", "--yes")

    assert result.code == 1
    assert "AWS does not allow SendMessage" in result.out
    assert visible(world, dead) == 1


def test_a_crash_between_sending_and_deleting_leaves_it_on_both_and_bills_once(
    run: Run, world: World, dead: str, page: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        refuse(broken, "DeleteMessage", "InternalError")
        result = run("redrive", "--stack", STACK, "--all", "--yes")
    assert result.code == 1
    assert "it was sent again, but could not be taken off here" in result.out

    assert run("redrive", "--stack", STACK, "--all", "--yes").code == 0
    assert visible(world, world.queue_url) == 2
    world.work()
    assert world.held(page[0], NOON, NOON + HOUR) == 5


def refuse(monkeypatch: pytest.MonkeyPatch, operation: str, code: str, *, after: int = 0) -> None:
    """Let AWS refuse one operation, whoever calls it; the first `after` calls are answered."""
    made = BaseClient._make_api_call  # type: ignore[attr-defined]
    calls = count(1)

    def call(self: BaseClient, name: str, parameters: dict[str, Any]) -> Any:
        if name == operation and next(calls) > after:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
        return made(self, name, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", call)


def test_it_asks_first_and_takes_no_for_an_answer(
    run: Run, world: World, dead: str, page: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.redrive.is_terminal", lambda: True)

    refused = run("redrive", "--stack", STACK, "--all", input="n\n")
    assert refused.code == 1
    assert "nothing was sent" in refused.out
    assert visible(world, dead) == 1

    assert run("redrive", "--stack", STACK, "--all", input="y\n").code == 0
    assert visible(world, dead) == 0


def test_a_dry_run_sends_nothing(run: Run, world: World, dead: str, page: tuple[str, str]) -> None:
    result = run("redrive", "--stack", STACK, "--all", "--yes", "--dry-run")

    assert result.code == 0
    assert visible(world, dead) == 1
    assert visible(world, world.queue_url) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--all", "--message", "x"], "not both"),
        (["--message", "x"], "there is no message 'x' among the 1 dead letters"),
        (["--all"], "no terminal to ask at"),
    ],
)
def test_wrong_use(
    run: Run, world: World, dead: str, page: tuple[str, str], arguments: list[str], said: str
) -> None:
    result = run("redrive", "--stack", STACK, *arguments)

    assert result.code == 2
    assert said in result.err
    assert visible(world, dead) == 1


def test_without_the_log_the_reason_is_not_known_and_all_else_is(
    run: Run, dead: str, page: tuple[str, str]
) -> None:
    result = run("redrive", "--stack", STACK)

    assert result.code == 0
    assert "why they failed is not known" in result.err
    assert "not known" in result.out


def test_one_of_many_is_found_wherever_it_lies(
    run: Run, world: World, dead: str, page: tuple[str, str]
) -> None:
    [body] = set(taken(world, dead))
    last = [put(world, dead, body) for _ in range(57)][-1]

    result = run("redrive", "--stack", STACK, "--message", last, "--yes")

    assert result.code == 0, result.out
    assert "sent again: 1, not moved: 0, left: 56" in result.out
    assert visible(world, dead) == 56
    assert visible(world, world.queue_url) == 1


NO_DAY = {"day": 10**30, "part": "drafts", "after": "", "done": "", "sums": {}}


@pytest.mark.parametrize("body", ["[" * 100_000, json.dumps({"reconcile": NO_DAY})])
def test_an_odd_message_hides_no_other(
    run: Run, world: World, dead: str, page: tuple[str, str], body: str
) -> None:
    odd = put(world, dead, body)

    result = run("redrive", "--stack", STACK, "--all", "--yes")

    assert result.code == 1
    assert f"not moved: {odd}: it is no page of ours" in result.out
    assert "sent again: 1, not moved: 1, left: 1" in result.out
    assert visible(world, dead) == 1


def test_what_was_moved_is_told_when_the_queue_gives_no_more(
    run: Run, world: World, dead: str, page: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [body] = set(taken(world, dead))
    for _ in range(15):
        put(world, dead, body)
    # Two looks find fifteen, a third finds the queue empty; then ten are moved.
    refuse(monkeypatch, "ReceiveMessage", "ServiceUnavailable", after=4)

    result = run("redrive", "--stack", STACK, "--all", "--yes")

    assert result.code == 1
    assert "sent again: 10, not moved: 5, left: 5" in result.out
    assert result.out.count("AWS refused ReceiveMessage") == 5
    assert (visible(world, dead), visible(world, world.queue_url)) == (5, 10)


EVENT = {
    "detail-type": "invoice.created",
    "source": "aws.partner/stripe.com/ed_test_1",
    "detail": {"id": "evt_1", "type": "invoice.created"},
}


def test_an_event_goes_back_to_the_queue_of_events(run: Run, world: World, dead: str) -> None:
    events = world.sqs.create_queue(QueueName="events")["QueueUrl"]
    make_stack({**outputs_of(world), "StripeEventQueueUrl": events}, "over-event-bridge")
    message = put(world, dead, json.dumps(EVENT))
    attribute = {"DataType": "String", "StringValue": "the queue could not be reached"}
    unreachable = world.sqs.send_message(
        QueueUrl=dead, MessageBody=json.dumps(EVENT), MessageAttributes={"ERROR_MESSAGE": attribute}
    )["MessageId"]
    put(world, dead, json.dumps({**EVENT, "source": "com.example"}))

    listed = run("redrive", "--stack", "over-event-bridge", "--json").json["messages"]

    by_kind = [(one["kind"], one["about"]) for one in listed]
    assert sorted(by_kind) == [
        *[("event", ["invoice.created evt_1"])] * 2,
        ("not ours", []),
    ]
    assert {one["why"] for one in listed if one["message"] == unreachable} == {
        "the queue could not be reached"
    }

    sent = run(
        *("redrive", "--stack", "over-event-bridge", "--message", message, "--message", unreachable, "--yes")
    )

    assert sent.code == 0, sent.out
    assert [json.loads(body) for body in taken(world, events)] == [EVENT, EVENT]
    assert visible(world, world.queue_url) == 0
    assert visible(world, dead) == 1


def test_an_event_of_a_stack_that_is_back_on_api_gateway_stays(run: Run, world: World, dead: str) -> None:
    put(world, dead, json.dumps(EVENT))

    result = run("redrive", "--stack", STACK, "--all", "--yes")

    assert result.code == 1
    assert "resend it in Stripe's Workbench" in result.out
    assert visible(world, dead) == 1
