"""Lambda on an EventBridge schedule: finds what is to be reported and queues pages of it."""

from __future__ import annotations

from typing import Any

from usage_reporting import cold_start, telemetry
from usage_reporting.container import Container
from usage_reporting.ticks import tick

container = Container.from_environment()
cold_start.is_over()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer a tick, `{"scope": "closing"}`, `all` or `reconcile`; raises when Stripe cannot be listed."""
    try:
        return tick(container, event, context)
    finally:
        telemetry.flush()
