"""The stand-in's v3 API: its answers have the form of OpenMeter's OpenAPI document, and it is as strict."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings, create_app
from sandbox.openmeter.v3_documents import numeric
from tests.layer.builders import FixedCredentials
from tests.sandbox_openmeter.conftest import DAY, cloud_event
from tests.sandbox_openmeter.v3_spec import errors
from usage_reporting.errors import RefusedError
from usage_reporting.openmeter import OpenMeter

if TYPE_CHECKING:
    from sandbox.clock import ManualClock

BASE = "/api/v3/openmeter"
FROM, TO = "2027-01-01T00:00:00Z", "2027-01-02T00:00:00Z"
UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
METER = {"key": "seats", "name": "Seats", "aggregation": "max", "event_type": "seat", "value_property": "$.n"}


@pytest.fixture
def tokens(openmeter: OpenMeterSandbox) -> str:
    """The ULID of the meter `tokens`, with usage of two subjects."""
    for number, (subject, hour, value, model) in enumerate(
        [("cus_1", 10, 0.1, "a"), ("cus_1", 10, 0.2, "b"), ("cus_1", 11, 4, "a"), ("cus_2", 10, -3, "a")]
    ):
        time = f"2027-01-01T{hour}:30:00Z"
        data = {"value": value, "model": model}
        openmeter.ingest([cloud_event(str(number), subject=subject, time=time, data=data)])
    return openmeter.meter("tokens").id


def shown(response: httpx.Response, schema: str, status: int = 200) -> dict[str, Any]:
    """The body of an answer, which has the form that the spec wants."""
    assert response.status_code == status, response.text
    body: dict[str, Any] = response.json()
    assert errors(schema, body) == []
    return body


def refused(response: httpx.Response, status: int = 400, kind: str = "bad-request") -> dict[str, Any]:
    """A problem document."""
    assert response.headers["content-type"] == "application/problem+json"
    body = shown(response, "BadRequestError", status)
    assert body["type"] == f"https://kongapi.info/konnect/{kind}"
    assert body["status"] == status
    return body


def ask(http: httpx.Client, meter: str, **body: Any) -> httpx.Response:
    return http.post(f"{BASE}/meters/{meter}/query", json=body)


def chosen(*subjects: str) -> dict[str, Any]:
    return {"dimensions": {"subject": {"in": list(subjects)}}}


def test_meters_are_made_listed_shown_and_deleted(http: httpx.Client) -> None:
    body = {**METER, "description": "", "labels": {"team": "a.b"}, "dimensions": {"plan": "$.plan"}}
    assert errors("CreateMeterRequest", body) == []

    made = shown(http.post(f"{BASE}/meters", json=body), "Meter", 201)
    assert {name: made[name] for name in METER} == METER
    assert (made["labels"], made["dimensions"]) == (body["labels"], body["dimensions"])

    page = shown(http.get(f"{BASE}/meters"), "MeterPagePaginatedResponse")
    assert [one["key"] for one in page["data"]] == ["calls", "seats", "tokens"]
    assert page["meta"]["page"] == {"size": 20, "number": 1, "total": 3}
    assert shown(http.get(f"{BASE}/meters/{made['id']}"), "Meter") == made

    assert http.delete(f"{BASE}/meters/{made['id']}").status_code == 204
    assert shown(http.get(f"{BASE}/meters/{made['id']}"), "Meter")["deleted_at"]
    listed = shown(http.get(f"{BASE}/meters", params={"filter[key]": "seats"}), "MeterPagePaginatedResponse")
    assert listed == {"data": [], "meta": {"page": {"size": 20, "number": 1, "total": 0}}}


@pytest.mark.parametrize(
    ("params", "keys"),
    [
        ({"filter[key]": "tokens"}, ["tokens"]),
        ({"filter[key][eq]": "tokens"}, ["tokens"]),
        ({"filter[key][neq]": "tokens"}, ["calls"]),
        ({"filter[key][oeq]": "tokens, calls,x"}, ["calls", "tokens"]),
        ({"filter[key][contains]": "OKE"}, ["tokens"]),
        ({"filter[name][ocontains]": "oke,x"}, ["tokens"]),
        ({"filter[key]": "tokens", "filter[name]": "calls"}, []),
        ({"filter[key]": "token"}, []),
        ({"sort": "key desc"}, ["tokens", "calls"]),
        ({"page[size]": "1", "page[number]": "2", "sort": "key"}, ["tokens"]),
        ({"page[number]": "3"}, []),
    ],
)
def test_lists_of_meters(http: httpx.Client, params: dict[str, str], keys: list[str]) -> None:
    page = shown(http.get(f"{BASE}/meters", params=params), "MeterPagePaginatedResponse")
    assert sorted(one["key"] for one in page["data"]) == sorted(keys)
    if "sort" in params:
        assert [one["key"] for one in page["data"]] == keys


@pytest.mark.parametrize(
    "params",
    [
        {"filter[slug]": "tokens"},
        {"filter[key][in]": "tokens"},
        {"filter[key][]": "tokens"},
        {"page": "1"},
        {"page[limit]": "1"},
        {"page[size]": "0"},
        {"page[size]": "many"},
        {"page[number]": "0"},
        {"sort": "color"},
        {"sort": "key up"},
        {"includeDeleted": "true"},
        [("filter[key]", "a"), ("filter[key]", "b")],
    ],
)
def test_lists_of_meters_that_are_refused(http: httpx.Client, params: Any) -> None:
    body = refused(http.get(f"{BASE}/meters", params=params))
    [wrong] = body["invalid_parameters"]
    assert wrong["source"] == "query"
    assert body["detail"] == f"Bad Request: {wrong['field']} [{wrong['rule']}]: {wrong['reason']}"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"slug": "seats"}, "slug"),
        ({"eventType": "seat"}, "eventType"),
        ({"key": "No-Key"}, "key"),
        ({"key": "x" * 65}, "key"),
        ({"key": ""}, "key"),
        ({"key": None}, "key"),
        ({"name": ""}, "name"),
        ({"name": "x" * 257}, "name"),
        ({"aggregation": "MAX"}, "aggregation"),
        ({"events_from": "yesterday"}, "events_from"),
        ({"dimensions": {"a": 1}}, "dimensions"),
        ({"labels": {"a": "no spaces"}}, "labels"),
    ],
)
def test_meters_that_are_refused(http: httpx.Client, change: dict[str, Any], field: str) -> None:
    [wrong] = refused(http.post(f"{BASE}/meters", json={**METER, **change}))["invalid_parameters"]
    assert wrong["field"] == field


@pytest.mark.parametrize("name", ["key", "name", "aggregation", "event_type"])
def test_a_meter_needs_its_fields(http: httpx.Client, name: str) -> None:
    body = {field: value for field, value in METER.items() if field != name}
    assert refused(http.post(f"{BASE}/meters", json=body))["invalid_parameters"][0]["field"] == name


def test_what_openmeter_itself_has_against_a_meter(http: httpx.Client) -> None:
    assert (
        "not allowed"
        in refused(http.post(f"{BASE}/meters", json={**METER, "aggregation": "count"}))["detail"]
    )
    assert http.post(f"{BASE}/meters", json=METER).status_code == 201
    refused(http.post(f"{BASE}/meters", json=METER), 409, "resource-conflict")


def test_a_query_by_subjects_and_hours(http: httpx.Client, tokens: str) -> None:
    body = {"from": FROM, "to": TO, "granularity": "PT1H", "filters": chosen("cus_1", "cus_2", "cus_9")}
    assert errors("MeterQueryRequest", body) == []

    result = shown(ask(http, tokens, **body), "MeterQueryResult")

    assert (result["from"], result["to"]) == (FROM, TO)
    assert {
        (row["dimensions"]["subject"], row["from"], row["to"]): row["value"] for row in result["data"]
    } == {
        ("cus_1", "2027-01-01T10:00:00Z", "2027-01-01T11:00:00Z"): "0.30000000000000004",
        ("cus_1", "2027-01-01T11:00:00Z", "2027-01-01T12:00:00Z"): "4",
        ("cus_2", "2027-01-01T10:00:00Z", "2027-01-01T11:00:00Z"): "-3",
    }
    assert all(row["dimensions"].keys() == {"subject"} for row in result["data"])


def test_bounds_are_half_open_and_other_dimensions_are_named(http: httpx.Client, tokens: str) -> None:
    bounds = {"from": "2027-01-01T10:30:00Z", "to": "2027-01-01T11:30:00Z"}
    by_model = {"group_by_dimensions": ["model", "model"], "filters": chosen("cus_1")}

    result = shown(ask(http, tokens, **bounds, **by_model), "MeterQueryResult")
    assert {row["dimensions"]["model"]: row["value"] for row in result["data"]} == {"a": "0.1", "b": "0.2"}
    assert {(row["from"], row["to"]) for row in result["data"]} == {tuple(bounds.values())}

    only = {"filters": {"dimensions": {"subject": {"eq": "cus_1"}, "model": {"in": ["b"]}}}}
    [row] = shown(ask(http, tokens, **only), "MeterQueryResult")["data"]
    assert (row["value"], row["dimensions"]) == ("0.2", {"subject": "cus_1"})


def test_without_a_filter_there_is_one_total_of_all(http: httpx.Client, tokens: str) -> None:
    [row] = shown(ask(http, tokens), "MeterQueryResult")["data"]
    assert float(row["value"]) == pytest.approx(1.3)
    assert row["dimensions"] == {}
    assert shown(ask(http, tokens, filters={"dimensions": {"subject": {}}}), "MeterQueryResult")["data"] == [
        row
    ]

    grouped = shown(ask(http, tokens, group_by_dimensions=["subject"]), "MeterQueryResult")["data"]
    assert {row["dimensions"]["subject"] for row in grouped} == {"cus_1", "cus_2"}


def test_no_usage_is_no_row(http: httpx.Client, tokens: str) -> None:
    assert shown(ask(http, tokens, filters=chosen("cus_9")), "MeterQueryResult") == {"data": []}


def test_a_customers_usage_is_named_by_its_id(
    http: httpx.Client, openmeter: OpenMeterSandbox, tokens: str
) -> None:
    document = {"name": "Both", "usageAttribution": {"subjectKeys": ["cus_1", "cus_2"]}}
    customer = openmeter.create_customer_from(document).id
    filters = {"dimensions": {"customer_id": {"in": [customer]}}}

    [row] = shown(ask(http, tokens, filters=filters), "MeterQueryResult")["data"]
    assert float(row["value"]) == pytest.approx(1.3)
    assert row["dimensions"] == {"customer_id": customer}

    nobody = {"dimensions": {"customer_id": {"eq": UNKNOWN}}}
    refused(ask(http, tokens, filters=nobody), 404, "not-found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"subject": ["a"]}, "subject"),
        ({"windowSize": "HOUR"}, "windowSize"),
        ({"granularity": "HOUR"}, "granularity"),
        ({"granularity": "PT1S"}, "granularity"),
        ({"from": "2027-01-01"}, "from"),
        ({"from": 1}, "from"),
        ({"time_zone": 1}, "time_zone"),
        ({"group_by_dimensions": "subject"}, "group_by_dimensions"),
        ({"filters": []}, "filters"),
        ({"filters": {"subject": {"in": ["a"]}}}, "filters.subject"),
        ({"filters": {"dimensions": {"subject": ["a"]}}}, "filters.dimensions.subject"),
        ({"filters": {"dimensions": {"subject": {"in": []}}}}, "filters.dimensions.subject.in"),
        ({"filters": {"dimensions": {"subject": {"in": ["a"] * 101}}}}, "filters.dimensions.subject.in"),
        ({"filters": {"dimensions": {"subject": {"is": "a"}}}}, "filters.dimensions.subject.is"),
        ({"filters": {"dimensions": {f"d{n}": {"eq": "a"} for n in range(11)}}}, "filters.dimensions"),
    ],
)
def test_bodies_that_are_refused(http: httpx.Client, tokens: str, body: dict[str, Any], field: str) -> None:
    [wrong] = refused(ask(http, tokens, **body))["invalid_parameters"]
    assert (wrong["field"], wrong["source"]) == (field, "body")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"from": TO, "to": FROM}, "from must be before to"),
        ({"from": FROM, "to": FROM}, "from and to cannot be equal"),
        ({"group_by_dimensions": ["color"]}, "invalid group by: color"),
        ({"filters": {"dimensions": {"color": {"eq": "a"}}}}, "invalid group by filter: color"),
        ({"time_zone": "Mars/Base"}, "invalid time zone"),
        ({"group_by_dimensions": ["customer_id"]}, "customer filter is required"),
        ({"filters": {"dimensions": {"subject": {"neq": "a"}}}}, "only eq and in filter operators"),
        ({"filters": {"dimensions": {"subject": {"eq": "a", "in": ["b"]}}}}, "only eq and in"),
    ],
)
def test_queries_that_openmeter_itself_refuses(
    http: httpx.Client, tokens: str, body: dict[str, Any], words: str
) -> None:
    assert words in refused(ask(http, tokens, **body))["detail"]


def test_paths_take_ulids_in_capitals_alone(http: httpx.Client, tokens: str) -> None:
    for name in ("tokens", tokens.lower(), tokens[:-1]):
        refused(http.get(f"{BASE}/meters/{name}"), 404, "not-found")
        refused(ask(http, name, **{"from": FROM}), 404, "not-found")
    assert "meter not found" in refused(ask(http, UNKNOWN), 404, "not-found")["detail"]


def test_there_is_no_get_of_a_query_and_no_list_of_subjects(http: httpx.Client, tokens: str) -> None:
    for path in (f"{BASE}/meters/{tokens}/query", f"{BASE}/meters/{tokens}/subjects", f"{BASE}/values"):
        assert "route" in refused(http.get(path), 404, "not-found")["detail"]


@pytest.mark.parametrize("content", ["", "{", "[1", '{"from": NaN}'])
def test_a_body_that_is_no_json(http: httpx.Client, tokens: str, content: str) -> None:
    head = {"Content-Type": "application/json"}
    refused(http.post(f"{BASE}/meters/{tokens}/query", content=content, headers=head))


def test_events_are_taken_and_listed(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    head = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    event = cloud_event()
    assert errors("MeteringEvent", event) == []
    answer = http.post(f"{BASE}/events", content=json.dumps(event), headers=head)
    assert (answer.status_code, answer.content) == (202, b"")
    for number in range(2, 6):
        openmeter.ingest([cloud_event(str(number), time=f"2027-01-01T1{number}:00:00Z", data=None)])

    first = shown(http.get(f"{BASE}/events", params={"page[size]": "3"}), "IngestedEventPaginatedResponse")
    assert [one["event"]["id"] for one in first["data"]] == ["5", "4", "3"]
    params = {"page[size]": "3", "page[after]": first["meta"]["page"]["next"]}
    rest = shown(http.get(f"{BASE}/events", params=params), "IngestedEventPaginatedResponse")
    assert [one["event"]["id"] for one in rest["data"]] == ["2", "1"]
    assert rest["meta"]["page"] == {"size": 3, "next": None, "previous": None}
    assert rest["data"][1]["event"] == {**event, "datacontenttype": "application/json"}

    params = {"filter[time][gte]": "2027-01-01T14:00:00Z", "filter[subject][eq]": "cus_1"}
    newest = shown(http.get(f"{BASE}/events", params=params), "IngestedEventPaginatedResponse")
    assert [one["event"]["id"] for one in newest["data"]] == ["5", "4"]


@pytest.mark.parametrize(
    "params",
    [
        {"page[size]": "101"},
        {"page[before]": "x"},
        {"page[after]": "x"},
        {"filter[color]": "x"},
        {"filter[time]": "noon"},
        {"filter[time][oeq]": FROM},
        {"sort": "id"},
        {"from": FROM},
    ],
)
def test_lists_of_events_that_are_refused(http: httpx.Client, params: dict[str, str]) -> None:
    refused(http.get(f"{BASE}/events", params=params))


def test_events_that_are_refused(http: httpx.Client) -> None:
    refused(http.post(f"{BASE}/events", json={**cloud_event(), "traceparent": "1"}))
    refused(http.post(f"{BASE}/events", json={**cloud_event(), "subject": ""}))
    refused(http.post(f"{BASE}/events", json=[cloud_event(), 5]))
    refused(http.post(f"{BASE}/events", content="x", headers={"Content-Type": "text/plain"}))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (-0.0, "0"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e21, "1000000000000000000000"),
        (1e-7, "0.0000001"),
        (-1.5, "-1.5"),
        (100.0, "100"),
        (9007199254740993.0, "9007199254740992"),
    ],
)
def test_values_are_texts_without_exponents(value: float, text: str) -> None:
    assert numeric(value) == text
    assert errors("Numeric", numeric(value)) == []


def test_both_mounts_share_all_with_v1(http: httpx.Client, tokens: str) -> None:
    of_one_s_own, konnect = (
        http.post(f"{base}/openmeter/meters/{tokens}/query", json={"group_by_dimensions": ["subject"]}).json()
        for base in ("/api/v3", "/v3")
    )
    assert of_one_s_own == konnect
    older = http.post("/api/v1/meters/tokens/query", json={"groupBy": ["subject"]}).json()["data"]
    assert {row["subject"]: numeric(row["value"]) for row in older} == {
        row["dimensions"]["subject"]: row["value"] for row in konnect["data"]
    }


def test_faults_keys_and_the_log_are_those_of_v1(
    http: httpx.Client, openmeter: OpenMeterSandbox, tokens: str
) -> None:
    openmeter.faults.fail(503, retry_after=2)
    failed = ask(http, tokens)
    assert failed.headers["Retry-After"] == "2"
    assert refused(failed, 503, "internal")["detail"] == "An internal failure occurred"
    openmeter.faults.fail(429)
    refused(ask(http, tokens), 429, "rate-limited")
    openmeter.faults.empty()
    assert shown(ask(http, tokens), "MeterQueryResult") == {"data": []}
    openmeter.faults.drop()
    with pytest.raises(httpx.RemoteProtocolError):
        ask(http, tokens)

    assert openmeter.calls.counts == {"v3_query": 4}
    logged = [(call.api, call.meter, call.status) for call in openmeter.calls.queries]
    assert logged == [("v3", tokens, status) for status in (503, 429, 200, None)]

    openmeter.settings = dataclasses.replace(openmeter.settings, api_key="kpat_1")
    refused(http.get(f"{BASE}/meters"), 401, "unauthenticated")
    assert http.get(f"{BASE}/meters", headers={"Authorization": "Bearer kpat_1"}).status_code == 200


@pytest.mark.parametrize(("served", "other"), [("v1", "v3"), ("v3", "v1")])
def test_one_version_may_be_all_there_is(clock: ManualClock, served: str, other: str) -> None:
    sandbox = OpenMeterSandbox(clock, OpenMeterSettings(apis=(served,)))  # type: ignore[arg-type]

    async def slugs(api: str) -> list[str]:
        transport = httpx.ASGITransport(app=create_app(sandbox))
        openmeter = OpenMeter("http://stand-in", FixedCredentials(), api=api, transport=transport)
        try:
            return await openmeter.slugs()
        finally:
            await openmeter.aclose()

    assert asyncio.run(slugs(served)) == []
    with pytest.raises(RefusedError, match="OPENMETER_URL must be the base address"):
        asyncio.run(slugs(other))


def test_the_clients_own_requests_are_as_the_spec_wants_them(
    openmeter: OpenMeterSandbox, tokens: str
) -> None:
    bodies: list[Any] = []

    class Watched(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.method == "POST":
                bodies.append(json.loads(await request.aread()))
            return await super().handle_async_request(request)

    async def work() -> tuple[Any, ...]:
        transport = Watched(app=create_app(openmeter))
        client = OpenMeter("http://stand-in", FixedCredentials(), api="v3", transport=transport)
        try:
            return (
                await client.totals("tokens", ["cus_1", "cus_2"], DAY, DAY + 86_400),
                await client.hours(tokens, ["cus_1"], DAY, DAY + 86_400),
                await client.subjects("tokens"),
                await client.slugs(),
                len(await client.newest_events()),
                (await client.meter("calls")).aggregation,
            )
        finally:
            await client.aclose()

    totals, hours, subjects, slugs, events, aggregation = asyncio.run(work())
    assert {subject: str(value) for subject, value in totals.items()} == {"cus_1": "4.3", "cus_2": "-3"}
    assert {(hour - DAY) // 3600: str(value) for hour, value in hours["cus_1"].items()} == {
        10: "0.30000000000000004",
        11: "4",
    }
    assert (subjects, sorted(slugs), events, aggregation) == (
        {"cus_1", "cus_2"},
        ["calls", "tokens"],
        4,
        "COUNT",
    )
    assert bodies
    assert [errors("MeterQueryRequest", body) for body in bodies] == [[]] * len(bodies)


def test_customers_are_made_listed_changed_and_deleted(http: httpx.Client) -> None:
    body = {"key": "acme", "name": "Acme", "usage_attribution": {"subject_keys": ["b", "a"]}}
    assert errors("CreateCustomerRequest", body) == []
    made = shown(http.post(f"{BASE}/customers", json=body), "BillingCustomer", 201)
    assert made["usage_attribution"] == {"subject_keys": ["a", "b"]}
    for key in ("Acme-2", "other"):
        http.post(f"{BASE}/customers", json={"key": key, "name": key})

    def listed(**filters: str) -> list[str]:
        asked = {f"filter[key][{how}]": value for how, value in filters.items()}
        page = shown(http.get(f"{BASE}/customers", params=asked), "CustomerPagePaginatedResponse")
        return sorted(one["key"] for one in page["data"])

    assert listed(eq="acme") == ["acme"]
    assert listed(oeq="acme, other,nobody") == ["acme", "other"]
    assert listed(contains="ACME") == ["Acme-2", "acme"]
    for many in (",".join("k" * 51), "k" * 1025):
        refused(http.get(f"{BASE}/customers", params={"filter[key][oeq]": many}))

    url = f"{BASE}/customers/{made['id']}"
    changed = shown(http.put(url, json={"name": "Acme"}), "BillingCustomer")
    assert (changed["key"], "usage_attribution" in changed) == ("acme", False)
    assert [http.delete(url).status_code for _ in range(2)] == [204, 204]
    assert shown(http.get(url), "BillingCustomer")["deleted_at"]
    assert listed(eq="acme") == []


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"name": "Acme"},
        {"key": "acme"},
        {"key": "acme", "name": "Acme", "subject_keys": []},
        {"key": "acme", "name": "Acme", "usage_attribution": {"subject_keys": [""]}},
        {"key": "acme", "name": "Acme", "usage_attribution": {}},
    ],
)
def test_a_wrong_customer_is_refused(http: httpx.Client, body: object) -> None:
    refused(http.post(f"{BASE}/customers", json=body))


def test_a_customers_path_takes_its_ulid_alone(http: httpx.Client) -> None:
    http.post(f"{BASE}/customers", json={"key": "acme", "name": "Acme"})
    for name in ("acme", UNKNOWN):
        refused(http.get(f"{BASE}/customers/{name}"), 404, "not-found")


@pytest.mark.usefixtures("tokens")
def test_the_usage_of_customers_is_a_row_each_also_when_they_were_deleted(
    http: httpx.Client, openmeter: OpenMeterSandbox
) -> None:
    acme = openmeter.create_customer("acme", ["cus_1", "cus_2"])
    for is_deleted in (False, True):
        if is_deleted:
            openmeter.delete_customer("acme")
        body = {"from": FROM, "to": TO, "filters": {"dimensions": {"customer_id": {"in": [acme.id]}}}}
        assert errors("MeterQueryRequest", body) == []
        result = shown(ask(http, openmeter.meter("calls").id, **body), "MeterQueryResult")
        assert [(row["dimensions"], row["value"]) for row in result["data"]] == [
            ({"customer_id": acme.id}, "4")
        ]
    body["filters"] = {"dimensions": {"customer_id": {"in": [UNKNOWN]}}}
    refused(ask(http, openmeter.meter("calls").id, **body), 404, "not-found")
