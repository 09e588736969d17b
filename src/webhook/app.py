"""Lambda behind API Gateway, or on the queue of EventBridge's events: what an event makes due is reported."""

from __future__ import annotations

from typing import Any

from usage_reporting import cold_start, event_bridge, telemetry
from usage_reporting.container import Container
from usage_reporting.webhook import answer

container = Container.from_environment()
dead_letters = event_bridge.DeadLetters(container.settings.dead_letter_queue_url)
cold_start.is_over()


def handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    """Answer `POST /stripe/webhook`, 200 done or not ours, 400 not Stripe's, 503 ask again; or name the
    messages of the queue that are to be given again.
    """
    del context
    try:
        if event_bridge.is_batch(event):
            return event_bridge.work_off(container, event, dead_letters)
        if event_bridge.is_event(event):
            return event_bridge.invoke(container, event)
        return answer(container, event).to_proxy()
    finally:
        telemetry.flush()
