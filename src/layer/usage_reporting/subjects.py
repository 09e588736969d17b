"""Sees to it that the usage of one subject is billed to one customer only.

Where SUBJECT_METADATA_KEY names subjects, two customers may be given the same one by mistake.
"""

from __future__ import annotations

from dataclasses import dataclass

from usage_reporting import advice
from usage_reporting.errors import HeldError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import SpanState

SUBJECT = "subject"


@dataclass(slots=True)
class Subjects:
    """The ledger's word on which customer a subject's usage of an OpenMeter meter is billed to."""

    ledger: Ledger

    async def claim(self, head: Head, *, accepted: bool = False, dry_run: bool = False) -> None:
        """Note that the usage of a head's subject is billed to its customer.

        Raises HeldError where it is billed to another one over some of the same time, LostRaceError where
        somebody else just noted it.
        """
        account, mode, customer, _ = head.pk.split("#")
        if head.subject == customer:
            return
        key = (f"{account}#{mode}#{head.openmeter_meter}#{head.subject}", SUBJECT)
        noted = (await self.ledger.items([key])).get(key, {})
        holder = noted.get("holder", head.pk)
        other = holder.split("#")[2]
        if other != customer and not accepted and await self._is_billed_beside(head, holder):
            raise HeldError(
                f"the subject {head.subject!r} of OpenMeter meter {head.openmeter_meter!r} is billed to "
                f"customer {other} already, and both would pay for all of it; correct the metadata of one in "
                f"Stripe or, if that is meant, release it with {advice.accept(customer)}"
            )
        if dry_run or (noted and other == customer):
            return
        version = int(noted.get("version", 0))
        pk, sk = key
        await self.ledger.write_item({"pk": pk, "sk": sk, "holder": head.pk, "version": version + 1}, version)

    async def _is_billed_beside(self, head: Head, holder: str) -> bool:
        """Whether a subject's former holder is billed for it still, when billing of this one has begun."""
        former = (await self.ledger.heads([holder])).get(holder)
        if former is None:
            return True  # it is being begun with just now
        if (former.subject, former.openmeter_meter) != (head.subject, head.openmeter_meter):
            return False
        begin = min((span.start for span in head.spans), default=0)
        return any(span.end > begin and span.state is not SpanState.FREE for span in former.spans)
