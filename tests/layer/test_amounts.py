"""Amounts of usage: what Stripe can hold, exactly, and nothing else."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.layer.builders import D
from usage_reporting.amounts import is_same, loads, round_units, round_whole, to_wire
from usage_reporting.errors import RefusedError

amounts = st.decimals(min_value=D("-9e14"), max_value=D("9e14"), allow_nan=False, allow_infinity=False)
floats = st.floats(min_value=-9e14, max_value=9e14).map(lambda number: Decimal(repr(number)))


def significant(text: str) -> int:
    return len(text.lstrip("-").replace(".", "").lstrip("0"))


def decimals(text: str) -> int:
    return len(text.partition(".")[2])


@given(amounts | floats)
@example(D("999999.9999999999"))
@example(D("99999.9999999996"))
@example(D("0.0000000005"))
def test_rounded_amounts_fit_into_a_meter_event(value: Decimal) -> None:
    text = to_wire(round_units(value))

    assert significant(text) <= 15
    assert decimals(text) <= 9
    assert "e" not in text.lower()


@given(amounts | floats)
def test_rounding_is_close_and_done_once(value: Decimal) -> None:
    rounded = round_units(value)

    assert abs(rounded - value) <= max(D("0.5e-9"), abs(value) * D("0.5e-14"))
    assert round_units(rounded) == rounded


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        ("0", "0"),
        ("0.0000000004", "0"),
        ("0.0000000005", "0.000000001"),
        ("-0.0000000005", "-0.000000001"),
        ("0.30000000000000004", "0.3"),
        ("2.9999999999999996", "3"),
        ("123456.1234567895", "123456.12345679"),
        ("123456.123456789", "123456.123456789"),
        ("1234567.123456789", "1234567.12345679"),
        ("0e20", "0"),
        ("123456789012345.5", "123456789012346"),
        ("1e14", "100000000000000"),
        ("1e-300", "0"),
    ],
)
def test_amounts_are_rounded_half_up(value: str, rounded: str) -> None:
    assert to_wire(round_units(D(value))) == rounded


def test_a_rounded_amount_has_no_needless_zeros() -> None:
    assert str(round_units(D("1.50"))) == "1.5"
    assert str(round_units(D("1e2"))) == "100"


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_what_is_no_number_is_refused(value: str) -> None:
    with pytest.raises(RefusedError, match=f"^{value} is not an amount of usage; correct the events"):
        round_units(D(value))


@pytest.mark.parametrize("value", ["1e15", "-1e15", "1234567890123456", "999999999999999.5", "1e300"])
def test_more_digits_than_stripe_takes_are_refused(value: str) -> None:
    with pytest.raises(RefusedError, match=r"more than 15 digits.*meter in a larger unit"):
        round_units(D(value))


@pytest.mark.parametrize("value", ["1e999999", "9.9999999999999999e999999"])
def test_the_reason_for_a_huge_number_is_short(value: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        round_units(D(value))

    assert len(refusal.value.reason) < 500


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("half_up", {"2.5": 3, "2.4999": 2, "3.5": 4, "0": 0, "-0": 0}),
        ("down", {"2.999": 2, "3": 3, "0.9": 0}),
        ("up", {"2.001": 3, "3": 3, "0": 0}),
    ],
)
def test_whole_numbers_by_each_mode(mode: str, values: dict[str, int]) -> None:
    assert {value: repr(round_whole(D(value), mode)) for value in values} == {
        value: str(whole) for value, whole in values.items()
    }


@pytest.mark.parametrize("value", ["1e15", "1e30", "1e400"])
def test_a_period_total_of_more_digits_than_stripe_takes_is_refused(value: str) -> None:
    with pytest.raises(RefusedError, match="has more than 15 digits; meter in a larger unit"):
        round_whole(D(value), "down")


def test_what_floats_leave_of_nothing_is_nothing() -> None:
    for value in ("-2.8e-17", "-0"):
        assert (round_whole(D(value), "half_up"), round_whole(D(value), "down")) == (0, 0)


@pytest.mark.parametrize("value", ["-1", "-0.1", "NaN", "Infinity"])
def test_a_period_total_that_cannot_be_billed_is_refused(value: str) -> None:
    with pytest.raises(RefusedError, match=rf"^a period's total of {value} cannot be billed"):
        round_whole(D(value), "down")


@given(amounts | floats)
def test_the_wire_holds_the_number_without_exponent(value: Decimal) -> None:
    text = to_wire(value)

    assert Decimal(text) == value
    assert set(text) <= set("-0123456789.")
    assert not text.endswith(".")
    assert not ("." in text and text.endswith("0"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("-0", "0"),
        ("-0.000", "0"),
        ("1E+3", "1000"),
        ("1E-9", "0.000000001"),
        ("100", "100"),
        ("1.50", "1.5"),
    ],
)
def test_zeros_and_exponents_on_the_wire(value: str, text: str) -> None:
    assert to_wire(D(value)) == text


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("0", "1e-9", True),
        ("0", "1.1e-9", False),
        ("1e12", "1000000000001", True),
        ("1e12", "999999999998.9999999999995", False),
        ("1e12", "999999999999", True),
        ("-1e12", "-1000000000001.0000000000005", True),
        ("1e300", "1e300", True),
        ("1e12", "1000000000001.1", False),
        ("-1e12", "-1000000000001", True),
        ("5", "5.000000001", True),
        ("5", "5.00000001", False),
        ("5", "-5", False),
    ],
)
def test_noise_is_no_difference(left: str, right: str, same: bool) -> None:
    assert is_same(D(left), D(right)) is same
    assert is_same(D(right), D(left)) is same


def test_numbers_of_a_json_text_stay_exact() -> None:
    found = loads(b"[0.1, 1e-7, 9007199254740993, 0.30000000000000004, -1.50, 1E2, NaN, -Infinity]")

    assert [repr(number) for number in found] == [
        "Decimal('0.1')",
        "Decimal('1E-7')",
        "9007199254740993",
        "Decimal('0.30000000000000004')",
        "Decimal('-1.50')",
        "Decimal('1E+2')",
        "Decimal('NaN')",
        "Decimal('-Infinity')",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "."),
        ("{", "."),
        ("[" * 200_000, "the JSON is nested too deeply"),
        ('{"a":' * 200_000, "the JSON is nested too deeply"),
        ("9" * 5000, "."),
        ("1e99999999999999999999", "the JSON holds a number out of range"),
        ("-1e-99999999999999999999", "the JSON holds a number out of range"),
        (b"\xff\xfe\xfd", "."),
    ],
    ids=["empty", "cut off", "deep list", "deep object", "long", "huge", "tiny", "no UTF-8"],
)
def test_json_that_cannot_be_read_is_a_value_error(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        loads(text)
