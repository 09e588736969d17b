"""What a listing remembers to its end lies in a file."""

from __future__ import annotations

from contextlib import closing

import pytest

from usage_reporting import temporary_rows
from usage_reporting.temporary_rows import TemporaryRows


def test_rows_come_back_by_family_and_key_in_the_order_of_their_coming() -> None:
    with closing(TemporaryRows()) as rows:
        rows.add([("m2", "a", {"n": 1}), ("m1", "b", {"n": 2}), ("m1", "a", {"n": 3})])
        rows.add([("m1", "b", {"n": 1, "text": "ü\u0000"})])

        assert list(rows.groups()) == [
            ("m1", "a", [{"n": 3}]),
            ("m1", "b", [{"n": 2}, {"n": 1, "text": "ü\u0000"}]),
            ("m2", "a", [{"n": 1}]),
        ]
        assert rows.count == 4


def test_without_rows_there_is_no_group() -> None:
    with closing(TemporaryRows()) as rows:
        assert list(rows.groups()) == []


def test_each_has_a_file_of_its_own() -> None:
    with closing(TemporaryRows()) as one, closing(TemporaryRows()) as other:
        one.add([("m1", "a", {})])
        assert list(other.groups()) == []


def test_what_was_closed_is_forgotten() -> None:
    rows = TemporaryRows()
    rows.add([("m1", "a", {})])
    rows.close()
    rows.close()

    with closing(rows):
        assert list(rows.groups()) == []


def test_it_says_when_the_disk_of_a_function_would_be_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary_rows, "MOST_CHARACTERS", 100)
    with closing(TemporaryRows()) as rows:
        rows.add([("m1", "a", {"n": "x" * 50})])
        assert not rows.is_full
        rows.add([("m1", "b", {"n": "x" * 50})])
        assert rows.is_full
