"""Usage by OpenMeter's customers: all their subjects in one total, asked of the stand-in over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Literal, cast

import httpx
import pytest

from sandbox.clock import ManualClock
from sandbox.openmeter import OpenMeterSandbox, create_app
from tests.layer.builders import NOON, D, FixedCredentials
from usage_reporting.errors import OpenMeterUnavailableError, RefusedError
from usage_reporting.openmeter import OpenMeter
from usage_reporting.openmeter_customers import KEPT_FOR_S, OpenMeterCustomers
from usage_reporting.windows import DAY, HOUR

LISTED = "list_customers"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON + HOUR)


@pytest.fixture
def sandbox(clock: ManualClock) -> OpenMeterSandbox:
    made = OpenMeterSandbox(clock)
    made.create_meter("users", "login", aggregation="UNIQUE_COUNT")
    made.create_meter("tokens", "prompt")
    return made


Version = Literal["v1", "v3"]


@pytest.fixture(params=["v1", "v3"])
def api(request: pytest.FixtureRequest) -> Version:
    return cast("Version", request.param)


def asked[T](
    sandbox: OpenMeterSandbox,
    work: Callable[[OpenMeter], Coroutine[Any, Any, T]],
    **options: Any,
) -> T:
    async def run() -> T:
        transport = httpx.ASGITransport(create_app(sandbox))
        openmeter = OpenMeter(
            "http://openmeter.test",
            FixedCredentials(),
            transport=transport,
            **options,
        )
        openmeter.ask_by_customer(sandbox.clock)
        try:
            return await work(openmeter)
        finally:
            await openmeter.aclose()

    return asyncio.run(run())


def customers(openmeter: OpenMeter) -> OpenMeterCustomers:
    assert openmeter.customers is not None
    return openmeter.customers


def three_seats(sandbox: OpenMeterSandbox) -> None:
    """A customer whose three subjects have users in common, and another with one of them."""
    sandbox.create_customer("cus_acme", ["seat_1", "seat_2"])
    sandbox.create_customer("cus_other", ["seat_3"])
    for subject, user in (
        ("seat_1", "ann"),
        ("seat_1", "bob"),
        ("seat_2", "bob"),
        ("cus_acme", "ann"),
        ("cus_acme", "cid"),
        ("seat_3", "ann"),
    ):
        sandbox.record("login", subject, NOON + 60, user)


def test_unique_values_count_once_over_all_subjects_of_a_customer(
    sandbox: OpenMeterSandbox, api: Version
) -> None:
    three_seats(sandbox)
    keys = ["cus_other", "cus_acme"]
    found = asked(sandbox, lambda om: om.totals("users", keys, NOON, NOON + HOUR), api=api)
    assert found == {"cus_acme": 3, "cus_other": 1}


@pytest.mark.parametrize("whole_windows", [False, True])
def test_hours_are_sums_over_all_subjects(
    sandbox: OpenMeterSandbox, whole_windows: bool, api: Version
) -> None:
    sandbox.create_customer("cus_acme", ["seat_1", "seat_2"])
    sandbox.create_customer("cus_quiet")
    for subject, second, units in (
        ("seat_1", 0, 1),
        ("seat_2", 5, 2),
        ("cus_acme", HOUR, 4),
        ("seat_9", 0, 8),
    ):
        sandbox.record("prompt", subject, NOON + second, units)
    found = asked(
        sandbox,
        lambda om: om.hours("tokens", ["cus_acme", "cus_quiet"], NOON - HOUR, NOON + HOUR + 60),
        whole_windows=whole_windows,
        api=api,
    )
    assert found == {"cus_acme": {NOON: 3, NOON + HOUR: 4}}


def test_a_page_of_customers_is_one_list_and_then_remembered(
    sandbox: OpenMeterSandbox, clock: ManualClock
) -> None:
    for number in range(40):
        sandbox.create_customer(f"cus_{number}", [f"seat_{number}"])
        sandbox.record("prompt", f"seat_{number}", NOON, number + 1)

    async def pages(openmeter: OpenMeter) -> list[int]:
        lists = []
        for first, seconds in ((0, 0), (20, KEPT_FOR_S - 1), (20, 1)):
            clock.advance(seconds)
            keys = [f"cus_{number}" for number in range(first, first + 20)]
            found = await openmeter.totals("tokens", keys, NOON - DAY, NOON + DAY)
            assert found == {f"cus_{number}": number + 1 for number in range(first, first + 20)}
            lists.append(sandbox.calls.counts[LISTED])
        return lists

    assert asked(sandbox, pages) == [1, 1, 2]


@pytest.mark.parametrize(("wanted", "calls"), [(1, 1), (2, 3), (3, 4), (30, 4)])
def test_few_customers_of_very_many_are_asked_one_by_one(
    sandbox: OpenMeterSandbox, clock: ManualClock, wanted: int, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_reporting.openmeter_v1.CUSTOMERS_A_PAGE", 10)
    for number in range(40):
        clock.advance(1)
        sandbox.create_customer(f"cus_{number}", [f"seat_{number}"])
    newest = range(40 - wanted, 40)
    found = asked(sandbox, lambda om: customers(om).known([f"cus_{number}" for number in newest]))
    subject_keys = {key: one.subject_keys for key, one in found.items()}
    assert subject_keys == {f"cus_{number}": (f"seat_{number}",) for number in newest}
    assert sandbox.calls.counts[LISTED] == calls


def test_a_key_that_others_contain_is_told_apart(
    sandbox: OpenMeterSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage_reporting.openmeter_v1.CUSTOMERS_A_PAGE", 2)
    for key in ("CUS_1", "cus_11", "cus_12", "cus_1", "a/cus_1?b=&", None):
        sandbox.create_customer(key, [f"seat of {key}"])
    for key in ("cus_1", "CUS_1", "a/cus_1?b=&"):
        found = asked(sandbox, lambda om, key=key: customers(om).every([key]))  # type: ignore[misc]
        assert found[key].subject_keys == (f"seat of {key}",)


@pytest.mark.parametrize("others", [0, 3, 30])
def test_a_customer_that_openmeter_has_not_is_refused_by_its_key(
    sandbox: OpenMeterSandbox, others: int, api: Version
) -> None:
    keys = [f"cus_{number}" for number in range(others)]
    for key in keys:
        sandbox.create_customer(key)
    with pytest.raises(RefusedError, match="no customer with key 'cus_gone', or it was deleted; create it"):
        asked(sandbox, lambda om: om.totals("tokens", [*keys, "cus_gone"], NOON, NOON + HOUR), api=api)
    assert sandbox.calls.queries == []


def test_many_missing_customers_cost_one_list(sandbox: OpenMeterSandbox) -> None:
    async def twice(openmeter: OpenMeter) -> None:
        for _ in range(2):
            assert await customers(openmeter).known([f"cus_{number}" for number in range(50)]) == {}

    asked(sandbox, twice)
    assert sandbox.calls.counts[LISTED] == 1


def test_a_customer_deleted_since_it_was_asked_for(sandbox: OpenMeterSandbox) -> None:
    sandbox.create_customer("cus_1", ["seat_1"])
    sandbox.record("prompt", "seat_1", NOON, 5)

    async def work(openmeter: OpenMeter) -> None:
        assert await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR) == {"cus_1": D(5)}
        sandbox.delete_customer("cus_1")
        with pytest.raises(RefusedError, match=r"customer with id \w+ not found"):
            await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)
        with pytest.raises(RefusedError, match="no customer with key 'cus_1'"):
            await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)
        sandbox.create_customer("cus_1", ["seat_1"])

    asked(sandbox, work)


def test_what_is_known_may_be_forgotten_while_others_are_asked_for(
    sandbox: OpenMeterSandbox, api: Version
) -> None:
    sandbox.create_customer("cus_1")
    sandbox.create_customer("cus_2")

    async def work(openmeter: OpenMeter) -> set[str]:
        known = customers(openmeter)
        await known.known(["cus_1"])
        both = asyncio.create_task(known.known(["cus_1", "cus_2"]))
        await asyncio.sleep(0)
        known.forget()
        return {*await both}

    assert asked(sandbox, work, api=api) == {"cus_1", "cus_2"}


def test_v3_takes_many_keys_in_one_call(sandbox: OpenMeterSandbox) -> None:
    short = [f"cus_{number}" for number in range(101)]
    odd = ["a,b", " c", "k" * 256, *(f"{number}" + "l" * 200 for number in range(9))]
    for key in (*short, *odd, "CUS_1", "cus"):
        sandbox.create_customer(key, [f"seat of {key}"])
    sandbox.create_customer(None, ["no key"])
    found = asked(sandbox, lambda om: customers(om).every([*short, *odd]), api="v3")
    assert {key: one.subject_keys for key, one in found.items()} == {
        key: (f"seat of {key}",) for key in (*short, *odd)
    }
    # 50, 50, three with long keys up to 1024 characters, and by themselves the two that a list would divide.
    assert sandbox.calls.counts["v3_list_customers"] == 7


def test_v3_counts_a_customer_that_was_deleted_until_its_key_is_asked_for_anew(
    sandbox: OpenMeterSandbox, clock: ManualClock
) -> None:
    sandbox.create_customer("cus_1", ["seat_1"])
    sandbox.record("prompt", "seat_1", NOON, 5)

    async def work(openmeter: OpenMeter) -> None:
        for deleted in (False, True):
            if deleted:
                sandbox.delete_customer("cus_1")
            assert await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR) == {"cus_1": D(5)}
        clock.advance(KEPT_FOR_S)
        with pytest.raises(RefusedError, match="no customer with key 'cus_1'"):
            await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)

    asked(sandbox, work, api="v3")


def test_v3_that_knows_a_customers_id_no_more(sandbox: OpenMeterSandbox) -> None:
    sandbox.create_customer("cus_1", ["seat_1"])

    async def work(openmeter: OpenMeter) -> None:
        assert await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR) == {}
        sandbox._customers._by_id.clear()
        with pytest.raises(RefusedError, match="not all of the customers that it gave before"):
            await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)
        with pytest.raises(RefusedError, match="no customer with key 'cus_1'"):
            await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)

    asked(sandbox, work, api="v3")


def test_a_list_with_something_odd_is_not_believed() -> None:
    async def work() -> None:
        answers = iter([{"items": [{"key": "cus_1"}], "totalCount": 1}, {"items": None, "totalCount": 1}, {}])
        transport = httpx.MockTransport(lambda _: httpx.Response(200, json=next(answers)))
        openmeter = OpenMeter("http://om.test", FixedCredentials(), transport=transport)
        openmeter.ask_by_customer(lambda: NOON)
        for _ in range(3):
            with pytest.raises(OpenMeterUnavailableError, match="odd customers"):
                await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)

    asyncio.run(work())


def test_an_openmeter_without_customers_is_not_the_right_address() -> None:
    async def work() -> None:
        transport = httpx.MockTransport(lambda _: httpx.Response(404, json={}))
        openmeter = OpenMeter("http://om.test", FixedCredentials(), transport=transport)
        openmeter.ask_by_customer(lambda: NOON)
        with pytest.raises(RefusedError, match=r"404 to /api/v1/customers; OPENMETER_URL must be"):
            await openmeter.totals("tokens", ["cus_1"], NOON, NOON + HOUR)

    asyncio.run(work())
