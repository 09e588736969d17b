"""Where billing periods end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sandbox.stripe.objects import Recurring
from sandbox.stripe.periods import boundary, next_boundary


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


MONTH = Recurring("month", 1, "metered")


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "2026-01-31T10:37:42"), (1, "2026-02-28T10:37:42"), (2, "2026-03-31T10:37:42")],
)
def test_months_keep_the_anchors_day(number: int, expected: str) -> None:
    assert boundary(at("2026-01-31T10:37:42"), MONTH, number) == at(expected)


@pytest.mark.parametrize(
    ("interval", "count", "after", "expected"),
    [
        ("month", 1, "2026-01-31T10:37:42", "2026-02-28T10:37:42"),
        ("month", 1, "2026-02-28T10:37:42", "2026-03-31T10:37:42"),
        ("month", 1, "2025-11-05T00:00:00", "2025-11-30T10:37:42"),
        ("month", 3, "2026-05-01T00:00:00", "2026-07-31T10:37:42"),
        ("year", 1, "2031-01-31T10:37:41", "2031-01-31T10:37:42"),
        ("week", 2, "2026-02-01T00:00:00", "2026-02-14T10:37:42"),
        ("day", 1, "2027-01-01T10:37:42", "2027-01-02T10:37:42"),
    ],
)
def test_the_next_boundary_is_later(interval: str, count: int, after: str, expected: str) -> None:
    recurring = Recurring(interval, count, "metered")
    assert next_boundary(at("2026-01-31T10:37:42"), recurring, at(after)) == at(expected)
