"""Thin events: what happened to which object; the rest is fetched (API reference, "Events v2")."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

ERROR_REPORT = "v1.billing.meter.error_report_triggered"
NO_METER_FOUND = "v1.billing.meter.no_meter_found"
THIN_EVENT_TYPES = (ERROR_REPORT, NO_METER_FOUND)
"""Those that the stand-in has; Stripe has one for most of its v1 events as well."""

Json = dict[str, Any]


@dataclass
class ThinEvent:
    """One thin event; `data` is for those who fetch it and is never delivered."""

    resource: ClassVar[str] = "v2.core.event"
    customer: ClassVar[None] = None
    test_clock: ClassVar[None] = None
    id: str
    created: int
    type: str
    meter: str | None
    data: Json
    waiting: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    acknowledged_at: int | None = None

    @property
    def object_id(self) -> str:
        """The object that it is about, if it is about one."""
        return self.meter or ""

    def body(self, livemode: bool, version: str | None = None, account: str | None = None) -> Json:
        """What is delivered, whatever the version: everything but the data.

        `account`: the connected account that it comes from, and by which it can be fetched.
        """
        del version
        notification: Json = {
            "id": self.id,
            "object": self.resource,
            "type": self.type,
            "created": instant(self.created),
            "livemode": livemode,
            "context": account,
            "reason": None,
        }
        if self.meter is not None:
            url = f"/v1/billing/meters/{self.meter}"
            notification["related_object"] = {"id": self.meter, "type": "billing.meter", "url": url}
        return notification

    def fetched(self, livemode: bool, account: str | None) -> Json:
        """The event as `GET /v2/core/events/{id}` shows it."""
        return {**self.body(livemode, account=account), "data": self.data}


def instant(seconds: int) -> str:
    """UTC unix seconds as the v2 API writes them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
