"""A Stripe stand-in per test, called directly, with a clock that stands still."""

from __future__ import annotations

import pytest

from sandbox.clock import ManualClock
from sandbox.stripe import StripeSandbox, StripeSettings
from tests.sandbox_stripe.direct import Direct, World

NOW = 1_780_000_123
"""2026-05-28T20:28:43Z: no whole minute."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def stripe(clock: ManualClock) -> StripeSandbox:
    return StripeSandbox(clock, StripeSettings(seed=1, meter_event_latency=0), timer=clock)


@pytest.fixture
def api(stripe: StripeSandbox) -> Direct:
    return Direct(stripe)


@pytest.fixture
def world(stripe: StripeSandbox, clock: ManualClock) -> World:
    return World(stripe, clock)
