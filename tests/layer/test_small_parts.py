"""Budgets, pauses and the error tree."""

from __future__ import annotations

import pytest

from usage_reporting import errors
from usage_reporting.backoff import LONGEST_PAUSE_S, pause
from usage_reporting.budget import Budget


def test_a_budget_is_over_when_its_clock_reaches_the_end() -> None:
    now = [10.0]
    budget = Budget(20.0, lambda: now[0])

    assert not budget.is_over
    now[0] = 19.99
    assert not budget.is_over
    now[0] = 20.0
    assert budget.is_over


def test_a_budget_of_seconds_and_one_without_an_end() -> None:
    assert Budget.of(-1).is_over
    assert not Budget.of(60).is_over
    assert not Budget().is_over


@pytest.mark.parametrize(
    ("attempt", "longest"), [(0, 0.25), (1, 0.5), (2, 1), (3, 2), (4, 4), (5, 4), (50, 4)]
)
def test_pauses_double_up_to_a_limit(attempt: int, longest: float) -> None:
    pauses = [pause(attempt) for _ in range(200)]

    assert longest / 2 <= min(pauses) < max(pauses) <= longest <= LONGEST_PAUSE_S


def test_every_error_has_its_place_in_the_tree() -> None:
    tree = errors.__doc__ or ""
    names = [name for name, kind in vars(errors).items() if isinstance(kind, type)]

    assert names
    assert all(name in tree for name in names)
    assert issubclass(errors.NotConfiguredError, errors.ConfigurationError)
    assert issubclass(errors.NotFoundError, errors.RejectedError)
    for again in (
        errors.OpenMeterUnavailableError,
        errors.StripeUnavailableError,
        errors.LedgerUnavailableError,
        errors.LostRaceError,
        errors.OutOfTimeError,
    ):
        assert issubclass(again, errors.AskAgainError)
    for final in (errors.RefusedError, errors.HeldError, errors.RejectedError, errors.ConfigurationError):
        assert not issubclass(final, errors.AskAgainError)
