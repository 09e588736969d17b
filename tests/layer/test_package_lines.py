"""Whether a line of a price that divides quantities shows units or packages, and what that says of it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.layer.builders import D
from usage_reporting.package_lines import in_packages
from usage_reporting.pricing import Pricing
from usage_reporting.verdict import Cause, Finding, JudgedLine, compared

HOURS = Pricing("usd", D(1000), divide_by=60, rounds_up=True)


def judged(quantity: str, metered: str | None) -> JudgedLine:
    """A line as it is judged in units."""
    found = Finding.NOT_JUDGED if metered is None else compared(D(metered), D(quantity))
    return JudgedLine(
        customer="cus_1",
        price="price_1",
        item="si_1",
        meter="m1",
        start=0,
        end=60,
        quantity=D(quantity),
        finding=found,
        metered=None if metered is None else D(metered),
        causes={} if found is Finding.EXACT else {Cause.LATE: Decimal(1)},
    )


@pytest.mark.parametrize(
    ("quantity", "metered", "amount", "finding", "by"),
    [
        ("150", "150", 3000, Finding.EXACT, "150"),
        ("150", "160", 3000, Finding.SHORT, "160"),
        ("150", "130", 3000, Finding.OVER, "130"),
        ("3", "150", 3000, Finding.EXACT, "3"),
        ("3", "121", 3000, Finding.EXACT, "3"),
        ("3", "200", 3000, Finding.SHORT, "4"),
        ("3", "60", 3000, Finding.OVER, "1"),
        ("1", "30", 1000, Finding.EXACT, "1"),
        ("1", "90", 1000, Finding.NOT_JUDGED, "90"),
        ("150", "160", 7777, Finding.NOT_JUDGED, "160"),
        ("0", "-5", 0, Finding.EXACT, "-5"),
    ],
)
def test_the_amount_tells_units_from_packages(
    quantity: str, metered: str, amount: int, finding: Finding, by: str
) -> None:
    found = in_packages(judged(quantity, metered), Decimal(amount), HOURS)
    assert (found.finding, found.metered) == (finding, D(by))


def test_packages_name_no_units_as_causes() -> None:
    found = in_packages(judged("3", "200"), D(3000), HOURS)
    assert found.verdict == "SHORT by 1: counted in packages of 60"


def test_what_was_not_measured_is_not_judged() -> None:
    line = judged("3", None)
    assert in_packages(line, D(3000), HOURS) is line
