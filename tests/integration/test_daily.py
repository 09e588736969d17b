"""The daily reconciliation: everyone's last day, what became final on it, and one line of it."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.sns.models import sns_backends

from tests.integration.conftest import Moto
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting import telemetry
from usage_reporting.config import Mode
from usage_reporting.daily import SnsTopic, last_day
from usage_reporting.daily_sums import MOST_NAMED, DailyCursor, DailySums
from usage_reporting.errors import AskAgainError
from usage_reporting.pages import daily_message, read_message
from usage_reporting.ticks import tick, work_off

MORNING = NOON + 17 * HOUR + 37 * MINUTE
"""The day after, when the schedule calls: 05:37."""
START = NOON - 11 * HOUR
"""Of most tests: 01:00 of the day that is reconciled."""


class Context:
    """A function whose time is nearly over when it begins."""

    def get_remaining_time_in_millis(self) -> int:
        return 20_000


@pytest.fixture
def topic(moto: Moto, world: World) -> str:
    arn = str(boto3.client("sns").create_topic(Name="alarms")["TopicArn"])
    world.settings["reconcile_topic"] = arn
    return arn


def told(topic: str) -> list[tuple[str, str]]:
    """Subject and text of each message that went to the topic."""
    sent = sns_backends[DEFAULT_ACCOUNT_ID]["us-east-1"].topics[topic].sent_notifications
    return [(str(subject), str(message)) for _, message, subject, *_ in sent]


def reconcile(world: World) -> dict[str, Any]:
    answer = world.tick("reconcile")
    assert answer["failures"] == 0
    return answer


def subscribed(world: World, count: int = 1) -> list[str]:
    """Customers who each used 5 units on the day, all of them reported."""
    world.clock.set(START)
    price, _ = world.metered_price()
    customers = [str(world.subscription(price).customer) for _ in range(count)]
    for customer in customers:
        world.use(customer, START + MINUTE, 5)
    world.travel(START + 2 * HOUR)
    world.tick()
    return customers


def foreign(world: World, customer: str, units: str) -> None:
    payload = {"stripe_customer_id": customer, "value": units}
    world.client.v1.billing.meter_events.create(
        {"event_name": "tokens", "payload": payload, "timestamp": START + MINUTE}
    )


def kept(world: World) -> list[dict[str, Any]]:
    """What the ledger keeps of customers."""
    return [item for item in world.ledger() if "cus_" in item["pk"]["S"]]


def test_a_day_of_which_all_is_exact(world: World, topic: str, counted: dict[str, float]) -> None:
    subscribed(world, 3)
    world.travel(MORNING)

    assert reconcile(world)["status"] == "done"

    [(subject, line)] = told(topic)
    assert subject == f"usage-reporter {telemetry.SERVICE} 2026-07-15: all EXACT"
    assert line == (
        f"2026-07-15 {telemetry.SERVICE}: 0 invoices became final with 0 metered lines; "
        "3 customer meters compared (3 EXACT); 0 held"
    )
    assert (counted["ReconciledExact"], counted["ReconciledDrift"]) == (3, 0)
    assert "TickAll" in counted
    assert counted["Tick"] == 2


def test_what_differs_is_named_and_alarms_only_where_nothing_else_does(
    world: World, topic: str, counted: dict[str, float]
) -> None:
    good, over, short, fallen = subscribed(world, 4)
    foreign(world, over, "7")
    world.use(short, START + 2 * MINUTE, 2)
    world.use(fallen, START + 2 * MINUTE, -1)
    before = world.meter_events(), kept(world)
    world.travel(MORNING)

    reconcile(world)

    [(subject, line)] = told(topic)
    assert subject.endswith("3 differ")
    assert "(1 EXACT, 2 OVER, 1 SHORT); 1 held; the ledger differs of 1" in line
    assert f"{over} m1 OVER by 7, the ledger differs (7 sent by somebody else)" in line
    assert f"{short} m1 SHORT by 2 (2 not reported)" in line
    assert f"{fallen} m1 OVER by 1, held (1 less in OpenMeter than was reported)" in line
    assert good not in line
    assert counted["ReconciledDrift"] == 1, "the rest is the next reports' business, or held by them"
    assert (world.meter_events(), kept(world)) == before


def test_final_invoices_of_the_day_and_their_money(world: World, topic: str) -> None:
    world.clock.set(NOON)
    price, _ = world.metered_price()
    first, second = (str(world.subscription(price).customer) for _ in range(2))
    end = NOON + 31 * DAY
    world.use(first, end - HOUR, "12.5")
    world.use(second, end - HOUR, 3)
    world.travel(end + 16)
    world.tick("closing")
    world.travel(end + HOUR + MINUTE)
    world.tick("closing")
    world.use(second, end - 2 * HOUR, 4)
    world.travel(MORNING + 31 * DAY)

    reconcile(world)

    [(_, line)] = told(topic)
    assert "2 invoices became final with 2 metered lines (1 EXACT, 1 SHORT); they bill $1.55 by usage" in line
    assert f"of {second} m1 SHORT by 4 (4 late)" in line


def test_it_goes_on_by_cursors_and_tells_once(world: World, topic: str) -> None:
    customers = subscribed(world, 7)
    foreign(world, customers[3], "2")
    world.travel(MORNING)
    made = world.container()

    answers = [tick(made, {"scope": "reconcile"}, Context())]
    forked = []
    while messages := world.sqs.receive_message(QueueUrl=world.queue_url, VisibilityTimeout=3600).get(
        "Messages"
    ):
        [message] = messages
        records = {"Records": [{"messageId": "1", "body": message["Body"]}]}
        answers.append(work_off(made, records, Context()))
        forked.append(records)
        world.sqs.delete_message(QueueUrl=world.queue_url, ReceiptHandle=message["ReceiptHandle"])

    assert answers[0]["status"] == "queued"
    assert len(forked) > 3
    [(_, line)] = told(topic)
    assert "7 customer meters compared (6 EXACT, 1 OVER)" in line
    # The queue may give a message twice, and the scheduler may call again.
    for records in forked[-2:]:
        work_off(made, records, Context())
    reconcile(world)
    assert len(told(topic)) == 1


def test_a_customer_with_two_subscriptions_is_counted_once(
    world: World, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [customer] = subscribed(world)
    price = world.client.v1.prices.list({"limit": 1}).data[0].id
    world.subscription(price, customer)
    world.tick()
    world.stripe.log.clear()
    world.travel(MORNING)
    monkeypatch.setattr("usage_reporting.stripe_api.PAGE_SIZE", 1)

    reconcile(world)

    assert world.stripe.calls["GET", "/v1/subscriptions"] == 2
    assert "1 customer meter compared (1 EXACT)" in told(topic)[0][1]


def run_out(world: World) -> int:
    """Reconcile in functions that have time for one step each; how many there were."""
    made = world.container()
    answers = [tick(made, {"scope": "reconcile"}, Context())]
    while messages := world.sqs.receive_message(QueueUrl=world.queue_url).get("Messages"):
        records = {"Records": [{"messageId": "1", "body": messages[0]["Body"]}]}
        answers.append(work_off(made, records, Context()))
        assert not answers[-1]["batchItemFailures"]
        world.sqs.delete_message(QueueUrl=world.queue_url, ReceiptHandle=messages[0]["ReceiptHandle"])
        assert len(answers) < 50
    return len(answers)


def test_customers_with_two_subscriptions_are_not_lost_when_time_runs_out(world: World, topic: str) -> None:
    customers = subscribed(world, 4)
    price = world.client.v1.prices.list({"limit": 1}).data[0].id
    for customer in customers:
        world.subscription(price, customer)
    world.tick()
    world.travel(MORNING)

    run_out(world)

    assert "4 customer meters compared (4 EXACT)" in told(topic)[0][1]


def test_time_runs_out_also_over_lists_of_which_nothing_is_compared(
    world: World, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of subscriptions without a metered price, a list alone may take longer than a worker has."""
    world.clock.set(START - DAY)
    product = world.client.v1.products.create({"name": "flat"}).id
    recurring = {"interval": "month"}
    flat = {"currency": "usd", "product": product, "recurring": recurring, "unit_amount": 500}
    price = str(world.client.v1.prices.create(flat).id)
    for _ in range(5):
        world.client.v1.subscriptions.create(
            {
                "customer": world.customer(),
                "items": [{"price": price}],
                "collection_method": "send_invoice",
                "days_until_due": 30,
            }
        )
    subscribed(world)
    world.travel(MORNING)
    monkeypatch.setattr("usage_reporting.stripe_api.PAGE_SIZE", 1)

    assert run_out(world) > 5

    assert "1 customer meter compared (1 EXACT)" in told(topic)[0][1]


def test_an_account_with_nothing_in_it(world: World, topic: str) -> None:
    world.travel(MORNING)

    assert run_out(world) <= 3

    assert (
        "0 invoices became final with 0 metered lines; 0 customer meters compared; 0 held"
        in told(topic)[0][1]
    )


def test_the_largest_cursor_fits_into_a_message_of_the_queue() -> None:
    sums = DailySums(money=dict.fromkeys((f"c{number}" for number in range(100)), 10**12))
    for number in range(20_000):
        sums.name("\N{GRINNING FACE}" * 1_000)
        sums.see([f"acct_1234567890abcdef|live|cus_{number:032}|" + "m" * 64 + "|mtr_" + "x" * 60])
    cursor = DailyCursor(last_day(MORNING), after="i" * 255, done="x" * 300, sums=sums)

    assert len(json.dumps(daily_message(cursor))) < 256 * 1024
    assert read_message(json.dumps(daily_message(cursor))) == cursor


def test_a_draft_of_a_canceled_subscription_is_compared(world: World, topic: str) -> None:
    [customer] = subscribed(world)
    world.travel(MORNING - 30 * MINUTE)
    [subscription] = world.client.v1.subscriptions.list({"customer": customer}).data
    world.client.v1.subscriptions.cancel(subscription.id, {"invoice_now": True})
    world.travel(MORNING)

    reconcile(world)

    assert "0 metered lines; 1 customer meter compared (1 EXACT)" in told(topic)[0][1]


def test_without_a_topic_the_line_is_in_the_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    subscribed(world)
    world.travel(MORNING)

    reconcile(world)

    assert "1 customer meter compared (1 EXACT)" in caplog.text
    [item] = [item for item in world.ledger() if item["pk"]["S"] == "self#reconciled"]
    assert item["sk"]["S"] == "2026-07-15"


def test_shadow_mode_compares_and_writes_nothing(world: World, topic: str) -> None:
    world.settings["mode"] = Mode.SHADOW
    world.clock.set(START)
    customer = str(world.subscription(world.metered_price()[0]).customer)
    world.use(customer, START + MINUTE, 5)
    world.travel(MORNING)

    reconcile(world)

    assert f"{customer} m1 SHORT by 5 (5 not reported)" in told(topic)[0][1]
    assert world.ledger() == []


def test_a_stripe_that_gives_no_answer_is_asked_again(world: World, topic: str) -> None:
    subscribed(world)
    world.travel(MORNING)
    world.stripe.faults.add("status", "GET", "/v1/subscriptions", status=500, times=None)

    with pytest.raises(AskAgainError):
        tick(world.container(), {"scope": "reconcile"}, None)

    assert told(topic) == []


def test_a_topic_that_takes_nothing_keeps_no_alarm_from_going_off(
    world: World, topic: str, counted: dict[str, float]
) -> None:
    [customer] = subscribed(world)
    foreign(world, customer, "7")
    world.travel(MORNING)
    world.settings["reconcile_topic"] = topic.replace("alarms", "gone")

    with pytest.raises(AskAgainError, match="takes no message"):
        tick(world.container(), {"scope": "reconcile"}, None)
    assert (counted["ReconciledDrift"], counted["ReconciledDiffering"]) == (1, 1)

    world.settings["reconcile_topic"] = topic
    reconcile(world)
    assert len(told(topic)) == 1


def test_its_calls_are_those_that_the_document_tells(world: World, topic: str) -> None:
    subscribed(world, 5)
    world.travel(MORNING)
    world.stripe.log.clear()
    queries = len(world.openmeter.calls.queries)

    tick(world.container(), {"scope": "reconcile"}, None)

    calls = {path: number for (_, path), number in world.stripe.calls.items()}
    assert calls == {
        "/v1/billing/meters/{id}": 1,
        "/v1/subscriptions": 1,
        "/v1/invoices": 1,
        "/v1/events": 1,
        "/v1/billing/meters/{id}/event_summaries": 5,
    }
    assert len(world.openmeter.calls.queries) - queries <= 2


def test_a_message_comes_back_as_it_was_sent() -> None:
    sums = DailySums({"exact": 5}, 1, 2, 3, 4, {"short": 1}, {"usd": 155}, ["a"], 7, ["pk"])
    cursor = DailyCursor(last_day(MORNING), after="sub_1", done="pk", sums=sums)

    assert read_message(json.dumps(daily_message(cursor))) == cursor


def test_few_are_named_and_the_line_stays_short() -> None:
    sums = DailySums()
    for number in range(50):
        sums.name(f"cus_{number} " + "x" * 1_000)

    line = sums.line(NOON, "stack")

    assert line.count("cus_") == MOST_NAMED
    assert line.endswith("and 40 more")
    assert len(line.encode()) < 4_000


def test_a_topic_that_takes_nothing_is_a_reason_to_ask_again() -> None:
    class Client:
        def publish(self, **message: str) -> None:
            raise ClientError({"Error": {"Code": "AuthorizationError", "Message": "no"}}, "Publish")

    with pytest.raises(AskAgainError, match="takes no message"):
        SnsTopic("arn", Client()).publish("subject", "text")
