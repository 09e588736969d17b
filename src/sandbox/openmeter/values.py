"""JSON values on their way through Go, ClickHouse and back."""

from __future__ import annotations

import json
import math
import random
import re
from decimal import Decimal
from typing import Any, NoReturn

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_STEP = re.compile(r"""\.([A-Za-z_][\w-]*)|\[(\d+)\]|\[(?:"([^"]+)"|'([^']+)')\]|\."([^"]+)\"""")

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

type Path = tuple[str | int, ...]

MISSING: Any = object()
"""What a path finds where there is nothing; JSON's null is None."""


def loads(body: bytes) -> Any:
    """Read JSON strictly: every number a float64, no NaN, no infinity. Raises ValueError."""
    return json.loads(body, parse_float=_float, parse_int=_int, parse_constant=_constant)


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"cannot unmarshal number {text} into float64")
    return value


def _int(text: str) -> int:
    _float(text)
    return int(text)


def _constant(text: str) -> NoReturn:
    raise ValueError(f"invalid character in JSON: {text}")


def number(value: float) -> str:
    """A float64 as Go's encoding/json writes it: `3`, `0.1`, exponents from 1e21 and below 1e-6."""
    if value == 0:
        return "-0" if math.copysign(1, value) < 0 else "0"
    if value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    shortest = repr(value)
    if "e" not in shortest:
        return shortest.removesuffix(".0")
    if 1e-6 <= abs(value) < 1e21:
        return format(Decimal(shortest), "f")
    return shortest.replace("e-0", "e-")


def ulid(now: int, source: random.Random) -> str:
    """An id that sorts by the time it was made at, UTC unix seconds."""
    number = ((now * 1000) << 80) | source.getrandbits(80)
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))


def dumps(value: Any) -> str:
    """JSON text with Go's spelling of numbers."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return number(float(value))
    if isinstance(value, dict):
        items = (f"{json.dumps(k, ensure_ascii=False)}:{dumps(v)}" for k, v in value.items())
        return "{" + ",".join(items) + "}"
    return "[" + ",".join(map(dumps, value)) + "]"


def compile_path(text: str) -> Path:
    """Read a JSONPath such as `$.usage.tokens` or `$["a"][0]`. Raises ValueError."""
    if not text.startswith("$"):
        raise ValueError(f"{text!r} does not start with $")
    steps: list[str | int] = []
    position = 1
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            raise ValueError(f"{text!r} is not a path to one value")
        name, index, *quoted = match.groups()
        steps.append(int(index) if index else next(filter(None, (name, *quoted))))
        position = match.end()
    return tuple(steps)


def find(data: Any, path: Path) -> Any:
    """The value at `path`, or MISSING."""
    for step in path:
        if isinstance(step, int):
            if not isinstance(data, list) or step >= len(data):
                return MISSING
            data = data[step]
        elif isinstance(data, dict):
            data = data.get(step, MISSING)
        else:
            return MISSING
    return data


def text_at(data: Any, path: Path) -> str:
    """ClickHouse's `JSON_VALUE`: the scalar as text, `null` for null, else the empty string."""
    value = find(data, path)
    if isinstance(value, str):
        return value
    if value is MISSING or isinstance(value, dict | list):
        return ""
    return dumps(value)


def number_at(data: Any, path: Path) -> float | None:
    """ClickHouse's `toFloat64OrNull` of the value at `path`; what is not finite is no number."""
    value = find(data, path)
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
