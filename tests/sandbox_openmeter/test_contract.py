"""The official client works against the stand-in unchanged."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from corehttp.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from openmeter import Client
from openmeter.models import Event, MeterCreate, MeterQueryRequest

from sandbox.openmeter import OpenMeterSandbox, OpenMeterSettings, create_app
from sandbox.serve import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sandbox.clock import ManualClock


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(endpoint=url, token="om_any") as client:
        yield client


def event(event_id: str, hour: int, seconds: int, subject: str = "cus_1") -> Event:
    return Event(
        id=event_id,
        source="contract",
        specversion="1.0",
        type="execution",
        subject=subject,
        time=datetime(2027, 1, 1, hour, tzinfo=UTC),
        data={"seconds": seconds, "region": "eu"},
    )


@pytest.fixture
def meter(client: Client) -> str:
    created = client.meters.create(
        MeterCreate(
            slug="execution_duration",
            name="Execution Duration",
            aggregation="SUM",
            event_type="execution",
            value_property="$.seconds",
            group_by={"region": "$.region"},
        )
    )
    assert created.slug == "execution_duration"
    return created.id


def test_it_creates_lists_gets_and_deletes_meters(client: Client, meter: str) -> None:
    assert client.meters.get("execution_duration").id == meter
    found = {item.slug: item for item in client.meters.list()}
    assert found["execution_duration"].group_by == {"region": "$.region"}
    assert found["execution_duration"].created_at == datetime(2027, 1, 2, tzinfo=UTC)
    client.meters.delete(meter)
    with pytest.raises(ResourceNotFoundError):
        client.meters.get("execution_duration")


def test_it_ingests_and_queries(client: Client, meter: str) -> None:
    client.events.ingest_event(event("1", 10, 5))
    client.events.ingest_events([event("2", 10, 7), event("3", 12, 1), event("4", 10, 9, "cus_2")])
    client.events.ingest_events([event("2", 10, 7)])

    start, end = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)
    posted = client.meters.query(
        meter,
        MeterQueryRequest(
            from_property=start, to=end, window_size="HOUR", subject=["cus_1"], group_by=["region"]
        ),
    )
    assert [(row.value, row.subject, row.window_start.hour) for row in posted.data] == [
        (12, "cus_1", 10),
        (1, "cus_1", 12),
    ]
    assert posted.data[0].group_by == {"region": "eu"}
    assert posted.from_property == start

    got = client.meters.query_json(
        "execution_duration", from_parameter=start, to=end, subject=["cus_1", "cus_2"]
    )
    assert {row.subject: row.value for row in got.data} == {"cus_1": 13, "cus_2": 9}
    assert client.meters.list_subjects("execution_duration") == ["cus_1", "cus_2"]
    assert [item.event.id for item in client.events.list(subject="cus_2")] == ["4"]


def test_it_raises_on_problems(client: Client, meter: str) -> None:
    with pytest.raises(HttpResponseError) as caught:
        client.meters.query(meter, MeterQueryRequest(group_by=["color"]))
    assert caught.value.status_code == 400
    with pytest.raises(ResourceNotFoundError):
        client.meters.query("unknown", MeterQueryRequest())


def test_it_sends_its_key(clock: ManualClock) -> None:
    sandbox = OpenMeterSandbox(clock, OpenMeterSettings(api_key="om_secret"))
    with serve(create_app(sandbox)) as url:
        with Client(endpoint=url, token="om_secret") as client:
            assert client.meters.list() == []
        with Client(endpoint=url) as client, pytest.raises(ClientAuthenticationError):
            client.meters.list()
