"""The identifiers of sends: each names the fact that is sent, and so tells whether that was changed."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

_FORM = re.compile(r"(?P<whose>.+)\.(?P<start>\d+)\.(?P<sequence>\d+)\.(?P<digest>[0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Identifier:
    """What an identifier says in the clear; `start` in UTC seconds."""

    whose: str
    start: int
    sequence: int
    text: str

    @classmethod
    def read(cls, text: str) -> Identifier | None:
        """Take an identifier apart; None for one that is not of this form, such as those of `adopt`."""
        found = _FORM.fullmatch(text)
        return cls(found["whose"], int(found["start"]), int(found["sequence"]), text) if found else None

    def names(self, pk: str, *facts: str) -> bool:
        """Whether it was made for just these facts of a ledger key."""
        return identifier(pk, self.whose, self.start, self.sequence, *facts) == self.text


def identifier(pk: str, whose: str, start: int, sequence: int, *facts: str) -> str:
    """`whose.start.sequence.hash`: the hash is over the ledger key and all facts; `start` in UTC seconds."""
    hashed = "|".join([pk, str(start), str(sequence), *facts])
    digest = hashlib.sha256(hashed.encode()).hexdigest()[:16]
    return f"{whose}.{start}.{sequence}.{digest}"
