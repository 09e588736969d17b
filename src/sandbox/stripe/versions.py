"""Stripe API versions: which exist, and what changed with them."""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.stripe.errors import StripeError

KNOWN_VERSIONS = (
    "2020-08-27",
    "2022-08-01",
    "2022-11-15",
    "2023-08-16",
    "2023-10-16",
    "2024-04-10",
    "2024-06-20",
    "2024-09-30.acacia",
    "2024-10-28.acacia",
    "2024-11-20.acacia",
    "2024-12-18.acacia",
    "2025-01-27.acacia",
    "2025-02-24.acacia",
    "2025-03-31.basil",
    "2025-04-30.basil",
    "2025-05-28.basil",
    "2025-06-30.basil",
    "2025-07-30.basil",
    "2025-08-27.basil",
    "2025-09-30.clover",
    "2025-10-29.clover",
    "2025-11-17.clover",
    "2025-12-15.clover",
    "2026-01-28.clover",
    "2026-02-25.clover",
    "2026-03-25.dahlia",
    "2026-04-22.dahlia",
    "2026-05-27.dahlia",
    "2026-10-28.endive",
)


@dataclass(frozen=True)
class ApiVersion:
    """One API version that exists."""

    name: str

    @property
    def is_basil(self) -> bool:
        """Periods on items, `parent` on invoices, no usage records (changelog basil)."""
        return self.name >= "2025-03-31"

    @property
    def has_billing_mode(self) -> bool:
        """Subscriptions take `billing_mode` (changelog 2025-06-30.basil)."""
        return self.name >= "2025-06-30"

    @property
    def defaults_to_flexible(self) -> bool:
        """New subscriptions are flexible when nothing is said (changelog 2025-09-30.clover)."""
        return self.name >= "2025-09-30"


def api_version(name: str) -> ApiVersion:
    """The version of this name; raises StripeError (400) when it does not exist."""
    if name not in KNOWN_VERSIONS:
        raise StripeError(400, f"Invalid Stripe API version: {name}", stored=False)
    return ApiVersion(name)
