"""The webhook is measured while it does what it is there for, and the stand-ins' time is not counted."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sandbox.bench import webhook
from sandbox.bench.webhook import NotReportedError, WarmWebhook, measure_webhook


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"QUICK_EVENTS": 5, "WARM_UP": 1, "HOURS_USED": 2}.items():
        monkeypatch.setattr(webhook, name, value)


def test_each_event_is_reported_and_billed() -> None:
    with webhook._Customer.of_a_running_function() as customer:
        before = len(list(customer.stand_ins.stripe.meters.accepted()))
        times = [customer.report() for _ in range(3)]
        answers, calls = len(customer.stand_ins.spent), len(customer.stand_ins.in_clients)
        after = len(list(customer.stand_ins.stripe.meters.accepted()))
    assert after - before == 3
    assert all(0 < taken.own_ms < taken.with_clients_ms for taken in times)
    assert answers == calls > 5


def test_the_numbers_are_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_webhook(quick=True)
    assert isinstance(measured, WarmWebhook)
    assert 0 < measured.p50_ms <= measured.p95_ms
    assert measured.p50_ms < measured.with_clients_p50_ms <= measured.with_clients_p95_ms
    assert measured.events == 5
    assert capsys.readouterr().out == ""


def test_percentiles() -> None:
    ordered = [float(number) for number in range(1, 101)]
    assert webhook._percentile(ordered, 50) == 50
    assert webhook._percentile(ordered, 95) == 95
    assert webhook._percentile([7.0], 95) == 7


def test_the_time_of_the_stand_ins_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(seconds: float) -> None:
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass

    with webhook._Customer.of_a_running_function() as customer:
        usual = max(customer.report().with_clients_ms for _ in range(3))
        run = customer.stand_ins.openmeter.run

        def slow(*asked: Any) -> Any:
            busy(0.2)
            return run(*asked)

        monkeypatch.setattr(customer.stand_ins.openmeter, "run", slow)
        assert customer.report().with_clients_ms < usual + 150


def test_an_event_that_is_not_reported_is_no_measurement() -> None:
    with webhook._Customer.of_a_running_function() as customer:
        renewal = json.loads(customer.event)
        customer.event = json.dumps({**renewal, "type": "customer.created"})
        with pytest.raises(NotReportedError, match="ignored"):
            customer.report()
