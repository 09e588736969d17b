"""Form bodies and query strings with bracket notation, decoded strictly."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote_plus

from sandbox.stripe.errors import StripeError

Form = dict[str, "FormValue"]
FormValue = str | list["FormValue"] | Form

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_KEY = re.compile(r"\[([^\[\]]*)\]")


def decode(encoded: str) -> Form:
    """Decode `a[b]=1&c[]=2&d[0][e]=3`; raises StripeError (400) for names that do not parse."""
    tree: Form = {}
    for pair in encoded.split("&"):
        if pair:
            name, _, value = pair.partition("=")
            _put(tree, _keys(unquote_plus(name)), unquote_plus(value))
    return {name: _with_lists(value) for name, value in tree.items()}


def decode_json(body: bytes) -> Form:
    """The object in a body of the v2 API, null as the empty text; raises StripeError (400) for others."""
    try:
        tree = json.loads(body or b"{}")
    except ValueError:
        tree = None
    if not isinstance(tree, dict):
        raise StripeError(400, "The request body is not a JSON object.", stored=False)
    decoded: Form = _without_null(tree)
    return decoded


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_without_null(child) for child in value]
    return "" if value is None else value


def _keys(name: str) -> list[str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise _bad(name)
    return [match[1], *_KEY.findall(match[2])]


def _put(tree: Form, keys: list[str], value: str) -> None:
    *path, last = keys
    node = tree
    for depth, key in enumerate(path):
        following = keys[depth + 1]
        child = node.setdefault(key or _row(node, following), {})
        if not isinstance(child, dict):
            raise _bad("".join(keys))
        node = child
    if last == "":
        last = str(len(node))
    if last in node:
        raise StripeError(400, f"Received parameter more than once: {keys[0]}", param=keys[0], stored=False)
    node[last] = value


def _row(rows: Form, following: str) -> str:
    """The row of `rows[][following]`: the last one while it lacks that name, else a new one."""
    newest = str(len(rows) - 1)
    row = rows.get(newest)
    if isinstance(row, dict) and following and following not in row:
        return newest
    return str(len(rows))


def _with_lists(value: FormValue) -> FormValue:
    if not isinstance(value, dict):
        return value
    decoded = {key: _with_lists(child) for key, child in value.items()}
    if decoded and all(key.isdecimal() for key in decoded):
        if {int(key) for key in decoded} != set(range(len(decoded))):
            raise _bad("an array whose indices have gaps")
        return [decoded[str(index)] for index in range(len(decoded))]
    return decoded


def _bad(name: str) -> StripeError:
    return StripeError(400, f"Invalid parameter name: {name}", param=name, stored=False)
