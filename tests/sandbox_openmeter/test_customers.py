"""Customers over HTTP, and the usage of all their subjects in one query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from openmeter import Client
from openmeter.models import CustomerCreate, CustomerReplaceUpdate, CustomerUsageAttribution

from tests.sandbox_openmeter.conftest import DAY

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from sandbox.openmeter import OpenMeterSandbox

TEN = DAY + 36_000
CUSTOMERS = "/api/v1/customers"
BOUNDS = {"from": "2027-01-01T00:00:00Z", "to": "2027-01-02T00:00:00Z"}


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(endpoint=url, token="om_any") as client:
        yield client


def asked(http: httpx.Client, meter: str, **body: Any) -> list[dict[str, Any]]:
    answer = http.post(f"/api/v1/meters/{meter}/query", json={**BOUNDS, **body})
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def detail(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["detail"])


def test_the_official_client_makes_lists_changes_and_deletes_customers(client: Client) -> None:
    made = client.customers.create(
        CustomerCreate(
            name="ACME",
            key="cus_1",
            currency="USD",
            usage_attribution=CustomerUsageAttribution(subject_keys=["b", "a"]),
        )
    )
    assert made.usage_attribution is not None
    assert made.usage_attribution.subject_keys == ["a", "b"]
    assert client.customers.get("cus_1").id == made.id == client.customers.get(made.id).id

    client.customers.update(made.id, CustomerReplaceUpdate(name="ACME", key="cus_1"))
    assert client.customers.get("cus_1").usage_attribution is None

    client.customers.delete("cus_1")
    assert client.customers.get(made.id).deleted_at is not None
    assert client.customers.list().total_count == 0


def test_a_list_has_pages_and_filters(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    made = [openmeter.create_customer(f"Cus_{n}", [f"seat_{n}"], name=f"{9 - n}") for n in range(5)]
    openmeter.delete_customer("Cus_4")

    page = http.get(CUSTOMERS, params={"pageSize": 3, "page": 2, "orderBy": "id"}).json()
    assert [one["id"] for one in page["items"]] == [max(one.id for one in made[:4])]
    assert (page["page"], page["pageSize"], page["totalCount"]) == (2, 3, 4)
    assert [one["name"] for one in http.get(CUSTOMERS).json()["items"]] == ["6", "7", "8", "9"]
    assert http.get(CUSTOMERS, params={"key": "cus_"}).json()["totalCount"] == 4
    assert http.get(CUSTOMERS, params={"key": "s_2"}).json()["items"] == [made[2].document()]
    assert http.get(CUSTOMERS, params={"subject": "SEAT_1"}).json()["items"] == [made[1].document()]
    assert http.get(CUSTOMERS, params={"includeDeleted": "true"}).json()["totalCount"] == 5


@pytest.mark.parametrize("params", [{"pageSize": 1001}, {"page": 0}, {"orderBy": "key"}, {"keys": "a"}])
def test_a_wrong_parameter_is_refused(http: httpx.Client, params: dict[str, Any]) -> None:
    assert "has an error" in detail(http.get(CUSTOMERS, params=params), 400)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"key": "cus_1"},
        {"name": "", "key": "cus_1"},
        {"name": "n", "key": ""},
        {"name": "n", "key": "k" * 257},
        {"name": "n"},
        {"name": "n", "usageAttribution": {"subjectKeys": []}},
        {"name": "n", "usageAttribution": {"subjectKeys": [""]}},
        {"name": "n", "usageAttribution": {}},
        {"name": "n", "key": "k", "currency": "usd"},
        {"name": "n", "key": "k", "billingAddress": {"street": "x"}},
        {"name": "n", "key": "k", "metadata": {"a": 1}},
        {"name": "n", "key": "k", "subjectKeys": ["a"]},
    ],
)
def test_a_wrong_customer_is_refused(http: httpx.Client, body: object) -> None:
    detail(http.post(CUSTOMERS, json=body), 400)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"key": "cus_1"}, 'key "cus_1" is already used'),
        ({"key": "seat_1"}, "key seat_1 overlaps with subject of another customer"),
        ({"usageAttribution": {"subjectKeys": ["new", "seat_1"]}}, "already associated with an different"),
        ({"usageAttribution": {"subjectKeys": ["new", "new"]}}, "already associated with an different"),
    ],
)
def test_keys_and_subjects_belong_to_one_customer(
    http: httpx.Client, openmeter: OpenMeterSandbox, body: dict[str, Any], reason: str
) -> None:
    first = openmeter.create_customer("cus_1", ["seat_1"])
    assert reason in detail(http.post(CUSTOMERS, json={"name": "n", **body}), 409)
    assert "overlaps with id" in detail(http.post(CUSTOMERS, json={"name": "n", "key": first.id}), 409)

    openmeter.delete_customer("cus_1")
    if body != {"usageAttribution": {"subjectKeys": ["new", "new"]}}:
        assert http.post(CUSTOMERS, json={"name": "n", **body}).status_code == 201


def test_a_customer_that_is_not_there(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    gone = openmeter.create_customer("cus_1")
    assert http.delete(f"{CUSTOMERS}/cus_1").status_code == 204
    assert "not found" in detail(http.get(f"{CUSTOMERS}/cus_1"), 404)
    assert "is deleted" in detail(http.delete(f"{CUSTOMERS}/{gone.id}"), 412)
    assert "is deleted" in detail(http.put(f"{CUSTOMERS}/{gone.id}", json={"name": "n", "key": "k"}), 412)


def test_unique_values_of_all_a_customers_subjects_are_counted_once(
    http: httpx.Client, openmeter: OpenMeterSandbox
) -> None:
    openmeter.create_meter("users", "login", aggregation="UNIQUE_COUNT")
    acme = openmeter.create_customer("cus_acme", ["seat_1", "seat_2"])
    other = openmeter.create_customer("cus_other", ["seat_3"])
    for subject, user in (
        ("seat_1", "ann"),
        ("seat_1", "bob"),
        ("seat_2", "bob"),
        ("cus_acme", "ann"),
        ("cus_acme", "cid"),
        ("seat_3", "ann"),
        (acme.id, "dan"),
    ):
        openmeter.record("login", subject, TEN, user)
    openmeter.record("login", "seat_1", TEN + 3600, "ann")

    rows = asked(http, "users", filterCustomerId=[other.id, acme.id])
    assert {row["customerId"]: row["value"] for row in rows} == {acme.id: 3, other.id: 1}
    assert all(row["subject"] is None and row["groupBy"] == {} for row in rows)
    assert openmeter.customer_usage("users", "cus_acme", DAY, DAY + 86_400) == 3

    by_hour = asked(http, "users", filterCustomerId=[acme.id], windowSize="HOUR")
    assert [(row["windowStart"], row["value"]) for row in by_hour] == [
        ("2027-01-01T10:00:00Z", 3),
        ("2027-01-01T11:00:00Z", 1),
    ]


def test_a_filter_of_customers_and_one_of_subjects_must_both_fit(
    http: httpx.Client, openmeter: OpenMeterSandbox
) -> None:
    acme = openmeter.create_customer("cus_acme", ["seat_1", "seat_2"])
    for subject in ("seat_1", "seat_2", "seat_3"):
        openmeter.record("prompt", subject, TEN, 1)
    rows = asked(http, "tokens", filterCustomerId=[acme.id], subject=["seat_2", "seat_3"])
    assert [(row["subject"], row["customerId"], row["value"]) for row in rows] == [("seat_2", acme.id, 1)]
    grouped = asked(http, "tokens", filterCustomerId=[acme.id], groupBy=["customer_id", "subject"])
    assert sorted(row["subject"] for row in grouped) == ["seat_1", "seat_2"]


def test_no_customers_at_all_ask_for_everybody(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    openmeter.create_customer("cus_acme", ["seat_1"])
    for subject in ("seat_1", "seat_2"):
        openmeter.record("prompt", subject, TEN, 1)
    (row,) = asked(http, "tokens", filterCustomerId=[])
    assert row["value"] == 2
    assert "customerId" not in row


def test_a_customer_without_usage_has_no_row(http: httpx.Client, openmeter: OpenMeterSandbox) -> None:
    quiet = openmeter.create_customer("cus_quiet")
    assert asked(http, "calls", filterCustomerId=[quiet.id]) == []


def test_a_query_of_customers_that_cannot_be_answered(
    http: httpx.Client, openmeter: OpenMeterSandbox
) -> None:
    query = "/api/v1/meters/tokens/query"
    gone = openmeter.create_customer("cus_gone")
    openmeter.delete_customer("cus_gone")
    assert detail(http.post(query, json={"filterCustomerId": [gone.id]}), 404) == (
        f"not found error: customer with id {gone.id} not found"
    )
    assert "customer filter is required" in detail(http.post(query, json={"groupBy": ["customer_id"]}), 400)
    many = [gone.id] * 101
    assert "maximum number of items is 100" in detail(http.post(query, json={"filterCustomerId": many}), 400)
