"""What is assumed of Stripe, and what was seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cli.probe.workshop import Workshop

Json = dict[str, Any]


class Result(StrEnum):
    """What came of looking."""

    HOLDS = "holds"
    DIFFERS = "differs"
    NOT_SEEN = "could not be seen"


class NotSeenError(Exception):
    """What was to be seen did not come about; the text says why."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen: in words, with the ids of what shows it.

    `sandbox`: the settings with which the stand-in behaves likewise; empty where it has none.
    """

    result: Result
    what: str
    evidence: tuple[str, ...] = ()
    sandbox: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Expected[T]:
    """What Stripe shows if the assumption holds, and if it behaves as the stand-in's setting says."""

    assumed: T
    otherwise: T | None = None
    setting: str = ""

    def judge(self, shown: T, what: str, *evidence: str) -> Seen:
        """Whether what is shown is what was assumed."""
        if shown == self.assumed:
            return Seen(Result.HOLDS, what, evidence, {self.setting: False} if self.setting else {})
        is_other = bool(self.setting) and shown == self.otherwise
        return Seen(Result.DIFFERS, what, evidence, {self.setting: True} if is_other else {})


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that the product takes for true of Stripe, each text one sentence.

    `matters`: where the documents build on it; `minutes`: how long it takes about, in real time.
    """

    name: str
    assumed: str
    tried: str
    matters: str
    if_differs: str
    look: Callable[[Workshop], Seen]
    minutes: int = 3

    def document(self, seen: Seen) -> Json:
        """The fact as it stands in the file."""
        return {
            "name": self.name,
            "result": seen.result.value,
            "assumed": self.assumed,
            "tried": self.tried,
            "seen": seen.what,
            "evidence": list(seen.evidence),
            "matters": self.matters,
            "if_differs": self.if_differs,
            "sandbox": dict(seen.sandbox),
        }
