"""What can be set on the Stripe stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sandbox.stripe.undocumented import AS_ASSUMED, Undocumented, read_facts

DEFAULT_API_VERSION = "2026-05-27.dahlia"
LEGACY_API_VERSION = "2025-02-24.acacia"

_HOUR = 3600
_DAY = 24 * _HOUR
# Sandboxes try three times over a few hours, live mode up to three days (Webhooks, "Retries").
SANDBOX_RETRY_DELAYS = (10 * 60, 2 * _HOUR)
LIVE_RETRY_DELAYS = (
    5 * 60,
    30 * 60,
    2 * _HOUR,
    5 * _HOUR,
    10 * _HOUR,
    12 * _HOUR,
    18 * _HOUR,
    _DAY,
)
_NOT_NEGATIVE = (
    "aggregation_delay",
    "error_samples",
    "invoice_created_hold",
    "latency",
    "meter_event_latency",
    "renewal_delay",
    "test_clock_advance",
)


@dataclass(frozen=True)
class StripeSettings:
    """Settings of one stand-in account; all durations are whole seconds unless said otherwise."""

    api_keys: AbstractSet[str] = frozenset({"sk_test_sandbox"})
    restricted_keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Restricted key -> {resource: "read" | "write"}; "*" stands for every resource."""
    connect_permissions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The same for connected accounts, which the Dashboard sets apart ("Connect permissions"): none of the
    other ones holds there."""
    account_id: str = "acct_1SandboxAccount"
    default_api_version: str = DEFAULT_API_VERSION
    livemode: bool = False
    finalization_grace: int = _HOUR
    """Between a renewal's draft and its finalization (Configure a grace period: at most 72 h)."""
    aggregation_delay: int = 0
    """Until accepted meter events show in summaries, drafts, previews; finalization counts all."""
    checked_late: AbstractSet[str] = frozenset({"meter_event_customer_not_found"})
    """Codes of what is wrong with a meter event that is found out only after its 200, and told in a thin
    event; all else is refused at once. Stripe documents either way for most (Record usage, "Handle meter
    event errors")."""
    error_samples: int = 3
    """How many refused events of one code a report names; the others are counted only."""
    renewal_delay: int = 0
    """Between a period's end and the moment at which Stripe advances the subscription."""
    date_skew: int = 0
    """How far the Date of its answers is ahead of its clock."""
    test_clock_advance: int = 0
    """From the call that advances a test clock until the next call can find it ready, in real time."""
    undocumented: Undocumented = AS_ASSUMED
    """How it behaves where Stripe's documentation is silent."""
    webhook_retry_delays: tuple[int, ...] | None = None
    """Waits between tries of one delivery; None: as the mode (sandbox or live) has it."""
    webhook_timeout: float = 20.0
    answered_when_due: bool = True
    """Where webhooks are delivered by a function: their answers came when they were due, because the clock
    leaps; otherwise they came when the clock says so."""
    invoice_created_hold: int = 72 * _HOUR
    enforce_rate_limits: bool = False
    """Whether calls beyond the limits per second get 429; those of `limits` and the two that follow."""
    meter_events_per_second: int = 1_000
    """Live; meter events of a sandbox, and for a connected account, count as other calls do (Rate limits)."""
    stream_requests_per_second: int = 10_000
    """Live; requests of a sandbox's stream count as other calls do (API reference, "Meter Event Stream")."""
    global_concurrency: int | None = None
    endpoint_concurrency: int | None = None
    """Calls at once, beyond which they get 429: Stripe has such limits and tells no numbers. None: none."""
    latency: float = 0.0
    """Seconds from a request's arrival to its answer, the work included."""
    meter_event_latency: float = 0.002
    """Seconds that a meter event takes; overlapping calls on a customer and meter get 429."""
    log_requests: bool = True
    """Whether requests are kept, or only counted."""
    seed: int | None = None
    """Makes ids and secrets repeatable; None: different in each run."""
    same_ids: bool = False
    """The first customer has the same id in every account, the second another, and so with all objects:
    nothing but the account tells them apart. At Stripe only ids that its users choose coincide."""

    def __post_init__(self) -> None:
        if not 0 <= self.finalization_grace <= 72 * _HOUR:
            raise ValueError("finalization_grace must lie between 0 and 72 hours")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")

    @classmethod
    def from_facts(cls, path: str | Path, **settings: Any) -> Self:
        """Behave as a Stripe account did when `usage-reporter probe` wrote this file.

        Raises OSError, or ValueError for what is no such file.
        """
        return cls(undocumented=read_facts(path).undocumented, **settings)

    @property
    def retry_delays(self) -> tuple[int, ...]:
        """Waits between the tries of one webhook delivery."""
        if self.webhook_retry_delays is not None:
            return self.webhook_retry_delays
        return LIVE_RETRY_DELAYS if self.livemode else SANDBOX_RETRY_DELAYS
