"""The settings: read once from the environment and checked at cold start."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from urllib.parse import urlsplit

from usage_reporting.accounts import NONE_CONNECTED, ConnectedAccounts
from usage_reporting.amounts import ZERO
from usage_reporting.brake import AtDeadline, Brake
from usage_reporting.errors import ConfigurationError
from usage_reporting.period_bounds import PeriodBounds


class Mode(StrEnum):
    """`live` sends; `shadow` does all but send, and says what it would send."""

    LIVE = "live"
    SHADOW = "shadow"


_TRUE = {"true", "1", "yes", "on"}
_KEYS = ("om_", "sk_", "rk_", "pk_", "whsec_", "kpat_", "spat_")
_NUMBER = re.compile(r"\d{1,15}(?:\.\d{1,9})?", re.ASCII)
_SHARE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(?:/(\d{1,6}(?:\.\d{1,6})?))?", re.ASCII)
_FALSE = {"false", "0", "no", "off", ""}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one deployment; the names are those of the environment in lower case."""

    openmeter_url: str
    secret_id: str = ""
    ledger_table: str = ""
    queue_url: str = ""
    mode: Mode = Mode.LIVE
    openmeter_api: str = "v1"
    period_bounds: PeriodBounds = PeriodBounds.EXACT
    openmeter_concurrency: int = 2
    listing_concurrency: int = 4
    subject_metadata_key: str = ""
    openmeter_customers: bool = False
    openmeter_map_by_event_name: bool = False
    rounding: str = "half_up"
    allow_decrease: bool = False
    hold_drafts: bool = False
    stripe_meter_stream: bool = False
    brake_factor: Decimal = ZERO
    brake_floor: Decimal = ZERO
    brake_deadline: AtDeadline = AtDeadline.HOLD
    stripe_api_base: str = ""
    reconcile_topic: str = ""
    """The SNS topic of the daily line; empty: it is in the log alone."""
    dead_letter_queue_url: str = ""
    """Where the webhook puts events over EventBridge that cannot be read."""
    stripe_rate_share: float = 1.0
    stripe_endpoint_share: float = 1.0
    connected_accounts: ConnectedAccounts = NONE_CONNECTED
    subject_with_account: bool = False

    @property
    def brake(self) -> Brake:
        """What holds usage that jumps."""
        return Brake(self.brake_factor, self.brake_floor, self.brake_deadline)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the environment of a function.

        Raises ConfigurationError that names the variable, its value and what it may be.
        """
        settings = cls.for_operator(environment)
        for name in ("SECRET_ID", "LEDGER_TABLE", "QUEUE_URL"):
            if not environment.get(name):
                raise ConfigurationError(f"{name} is not set; the template sets it on every function")
        return settings

    @classmethod
    def for_operator(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check the environment of the CLI, which may do without the stack's resources."""
        return cls(
            openmeter_url=_url(environment, "OPENMETER_URL"),
            secret_id=environment.get("SECRET_ID", ""),
            ledger_table=environment.get("LEDGER_TABLE", ""),
            queue_url=environment.get("QUEUE_URL", ""),
            mode=Mode(_choice(environment, "MODE", ("live", "shadow"))),
            openmeter_api=_choice(environment, "OPENMETER_API", ("v1", "v3")),
            period_bounds=PeriodBounds(_choice(environment, "PERIOD_BOUNDS", tuple(PeriodBounds))),
            openmeter_concurrency=_whole_number(environment, "OPENMETER_CONCURRENCY", 2, 1, 64),
            listing_concurrency=_whole_number(environment, "LISTING_CONCURRENCY", 4, 1, 25),
            subject_metadata_key=environment.get("SUBJECT_METADATA_KEY", "").strip(),
            openmeter_customers=_flag(environment, "OPENMETER_CUSTOMERS"),
            openmeter_map_by_event_name=_flag(environment, "OPENMETER_MAP_BY_EVENT_NAME"),
            rounding=_choice(environment, "ROUNDING", ("half_up", "down", "up")),
            allow_decrease=_flag(environment, "ALLOW_DECREASE"),
            hold_drafts=_flag(environment, "HOLD_DRAFTS"),
            stripe_meter_stream=_flag(environment, "STRIPE_METER_STREAM"),
            brake_factor=_factor(environment, "BRAKE_FACTOR"),
            brake_floor=_number(environment, "BRAKE_FLOOR", "a number of units, 0 or more"),
            brake_deadline=AtDeadline(_choice(environment, "BRAKE_DEADLINE", tuple(AtDeadline))),
            stripe_api_base=_url(environment, "STRIPE_API_BASE", required=False),
            reconcile_topic=environment.get("RECONCILE_TOPIC", "").strip(),
            dead_letter_queue_url=environment.get("DEAD_LETTER_QUEUE_URL", "").strip(),
            stripe_rate_share=_share(environment, "STRIPE_RATE_SHARE"),
            stripe_endpoint_share=_share(environment, "STRIPE_ENDPOINT_SHARE"),
            connected_accounts=_connected(environment, "CONNECTED_ACCOUNTS"),
            subject_with_account=_flag(environment, "SUBJECT_WITH_ACCOUNT"),
        )


def _choice(environment: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = environment.get(name) or allowed[0]
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value!r}; it must be {' or '.join(allowed)}")
    return value


def _flag(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name, "").strip().lower()
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigurationError(f"{name} is {value!r}; it must be true or false")


def _whole_number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name) or str(default)
    in_range = text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most
    if not in_range:
        raise ConfigurationError(f"{name} is {text!r}; it must be a whole number from {least} to {most}")
    return int(text)


def _number(environment: Mapping[str, str], name: str, what: str) -> Decimal:
    text = environment.get(name) or "0"
    if not _NUMBER.fullmatch(text):
        raise ConfigurationError(f"{name} is {text!r}; it must be {what}")
    return Decimal(text)


def _factor(environment: Mapping[str, str], name: str) -> Decimal:
    what = "a number above 1, or 0 for no brake"
    factor = _number(environment, name, what)
    if factor and factor <= 1:
        raise ConfigurationError(f"{name} is {str(factor)!r}; it must be {what}")
    return factor


def _connected(environment: Mapping[str, str], name: str) -> ConnectedAccounts:
    text = environment.get(name, "")
    try:
        return ConnectedAccounts.parse(text)
    except ValueError as error:
        shown = "what looks like a key" if text.strip().startswith(_KEYS) else repr(text)
        raise ConfigurationError(
            f"{name} is {shown}; it must be empty, all, or ids of connected accounts such as "
            "acct_1Abc,acct_1Def"
        ) from error


def _share(environment: Mapping[str, str], name: str) -> float:
    """A number in (0, 1], or two to be divided: a template can divide by a parameter in no other way."""
    text = environment.get(name) or "1"
    match = _SHARE.fullmatch(text)
    part, whole = (float(number or 1) for number in match.groups()) if match else (0.0, 1.0)
    if not 0 < part <= whole:
        raise ConfigurationError(
            f"{name} is {text!r}; it must be a number above 0 and up to 1, or two as in 0.7/2"
        )
    return part / whole


def _url(environment: Mapping[str, str], name: str, *, required: bool = True) -> str:
    value = environment.get(name, "").strip()
    if not value and not required:
        return ""
    if not _is_base_address(value):
        # A key that was put in the wrong place, or a password in the address, is not repeated.
        is_secret = value.startswith(_KEYS) or "@" in value
        shown = "what looks like a key" if is_secret else repr(value)
        raise ConfigurationError(
            f"{name} is {shown}; it must be a base address such as https://openmeter.example.com"
        )
    return value.rstrip("/")


def _is_base_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return (
            parts.scheme in {"http", "https"}
            and bool(parts.hostname)
            and parts.port != 0
            and not parts.query
            and not parts.fragment
        )
    except ValueError:  # brackets or a port that cannot be
        return False
