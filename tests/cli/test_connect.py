"""`connect` brings the webhook endpoint in Stripe and the stack's secret in line."""

from __future__ import annotations

import json
from typing import Any

import boto3
import pytest

from cli.destination import EVENT_TYPES, THIN_EVENT_TYPES
from tests.cli.conftest import OPENMETER_KEY, STACK, WEBHOOK_URL, Run, secret_of
from tests.integration.world import API_KEY, World
from usage_reporting.credentials import Secret
from usage_reporting.error_reports import THIN_EVENTS
from usage_reporting.renewals import HANDLED
from usage_reporting.stripe_api import API_VERSION

pytestmark = pytest.mark.usefixtures("world_in_moto")

PLACEHOLDERS = {
    "stripe_api_key": "replace-me",
    "stripe_webhook_secret": "replace-me",
    "openmeter_api_key": "replace-me",
}


@pytest.fixture(autouse=True)
def fresh_stack(world: World, stack: str) -> None:
    """As the template leaves it."""
    put(world, PLACEHOLDERS)


def put(world: World, secret: dict[str, Any] | str) -> None:
    text = secret if isinstance(secret, str) else json.dumps(secret)
    world.secrets.put_secret_value(SecretId="keys", SecretString=text)


def endpoints(world: World) -> list[Any]:
    return list(world.stripe.account.endpoints)


def destinations(world: World) -> list[Any]:
    return list(world.stripe.account.destinations)


def thin_secret(world: World) -> str:
    value: str = destinations(world)[0].secrets[0].value
    return value


def versions_of_secret(world: World) -> int:
    listed = world.secrets.list_secret_version_ids(SecretId="keys", IncludeDeprecated=True)
    return len(listed["Versions"])


def test_a_new_stack_gets_an_endpoint_and_its_keys(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENMETER_API_KEY", OPENMETER_KEY)

    result = run("connect", "--stack", STACK)

    assert result.code == 0
    assert WEBHOOK_URL in result.out
    assert "must have stopped an hour before" in result.err
    [endpoint] = endpoints(world)
    assert (endpoint.url, endpoint.api_version) == (WEBHOOK_URL, API_VERSION)
    assert set(endpoint.enabled_events) == HANDLED
    [destination] = destinations(world)
    assert destination.url == WEBHOOK_URL
    assert set(destination.enabled_events) == THIN_EVENTS
    held = Secret.from_json(world.secrets.get_secret_value(SecretId="keys")["SecretString"])
    assert held.stripe_api_key == API_KEY
    assert set(held.stripe_webhook_secrets) == {endpoint.secrets[0].value, thin_secret(world)}
    assert held.openmeter_api_key == OPENMETER_KEY


def test_connected_twice_nothing_changes(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    before = endpoints(world)[0].id, secret_of(world), versions_of_secret(world)

    result = run("connect", "--stack", STACK, "--json")

    assert result.code == 0
    assert (endpoints(world)[0].id, secret_of(world), versions_of_secret(world)) == before
    assert len(endpoints(world)) == 1
    assert len(destinations(world)) == 1
    assert result.json["events"] == [*EVENT_TYPES, *THIN_EVENT_TYPES]


def test_without_an_openmeter_key_the_stored_one_stays(run: Run, world: World) -> None:
    put(world, {**PLACEHOLDERS, "openmeter_api_key": "kept"})
    run("connect", "--stack", STACK)
    assert secret_of(world)["openmeter_api_key"] == "kept"

    put(world, PLACEHOLDERS)
    run("connect", "--stack", STACK)
    assert "openmeter_api_key" not in secret_of(world)


def test_another_version_is_replaced_and_the_old_secret_stays_for_a_while(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    [old] = endpoints(world)
    old.api_version = "2025-02-24.acacia"
    old_secret = old.secrets[0].value

    result = run("connect", "--stack", STACK)

    [new] = endpoints(world)
    assert new.id != old.id
    assert new.api_version == API_VERSION
    assert f"deleted webhook endpoint {old.id}" in result.out
    thin = thin_secret(world)
    assert secret_of(world)["stripe_webhook_secret"] == [new.secrets[0].value, thin, old_secret]

    run("connect", "--stack", STACK)
    assert secret_of(world)["stripe_webhook_secret"] == [new.secrets[0].value, thin]
    assert endpoints(world) == [new]


def test_the_new_endpoint_comes_before_the_old_one_goes(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    endpoints(world)[0].api_version = "2025-02-24.acacia"
    world.stripe.log.clear()

    run("connect", "--stack", STACK)

    methods = [request.method for request in world.stripe.log.requests]
    assert methods[:4] == ["GET", "GET", "POST", "DELETE"]


@pytest.mark.parametrize(
    "lost", [{"stripe_webhook_secret": ["whsec_pasted"]}, {"stripe_webhook_endpoints": {}}]
)
def test_an_endpoint_whose_secret_is_not_known_is_replaced(
    run: Run, world: World, lost: dict[str, Any]
) -> None:
    run("connect", "--stack", STACK)
    [old] = endpoints(world)
    put(world, {**secret_of(world), **lost})

    assert run("connect", "--stack", STACK).code == 0

    [new] = endpoints(world)
    assert new.id != old.id
    held = secret_of(world)["stripe_webhook_secret"]
    assert {new.secrets[0].value, thin_secret(world)} <= set(held)
    assert len(destinations(world)) == 1
    assert set(lost.get("stripe_webhook_secret", [])) <= set(secret_of(world)["stripe_webhook_secret"])


def test_other_events_or_a_disabled_endpoint_are_mended_in_place(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    [endpoint] = endpoints(world)
    endpoint.enabled_events = ["*"]
    endpoint.status = "disabled"
    [destination] = destinations(world)
    destination.enabled_events = []
    destination.status = "disabled"
    before = secret_of(world)

    result = run("connect", "--stack", STACK)

    assert f"updated webhook endpoint {endpoint.id}" in result.out
    assert endpoints(world) == [endpoint]
    assert set(endpoint.enabled_events) == HANDLED
    assert endpoint.status == "enabled"
    assert f"updated event destination {destination.id}" in result.out
    assert destinations(world) == [destination]
    assert set(destination.enabled_events) == THIN_EVENTS
    assert destination.status == "enabled"
    assert secret_of(world) == before


def test_endpoints_of_others_are_left_alone(run: Run, world: World) -> None:
    other = world.client.v1.webhook_endpoints.create(
        {"url": "https://example.com/hooks", "enabled_events": ["*"]}
    )
    put(world, {**PLACEHOLDERS, "stripe_webhook_secret": ["whsec_of_another_destination"]})

    thin = world.client.v2.core.event_destinations.create(
        {
            "name": "another",
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "enabled_events": list(THIN_EVENTS),
            "webhook_endpoint": {"url": "https://example.com/hooks"},
        }
    )

    run("connect", "--stack", STACK)

    assert {one.id for one in destinations(world)} > {thin.id}
    assert other.id in {endpoint.id for endpoint in endpoints(world)}
    assert "whsec_of_another_destination" in secret_of(world)["stripe_webhook_secret"]


def test_a_new_endpoint_whose_secret_cannot_be_kept_is_taken_back(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr("cli.stack.Stack.write_secret", fail)

    result = run("connect", "--stack", STACK)

    assert result.code == 1
    assert result.err.startswith("error: unexpected OSError at test_connect.py:")
    assert endpoints(world) == []
    assert destinations(world) == []


def test_a_stack_connected_before_gets_the_second_destination_alone(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    before = endpoints(world)[0].id
    world.stripe.account.destinations.remove(destinations(world)[0].id)

    result = run("connect", "--stack", STACK)

    [destination] = destinations(world)
    assert f"created event destination {destination.id}" in result.out
    assert [one.id for one in endpoints(world)] == [before]
    held = secret_of(world)
    assert len(held["stripe_webhook_secret"]) == 2
    assert held["stripe_webhook_endpoints"][destination.id] == thin_secret(world)


def test_a_destination_whose_secret_is_not_known_is_replaced(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    old = destinations(world)[0].id
    held = secret_of(world)
    del held["stripe_webhook_endpoints"][old]
    put(world, held)

    result = run("connect", "--stack", STACK)

    [new] = destinations(world)
    assert new.id != old
    assert f"deleted event destination {old}" in result.out
    assert thin_secret(world) in secret_of(world)["stripe_webhook_secret"]


def test_without_the_permission_for_the_second_nothing_is_left_behind(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scopes = {"webhook": "write", "event_destination": "read"}
    world.stripe.change_settings(restricted_keys={"rk_test_narrow": scopes})
    monkeypatch.setenv("STRIPE_KEY", "rk_test_narrow")

    result = run("connect", "--stack", STACK)

    assert result.code != 0
    assert "rak_event_destination_write" in result.err
    assert endpoints(world) == []
    assert secret_of(world) == PLACEHOLDERS


def test_a_secret_that_is_no_object_is_not_overwritten(run: Run, world: World) -> None:
    put(world, "sk_live_by_hand")

    result = run("connect", "--stack", STACK)

    assert result.code == 1
    assert "is no JSON object" in result.err
    assert world.secrets.get_secret_value(SecretId="keys")["SecretString"] == "sk_live_by_hand"
    assert endpoints(world) == []


def test_a_key_that_stripe_does_not_accept_writes_nothing(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_KEY", "sk_test_revoked")

    result = run("connect", "--stack", STACK)

    assert result.code == 2
    assert "does not accept the key in STRIPE_KEY" in result.err
    assert secret_of(world) == PLACEHOLDERS


def test_a_key_of_the_other_mode_is_warned_of(run: Run, world: World) -> None:
    put(world, {**PLACEHOLDERS, "stripe_api_key": "rk_live_before"})

    assert "key of live mode before, and uses one of test mode now" in run("connect", "--stack", STACK).err


def test_without_a_key_and_a_terminal_it_is_wrong_use(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRIPE_KEY")

    result = run("connect", "--stack", STACK)

    assert result.code == 2
    assert result.err.startswith("error: STRIPE_KEY is not set and there is no terminal")


def test_at_a_terminal_the_key_is_asked_for_and_not_shown(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STRIPE_KEY")
    monkeypatch.setattr("cli.connect.is_terminal", lambda: True)

    result = run("connect", "--stack", STACK, input=f"{API_KEY}\n")

    assert result.code == 0, result.err
    assert secret_of(world)["stripe_api_key"] == API_KEY


def test_a_stack_of_something_else_is_wrong_use(run: Run, world: World) -> None:
    boto3.client("cloudformation").create_stack(
        StackName="other", TemplateBody='{"Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}'
    )

    assert run("connect", "--stack", "other").code == 2
    missing = run("connect", "--stack", "nowhere")
    assert missing.code == 2
    assert "there is no stack 'nowhere' in us-east-1" in missing.err


def test_removed_are_both_destinations_and_nothing_else(run: Run, world: World) -> None:
    other = world.client.v1.webhook_endpoints.create(
        {"url": "https://example.com/hooks", "enabled_events": ["*"]}
    )
    run("connect", "--stack", STACK)
    [ours] = [one.id for one in endpoints(world) if one.id != other.id]
    [thin] = [one.id for one in destinations(world)]
    before = secret_of(world)

    result = run("connect", "--remove", "--stack", STACK, "--yes")

    assert result.code == 0, result.err
    assert f"deleted webhook endpoint {ours}" in result.out
    assert f"deleted event destination {thin}" in result.out
    assert "left the secret arn:" in result.out
    assert "left the ledger ledger" in result.out
    assert [one.id for one in endpoints(world)] == [other.id]
    assert destinations(world) == []
    assert secret_of(world) == before, "the functions go on with these keys"


def test_what_is_removed_can_be_connected_again(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    old = set(secret_of(world)["stripe_webhook_secret"])
    run("connect", "--remove", "--stack", STACK, "--yes")
    again = run("connect", "--remove", "--stack", STACK, "--yes", "--json")
    assert (again.code, again.json["deleted"]) == (0, [])

    assert run("connect", "--stack", STACK).code == 0

    assert len(endpoints(world)) == len(destinations(world)) == 1
    assert not old & set(secret_of(world)["stripe_webhook_secret"])


def test_an_endpoint_of_the_address_that_connect_did_not_make_stays(run: Run, world: World) -> None:
    by_hand = world.client.v1.webhook_endpoints.create({"url": WEBHOOK_URL, "enabled_events": ["*"]})

    result = run("connect", "--remove", "--stack", STACK, "--yes")

    assert result.code == 0
    assert f"left webhook endpoint {by_hand.id}: it is at the stack's address" in result.out
    assert [one.id for one in endpoints(world)] == [by_hand.id]


def test_a_stack_of_the_same_name_elsewhere_keeps_its_own(run: Run, world: World) -> None:
    elsewhere = made_for(world, STACK, WEBHOOK_URL.replace("us-east-1", "eu-west-1"))
    run("connect", "--stack", STACK)

    result = run("connect", "--remove", "--stack", STACK, "--yes")

    assert f"left webhook endpoint {elsewhere}: made for another stack of this name" in result.out
    assert [one.id for one in endpoints(world)] == [elsewhere]


def made_for(world: World, stack: str, url: str) -> str:
    """An endpoint as `connect` makes it."""
    metadata = {"usage_reporter_stack": stack}
    endpoint = {"url": url, "enabled_events": ["*"], "metadata": metadata}
    return str(world.client.v1.webhook_endpoints.create(endpoint).id)


def test_after_the_stack_is_gone_its_destinations_can_still_be_removed(run: Run, world: World) -> None:
    run("connect", "--stack", STACK)
    boto3.client("cloudformation").delete_stack(StackName=STACK)

    result = run("connect", "--remove", "--stack", STACK, "--yes")

    assert result.code == 0, result.err
    assert "left the table and the secret that the deleted stack kept" in result.out
    assert endpoints(world) == destinations(world) == []


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ([WEBHOOK_URL.replace("us-east-1", "eu-west-1")], "pass the --region of that address"),
        ([WEBHOOK_URL, WEBHOOK_URL.replace("abc123", "def456")], "have several addresses"),
        (["https://us-east-1.example.com/hooks"], "pass the --region of that address"),
    ],
)
def test_without_the_stack_nothing_is_removed_that_may_be_anothers(
    run: Run, world: World, urls: list[str], said: str
) -> None:
    made = [made_for(world, "gone", url) for url in urls]

    result = run("connect", "--remove", "--stack", "gone", "--yes")

    assert result.code == 2
    assert said in result.err
    assert [one.id for one in endpoints(world)] == made


def test_removal_asks_first_and_takes_no_for_an_answer(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("connect", "--stack", STACK)
    asked_nobody = run("connect", "--remove", "--stack", STACK)
    assert (asked_nobody.code, len(endpoints(world))) == (2, 1)
    monkeypatch.setattr("cli.removal.is_terminal", lambda: True)

    refused = run("connect", "--remove", "--stack", STACK, input="n\n")
    assert (refused.code, len(endpoints(world))) == (1, 1)
    assert WEBHOOK_URL in refused.err
    assert "by its ticks alone" in refused.err

    assert run("connect", "--remove", "--stack", STACK, input="y\n").code == 0
    assert endpoints(world) == destinations(world) == []


def test_a_stack_that_may_be_in_another_account_is_warned_of(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No address says whose account it is in: the wrong credentials see no stack, as if it were deleted."""
    made = made_for(world, "gone", WEBHOOK_URL)
    monkeypatch.setattr("cli.removal.is_terminal", lambda: True)

    refused = run("connect", "--remove", "--stack", "gone", input="n\n")

    assert refused.code == 1
    assert "If it is in another AWS account it is alive" in refused.err
    assert [one.id for one in endpoints(world)] == [made]


def test_a_removal_that_stops_half_way_is_finished_by_the_next(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("connect", "--stack", STACK)
    world.stripe.change_settings(
        restricted_keys={"rk_test_narrow": {"webhook": "write", "event_destination": "read"}}
    )
    with monkeypatch.context() as narrow:
        narrow.setenv("STRIPE_KEY", "rk_test_narrow")
        stopped = run("connect", "--remove", "--stack", STACK, "--yes")
    assert stopped.code == 2
    assert "rak_event_destination_write" in stopped.err
    assert "deleted webhook endpoint" in stopped.out
    assert "rk_test_narrow" not in stopped.out + stopped.err
    assert (len(endpoints(world)), len(destinations(world))) == (0, 1)

    assert run("connect", "--remove", "--stack", STACK, "--yes").code == 0
    assert endpoints(world) == destinations(world) == []


def test_one_that_somebody_deletes_meanwhile_does_not_keep_the_other(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("connect", "--stack", STACK)
    monkeypatch.setattr("cli.removal.is_terminal", lambda: True)

    def says_yes(*_: object, **__: object) -> bool:
        world.client.v1.webhook_endpoints.delete(endpoints(world)[0].id)
        return True

    [gone] = [one.id for one in endpoints(world)]

    monkeypatch.setattr("typer.confirm", says_yes)

    result = run("connect", "--remove", "--stack", STACK)

    assert result.code == 0, result.err
    assert f"left nothing of webhook endpoint {gone}: somebody else deleted it" in result.out
    assert f"{STACK}: 1 destinations deleted" in result.out
    assert endpoints(world) == destinations(world) == []


def test_yes_without_remove_is_wrong_use(run: Run, world: World) -> None:
    assert run("connect", "--stack", STACK, "--yes").code == 2
    assert endpoints(world) == []
