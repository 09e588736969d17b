"""The name of each difference between two neighbours of a line's chain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cli.differences import Circumstances, of_line, of_slice
from cli.evidence import LineEvidence, Named, SliceEvidence
from cli.send_checks import CheckedSend
from tests.layer.builders import NOON, D, send
from usage_reporting.model import SendState, Target
from usage_reporting.windows import DAY, HOUR

FINAL = Circumstances(now=NOON + 10 * HOUR, has_ledger=True, is_final=True, read_until=NOON + 10 * HOUR)
OPEN = replace(FINAL, is_final=False)


def piece(metered: str, sent: str, held: str | None, **other: Any) -> SliceEvidence:
    values: dict[str, Any] = {"sends": (), "pending": D(0), "undelivered": D(0), **other}
    return SliceEvidence(
        NOON, NOON + HOUR, D(metered), sent=D(sent), held=D(held) if held else None, **values
    )


def named(one: SliceEvidence, circumstances: Circumstances = FINAL) -> list[tuple[Named, str]]:
    return [(found.name, f"{found.units:f}") for found in of_slice(one, circumstances)]


def checked(state: SendState, value: str, at: int) -> CheckedSend:
    return CheckedSend(replace(send("a", value=value, state=state), intended_at=at))


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (piece("3", "3", "3"), []),
        (piece("3", "3", None), []),
        (piece("3", "2", "2", pending=D(1)), [(Named.UNKNOWN, "1")]),
        (piece("3", "2", "3", pending=D(1)), []),
        (piece("3", "3", "2"), [(Named.NOT_HELD, "1")]),
        (piece("3", "3", "4"), [(Named.OTHER_WRITER, "1")]),
        (piece("3", "2", "3"), [(Named.MISSING, "1")]),
        (piece("3", "2", "2"), [(Named.LATE, "1")]),
        (piece("3", "1", "1", undelivered=D("0.5")), [(Named.LATE, "0.5"), (Named.LATE, "1.5")]),
        (piece("2", "3", "3"), [(Named.DECREASE, "1")]),
        (piece("9", "3", "3", is_shared=True), []),
        (piece("9", "3", "4", is_in_line=False), []),
    ],
)
def test_a_slice_of_a_final_line(one: SliceEvidence, expected: list[tuple[Named, str]]) -> None:
    assert named(one) == expected


def test_what_is_older_than_stripe_takes_is_unbillable() -> None:
    later = replace(OPEN, now=NOON + 34 * DAY, read_until=NOON + 34 * DAY)

    assert named(piece("3", "2", "2"), later) == [(Named.UNBILLABLE, "1")]
    assert named(piece("3", "2", "2"), replace(later, now=later.now - 1)) == [(Named.NOT_REPORTED, "1")]


def test_what_was_refused_is_rejected() -> None:
    refused = piece("3", "1", "1", sends=(checked(SendState.REJECTED, "2", NOON),))

    assert named(refused) == [(Named.REJECTED, "2")]


def test_what_was_sent_within_the_hour_lags() -> None:
    sent = (checked(SendState.SENT, "3", FINAL.now - HOUR + 1),)

    assert named(piece("3", "3", "1", sends=sent)) == [(Named.LAG, "2")]
    assert named(piece("3", "3", "1", sends=sent), replace(FINAL, now=FINAL.now + 1)) == [
        (Named.NOT_HELD, "2")
    ]


@pytest.mark.parametrize(
    ("circumstances", "expected"),
    [
        (replace(OPEN, would_send=frozenset({NOON})), Named.NOT_YET),
        (replace(OPEN, read_until=NOON), Named.NOT_YET),
        (OPEN, Named.NOT_REPORTED),
        (replace(OPEN, held_back="the brake"), Named.HELD),
        (replace(FINAL, held_back="the brake"), Named.HELD),
        (replace(FINAL, is_at_once=True), Named.UNBILLABLE),
    ],
)
def test_what_was_not_sent(circumstances: Circumstances, expected: Named) -> None:
    assert named(piece("3", "2", "2"), circumstances) == [(expected, "1")]


def line(billed: str, sent: str, held: str) -> LineEvidence:
    return LineEvidence(
        subscription="sub_1",
        item="si_1",
        price="price_1",
        pricing="",
        target=Target.MIRROR,
        stripe_meter="mtr_1",
        event_name="tokens",
        openmeter_meter="m1",
        subject="cus_1",
        start=NOON,
        end=NOON + HOUR,
        billed=D(billed),
        amount=D(0),
        currency="usd",
        is_final=True,
        sent=D(sent),
        held=D(held),
    )


@pytest.mark.parametrize(
    ("found", "ends", "expected"),
    [
        (line("3", "3", "3"), True, []),
        (line("3", "3", "2"), True, []),
        (line("0", "-3", "-3"), True, []),
        (line("3", "2", "3"), False, []),
        (line("3", "2", "2"), False, [Named.BILLED_BEYOND]),
        (line("1", "2", "2"), False, [Named.NOT_BILLED]),
    ],
)
def test_the_end_of_the_chain(found: LineEvidence, expected: list[Named], *, ends: bool) -> None:
    has_ended, differences = of_line(found, FINAL)

    assert (has_ended, [one.name for one in differences]) == (ends, expected)


def test_what_had_no_answer_may_be_billed() -> None:
    assert of_line(replace(line("3", "2", "3"), pending=D(1)), FINAL) == (True, [])
