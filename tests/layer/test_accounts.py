"""One deployment, several accounts: who is served, what carries the account, and at which pace."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.layer.builders import NOON, FixedCredentials, MemoryTable, stripe_api, stripe_error
from usage_reporting.accounts import OWN_ACCOUNT, ConnectedAccounts, account_of, of_account
from usage_reporting.billing import Finalized
from usage_reporting.budget import Budget
from usage_reporting.config import Settings
from usage_reporting.connected import Connected
from usage_reporting.container import MOST_ACCOUNTS, Container
from usage_reporting.daily_sums import DailyCursor, DailyPart
from usage_reporting.errors import ConfigurationError, NoAccessError, NotPermittedError
from usage_reporting.idle_accounts import BELIEVED_FOR, IdleAccounts
from usage_reporting.ledger import Ledger
from usage_reporting.pacer import LIVE_CONNECTED, Pacer, paced
from usage_reporting.pages import (
    Cursor,
    Part,
    Scope,
    cursor_message,
    daily_message,
    finalized_message,
    read_message,
)
from usage_reporting.stripe_api import StripeApi
from usage_reporting.windows import DAY, HOUR, MINUTE

ACCOUNT = "acct_1One"
EVENTS = "/v1/billing/meter_events"


class Stripe:
    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer


def asked(server: Stripe, path: str, method: str = "get") -> Any:
    async def ask() -> Any:
        api = stripe_api(server).for_account(ACCOUNT, Pacer())
        return await api.call(method, path, {})

    return asyncio.run(ask())


def revived(message: dict[str, Any]) -> Any:
    return read_message(json.dumps(message))


@pytest.mark.parametrize(
    ("text", "serves"),
    [
        ("", set()),
        ("all", {"acct_1", "acct_2"}),
        ("acct_1", {"acct_1"}),
        (" acct_1, acct_2,", {"acct_1", "acct_2"}),
    ],
)
def test_whom_a_setting_serves(text: str, serves: set[str]) -> None:
    accounts = ConnectedAccounts.parse(text)

    assert {one for one in ("acct_1", "acct_2") if accounts.serves(one)} == serves
    assert bool(accounts) is bool(serves)
    assert accounts.serves(OWN_ACCOUNT)
    assert not accounts.serves("acct_1/acct_2")


@pytest.mark.parametrize("text", ["All", "cus_1", "acct_", "acct_1;acct_2", "acct_1 acct_2", "acct_1#live"])
def test_an_odd_setting_is_named(text: str) -> None:
    environment = {"OPENMETER_URL": "https://openmeter.example.com", "CONNECTED_ACCOUNTS": text}
    with pytest.raises(ConfigurationError, match=r"CONNECTED_ACCOUNTS is '.*'; it must be empty, all,"):
        Settings.for_operator(environment)


def test_a_key_in_the_wrong_place_is_not_repeated() -> None:
    environment = {"OPENMETER_URL": "https://openmeter.example.com", "CONNECTED_ACCOUNTS": "sk_live_secret"}
    with pytest.raises(ConfigurationError, match="CONNECTED_ACCOUNTS is what looks like a key"):
        Settings.for_operator(environment)


@pytest.mark.parametrize(
    ("event", "account"),
    [
        ({}, OWN_ACCOUNT),
        ({"account": None, "context": None}, OWN_ACCOUNT),
        ({"account": "acct_1", "context": "acct_1"}, "acct_1"),
        ({"context": "acct_1"}, "acct_1"),
    ],
)
def test_where_an_event_happened(event: dict[str, Any], account: str) -> None:
    assert account_of(event) == account


def test_only_a_connected_account_is_named() -> None:
    assert (of_account("cus_1", OWN_ACCOUNT), of_account("cus_1", "acct_1")) == ("cus_1", "cus_1 of acct_1")


@pytest.mark.parametrize("account", [OWN_ACCOUNT, ACCOUNT])
def test_messages_say_whose_they_are(account: str) -> None:
    cursor = Cursor(Scope.CLOSING, Part.DRAFTS, "in_1", account=account)
    finalized = Finalized("live", ["in_1"], account=account)
    coming = ("acct_2",) if account == ACCOUNT else ()
    daily = DailyCursor(
        NOON, DailyPart.DRAFTS, account=account, accounts=coming, accounts_after=coming[0] if coming else ""
    )

    assert revived(cursor_message(cursor)) == cursor
    assert revived(finalized_message(finalized)) == finalized
    assert revived(daily_message(daily)) == daily


def test_messages_of_before_are_of_the_own_account() -> None:
    own = [
        cursor_message(Cursor(Scope.ALL)),
        finalized_message(Finalized("live", ["in_1"])),
        daily_message(DailyCursor(NOON))["reconcile"],
    ]
    assert not [message for message in own if "account" in message]


@pytest.mark.parametrize(
    ("path", "header", "other"),
    [
        (EVENTS, "stripe-account", "stripe-context"),
        ("/v2/core/events/evt_1", "stripe-context", "stripe-account"),
    ],
)
def test_each_call_names_the_account(path: str, header: str, other: str) -> None:
    server = Stripe(httpx.Response(200, text="{}"))

    asked(server, path, "post" if path == EVENTS else "get")

    [request] = server.requests
    assert request.headers[header] == ACCOUNT
    assert other not in request.headers
    assert request.headers["authorization"] == f"Bearer {FixedCredentials().current().stripe_api_key}"


def test_the_own_account_is_not_named() -> None:
    server = Stripe(httpx.Response(200, text="{}"))

    asyncio.run(stripe_api(server).call("get", "/v1/events", {}))

    assert not {"stripe-account", "stripe-context"} & server.requests[0].headers.keys()


def test_revoked_access_is_no_missing_permission() -> None:
    body = {"type": "invalid_request_error", "code": "account_invalid", "message": "no access"}
    gone = httpx.Response(403, json={"error": body})

    with pytest.raises(NoAccessError, match=f"may not act for the connected account {ACCOUNT}") as refused:
        asked(Stripe(gone), "/v1/subscriptions")

    assert refused.value.status == 403
    with pytest.raises(NotPermittedError):
        asked(Stripe(stripe_error(403, "does not have the required permissions")), "/v1/subscriptions")


def test_meter_events_of_a_connected_account_have_no_limit_of_their_own() -> None:
    async def lanes(path: str) -> list[float]:
        turn = await Pacer(live=LIVE_CONNECTED).turn("sk_live_1", "post", path)
        return [round(lane.full, 3) for lane in turn.lanes]

    assert asyncio.run(lanes(EVENTS)) == [round(paced(100), 3)] * 2
    assert asyncio.run(lanes("/v1/invoices/in_1")) == [round(paced(25), 3), round(paced(100), 3)]


class Queue:
    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], delay: int = 0) -> None:
        assert not delay
        self.messages.append(message)


def container(**settings: Any) -> Container:
    made = Settings(openmeter_url="https://openmeter.example.com", **settings)
    return Container(made, FixedCredentials(), MemoryTable(), Queue(), lambda: NOON)


def test_parts_are_made_once_and_only_so_many_are_kept() -> None:
    made = container(stripe_meter_stream=True)
    first = made.of("acct_0")

    assert made.of("acct_0") is first
    assert made.of(OWN_ACCOUNT) is made
    assert first.billing.api._http_client is made.billing.api._http_client
    assert first.billing.api._pacer is not made.billing.api._pacer
    assert (made.reporter.sender.is_streaming, first.reporter.sender.is_streaming) == (True, False)
    for number in range(1, MOST_ACCOUNTS):
        made.of(f"acct_{number}")
    assert made.of("acct_0") is first
    made.of(f"acct_{MOST_ACCOUNTS}")
    assert made.of("acct_0") is first, "it was used a moment ago"
    assert len(made._connected) == MOST_ACCOUNTS
    assert "acct_1" not in made._connected
    made.loop.close()


class Accounts:
    """Lists accounts, newest first, two a page."""

    def __init__(self, *ids: str) -> None:
        self.ids = ids

    async def pages(self, path: str, params: dict[str, Any]) -> Any:
        assert path == "/v1/accounts"
        after = params.get("starting_after")
        rest = self.ids[self.ids.index(after) + 1 :] if after else self.ids
        for first in range(0, len(rest), 2):
            yield [{"id": id_} for id_ in rest[first : first + 2]]


def idle(now: int = NOON, ledger: Ledger | None = None) -> IdleAccounts:
    return IdleAccounts(ledger or Ledger(MemoryTable()), lambda: now)


def listed(
    accounts: str, cursor: Cursor, *, is_over: bool = False, known: IdleAccounts | None = None
) -> tuple[list[str], Cursor | None]:
    """The accounts for which a listing was queued, side by side, and where to go on."""
    queue = Queue()
    api: Any = Accounts("acct_5", "acct_4", "acct_3", "acct_2", "acct_1")
    connected = Connected(ConnectedAccounts.parse(accounts), api, known or idle())
    rest = asyncio.run(connected.queue_listings(queue, cursor, Budget.of(0 if is_over else 60)))
    assert all(revived(one) == Cursor(cursor.scope, account=one["account"]) for one in queue.messages)
    return sorted((str(one["account"]) for one in queue.messages), reverse=True), rest


def test_each_account_is_listed_by_a_message_of_its_own() -> None:
    start = Cursor(Scope.CLOSING, Part.ACCOUNTS)

    assert listed("all", start) == (["acct_5", "acct_4", "acct_3", "acct_2", "acct_1"], None)
    assert listed("acct_8,acct_7", start) == (["acct_8", "acct_7"], None)
    some, rest = listed("all", start, is_over=True)
    assert (some, rest) == (["acct_5", "acct_4"], Cursor(Scope.CLOSING, Part.ACCOUNTS, "acct_4"))
    assert rest is not None
    assert listed("all", rest) == (["acct_3", "acct_2", "acct_1"], None)


def test_a_given_account_that_was_taken_out_meanwhile_begins_the_list_anew() -> None:
    assert listed("acct_8,acct_7", Cursor(Scope.ALL, Part.ACCOUNTS, "acct_8"))[0] == ["acct_7"]
    assert listed("acct_8,acct_7", Cursor(Scope.ALL, Part.ACCOUNTS, "acct_9"))[0] == ["acct_8", "acct_7"]


def test_what_speaks_for_an_account_keeps_the_keys_address() -> None:
    api = StripeApi(FixedCredentials(), api_base="https://stripe.example.com")
    assert api.for_account(ACCOUNT, Pacer())._api_base == "https://stripe.example.com"


def test_who_has_nothing_to_bill_for_a_day_is_left_out_of_closing_ticks() -> None:
    ledger = Ledger(MemoryTable())
    closing, everyone = Cursor(Scope.CLOSING, Part.ACCOUNTS), Cursor(Scope.ALL, Part.ACCOUNTS)

    def noted(now: int, *, is_idle: bool) -> None:
        asyncio.run(idle(now, ledger).note("acct_8", is_idle=is_idle))

    def asked(now: int, cursor: Cursor = closing) -> list[str]:
        return listed("acct_8,acct_7", cursor, known=idle(now, ledger))[0]

    noted(NOON, is_idle=True)
    assert asked(NOON + DAY - 1) == ["acct_8", "acct_7"]
    noted(NOON + DAY - HOUR, is_idle=True)
    assert asked(NOON + DAY) == ["acct_7"]
    assert asked(NOON + DAY, everyone) == ["acct_8", "acct_7"]
    assert asked(NOON + DAY - HOUR + BELIEVED_FOR) == ["acct_8", "acct_7"], "nobody looked for too long"

    noted(NOON + DAY + HOUR, is_idle=False)
    assert asked(NOON + DAY + HOUR) == ["acct_8", "acct_7"]
    noted(NOON + DAY + 2 * HOUR, is_idle=True)
    assert asked(NOON + DAY + 3 * HOUR) == ["acct_8", "acct_7"], "it has to be so for a day again"


def test_an_hourly_tick_that_failed_leaves_nobody_out() -> None:
    """What came since the one before it may be billed before the one after it."""
    ledger = Ledger(MemoryTable())
    closing = Cursor(Scope.CLOSING, Part.ACCOUNTS)
    last = NOON + 25 * HOUR + 3 * MINUTE
    for at in (NOON, last):
        asyncio.run(idle(at, ledger).note("acct_8", is_idle=True))

    assert listed("acct_8", closing, known=idle(last + 57 * MINUTE, ledger))[0] == []
    assert listed("acct_8", closing, known=idle(last + 72 * MINUTE, ledger))[0] == ["acct_8"]


def test_only_who_was_idle_is_noted_to_have_something_again() -> None:
    table = MemoryTable()
    ledger = Ledger(table)

    def version(now: int, *, is_idle: bool) -> Any:
        asyncio.run(idle(now, ledger).note("acct_8", is_idle=is_idle))
        return [item["version"] for item in table.get([("acct_8#idle", "idle")])]

    assert version(NOON, is_idle=False) == []
    assert version(NOON + HOUR, is_idle=True) == [1]
    assert version(NOON + 2 * HOUR, is_idle=True) == [2]
    assert version(NOON + 3 * HOUR, is_idle=False) == [3]
    assert version(NOON + 4 * HOUR, is_idle=False) == [3]


def test_who_has_something_wins_over_a_listing_that_did_not_see_it_yet() -> None:
    table = MemoryTable()
    ledger = Ledger(table)
    asyncio.run(idle(NOON, ledger).note("acct_8", is_idle=True))
    seen = ledger.items

    async def late(keys: Any) -> Any:
        found = await seen(keys)
        ledger.items = seen  # type: ignore[method-assign]
        await idle(NOON + DAY, ledger).note("acct_8", is_idle=True)
        return found

    ledger.items = late  # type: ignore[method-assign]
    asyncio.run(idle(NOON + DAY, ledger).note("acct_8", is_idle=False))

    assert [item["since"] for item in table.get([("acct_8#idle", "idle")])] == [0]
