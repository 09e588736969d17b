"""Lambda on the page queue: reports a page of customer meters."""

from __future__ import annotations

from typing import Any

from usage_reporting import cold_start, telemetry
from usage_reporting.container import Container
from usage_reporting.ticks import work_off

container = Container.from_environment()
cold_start.is_over()


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Report the page of each record; the records to be given again are named in the answer."""
    try:
        return work_off(container, event, context)
    finally:
        telemetry.flush()
