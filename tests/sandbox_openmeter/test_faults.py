"""Faults on demand, the log of calls, and both over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.sandbox_openmeter.conftest import DAY, cloud_event

if TYPE_CHECKING:
    from sandbox.openmeter import OpenMeterSandbox

QUERY = "/api/v1/meters/tokens/query"


@pytest.fixture(autouse=True)
def usage(openmeter: OpenMeterSandbox) -> None:
    openmeter.ingest([cloud_event()])


def values(http: httpx.Client) -> list[float]:
    return [row["value"] for row in http.get(QUERY).json()["data"]]


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_the_next_queries_fail_with_a_status(
    http: httpx.Client, openmeter: OpenMeterSandbox, status: int
) -> None:
    openmeter.faults.fail(status, times=2, retry_after=3)
    for _ in range(2):
        answer = http.get(QUERY)
        assert answer.status_code == status
        assert answer.headers["retry-after"] == "3"
        assert answer.json()["status"] == status
        assert ("detail" in answer.json()) == (status != 500)
    assert values(http) == [1]


def test_only_queries_suffer_and_no_status_but_real_ones(
    http: httpx.Client, openmeter: OpenMeterSandbox
) -> None:
    openmeter.faults.fail(503)
    assert http.get("/api/v1/meters").status_code == 200
    assert len(openmeter.faults) == 1
    with pytest.raises(ValueError, match="status must be one of"):
        openmeter.faults.fail(200)
    with pytest.raises(ValueError, match="times"):
        openmeter.faults.empty(times=0)


def test_an_empty_answer_looks_like_a_right_one(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    openmeter.faults.empty()
    body = {"from": "2027-01-01T00:00:00Z", "windowSize": "HOUR"}
    answer = http.post(QUERY, json=body)
    assert answer.status_code == 200
    assert answer.json() == {**body, "data": []}
    assert values(http) == [1]


def test_a_delay_longer_than_the_client_waits_is_a_time_out(
    http: httpx.Client, openmeter: OpenMeterSandbox
) -> None:
    openmeter.faults.delay(30)
    with pytest.raises(httpx.ReadTimeout):
        http.get(QUERY, timeout=0.1)
    openmeter.faults.delay(0.05)
    assert values(http) == [1]


def test_a_dropped_connection_is_a_transport_error(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    openmeter.faults.drop()
    with pytest.raises(httpx.RemoteProtocolError):
        http.get(QUERY)
    assert values(http) == [1]


def test_down_drops_everything_until_it_is_up_again(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    openmeter.faults.down = True
    for path in (QUERY, "/api/v1/meters", "/healthz"):
        with pytest.raises(httpx.TransportError):
            http.get(path)
    openmeter.faults.clear()
    assert values(http) == [1]


def test_calls_are_counted_and_queries_logged(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    openmeter.faults.fail(500)
    http.get(QUERY)
    http.post(
        QUERY,
        json={
            "from": "2027-01-01T00:00:00Z",
            "to": "2027-01-02T00:00:00Z",
            "subject": ["cus_1", "cus_2"],
            "windowSize": "HOUR",
        },
    )
    http.get("/api/v1/meters/unknown/query")
    http.get("/api/v1/meters")
    assert openmeter.calls.counts == {"query": 3, "list_meters": 1}
    first, second, third = openmeter.calls.queries
    assert (first.meter, first.status) == ("tokens", 500)
    assert second.query.subjects == ("cus_1", "cus_2")
    assert (second.query.window_size, second.status) == ("HOUR", 200)
    assert second.query.start is not None
    assert second.query.start.seconds == DAY
    assert third.status == 404
    openmeter.calls.reset()
    assert not openmeter.calls.counts
    assert not openmeter.calls.queries


def test_direct_calls_are_neither_logged_nor_faulty(openmeter: OpenMeterSandbox) -> None:
    openmeter.faults.fail(500)
    assert [row.value for row in openmeter.query("tokens").rows] == [1]
    assert not openmeter.calls.counts


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "status": 429, "retry_after": 1, "times": 2},
        {"kind": "status", "status": 503, "times": 2},
        {"kind": "empty", "times": 2},
    ],
)
def test_faults_over_http(http: httpx.Client, fault: dict[str, Any]) -> None:
    assert http.post("/_sandbox/faults", json=fault).status_code == 204
    first = http.get(QUERY)
    assert first.status_code == fault.get("status", 200)
    assert first.json().get("data", []) == []
    assert http.delete("/_sandbox/faults").status_code == 204
    assert values(http) == [1]


def test_the_other_faults_over_http(http: httpx.Client) -> None:
    http.post("/_sandbox/faults", json={"kind": "drop"})
    with pytest.raises(httpx.TransportError):
        http.get(QUERY)
    http.post("/_sandbox/faults", json={"kind": "delay", "seconds": 30})
    with pytest.raises(httpx.ReadTimeout):
        http.get(QUERY, timeout=0.1)
    http.post("/_sandbox/down", json={"down": True})
    with pytest.raises(httpx.TransportError):
        http.get("/api/v1/meters")
    http.post("/_sandbox/down", json={"down": False})
    assert values(http) == [1]


@pytest.mark.parametrize("body", [{}, {"kind": "flood"}, {"kind": "status", "status": 200}, []])
def test_an_unknown_fault_is_refused(http: httpx.Client, body: object) -> None:
    assert http.post("/_sandbox/faults", json=body).status_code == 400
    assert values(http) == [1]


def test_the_log_over_http(http: httpx.Client) -> None:
    http.post(QUERY, json={"subject": ["cus_1"], "from": "2027-01-01T00:00:00Z"})
    log = http.get("/_sandbox/calls").json()
    assert log == {
        "counts": {"query": 1},
        "queries": [
            {
                "meter": "tokens",
                "from": "2027-01-01T00:00:00Z",
                "to": None,
                "subjects": ["cus_1"],
                "customers": [],
                "windowSize": None,
                "status": 200,
                "api": "v1",
            }
        ],
    }
    http.delete("/_sandbox/calls")
    assert http.get("/_sandbox/calls").json() == {"counts": {}, "queries": []}


def test_holding_and_the_truth_over_http(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    http.post("/_sandbox/hold", json={"subject": "cus_1"})
    openmeter.ingest([cloud_event("2", data={"value": 10})])
    assert values(http) == [1]
    truth = {
        "meter": "tokens",
        "subject": "cus_1",
        "from": "2027-01-01T00:00:00Z",
        "to": "2027-01-02T00:00:00Z",
    }
    assert http.get("/_sandbox/usage", params=truth).json() == {"value": 11}
    assert http.post("/_sandbox/release", json={"subject": "cus_1"}).json() == {"released": 1}
    assert values(http) == [11]
    assert http.get("/_sandbox/usage", params={**truth, "meter": "x"}).status_code == 400
