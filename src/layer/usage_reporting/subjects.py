"""Sees to it that the usage of one subject is billed to one customer at a time, in whatever account.

Where SUBJECT_METADATA_KEY names subjects, two customers may be given the same one by mistake; and where
connected accounts are served, customers of two of them may be one subject in OpenMeter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from usage_reporting import advice
from usage_reporting.accounts import OWN_ACCOUNT, account_in, of_account
from usage_reporting.errors import HeldError
from usage_reporting.ledger import Head, Ledger
from usage_reporting.model import Span, SpanState
from usage_reporting.windows import BOUNDS_KEPT

SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class Holder:
    """A customer meter that a subject's usage is billed on."""

    pk: str
    customer: str
    """Its id; another account may have the same one."""
    begin: int
    """Of the newest periods that are known of it, UTC seconds."""
    until: int
    beside: frozenset[str] = frozenset()
    """The customer meters of others that an operator knows to be billed for it, too."""

    @property
    def whom(self) -> str:
        """The customer who pays, with the account that it is in unless that is the key's own."""
        return of_account(self.customer, account_in(self.pk))

    @property
    def whom_in_full(self) -> str:
        """The customer who pays, with the account in any case."""
        account = account_in(self.pk)
        return f"{self.customer} of {'the own account' if account == OWN_ACCOUNT else account}"

    def is_beside(self, other: Holder) -> bool:
        """Whether another customer is billed for some of the same time, and nobody said that it is meant."""
        is_another = self.whom != other.whom and self.begin < other.until and other.begin < self.until
        return is_another and other.pk not in self.beside and self.pk not in other.beside

    def to_item(self) -> dict[str, Any]:
        """The holder as it stands in the ledger, under its customer meter's key."""
        return {
            "customer": self.customer,
            "begin": self.begin,
            "until": self.until,
            "beside": sorted(self.beside),
        }

    @classmethod
    def from_item(cls, pk: str, item: dict[str, Any]) -> Holder:
        """Read what `to_item` wrote."""
        begin, until = int(item["begin"]), int(item["until"])
        return cls(pk, item["customer"], begin, until, frozenset(item["beside"]))


@dataclass(slots=True)
class Subjects:
    """The ledger's word on whom a subject's usage of an OpenMeter meter is billed to."""

    ledger: Ledger

    async def claim(self, customer: str, head: Head, spans: Sequence[Span], *, accepted: bool) -> None:
        """Note that a head's customer is billed for its subject's usage in these spans.

        It always writes: of two who claim at once one loses, and sees the other. Raises HeldError where
        another customer is billed for some of that time, unless an operator `accepted` it; LostRaceError.
        """
        if not spans:
            return
        holders, version = await self._holders(head)
        own = _holder(customer, head, spans, holders)
        if others := await self._beside(own, head, holders.values()):
            if not accepted:
                raise HeldError(f"{_beside_whom(head, own, others)}; {_advice(customer, own, others)}")
            own = replace(own, beside=own.beside | {other.pk for other in others})
        newest = max(own, holders.get(own.pk, own), key=lambda one: one.until)
        holders[own.pk] = replace(newest, beside=own.beside)
        kept = {pk: one.to_item() for pk, one in holders.items() if one.until > own.begin - BOUNDS_KEPT}
        pk, sk = _key_of(head)
        await self.ledger.write_item({"pk": pk, "sk": sk, "holders": kept, "version": version + 1}, version)

    async def check(self, customer: str, head: Head, spans: Sequence[Span]) -> None:
        """Raise HeldError where a claim would."""
        own, others = await self._others(customer, head, spans)
        if others:
            raise HeldError(f"{_beside_whom(head, own, others)}; {_advice(customer, own, others)}")

    async def beside_whom(self, customer: str, head: Head, spans: Sequence[Span]) -> str:
        """Who else is billed for the subject's usage in these spans, in words; empty: nobody."""
        own, others = await self._others(customer, head, spans)
        return _beside_whom(head, own, others) if others else ""

    async def _others(self, customer: str, head: Head, spans: Sequence[Span]) -> tuple[Holder, list[Holder]]:
        """The claim that these spans make, and whose it would be beside."""
        if not spans:
            return Holder(head.pk, customer, 0, 0), []
        holders, _ = await self._holders(head)
        own = _holder(customer, head, spans, holders)
        return own, await self._beside(own, head, holders.values())

    async def _holders(self, head: Head) -> tuple[dict[str, Holder], int]:
        key = _key_of(head)
        noted = (await self.ledger.items([key])).get(key, {})
        holders = {pk: Holder.from_item(pk, item) for pk, item in noted.get("holders", {}).items()}
        return holders, int(noted.get("version", 0))

    async def _beside(self, own: Holder, head: Head, holders: Iterable[Holder]) -> list[Holder]:
        suspects = [one for one in holders if own.is_beside(one)]
        heads = await self.ledger.heads([one.pk for one in suspects]) if suspects else {}
        return [one for one in suspects if own.begin < _end_of(one, heads.get(one.pk), head)]


def _key_of(head: Head) -> tuple[str, str]:
    """One item for all accounts: their usage is in one OpenMeter."""
    _, mode, _ = head.pk.split("#", 2)
    return f"{OWN_ACCOUNT}#{mode}#{head.openmeter_meter}#{head.subject}", SUBJECT


def _holder(customer: str, head: Head, spans: Sequence[Span], known: Mapping[str, Holder]) -> Holder:
    beside = known[head.pk].beside if head.pk in known else frozenset()
    begin, until = min(span.start for span in spans), max(span.end for span in spans)
    return Holder(head.pk, customer, begin, until, beside)


def _end_of(holder: Holder, its_head: Head | None, head: Head) -> int:
    """Until when a holder is billed: its head may know that it ended early, or has another subject now."""
    if its_head is None:
        return holder.until
    if (its_head.subject, its_head.openmeter_meter) != (head.subject, head.openmeter_meter):
        return 0
    known = [span for span in its_head.spans if span.start >= holder.begin]
    if not known:
        return holder.until
    return max((span.end for span in known if span.state is not SpanState.FREE), default=0)


def _beside_whom(head: Head, own: Holder, others: Sequence[Holder]) -> str:
    is_abroad = _is_in_several_accounts(own, others)
    customers = ", ".join(sorted({other.whom_in_full if is_abroad else other.customer for other in others}))
    both = f"that one and {own.whom_in_full}" if is_abroad else "both"
    return (
        f"the subject {head.subject!r} of OpenMeter meter {head.openmeter_meter!r} is billed to customer "
        f"{customers} already, and {both} would pay for all of it"
    )


def _advice(customer: str, own: Holder, others: Sequence[Holder]) -> str:
    apart = "correct the metadata of one in Stripe or"
    if _is_in_several_accounts(own, others):
        apart = "give each account subjects of its own (SubjectWithAccount), correct the metadata of one, or"
    return f"{apart}, if that is meant, release it with {advice.accept(customer)}"


def _is_in_several_accounts(own: Holder, others: Sequence[Holder]) -> bool:
    return any(account_in(other.pk) != account_in(own.pk) for other in others)
