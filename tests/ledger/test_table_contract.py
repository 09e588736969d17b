"""What the ledger needs of its table, held alike by DynamoDB (moto) and by the stand-ins for it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from sandbox.file_table import FileTable
from sandbox.memory_table import MemoryTable
from tests.integration.aws import MemoryDynamo
from usage_reporting.errors import LedgerUnavailableError, LostRaceError
from usage_reporting.ledger import DynamoTable, Table


@pytest.fixture(params=["dynamodb", "dynamodb in memory", "memory", "file"])
def table(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Table]:
    if request.param == "file":
        table = FileTable(tmp_path / "ledger")
        yield table
        table.close()
        return
    if request.param == "dynamodb in memory":
        client = MemoryDynamo(lambda: 1_784_116_800)
        client.create_table(TableName="ledger")
        yield DynamoTable("ledger", client)
        return
    if request.param == "memory":
        yield MemoryTable("1784116800")
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("dynamodb", region_name="us-east-1")
        client.create_table(
            TableName="ledger",
            KeySchema=[
                {"AttributeName": "pk", "KeyType": "HASH"},
                {"AttributeName": "sk", "KeyType": "RANGE"},
            ],
            AttributeDefinitions=[
                {"AttributeName": "pk", "AttributeType": "S"},
                {"AttributeName": "sk", "AttributeType": "S"},
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        yield DynamoTable("ledger", client)


def item(sk: str = "head", version: int = 1, **more: Any) -> dict[str, Any]:
    return {"pk": "a", "sk": sk, "version": version, **more}


def test_an_item_comes_back_as_it_was_put(table: Table) -> None:
    whole = item(
        sends={"x.1": {"value": Decimal("0.000000001"), "at": 1_784_116_800, "state": "sent"}},
        bounds=[1, 2],
        empty={},
        none=None,
        first=True,
    )
    table.put(whole, 0)

    assert table.get([("a", "head")]) == [whole]


def test_numbers_come_back_as_decimals(table: Table) -> None:
    table.put(item(bounds=[7]), 0)

    [found] = table.get([("a", "head")])

    assert type(found["version"]) is Decimal
    assert type(found["bounds"][0]) is Decimal


def test_missing_items_are_left_out(table: Table) -> None:
    table.put(item("b"), 0)

    assert table.get([("a", "a"), ("a", "b"), ("b", "b")]) == [item("b")]
    assert table.get([]) == []


def test_more_keys_than_one_request_takes(table: Table) -> None:
    for number in range(120):
        table.put(item(f"{number}"), 0)

    found = table.get([("a", f"{number}") for number in range(240)])

    assert {one["sk"] for one in found} == {f"{number}" for number in range(120)}


def test_a_key_asked_twice_is_refused(table: Table) -> None:
    with pytest.raises(LedgerUnavailableError):
        table.get([("a", "head"), ("a", "head")])


def test_a_new_item_takes_no_place_of_another(table: Table) -> None:
    table.put(item(value="first"), 0)

    with pytest.raises(LostRaceError):
        table.put(item(value="second"), 0)

    assert table.get([("a", "head")]) == [item(value="first")]


@pytest.mark.parametrize("read", [1, 3])
def test_a_write_on_another_version_than_the_stored_loses(table: Table, read: int) -> None:
    table.put(item(version=1), 0)
    table.put(item(version=2), 1)

    with pytest.raises(LostRaceError):
        table.put(item(version=read + 1, value="late"), read)

    assert table.get([("a", "head")]) == [item(version=2)]


def test_a_write_on_a_version_of_an_item_that_is_gone_loses(table: Table) -> None:
    with pytest.raises(LostRaceError):
        table.put(item(version=2), 1)

    assert table.get([("a", "head")]) == []


def test_of_many_writers_on_one_version_one_wins(table: Table) -> None:
    table.put(item(version=1), 0)

    def write(number: int) -> bool:
        try:
            table.put(item(version=2, writer=number), 1)
        except LostRaceError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))

    assert won.count(True) == 1
    assert table.get([("a", "head")])[0]["writer"] == won.index(True)


def test_what_was_read_or_written_can_be_changed_without_changing_the_table(table: Table) -> None:
    written = item(sends={"x": {"at": 1}})
    table.put(written, 0)
    written["sends"]["x"]["at"] = 2
    table.get([("a", "head")])[0]["sends"]["x"]["at"] = 3

    assert table.get([("a", "head")])[0]["sends"]["x"]["at"] == 1


@pytest.mark.parametrize("value", [1.5, object()])
def test_what_dynamodb_cannot_hold_is_an_error(table: Table, value: object) -> None:
    with pytest.raises(TypeError):
        table.put(item(value=value), 0)

    assert table.get([("a", "head")]) == []


def test_the_creation_time_stays(table: Table) -> None:
    first = table.created_at()

    assert first.isdigit()
    assert table.created_at() == first
