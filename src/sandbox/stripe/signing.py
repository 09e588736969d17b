"""Signatures of webhook bodies (Webhooks, "Verify webhook signatures manually")."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence


def sign(body: bytes, secret: str | Sequence[str], timestamp: int) -> str:
    """The `Stripe-Signature` of body at a UTC unix second, with one v1 for each secret."""
    secrets = [secret] if isinstance(secret, str) else secret
    signed = f"{timestamp}.".encode() + body
    digests = [hmac.new(one.encode(), signed, hashlib.sha256).hexdigest() for one in secrets]
    return ",".join([f"t={timestamp}", *(f"v1={digest}" for digest in digests)])
