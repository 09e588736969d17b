"""A stack on EventBridge: its sources are made, named, deployed with; what is left of API Gateway goes."""

from __future__ import annotations

from typing import Any

import pytest

from cli.event_sources import SNAPSHOT, THIN, TYPES
from tests.cli.conftest import STACK, WEBHOOK_URL, Result, Run, aws, make_stack, outputs_of, secret_of
from tests.cli.healthy import ACCOUNT, REGION, Healthy, healthy  # noqa: F401 - a fixture
from tests.integration.world import API_KEY, DAY, World
from usage_reporting.stripe_api import API_VERSION

PREFIX = "aws.partner/stripe.com/"


def prepared(run: Run) -> Result:
    return run("connect", "--stack", STACK, "--ingress", "eventbridge", "--json")


def deployed(world: World, sources: dict[str, str], outputs: dict[str, str] | None = None) -> None:
    """As `sam deploy` with the parameters does: the address is gone, queue and buses are there."""
    events = world.sqs.create_queue(QueueName="events")["QueueUrl"]
    kept = {name: value for name, value in (outputs or outputs_of(world)).items() if name != "WebhookUrl"}
    aws("cloudformation").delete_stack(StackName=STACK)
    names = {"StripeEventSourceName": sources[SNAPSHOT]}
    if THIN in sources:
        names["StripeThinEventSourceName"] = sources[THIN]
    make_stack({**kept, "StripeEventQueueUrl": events, **names})
    for name in sources.values():
        world.stripe.associate(name)


def over_event_bridge(world: World) -> dict[str, Any]:
    return {one.event_payload: one for one in world.stripe.account.destinations if one.event_source}


def endpoints(world: World) -> list[str]:
    return [one.id for one in world.stripe.account.endpoints]


@pytest.mark.usefixtures("stack")
def test_sources_are_made_and_the_deployment_that_associates_them_is_named(run: Run, world: World) -> None:
    assert run("connect", "--stack", STACK).code == 0
    before = secret_of(world), endpoints(world)

    result = prepared(run)

    assert result.code == 0, result.err
    made = over_event_bridge(world)
    assert {payload: set(one.enabled_events) for payload, one in made.items()} == {
        payload: set(types) for payload, types in TYPES.items()
    }
    assert {one.event_source.account for one in made.values()} == {ACCOUNT}
    assert made[SNAPSHOT].api_version == API_VERSION
    assert result.json["sources"] == {payload: PREFIX + one.id for payload, one in made.items()}
    assert result.json["deploy"] == (
        f"sam deploy --stack-name {STACK} --region {REGION} --resolve-s3 --capabilities CAPABILITY_IAM "
        f"--parameter-overrides StripeEventSource={PREFIX}{made[SNAPSHOT].id} "
        f"StripeThinEventSource={PREFIX}{made[THIN].id} "
        f"&& usage-reporter connect --stack {STACK} --region {REGION}"
    )
    assert (secret_of(world), endpoints(world)) == before, "until it is deployed Stripe posts as before"

    again = run("connect", "--stack", STACK, "--ingress", "eventbridge")
    assert again.out.count("as it should be") == 2
    assert result.json["deploy"] in again.out
    assert "after seven days" in again.out
    assert over_event_bridge(world) == made
    assert "does not listen to event destination" in run("connect", "--stack", STACK).err


@pytest.mark.usefixtures("stack")
def test_once_deployed_the_address_that_is_gone_is_posted_to_no_more(run: Run, world: World) -> None:
    assert run("connect", "--stack", STACK).code == 0
    foreign = {"url": WEBHOOK_URL.replace("abc123", "def456"), "enabled_events": ["*"]}
    other = world.client.v1.webhook_endpoints.create({**foreign, "metadata": {"usage_reporter_stack": STACK}})
    sources = prepared(run).json["sources"]
    deployed(world, sources)

    result = run("connect", "--stack", STACK)

    assert result.code == 0, result.err
    assert result.out.count("nothing answers at") == 2
    assert "the stack listens to both sources" in result.out
    assert endpoints(world) == [other.id], "it may be of a stack of this name elsewhere"
    assert all(one.event_source for one in world.stripe.account.destinations)
    held = secret_of(world)
    assert (held["stripe_api_key"], held["stripe_webhook_secret"]) == (API_KEY, [])

    assert run("connect", "--stack", STACK, "--json").json["deploy"] is None
    wrong = run("connect", "--stack", STACK, "--ingress", "api")
    assert wrong.code == 2
    assert "first deploy it with StripeEventSource and StripeThinEventSource empty" in wrong.err


@pytest.mark.usefixtures("stack")
def test_a_new_version_takes_a_new_source_and_the_old_one_stays_until_it_is_deployed(
    run: Run, world: World
) -> None:
    sources = prepared(run).json["sources"]
    deployed(world, sources)
    old = over_event_bridge(world)[SNAPSHOT]
    old.api_version = "2025-02-24.acacia"
    over_event_bridge(world)[THIN].enabled_events = []

    result = run("connect", "--stack", STACK, "--json")

    assert result.json["sources"][THIN] == sources[THIN]
    assert result.json["sources"][SNAPSHOT] != sources[SNAPSHOT]
    assert f"StripeEventSource={result.json['sources'][SNAPSHOT]}" in result.json["deploy"]
    assert old.id in [one.id for one in world.stripe.account.destinations]

    deployed(world, result.json["sources"])
    assert f"deleted event destination {old.id}" in run("connect", "--stack", STACK).out


@pytest.mark.usefixtures("stack")
def test_a_source_that_expired_is_made_anew(run: Run, world: World) -> None:
    old = prepared(run).json["sources"]
    world.travel(world.clock() + 8 * DAY)

    new = prepared(run).json["sources"]

    assert not {*old.values()} & {*new.values()}


@pytest.mark.usefixtures("stack")
def test_what_came_in_either_way_is_removed(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    deployed(world, prepared(run).json["sources"])
    elsewhere = world.client.v2.core.event_destinations.create(
        {
            "name": "elsewhere",
            "type": "amazon_eventbridge",
            "event_payload": "snapshot",
            "enabled_events": ["invoice.created"],
            "amazon_eventbridge": {"aws_account_id": ACCOUNT, "aws_region": "eu-west-1"},
            "metadata": {"usage_reporter_stack": STACK},
        }
    )

    result = run("connect", "--remove", "--stack", STACK, "--yes")

    assert result.code == 0, result.err
    assert "4 destinations deleted" in result.out
    assert f"left event destination {elsewhere.id}" in result.out
    assert endpoints(world) == []
    assert [one.id for one in world.stripe.account.destinations] == [elsewhere.id]


@pytest.mark.usefixtures("stack")
def test_nothing_is_left_behind_where_one_cannot_be_made(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("cli.stack.Stack.write_secret", fail)
    world.secrets.put_secret_value(SecretId="keys", SecretString='{"stripe_webhook_secret": "replace-me"}')

    assert run("connect", "--stack", STACK, "--ingress", "eventbridge").code == 1
    assert over_event_bridge(world) == {}


def test_the_doctor_looks_at_the_sources_instead_of_an_address(
    healthy: Healthy,  # noqa: F811 - the fixture
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = healthy.world
    sources = prepared(healthy.run).json["sources"]
    [unused] = {one["seen"] for one in healthy.doctor().of("Destinations") if sources[THIN] in one["seen"]}
    assert "was made for this stack, which does not listen to it" in unused

    deployed(world, sources, healthy.outputs)
    for name in sources.values():
        aws("events").create_partner_event_source(Name=name, Account=ACCOUNT)
    levels = {one["seen"]: one["level"] for one in healthy.doctor().of("Destinations")}
    assert [level for seen, level in levels.items() if "which is gone" in seen] == ["problem"] * 2
    assert healthy.run("connect", "--stack", STACK).code == 0
    queue = f"arn:aws:sqs:{REGION}:{ACCOUNT}:events"
    unfed = healthy.doctor().of("Functions")
    assert [one["seen"] for one in unfed if one["level"] == "problem"] == [
        "the queue does not feed webhook: its event source mapping is missing"
    ]
    aws("lambda").create_event_source_mapping(EventSourceArn=queue, FunctionName="webhook", BatchSize=1)

    assert "no draft is kept open" in healthy.doctor().only("Destinations")["seen"]
    healthy.deploy(HOLD_DRAFTS="true")
    found = healthy.doctor()
    assert {one["level"] for one in found.findings} == {"ok"}
    assert "0 events of Stripe on theirs" in found.of("Queues")[0]["seen"]

    from moto.events.models import events_backends  # noqa: PLC0415 - where moto keeps them

    events_backends[ACCOUNT][REGION].event_sources[sources[SNAPSHOT]].state = "PENDING"
    assert "no active bus is associated" in healthy.doctor().only("Destinations")["seen"]
    events_backends[ACCOUNT][REGION].event_sources[sources[SNAPSHOT]].state = "ACTIVE"
    world.stripe.associate(sources[THIN], "deleted")
    seen = [one["seen"] for one in healthy.doctor().of("Destinations")]
    assert any("is disabled (no_aws_event_source_exists)" in one for one in seen)
    assert any("has an event source that is deleted in AWS" in one for one in seen)
