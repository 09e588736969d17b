"""Query parameters, checked as OpenMeter's request validation does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sandbox.openmeter.instants import Instant, parse
from sandbox.openmeter.problems import invalid_parameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

_IN_MAP = re.compile(r"(\w+)\[([^\]]+)\]")


class Parameters:
    """The parameters of one request.

    Unlike OpenMeter, unknown ones are refused. Every method raises Problem (400) on a value of the
    wrong type.
    """

    def __init__(self, request: Request, names: Sequence[str], *, maps: Sequence[str] = ()) -> None:
        self._values = request.query_params
        for key in self._values:
            match = _IN_MAP.fullmatch(key)
            if key not in names and (match is None or match[1] not in maps):
                invalid_parameter(key, "query", "is unsupported")

    def text(self, name: str) -> str | None:
        """A string that may be there once."""
        values = self._values.getlist(name)
        if len(values) > 1:
            invalid_parameter(name, "query", "value must be a string, not an array")
        return values[0] if values else None

    def items(self, name: str) -> list[str]:
        """Strings, by repeating the parameter."""
        return self._values.getlist(name)

    def map(self, name: str) -> dict[str, str]:
        """`name[key]=value` parameters."""
        matches = ((_IN_MAP.fullmatch(key), value) for key, value in self._values.multi_items())
        return {match[2]: value for match, value in matches if match and match[1] == name}

    def instant(self, name: str) -> Instant | None:
        """An RFC 3339 date-time."""
        text = self.text(name)
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            invalid_parameter(name, "query", str(error))

    def integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        """A whole number within bounds."""
        text = self.text(name)
        if text is None:
            return None
        if not re.fullmatch(r"-?\d{1,9}", text):
            invalid_parameter(name, "query", f"value {text}: an invalid integer")
        number = int(text)
        if number < least:
            invalid_parameter(name, "query", f"number must be at least {least}")
        if most is not None and number > most:
            invalid_parameter(name, "query", f"number must be at most {most}")
        return number

    def boolean(self, name: str) -> bool:
        """`true` or `false`; absent is false."""
        return self.choice(name, ("true", "false")) == "true"

    def choice(self, name: str, allowed: Sequence[str]) -> str | None:
        """One of some words."""
        text = self.text(name)
        if text is not None and text not in allowed:
            invalid_parameter(name, "query", "value is not one of the allowed values")
        return text
