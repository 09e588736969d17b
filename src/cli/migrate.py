"""`usage-reporter migrate`: from legacy metered prices to meters, a step at a time."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import typer

from cli.errors import WrongUseError
from cli.migration.comparing import Comparer, mirrored
from cli.migration.finishing import Finish
from cli.migration.forecast import Forecaster, priced
from cli.migration.found import Found
from cli.migration.legacy_api import LegacyApi
from cli.migration.preparing import Preparation, Withdrawal
from cli.migration.reader import Reader
from cli.migration.shown import print_compared, print_first_invoices, print_standing, print_step
from cli.migration.standing import Standing, compared_json
from cli.migration.step import Step
from cli.migration.switching import Switch, SwitchBack, switched_of
from cli.output import Account, AsJson, Region, StackName, print_json, progress, status
from cli.stack import Stack
from cli.wiring import Operator, operator
from usage_reporting import advice
from usage_reporting.accounts import OWN_ACCOUNT
from usage_reporting.config import Mode
from usage_reporting.windows import rfc3339


class Stage(StrEnum):
    """What is to be done."""

    PLAN = "plan"
    PREPARE = "prepare"
    COMPARE = "compare"
    SWITCH = "switch"
    FINISH = "finish"


def migrate(  # noqa: PLR0913 - each is an option of the command
    stage: Annotated[
        Stage, typer.Argument(help="Which step; without it, `plan`: where the migration stands.")
    ] = Stage.PLAN,
    *,
    stack: StackName = "",
    customer: Annotated[
        str, typer.Option("--customer", help="This Stripe customer alone: plan, compare and switch.")
    ] = "",
    price: Annotated[str, typer.Option("--price", help="This legacy price alone.")] = "",
    limit: Annotated[
        int,
        typer.Option("--limit", min=0, help="Switch so many more subscriptions at most; 0: all that can be."),
    ] = 0,
    force: Annotated[
        str,
        typer.Option(
            "--force",
            metavar="REASON",
            help="Switch what did not compare exact, too; the schedule keeps why.",
        ),
    ] = "",
    account: Account = "",
    undo: Annotated[bool, typer.Option("--undo", help="Take `prepare` or `switch` back.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Do it; without, it is only said.")] = False,
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Move from legacy metered prices (usage records) to Stripe meters, without a gap or a difference.

    `plan` shows every legacy price that an OpenMeter meter feeds, the meter and the price that would take its
    place, what each customer's bills would be, and how far all is. `prepare` makes those meters and prices;
    from then on the functions fill them beside the old records. `compare` holds both against each other, for
    each period that ended since. `switch` schedules the subscriptions that compared exact: at their renewal
    the new price takes the old one's place. `finish` judges the first invoices after that, and archives old
    prices that nobody holds. Nothing is changed in Stripe without --apply; all that a step does can be run
    again at any time, after Ctrl-C too; `prepare` and `switch` can be taken back until the renewal.

    Example: `usage-reporter migrate switch --stack usage-reporter --limit 3 --apply`
    """
    check(stage, stack, customer, limit, force, undo=undo, apply=apply)
    deployed = Stack.read(stack, region) if stack else None
    run = Migration(stage, account, customer, price, limit, force, undo, Step(apply), as_json)
    if not asyncio.run(run.run(deployed)):
        raise typer.Exit(1)


@dataclass(slots=True)
class Migration:
    """One run of the command."""

    stage: Stage
    account: str
    """Empty: the key's own."""
    customer: str
    price: str
    limit: int
    reason: str
    """Why to switch what did not compare exact; empty: it is left."""
    undo: bool
    step: Step
    as_json: bool

    async def run(self, deployed: Stack | None) -> bool:
        """Do the step; whether all is right."""
        async with operator(os.environ, deployed) as wired:
            parts = wired.of(self.account or OWN_ACCOUNT)
            with advice.about(parts.billing.account):
                return await self._do(parts)

    async def _do(self, parts: Operator) -> bool:
        if parts.settings.mode is Mode.SHADOW and self.step.applies and not self.undo:
            raise WrongUseError(
                "the stack is in shadow mode, so nothing would be mirrored and no usage billed; deploy "
                "Mode=live first"
            )
        with status("reading legacy prices") as say:
            found = await Reader(parts, self.customer, say, self.price).read()
        if self.price and not self.customer and not found.prices:
            raise WrongUseError(
                f"Stripe shows no legacy metered price {self.price!r} that anybody is on; check --price"
            )
        if self.customer and not any(one.items or one.switched or one.begun for one in found.prices):
            raise WrongUseError(
                f"Stripe shows customer {self.customer!r} on no legacy metered price, nor on one that took "
                "its place; check --customer, and --account if it is in a connected one"
            )
        match self.stage:
            case Stage.PLAN:
                return await self._plan(parts, found)
            case Stage.COMPARE:
                return await self._compare(parts, found)
            case Stage.PREPARE:
                return await self._prepare(parts, found)
            case Stage.SWITCH:
                return await self._switch(parts, found)
            case Stage.FINISH:
                return await self._finish(parts, found)

    async def _plan(self, parts: Operator, found: Found) -> bool:
        forecaster = Forecaster(parts)
        with progress("pricing customers", len(priced(found))) as bar:
            await forecaster.forecast(found, lambda: bar.advance(bar.task_ids[0]))
        comparer = await _compared(parts, found)
        standing = Standing(found, forecaster.forecasts, comparer.compared)
        if self.as_json:
            print_json(standing.to_json())
        else:
            print_standing(standing)
        return not found.unreadable and not any(one.problem for one in forecaster.forecasts.values())

    async def _compare(self, parts: Operator, found: Found) -> bool:
        by_item = (await _compared(parts, found)).compared
        compared = [by_item[item.id] for _, item in mirrored(found)]
        if self.as_json:
            print_json({"items": [compared_json(one) for one in compared]})
        else:
            print_compared(compared)
        return not any(one.differs or one.problem for one in compared) and not found.unreadable

    async def _prepare(self, parts: Operator, found: Found) -> bool:
        api = LegacyApi(parts.billing.api)
        with status("taking back" if self.undo else "preparing"):
            if self.undo:
                await Withdrawal(api, self.step).withdraw(found)
            else:
                await Preparation(api, self.step, parts.clock()).prepare(found)
        return self._end(found)

    async def _switch(self, parts: Operator, found: Found) -> bool:
        if self.undo:
            await SwitchBack(parts, self.step).undo(found)
            return self._end(found)
        comparer = await _compared(parts, found)
        with status("scheduling"):
            await Switch(parts, self.step, comparer.compared, self.reason, self.limit).switch(found)
        return self._end(found)

    async def _finish(self, parts: Operator, found: Found) -> bool:
        finish = Finish(parts, self.step)
        with progress("judging first invoices", len(switched_of(found))) as bar:
            await finish.finish(found, lambda: bar.advance(bar.task_ids[0]))
        invoices = [
            {
                "stripe_customer": one.customer,
                "subscription": one.subscription,
                "since": rfc3339(one.since),
                "invoice": one.invoice or None,
                "is_exact": one.is_exact,
                "verdict": one.verdict,
            }
            for one in finish.invoices
        ]
        if not self.as_json:
            print_first_invoices(finish.invoices)
        is_right = self._end(found, {"first_invoices": invoices})
        return is_right and not any(one.is_wrong for one in finish.invoices)

    def _end(self, found: Found, more: dict[str, object] | None = None) -> bool:
        self.step.problems |= {name: f"could not be read: {why}" for name, why in found.unreadable.items()}
        if self.as_json:
            print_json({**(more or {}), **self.step.to_json()})
        else:
            print_step(self.step)
        return not self.step.problems


async def _compared(parts: Operator, found: Found) -> Comparer:
    comparer = Comparer(parts)
    with progress("comparing customers", len(mirrored(found))) as bar:
        await comparer.compare(found, lambda: bar.advance(bar.task_ids[0]))
    return comparer


def check(
    stage: Stage, stack: str, customer: str, limit: int, force: str, *, undo: bool, apply: bool
) -> None:
    """Raises WrongUseError for what does not go together."""
    if stage is not Stage.PLAN and not stack:
        raise WrongUseError(
            f"migrate {stage} needs --stack NAME: its functions mirror, and its settings say where "
            "periods are cut"
        )
    if customer and stage in {Stage.PREPARE, Stage.FINISH}:
        raise WrongUseError(f"migrate {stage} is of prices, which all customers share; leave --customer away")
    if undo and stage not in {Stage.PREPARE, Stage.SWITCH}:
        raise WrongUseError(f"migrate {stage} has nothing to take back; --undo goes with prepare and switch")
    if apply and stage in {Stage.PLAN, Stage.COMPARE}:
        raise WrongUseError(f"migrate {stage} changes nothing; leave --apply away")
    if (limit or force) and (stage is not Stage.SWITCH or undo):
        raise WrongUseError("--limit and --force go with migrate switch alone")
    if force and not force.strip():
        raise WrongUseError("--force takes the reason in words, which the schedule keeps")
