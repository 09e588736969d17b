"""Sample events: signed as Stripe does, wrapped as API Gateway does, moved to now."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from stripe import SignatureVerificationError, WebhookSignature

from cli.signing import EVENTS, KINDS, sample_event, signed_api_gateway_event, stripe_signature

SECRET = "whsec_test"
NOW = 1_798_761_601


def verify(body: bytes, header: str, secret: str = SECRET) -> None:
    WebhookSignature.verify_header(body.decode(), header, secret, tolerance=None)


def test_stripes_own_library_accepts_the_signature() -> None:
    body = '{"id": "evt_ü"}'.encode()
    verify(body, stripe_signature(body, SECRET, NOW))


@pytest.mark.parametrize(
    ("body", "secret"), [(b'{"id": "evt_2"}', SECRET), (b'{"id": "evt_1"}', "whsec_other")]
)
def test_it_accepts_no_other_body_or_secret(body: bytes, secret: str) -> None:
    header = stripe_signature(b'{"id": "evt_1"}', SECRET, NOW)
    with pytest.raises(SignatureVerificationError):
        verify(body, header, secret)


@pytest.mark.parametrize("base64_encoded", [False, True])
def test_the_event_carries_the_body_and_its_signature(*, base64_encoded: bool) -> None:
    body = sample_event("renewal", NOW)
    event = signed_api_gateway_event(body, SECRET, NOW, base64_encoded=base64_encoded)
    assert event["isBase64Encoded"] is base64_encoded
    raw = base64.b64decode(event["body"]) if base64_encoded else event["body"].encode()
    assert raw == body
    assert event["headers"]["content-length"] == str(len(body))
    assert event["headers"]["stripe-signature"].startswith(f"t={NOW},v1=")
    verify(raw, event["headers"]["stripe-signature"])
    json.dumps(event)


def test_the_event_is_of_payload_format_2() -> None:
    event = signed_api_gateway_event(b"{}", SECRET, NOW)
    assert event["version"] == "2.0"
    assert event["routeKey"] == "POST /stripe/webhook"
    assert event["rawPath"] == "/stripe/webhook"
    assert event["requestContext"]["http"]["method"] == "POST"
    assert event["requestContext"]["http"]["path"] == "/stripe/webhook"
    assert event["requestContext"]["time"] == "01/Jan/2027:00:00:01 +0000"
    assert event["requestContext"]["timeEpoch"] == 1_798_761_601_000
    assert all(name == name.lower() for name in event["headers"])


def test_the_secret_is_not_in_the_event() -> None:
    assert SECRET not in json.dumps(signed_api_gateway_event(b"{}", SECRET, NOW))


def instants(value: Any, path: str = "") -> dict[str, int]:
    """Every number of a date's size, by its path."""
    if isinstance(value, dict):
        pairs = [instants(item, f"{path}.{key}") for key, item in value.items()]
    elif isinstance(value, list):
        pairs = [instants(item, f"{path}[{n}]") for n, item in enumerate(value)]
    else:
        return {path: value} if isinstance(value, int) and value > 1_000_000_000 else {}
    return {key: number for pair in pairs for key, number in pair.items()}


@pytest.mark.parametrize("kind", list(KINDS))
def test_all_times_move_together_and_the_period_ended_just_now(kind: str) -> None:
    sample = json.loads((EVENTS / KINDS[kind]).read_text())
    moved = json.loads(sample_event(kind, NOW))
    shift = NOW - sample["created"]
    before, after = instants(sample), instants(moved)
    assert len(before) > 8
    assert after == {path: number + shift for path, number in before.items()}
    ends = [number for path, number in after.items() if path.endswith("period_end")]
    assert 0 < NOW - min(ends) < 60


def test_each_moment_has_its_own_event_and_nothing_else_changes() -> None:
    first, second = (json.loads(sample_event("deleted", now)) for now in (NOW, NOW + 1))
    assert first["id"] != second["id"]
    assert first["data"]["object"]["id"] == second["data"]["object"]["id"]
    assert sample_event("deleted", NOW) == sample_event("deleted", NOW)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="use one of renewal, renewal-acacia, deleted"):
        sample_event("refund", NOW)
