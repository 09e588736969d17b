"""Numbers as Go writes them, dates as RFC 3339 has them, paths as ClickHouse reads them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from sandbox.openmeter.instants import Instant, instant, parse
from sandbox.openmeter.values import MISSING, compile_path, find, number, text_at


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.0, "3"),
        (0.0, "0"),
        (-0.0, "-0"),
        (-2.5, "-2.5"),
        (0.1, "0.1"),
        (0.1 + 0.2, "0.30000000000000004"),
        (123456789012345.0, "123456789012345"),
        (1e15, "1000000000000000"),
        (1e20, "100000000000000000000"),
        (1.5e20, "150000000000000000000"),
        (1e21, "1e+21"),
        (1.25e22, "1.25e+22"),
        (-1e21, "-1e+21"),
        (1e100, "1e+100"),
        (0.00001, "0.00001"),
        (0.000001, "0.000001"),
        (0.0000009, "9e-7"),
        (1.5e-10, "1.5e-10"),
        (9007199254740993.0, "9007199254740992"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text
    assert float(text) == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-01T00:00:00Z", Instant(1_798_761_600)),
        ("2027-01-01T00:00:00.5Z", Instant(1_798_761_600, 500_000_000)),
        ("2027-01-01T01:30:00+01:30", Instant(1_798_761_600, 0, 5400)),
        ("2026-12-31T19:00:00-05:00", Instant(1_798_761_600, 0, -18_000)),
    ],
)
def test_instants_are_read_and_echoed(text: str, expected: Instant) -> None:
    assert parse(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    [
        "2027-01-01",
        "2027-01-01T00:00:00",
        "2027-01-01t00:00:00z",
        "2027-13-01T00:00:00Z",
        "2027-01-01T00:00:60Z",
        "2027-01-01T00:00:00+24:00",
        "2200-01-01T00:00:00Z",
        "1798761600",
        "",
    ],
)
def test_other_texts_are_no_instants(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse(text)


def test_instants_have_several_spellings() -> None:
    expected = Instant(1_798_761_600)
    assert instant(1_798_761_600) == expected
    assert instant(datetime(2027, 1, 1, tzinfo=UTC)) == expected
    assert instant(expected) == expected
    with pytest.raises(ValueError, match="time zone"):
        instant(datetime(2027, 1, 1))  # noqa: DTZ001


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("$.a", 1, "1"),
        ("$.b.c", "x", "x"),
        ("$['b']['c']", "x", "x"),
        ('$["d e"]', 2.5, "2.5"),
        ("$.list[1]", True, "true"),
        ("$.list[2]", MISSING, ""),
        ("$.list.a", MISSING, ""),
        ("$.none", None, "null"),
        ("$.b", {"c": "x"}, ""),
        ("$.a.b", MISSING, ""),
        ("$.missing", MISSING, ""),
        ("$.b[0]", MISSING, ""),
    ],
)
def test_paths(path: str, value: Any, text: str) -> None:
    data = {"a": 1, "b": {"c": "x"}, "d e": 2.5, "list": [0, True], "none": None}
    assert find(data, compile_path(path)) == value
    assert text_at(data, compile_path(path)) == text


@pytest.mark.parametrize("path", ["a", "$a", "$.", "$..a", "$[*]", "$.a[", "$.a[?(@.b)]"])
def test_other_texts_are_no_paths(path: str) -> None:
    with pytest.raises(ValueError, match=r"\$"):
        compile_path(path)
