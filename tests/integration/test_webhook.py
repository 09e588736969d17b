"""What the webhook answers: 400 not Stripe's, 200 done or not ours, 503 ask again; never anything else."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from sandbox.stripe import sign
from tests.integration.world import NOON, WEBHOOK_SECRET, World
from usage_reporting.webhook import answer

EVENTS = Path(__file__).parents[2] / "events"


@pytest.fixture
def foreign(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EVENTS / "renewal_basil.json").read_text())
    world.clock.set(found["created"])
    return found


def test_an_event_of_another_account_is_not_ours(world: World, foreign: dict[str, Any]) -> None:
    told = world.post(foreign)

    assert (told.code, told.status) == (200, "not_ours")
    assert world.meter_events() == []


def test_bodies_come_raw_and_in_base64(world: World, foreign: dict[str, Any]) -> None:
    assert world.post(foreign).status == world.post(foreign, as_base64=True).status == "not_ours"


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (-301, "stale or in the future"),
        (301, "stale or in the future"),
        (-(10**9), "stale"),
        (10**9, "future"),
    ],
)
def test_signatures_of_another_time_are_refused(
    world: World, foreign: dict[str, Any], at: int, reason: str
) -> None:
    told = world.post(foreign, at=world.clock() + at)

    assert told.code == 400
    assert reason in told.reason


def test_forged_signatures_are_refused(world: World, foreign: dict[str, Any]) -> None:
    assert world.post(foreign, secret="whsec_forged").code == 400


@pytest.mark.parametrize(
    "header",
    [
        "",
        "t=1",
        "v1=aa",
        "t=x,v1=aa",
        f"t={NOON}",
        f"t={NOON},v1=",
        f"t={NOON},v0=aa",
        "t=,v1=,",
        "=",
        "t=1=2,v1=3",
    ],
)
def test_malformed_signature_headers_are_refused(world: World, header: str) -> None:
    call = {"headers": {"stripe-signature": header}, "body": "{}", "isBase64Encoded": False}
    assert answer(world.container(), call).code == 400


def test_a_second_time_stamp_cannot_freshen_an_old_signature(world: World) -> None:
    old = sign(b"{}", WEBHOOK_SECRET, NOON - 9000)
    for header in (f" t={NOON},{old}", f"{old},t={NOON}", f"t={NOON},{old}"):
        call = {"headers": {"stripe-signature": header}, "body": "{}", "isBase64Encoded": False}
        assert answer(world.container(), call).code == 400


def test_a_secret_newer_than_the_cached_one_is_looked_up_once_a_minute(
    world: World, foreign: dict[str, Any]
) -> None:
    container = world.container()
    assert world.post(foreign, container=container).code == 200
    world.write_secret("whsec_second")

    assert world.post(foreign, secret="whsec_second", container=container).code == 200

    world.write_secret("whsec_third")
    assert world.post(foreign, secret="whsec_third", container=container).code == 400


def test_several_secrets_hold_at_once(world: World, foreign: dict[str, Any]) -> None:
    world.write_secret(["whsec_a", "whsec_b"])

    assert [world.post(foreign, secret=secret).code for secret in ("whsec_a", "whsec_b")] == [200, 200]


def test_placeholders_are_not_configured(world: World, foreign: dict[str, Any]) -> None:
    world.write_secret("replace-me")

    told = world.post(foreign)

    assert (told.code, told.status) == (503, "not_configured")


def test_a_body_over_one_mebibyte_is_refused(world: World) -> None:
    assert world.post(b'{"type": "' + b"x" * 1024 * 1024 + b'"}').code == 400


def damaged(event: Any, chance: random.Random) -> Any:
    """The event with one part, somewhere in it, replaced or removed."""
    garbage: list[Any] = [
        None,
        True,
        -1,
        0,
        10**30,
        1.5,
        "",
        "x",
        "\x00",
        "sub_",
        "§",
        [],
        {},
        [None],
        {"data": None},
        [[[]]],
    ]
    copy = json.loads(json.dumps(event))
    place = copy
    for _ in range(chance.randrange(1, 8)):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = chance.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and chance.random() < 0.8:
            place = place[key]
            continue
        if chance.random() < 0.2:
            del place[key]
        else:
            place[key] = chance.choice(garbage)
        break
    return copy


def bodies(chance: random.Random) -> list[bytes]:
    """A thousand validly signed bodies that are not, or not quite, events of ours."""
    names = ("renewal_basil.json", "renewal_acacia.json", "subscription_deleted.json")
    events = [json.loads((EVENTS / name).read_text()) for name in names]
    made = [json.dumps(damaged(chance.choice(events), chance)).encode() for _ in range(900)]
    raw = [
        b"",
        b"null",
        b"[]",
        b"1",
        b'"x"',
        b"{",
        b"\xff\xfe",
        b"{}" * 2,
        b"NaN",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"type": 1}',
        b'{"type": "customer.subscription.updated"}',
        b'{"type": null, "data": {}}',
        b'{"type": "customer.subscription.updated", "data": []}',
        b"9" * 10_000,
        b'{"type": "\\ud800"}',
        b'{"type": "invoice.paid", "data": {"object": {}}}',
        b'{"id": "evt_1", "object": "v2.core.event", "type": "x"}',
    ]
    while len(made) < 1000:
        made.append(
            chance.choice(raw) if chance.random() < 0.5 else chance.randbytes(chance.randrange(1, 200))
        )
    return made


def test_a_thousand_signed_bodies_that_are_not_ours_do_nothing(world: World) -> None:
    container = world.container()

    answers = [
        world.post(body, container=container) for body in bodies(random.Random(1000)) if _is_text(body)
    ]

    assert {one.code for one in answers} <= {200, 400}
    assert {one.status for one in answers if one.code == 200} <= {"not_ours", "ignored"}
    assert {one.code for one in answers} == {200, 400}
    assert world.meter_events() == []
    assert world.ledger() == []


def test_damaged_events_of_a_subscription_of_ours_never_end_in_a_server_error(world: World) -> None:
    price, meter = world.metered_price()
    subscription = world.subscription(price)
    world.use(str(subscription.customer), NOON - 100, 5)
    chance = random.Random(7)
    container = world.container()
    answers = []
    for name in ("renewal_basil.json", "renewal_acacia.json", "subscription_deleted.json"):
        text = (EVENTS / name).read_text()
        ours = json.loads(text)
        for mentioned in set(re.findall(r'"(mtr_[A-Za-z0-9]+)"', text)):
            ours = json.loads(json.dumps(ours).replace(mentioned, meter))
        ours["data"]["object"]["id"] = subscription.id
        answers += [
            world.post(json.dumps(damaged(ours, chance)).encode(), container=container) for _ in range(150)
        ]

    assert {one.code for one in answers} == {200, 400}


def test_signed_bytes_that_are_not_text_are_refused(world: World) -> None:
    container = world.container()
    strange = [body for body in bodies(random.Random(1000)) if not _is_text(body)]

    answers = [world.post(body, container=container, as_base64=True) for body in strange]

    assert strange
    assert {one.code for one in answers} == {400}


def _is_text(body: bytes) -> bool:
    try:
        return bool(body.decode())
    except UnicodeDecodeError:
        return False
