"""The settings: checked at cold start, and an error names the variable, its value and what it may be."""

from __future__ import annotations

from decimal import Decimal

import pytest

from usage_reporting.brake import AtDeadline
from usage_reporting.config import Mode, Settings
from usage_reporting.errors import ConfigurationError
from usage_reporting.period_bounds import PeriodBounds

STACK = {"SECRET_ID": "keys", "LEDGER_TABLE": "ledger", "QUEUE_URL": "https://sqs.test/pages"}
LEAST = {"OPENMETER_URL": "https://openmeter.test", **STACK}


def test_the_defaults() -> None:
    assert Settings.from_environment(LEAST) == Settings(
        openmeter_url="https://openmeter.test",
        secret_id="keys",
        ledger_table="ledger",
        queue_url="https://sqs.test/pages",
        mode=Mode.LIVE,
        openmeter_api="v1",
        period_bounds=PeriodBounds.EXACT,
        openmeter_concurrency=2,
        listing_concurrency=4,
        subject_metadata_key="",
        openmeter_map_by_event_name=False,
        rounding="half_up",
        allow_decrease=False,
        hold_drafts=False,
        brake_factor=Decimal(0),
        brake_floor=Decimal(0),
        brake_deadline=AtDeadline.HOLD,
        stripe_api_base="",
        stripe_endpoint_share=1.0,
        stripe_rate_share=1.0,
    )


def test_every_setting_is_read() -> None:
    settings = Settings.from_environment(
        {
            **LEAST,
            "OPENMETER_URL": " http://127.0.0.1:8888/base/ ",
            "MODE": "shadow",
            "OPENMETER_API": "v1",
            "PERIOD_BOUNDS": "hour",
            "OPENMETER_CONCURRENCY": "7",
            "LISTING_CONCURRENCY": "25",
            "SUBJECT_METADATA_KEY": " external_key ",
            "OPENMETER_CUSTOMERS": "on",
            "OPENMETER_MAP_BY_EVENT_NAME": "True",
            "ROUNDING": "up",
            "ALLOW_DECREASE": "1",
            "HOLD_DRAFTS": "yes",
            "BRAKE_FACTOR": "2.5",
            "BRAKE_FLOOR": "1000",
            "BRAKE_DEADLINE": "send",
            "STRIPE_API_BASE": "http://127.0.0.1:12111/",
            "STRIPE_RATE_SHARE": "0.6/4",
            "STRIPE_ENDPOINT_SHARE": "0.8/2",
        }
    )

    assert settings == Settings(
        openmeter_url="http://127.0.0.1:8888/base",
        secret_id="keys",
        ledger_table="ledger",
        queue_url="https://sqs.test/pages",
        mode=Mode.SHADOW,
        period_bounds=PeriodBounds.HOUR,
        openmeter_concurrency=7,
        listing_concurrency=25,
        subject_metadata_key="external_key",
        openmeter_customers=True,
        openmeter_map_by_event_name=True,
        rounding="up",
        allow_decrease=True,
        hold_drafts=True,
        brake_factor=Decimal("2.5"),
        brake_floor=Decimal(1000),
        brake_deadline=AtDeadline.SEND,
        stripe_api_base="http://127.0.0.1:12111",
        stripe_endpoint_share=0.4,
        stripe_rate_share=0.15,
    )


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("MODE", "dry"),
        ("MODE", "LIVE"),
        ("OPENMETER_API", "v2"),
        ("PERIOD_BOUNDS", "week"),
        ("OPENMETER_CONCURRENCY", "0"),
        ("OPENMETER_CONCURRENCY", "65"),
        ("OPENMETER_CONCURRENCY", "2.5"),
        ("OPENMETER_CONCURRENCY", "-1"),
        ("OPENMETER_CONCURRENCY", "٣"),
        ("OPENMETER_CONCURRENCY", "two"),
        ("OPENMETER_CONCURRENCY", "9" * 5000),
        ("LISTING_CONCURRENCY", "0"),
        ("LISTING_CONCURRENCY", "26"),
        ("OPENMETER_CUSTOMERS", "all"),
        ("OPENMETER_MAP_BY_EVENT_NAME", "maybe"),
        ("ALLOW_DECREASE", "sure"),
        ("HOLD_DRAFTS", "maybe"),
        ("BRAKE_FACTOR", "1"),
        ("BRAKE_FACTOR", "0.5"),
        ("BRAKE_FACTOR", "-2"),
        ("BRAKE_FACTOR", "nan"),
        ("BRAKE_FACTOR", "1e3"),
        ("BRAKE_FLOOR", "-1"),
        ("BRAKE_FLOOR", "much"),
        ("BRAKE_DEADLINE", "drop"),
        ("ROUNDING", "nearest"),
        ("OPENMETER_URL", "openmeter.test"),
        ("OPENMETER_URL", "ftp://openmeter.test"),
        ("OPENMETER_URL", "https://"),
        ("OPENMETER_URL", "https://openmeter.test?key=1"),
        ("OPENMETER_URL", "https://openmeter.test#part"),
        ("OPENMETER_URL", "https://[::1"),
        ("OPENMETER_URL", "https://openmeter.test:port"),
        ("STRIPE_API_BASE", "stripe"),
        ("STRIPE_API_BASE", "http://[x"),
        ("STRIPE_RATE_SHARE", "0"),
        ("STRIPE_RATE_SHARE", "0.0/2"),
        ("STRIPE_RATE_SHARE", "1.01"),
        ("STRIPE_RATE_SHARE", "2/1"),
        ("STRIPE_RATE_SHARE", "1/0"),
        ("STRIPE_RATE_SHARE", "0/0"),
        ("STRIPE_RATE_SHARE", "-0.5"),
        ("STRIPE_RATE_SHARE", "1/2/3"),
        ("STRIPE_RATE_SHARE", "1/"),
        ("STRIPE_RATE_SHARE", "٣/4"),
        ("STRIPE_RATE_SHARE", "nan"),
        ("STRIPE_RATE_SHARE", "70%"),
    ],
)
def test_a_bad_value_is_named_with_its_variable(name: str, bad: str) -> None:
    with pytest.raises(ConfigurationError) as problem:
        Settings.from_environment({**LEAST, name: bad})

    assert problem.value.reason.startswith(f"{name} is {bad!r}; it must be ")


@pytest.mark.parametrize("name", ["SECRET_ID", "LEDGER_TABLE", "QUEUE_URL", "OPENMETER_URL"])
@pytest.mark.parametrize("missing", [True, False])
def test_what_the_template_sets_must_be_there(name: str, missing: bool) -> None:
    environment = {key: value for key, value in LEAST.items() if key != name}

    with pytest.raises(ConfigurationError, match=f"^{name} is"):
        Settings.from_environment(environment if missing else {**environment, name: ""})


def test_an_operator_needs_no_stack() -> None:
    settings = Settings.for_operator({"OPENMETER_URL": "https://openmeter.test"})

    assert (settings.secret_id, settings.ledger_table, settings.queue_url) == ("", "", "")


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on", " true "])
def test_ways_to_say_yes(text: str) -> None:
    assert Settings.from_environment({**LEAST, "ALLOW_DECREASE": text}).allow_decrease is True


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off", "", " "])
def test_ways_to_say_no(text: str) -> None:
    assert Settings.from_environment({**LEAST, "ALLOW_DECREASE": text}).allow_decrease is False


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("64", 64), ("", 2)])
def test_the_edges_of_the_concurrency(text: str, number: int) -> None:
    assert Settings.from_environment({**LEAST, "OPENMETER_CONCURRENCY": text}).openmeter_concurrency == number


@pytest.mark.parametrize(
    ("text", "share"), [("", 1.0), ("1", 1.0), ("0.35", 0.35), ("0.7/2", 0.35), ("1/1", 1.0), ("1/100", 0.01)]
)
def test_ways_to_say_a_share(text: str, share: float) -> None:
    assert Settings.from_environment({**LEAST, "STRIPE_RATE_SHARE": text}).stripe_rate_share == share


@pytest.mark.parametrize("secret", ["om_live_secret", "sk_test_secret", "https://u:secret@host?x=1"])
def test_a_key_in_the_wrong_place_is_not_repeated(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="OPENMETER_URL") as raised:
        Settings.for_operator({"OPENMETER_URL": secret})

    assert "secret" not in raised.value.reason
