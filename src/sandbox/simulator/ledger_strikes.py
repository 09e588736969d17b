"""The ledger lost, or restored from an older copy, and the operator who then runs `adopt`.

AWS restores a table only into a new one (DynamoDB, "Restoring a table"), so it has another creation time
and the functions get its name by a deployment: all processes begin anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from cli.adoption import plan
from cli.errors import NotDoneError
from cli.wiring import Operator
from sandbox.memory_table import MemoryTable
from sandbox.simulator.history import Fault
from sandbox.simulator.processes import Process, Shared
from usage_reporting.accounts import account_in
from usage_reporting.customer_meters import merged
from usage_reporting.errors import LostRaceError
from usage_reporting.ledger import Item as Stored
from usage_reporting.ledger import Key
from usage_reporting.model import Status

LOST: Final = "ledger_lost"
RESTORED: Final = "ledger_restored"
_LOOKS_AGAIN: Final = 3600
_LOOKS_FOR: Final = 40 * 3600


class LedgerTable(MemoryTable):
    """The ledger's table; all of it can be seen, and it can be put back to an earlier copy."""

    def get(self, keys: Sequence[Key]) -> list[Stored]:
        """Read items, not copied: the ledger only makes its own objects of them."""
        return [self._items[key] for key in keys if key in self._items]

    def items(self) -> list[Stored]:
        """Everything it holds."""
        return list(self._items.values())

    def copy(self) -> dict[Key, Stored]:
        """What it holds now; items are replaced, never changed."""
        return dict(self._items)

    def make_anew(self, created_at: str, items: dict[Key, Stored]) -> None:
        """Another table takes its place."""
        self._created_at, self._items = created_at, dict(items)


@dataclass(slots=True)
class LedgerStrike:
    """One loss at `at`; `adopted`: when which partition key was adopted after it (UTC seconds)."""

    kind: str
    at: int
    adopted: dict[str, int] = field(default_factory=dict)
    seen: int = 0
    """How many reports there had been before it."""


class LedgerStrikes:
    """Keeps the copies, loses the ledger, and sends the operator. `lost` is what the old tables held."""

    def __init__(self, faults: Sequence[Fault], shared: Shared, table: LedgerTable) -> None:
        self._shared = shared
        self._table = table
        self._to_copy = sorted(fault.at - fault.seconds for fault in faults if fault.kind == RESTORED)
        self._copies: dict[int, dict[Key, Stored]] = {}
        self._looks: list[int] = []
        self.strikes: list[LedgerStrike] = []
        self.lost: list[list[Stored]] = []

    def next_due(self) -> int | None:
        """When the operator looks next, UTC seconds."""
        return min(self._looks, default=None)

    def keep_copies(self) -> None:
        """Keep the copies that are due."""
        while self._to_copy and self._to_copy[0] <= self._shared.clock():
            self._copies[self._to_copy.pop(0)] = self._table.copy()

    def strike(self) -> bool:
        """Lose the ledger if that is due; whether it was."""
        for kind in (LOST, RESTORED):
            fault = self._shared.trouble.take(kind)
            if fault is None:
                continue
            now = self._shared.clock()
            self.lost.append(self._table.items())
            items = self._copies.get(fault.at - fault.seconds, {}) if kind == RESTORED else {}
            self._table.make_anew(str(now), items)
            self.strikes.append(LedgerStrike(kind, now, seen=len(self._shared.reports)))
            self._looks = [now + fault.later + hours * _LOOKS_AGAIN for hours in range(_LOOKS_FOR // 3600)]
            return True
        return False

    def look(self, run: Callable[[Callable[[Process], None]], object]) -> None:
        """If it is time, have the operator adopt what is held."""
        now = self._shared.clock()
        if not self._looks or self._looks[0] > now:
            return
        self._looks = [look for look in self._looks if look > now]
        strike = self.strikes[-1]
        held = {
            one.report.customer_meter.pk
            for one in self._shared.reports[strike.seen :]
            if one.report.status is Status.HELD
        }
        wanted = held - strike.adopted.keys()
        if wanted:
            run(lambda process: process.container.run(_adopt(process, wanted, strike)))


async def _adopt(process: Process, wanted: set[str], strike: LedgerStrike) -> None:
    """`usage-reporter adopt` for each of them; who cannot be adopted yet comes at the next look."""
    for account in sorted({account_in(pk) for pk in wanted}):
        await _adopt_in(process, account, wanted, strike)


async def _adopt_in(process: Process, account: str, wanted: set[str], strike: LedgerStrike) -> None:
    parts, clock = process.container.of(account), process.container.clock
    reporter = parts.reporter
    operator = Operator(parts.settings, parts.billing, reporter.openmeter, reporter.ledger, reporter, clock)
    for one in merged(await operator.customer_meters(endings=True)):
        if one.pk not in wanted:
            continue
        try:
            adoption = await plan(
                operator.billing, operator.openmeter, operator.ledger, one, operator.clock()
            )
            await adoption.carry_out(operator.ledger, operator.clock())
        except (NotDoneError, LostRaceError):
            continue
        strike.adopted[one.pk] = operator.clock()
