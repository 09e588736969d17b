"""Reports of refused meter events: what they say, whose events they name, and what becomes of each code."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
from stripe.events import V1BillingMeterErrorReportTriggeredEvent as SdkEvent

from tests.layer.builders import NOON, customer_meter, reading
from usage_reporting import error_reports
from usage_reporting.error_reports import (
    ErrorReport,
    Remedy,
    Sample,
    SentAs,
    advice_for,
    event_id,
    read_report,
    remedy_for,
    sent_as,
)
from usage_reporting.errors import BadRequestError, RejectedError
from usage_reporting.targets import mirror

EVENT: dict[str, Any] = {
    "id": "evt_test_65R",
    "object": "v2.core.event",
    "type": "v1.billing.meter.error_report_triggered",
    "livemode": False,
    "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    "data": {
        "developer_message_summary": "There are 3 invalid events",
        "reason": {
            "error_count": 3,
            "error_types": [
                {
                    "code": "archived_meter",
                    "error_count": 2,
                    "sample_errors": [{"error_message": "archived", "request": {"identifier": "a"}}],
                },
                {
                    "code": "timestamp_in_future",
                    "error_count": 1,
                    "sample_errors": [{"error_message": "future", "request": {"identifier": "b"}}],
                },
            ],
        },
        "validation_start": "2026-07-15T12:00:10.250Z",
        "validation_end": "2026-07-15T12:00:20.250Z",
    },
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    event = copy.deepcopy(EVENT)
    holder: Any = event
    for name in path[:-1]:
        holder = holder[name]
    holder[path[-1]] = to
    return event


def test_a_report_is_read_with_its_window_rounded_outwards() -> None:
    assert read_report(EVENT) == ErrorReport(
        event="evt_test_65R",
        mode="test",
        meter="mtr_1",
        start=NOON + 10,
        end=NOON + 21,
        samples=(Sample("a", "archived_meter", "archived"), Sample("b", "timestamp_in_future", "future")),
        is_complete=False,
    )
    assert read_report({**EVENT, "livemode": True}).mode == "live"
    assert read_report({**EVENT, "related_object": None}).meter == ""


def test_it_is_complete_when_all_it_counts_are_named() -> None:
    types = EVENT["data"]["reason"]["error_types"]
    named_all = changed("data", "reason", "error_types", to=[{**types[0], "error_count": 1}, types[1]])

    assert not read_report(named_all).is_complete, "the total counts one more"
    named_all["data"]["reason"]["error_count"] = 2
    assert read_report(named_all).is_complete
    assert not read_report(changed("data", "reason", "error_count", to=0)).is_complete


@pytest.mark.parametrize(
    "event",
    [
        {**EVENT, "data": None},
        changed("data", "reason", to={}),
        changed("data", "reason", "error_types", 0, "error_count", to="many"),
        changed("data", "reason", "error_types", 0, "sample_errors", 0, "request", to=None),
        changed("data", "validation_start", to="noon"),
        changed("related_object", to="mtr_1"),
    ],
)
def test_a_misshapen_report_is_for_a_person(event: dict[str, Any]) -> None:
    with pytest.raises(RejectedError, match="look at the event in Stripe's Dashboard"):
        read_report(event)


@pytest.mark.parametrize("bad", [None, 5, "", "in_1", "evt_1/../x", "evt_"])
def test_an_event_without_an_id_is_none_of_stripes(bad: Any) -> None:
    assert event_id(EVENT) == "evt_test_65R"
    with pytest.raises(BadRequestError):
        event_id({"id": bad})


def test_an_identifier_leads_back_to_its_entry() -> None:
    one = customer_meter()
    identifier = mirror.identifier(one, reading(5), NOON, reading(5).value)

    for request in (identifier, f"{identifier}.0", f"{identifier}.17"):
        assert sent_as(request) == SentAs(identifier, "cus_1", NOON)
    found = sent_as(identifier)
    assert found is not None
    assert found.keys("self", "test", "mtr_1") == [(one.pk, "2026-07-15"), (one.pk, str(NOON))]


@pytest.mark.parametrize(
    "request_",
    [
        "cb447754-6880-45c2-8f2f-ef19b6ce81e9",
        "",
        "cus_1.1784116800.0",
        "cus_1.1784116800.0.0123456789abcdeg",
        "cus_1.1784116800.0.0123456789abcdef.x",
        "cus_1.1784116800.0.0123456789abcdef.1.2",
        "cus_1.noon.0.0123456789abcdef",
    ],
)
def test_what_others_sent_is_not_ours(request_: str) -> None:
    assert sent_as(request_) is None


def test_each_documented_code_has_its_remedy_and_words_of_its_own() -> None:
    data = SdkEvent.V1BillingMeterErrorReportTriggeredEventData
    literal = get_args(data.Reason.ErrorType.__annotations__["code"])[0]
    codes = set(get_args(literal))
    assert len(codes) == 10

    assert codes <= error_reports._BY_CODE.keys()
    assert remedy_for("timestamp_in_future") is Remedy.RESEND
    assert {code for code in codes if remedy_for(code) is Remedy.WAIT} == {"archived_meter", "no_meter"}
    assert remedy_for("something_new") is Remedy.STOP
    assert "reactivate" in advice_for("archived_meter")
    assert "documentation" in advice_for("something_new")
