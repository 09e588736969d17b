"""The HTTP face: statuses, problem documents, content types, strictness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings, create_app
from sandbox.serve import serve
from tests.sandbox_openmeter.conftest import cloud_event

if TYPE_CHECKING:
    from sandbox.clock import ManualClock

METERS = "/api/v1/meters"
EVENTS = "/api/v1/events"
QUERY = "/api/v1/meters/tokens/query"
METER = {
    "slug": "api_calls",
    "eventType": "call",
    "aggregation": "SUM",
    "valueProperty": "$.ms",
}


def problem(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == "about:blank"
    assert document["status"] == status
    return document


def ingest(http: httpx.Client, *events: dict[str, Any]) -> None:
    response = http.post(
        EVENTS,
        json=list(events),
        headers={"content-type": "application/cloudevents-batch+json"},
    )
    assert response.status_code == 204, response.text
    assert response.content == b""


def test_a_meter_lives_and_dies(http: httpx.Client) -> None:
    created = http.post(METERS, json={**METER, "groupBy": {"path": "$.path"}})
    assert created.status_code == 201
    meter = created.json()
    assert meter == {
        "id": meter["id"],
        "slug": "api_calls",
        "name": "api_calls",
        "aggregation": "SUM",
        "eventType": "call",
        "valueProperty": "$.ms",
        "groupBy": {"path": "$.path"},
        "createdAt": "2027-01-02T00:00:00Z",
        "updatedAt": "2027-01-02T00:00:00Z",
    }
    assert len(meter["id"]) == 26
    assert http.get(f"{METERS}/api_calls").json() == meter
    assert http.get(f"{METERS}/{meter['id']}").json() == meter
    assert [m["slug"] for m in http.get(METERS).json()] == ["api_calls", "calls", "tokens"]

    conflict = problem(http.post(METERS, json=METER), 409)
    assert conflict["detail"] == "conflict error: meter with the same slug already exists"

    assert http.delete(f"{METERS}/api_calls").status_code == 204
    assert [m["slug"] for m in http.get(METERS).json()] == ["calls", "tokens"]
    assert len(http.get(METERS, params={"includeDeleted": "true"}).json()) == 3
    problem(http.get(f"{METERS}/api_calls"), 404)
    assert http.get(f"{METERS}/{meter['id']}").json()["deletedAt"] == "2027-01-02T00:00:00Z"
    assert http.get(f"{METERS}/{meter['id']}/query").status_code == 200
    assert http.post(METERS, json=METER).json()["id"] != meter["id"]


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"slug": "Api-Calls"}, "/slug"),
        ({"slug": "a" * 65}, "/slug"),
        ({"aggregation": "MEDIAN"}, "/aggregation"),
        ({"eventType": ""}, "/eventType"),
        ({"eventType": 7}, "/eventType"),
        ({"description": ""}, "/description"),
        ({"eventFrom": "yesterday"}, "/eventFrom"),
        ({"groupBy": {"a": 1}}, "/groupBy"),
        ({"windowSize": "MINUTE"}, "/windowSize"),
        ({"valueProperty": "ms"}, "meter value property must start with $"),
        ({"valueProperty": "$.a..b"}, "invalid JSONPath"),
        ({"aggregation": "COUNT"}, "meter value property is not allowed"),
        ({"groupBy": {"a-b": "$.a"}}, "meter group by key a-b is invalid"),
        ({"groupBy": {"a": "b"}}, "meter group by value must start with $ for key a"),
        ({"groupBy": {"a": "$.ms"}}, "cannot be the same as value property"),
    ],
)
def test_an_impossible_meter_is_refused(http: httpx.Client, changes: dict[str, Any], detail: str) -> None:
    assert detail in problem(http.post(METERS, json=METER | changes), 400)["detail"]


def test_a_meter_needs_its_value(http: httpx.Client) -> None:
    body = {name: value for name, value in METER.items() if name != "valueProperty"}
    detail = problem(http.post(METERS, json=body), 400)["detail"]
    assert detail == ("validation error: meter value property is required when the aggregation is not count")
    assert '"slug" is missing' in problem(http.post(METERS, json={}), 400)["detail"]
    assert http.post(METERS, json=body | {"aggregation": "COUNT"}).status_code == 201


def test_servers_that_answer_200_on_creation(clock: ManualClock) -> None:
    sandbox = OpenMeterSandbox(clock, OpenMeterSettings(create_status=200))
    with serve(create_app(sandbox)) as url:
        assert httpx.post(url + METERS, json=METER).status_code == 200


def test_a_bad_slug_is_400_and_an_unknown_one_404(http: httpx.Client) -> None:
    for bad in ("no-hyphens", "Capital", "trailing_", "a" * 65):
        document = problem(http.get(f"{METERS}/{bad}/query"), 400)
        assert 'parameter "meterIdOrSlug" in path' in document["detail"]
        assert "instance" not in document
    document = problem(http.get(f"{METERS}/unknown/query"), 404)
    assert document["title"] == "Not Found"
    assert document["detail"] == "not found error: meter not found: unknown"
    assert document["instance"].startswith("urn:request:")


def test_events_by_each_content_type(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    for number, content_type in enumerate(("application/cloudevents+json", "application/json")):
        answer = http.post(EVENTS, json=cloud_event(f"one-{number}"), headers={"content-type": content_type})
        assert answer.status_code == 204
    for number, content_type in enumerate(("application/cloudevents-batch+json", "application/json")):
        events = [cloud_event(f"{number}-{n}") for n in range(3)]
        answer = http.post(EVENTS, json=events, headers={"content-type": content_type})
        assert answer.status_code == 204
    assert openmeter.query("calls").rows[0].value == 8


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json; charset=utf-8", "{}"),
        ("application/cloudevents+json;charset=utf-8", "{}"),
        ("text/plain", "{}"),
        ("application/cloudevents+json", "[]"),
        ("application/cloudevents-batch+json", "{}"),
        ("application/json", "[]"),
        ("application/json", "{"),
        ("application/json", '"event"'),
        ("application/json", '{"data": {"value": NaN}}'),
        ("application/json", '{"data": {"value": 1e999}}'),
    ],
)
def test_a_wrong_envelope_is_refused(http: httpx.Client, content_type: str, body: str) -> None:
    answer = http.post(EVENTS, content=body, headers={"content-type": content_type})
    assert problem(answer, 400)["detail"].startswith(("invalid content type:", "invalid event:"))


@pytest.mark.parametrize(
    "changes",
    [
        {"id": ""},
        {"id": 5},
        {"subject": None},
        {"subject": ""},
        {"source": None},
        {"type": None},
        {"specversion": None},
        {"specversion": "0.3"},
        {"time": "2027-01-01"},
        {"time": "2027-01-01 10:00:00Z"},
        {"time": "2027-02-30T10:00:00Z"},
        {"time": "1969-12-31T23:59:59Z"},
        {"time": 1},
        {"data": "text"},
        {"data": [1]},
        {"datacontenttype": "text/plain"},
    ],
)
def test_an_invalid_event_takes_the_whole_batch_with_it(
    http: httpx.Client, openmeter: OpenMeterSandbox, changes: dict[str, Any]
) -> None:
    batch = [cloud_event("good"), cloud_event("bad") | changes]
    headers = {"content-type": "application/cloudevents-batch+json"}
    problem(http.post(EVENTS, json=batch, headers=headers), 400)
    assert openmeter.query("calls").rows[0].value == 0


def test_optional_attributes_may_be_null_or_missing(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    event = cloud_event("1", time=None, data=None, datacontenttype=None, traceparent="00-ab")
    ingest(http, event)
    row = openmeter.query("calls").rows[0]
    assert (row.value, row.window_start) == (1, "2027-01-02T00:00:00Z")


def test_the_answer_of_a_query(http: httpx.Client) -> None:
    ingest(http, cloud_event(data={"value": 2.5, "model": "a"}))
    body = {
        "from": "2027-01-01T09:59:00+00:00",
        "to": "2027-01-01T11:00:00.250Z",
        "windowSize": "HOUR",
        "subject": ["cus_1"],
        "groupBy": ["model"],
    }
    answer = http.post(QUERY, json=body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {
        "from": "2027-01-01T09:59:00Z",
        "to": "2027-01-01T11:00:00.25Z",
        "windowSize": "HOUR",
        "data": [
            {
                "value": 2.5,
                "windowStart": "2027-01-01T10:00:00Z",
                "windowEnd": "2027-01-01T11:00:00Z",
                "subject": "cus_1",
                "groupBy": {"model": "a"},
            }
        ],
    }


def test_bounds_that_were_not_sent_are_not_echoed(http: httpx.Client) -> None:
    ingest(http, cloud_event())
    assert http.get(QUERY).json() == {
        "data": [
            {
                "value": 1,
                "windowStart": "2027-01-01T10:00:00Z",
                "windowEnd": "2027-01-01T10:01:00Z",
                "subject": None,
                "groupBy": {},
            }
        ]
    }


def test_get_and_post_agree(http: httpx.Client) -> None:
    ingest(
        http,
        cloud_event("1", data={"value": 1, "model": "a"}),
        cloud_event("2", data={"value": 10, "model": "b"}, subject="cus_2"),
        cloud_event("3", data={"value": 100, "model": "b"}, subject="cus_3"),
    )
    get = http.get(
        QUERY,
        params={
            "from": "2027-01-01T00:00:00Z",
            "to": "2027-01-02T00:00:00Z",
            "windowSize": "DAY",
            "windowTimeZone": "UTC",
            "subject": ["cus_1", "cus_2"],
            "groupBy": ["model"],
            "filterGroupBy[model]": "b",
        },
    )
    post = http.post(
        QUERY,
        json={
            "from": "2027-01-01T00:00:00Z",
            "to": "2027-01-02T00:00:00Z",
            "windowSize": "DAY",
            "windowTimeZone": "UTC",
            "subject": ["cus_1", "cus_2"],
            "groupBy": ["model"],
            "filterGroupBy": {"model": ["b"]},
        },
    )
    assert get.status_code == 200, get.text
    assert get.json() == post.json()
    assert [row["value"] for row in get.json()["data"]] == [10]


def test_post_takes_at_most_100_subjects_and_get_more(http: httpx.Client) -> None:
    subjects = [f"cus_{n}" for n in range(101)]
    assert http.post(QUERY, json={"subject": subjects[:100]}).status_code == 200
    detail = problem(http.post(QUERY, json={"subject": subjects}), 400)["detail"]
    assert "maximum number of items is 100" in detail
    assert http.get(QUERY, params={"subject": subjects}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"from": "2027-01-01"},
        {"from": 1_798_761_600},
        {"to": "2027-01-01T24:00:00Z"},
        {"to": "2027-01-01T10:00:00"},
        {"windowSize": "hour"},
        {"windowSize": "SECOND"},
        {"windowSize": 60},
        {"subject": "cus_1"},
        {"subject": [1]},
        {"groupBy": ["model"] * 101},
        {"filterGroupBy": {"model": "a"}},
        {"filterGroupBy": []},
        {"filterCustomerId": ["cus_1"]},
        {"clientId": ""},
        {"subjects": ["cus_1"]},
        {"advancedMeterGroupByFilters": {}},
        [],
    ],
)
def test_a_wrong_body_is_refused(http: httpx.Client, body: object) -> None:
    document = problem(http.post(QUERY, json=body), 400)
    assert document["title"] == "Bad Request"
    assert document["detail"].startswith("request body has an error:")
    assert "instance" not in document


@pytest.mark.parametrize(
    "params",
    [
        {"from": "soon"},
        {"to": ["2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z"]},
        {"windowSize": "WEEK"},
        {"subjects": "cus_1"},
        {"filterGroupBy": "model"},
    ],
)
def test_a_wrong_parameter_is_refused(http: httpx.Client, params: dict[str, Any]) -> None:
    problem(http.get(QUERY, params=params), 400)


def test_a_plus_that_was_not_encoded_is_a_bad_date(http: httpx.Client, url: str) -> None:
    ingest(http, cloud_event())
    assert http.get(f"{url}{QUERY}?from=2027-01-01T00:00:00%2B00:00").status_code == 200
    problem(http.get(f"{url}{QUERY}?from=2027-01-01T00:00:00+00:00"), 400)


def test_customers_are_unknown(http: httpx.Client) -> None:
    ulid = "01G65Z755AFWAKHE12NY0CQ9FH"
    document = problem(http.post(QUERY, json={"filterCustomerId": [ulid]}), 404)
    assert document["detail"] == f"not found error: customer with id {ulid} not found"
    assert http.post(QUERY, json={"filterCustomerId": []}).status_code == 200


def test_a_body_must_be_json(http: httpx.Client) -> None:
    problem(http.post(QUERY, content=b"{}"), 400)
    problem(http.post(QUERY, content=b"", headers={"content-type": "application/json"}), 400)
    charset = {"content-type": "application/json; charset=utf-8"}
    assert http.post(QUERY, content=b"{}", headers=charset).status_code == 200


def test_subjects_of_a_meter(http: httpx.Client) -> None:
    ingest(
        http,
        cloud_event("1", subject="b"),
        cloud_event("2", subject="a", data=None),
        cloud_event("3", subject="c", time="2027-01-01T12:00:00Z"),
        cloud_event("4", subject="d", type="other"),
    )
    path = f"{METERS}/tokens/subjects"
    assert http.get(path).json() == ["a", "b", "c"]
    bounds = {"from": "2027-01-01T10:00:01Z", "to": "2027-01-01T12:00:01Z"}
    assert http.get(path, params=bounds).json() == ["c"]
    problem(http.get(f"{METERS}/unknown/subjects"), 404)
    problem(http.get(path, params={"from": "x"}), 400)


def test_the_list_of_events(http: httpx.Client, clock: ManualClock) -> None:
    ingest(http, cloud_event("early"), cloud_event("bad", data={"value": "x"}, subject="cus_2"))
    clock.advance(600)
    ingest(http, cloud_event("late", time="2027-01-01T11:00:00Z"))

    listed = http.get(EVENTS).json()
    assert next(item["event"]["id"] for item in listed) == "late"
    assert listed[0] == {
        "event": cloud_event("late", time="2027-01-01T11:00:00Z"),
        "ingestedAt": "2027-01-02T00:10:00Z",
        "storedAt": "2027-01-02T00:10:00Z",
    }
    late = http.get(EVENTS, params={"ingestedAtFrom": "2027-01-02T00:00:01Z"}).json()
    assert [item["event"]["id"] for item in late] == ["late"]
    first = http.get(EVENTS, params={"ingestedAtTo": "2027-01-02T00:00:01Z"}).json()
    assert {item["event"]["id"] for item in first} == {"early", "bad"}
    bad = http.get(EVENTS, params={"subject": "cus_2"}).json()
    assert bad[0]["validationError"] == "event data value cannot be parsed as float64: x"
    assert len(http.get(EVENTS, params={"limit": 1}).json()) == 1
    assert [i["event"]["id"] for i in http.get(EVENTS, params={"id": "arl"}).json()] == ["early"]
    for wrong in (
        {"limit": 101},
        {"limit": 0},
        {"limit": "x"},
        {"from": "2026-01-01T00:00:00Z"},
        {"ingestedAtFrom": "2027-01-02T00:00:00Z", "ingestedAtTo": "2027-01-01T00:00:00Z"},
        {"order": "ASC"},
    ):
        problem(http.get(EVENTS, params=wrong), 400)


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    problem(http.get("/api/v1/values"), 404)
    problem(http.get("/api/v2/events"), 404)
    problem(http.put(METERS, json={}), 405)


def test_the_key_is_asked_for_when_set(clock: ManualClock) -> None:
    sandbox = OpenMeterSandbox(clock, OpenMeterSettings(api_key="om_secret"))
    with serve(create_app(sandbox)) as url:
        problem(httpx.get(url + METERS), 401)
        problem(httpx.get(url + METERS, headers={"authorization": "Bearer om_other"}), 401)
        right = {"authorization": "Bearer om_secret"}
        assert httpx.get(url + METERS, headers=right).json() == []
        assert httpx.get(url + "/healthz").text == "OK"


def test_a_key_does_no_harm_where_none_is_asked_for(http: httpx.Client) -> None:
    assert http.get(METERS, headers={"authorization": "Bearer om_any"}).status_code == 200
