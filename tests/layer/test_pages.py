"""The messages of the page queue, and the queue."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from tests.layer.builders import customer_meter
from tests.layer.test_lister import numbered
from usage_reporting.errors import AskAgainError, BadRequestError
from usage_reporting.pages import (
    Cursor,
    Part,
    Scope,
    SqsQueue,
    cursor_message,
    page_message,
    read_message,
    scope_of,
)


def test_a_page_comes_back_as_it_was_sent() -> None:
    page = numbered(0, 3)

    assert read_message(json.dumps(page_message(page))) == page


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(Scope.ALL),
        Cursor(Scope.CLOSING, Part.DRAFTS, "in_9"),
        Cursor(Scope.ALL, after="sub_1", since=5),
        Cursor(Scope.ALL, since=5, until=9),
    ],
)
def test_a_cursor_comes_back_as_it_was_sent(cursor: Cursor) -> None:
    assert read_message(json.dumps(cursor_message(cursor))) == cursor


def test_a_cursor_of_before_there_were_ranges_is_of_the_whole_list() -> None:
    found = read_message('{"scope": "all", "part": "subscriptions", "after": "sub_1"}')

    assert found == Cursor(Scope.ALL, Part.SUBSCRIPTIONS, "sub_1")
    assert found.range.is_whole
    assert cursor_message(found) == {"scope": "all", "part": "subscriptions", "after": "sub_1"}


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "5",
        "null",
        "[]",
        '"scope"',
        "{}",
        '{"scope": "some"}',
        '{"scope": "all", "part": "x", "after": ""}',
        '{"scope": "all"}',
        '{"scope": "all", "part": "subscriptions", "after": "", "since": "x"}',
        '{"customer_meters": 5}',
        '{"customer_meters": [5]}',
        '{"customer_meters": [{}]}',
        "[" * 200_000,
        json.dumps({"customer_meters": [{**customer_meter().to_json(), "seen_at": float("inf")}]}),
        json.dumps({"customer_meters": [{**customer_meter().to_json(), "spans": [[]]}]}),
    ],
)
def test_what_we_did_not_write_is_a_bad_request(body: str) -> None:
    with pytest.raises(BadRequestError, match="not a page of customer meters"):
        read_message(body)


@pytest.mark.parametrize(
    ("event", "scope"), [({"scope": "closing"}, Scope.CLOSING), ({"scope": "all", "x": 1}, Scope.ALL)]
)
def test_the_scope_of_a_scheduled_event(event: object, scope: Scope) -> None:
    assert scope_of(event) is scope


@pytest.mark.parametrize(
    "event", [{}, {"scope": "ALL"}, {"scope": ["all"]}, {"scope": None}, None, "all", []]
)
def test_another_event_has_no_scope(event: object) -> None:
    with pytest.raises(BadRequestError, match="it must be 'closing', 'all' or 'reconcile'"):
        scope_of(event)


def test_sqs_takes_compact_json() -> None:
    sent: list[dict[str, Any]] = []

    class Client:
        def send_message(self, **message: Any) -> None:
            sent.append(message)

    SqsQueue("https://sqs.test/pages", Client()).send({"a": [1, 2]}, 240)

    assert sent == [{"QueueUrl": "https://sqs.test/pages", "MessageBody": '{"a":[1,2]}', "DelaySeconds": 240}]


@pytest.mark.parametrize(
    "error",
    [
        ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "SendMessage"),
        EndpointConnectionError(endpoint_url="https://sqs.test"),
    ],
)
def test_a_queue_that_takes_nothing_is_a_reason_to_ask_again(error: Exception) -> None:
    class Client:
        def send_message(self, **message: str) -> None:
            raise error

    with pytest.raises(AskAgainError, match="the page queue takes no message"):
        SqsQueue("https://sqs.test/pages", Client()).send({})


def test_a_page_of_the_largest_messages_fits_into_sqs() -> None:
    page = [replace(one, refusal="r" * 300, spans=one.spans * 4) for one in numbered(0, 100)]

    assert len(json.dumps(page_message(page), separators=(",", ":"))) < 1024 * 1024
