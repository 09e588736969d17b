"""The three functions as Lambda loads them, with the sample events; each twice in one process."""

from __future__ import annotations

import importlib.util
import json
import time
from pathlib import Path
from typing import Any

import pytest

from cli.signing import sample_event, signed_api_gateway_event
from tests.integration.conftest import Moto
from tests.integration.world import HOUR, WEBHOOK_SECRET, World

ROOT = Path(__file__).parents[2]


@pytest.fixture
def deployed(world_in_moto: Moto, world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The environment that the template gives the functions; the real clock, as they have it."""
    world.clock.set(int(time.time()) - 5 * HOUR)
    environment = {
        "SECRET_ID": "keys",
        "LEDGER_TABLE": "ledger",
        "QUEUE_URL": world.queue_url,
        "OPENMETER_URL": world.openmeter_url,
        "STRIPE_API_BASE": world.stripe_url,
        "MODE": "live",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return world


def function(name: str) -> Any:
    """The handler module of a function, loaded afresh as at a cold start."""
    spec = importlib.util.spec_from_file_location(f"{name}_app", ROOT / "src" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Context:
    """As much of Lambda's context as the functions use."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def sample(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "events" / name).read_text())
    return found


def close(module: Any) -> None:
    container = module.container
    container.run(container.reporter.openmeter.aclose())
    container.run(container.billing.api._http_client.close_async())
    container.loop.close()


@pytest.mark.parametrize("kind", ["renewal", "renewal-acacia", "deleted"])
def test_webhook(deployed: World, kind: str) -> None:
    app = function("webhook")
    now = int(time.time())
    event = signed_api_gateway_event(sample_event(kind, now), WEBHOOK_SECRET, now)

    for _ in range(2):
        told = app.handler(event, Context())
        assert told["statusCode"] == 200
        assert json.loads(told["body"])["status"] == "not_ours"
    close(app)


def test_schedule_and_worker(deployed: World) -> None:
    price, _ = deployed.metered_price()
    customer = str(deployed.subscription(price).customer)
    start = deployed.clock()
    deployed.use(customer, start + 60, 5)
    deployed.travel(int(time.time()))
    schedule, worker = function("schedule"), function("worker")

    for scope in ("schedule_all.json", "schedule_all.json", "schedule_closing.json"):
        told = schedule.handler(sample(scope), Context())
        assert told["status"] == "queued"
    for message in _messages(deployed):
        record = {"messageId": message["MessageId"], "body": message["Body"]}
        assert worker.handler({"Records": [record]}, Context())["batchItemFailures"] == []

    assert deployed.held(customer, start, start + HOUR) == 5
    assert len(deployed.meter_events()) == 1
    close(schedule)
    close(worker)


def _messages(world: World) -> list[dict[str, Any]]:
    received = world.sqs.receive_message(QueueUrl=world.queue_url, MaxNumberOfMessages=10)
    found: list[dict[str, Any]] = received["Messages"]
    assert len(found) == 2
    return found


def test_worker_takes_the_sample_page(deployed: World) -> None:
    """The customer of the sample page is nobody's: it has an outcome, and nothing is sent."""
    deployed.openmeter.create_meter("execution_duration", "execution")
    worker = function("worker")

    for _ in range(2):
        told = worker.handler(sample("page.json"), Context())
        assert set(told) == {"status", "batchItemFailures"}

    assert deployed.meter_events() == []
    close(worker)


@pytest.mark.parametrize("name", ["webhook", "schedule", "worker"])
@pytest.mark.parametrize("variable", ["SECRET_ID", "LEDGER_TABLE", "QUEUE_URL", "OPENMETER_URL"])
def test_a_missing_setting_is_named_at_cold_start(
    deployed: World, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    monkeypatch.delenv(variable)

    with pytest.raises(Exception, match=variable):
        function(name)


@pytest.mark.parametrize("scope", [{}, {"scope": "some"}, {"scope": None}, [], None])
def test_an_unknown_scope_is_an_error_that_says_so(deployed: World, scope: Any) -> None:
    app = function("schedule")

    with pytest.raises(Exception, match="'closing', 'all' or 'reconcile'"):
        app.handler(scope, Context())
    close(app)


def test_functions_that_are_not_configured_say_so_and_raise_no_alarm(
    deployed: World, capsys: pytest.CaptureFixture[str]
) -> None:
    deployed.write_secret("replace-me")
    schedule, worker = function("schedule"), function("worker")

    assert schedule.handler({"scope": "all"}, Context())["status"] == "not_configured"
    assert worker.handler(sample("page.json"), Context()) == {
        "status": "not_configured",
        "reason": "the secret still holds the template's placeholders; run `usage-reporter connect`",
        "batchItemFailures": [],
    }
    assert '"TickAll":[1.0]' in capsys.readouterr().out
    close(schedule)
    close(worker)
