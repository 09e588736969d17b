"""`usage-reporter simulate`: random worlds, everything that goes wrong, and every bill checked."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.ingress import Ingress, Played
from cli.openmeter_api import OpenMeterApi
from cli.output import AsJson, print_json, print_line, print_table, progress, warn
from sandbox.simulator.campaign import Summary, Worlds, campaign
from sandbox.simulator.trouble import ACCOUNT_FAULTS, GROUPS, KINDS
from sandbox.stripe.undocumented import AS_ASSUMED, Undocumented, read_facts

PERIODS = 2000
_ALL = (*KINDS, *ACCOUNT_FAULTS)

_PLAYING = "billing periods"

EPILOG = "Kinds of fault:\n\n" + "\n".join(f"- {name}: {', '.join(kinds)}" for name, kinds in GROUPS.items())
"""What the command's help ends with."""


class MeterStream(StrEnum):
    """In which worlds usage goes through Stripe's stream of meter events."""

    ON = "on"
    OFF = "off"
    MIXED = "mixed"


_STREAMS = {MeterStream.ON: True, MeterStream.OFF: False, MeterStream.MIXED: None}


def simulate(  # noqa: PLR0913 - the options of a command
    *,
    seed: Annotated[int, typer.Option("--seed", help="The worlds are the same for the same seed.")] = 1,
    periods: Annotated[
        int, typer.Option("--periods", min=1, help="How many billing periods to play at least.")
    ] = PERIODS,
    faults: Annotated[
        str,
        typer.Option(
            "--faults", help="What goes wrong: all, none, or kinds (see below) with commas between."
        ),
    ] = "all",
    meter_stream: Annotated[
        MeterStream,
        typer.Option(
            "--meter-stream", help="STRIPE_METER_STREAM: on, off, or mixed: on in half of the worlds."
        ),
    ] = MeterStream.MIXED,
    brake: Annotated[
        bool,
        typer.Option(
            "--brake",
            help="Hold usage that doubles until its deadline (BRAKE_FACTOR=2, BRAKE_DEADLINE=send); nothing "
            "then ends unforeseen.",
        ),
    ] = False,
    openmeter_api: OpenMeterApi = "v1",
    accounts: Annotated[
        int,
        typer.Option(
            "--accounts",
            min=1,
            max=10,
            help="Stripe accounts of each world: the key's own, and others connected to it "
            "(CONNECTED_ACCOUNTS=all, SUBJECT_WITH_ACCOUNT=true), whose customers have the same ids.",
        ),
    ] = 1,
    ingress: Played = Ingress.API,
    facts: Annotated[
        Path | None,
        typer.Option(
            "--facts", help="Stripe behaves as this file of `probe` says, where it is undocumented."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Play random customers, prices and faults in virtual time, and compare every invoice with the truth.

    Needs no account and no network. Exit code 1 when a bill is wrong: then the world's seed, its customer,
    and the shortest history that is still wrong are shown, as a pytest.

    Example: `usage-reporter simulate --seed 7 --periods 500 --faults crash,webhook_lost`
    """
    if accounts > 1 and ingress is Ingress.EVENTBRIDGE:
        raise typer.BadParameter(
            "events of connected accounts do not come over EventBridge; take --accounts 1"
        )
    kinds = _kinds(faults)
    if accounts == 1 and kinds and not set(kinds) - set(ACCOUNT_FAULTS):
        raise typer.BadParameter(f"{', '.join(kinds)} needs several accounts: add --accounts 2")
    undocumented = _undocumented(facts) if facts else AS_ASSUMED
    with progress(_PLAYING, periods) as bar:

        def show(done: int) -> None:
            bar.update(bar.task_ids[0], completed=min(done, periods), description=_PLAYING)

        def show_shrinking(world: str) -> None:
            bar.update(bar.task_ids[0], description=f"world {world} is wrong: shrinking it")

        summary = campaign(
            seed,
            periods,
            Worlds(
                kinds,
                _STREAMS[meter_stream],
                brake,
                undocumented,
                openmeter_api,
                accounts,
                over_event_bridge=ingress is Ingress.EVENTBRIDGE,
            ),
            progress=show,
            shrinking=show_shrinking,
        )
    if as_json:
        print_json(summary.document())
    else:
        _print(summary)
    return 1 if summary.wrong else 0


def _undocumented(facts: Path) -> Undocumented:
    """How Stripe was found to behave. Raises BadParameter for what is no file of facts."""
    try:
        read = read_facts(facts)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"--facts cannot be read: {error}") from error
    warn(f"Stripe behaves otherwise than assumed in: {', '.join(read.different) or 'nothing'}")
    if read.not_imitated:
        warn(f"what the stand-in cannot imitate is as assumed: {', '.join(read.not_imitated)}")
    return read.undocumented


def _kinds(faults: str) -> tuple[str, ...]:
    if faults in {"all", "none"}:
        return _ALL if faults == "all" else ()
    kinds = tuple(kind.strip() for kind in faults.split(",") if kind.strip())
    unknown = [kind for kind in kinds if kind not in _ALL]
    if unknown or not kinds:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no kind of fault; these are: {', '.join(_ALL)}"
        )
    return kinds


def _print(summary: Summary) -> None:
    rows = [
        [name if kind == present[0] else "", kind, str(summary.faults[kind])]
        for name, kinds in GROUPS.items()
        if (present := [kind for kind in kinds if summary.faults[kind]])
        for kind in present
    ]
    if rows:
        print_table(["what goes wrong", "fault", "times"], rows, right=["times"])
        print_line()
    for wrong in summary.wrong:
        _print_wrong(wrong)
    print_line(
        f"seed {summary.seed}: {summary.periods} periods in {summary.worlds} worlds, "
        f"{sum(summary.faults.values())} faults, {summary.predicted} lines short as foretold, "
        f"{summary.held} held, {summary.over} over, {summary.under} under, "
        f"{len(summary.wrong)} worlds wrong: {'WRONG' if summary.wrong else 'EXACT'}"
    )


def _print_wrong(wrong: Mapping[str, Any]) -> None:
    """A wrong world: who, the seed, what; of the first also the shortest history, as a test."""
    print_line(f"WRONG: customer {wrong['customer']} in the world of seed {wrong['seed']}")
    for what in wrong["what"]:
        print_line(f"  {what}")
    if "test" in wrong:
        short = wrong["shortest"]
        print_line(
            f"  shortest history: {short['contracts']} contracts, {short['usage']} usage events, "
            f"{short['acts']} acts, {short['faults']} faults"
        )
        for what in short["what"]:
            print_line(f"    {what}")
        print_line("  save this below tests/simulator/ and run it with pytest:")
        print_line()
        print_line(wrong["test"])
    print_line()
