"""A stateful stand-in for Stripe's billing API, at least as strict as the real one."""

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
