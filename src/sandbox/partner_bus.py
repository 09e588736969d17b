"""Starts ministack as its own program does, but with PutPartnerEvents, which it takes and forgets.

Run by ministack's own Python. On AWS that call is a partner's alone, and the only way onto a bus that is
associated with a partner event source: PutEvents is refused there for each source that begins with `aws.`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ministack import app
from ministack.services import eventbridge

Answer = tuple[int, dict[str, str], bytes]


def put_partner_events(data: dict[str, Any]) -> Answer:
    """Put entries on the buses of their sources; an entry whose bus there is not is not taken."""
    entries = data.get("Entries", [])
    results: list[dict[str, str]] = []
    for entry in entries:
        if entry.get("Source") not in eventbridge._event_buses:
            results.append({"ErrorCode": "ResourceNotFoundException", "ErrorMessage": "no bus is associated"})
            continue
        on_bus = {**entry, "EventBusName": entry["Source"]}
        _, _, body = eventbridge._put_events({"Entries": [on_bus]}, allow_aws_source=True)
        results += json.loads(body)["Entries"]
    failed = sum("ErrorCode" in one for one in results)
    answer: Answer = eventbridge.json_response({"FailedEntryCount": failed, "Entries": results})
    return answer


if __name__ == "__main__":
    eventbridge._put_partner_events = put_partner_events
    sys.exit(app.main())
