"""What is particular to OpenMeter's v3 API; what both versions have in common is in test_openmeter.py."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.layer.builders import NOON, D
from tests.layer.openmeter_forms import ULID, V3, Api, asked, hours, page, problem, v3_meter
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError
from usage_reporting.openmeter import OpenMeter, OpenMeterMeter
from usage_reporting.openmeter_v3 import KEPT_FOR_S
from usage_reporting.windows import DAY, HOUR, rfc3339

OTHER = "01ARZ3NDEKTSV4RRFFQ69G5FAW"
MONTH = (NOON, NOON + 30 * DAY)


def found(*subjects: str, value: str = "7") -> httpx.Response:
    return V3().rows(*((subject, NOON, value) for subject in subjects))


def v3(api: Any, work: Any, **how: Any) -> Any:
    return asked(api, work, version="v3", **how)


def totals(api: Any, meter: str = "m1", **how: Any) -> Any:
    return v3(api, lambda openmeter: openmeter.totals(meter, ["a", "b"], NOON + 1, NOON + 62), **how)


# Queries


def test_a_meter_is_found_by_its_key_and_asked_by_its_ulid() -> None:
    api = Api([page(v3_meter("m1")), found("a")])

    assert totals(api) == {"a": D(7)}
    look_up, query = api.requests
    assert (look_up.method, look_up.url.path) == ("GET", "/api/v3/openmeter/meters")
    assert dict(look_up.url.params) == {"filter[key]": "m1", "page[size]": "100", "page[number]": "1"}
    assert (query.method, str(query.url)) == (
        "POST",
        f"http://openmeter.test/api/v3/openmeter/meters/{ULID}/query",
    )
    assert api.body(1) == {
        "from": "2026-07-15T12:00:01Z",
        "to": "2026-07-15T12:01:02Z",
        "group_by_dimensions": ["subject"],
        "filters": {"dimensions": {"subject": {"in": ["a", "b"]}}},
    }


def test_hours_of_several_subjects() -> None:
    answer = V3().rows(("a", NOON, "1"), ("b", NOON, "2"), ("a", NOON + HOUR, "0.5"))
    api = Api([answer])

    assert hours(V3(), api, "a", "b") == {"a": {NOON: D(1), NOON + HOUR: D("0.5")}, "b": {NOON: D(2)}}
    assert api.body()["granularity"] == "PT1H"


@pytest.mark.parametrize(
    "bad",
    [
        *("null", "true", "7", "7.5", "[]"),
        *('"NaN"', '"Infinity"', '"-inf"', '"1_000"', '" 7"', '"7 "', '""', '"٣"'),
        *('"0x10"', '"1,5"', '"+1"', '".5"', '"1e9999"'),
    ],
)
def test_a_value_that_is_no_decimal_text_spoils_only_its_subject(bad: str) -> None:
    answer = V3().rows(("a", NOON, "1"), ("b", NOON, "1"))
    text = answer.text.replace('"value":"1"', f'"value":{bad}', 1)

    read = hours(V3(), Api([httpx.Response(200, text=text)]), "a", "b")

    assert not read["a"][NOON].is_finite()
    assert read["b"] == {NOON: D(1)}


def test_other_time_zones_are_the_same_instants() -> None:
    text = '{"data":[{"value":"1","from":"2026-07-15T14:00:00+02:00","dimensions":{"subject":"a"}}]}'

    assert hours(V3(), Api([httpx.Response(200, text=text)])) == {"a": {NOON: D(1)}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>",
        "[]",
        "null",
        "{}",
        '{"data":null}',
        '{"data":["x"]}',
        '{"data":[{"value":"1","from":"2026-07-15T12:00:00Z"}]}',
        '{"data":[{"value":"1","from":"2026-07-15T12:00:00Z","dimensions":null}]}',
        '{"data":[{"value":"1","from":"2026-07-15T12:00:00Z","dimensions":"a"}]}',
        '{"data":[{"value":"1","from":"2026-07-15T12:00:00Z","dimensions":{}}]}',
        '{"data":[{"value":"1","from":"2026-07-15T12:00:00","dimensions":{"subject":"a"}}]}',
        '{"data":[{"value":"1","from":5,"dimensions":{"subject":"a"}}]}',
        '{"data":[{"value":"1","dimensions":{"subject":"a"}}]}',
        '{"data":[{"from":"2026-07-15T12:00:00Z","dimensions":{"subject":"a"}}]}',
        '{"data":[{"subject":"a","windowStart":"2026-07-15T12:00:00Z","value":1}]}',
    ],
)
def test_an_answer_of_another_shape_is_a_reason_to_ask_again(text: str) -> None:
    """A row without its subject is such a shape: taken for nobody's, it would be taken for no usage."""
    with pytest.raises(OpenMeterUnavailableError):
        hours(V3(), Api([httpx.Response(200, text=text)]))


# Meters


def test_many_who_ask_at_once_ask_once_for_the_meter() -> None:
    api = Api([page(v3_meter("m1", "unique_count")), found("a")])

    async def work(openmeter: OpenMeter) -> Any:
        both = openmeter.totals("m1", ["a"], *MONTH), openmeter.totals("m1", ["a"], *MONTH)
        await asyncio.gather(*both)
        return await openmeter.meter("m1")

    assert v3(api, work) == OpenMeterMeter("m1", "UNIQUE_COUNT")
    assert [request.method for request in api.requests] == ["GET", "POST", "POST"]


def test_a_key_is_looked_up_again_in_time_for_a_meter_that_was_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("usage_reporting.openmeter_v3.time.time", lambda: now[0])
    api = Api(
        [page(v3_meter("m1")), found("a"), found("a"), page(v3_meter("m1", meter_id=OTHER)), found("a")]
    )

    async def work(openmeter: OpenMeter) -> None:
        for now[0] in (0.0, KEPT_FOR_S - 1.0, float(KEPT_FOR_S)):
            await openmeter.totals("m1", ["a"], *MONTH)

    v3(api, work)
    queries = [request.url.path for request in api.requests if request.method == "POST"]
    assert [OTHER in path for path in queries] == [False, False, True]
    assert len(api.requests) == 5


def test_a_meter_that_was_made_anew_is_found_at_once_when_openmeter_says_so() -> None:
    anew = page(v3_meter("m1", meter_id=OTHER))
    api = Api([page(v3_meter("m1")), problem(404), anew, found("a"), problem(404), anew])

    async def work(openmeter: OpenMeter) -> None:
        assert await openmeter.totals("m1", ["a"], *MONTH) == {"a": D(7)}
        with pytest.raises(RefusedError, match=r"has no meter 'm1' \(404\)"):
            await openmeter.totals("m1", ["a"], *MONTH)

    v3(api, work)
    queries = [request.url.path for request in api.requests if request.method == "POST"]
    assert [OTHER in path for path in queries] == [False, True, True]
    assert len(api.requests) == 6


def test_om_meter_id_may_be_a_ulid() -> None:
    api = Api([httpx.Response(200, json=v3_meter("m1", "latest")), found("a")])

    async def work(openmeter: OpenMeter) -> tuple[Any, Any]:
        return await openmeter.meter(ULID), await openmeter.totals(ULID, ["a"], *MONTH)

    assert v3(api, work) == (OpenMeterMeter(ULID, "LATEST"), {"a": D(7)})
    assert [request.url.path for request in api.requests] == [
        f"/api/v3/openmeter/meters/{ULID}",
        f"/api/v3/openmeter/meters/{ULID}/query",
    ]


@pytest.mark.parametrize(
    "answer",
    [
        page(),
        page(v3_meter("m12")),
        page(v3_meter("m1", deleted_at="2026-01-01T00:00:00Z")),
    ],
    ids=["none", "another's", "deleted"],
)
def test_an_unknown_key_is_refused(answer: httpx.Response) -> None:
    with pytest.raises(RefusedError, match=r"has no meter 'm1' \(404\); create it or correct om_meter_id"):
        totals(Api([answer]))


def test_an_unknown_ulid_is_refused() -> None:
    with pytest.raises(RefusedError, match=rf"has no meter '{ULID}' \(404\)"):
        totals(Api([problem(404)]), ULID)


def test_several_meters_of_one_key_are_refused() -> None:
    api = Api([page(v3_meter("m1"), v3_meter("m1", meter_id=OTHER))])

    with pytest.raises(RefusedError, match=rf"2 meters 'm1' \({ULID}, {OTHER}\); put the id of one"):
        totals(api)


def test_a_deleted_meter_does_not_stand_in_the_way_of_the_one_that_was_made_anew() -> None:
    old = v3_meter("m1", deleted_at="2026-01-01T00:00:00Z")
    api = Api([page(old, v3_meter("m1", meter_id=OTHER)), found("a")])

    assert totals(api) == {"a": D(7)}
    assert OTHER in api.requests[1].url.path


def test_all_pages_of_meters_are_read() -> None:
    names = [f"m{number}" for number in range(150)]
    pages = [
        page(*map(v3_meter, names[:100]), total=150),
        page(*map(v3_meter, names[100:]), total=150, number=2),
    ]
    api = Api([*pages])

    assert v3(api, OpenMeter.slugs) == names
    assert [request.url.params["page[number]"] for request in api.requests] == ["1", "2"]


def test_a_list_that_ends_before_its_total_ends() -> None:
    assert v3(Api([page(v3_meter("m1"), total=9), page(total=9)]), OpenMeter.slugs) == ["m1"]


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"data": None},
        {"data": ["m1"]},
        {"data": [v3_meter("m1")]},
        {"data": [v3_meter("m1")], "meta": {"page": {"total": None}}},
        {"data": [{"key": "m1", "aggregation": "sum"}], "meta": {"page": {"total": 1}}},
        {"data": [{"key": "m1", "id": ULID}], "meta": {"page": {"total": 1}}},
    ],
)
def test_a_list_of_another_shape_is_a_reason_to_ask_again(document: dict[str, Any]) -> None:
    with pytest.raises(OpenMeterUnavailableError):
        totals(Api([httpx.Response(200, json=document)]))


# Addresses


@pytest.mark.parametrize(
    ("url", "asked_at"),
    [
        ("http://127.0.0.1:8888", "http://127.0.0.1:8888/api/v3/openmeter/events"),
        ("https://openmeter.cloud", "https://openmeter.cloud/api/v3/openmeter/events"),
        ("https://proxy.test/metering", "https://proxy.test/metering/api/v3/openmeter/events"),
        ("https://proxy.test/metering/v3", "https://proxy.test/metering/v3/openmeter/events"),
        ("https://openmeter.test/api/v3", "https://openmeter.test/api/v3/openmeter/events"),
        *(
            (f"https://{region}.api.konghq.com", f"https://{region}.api.konghq.com/v3/openmeter/events")
            for region in ("us", "eu", "au", "me", "in")
        ),
        ("https://us.api.konghq.com/v3", "https://us.api.konghq.com/v3/openmeter/events"),
        ("https://api.konghq.com.test", "https://api.konghq.com.test/api/v3/openmeter/events"),
    ],
)
def test_where_v3_is(url: str, asked_at: str) -> None:
    api = Api([page()])
    v3(api, OpenMeter.newest_events, url=url)

    assert str(api.requests[0].url.copy_with(query=None)) == asked_at


# Refusals


def test_what_has_no_v3_is_said() -> None:
    words = r"404 to /api/v3/openmeter/meters; OPENMETER_URL must be the base address .* with the v3 API"
    with pytest.raises(RefusedError, match=words):
        v3(Api([problem(404)]), OpenMeter.slugs)
    with pytest.raises(RefusedError, match=words):
        totals(Api([problem(404)]))


def test_the_parameters_that_are_wrong_are_named() -> None:
    wrong = [
        {
            "field": "filters.dimensions.subject.in",
            "rule": "max_items",
            "reason": "at most 100",
            "source": "body",
        },
        {"field": "from", "reason": "no date", "source": "body"},
    ]
    answer = httpx.Response(400, json={"title": "Bad Request", "detail": "x", "invalid_parameters": wrong})

    with pytest.raises(RefusedError) as refusal:
        hours(V3(), Api([answer]))
    assert refusal.value.reason == (
        "OpenMeter refuses the query of meter 'm1' (400): "
        "filters.dimensions.subject.in: at most 100; from: no date"
    )


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (
            problem(400, "validation error: from must be before to"),
            "validation error: from must be before to",
        ),
        (problem(422), "Problem"),
        (httpx.Response(400, text="<html>"), ""),
        (httpx.Response(400, json=["x"]), ""),
        (httpx.Response(400, json={"invalid_parameters": [5]}), ""),
    ],
)
def test_other_refusals_are_given_in_openmeters_words(answer: httpx.Response, detail: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        hours(V3(), Api([answer]))
    assert refusal.value.reason == (
        f"OpenMeter refuses the query of meter 'm1' ({answer.status_code}): {detail}"
    )


def test_a_list_that_is_refused_is_no_wrong_address() -> None:
    with pytest.raises(RefusedError, match=r"refuses a list \(400\): no such page"):
        v3(Api([problem(400, "no such page")]), OpenMeter.slugs)


# What the doctor asks


def test_subjects_are_those_with_usage_of_the_meter() -> None:
    api = Api([page(v3_meter("m1")), V3().rows(("a", NOON, "1"), ("b", NOON, "2"), (None, NOON, "3"))])

    assert v3(api, lambda openmeter: openmeter.subjects("m1")) == {"a", "b"}
    assert api.body(1) == {"group_by_dimensions": ["subject"]}


def test_newest_events_are_in_the_form_of_v1() -> None:
    event = {"id": "1", "type": "used", "subject": "a"}
    times = {"ingested_at": rfc3339(NOON), "stored_at": rfc3339(NOON + 1)}
    wrong = [{"code": "x", "message": "no value"}, {"code": "y", "message": "no time"}]
    data = [{"event": event, **times}, {"event": event, **times, "validation_errors": wrong}]
    api = Api([httpx.Response(200, json={"data": data, "meta": {"page": {"size": 100, "next": None}}})])

    fine, bad = v3(api, OpenMeter.newest_events)
    assert fine == {
        "event": event,
        "ingestedAt": rfc3339(NOON),
        "storedAt": rfc3339(NOON + 1),
        "validationError": None,
    }
    assert bad["validationError"] == "no value; no time"
    assert dict(api.requests[0].url.params) == {"page[size]": "100"}
