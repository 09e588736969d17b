"""The brake: a jump is held, alone, until somebody accepts it or the rule for its deadline sends it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from tests.integration.test_faults import Crash, die_at, meters_of
from tests.integration.test_legacy import legacy_subscription
from tests.integration.world import DAY, HOUR, MINUTE, NOON, World
from usage_reporting.brake import AtDeadline
from usage_reporting.config import Mode
from usage_reporting.errors import LostRaceError
from usage_reporting.heads import Heads, Options
from usage_reporting.ledger import DynamoTable, Head
from usage_reporting.model import Report
from usage_reporting.renewals import INVOICE_FINALIZED

START = NOON - 22 * MINUTE - 18
END = START + 31 * DAY
JUMP = NOON + 9 * DAY
ACCEPT = Options(full=True, accept=True)


@pytest.fixture
def subscription(world: World) -> Any:
    """A customer who used 10 in one hour of each of nine days, with the brake on."""
    world.settings["brake_factor"] = Decimal(100)
    world.clock.set(START)
    made = world.subscription(world.metered_price()[0])
    for day in range(9):
        world.use(made.customer, NOON + day * DAY, 10)
        world.travel(NOON + day * DAY + HOUR + 2 * MINUTE)
        world.tick()
    return made


def jump(world: World, customer: str, value: int = 5000, at: int = JUMP) -> Report:
    """An hour far above the others, read when it is over."""
    world.use(customer, at + MINUTE, value)
    world.travel(at + HOUR + 2 * MINUTE)
    return report(world)


def report(world: World, options: Options | None = None) -> Report:
    [found] = world.report_all(options)
    return found


def held(world: World, customer: str, at: int = JUMP) -> Decimal:
    """What Stripe holds of an hour."""
    return world.held(customer, at, at + HOUR)


def braked(world: World) -> list[Decimal]:
    """The units that the ledger says are held."""
    table = world.container().table
    items = table.get([(item["pk"]["S"], item["sk"]["S"]) for item in world.ledger()])
    return [units for item in items for units in item.get("braked", {}).values()]


def quantities(world: World, subscription: str) -> list[Decimal]:
    return [quantity for _, quantity, _ in world.billed(subscription)]


def test_an_hour_that_jumps_is_held_and_the_others_go_on(
    world: World, subscription: Any, counted: dict[str, float]
) -> None:
    customer = subscription.customer
    world.use(customer, JUMP + HOUR + MINUTE, 20)
    jump(world, customer)
    world.travel(JUMP + 2 * HOUR + 2 * MINUTE)
    other = world.subscription(world.metered_price("others")[0])
    counted.clear()

    world.tick()

    assert held(world, customer) == 0
    assert held(world, customer, JUMP + HOUR) == 20
    assert (counted["Held"], counted["Braked"]) == (1, 1)
    assert braked(world) == [5000]
    found = {one.customer_meter.customer: one for one in world.report_all()}
    assert found[str(other.customer)].status == "unchanged"
    assert found[customer].status == "held"
    assert found[customer].reason == (
        "the hour 2026-07-24T12:00:00Z has 5000 in OpenMeter, 500 times its highest hour of the weeks before "
        "(10); BRAKE_FACTOR is 100, so it is held and it stays held past its invoice; if it is wrong, "
        "correct the events in OpenMeter; if it is right, release it with "
        f"`usage-reporter report --stack NAME --customer {customer} --accept`"
    )


def test_it_stays_held_on_every_tick_until_it_is_accepted_and_then_released(
    world: World, subscription: Any
) -> None:
    customer = subscription.customer
    jump(world, customer)
    # An hour that is no longer among the last six is looked at all the same, or the alarm would fall silent.
    for hours in (3, 9, 15, 40):
        world.travel(JUMP + hours * HOUR + 2 * MINUTE)
        assert report(world).is_braked
    assert held(world, customer) == 0

    assert report(world, ACCEPT).status == "sent"

    assert held(world, customer) == 5000
    assert braked(world) == []
    world.use(customer, JUMP + 2 * MINUTE, 400_000)  # it grows: what was accepted is usual
    world.use(customer, JUMP + 39 * HOUR, 6000)
    world.travel(JUMP + 41 * HOUR)
    assert report(world, Options(full=True)).status == "sent"
    assert held(world, customer) == 405_000
    assert held(world, customer, JUMP + 39 * HOUR) == 6000
    world.use(customer, JUMP + 35 * HOUR, 500_001)
    assert report(world, Options(full=True)).is_braked
    world.travel(JUMP + 65 * HOUR)
    jump(world, customer, 600_000, JUMP + 66 * HOUR)
    assert held(world, customer, JUMP + 66 * HOUR) == 600_000  # two days later it is usual, too
    assert braked(world) == [500_001]
    assert report(world, ACCEPT).status == "sent"


def test_a_mistake_that_is_mended_is_held_no_more(world: World, subscription: Any) -> None:
    customer = subscription.customer
    assert jump(world, customer).is_braked
    world.use(customer, JUMP + MINUTE, -4990)

    assert report(world).status == "sent"

    assert held(world, customer) == 10
    assert braked(world) == []


def test_events_that_are_deleted_are_held_no_more(world: World, subscription: Any) -> None:
    customer = subscription.customer
    assert jump(world, customer).is_braked
    world.openmeter.delete_meter("m1")
    world.openmeter.create_meter("m1", "used_since")
    for day in range(9):
        world.use(customer, NOON + day * DAY, 10)

    assert report(world).status == "unchanged"
    assert braked(world) == []


def test_an_hour_that_grows_while_it_is_read_is_held_from_the_jump_on(
    world: World, subscription: Any
) -> None:
    customer = subscription.customer
    for minute, value, held_by_then in ((10, 900, 900), (20, 50, 950), (30, 80_000, 950)):
        world.use(customer, JUMP + minute * MINUTE, value)
        world.travel(JUMP + minute * MINUTE + 2 * MINUTE)
        world.tick()
        assert held(world, customer) == held_by_then
    assert braked(world) == [80_000]
    # What was sent of it is no measure for the hours after it.
    assert jump(world, customer, 2000, JUMP + HOUR).is_braked


def test_a_new_customers_first_week_is_no_anomaly(world: World) -> None:
    world.settings["brake_factor"] = Decimal(2)
    world.clock.set(START)
    customer = world.subscription(world.metered_price()[0]).customer
    for day in range(6):
        world.use(customer, NOON + day * DAY, 10 ** (day + 1))
        world.travel(NOON + day * DAY + HOUR + 2 * MINUTE)
        assert report(world).status == "sent"


def test_with_the_brake_off_nothing_is_held_or_remembered(world: World) -> None:
    world.clock.set(START)
    customer = world.subscription(world.metered_price()[0]).customer
    for day in range(10):
        world.use(customer, NOON + day * DAY, 10**day)
        world.travel(NOON + day * DAY + HOUR + 2 * MINUTE)
        assert report(world).status == "sent"
    assert not {"usual", "braked"} & {name for item in world.ledger() for name in item}


def drafted(world: World, subscription: Any, **settings: Any) -> int:
    """A jump on the last day of the period, and the draft that would bill it: when it becomes final."""
    world.settings |= settings
    world.use(subscription.customer, END - HOUR, 5000)
    world.travel(END + 16)
    world.tick("closing")
    [draft] = world.client.v1.invoices.list({"subscription": subscription.id, "status": "draft"}).data
    return int(draft.automatically_finalizes_at)


def test_a_draft_near_its_deadline_is_sent_what_is_held_if_that_is_the_rule(
    world: World, subscription: Any, counted: dict[str, float]
) -> None:
    final_at = drafted(world, subscription, brake_deadline=AtDeadline.SEND)
    world.travel(final_at - 21 * MINUTE)
    world.tick("closing")
    assert world.held(subscription.customer, START, END) == 90

    world.travel(final_at - 19 * MINUTE)
    world.tick("closing")

    assert world.held(subscription.customer, START, END) == 5090
    assert braked(world) == []
    assert "ClosingUndelivered" not in counted
    world.travel(final_at + MINUTE)
    assert quantities(world, subscription.id)[-1] == 5090


def test_else_it_is_held_past_its_invoice_and_the_verdict_says_so(
    world: World, subscription: Any, counted: dict[str, float]
) -> None:
    final_at = drafted(world, subscription)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    world.travel(final_at - 19 * MINUTE)
    world.tick("closing")
    assert counted["ClosingUndelivered"] == 1

    world.travel(final_at + MINUTE)
    [told] = world.deliver()

    assert told.status == "short"
    assert "SHORT by 5000 (5000 held by the brake)" in told.reason
    assert quantities(world, subscription.id)[-1] == 90
    assert counted["Late"] == 5000
    world.tick()
    assert not report(world, ACCEPT).is_braked
    assert world.held(subscription.customer, START, END) == 90


def test_a_draft_that_is_kept_open_waits_for_somebody_to_look(world: World, subscription: Any) -> None:
    final_at = drafted(world, subscription, brake_deadline=AtDeadline.SEND, hold_drafts=True)
    for minutes in (30, 15):
        world.travel(final_at - minutes * MINUTE)
        world.tick("closing")
    assert world.held(subscription.customer, START, END) == 90
    [draft] = world.client.v1.invoices.list({"subscription": subscription.id, "status": "draft"}).data
    assert draft.automatically_finalizes_at == draft.created + 72 * HOUR

    world.travel(draft.automatically_finalizes_at - 19 * MINUTE)
    world.tick("closing")

    assert world.held(subscription.customer, START, END) == 5090


def test_shadow_mode_and_a_dry_run_write_nothing(world: World, subscription: Any) -> None:
    before = world.ledger()
    jump(world, subscription.customer)
    assert braked(world) == [5000]

    assert report(world, Options(full=True, dry_run=True)).is_braked
    accepted = report(world, Options(full=True, accept=True, dry_run=True))
    assert accepted.status == "shadow"
    assert [send.value for send in accepted.sent] == [5000]
    assert braked(world) == [5000]
    world.settings["mode"] = Mode.SHADOW
    after = world.ledger()
    assert report(world).is_braked
    assert world.ledger() == after != before


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("point", range(5))
def test_an_acceptance_outlives_a_crash(world: World, subscription: Any, point: int, *, after: bool) -> None:
    customer = subscription.customer
    jump(world, customer)
    doomed = world.container()
    page = doomed.run(meters_of(doomed, customer))
    die_at(doomed, point, after=after)
    with pytest.raises(Crash):
        doomed.run(doomed.reporter.report(page, ACCEPT))

    found = report(world)

    # Only before the acceptance itself was written it is as if nobody had said it.
    is_accepted = (point, after) != (0, False)
    assert found.is_braked is not is_accepted
    assert held(world, customer) == (5000 if is_accepted else 0)
    world.use(customer, JUMP + 30 * MINUTE, 5)
    assert report(world).is_braked is not is_accepted


def test_an_acceptance_that_loses_a_race_is_made_again(
    world: World, subscription: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = subscription.customer
    jump(world, customer)
    accept, lost = Heads.accept, [True]

    async def raced(self: Heads, *args: Any) -> Head:
        if lost:
            lost.pop()
            raise LostRaceError("somebody else wrote the head")
        return await accept(self, *args)

    monkeypatch.setattr(Heads, "accept", raced)
    assert report(world, ACCEPT).status == "sent"
    assert held(world, customer) == 5000
    world.use(customer, JUMP + 30 * MINUTE, 5)
    assert report(world).status == "sent"


def test_another_meter_has_another_usual(world: World, subscription: Any) -> None:
    customer, item = subscription.customer, subscription["items"].data[0].id
    world.openmeter.create_meter("bytes", "bytes")
    world.client.v1.subscription_items.update(item, {"metadata": {"om_meter_id": "bytes"}})
    world.openmeter.record("bytes", customer, JUMP + MINUTE, 10**7)
    world.travel(JUMP + HOUR + 2 * MINUTE)
    assert "OpenMeter meter is now 'bytes'" in report(world).reason

    report(world, Options(full=True, accept=True, accept_empty=True))

    assert held(world, customer) == 10**7


def test_no_more_is_read_of_the_ledger(
    world: World, subscription: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    get = DynamoTable.get

    def counted_get(self: DynamoTable, keys: Any) -> Any:
        asked.append(len(keys))
        return get(self, keys)

    monkeypatch.setattr(DynamoTable, "get", counted_get)
    report(world)
    with_brake, world.settings["brake_factor"] = list(asked), Decimal(0)
    asked.clear()
    report(world)
    assert asked == with_brake


def test_the_streams_usage_is_held_too(world: World, subscription: Any) -> None:
    world.settings["stripe_meter_stream"] = True
    customer = subscription.customer
    world.use(customer, JUMP + HOUR + MINUTE, 20)
    jump(world, customer)
    world.travel(JUMP + 2 * HOUR + 2 * MINUTE)

    assert report(world).is_braked
    assert held(world, customer) == 0
    assert held(world, customer, JUMP + HOUR) == 20
    assert report(world, ACCEPT).status == "sent"
    assert held(world, customer) == 5000


# Totals


@pytest.mark.parametrize("rule", list(AtDeadline))
def test_a_total_that_jumps_over_the_period_before(world: World, rule: AtDeadline) -> None:
    world.settings |= {"brake_factor": Decimal(10), "brake_deadline": rule}
    world.clock.set(START)
    world.listen(enabled_events=[INVOICE_FINALIZED])
    subscription = world.subscription(world.metered_price(formula="last")[0])
    customer, second_end = subscription.customer, END + 31 * DAY
    world.use(customer, START + HOUR, 100)
    world.use(customer, END + DAY, 900)
    world.use(customer, END + 2 * DAY, 200)
    for at in (START + 2 * HOUR, END + HOUR, END + DAY + HOUR):
        world.travel(at)
        world.tick()
    world.travel(END + 2 * DAY + HOUR)

    assert report(world).reason.startswith(
        "the period from 2026-08-15T11:37:42Z has 1100 in OpenMeter, 11 times the period before it (100); "
    )
    assert braked(world) == [200]
    world.inbox.clear()
    for minutes in (0.5, 30, 45, 52):
        world.travel(second_end + int(minutes * MINUTE))
        world.tick("closing")
    world.travel(second_end + 2 * HOUR)
    [told] = world.deliver()

    billed = quantities(world, subscription.id)[-1]
    if rule is AtDeadline.SEND:
        assert (billed, told.status) == (Decimal(1100), "exact")
        assert braked(world) == []
    else:
        assert (billed, told.status) == (Decimal(900), "short")
        assert "200 held by the brake" in told.reason


def test_an_accepted_total_is_usual_in_this_period_and_the_next(world: World) -> None:
    world.settings["brake_factor"] = Decimal(10)
    world.clock.set(START)
    customer = world.subscription(world.metered_price(formula="last")[0]).customer
    world.use(customer, START + HOUR, 100)
    world.use(customer, END + DAY, 5000)
    for at in (START + 2 * HOUR, END + HOUR, END + DAY + HOUR):
        world.travel(at)
        world.tick()
    assert world.held(customer, END, END + 31 * DAY) == 0

    assert report(world, ACCEPT).status == "sent"

    assert braked(world) == []
    world.use(customer, END + 3 * DAY, 40_000)
    world.travel(END + 3 * DAY + HOUR)
    assert report(world).status == "sent"
    world.use(customer, END + 32 * DAY, 300_000)
    world.travel(END + 32 * DAY + HOUR)
    assert report(world).status == "sent"


def test_a_total_that_is_corrected_is_held_no_more(world: World) -> None:
    world.settings["brake_factor"] = Decimal(10)
    world.clock.set(START)
    customer = world.subscription(world.metered_price(formula="last")[0]).customer
    world.use(customer, START + HOUR, 100)
    world.use(customer, END + HOUR, 50)
    for at in (START + 2 * HOUR, END + 2 * HOUR):
        world.travel(at)
        world.tick()
    world.use(customer, END + 3 * HOUR, 5000)
    world.travel(END + 4 * HOUR)
    assert report(world).is_braked
    world.use(customer, END + 3 * HOUR, -5000)

    assert report(world).status == "unchanged"
    assert braked(world) == []


@pytest.mark.parametrize("rule", list(AtDeadline))
def test_a_legacy_prices_period_has_its_end_as_deadline(world: World, rule: AtDeadline) -> None:
    world.settings |= {"brake_factor": Decimal(10), "brake_deadline": rule}
    _, item, customer = legacy_subscription(world)
    end, second_end = NOON + 31 * DAY, NOON + 62 * DAY
    world.use(customer, NOON + HOUR, 100)
    world.use(customer, end + HOUR, 50)
    world.use(customer, end + DAY, 5000)
    for at in (NOON + 2 * HOUR, end + 2 * HOUR, end + DAY + HOUR):
        world.travel(at)
        world.tick()

    assert world.usage_records(item)[end + 1] == 50
    assert report(world).reason.startswith("the period from 2026-08-15T12:00:00Z has 5050 in OpenMeter, 50.5")
    assert braked(world) == [5000]
    world.travel(second_end - 3 * HOUR)
    world.tick()
    assert world.usage_records(item)[end + 1] == 50
    world.travel(second_end - 110 * MINUTE)
    world.tick()
    assert world.usage_records(item)[end + 1] == (5050 if rule is AtDeadline.SEND else 50)


def test_an_accepted_legacy_total_is_not_held_again(world: World) -> None:
    world.settings["brake_factor"] = Decimal(10)
    _, item, customer = legacy_subscription(world)
    end = NOON + 31 * DAY
    world.use(customer, NOON + HOUR, 100)
    world.use(customer, end + HOUR, 5000)
    for at in (NOON + 2 * HOUR, end + 2 * HOUR):
        world.travel(at)
        world.tick()
    assert braked(world) == [5000]
    assert report(world, Options(full=True, dry_run=True)).is_braked

    assert report(world, ACCEPT).status == "sent"

    assert (world.usage_records(item)[end + 1], braked(world)) == (5000, [])
    world.use(customer, end + 3 * HOUR, 5000)
    world.travel(end + 4 * HOUR)
    assert report(world).status == "sent"
    world.use(customer, end + 5 * HOUR, 90_000)
    world.travel(end + 6 * HOUR)
    assert report(world).is_braked
    world.use(customer, end + 5 * HOUR, -90_000)
    assert report(world).status == "unchanged"
    assert braked(world) == []
