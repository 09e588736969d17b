"""Whether what was printed is what the document shows: ids, times and numbers differ from run to run.

In what is shown, `...` on a line of its own stands for any lines, or none, and within a line for anything.
What an id of the document is in this run is learnt where it is first printed; from then on it is that one.
A lone 0 is a 0: that nothing is wrong is no number that may differ.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

ANYTHING = "..."

_ID = r"(?:upcoming_)?(?:in|cus|sub|si|price|prod|mtr|we|ed)_[A-Za-z0-9]{8,}"
_TIME = r"(?:\d{4}-\d\d-\d\d)?(?:T?\d\d:\d\d:\d\dZ?)|\d{4}-\d\d-\d\d"
_HEX = r"\b(?=[0-9A-Fa-f]*\d)[0-9A-Fa-f]{8,}\b"
_ZERO = r"(?<![\d.,$:])0(?![\d:]|[.,]\d)"
_NUMBER = r"[-+]?\$?\d[\d,]*(?:\.\d+)?"
_WORD = re.compile(
    rf"(?P<any>\.\.\.)|(?P<id>\b{_ID}\b)|(?P<time>{_TIME})|(?P<hex>{_HEX})|(?P<zero>{_ZERO})"
    rf"|(?P<number>{_NUMBER})|(?P<gap>\s+)"
)
_FITS = {
    "any": ".*",
    "time": f"(?:{_TIME})",
    "hex": "[0-9A-Fa-f]+",
    "zero": "0",
    "number": _NUMBER,
    "gap": r"\s+",
}

Ids = Mapping[str, str]
"""Ids of the document, and what they are in this run."""


def fits(shown: str, printed: str, known: Ids) -> dict[str, str] | None:
    """The ids that are known then, or None where the line is another one."""
    names: dict[str, str] = {}
    pattern, end = "", 0
    for word in _WORD.finditer(shown):
        pattern += re.escape(shown[end : word.start()]) + _pattern(word, known, names)
        end = word.end()
    found = re.fullmatch(pattern + re.escape(shown[end:]) + r"\s*", printed)
    return (
        None if found is None else {**known, **{names[name]: id_ for name, id_ in found.groupdict().items()}}
    )


def _pattern(word: re.Match[str], known: Ids, names: dict[str, str]) -> str:
    kind, text = str(word.lastgroup), word.group()
    if kind != "id":
        return _FITS[kind]
    if text in known:
        return re.escape(known[text])
    for name, id_ in names.items():
        if id_ == text:
            return f"(?P={name})"
    names[f"id{len(names)}"] = text
    prefix = text.rpartition("_")[0]
    return f"(?P<id{len(names) - 1}>{prefix}_[A-Za-z0-9]+)"


def compare(shown: Sequence[str], printed: Sequence[str], known: Ids) -> dict[str, str] | None:
    """The ids that are known then, or None where the lines are others."""
    ids, at, place = dict(known), 0, 0
    last: tuple[int, int, dict[str, str]] | None = None
    while place < len(printed):
        more = fits(shown[at], printed[place], ids) if at < len(shown) and shown[at] != ANYTHING else None
        if at < len(shown) and shown[at] == ANYTHING:
            last, at = (at, place, ids), at + 1
        elif more is not None:
            ids, at, place = more, at + 1, place + 1
        elif last is not None:
            at, place, ids = last[0], last[1] + 1, last[2]
            last = (at, place, ids)
            at += 1
        else:
            return None
    return ids if all(line == ANYTHING for line in shown[at:]) else None


def named(text: str, known: Ids) -> str:
    """A command of the document with the ids of this run."""
    for id_, now in known.items():
        text = text.replace(id_, now)
    return text


def masked(line: str) -> str:
    """The line without what differs from run to run."""

    def mask(word: re.Match[str]) -> str:
        kind = str(word.lastgroup)
        return {"gap": " ", "any": ANYTHING, "zero": "0"}.get(kind, f"<{kind}>")

    return _WORD.sub(mask, line).rstrip()


def difference(shown: Sequence[str], printed: Sequence[str]) -> str:
    """What is shown and was not printed (-), and the other way round (+), without what may differ."""
    lines = difflib.unified_diff(
        [masked(line) for line in shown],
        [masked(line) for line in printed],
        "shown in the document",
        "printed now",
        lineterm="",
        n=99,
    )
    return "\n".join(lines)
