"""What the identifiers of an entry's sends say of it: changed, gone, or right though much has happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from cli.send_checks import Mark, MissingSends, check_entry
from tests.layer.builders import NOON, D, customer_meter
from usage_reporting.identifiers import identifier
from usage_reporting.ledger import Entry
from usage_reporting.model import Send, SendState, Target
from usage_reporting.targets import last, mirror
from usage_reporting.windows import HOUR, day_of

PK = customer_meter().pk


def told(sequence: int, value: str, mirrored: str, *, slice_start: int = NOON, minutes: int = 0) -> Send:
    """A send as it is made of a slice, `minutes` after the ones before."""
    stamp = NOON + 30 * 60 + minutes * 60
    name = identifier(PK, "cus_1", slice_start, sequence, *mirror.facts(stamp, D(mirrored), D(value)))
    return Send(name, slice_start, stamp, D(value), NOON + HOUR + minutes * 60, SendState.SENT)


def entry(*sends: Send) -> Entry:
    return Entry(PK, day_of(NOON), 1, {send.identifier: send for send in sends})


def marks(*sends: Send, hints: Mapping[int, Decimal] | None = None) -> list[Mark]:
    check = check_entry(entry(*sends), Target.MIRROR, hints)
    return [check.sends[send.identifier].mark for send in sends]


def test_sends_upon_each_other_fit() -> None:
    assert (
        marks(told(0, "2", "0"), told(1, "1.25", "2", minutes=5), told(2, "-0.5", "3.25", minutes=9))
        == [Mark.FITS] * 3
    )


def test_what_was_discarded_since_counted_when_the_next_was_made() -> None:
    discarded = replace(told(0, "2", "0"), state=SendState.DISCARDED)

    assert marks(discarded, told(1, "1", "2", minutes=5), told(2, "2", "1", minutes=9)) == [Mark.FITS] * 3


def test_what_was_refused_at_once_used_no_number() -> None:
    refused = replace(told(0, "2", "0"), state=SendState.REJECTED)

    check = check_entry(entry(refused, told(0, "3", "0", minutes=5)), Target.MIRROR)

    assert {one.mark for one in check.sends.values()} == {Mark.FITS}
    assert check.missing == []


def test_a_bound_that_was_known_later_made_another_slice_of_it() -> None:
    whole = told(0, "2", "0")
    after = told(0, "1", "2", slice_start=NOON + 20 * 60, minutes=9)

    assert marks(whole, after) == [Mark.FITS] * 2


def test_a_changed_value_is_found_out_where_stripe_tells_it_and_what_follows_still_fits() -> None:
    changed = replace(told(0, "2", "0"), value=D("1.5"))
    later = told(1, "1", "2", minutes=5)

    check = check_entry(entry(changed, later), Target.MIRROR, {NOON: D("0.5")})

    first, second = check.sends.values()
    assert (first.mark, first.was) == (Mark.CHANGED, D(2))
    assert second.mark is Mark.FITS


def test_what_rests_on_a_changed_send_is_not_blamed() -> None:
    changed = replace(told(0, "2", "0"), stamp=NOON + 60)

    assert marks(changed, told(1, "1", "3", minutes=5)) == [Mark.CHANGED, Mark.UNTOLD]


def test_a_gone_send_is_missed_by_the_numbers() -> None:
    check = check_entry(entry(told(2, "1", "3", minutes=5)), Target.MIRROR)

    assert check.missing == [MissingSends(NOON, 2)]
    assert [one.mark for one in check.sends.values()] == [Mark.UNTOLD]


def test_what_adopt_wrote_proves_nothing_and_others_are_numbered_after_it() -> None:
    adopted = Send(f"adopted.{NOON}", NOON, NOON + 60, D(4), NOON + HOUR, SendState.SENT)

    check = check_entry(entry(adopted, told(1, "1", "4", minutes=5)), Target.MIRROR)

    assert [one.mark for one in check.sends.values()] == [Mark.ADOPTED, Mark.FITS]
    assert check.missing == []


def test_totals_rest_on_the_one_before() -> None:
    def total(sequence: int, value: str, held: str, minutes: int) -> Send:
        stamp = NOON + minutes * 60
        name = identifier(PK, "cus_1", NOON, sequence, *last.facts(stamp, D(held), D(value)))
        return Send(name, NOON, stamp, D(value), stamp, SendState.SENT)

    first, second = total(0, "5", "0", 1), total(2, "8", "5", 2)
    both = Entry(PK, str(NOON), 3, {one.identifier: one for one in (first, second)})
    check = check_entry(both, Target.LAST)
    assert [one.mark for one in check.sends.values()] == [Mark.FITS, Mark.FITS]

    changed = replace(first, value=D(6))
    check = check_entry(both.with_sends([changed]), Target.LAST)
    assert [one.mark for one in check.sends.values()] == [Mark.CHANGED, Mark.UNTOLD]
