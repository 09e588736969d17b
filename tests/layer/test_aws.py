"""Values of the ledger are written as boto3 writes them, by clients that are the same as boto3's."""

from __future__ import annotations

from decimal import Decimal, Inexact
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.config import Config
from botocore.validate import ParamValidationDecorator
from hypothesis import given
from hypothesis import strategies as st

from usage_reporting import aws

NUMBERS = st.integers(-(10**37), 10**37) | st.decimals(
    allow_nan=False, allow_infinity=False, min_value=-(10**15), max_value=10**15, places=9
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.text() | NUMBERS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_values_are_written_and_read_as_boto3_does(value: Any) -> None:
    written: Any = aws.attribute(value)
    assert written == TypeSerializer().serialize(value)
    assert aws.value_of(written) == TypeDeserializer().deserialize(written) == value


def test_a_tuple_is_a_list_and_a_number_comes_back_exact() -> None:
    assert aws.attribute(("a", 1)) == {"L": [{"S": "a"}, {"N": "1"}]}
    assert isinstance(aws.value_of({"N": "1"}), Decimal)
    assert aws.value_of({"N": "0.10"}) == Decimal("0.1")


@pytest.mark.parametrize(
    "value", [1.5, b"bytes", {"a", "set"}, Decimal("NaN"), Decimal("Infinity"), object()]
)
def test_what_the_ledger_never_holds_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        aws.attribute(value)


def test_a_number_is_not_rounded() -> None:
    assert aws.attribute(Decimal("1" * 38)) == {"N": "1" * 38}
    with pytest.raises(Inexact):
        aws.attribute(Decimal("1" * 39))


def test_types_that_the_ledger_does_not_write_are_refused() -> None:
    with pytest.raises(TypeError, match="SS"):
        aws.value_of({"SS": ["a"]})


def test_clients_follow_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    aws._session.cache_clear()
    client = aws.client("sqs", Config(connect_timeout=3))
    aws._session.cache_clear()
    assert client.meta.region_name == "eu-central-1"
    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    assert client.meta.config.connect_timeout == 3


def test_values_pass_through_the_client_as_they_are_on_the_wire(monkeypatch: pytest.MonkeyPatch) -> None:
    # Were botocore to drop what it does not know here, the ledger would be read as empty.
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    client = aws.client("dynamodb")
    model = client.meta.service_model.operation_model("GetItem").output_shape.members["Item"].value
    assert model.is_document_type
    assert {"S", "N", "M", "L"} <= model.members.keys()
    assert not isinstance(client._serializer, ParamValidationDecorator)
