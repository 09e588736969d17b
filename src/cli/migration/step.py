"""What a step of a migration did, or would do, in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from usage_reporting.errors import UsageReportingError
from usage_reporting.stripe_api import redacted


@dataclass(frozen=True, slots=True)
class Act:
    """One change in Stripe."""

    what: str
    """Such as `make price`."""
    of: str
    """The id of what it concerns: a legacy price, or a subscription."""
    id: str = ""
    """The id of what was made or changed; empty where nothing is yet."""


@dataclass(slots=True)
class Step:
    """The changes of a step, in their order, and what could not be changed."""

    applies: bool
    """Whether anything is changed; else it is only said."""
    acts: list[Act] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    """What is left as it is, by id, and why."""
    problems: dict[str, str] = field(default_factory=dict)
    """What failed, by id, and why."""

    async def do(self, what: str, of: str, change: Callable[[], Awaitable[Any]] | None, id: str = "") -> Any:
        """Make a change, or only say it; the object in Stripe's answer, None where nothing was changed."""
        if not self.applies:
            self.acts.append(Act(what, of, id))
            return None
        answer = await change() if change is not None else None
        made = answer.get("id", id) if isinstance(answer, dict) else id
        self.acts.append(Act(what, of, str(made)))
        return answer

    async def guarded(self, of: str, work: Awaitable[None]) -> None:
        """Let what fails of one stand beside the others."""
        try:
            await work
        except UsageReportingError as error:
            self.problems[of] = redacted(error.reason)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            self.problems[of] = f"Stripe's answer lacks or misshapes something: {error!r}"

    def to_json(self) -> dict[str, Any]:
        """The step as it is printed by --json."""
        return {
            "applied": self.applies,
            "changes": [{"change": act.what, "of": act.of, "id": act.id or None} for act in self.acts],
            "left": [{"what": name, "reason": why} for name, why in self.left.items()],
            "problems": [{"what": name, "reason": why} for name, why in self.problems.items()],
        }
