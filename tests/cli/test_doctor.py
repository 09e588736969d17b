"""`doctor` names what is wrong, each thing with its fix, and nothing where all is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from cli import VERSION
from cli.checks.keys import PROBE
from cli.checks.patient import Aws
from cli.checks.stack import ALARMED
from cli.destination import EVENT_TYPES
from cli.stack import Stack
from tests.cli.conftest import OPENMETER_KEY, STACK, WEBHOOK_URL, Run, aws, make_stack, secret_of
from tests.cli.healthy import LEAST, NOW, Examination, Healthy, healthy
from tests.infrastructure.template import resources
from tests.integration.conftest import Moto
from tests.integration.test_legacy import legacy_subscription
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.config import Mode
from usage_reporting.errors import RefusedError
from usage_reporting.openmeter import OpenMeter

__all__ = ["healthy"]

Doctor = Callable[..., Examination]

CONNECT = f"usage-reporter connect --stack {STACK}"


@dataclass(frozen=True)
class Account:
    """A customer who has used something, and no stack."""

    world: World
    price: str
    customer: str
    doctor: Doctor
    set_key: Callable[[str], None]

    def restrict(self, **scopes: str) -> None:
        """Use the key that README describes, but for some scopes."""
        key = "rk_test_functions"
        self.world.stripe.change_settings(restricted_keys={key: {**LEAST, **scopes}})
        self.set_key(key)


@pytest.fixture
def account(world: World, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> Account:
    price, _ = world.metered_price()
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOON + MINUTE)
    world.travel(NOON + HOUR)
    return Account(world, price, customer, doctor, lambda key: monkeypatch.setenv("STRIPE_KEY", key))


@pytest.fixture
def doctor(run: Run) -> Doctor:
    """The doctor without a stack: only what the keys show."""

    def examine(*options: str) -> Examination:
        result = run("doctor", "--json", *options)
        return Examination(result, result.json["findings"])

    return examine


def levels(findings: list[dict[str, str]]) -> list[str]:
    return [one["level"] for one in findings]


def test_all_is_well(healthy: Healthy, run: Run) -> None:
    before = healthy.world.ledger(), secret_of(healthy.world), dict(healthy.world.stripe.calls)

    found = healthy.doctor()

    assert [one for one in found.findings if one["level"] != "ok"] == []
    assert found.result.code == 0
    assert found.result.json["well"] is True
    assert found.result.json["counts"] == {"ok": len(found.findings), "warning": 0, "problem": 0}
    assert (healthy.world.ledger(), secret_of(healthy.world)) == before[:2]

    printed = run("doctor", "--stack", STACK).out.splitlines()
    assert [line.split()[0] for line in printed[:-1]] == ["ok"] * len(found.findings)
    assert printed[-1] == f"doctor: ok {len(found.findings)}, warning 0, problem 0"


def test_a_local_cloud_is_not_blamed_for_what_it_does_not_have(
    healthy: Healthy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stack, "local_cloud", "http://127.0.0.1:4566")
    for alarm in ALARMED:
        aws("cloudwatch").delete_alarms(AlarmNames=[alarm])
    healthy.world.stripe.change_settings(finalization_grace=MINUTE)

    found = healthy.doctor()

    skipped = [one for one in found.findings if one["level"] == "skipped"]
    assert [one["check"] for one in skipped] == ["Grace", "Schedules", "Ledger", "Alarms"]
    assert all(one["seen"].startswith("not looked at: the local cloud at http://127") for one in skipped)
    assert found.result.code == 0
    assert found.result.json["counts"]["skipped"] == 4


def test_a_local_cloud_is_told_by_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack("usage-reporter", {}, boto3.Session("key", "secret", region_name="us-east-1"))

    assert stack.local_cloud == ""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:4566")
    assert stack.local_cloud == "http://localhost:4566"


def test_what_it_writes_is_refused(account: Account) -> None:
    account.world.stripe.log.clear()

    account.doctor()

    writes = [one for one in account.world.stripe.log.requests if one.method != "GET"]
    assert [(one.path, one.status) for one in writes] == [("/v1/billing/meter_events", 400)]
    assert all(one.headers["idempotency-key"].startswith(PROBE) for one in writes)


# Keys


def test_the_key_that_readme_describes_is_enough(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy.restrict(monkeypatch)

    found = healthy.doctor()

    assert [one for one in found.findings if one["level"] != "ok"] == []
    assert "a restricted key of test mode" in found.of("Stripe key")[0]["seen"]


def test_a_missing_scope_is_named(account: Account) -> None:
    account.restrict(billing_meter_event="read", customer="none", product="none")

    found = account.doctor()

    assert found.result.code == 1
    well, *missing = found.of("Permissions")
    assert "Subscriptions: read" in well["seen"]
    assert [(one["level"], one["seen"].partition(";")[0]) for one in missing] == [
        ("problem", "the key lacks Products: read (Stripe calls it product_read)"),
        ("problem", "the key lacks Billing meter events: write (Stripe calls it billing_meter_event_write)"),
        ("warning", "the key lacks Customers: read (Stripe calls it customer_read)"),
    ]
    assert all("add it to the key in Stripe's Dashboard" in one["fix"] for one in missing)
    assert levels(found.of("Mapping")) == ["ok"]


def test_what_is_needed_depends_on_the_settings(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    account.restrict(customer="none", event="none")
    monkeypatch.setenv("HOLD_DRAFTS", "true")
    account.world.subscription(account.world.metered_price("level", "last")[0])
    account.world.stripe.log.clear()

    found = account.doctor()

    missing = {one["seen"].split(" (")[0]: one["level"] for one in found.of("Permissions")[1:]}
    assert missing == {
        "the key lacks Events: read": "problem",
        "the key lacks Customers: read": "warning",
        "the key lacks Invoices: write": "problem",
    }
    probes = {one.path for one in account.world.stripe.log.requests if one.method == "POST"}
    assert probes == {"/v1/billing/meter_events", f"/v1/invoices/in_{PROBE}", "/v1/prices"}
    [deliveries] = found.of("Deliveries")
    assert deliveries["level"] == "warning"
    assert deliveries["seen"].startswith("could not be checked: the Stripe key may not do this")
    assert "README, step 3" in deliveries["fix"]


def test_a_legacy_price_needs_usage_records(account: Account) -> None:
    account.restrict(usage_record="read")
    legacy_subscription(account.world)

    found = account.doctor()
    lacking = found.of("Permissions")[-1]
    [hint] = [one for one in found.of("Mapping") if "legacy prices" in one["seen"]]

    assert (hint["level"], "usage-reporter migrate" in hint["fix"]) == ("warning", True)
    assert (lacking["level"], lacking["seen"].partition(" (")[0]) == (
        "problem",
        "the key lacks Usage records: write",
    )


def test_a_write_that_cannot_be_told_is_not_guessed(account: Account) -> None:
    account.restrict(plan="write")

    unsure = account.doctor().of("Permissions")[-1]

    assert unsure["level"] == "warning"
    assert unsure["seen"].startswith("Billing meter events: write: could not be checked")


def test_destinations_that_the_key_may_not_read_are_left_out(
    healthy: Healthy, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy.restrict(monkeypatch, webhook="none", event_destination="none")

    found = healthy.doctor()

    unseen = [one for one in found.findings if one["level"] != "ok"]
    assert [(one["check"], one["level"]) for one in unseen] == [
        ("Destinations", "warning"),
        ("Other stacks", "warning"),
    ]
    assert all(one["seen"].startswith("could not be checked") for one in unseen)
    assert found.result.code == 0


def test_a_key_of_the_operators_own_is_told_from_the_stacks(
    healthy: Healthy, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy.restrict(monkeypatch, billing_meter_event="none", webhook="none", event_destination="none")
    monkeypatch.setenv("STRIPE_KEY", "sk_test_sandbox")

    found = healthy.doctor()

    assert "STRIPE_KEY is another key than the stack's" in found.of("Stripe key")[1]["seen"]
    assert found.of("Permissions")[-1]["level"] == "problem"
    assert levels(found.of("Destinations")) == ["ok"]

    monkeypatch.setenv("STRIPE_KEY", "sk_test_revoked")
    found = healthy.doctor()
    assert "STRIPE_KEY: Stripe does not accept" in found.of("Stripe key")[1]["seen"]
    assert found.of("Mapping")[0]["seen"] == "not looked at: Stripe cannot be asked"


def test_a_stack_that_is_not_connected(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    placeholders = '{"stripe_api_key": "replace-me", "stripe_webhook_secret": "replace-me"}'
    healthy.world.secrets.put_secret_value(SecretId="keys", SecretString=placeholders)
    monkeypatch.delenv("STRIPE_KEY")

    found = healthy.doctor()

    assert found.result.code == 1
    [key] = found.of("Stripe key")
    assert "still holds the template's placeholders" in key["seen"]
    assert CONNECT in key["fix"]
    assert found.of("Permissions")[0]["level"] == "warning"
    assert levels(found.of("Queues")) == levels(found.of("Alarms")) == ["ok"]

    monkeypatch.setenv("STRIPE_KEY", "sk_test_sandbox")
    found = healthy.doctor()
    assert levels(found.of("Stripe key")) == ["problem", "warning"]
    assert levels(found.of("Permissions")) == ["warning"]
    assert levels(found.of("Mapping")) == levels(found.of("Grace")) == ["ok"]


def test_a_revoked_key_of_the_stack(healthy: Healthy) -> None:
    healthy.world.stripe.change_settings(api_keys=frozenset({"sk_test_other"}))

    found = healthy.doctor()

    assert "Stripe does not accept the API key" in found.of("Stripe key")[0]["seen"]
    assert CONNECT in found.of("Stripe key")[0]["fix"]
    assert {one["level"] for one in found.findings if one["check"] in {"Mapping", "Grace"}} == {"warning"}
    assert levels(found.of("Ledger")) == ["ok"]


def test_a_stripe_that_is_down_is_not_blamed_on_the_key(healthy: Healthy) -> None:
    healthy.world.stripe.faults.add("status", status=503, times=None)

    [one] = healthy.doctor().of("Stripe key")

    assert one["seen"].startswith("Stripe answered 503")
    assert "connect" not in one["fix"]
    assert "the key may be well" in one["fix"]


def test_openmeter_out_of_reach_or_with_another_key(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    openmeter = account.world.openmeter
    openmeter.settings = replace(openmeter.settings, api_key=OPENMETER_KEY)

    found = account.doctor()

    [one] = found.of("OpenMeter")
    assert one["level"] == "problem"
    assert "does not accept `openmeter_api_key`" in one["seen"]
    assert "`OPENMETER_API_KEY=om_... usage-reporter connect" in one["fix"]
    assert found.of("Subjects")[0]["seen"] == "not looked at: OpenMeter cannot be asked"
    assert levels(found.of("Permissions")) == ["ok"]

    openmeter.settings = replace(openmeter.settings, api_key=None)
    monkeypatch.setenv("OPENMETER_URL", f"{account.world.openmeter_url}/api")
    assert "must be the base address" in account.doctor().of("OpenMeter")[0]["seen"]

    monkeypatch.setenv("OPENMETER_URL", account.world.openmeter_url)
    openmeter.delete_meter("m1")
    assert "has no meters" in account.doctor().of("OpenMeter")[0]["seen"]


def test_the_version_of_openmeters_api_that_answers_is_named(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    openmeter = account.world.openmeter
    for served, other in (("v3", "v1"), ("v1", "v3")):
        openmeter.settings = replace(openmeter.settings, apis=(served,))  # type: ignore[arg-type]
        monkeypatch.setenv("OPENMETER_API", other)

        found = account.doctor()

        [one] = found.of("OpenMeter")
        assert one["level"] == "problem"
        assert f"answers to OpenMeter's {served} API, not to {other}" in one["seen"]
        assert f"OpenMeterApi={served}" in one["fix"]
        assert found.of("Mapping")[0]["seen"] == "not looked at: OpenMeter cannot be asked"


def test_konnect_has_v3_alone(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nowhere(*_: object) -> list[str]:
        raise RefusedError("OpenMeter answers 404 to /api/v1/meters")

    monkeypatch.setattr(OpenMeter, "slugs", nowhere)
    monkeypatch.setenv("OPENMETER_URL", "https://eu.api.konghq.com")
    [one] = account.doctor().of("OpenMeter")

    assert one["seen"].startswith(
        "https://eu.api.konghq.com is Kong Konnect, which has OpenMeter's v3 API alone"
    )
    assert one["fix"].startswith("deploy with OpenMeterApi=v3")


def test_all_is_well_by_v3(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENMETER_API", "v3")
    openmeter = account.world.openmeter
    openmeter.calls.reset()

    found = account.doctor()

    assert "answers (v3); meters: m1" in found.of("OpenMeter")[0]["seen"]
    assert levels(found.of("Mapping")) == ["ok"]
    assert found.of("Subjects") == [
        {"check": "Subjects", "level": "ok", "seen": "OpenMeter has usage of each subject (1)", "fix": ""}
    ]
    [events] = found.of("OpenMeter events")
    assert (events["level"], "its v3 API may not say" in events["seen"]) == ("ok", True)
    assert openmeter.calls.counts
    assert all(name.startswith("v3_") for name in openmeter.calls.counts)

    account.world.subscription(account.price, account.world.customer())
    assert "never had usage on meter m1" in account.doctor().of("Subjects")[0]["seen"]


# Mapping


def test_wrong_mappings(account: Account) -> None:
    world = account.world
    world.openmeter.create_meter("people", "used", aggregation="UNIQUE_COUNT")
    price = account.price
    gone = world.subscription(price, om_meter_id="gone")["items"].data[0].id
    world.subscription(price, om_meter_id="people")
    world.subscription(price, om_meter_id="No-Slug")
    world.subscription(world.metered_price("calls", "count")[0])
    none = world.client.v1.subscriptions.create(
        {
            "customer": world.customer(),
            "items": [{"price": price}],
            "collection_method": "send_invoice",
            "days_until_due": 30,
        }
    )

    found = account.doctor()

    assert found.result.code == 1
    said = [(one["level"], one["seen"], one["fix"]) for one in found.of("Mapping")]
    slug, missing, people, counted, unmapped = said
    assert "'No-Slug' cannot be the slug" in slug[1]
    assert missing[0] == "problem"
    assert "OpenMeter has no meter 'gone' (404); create it or correct om_meter_id; named by" in missing[1]
    assert f"{gone} (price {price})" in missing[1]
    assert "correct om_meter_id in the metadata of the subscription item" in missing[2]
    assert "'people' aggregates by UNIQUE_COUNT, which does not add up" in people[1]
    assert "formula 'last'" in people[2]
    assert "aggregates by 'count'" in counted[1]
    assert counted[2] == "create a meter with formula 'sum' or 'last' and put its price on the subscription"
    assert unmapped[0] == "warning"
    assert none["items"].data[0].id in unmapped[1]


def test_an_item_that_lost_its_name(healthy: Healthy) -> None:
    [subscription] = healthy.world.client.v1.subscriptions.list({}).data
    item = subscription["items"].data[0].id
    healthy.world.client.v1.subscription_items.update(item, {"metadata": {"om_meter_id": ""}})

    [one] = healthy.doctor().of("Mapping")

    assert one["level"] == "problem"
    assert f"{item} of {subscription.id}" in one["seen"]
    assert "put om_meter_id in the metadata" in one["fix"]


def test_classic_billing_mode_and_other_metadata(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    world = account.world
    classic = world.subscription(account.price, billing_mode={"type": "classic"}).id

    found = account.doctor()

    [mode] = [one for one in found.of("Mapping") if one["level"] == "warning"]
    assert classic in mode["seen"]
    assert "never bills usage from before a price swap" in mode["seen"]
    assert "flexible billing mode" in mode["fix"]

    monkeypatch.setenv("SUBJECT_METADATA_KEY", "external_key")
    said = account.doctor().of("Mapping")
    assert {one["level"] for one in said[:2]} == {"problem"}
    assert "has no metadata 'external_key', which SUBJECT_METADATA_KEY asks for" in said[0]["seen"]
    assert said[0]["fix"] == "set it to the subject in OpenMeter"


def test_subjects_that_openmeter_has_never_seen(account: Account) -> None:
    world = account.world
    new = world.customer()
    world.subscription(account.price, new)

    one = account.doctor()
    [unseen] = one.of("Subjects")
    assert unseen["level"] == "warning"
    assert f"never had an event on meter m1 of {new}; it has of {account.customer}" in unseen["seen"]
    assert "SubjectMetadataKey" in unseen["fix"]

    world.client.v1.customers.update(new, {"metadata": {"tenant": "acme", "plan": "gold"}})
    world.use("acme", NOON + MINUTE)
    [wrong] = account.doctor().of("Subjects")
    assert wrong["level"] == "problem"
    assert f"The metadata 'tenant' of {new} is such a subject" in wrong["seen"]
    assert wrong["fix"] == "deploy with SubjectMetadataKey=tenant"


def test_customers_that_openmeter_has_not(account: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    world = account.world
    bare, quiet, missing = (world.customer() for _ in range(3))
    for customer in (bare, quiet, missing):
        world.subscription(account.price, customer)
    world.openmeter.create_customer(account.customer)
    monkeypatch.setenv("OPENMETER_CUSTOMERS", "true")
    world.openmeter.create_customer(bare)
    world.openmeter.create_customer(quiet, ["seat_1", "seat_2"])

    one, two, three = account.doctor().of("Subjects")
    assert (one["level"], two["level"], three["level"]) == ("problem", "warning", "warning")
    assert f"no customer with key {missing}: nothing of theirs is reported" in one["seen"]
    assert "create them in OpenMeter with the subject keys" in one["fix"]
    assert f"key as its subject: {bare}" in two["seen"]
    assert f"never had an event on meter m1 of any subject of {quiet}" in three["seen"]

    world.openmeter.create_customer(missing, ["seat_3"])
    for subject in (bare, "seat_2", "seat_3"):
        world.use(subject, NOON + MINUTE)
    [fine] = account.doctor().of("Subjects")
    assert fine["level"] == "ok"


def test_events_without_a_value(account: Account) -> None:
    account.world.use(account.customer, NOON + MINUTE, "many")

    [one] = account.doctor().of("OpenMeter events")

    assert one["level"] == "warning"
    assert "cannot be parsed as float64: many" in one["seen"]
    assert "valueProperty" in one["fix"]


def test_without_anything_metered(doctor: Doctor, world: World) -> None:
    found = doctor()

    assert found.result.code == 0
    assert "no live subscription with a metered price" in found.of("Mapping")[0]["seen"]
    assert "no events in the last three days" in found.of("OpenMeter events")[0]["seen"]
    assert "`connect` made" in found.of("Destinations")[0]["seen"]
    assert "no renewal's invoice" in found.of("Grace")[0]["seen"]
    assert [one["check"] for one in found.findings if one["check"] in {"Stack", "Ledger", "Alarms"}] == []


# Destinations


def test_dead_destinations(healthy: Healthy) -> None:
    [endpoint] = healthy.world.stripe.account.endpoints
    [thin] = healthy.world.stripe.account.destinations
    endpoint.status = "disabled"
    endpoint.enabled_events = ["invoice.created"]
    endpoint.api_version = "2025-02-24.acacia"
    healthy.world.stripe.account.destinations.remove(thin.id)

    found = healthy.doctor()

    assert found.result.code == 1
    said = found.of("Destinations")
    assert [one["seen"] for one in said] == [
        f"webhook endpoint {endpoint.id} is disabled",
        f"webhook endpoint {endpoint.id} is not told of {', '.join(EVENT_TYPES[:2])}, {EVENT_TYPES[3]}",
        f"webhook endpoint {endpoint.id} has API version 2025-02-24.acacia, not 2026-05-27.dahlia",
        f"no event destination posts to {WEBHOOK_URL}",
    ]
    assert {one["fix"] for one in said} == {f"`{CONNECT}`"}

    endpoint.url = "https://old.example.com/stripe/webhook"
    astray = healthy.doctor().of("Destinations")[0]["seen"]
    assert astray == f"no webhook endpoint posts to {WEBHOOK_URL}; there is one to {endpoint.url}"


@pytest.mark.parametrize(
    ("kept", "level"), [([], "problem"), (["whsec_one"], "problem"), (["whsec_one", "whsec_two"], "warning")]
)
def test_signing_secrets_that_the_stack_may_not_have(healthy: Healthy, kept: list[str], level: str) -> None:
    secret = {"stripe_api_key": "sk_test_sandbox", "stripe_webhook_secret": kept}
    healthy.world.secrets.put_secret_value(SecretId="keys", SecretString=str(secret).replace("'", '"'))

    one = healthy.doctor().only("Destinations")

    assert one["level"] == level
    assert "does not say that it holds the signing secret of webhook endpoint" in one["seen"]
    assert CONNECT in one["fix"]


def test_deliveries_that_fail(healthy: Healthy) -> None:
    world = healthy.world
    world.stripe.deliver = lambda *_: 500
    [subscription] = world.client.v1.subscriptions.list({}).data
    world.client.v1.subscriptions.update(subscription.id, {"metadata": {"seen": "1"}})
    world.travel(NOW + 12 * MINUTE)

    one = healthy.doctor().only("Deliveries")
    assert one["level"] == "problem"
    assert one["seen"] == "not delivered in the last 3 days: 1 event, the oldest 12 minutes ago"
    assert f"sam logs --stack-name {STACK} --name WebhookFunction" in one["fix"]

    world.client.v1.webhook_endpoints.create(
        {"url": "https://example.com/other", "enabled_events": ["invoice.created"]}
    )
    one = healthy.doctor().only("Deliveries")
    assert one["level"] == "warning"
    assert "https://example.com/other" in one["seen"]


def test_another_stack_on_the_account(healthy: Healthy) -> None:
    other = {**healthy.outputs, "WebhookUrl": "https://other.example.com/stripe/webhook"}
    make_stack({**other, "LedgerTableName": "other-ledger"}, "second")
    assert healthy.run("connect", "--stack", "second").code == 0

    one = healthy.doctor().only("Other stacks")
    assert one["level"] == "problem"
    assert "another stack, second, listens to this Stripe account and is live" in one["seen"]
    assert "delete second, or deploy it with Mode=shadow" in one["fix"]

    aws("cloudformation").delete_stack(StackName="second")
    one = healthy.doctor().only("Other stacks")
    assert "another stack, second, listens to this Stripe account (" in one["seen"]

    make_stack(other, "third")
    said = healthy.doctor().of("Other stacks")
    assert "another stack, third, writes the same ledger" in said[0]["seen"]
    assert levels(said) == ["problem", "problem"]


def test_another_stack_in_shadow_is_a_warning(healthy: Healthy) -> None:
    other = {**healthy.outputs, "WebhookUrl": "https://other.example.com/stripe/webhook"}
    make_stack({**other, "LedgerTableName": "other", "WorkerFunctionName": "webhook"}, "second")
    assert healthy.run("connect", "--stack", "second").code == 0
    healthy.deploy(MODE="shadow")

    [one] = healthy.doctor().of("Other stacks")

    assert (one["level"], one["fix"]) == ("warning", "keep it in shadow")


# Time


def test_a_grace_that_is_too_short(doctor: Doctor, world: World) -> None:
    world.stripe.change_settings(finalization_grace=30 * MINUTE)
    world.subscription(world.metered_price()[0])
    world.travel(NOON + 31 * DAY + 20 * MINUTE)

    [draft] = doctor().of("Grace")
    assert draft["level"] == "problem"
    assert draft["seen"].startswith("drafts of renewals stay open for 30 minutes (1 looked at)")
    assert "Billing settings, Invoices, grace period" in draft["fix"]

    world.travel(NOON + 32 * DAY)
    found = doctor()
    assert found.of("Grace") == [draft]
    assert found.result.code == 1

    world.stripe.change_settings(finalization_grace=HOUR)
    world.travel(NOON + 62 * DAY + 30 * MINUTE)
    [default] = doctor().of("Grace")
    assert default["level"] == "warning"
    assert "usage that OpenMeter shows later than that is on no invoice" in default["seen"]


def test_clocks_that_differ(doctor: Doctor, world: World) -> None:
    world.stripe.change_settings(date_skew=-90)
    world.openmeter.settings = replace(world.openmeter.settings, date_skew=7 * MINUTE)

    found = doctor()

    assert [(one["level"], one["seen"]) for one in found.of("Clocks")] == [
        ("warning", "Stripe's clock is 90 seconds behind this machine's"),
        ("problem", "OpenMeter's clock is 7 minutes ahead of this machine's"),
    ]
    assert "NTP" in found.of("Clocks")[0]["fix"]
    assert found.result.code == 1


def test_a_clock_that_is_not_told(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moto.core.responses.utcnow", lambda: NOW)
    monkeypatch.setattr("moto.core.responses.http_date", lambda _: "soon")

    assert healthy.doctor().of("Clocks")[2]["seen"] == "AWS did not tell its time"


# The stack


def test_an_aws_that_does_not_answer_hides_no_other_clock(
    healthy: Healthy, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: Aws, service: str, operation: str, **params: Any) -> Any:
        raise ClientError({"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}, operation)

    monkeypatch.setattr(Aws, "call", silent)

    assert [one["seen"] for one in healthy.doctor().of("Clocks")] == [
        "Stripe's clock is within a minute of this machine's",
        "OpenMeter's clock is within a minute of this machine's",
        "AWS did not tell its time",
    ]


def test_functions_that_do_not_work(healthy: Healthy) -> None:
    healthy.feed()
    healthy.metric("AWS/Lambda", "Errors", 3, 30 * MINUTE, FunctionName="worker")
    healthy.metric("AWS/Lambda", "Errors", 2, 5 * HOUR, FunctionName="webhook")
    functions = aws("lambda")
    [feed] = functions.list_event_source_mappings()["EventSourceMappings"]
    functions.update_event_source_mapping(UUID=feed["UUID"], Enabled=False)
    functions.update_function_configuration(
        FunctionName="schedule", Environment={"Variables": {"MODE": "shadow"}}
    )

    found = healthy.doctor()

    assert [(one["level"], one["seen"]) for one in found.of("Functions")] == [
        ("warning", "webhook failed 2 times within a day, 0 of them within an hour"),
        ("problem", "worker failed 3 times within a day, 3 of them within an hour"),
        ("problem", "the functions have not one mode: webhook live, schedule shadow, worker live"),
        ("problem", "the queue does not feed worker: its event source mapping is Disabled"),
    ]
    assert all(one["fix"] for one in found.of("Functions"))


def test_shadow_mode(healthy: Healthy) -> None:
    healthy.deploy(MODE=Mode.SHADOW)

    one = healthy.doctor().only("Functions")

    assert one["level"] == "warning"
    assert "Mode=live" in one["fix"]


def test_no_ticks(healthy: Healthy) -> None:
    aws("scheduler").update_schedule(
        Name="closing",
        State="DISABLED",
        ScheduleExpression="rate(1 hour)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target=aws("scheduler").get_schedule(Name="closing")["Target"],
    )
    healthy.world.travel(NOW + HOUR)

    found = healthy.doctor()

    assert [one["seen"] for one in found.of("Schedules")] == [
        "the schedule closing is DISABLED",
        'no tick of scope "closing" got through within 45 minutes',
    ]

    aws("scheduler").delete_schedule(Name="closing")
    healthy.world.travel(NOW + 4 * HOUR)
    assert [one["seen"] for one in healthy.doctor().of("Schedules")] == [
        'no schedule calls schedule with the scope "closing"',
        'no tick of scope "closing" got through within 45 minutes',
        'no tick of scope "all" got through within 3 hours',
    ]


def test_a_daily_comparison_is_no_rhythm(healthy: Healthy) -> None:
    """Beside `closing` there are still two schedules, and the last tick of all subscriptions was just now."""
    held = aws("scheduler").get_schedule(Name="all")
    aws("scheduler").delete_schedule(Name="all")
    aws("scheduler").create_schedule(
        Name="reconcile",
        ScheduleExpression="cron(37 5 * * ? *)",
        FlexibleTimeWindow={"Mode": "OFF"},
        Target={**held["Target"], "Input": '{"scope": "reconcile"}'},
    )

    assert healthy.doctor().only("Schedules")["seen"] == 'no schedule calls schedule with the scope "all"'


def test_what_is_being_changed_is_not_broken(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Aws.call

    async def changing(self: Aws, service: str, operation: str, **params: Any) -> Any:
        answer = await call(self, service, operation, **params)
        if operation == "describe_table":
            answer["Table"]["TableStatus"] = "UPDATING"
        if operation == "get_function_configuration" and params["FunctionName"] == "worker":
            answer["State"] = "Pending"
        return answer

    monkeypatch.setattr(Aws, "call", changing)
    found = healthy.doctor()

    assert found.only("Functions")["seen"] == "worker is still being made"
    assert found.result.code == 0


def test_queues_that_fill(healthy: Healthy) -> None:
    healthy.world.sqs.send_message(QueueUrl=healthy.outputs["DeadLetterQueueUrl"], MessageBody="{}")
    healthy.metric("AWS/SQS", "ApproximateAgeOfOldestMessage", 1800, 5 * MINUTE, QueueName="pages")

    found = healthy.doctor()

    dead, old = found.of("Queues")
    assert dead["seen"] == "1 dead letter: pages of customers that failed three times"
    assert f"`usage-reporter redrive --stack {STACK}`" in dead["fix"]
    assert (old["level"], old["seen"]) == ("warning", "0 pages on the queue, the oldest for 30 minutes")

    healthy.metric("AWS/SQS", "ApproximateAgeOfOldestMessage", 3000, 2 * MINUTE, QueueName="pages")
    assert levels(healthy.doctor().of("Queues")) == ["problem", "problem"]


def test_a_ledger_that_is_not_kept(healthy: Healthy) -> None:
    tables = healthy.world.dynamodb
    tables.update_time_to_live(
        TableName="ledger", TimeToLiveSpecification={"Enabled": False, "AttributeName": "expires_at"}
    )
    tables.update_continuous_backups(
        TableName="ledger", PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False}
    )

    said = healthy.doctor().of("Ledger")

    assert levels(said) == ["warning", "warning"]
    assert "aws dynamodb update-continuous-backups --table-name ledger" in said[0]["fix"]
    assert "aws dynamodb update-time-to-live --table-name ledger" in said[1]["fix"]


def test_a_ledger_of_another_table_or_mode(healthy: Healthy) -> None:
    world = healthy.world
    [head] = [item for item in world.ledger() if item["sk"]["S"] == "head"]
    world.dynamodb.put_item(TableName="ledger", Item={**head, "table": {"S": "1"}})
    new = world.customer()
    world.subscription(healthy.price, new)
    world.use(new, NOW - HOUR)

    said = healthy.doctor().of("Ledger entries")

    assert levels(said) == ["problem", "warning"]
    assert "a restored copy" in said[0]["seen"]
    assert said[0]["fix"] == f"`usage-reporter adopt --stack {STACK} --all`"
    assert new in said[1]["seen"]

    for item in world.ledger():
        world.dynamodb.delete_item(TableName="ledger", Key={"pk": item["pk"], "sk": item["sk"]})
    other = {**head, "pk": {"S": head["pk"]["S"].replace("#test#", "#live#")}}
    world.dynamodb.put_item(TableName="ledger", Item=other)
    [mode] = healthy.doctor().of("Ledger")
    assert "written with a key of live mode, and the stack's is of test mode" in mode["seen"]


def test_alarms_that_nobody_hears(healthy: Healthy) -> None:
    watch, sns = aws("cloudwatch"), aws("sns")
    watch.disable_alarm_actions(AlarmNames=["HeldAlarm"])
    watch.set_alarm_state(AlarmName="RejectedAlarm", StateValue="ALARM", StateReason="test")
    watch.delete_alarms(AlarmNames=["TickAllAlarm"])
    for one in sns.list_subscriptions_by_topic(TopicArn=healthy.topic)["Subscriptions"]:
        sns.unsubscribe(SubscriptionArn=one["SubscriptionArn"])

    said = healthy.doctor().of("Alarms")

    assert {one["level"] for one in said} == {"problem"}
    assert [one["seen"] for one in said] == [
        "no alarm on the metrics TickAll",
        "1 of 10 alarms tell nobody: HeldAlarm",
        f"nobody is subscribed to {healthy.topic}, so that the alarms are not heard",
        "RejectedAlarm is on",
    ]
    assert "AlarmTopicArn" in said[1]["fix"]
    assert "aws sns subscribe" in said[2]["fix"]
    assert "docs/runbook.md" in said[3]["fix"]


def test_a_subscription_that_waits_to_be_confirmed(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = Aws.pages

    async def unconfirmed(self: Aws, service: str, operation: str, member: str, **params: Any) -> list[Any]:
        found = await pages(self, service, operation, member, **params)
        if service == "sns" and is_denied:
            raise ClientError({"Error": {"Code": "AuthorizationError", "Message": "no"}}, operation)
        return (
            [{**one, "SubscriptionArn": "PendingConfirmation"} for one in found]
            if service == "sns"
            else found
        )

    monkeypatch.setattr(Aws, "pages", unconfirmed)

    is_denied = False
    assert "1 wait to be confirmed" in healthy.doctor().only("Alarms")["seen"]
    is_denied = True
    denied = healthy.doctor().only("Alarms")
    assert denied["level"] == "warning"
    assert f"whether anybody hears {healthy.topic} could not be checked" in denied["seen"]


def test_the_metrics_that_must_be_heard_are_the_templates() -> None:
    alarms = resources("AWS::CloudWatch::Alarm").values()
    assert {one["Properties"]["MetricName"] for one in alarms} == ALARMED


# Other writers


def test_a_foreign_writer_is_named(healthy: Healthy) -> None:
    hour = (NOW - 4 * HOUR) // HOUR * HOUR
    healthy.event(healthy.customer, hour)
    healthy.event(healthy.customer, hour + HOUR)

    one = healthy.doctor().only("Other writers")

    assert one["level"] == "problem"
    assert f"writes usage of {healthy.customer} to Stripe meter {healthy.meter}" in one["seen"]
    assert "it holds 7, of which this stack sent 0, and 1 more hours" in one["seen"]
    assert "stop it, wait an hour, then" in one["fix"]
    assert f"`usage-reporter adopt --stack {STACK} --customer {healthy.customer}`" in one["fix"]


def test_what_is_young_or_long_past_says_nothing_of_others(healthy: Healthy) -> None:
    healthy.event(healthy.customer, NOW - 30 * MINUTE)
    healthy.event(healthy.customer, NOW - 30 * HOUR)

    assert levels(healthy.doctor().of("Other writers")) == ["ok"]


def test_a_foreign_writer_beside_a_total(healthy: Healthy) -> None:
    world = healthy.world
    price, _ = world.metered_price("level", "last")
    customer = world.customer()
    world.subscription(price, customer)
    world.use(customer, NOW + MINUTE, 5)
    world.travel(NOW + 3 * HOUR)
    healthy.unfeed()
    world.tick()
    world.travel(NOW + 5 * HOUR)
    assert levels(healthy.doctor().of("Other writers")) == ["ok"]

    healthy.event(customer, (NOW + 2 * HOUR) // HOUR * HOUR - MINUTE, "9", event_name="level")

    [one] = healthy.doctor().of("Other writers")
    assert one["level"] == "problem"
    assert customer in one["seen"]


def test_a_sample_says_how_many_it_saw(healthy: Healthy) -> None:
    for _ in range(3):
        customer = healthy.world.customer()
        healthy.world.subscription(healthy.price, customer)
        healthy.world.use(customer, NOW + MINUTE)
    healthy.world.travel(NOW + HOUR)
    healthy.world.tick()

    [one] = healthy.doctor("--sample", "2").of("Other writers")

    assert "2 of 4 customer meters looked at" in one["seen"]


# One that fails stops no other


def test_what_aws_does_not_allow_is_said(healthy: Healthy, monkeypatch: pytest.MonkeyPatch) -> None:
    call = Aws.call

    async def denied(self: Aws, service: str, operation: str, **params: Any) -> Any:
        if service in {"sqs", "cloudwatch"}:
            code = "AccessDenied" if service == "sqs" else "Throttling"
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, operation)
        if operation == "describe_table":
            raise KeyError("Table")
        return await call(self, service, operation, **params)

    monkeypatch.setattr(Aws, "call", denied)

    found = healthy.doctor()

    assert found.of("Queues")[0]["level"] == "warning"
    assert found.of("Queues")[0]["fix"] == "run it with AWS credentials that may read this"
    assert found.of("Schedules")[0]["level"] == "problem"
    assert "unexpected KeyError" in found.of("Ledger")[0]["seen"]
    assert levels(found.of("Alarms")) == levels(found.of("Mapping")) == ["ok"]


@pytest.mark.parametrize("deployed", ["0.9.0", None])
def test_a_stack_of_another_version(healthy: Healthy, deployed: str | None) -> None:
    others = {name: value for name, value in healthy.outputs.items() if name != "Version"}
    make_stack({**others, **({"Version": deployed} if deployed else {})}, "older")

    result = healthy.run("doctor", "--stack", "older", "--json")
    (said,) = Examination(result, result.json["findings"]).of("Stack")

    assert said["level"] == "warning"
    assert f"has version {deployed or 'before 1.0.0'}, and this usage-reporter {VERSION}" in said["seen"]


def test_a_stack_that_is_not_all_there(healthy: Healthy) -> None:
    less = {name: value for name, value in healthy.outputs.items() if name != "DeadLetterQueueUrl"}
    make_stack(less, "older")

    result = healthy.run("doctor", "--stack", "older")

    assert result.code == 1
    assert "problem  Stack             stack older lacks the outputs DeadLetterQueueUrl" in result.out
    assert "warning  Alarms            not looked at: the stack is not all there" in result.out

    del less["LedgerTableName"]
    make_stack(less, "none")
    result = healthy.run("doctor", "--stack", "none")
    assert (result.code, "no output LedgerTableName" in result.err) == (2, True)


def test_wrong_use(moto: Moto, run: Run, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("doctor", "--stack", "nowhere").code == 2
    assert run("doctor", "--sample", "0").code == 2
    monkeypatch.delenv("STRIPE_KEY")
    result = run("doctor")
    assert (result.code, result.err.startswith("error: STRIPE_KEY is not set")) == (2, True)
