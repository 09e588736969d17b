"""A platform and the accounts connected to it: each is a world of its own (Stripe Connect)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
import stripe as stripe_package

from sandbox.clock import ManualClock
from sandbox.serve import serve
from sandbox.stripe import StripeSandbox, StripeSettings, create_app
from sandbox.stripe.messages import Request
from sandbox.stripe.partner_events import PREFIX, Entry
from tests.contract.stripe_openapi import object_errors, request_errors
from tests.sandbox_stripe.conftest import NOW
from tests.sandbox_stripe.direct import HOUR, Direct, Json, World, end_of
from tests.sandbox_stripe.test_contract import client_of

ONE, TWO = "acct_1One", "acct_2Two"
HOOK = "https://example.com/hook"


class Posted:
    """Takes the webhooks; `statuses` answers those to a URL."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Json, str]] = []
        self.statuses: dict[str, int] = {}

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.events.append((url, json.loads(body), headers["Stripe-Signature"]))
        return self.statuses.get(url, 200)

    def of(self, type_: str) -> list[tuple[str, str | None]]:
        """URL and account of the events of a type."""
        return [(url, event.get("account")) for url, event, _ in self.events if event["type"] == type_]


@pytest.fixture
def posted() -> Posted:
    return Posted()


@pytest.fixture
def stripe(clock: ManualClock, posted: Posted) -> StripeSandbox:
    settings = StripeSettings(seed=1, same_ids=True, meter_event_latency=0)
    made = StripeSandbox(clock, settings, timer=clock, deliver=posted)
    made.connect(ONE, name="One")
    made.connect(TWO, name="Two")
    return made


def worlds_of(stripe: StripeSandbox, clock: ManualClock) -> list[World]:
    """The platform's own, and those of its two accounts, through one gateway."""
    api = Direct(stripe)
    return [World(stripe, clock, api=one) for one in (api, api.acting_for(ONE), api.acting_for(TWO))]


def test_the_same_ids_bill_each_account_its_own_usage(stripe: StripeSandbox, clock: ManualClock) -> None:
    worlds = worlds_of(stripe, clock)
    assert len({world.customer["id"] for world in worlds}) == 1
    assert len({world.meter["id"] for world in worlds}) == 1
    subscriptions = [world.subscribe() for world in worlds]
    assert len({one["id"] for one in subscriptions}) == 1
    for world, value in zip(worlds, ("1", "20", "300"), strict=True):
        world.report(value, identifier="the same")
    worlds[0].finish(end_of(subscriptions[0]))
    billed = [world.billed(one) for world, one in zip(worlds, subscriptions, strict=True)]
    assert [list(one.values()) for one in billed] == [["1"], ["20"], ["300"]]


def test_a_key_for_idempotent_requests_is_the_accounts_own(stripe: StripeSandbox) -> None:
    api = Direct(stripe)
    key = {"idempotency-key": "k"}
    own = api.post("customers", {"name": "own"}, headers=key)
    theirs = api.acting_for(ONE).post("customers", {"name": "theirs"}, headers=key)
    assert (own["name"], theirs["name"]) == ("own", "theirs")


def test_an_account_that_is_not_connected_is_refused(stripe: StripeSandbox) -> None:
    message = (
        "The provided key 'sk_test_********dbox' does not have access to account 'acct_3' (or that account "
        "does not exist). Application access may have been revoked."
    )
    expected = {"status": 403, "type": "invalid_request_error", "code": "account_invalid", "message": message}
    for path, headers in (
        ("customers", {"stripe-account": "acct_3"}),
        ("customers", {"stripe-context": "acct_3"}),
        ("accounts/acct_3", {}),
    ):
        error = Direct(stripe).error("GET", path, headers=headers)
        assert {name: error[name] for name in expected} == expected


def test_a_wrong_key_is_refused_before_its_account(stripe: StripeSandbox) -> None:
    wrong = {"authorization": "Bearer sk_test_wrong"}
    assert Direct(stripe).acting_for(ONE).error("GET", "customers", headers=wrong)["status"] == 401


def test_a_restricted_keys_permissions_are_others_in_connected_accounts(stripe: StripeSandbox) -> None:
    stripe.change_settings(
        restricted_keys={"rk_test_1": {"customer": "write"}},
        connect_permissions={"rk_test_1": {"plan": "read"}},
    )
    key = {"authorization": "Bearer rk_test_1"}
    api = Direct(stripe)
    api.post("customers", {}, headers=key)
    refused = api.acting_for(ONE).error("GET", "customers", headers=key)
    assert refused["status"] == 403
    assert f"on account '{ONE}'. Having the 'rak_customer_read' permission" in refused["message"]
    assert api.acting_for(ONE).get("prices", headers=key)["data"] == []
    assert api.error("GET", "prices", headers=key)["status"] == 403


def test_a_request_names_one_account(stripe: StripeSandbox) -> None:
    two = {"stripe-account": ONE, "stripe-context": TWO}
    assert Direct(stripe).error("GET", "customers", headers=two)["status"] == 400
    same = {"stripe-account": ONE, "stripe-context": ONE}
    answer = Direct(stripe).request("GET", "account", headers=same)
    assert (answer.json()["id"], answer.headers["Stripe-Account"]) == (ONE, ONE)


def test_its_own_account_may_be_named(stripe: StripeSandbox) -> None:
    own = stripe.settings.account_id
    assert Direct(stripe).acting_for(own).get("account")["id"] == own


def test_the_connected_accounts_are_listed_in_pages(stripe: StripeSandbox, clock: ManualClock) -> None:
    clock.advance(1)
    stripe.connect("acct_3Three")
    api = Direct(stripe)
    first = api.get("accounts", {"limit": 2})
    assert [row["id"] for row in first["data"]] == ["acct_3Three", TWO]
    assert first["has_more"]
    rest = api.get("accounts", {"limit": 2, "starting_after": TWO})
    assert ([row["id"] for row in rest["data"]], rest["has_more"]) == ([ONE], False)
    assert [row["id"] for row in api.get("accounts", {"created": {"gt": NOW}})["data"]] == ["acct_3Three"]
    assert api.acting_for(ONE).get("accounts")["data"] == []
    for row in (*first["data"], api.get(f"accounts/{ONE}"), api.acting_for(ONE).get("account")):
        assert object_errors("account", row) == []
    assert request_errors("GET", "/v1/accounts", {"limit": "100", "starting_after": TWO}) == []


def test_a_deauthorized_account_is_refused_and_lives_on(
    stripe: StripeSandbox, clock: ManualClock, posted: Posted
) -> None:
    api = Direct(stripe)
    api.post("webhook_endpoints", {"url": HOOK, "enabled_events": ["*"], "connect": True})
    world = World(stripe, clock, api=api.acting_for(ONE))
    subscription = world.subscribe()
    stripe.run_due()
    posted.events.clear()
    stripe.deauthorize(ONE)
    stripe.run_due()
    (_, event, _), *rest = posted.events
    assert rest == []
    assert (event["type"], event["account"]) == ("account.application.deauthorized", ONE)
    assert object_errors("application", event["data"]["object"]) == []
    assert world.api.error("GET", "customers")["code"] == "account_invalid"
    assert [row["id"] for row in api.get("accounts")["data"]] == [TWO]
    clock.set(end_of(subscription) + 2 * HOUR)
    stripe.run_due()
    assert len(posted.events) == 1
    assert len(stripe.connected[ONE].account.invoices) == 1
    stripe.connect(ONE)
    assert [row["status"] for row in world.invoices()] == ["paid"]


def test_events_of_connected_accounts_go_to_connect_endpoints_alone(
    stripe: StripeSandbox, posted: Posted
) -> None:
    api = Direct(stripe)
    own = api.post("webhook_endpoints", {"url": f"{HOOK}/own", "enabled_events": ["*"]})
    connect = api.post(
        "webhook_endpoints", {"url": f"{HOOK}/connect", "enabled_events": ["*"], "connect": True}
    )
    assert (own["application"], connect["application"]) == (None, "ca_sandboxPlatform")
    assert object_errors("webhook_endpoint", {k: v for k, v in connect.items() if k != "secret"}) == []
    for one in (api, api.acting_for(ONE), api.acting_for(TWO)):
        one.post("customers", {})
    stripe.run_due()
    assert sorted(posted.of("customer.created"), key=str) == [
        (f"{HOOK}/connect", ONE),
        (f"{HOOK}/connect", TWO),
        (f"{HOOK}/own", None),
    ]
    for url, event, signature in posted.events:
        assert object_errors("event", event) == []
        secret = (own if url.endswith("own") else connect)["secret"]
        stripe_package.WebhookSignature.verify_header(json.dumps(event, indent=2), signature, secret, None)


def test_events_are_listed_by_the_account_that_they_are_of(stripe: StripeSandbox) -> None:
    api = Direct(stripe)
    api.acting_for(ONE).post("customers", {})
    created = {"type": "customer.created"}
    assert api.get("events", created)["data"] == []
    assert api.acting_for(TWO).get("events", created)["data"] == []
    assert len(api.acting_for(ONE).get("events", created)["data"]) == 1


def test_an_invoice_waits_for_the_platforms_endpoint(
    stripe: StripeSandbox, clock: ManualClock, posted: Posted
) -> None:
    """Webhooks of subscriptions: a draft is kept while `invoice.created` is not answered by 2xx."""
    api = Direct(stripe)
    api.post("webhook_endpoints", {"url": HOOK, "enabled_events": ["invoice.created"], "connect": True})
    worlds = [World(stripe, clock, api=one) for one in (api.acting_for(ONE), api)]
    ends = [end_of(world.subscribe()) for world in worlds]
    stripe.run_due()
    posted.statuses[HOOK] = 503
    worlds[0].to(ends[0])
    worlds[0].to(ends[0] + 2 * HOUR)
    assert [world.invoices()[0]["status"] for world in worlds] == ["draft", "paid"]


def test_a_delivery_that_is_disturbed_is_one_of_its_account(stripe: StripeSandbox, posted: Posted) -> None:
    api = Direct(stripe)
    api.post("webhook_endpoints", {"url": HOOK, "enabled_events": ["customer.created"], "connect": True})
    stripe.connected[ONE].webhooks.drop_next()
    for account in (ONE, TWO):
        api.acting_for(account).post("customers", {})
    stripe.run_due()
    assert posted.of("customer.created") == [(HOOK, TWO)]


def test_due_things_of_all_accounts_happen_in_the_order_of_time(
    stripe: StripeSandbox, clock: ManualClock, posted: Posted
) -> None:
    api = Direct(stripe)
    api.post("webhook_endpoints", {"url": HOOK, "enabled_events": ["invoice.created"], "connect": True})
    worlds = {account: World(stripe, clock, api=api.acting_for(account)) for account in (ONE, TWO)}
    ends = []
    for account in (TWO, ONE, TWO):
        world = worlds[account]
        ends.append((end_of(world.subscribe()), account))
        clock.advance(60)
    stripe.run_due()
    posted.events.clear()
    assert stripe.next_due() == ends[0][0]
    clock.set(ends[-1][0])
    stripe.run_due()
    assert posted.of("invoice.created") == [(HOOK, account) for _, account in ends]


def test_the_limit_of_one_account_is_not_anothers(stripe: StripeSandbox, clock: ManualClock) -> None:
    api = Direct(stripe)
    stripe.change_settings(enforce_rate_limits=True)
    clock.advance(1)
    for _ in range(25):
        api.acting_for(ONE).get("customers")
    assert api.acting_for(ONE).error("GET", "customers")["status"] == 429
    api.acting_for(TWO).get("customers")
    api.get("customers")
    assert [one.log.limited for one in (stripe, *stripe.connected.values())] == [{}, {"global-rate": 1}, {}]


def test_a_fault_of_one_account_is_not_anothers(stripe: StripeSandbox) -> None:
    stripe.connected[ONE].faults.add("rate_limited", times=None, reason="global-rate")
    stripe.faults.add("status", "GET", "/v1/customers")
    api = Direct(stripe)
    assert api.acting_for(TWO).request("GET", "customers").status == 200
    assert [api.acting_for(ONE).request("GET", "customers").status for _ in range(2)] == [429, 429]
    assert [api.request("GET", "customers").status for _ in range(2)] == [500, 200]


class V2:
    """Requests of the v2 API, in a context."""

    def __init__(self, stripe: StripeSandbox) -> None:
        self.gateway = Direct(stripe).gateway

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        encoded = b"" if body is None else json.dumps(body).encode()
        base = {
            "authorization": "Bearer sk_test_sandbox",
            "stripe-version": "2026-05-27.dahlia",
            "content-type": "application/json",
        }
        request = Request(method, f"/v2/{path}", "", {**base, **named}, encoded)
        response = asyncio.run(self.gateway.answer(request))
        return response.status, response.json()


def test_the_stream_of_an_account_is_found_by_its_sessions_token(
    stripe: StripeSandbox, clock: ManualClock
) -> None:
    _, one, two = worlds_of(stripe, clock)
    v2 = V2(stripe)
    status, session = v2("POST", "billing/meter_event_session", stripe_context=ONE)
    assert status == 200
    bearer = f"Bearer {session['authentication_token']}"
    payload = {"stripe_customer_id": one.customer["id"], "value": "7"}
    events = {"events": [{"event_name": "m1", "payload": payload}]}
    assert v2("POST", "billing/meter_event_stream", events, authorization=bearer)[0] == 200
    status, _ = v2("POST", "billing/meter_event_stream", events, authorization=bearer, stripe_context=TWO)
    assert status == 401
    minute = clock() // 60 * 60
    asked = {"customer": one.customer["id"], "start_time": minute, "end_time": minute + 60}
    path = f"billing/meters/{one.meter['id']}/event_summaries"
    assert [row["aggregated_value"] for row in one.api.get(path, asked)["data"]] == [7]
    assert two.api.get(path, asked)["data"] == []


def test_the_v2_api_takes_the_newer_header_alone(stripe: StripeSandbox) -> None:
    status, answer = V2(stripe)("POST", "billing/meter_event_session", stripe_account=ONE)
    assert (status, answer["error"]["message"]) == (400, "The v2 API takes the header Stripe-Context.")
    assert V2(stripe)("POST", "billing/meter_event_session", stripe_context="acct_3")[0] == 403


def test_thin_events_of_connected_accounts_carry_their_context(
    stripe: StripeSandbox, clock: ManualClock, posted: Posted
) -> None:
    v2 = V2(stripe)
    for origin in ("@self", "@accounts"):
        asked = {
            "name": origin,
            "type": "webhook_endpoint",
            "event_payload": "thin",
            "events_from": [origin],
            "enabled_events": ["v1.billing.meter.error_report_triggered"],
            "webhook_endpoint": {"url": f"{HOOK}/{origin}"},
        }
        status, made = v2("POST", "core/event_destinations", asked)
        assert (status, made["events_from"]) == (200, [origin])
        shown = {name: value for name, value in made.items() if value is not None}
        shown["webhook_endpoint"] = {"url": f"{HOOK}/{origin}"}
        assert object_errors("v2.core.event_destination", shown) == []
    assert v2("POST", "core/event_destinations", {**asked, "events_from": ["@self", "@accounts"]})[0] == 400
    world = World(stripe, clock, api=Direct(stripe).acting_for(ONE))
    stripe.connected[ONE].validation.refuse_next("archived_meter")
    world.report("1")
    world.to(clock() + 60)
    ((url, event, _),) = posted.events
    assert (url, event["context"]) == (f"{HOOK}/@accounts", ONE)
    assert v2("GET", f"core/events/{event['id']}")[0] == 404
    status, fetched = v2("GET", f"core/events/{event['id']}", stripe_context=event["context"])
    assert (status, fetched["context"]) == (200, ONE)


def test_a_bus_of_connected_accounts_gets_their_events_alone(clock: ManualClock) -> None:
    taken: list[Entry] = []

    def bus(entry: Entry) -> bool:
        taken.append(entry)
        return True

    stripe = StripeSandbox(clock, StripeSettings(seed=1), deliver=lambda *_: 200, hand_over=bus)
    stripe.connect(ONE)
    status, made = V2(stripe)(
        "POST",
        "core/event_destinations",
        {
            "name": "all",
            "type": "amazon_eventbridge",
            "event_payload": "snapshot",
            "events_from": ["@accounts"],
            "enabled_events": ["customer.created"],
            "amazon_eventbridge": {"aws_account_id": "123456789012", "aws_region": "eu-west-1"},
        },
    )
    assert status == 200
    stripe.associate(PREFIX + made["id"])
    api = Direct(stripe)
    for one in (api, api.acting_for(ONE)):
        one.post("customers", {})
    stripe.run_due()
    assert [json.loads(entry["Detail"])["account"] for entry in taken] == [ONE]


def test_the_official_client_acts_for_an_account_over_http(stripe: StripeSandbox) -> None:
    with serve(create_app(stripe, ticker=False)) as url:
        client = client_of(url)
        assert [row.id for row in client.v1.accounts.list().auto_paging_iter()] == [TWO, ONE]
        made = client.v1.customers.create({"name": "a"}, {"stripe_account": ONE})
        assert client.v1.customers.list(options={"stripe_account": ONE}).data[0].id == made.id
        assert client.v1.customers.list(options={"stripe_account": TWO}).data == []
        with pytest.raises(stripe_package.PermissionError) as refused:
            client.v1.customers.list(options={"stripe_account": "acct_3"})
        assert refused.value.error is not None
        assert refused.value.error.code == "account_invalid"


def test_the_controls_reach_every_account(stripe: StripeSandbox) -> None:
    with (
        serve(create_app(stripe, ticker=False)) as url,
        httpx.Client(base_url=f"{url}/_sandbox", trust_env=False) as control,
    ):

        def listed() -> list[str]:
            return [row["id"] for row in control.get("/accounts").json()["result"]]

        assert control.post("/accounts", json={"account_id": "acct_3Three"}).json() == {
            "result": "acct_3Three"
        }
        assert listed() == ["acct_3Three", TWO, ONE]
        assert control.post("/accounts/deauthorize", json={"account_id": TWO}).is_success
        assert listed() == ["acct_3Three", ONE]
        assert control.post("/accounts/deauthorize", json={"account_id": TWO}).status_code == 400
        assert control.post(f"/faults?account={ONE}", json={"kind": "status"}).is_success
        assert control.get("/calls?account=acct_none").status_code == 400
    assert (len(stripe.faults), len(stripe.connected[ONE].faults)) == (0, 1)
