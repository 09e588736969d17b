"""A stateful stand-in for Stripe's billing API, at least as strict as the real one.

Simpler than Stripe in this: every customer can pay, licensed prices are billed in full without
prorations, prices have one currency each, and there are no taxes, discounts, coupons or schedules. Where the
documentation is silent, the reading that is harder on a client was taken; the place says so, and
`undocumented.py` has a setting for each that bills rest on.

An account can be a platform (Stripe Connect): `StripeSandbox.connect` gives it connected accounts, each a
stand-in of its own, which requests name by `Stripe-Account` (v2: `Stripe-Context`). From outside the process
`POST /_sandbox/accounts` connects one, `POST /_sandbox/accounts/deauthorize` has it take its permission back,
and `?account=acct_...` behind any other control steers it.
"""

from __future__ import annotations

from sandbox.stripe.app import create_app
from sandbox.stripe.events import build_event
from sandbox.stripe.sandbox import StripeSandbox
from sandbox.stripe.settings import DEFAULT_API_VERSION, LEGACY_API_VERSION, StripeSettings
from sandbox.stripe.signing import sign

__all__ = [
    "DEFAULT_API_VERSION",
    "LEGACY_API_VERSION",
    "StripeSandbox",
    "StripeSettings",
    "build_event",
    "create_app",
    "sign",
]
