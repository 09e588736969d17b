"""The Stripe account of STRIPE_KEY, through the official client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import stripe

from cli.errors import WrongUseError
from usage_reporting.stripe_api import API_VERSION, TIMEOUT_S

DASHBOARD = "https://dashboard.stripe.com"
RETRIES = 3


def key_of(environment: Mapping[str, str]) -> str:
    """The key in STRIPE_KEY, or an empty string."""
    return environment.get("STRIPE_KEY", "").strip()


def required_key(environment: Mapping[str, str]) -> str:
    """The key in STRIPE_KEY. Raises WrongUseError without one."""
    key = key_of(environment)
    if not key:
        raise WrongUseError(
            "STRIPE_KEY is not set, so Stripe cannot be asked; export a secret or restricted key of the "
            "account"
        )
    return key


def is_test_key(key: str) -> bool:
    """Whether a key is of a sandbox or of test mode (API keys, "Test and live mode")."""
    return "_test_" in key[:8]


@contextmanager
def stripe_client(key: str, environment: Mapping[str, str]) -> Iterator[stripe.StripeClient]:
    """A client at the pinned API version; STRIPE_API_BASE replaces Stripe's address.

    Raises WrongUseError when that is no address.
    """
    base = environment.get("STRIPE_API_BASE", "").strip().rstrip("/")
    if base and not base.startswith(("http://", "https://")):
        raise WrongUseError(f"STRIPE_API_BASE is {base!r}; unset it, or give a base address (http or https)")
    http = stripe.HTTPXClient(timeout=TIMEOUT_S, allow_sync_methods=True)
    try:
        yield stripe.StripeClient(
            key,
            stripe_version=API_VERSION,
            base_addresses={"api": base, "meter_events": base} if base else None,
            http_client=http,
            max_network_retries=RETRIES,
        )
    finally:
        http.close()  # type: ignore[no-untyped-call]


def dashboard_link(key: str, kind: str, id: str) -> str:
    """Where the Dashboard shows an object; `kind` is `products`, `prices`, `meters`, ..."""
    mode = "/test" if is_test_key(key) else ""
    return f"{DASHBOARD}{mode}/{kind}/{id}"
