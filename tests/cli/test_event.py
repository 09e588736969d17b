"""`event` prints what a function gets."""

from __future__ import annotations

import json

import pytest

from cli.signing import EVENTS, KINDS, event_bridge_event
from tests.cli.conftest import Run
from tests.integration.world import WEBHOOK_SECRET, World
from usage_reporting.event_bridge import invoke
from usage_reporting.webhook import answer


@pytest.mark.parametrize("kind", KINDS)
def test_the_webhook_takes_a_call_of_stripe(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET)

    result = run("event", kind)

    assert result.code == 0
    call = result.json
    body = json.loads(call["body"])
    assert body["created"] == world.clock()
    answered = answer(world.container(), call)
    assert answered.code == 200, answered.reason
    assert answered.status == "not_ours"  # nobody made its subscription here


@pytest.mark.parametrize("kind", KINDS)
def test_over_event_bridge_nothing_is_signed(run: Run, world: World, kind: str) -> None:
    event = run("event", kind, "--ingress", "eventbridge").json

    assert event["detail-type"] == event["detail"]["type"]
    assert event["detail"]["created"] == world.clock()
    assert invoke(world.container(), event)["status"] == "not_ours"


def test_the_sample_of_the_repository_is_what_the_command_makes() -> None:
    sample = json.loads((EVENTS / "renewal_eventbridge.json").read_bytes())
    assert sample == event_bridge_event((EVENTS / KINDS["renewal"]).read_bytes())


@pytest.mark.parametrize(
    ("kind", "file"),
    [("closing", "schedule_closing.json"), ("all", "schedule_all.json"), ("page", "page.json")],
)
def test_events_of_aws_are_printed_as_they_are(
    run: Run, monkeypatch: pytest.MonkeyPatch, kind: str, file: str
) -> None:
    result = run("event", kind, "--json")

    assert result.json == json.loads((EVENTS / file).read_bytes())
    assert result.out.count("\n") == 1


def test_an_unknown_event_is_wrong_use(run: Run) -> None:
    result = run("event", "birthday")

    assert result.code == 2
    assert result.err == (
        "error: there is no event 'birthday'; "
        "take one of renewal, renewal-acacia, deleted, closing, all, reconcile, page\n"
    )


def test_without_a_signing_secret_it_is_wrong_use(run: Run) -> None:
    result = run("event", "renewal")

    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: STRIPE_WEBHOOK_SECRET is not set")
