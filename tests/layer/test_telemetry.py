"""What is counted and measured, in CloudWatch's embedded metric format, and what is logged."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from tests.layer.builders import customer_meter, span
from usage_reporting import telemetry
from usage_reporting.model import CustomerMeter, Report, Status

NOW = 1_784_116_800

Metric = dict[str, Any]


@pytest.fixture(autouse=True)
def nothing_counted(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No metric is left over from another test, nor for another one."""
    telemetry.flush()
    capsys.readouterr()
    yield
    telemetry.flush()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the logger writes, as a function's log has it."""
    written = io.StringIO()
    [handler] = telemetry.logger.handlers
    monkeypatch.setattr(handler, "stream", written)
    return written


def flushed(capsys: pytest.CaptureFixture[str]) -> list[Metric]:
    telemetry.flush()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def units(document: Metric) -> dict[str, str]:
    [directive] = document["_aws"]["CloudWatchMetrics"]
    return {one["Name"]: one["Unit"] for one in directive["Metrics"]}


def closing(deadline: int) -> CustomerMeter:
    return customer_meter(span(deadline=deadline), closing=True)


def test_an_invocation_with_nothing_to_tell_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert flushed(capsys) == []


def test_calls_are_counted_by_api_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    for api in (telemetry.STRIPE, telemetry.OPENMETER, telemetry.STRIPE):
        telemetry.called(api)

    found = flushed(capsys)

    assert {one["api"]: one["Calls"] for one in found} == {"stripe": [2], "openmeter": [1]}
    for one in found:
        assert one["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service", "api"]]
        assert one["service"] == telemetry.SERVICE
        assert units(one) == {"Calls": "Count"}
    assert flushed(capsys) == []


def test_a_call_that_was_turned_away_has_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.turned_away(telemetry.STRIPE, "endpoint-rate")
    telemetry.turned_away(telemetry.STRIPE, "endpoint-rate")
    telemetry.turned_away(telemetry.OPENMETER)

    found = flushed(capsys)

    assert {(one["api"], one["reason"]): one["RateLimited"] for one in found} == {
        ("stripe", "endpoint-rate"): [2],
        ("openmeter", "unnamed"): [1],
    }
    assert found[0]["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["service", "api", "reason"]]


def test_a_reason_that_nobody_knows_makes_no_metric_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    for reason in ("lock-4711", "lock-4712"):
        telemetry.turned_away(telemetry.STRIPE, reason)

    [one] = flushed(capsys)

    assert (one["reason"], one["RateLimited"]) == ("unnamed", [2])


def test_the_oldest_of_what_waits_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    reports = [
        Report(customer_meter(), Status.HELD, unsent_since=NOW - 7200),
        Report(customer_meter(), Status.UNKNOWN, unsent_since=NOW - 60),
        Report(customer_meter(), Status.UNKNOWN),
        Report(customer_meter(), Status.SENT, unsent_since=NOW - 90_000),
    ]

    telemetry.record(reports, NOW)

    [one] = flushed(capsys)
    assert one["OldestUnsent"] == [7200]
    assert units(one)["OldestUnsent"] == "Seconds"


def test_where_nothing_waits_there_is_no_metric_to_pay_for(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.record([Report(customer_meter(), Status.UNCHANGED), Report(closing(NOW + 60))], NOW)

    [one] = flushed(capsys)
    assert units(one) == {"Unchanged": "Count"}


def test_the_margin_is_measured_where_a_draft_was_not_complete_yet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reports = [
        Report(closing(NOW + 3000), Status.SENT),
        Report(closing(NOW + 600), Status.HELD),
        Report(closing(NOW + 700), Status.UNCHANGED),
        Report(closing(NOW + 800), Status.SHADOW),
        Report(closing(NOW - 5), Status.UNKNOWN),
        Report(customer_meter(), Status.SENT),
    ]

    telemetry.record(reports, NOW)

    [one] = flushed(capsys)
    assert one["DeadlineMargin"] == [3000, 600, 0]
    assert units(one)["DeadlineMargin"] == "Seconds"


def test_a_page_of_drafts_keeps_every_value(capsys: pytest.CaptureFixture[str]) -> None:
    """One document holds at most 100 values of a metric (embedded metric format)."""
    reports = [Report(closing(NOW + seconds), Status.SENT) for seconds in range(1, 151)]

    telemetry.record(reports, NOW)

    found = [one["DeadlineMargin"] for one in flushed(capsys) if "DeadlineMargin" in one]
    assert [len(values) for values in found] == [100, 50]
    assert sorted(value for values in found for value in values) == list(range(1, 151))


def test_how_long_a_page_took_and_which_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    page = [customer_meter(), replace(customer_meter(), customer="cus_2")]

    with pytest.raises(OSError, match="gone"), telemetry.timed(page):
        raise OSError("gone")

    [one] = flushed(capsys)
    [milliseconds] = one["ReportDuration"]
    assert 0 <= milliseconds < 1000
    assert units(one) == {"ReportDuration": "Milliseconds"}
    assert (one["page_first"], one["page_size"], one["page_meter"]) == ("cus_1", 2, "m1")
    telemetry.count("Tick")
    assert "page_first" not in flushed(capsys)[0], "what was said of a page is said of no later invocation"


def test_late_units_and_outcomes_are_counted_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    late = Report(closing(NOW + 1000), Status.HELD, late=Decimal("2.5"))
    unbillable = Report(customer_meter(), Status.UNBILLABLE, unbillable=Decimal(3))

    telemetry.record([late, unbillable], NOW)

    [one] = flushed(capsys)
    assert {name: one[name] for name in ("Held", "Late", "Unbillable", "ClosingUndelivered")} == {
        "Held": [1],
        "Late": [2.5],
        "Unbillable": [3],
        "ClosingUndelivered": [1],
    }


def test_a_problem_can_be_read_and_be_asked_for(log: io.StringIO) -> None:
    report = Report(customer_meter())
    report.note(Status.HELD, "the hour has less")

    telemetry.record([report], NOW)

    line = json.loads(log.getvalue())
    assert line["level"] == "WARNING"
    assert line["message"] == "cus_1: held: the hour has less"
    assert (line["who"], line["outcome"], line["reason"]) == ("cus_1", "held", "the hour has less")
