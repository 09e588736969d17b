"""`migrate` moves a small account from legacy prices to meters: no gap, no difference, nothing twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from sandbox.memory_table import MemoryTable
from sandbox.stripe.undocumented import Undocumented
from tests.cli.conftest import STACK, Result, Run
from tests.docs.documents import PROJECT, blocks
from tests.integration.test_legacy import ACACIA
from tests.integration.world import API_KEY, DAY, HOUR, MINUTE, NOON, World
from usage_reporting.container import Container
from usage_reporting.credentials import EnvironmentCredentials
from usage_reporting.heads import Options
from usage_reporting.stripe_api import StripeApi

ANCHOR = NOON + 37 * MINUTE + 42
MIGRATION = PROJECT / "docs" / "migration.md"
RENEWAL = ANCHOR + 31 * DAY
NEXT = RENEWAL + 31 * DAY
TIERS = [{"up_to": 10, "unit_amount": 50}, {"up_to": "inf", "unit_amount": 20, "flat_amount": 300}]
PRICES: dict[str, dict[str, Any]] = {
    "per unit": {"unit_amount": 10, "lookup_key": "standard", "nickname": "Standard"},
    "graduated": {"billing_scheme": "tiered", "tiers_mode": "graduated", "tiers": TIERS},
    "package": {"unit_amount_decimal": "1000.5", "transform_quantity": {"divide_by": 60, "round": "up"}},
}


@dataclass
class Account:
    """An account that bills by usage records, with a customer on each kind of price."""

    world: World
    run: Run
    functions: Container
    prices: dict[str, str] = field(default_factory=dict)
    products: dict[str, str] = field(default_factory=dict)
    customers: dict[str, str] = field(default_factory=dict)
    subscriptions: dict[str, Any] = field(default_factory=dict)

    def price(self, kind: str, **params: Any) -> str:
        """A legacy price of a product of its own."""
        product = str(self.world.client.v1.products.create({"name": kind}).id)
        recurring = {"interval": "month", "usage_type": "metered", **params.pop("recurring", {})}
        wanted = {"currency": "usd", "product": product, "recurring": recurring, **params}
        self.products[kind] = product
        self.prices[kind] = str(self.world.client.v1.prices.create(wanted, ACACIA).id)
        return self.prices[kind]

    def subscribe(
        self,
        name: str,
        *kinds: str,
        meter: str = "m1",
        more: Sequence[Any] = (),
        customer: str = "",
        **params: Any,
    ) -> str:
        """A customer, a new one or one of that name, on legacy prices from now on."""
        self.customers[name] = self.customers[customer] if customer else self.world.customer()
        metadata = {"metadata": {"om_meter_id": meter}} if meter else {}
        self.subscriptions[name] = self.world.client.v1.subscriptions.create(
            {
                "customer": self.customers[name],
                "items": [{"price": self.prices[kind], **metadata} for kind in kinds] + list(more),
                "collection_method": "send_invoice",
                "days_until_due": 30,
                **params,
            },
            ACACIA,
        )
        return self.customers[name]

    def migrate(self, *arguments: str) -> Result:
        """One run of the command, for the deployed stack."""
        return self.run("migrate", *arguments, "--stack", STACK)

    def done(self, *arguments: str) -> Any:
        """What a step changed; it must be right."""
        result = self.migrate(*arguments, "--apply", "--json")
        assert result.code == 0, result.out + result.err
        return result.json

    def items(self) -> dict[str, dict[str, Any]]:
        """The items of the plan, by customer."""
        names = {customer: name for name, customer in self.customers.items()}
        found = self.migrate("--json").json["prices"]
        return {names[item["stripe_customer"]]: item for price in found for item in price["items"]}

    def stages(self) -> dict[str, str]:
        """How far each customer is."""
        return {name: item["stage"] for name, item in self.items().items()}

    def use(self, instant: int, **units: str) -> None:
        """Usage of customers, by their names."""
        for name, value in units.items():
            self.world.use(self.customers[name], instant, value)

    def report(self) -> None:
        """What a tick reports: every live subscription, and every draft."""
        made = self.functions

        async def report() -> None:
            listings = [one async for one in made.billing.subscriptions({})]
            listings += [one async for one in made.billing.drafts()]
            found = [each for one in listings for each in one.customer_meters]
            await made.reporter.report(found, Options(full=True))

        made.run(report())

    def pass_renewal(self, renewal: int) -> None:
        """Let a period end: the functions read it before its door closes, while it is a draft, and after."""
        for instant in (renewal - 10 * MINUTE, renewal + 5 * MINUTE, renewal + 3 * HOUR):
            self.world.travel(instant)
            self.report()

    def item_rows(self, name: str) -> list[Any]:
        """The items of a customer's subscription."""
        found = self.world.client.v1.subscriptions.retrieve(self.subscriptions[name].id)
        return [row.to_dict() for row in found["items"].data]

    def price_now(self, name: str) -> str:
        """The metered price that a customer is on."""
        return str(self.item_rows(name)[0]["price"]["id"])

    def billed(self, name: str) -> list[str]:
        """The usage on a customer's final invoices, oldest first."""
        lines = self.world.billed(self.subscriptions[name].id)
        return [
            str(units)
            for price, units, status in lines
            if units and status == "open" and price != self.prices["seat"]
        ]


@dataclass
class DeployedStack:
    """A stack whose ledger is in memory: DynamoDB's own rules are tested with the ledger."""

    world: World
    ledger: MemoryTable = field(default_factory=MemoryTable)
    name: str = STACK
    mode: str = "live"

    def environment(self) -> dict[str, str]:
        return {
            "MODE": self.mode,
            "OPENMETER_URL": self.world.openmeter_url,
            "STRIPE_API_BASE": self.world.stripe_url,
        }

    def table(self) -> MemoryTable:
        return self.ledger

    def credentials(self) -> EnvironmentCredentials:
        return EnvironmentCredentials({"STRIPE_KEY": API_KEY})


@pytest.fixture
def deployed(world: World, monkeypatch: pytest.MonkeyPatch) -> DeployedStack:
    """The stack that the command is told of."""
    made = DeployedStack(world)
    monkeypatch.setattr("cli.migrate.Stack.read", lambda *_: made)
    return made


@pytest.fixture
def account(world: World, run: Run, deployed: DeployedStack) -> Account:
    """Three customers who can be migrated, one of them with a seat price too, and one who cannot."""
    world.travel(ANCHOR)
    functions = world.container()
    functions.ledger._table = deployed.ledger
    made = Account(world, run, functions)
    for kind, params in PRICES.items():
        made.price(kind, **params)
    made.price("carried", unit_amount=10, recurring={"aggregate_usage": "last_ever"})
    made.price("seat", unit_amount=2000, recurring={"usage_type": "licensed"})
    default = {"default_price": made.prices["per unit"]}
    world.client.v1.products.update(made.products["per unit"], default)
    made.subscribe("ada", "per unit")
    made.subscribe("bob", "graduated")
    seats = {"price": made.prices["seat"], "quantity": 3, "metadata": {"floor": "2"}}
    made.subscribe("cy", "package", more=[seats])
    made.subscribe("dora", "carried")
    made.use(ANCHOR + HOUR, ada="7.5", bob="12.25", cy="61", dora="3")
    return made


@pytest.fixture
def compared(account: Account) -> Account:
    """The same after the first renewal, with all that can be compared exact."""
    account.done("prepare")
    account.pass_renewal(RENEWAL)
    return account


class KilledError(BaseException):
    """The process was killed."""


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Run a step again and again, killed after its first write each time, until it writes nothing more."""
    call = StripeApi.call
    monkeypatch.setattr("cli.migration.few_at_once.AT_ONCE", 1)

    def kill(account: Account, *arguments: str) -> int:
        is_dead = False

        async def killed(self: StripeApi, method: str, *rest: Any, **named: Any) -> Any:
            nonlocal is_dead
            if is_dead:
                raise KilledError
            if method != "post":
                return await call(self, method, *rest, **named)
            is_dead = True
            await call(self, method, *rest, **named)
            raise KilledError

        with monkeypatch.context() as patched:
            patched.setattr(StripeApi, "call", killed)
            for kills in range(20):
                is_dead = False
                try:
                    result = account.migrate(*arguments, "--apply")
                except KilledError:
                    continue
                assert result.code == 0, result.out
                return kills
        raise AssertionError("it writes for ever")

    return kill


def test_the_whole_way_killed_after_every_write(account: Account, kill: Callable[..., int]) -> None:
    """From records to meters: EXACT at each look, each unit of usage on one invoice, nothing made twice."""
    world, client = account.world, account.world.client
    world.travel(ANCHOR + 2 * DAY)
    account.report()
    check_documented(account.migrate())
    ada = account.items()["ada"]["running_period"]
    assert (ada["units_old"], ada["units_new"], ada["old"], ada["new"]) == ("8", "7.5", "0.80", "0.75")

    assert kill(account, "prepare") == 1 + 3 + 3  # a meter, the prices, their marks
    assert [meter.event_name for meter in client.v1.billing.meters.list().data] == ["m1"]
    new = {row.metadata["om_predecessor_price"]: row for row in metered_prices(world) if row.recurring.meter}
    assert new.keys() == {account.prices[kind] for kind in PRICES}
    account.use(RENEWAL - 40 * MINUTE, ada="4", bob="5", cy="6")
    account.use(RENEWAL - 10 * MINUTE, ada="100", bob="100", cy="100")  # the half hour of the next period
    account.pass_renewal(RENEWAL)
    check_documented(account.migrate("compare"))
    compared = account.migrate("compare", "--json")
    periods = {
        item["stripe_customer"]: [(one["record"], one["meter"], one["verdict"]) for one in item["periods"]]
        for item in compared.json["items"]
    }
    assert periods[account.customers["ada"]] == [("12", "11.5", "EXACT")]
    assert periods[account.customers["cy"]] == [("67", "67", "EXACT")]

    account.done("switch", "--limit", "1")
    assert sorted(account.stages().values()) == ["compared", "compared", "not migrated", "scheduled"]
    account.done("switch", "--limit", "1")
    assert kill(account, "switch") == 3  # a mark, a schedule, its phases
    assert len(client.v1.subscription_schedules.list().data) == 3
    account.use(NEXT - 10 * MINUTE, ada="1", bob="2", cy="3")
    account.pass_renewal(NEXT)
    assert [account.price_now(name) for name in ("ada", "bob")] == [
        new[account.prices[kind]].id for kind in ("per unit", "graduated")
    ]
    assert [(row.get("quantity"), row["metadata"]) for row in account.item_rows("cy")][1] == (
        3,
        {"floor": "2"},
    )
    waiting = account.migrate("finish", "--json").json
    assert ({one["verdict"] for one in waiting["first_invoices"]}, waiting["changes"]) == (
        {"no invoice yet"},
        [],
    )
    account.use(NEXT + DAY, ada="0.5", bob="0.25", cy="60")
    account.pass_renewal(NEXT + 30 * DAY)

    check_documented(account.migrate("finish"))
    assert kill(account, "finish") == 2 + 3 + 3  # the lookup key and the default, marks, archived prices
    assert {row.id for row in metered_prices(world) if not row.active} == new.keys()
    [standard] = client.v1.prices.list({"lookup_keys": ["standard"]}).data
    assert (standard.id, standard.nickname) == (account.price_now("ada"), "Standard")
    assert account.billed("ada") == ["12", "100", "1.5"]
    assert account.billed("cy") == ["67", "100", "63"]
    assert account.billed("dora") == ["3"]  # not again in the periods without usage


def test_each_stage_can_be_taken_back(compared: Account, kill: Callable[..., int]) -> None:
    """Also where Stripe puts a new item in an old one's place: what is not documented either way."""
    account, world = compared, compared.world
    world.stripe.change_settings(undocumented=Undocumented(schedule_replaces_items=True))
    account.done("switch")
    refused = account.migrate("prepare", "--undo", "--json").json
    assert all("--undo" in one["reason"] for one in refused["left"])
    assert kill(account, "switch", "--undo") == 2 * 3
    assert account.stages()["ada"] == "compared"
    made = {row.id for row in metered_prices(world)}
    [new] = [row.id for row in metered_prices(world) if row.nickname == "Standard" and row.recurring.meter]
    sold = world.subscription(new)
    left = {one["what"] for one in account.migrate("prepare", "--undo", "--json").json["left"]}
    assert left == {account.prices["per unit"]}
    world.client.v1.subscriptions.cancel(sold.id)
    assert kill(account, "prepare", "--undo") == 3 + 3 + 1  # marks, prices, the meter
    assert account.stages()["ada"] == "found"
    assert [meter.status for meter in world.client.v1.billing.meters.list().data] == ["inactive"]

    account.done("prepare")
    assert {row.id for row in metered_prices(world)} == made
    account.use(RENEWAL + DAY, ada="3", bob="2")
    account.pass_renewal(NEXT)
    assert (account.billed("ada")[-1], account.price_now("ada")) == ("3", account.prices["per unit"])
    account.done("switch")
    account.pass_renewal(NEXT + 30 * DAY)
    assert account.price_now("ada") != account.prices["per unit"]
    assert account.done("switch", "--undo")["left"]


def test_a_difference_stops_the_switch_unless_it_is_forced(compared: Account) -> None:
    """Somebody else feeds the new meter; and one subscription whose schedule fails stops no other."""
    account, world = compared, compared.world
    world.client.v1.billing.meter_events.create(
        {
            "event_name": "m1",
            "payload": {"stripe_customer_id": account.customers["ada"], "value": "5"},
            "timestamp": RENEWAL - DAY,
        }
    )
    found = account.migrate("compare")
    assert (found.code, "DIFFERS (+4.5)" in found.out) == (1, True), found.out
    left = account.migrate("switch", "--json").json["left"]
    assert [one["reason"].split(";")[0].split(" ", 1)[1] for one in left] == ["differs from its new meter"]
    name = account.subscriptions["bob"].id
    world.stripe.faults.add("status", "POST", "/v1/subscription_schedules", contains=name, status=400)

    forced = account.migrate("switch", "--force", "seen by Eve", "--apply", "--json")

    assert (forced.code, [one["what"] for one in forced.json["problems"]]) == (1, [name])
    schedules = world.client.v1.subscription_schedules.list().data
    assert {row.metadata["om_switch_reason"] for row in schedules} == {"seen by Eve"}
    assert {row.subscription for row in schedules} == {account.subscriptions[one].id for one in ("ada", "cy")}
    assert account.done("switch")["changes"]


def test_what_shares_a_meter_and_a_renewal_is_switched_together(account: Account) -> None:
    """Else the second one's half hour would be on no invoice: the first bills it in the period before."""
    account.subscribe("bob again", "per unit", customer="bob")
    account.world.travel(ANCHOR + 10 * MINUTE)
    account.subscribe("cy again", "per unit", customer="cy")
    account.done("prepare")
    account.pass_renewal(RENEWAL)
    both = {account.subscriptions[name].id for name in ("bob", "bob again")}
    of_bob = ("switch", "--customer", account.customers["bob"])
    near = account.done("switch", "--customer", account.customers["cy"], "--force", "seen by Eve")
    assert ["within half an hour" in one["reason"] for one in near["left"]] == [True, True]
    one_price = account.done(*of_bob, "--price", account.prices["per unit"])
    assert ("together with it" in one_price["left"][0]["reason"], one_price["changes"]) == (True, [])
    limited = account.done(*of_bob, "--limit", "1")
    assert ({one["what"] for one in limited["left"]}, limited["changes"]) == (both, [])
    assert {one["of"] for one in account.done(*of_bob, "--limit", "2")["changes"]} == both
    account.done(*of_bob, "--undo")

    account.done(*of_bob, "--price", account.prices["per unit"], "--force", "seen by Eve")
    account.use(NEXT - 10 * MINUTE, bob="100")
    account.pass_renewal(NEXT)
    account.use(NEXT + DAY, bob="1")
    alone = account.done("switch", "--force", "seen by Eve")
    [why] = [one["reason"] for one in alone["left"] if one["what"] in both]
    assert "would be on no invoice" in why
    account.use(NEXT + 30 * DAY - 10 * MINUTE, bob="1000")
    account.pass_renewal(NEXT + 30 * DAY)
    account.use(NEXT + 31 * DAY, bob="1")
    account.pass_renewal(NEXT + 61 * DAY)
    assert account.billed("bob again") == ["12", "1101", "1"]
    # A tier's units are a line each.
    assert account.billed("bob") == ["10", "2", "10", "91", "10", "991"]


def test_what_is_changed_by_hand_between_the_steps(compared: Account) -> None:
    """Nothing is scheduled that would not be billed, and a schedule is found again whatever became of it."""
    account, client = compared, compared.world.client
    old, (ada, cy) = account.prices["per unit"], (account.subscriptions[one].id for one in ("ada", "cy"))
    new = account.world.client.v1.prices.retrieve(old).metadata["om_successor_price"]

    def left(price: str, wrong: dict[str, Any], right: dict[str, Any]) -> str:
        """Why Ada is left while a price is otherwise."""
        client.v1.prices.update(price, wrong)
        found = account.migrate("switch", "--customer", account.customers["ada"], "--json").json
        client.v1.prices.update(price, right)
        assert found["changes"] == []
        return "".join(one["reason"] for one in found["left"] if one["what"] == ada)

    client.v1.products.update(account.products["per unit"], {"default_price": new})
    archived, active = {"active": False}, {"active": True}
    assert f"price {old} is archived" in left(old, archived, active)
    client.v1.products.update(account.products["per unit"], {"default_price": old})
    assert f"new price {new} is archived" in left(new, archived, active)
    named = [{"metadata": {"om_meter_id": one}} for one in ("", "m2", "m1")]
    [row] = account.item_rows("ada")
    client.v1.subscription_items.update(row["id"], {"metadata": {"om_meter_id": ""}}, ACACIA)
    client.v1.prices.update(old, named[-1])
    assert "names no OpenMeter meter" in left(new, named[0], named[-1])
    assert "names m2" in left(new, named[1], named[-1])

    recurring = {"interval": "month", "usage_type": "metered"}
    recurring["meter"] = client.v1.prices.retrieve(new).recurring.meter
    dear = {"currency": "usd", "product": account.products["per unit"], "unit_amount": 99}
    dearer = client.v1.prices.create({**dear, "recurring": recurring, "metadata": named[-1]["metadata"]}).id
    client.v1.prices.update(old, {"metadata": {"om_successor_price": dearer}})
    last = account.items()["ada"]["last_invoice"]
    assert (last["old"], last["new"]) == ("0.80", "7.43")

    account.done("switch")
    [row, _] = account.item_rows("cy")
    client.v1.subscription_items.update(row["id"], {"metadata": {"om_meter_id": ""}}, ACACIA)
    assert cy in {one["of"] for one in account.done("switch", "--undo")["changes"]}
    assert {row.status for row in client.v1.subscription_schedules.list().data} == {"released"}


def test_nothing_is_taken_away_while_a_subscription_cannot_be_read(account: Account) -> None:
    account.subscribe("eve", "seat", "carried", meter="")
    account.done("prepare")
    path = f"/v1/products/{account.products['carried']}"
    account.world.stripe.faults.add("status", "GET", path, status=400, times=9)

    refused = account.migrate("prepare", "--undo", "--apply", "--json")

    assert (refused.code, refused.json["changes"]) == (1, [])
    assert {account.subscriptions["eve"].id in one["reason"] for one in refused.json["left"]} == {True}


def check_documented(result: Result) -> None:
    """What the operator's chapter shows is what is printed, but for Stripe's ids."""
    assert result.code == 0, result.out
    assert without_ids(result.out) in map(without_ids, blocks(MIGRATION, "text")), result.out


def without_ids(text: str) -> str:
    return re.sub(r"\b(cus|in|mtr|price|si|sub)_\w{8,}", r"\1", text).strip()


def metered_prices(world: World) -> list[Any]:
    """Archived ones, too."""
    metered: Any = {"recurring": {"usage_type": "metered"}, "limit": 100}
    lists = [world.client.v1.prices.list({**metered, "active": one}) for one in (True, False)]
    return [row for one in lists for row in one.data]


def test_a_customer_on_no_legacy_price_is_wrong_use_and_not_nothing_to_do(account: Account) -> None:
    result = account.migrate("--customer", "cus_nope")
    assert result.code == 2
    assert "customer 'cus_nope' on no legacy metered price" in result.err
    assert account.migrate("--customer", account.customers["ada"]).code == 0
