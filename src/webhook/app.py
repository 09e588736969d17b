"""Lambda behind API Gateway: one Stripe event in, reported before the 2xx."""

from __future__ import annotations

from typing import Any

from usage_reporting import cold_start, telemetry
from usage_reporting.container import Container
from usage_reporting.webhook import answer

container = Container.from_environment()
cold_start.is_over()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer `POST /stripe/webhook`: 200 done or not ours, 400 not Stripe's, 503 ask again."""
    del context
    try:
        return answer(container, event).to_proxy()
    finally:
        telemetry.flush()
