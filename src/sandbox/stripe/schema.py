"""The parameters of an endpoint: what exists, what is required, and of which kind it must be."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol

from sandbox.stripe.errors import malformed, missing, unknown

_INTEGER = re.compile(r"-?\d{1,19}")
_DECIMAL = re.compile(r"-?\d+(\.\d+)?")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
_MAX_UNIX_SECONDS = 2**53
UNSET = ""


class Kind(Protocol):
    """A kind of parameter; `parse` raises StripeError (400) for a value of another kind."""

    def parse(self, value: Any, name: str) -> Any: ...


def _text(value: Any, name: str, expected: str) -> str:
    if not isinstance(value, str):
        raise malformed(f"Invalid {expected}", name)
    return value


@dataclass(frozen=True)
class Text:
    """A string; `clearable` takes the empty string, which unsets the field."""

    max_length: int = 5000
    clearable: bool = False

    def parse(self, value: Any, name: str) -> str:
        text = _text(value, name, "string")
        if not text and not self.clearable:
            raise malformed(f"You passed an empty string for '{name}'.", name, "parameter_invalid_empty")
        if len(text) > self.max_length:
            raise malformed(
                f"Invalid string: must be at most {self.max_length} characters",
                name,
                "parameter_invalid_string",
            )
        return text


@dataclass(frozen=True)
class Integer:
    """A whole number within bounds."""

    minimum: int | None = None
    maximum: int | None = None

    def parse(self, value: Any, name: str) -> int:
        text = _text(value, name, "integer")
        if not _INTEGER.fullmatch(text):
            raise malformed(f"Invalid integer: {text}", name, "parameter_invalid_integer")
        number = int(text)
        if self.minimum is not None and number < self.minimum:
            raise malformed(
                f"This value must be greater than or equal to {self.minimum}.",
                name,
                "parameter_invalid_integer",
            )
        if self.maximum is not None and number > self.maximum:
            raise malformed(
                f"This value must be less than or equal to {self.maximum}.",
                name,
                "parameter_invalid_integer",
            )
        return number


@dataclass(frozen=True)
class Flag:
    """`true` or `false`."""

    def parse(self, value: Any, name: str) -> bool:
        text = _text(value, name, "boolean")
        if text not in ("true", "false"):
            raise malformed(f"Invalid boolean: {text}", name)
        return text == "true"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    choices: tuple[str, ...]

    def parse(self, value: Any, name: str) -> str:
        text = _text(value, name, "string")
        if text not in self.choices:
            raise malformed(f"Invalid {name}: must be one of {', '.join(self.choices)}", name)
        return text


def choice(*choices: str) -> Choice:
    """One of these words."""
    return Choice(choices)


@dataclass(frozen=True)
class Moment:
    """A UTC unix timestamp in whole seconds, or one of the words that stand for one."""

    words: tuple[str, ...] = ()

    def parse(self, value: Any, name: str) -> int | str:
        text = _text(value, name, "timestamp")
        if text in self.words:
            return text
        if not text.isdecimal() or int(text) >= _MAX_UNIX_SECONDS:
            raise malformed(f"Invalid timestamp: {text}; must be an integer Unix timestamp", name)
        return int(text)


@dataclass(frozen=True)
class DateTime:
    """An RFC 3339 date-time, as the v2 API writes them; read as UTC unix seconds, the rest dropped."""

    def parse(self, value: Any, name: str) -> int:
        text = _text(value, name, "timestamp")
        try:
            if _RFC3339.fullmatch(text):
                return math.floor(datetime.fromisoformat(text).timestamp())
        except (ValueError, OverflowError):
            pass
        raise malformed(f"Invalid timestamp: {text}; must be an RFC 3339 date-time", name)


@dataclass(frozen=True)
class Amount:
    """A decimal string with at most 12 places."""

    minimum: Decimal | None = Decimal(0)

    def parse(self, value: Any, name: str) -> Decimal:
        text = _text(value, name, "decimal")
        if not _DECIMAL.fullmatch(text) or len(text.partition(".")[2]) > 12:
            raise malformed(
                f"Invalid decimal: {text}; must have at most 12 decimal places",
                name,
                "parameter_invalid_decimal",
            )
        number = Decimal(text)
        if self.minimum is not None and number < self.minimum:
            raise malformed(f"Invalid decimal: {text}; must not be negative", name)
        return number


@dataclass(frozen=True)
class Rows:
    """An array."""

    kind: Kind
    max_rows: int = 1000
    min_rows: int = 0

    def parse(self, value: Any, name: str) -> list[Any]:
        if not isinstance(value, list):
            raise malformed("Invalid array", name, "parameter_invalid_array")
        if len(value) > self.max_rows:
            raise malformed(f"Array is too long: at most {self.max_rows}", name)
        if len(value) < self.min_rows:
            raise malformed(f"Array is too short: at least {self.min_rows}", name)
        return [self.kind.parse(row, f"{name}[{index}]") for index, row in enumerate(value)]


@dataclass(frozen=True)
class Pairs:
    """Names with string values, as in `metadata` (at most 50) or a meter event's `payload`.

    `numbered`: takes an array, too, which a form makes of the names 0, 1, 2 and so on.
    """

    max_pairs: int = 50
    max_name: int = 40
    max_value: int = 500
    clearable: bool = True
    numbered: bool = True

    def parse(self, value: Any, name: str) -> dict[str, str]:
        if value == UNSET and self.clearable:
            return {UNSET: UNSET}
        if isinstance(value, list) and self.numbered:
            value = {str(index): row for index, row in enumerate(value)}
        if not isinstance(value, dict):
            raise malformed("Invalid object", name)
        if len(value) > self.max_pairs:
            raise malformed(f"{name} can have at most {self.max_pairs} keys", name)
        for key, text in value.items():
            if not isinstance(text, str):
                raise malformed(f"Invalid string in {name}", f"{name}[{key}]")
            if len(key) > self.max_name or len(text) > self.max_value:
                raise malformed(f"{name} has a key or value that is too long", f"{name}[{key}]")
        return value


Members = Mapping[str, Kind]
"""Kinds by name; a name that ends in `*` is required."""


class Fields:
    """An object with named members; a name that ends in `*` is required."""

    def __init__(self, members: Members) -> None:
        self.kinds = {name.rstrip("*"): kind for name, kind in members.items()}
        self.required = [name[:-1] for name in members if name.endswith("*")]

    def parse(self, value: Any, name: str = "") -> dict[str, Any]:
        if not isinstance(value, dict):
            raise malformed("Invalid object", name)
        for key in value:
            if key not in self.kinds:
                raise unknown(_within(name, key))
        for key in self.required:
            if key not in value:
                raise missing(_within(name, key))
        return {key: self.kinds[key].parse(row, _within(name, key)) for key, row in value.items()}


@dataclass(frozen=True)
class EitherOf:
    """Either a single value or, when the parameter has members, an object."""

    single: Kind
    members: Fields

    def parse(self, value: Any, name: str) -> Any:
        return (self.members if isinstance(value, dict) else self.single).parse(value, name)


def _within(outer: str, name: str) -> str:
    return f"{outer}[{name}]" if outer else name


RANGE = EitherOf(Moment(), Fields({key: Moment() for key in ("gt", "gte", "lt", "lte")}))
METADATA = Pairs()
EXPAND: Members = {"expand": Rows(Text())}
PAGE: Members = {
    "limit": Integer(1, 100),
    "starting_after": Text(),
    "ending_before": Text(),
    **EXPAND,
}


def in_range(value: int | None, bounds: int | dict[str, int] | None) -> bool:
    """Whether value lies in a parsed RANGE (all do when there is none)."""
    if bounds is None:
        return True
    if value is None:
        return False
    if isinstance(bounds, int):
        return value == bounds
    return (
        value > bounds.get("gt", value - 1)
        and value >= bounds.get("gte", value)
        and value < bounds.get("lt", value + 1)
        and value <= bounds.get("lte", value)
    )


def earliest(bounds: int | dict[str, int] | None) -> int | None:
    """A value below which nothing lies in a parsed RANGE; None when there is none."""
    if isinstance(bounds, dict):
        return max((bounds[name] for name in ("gt", "gte") if name in bounds), default=None)
    return bounds
