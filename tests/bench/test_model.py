"""The model of docs/scale.md, at sizes where its parts can be counted by hand."""

from __future__ import annotations

import pytest

from sandbox.bench.model import Estimate, Rhythm, estimate, table
from tests.infrastructure.template import PROJECT


def all_of(subscriptions: int, *, stream: bool = True) -> Estimate:
    return estimate(subscriptions, Rhythm.ALL, stream=stream, workers=2)


def test_calls_of_a_thousand() -> None:
    assert all_of(1_000).calls == 10 + 2 + 10 + 2, "lists, drafts and events, requests, sessions"
    assert all_of(1_000, stream=False).calls == 10 + 2 + 1_000


def test_a_closing_tick_lists_what_ends_about_now() -> None:
    closing = estimate(100_000, Rhythm.CLOSING, stream=False)
    assert closing.customer_meters == 240 + 137
    assert closing.list_calls == 3 + 2 + 5


def test_what_binds_changes_with_the_size() -> None:
    assert all_of(1_000).binds == "workers"
    assert estimate(10_000_000, Rhythm.ALL, stream=False).binds == "meter events"
    largest = estimate(10_000_000, Rhythm.ALL, stream=True)
    assert (largest.binds, largest.is_in_time) == ("the list of subscriptions", False)


def test_more_workers_are_taken_before_the_time_is_over() -> None:
    found = estimate(1_000_000, Rhythm.ALL, stream=True)
    assert found.workers == 6
    assert found.is_in_time


@pytest.mark.parametrize("rhythm", Rhythm)
@pytest.mark.parametrize("stream", [True, False])
def test_the_page_shows_what_the_model_says(rhythm: Rhythm, *, stream: bool) -> None:
    assert table(rhythm, stream=stream) in (PROJECT / "docs/scale.md").read_text()
