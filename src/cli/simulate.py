"""`usage-reporter simulate`: random worlds, everything that goes wrong, and every bill checked."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.output import AsJson, print_json, print_line, warn
from sandbox.simulator.campaign import Summary, campaign
from sandbox.simulator.trouble import KINDS

PERIODS = 2000


def simulate(
    seed: Annotated[int, typer.Option("--seed", help="The worlds are the same for the same seed.")] = 1,
    periods: Annotated[
        int, typer.Option("--periods", min=1, help="How many billing periods to play at least.")
    ] = PERIODS,
    faults: Annotated[
        str, typer.Option("--faults", help="What goes wrong: all, none, or kinds with commas between.")
    ] = "all",
    as_json: AsJson = False,
) -> int:
    """Play random customers, prices and faults in virtual time, and compare every invoice with the truth.

    Needs no account and no network. Exit code 1 when a bill is wrong.
    """
    summary = campaign(seed, periods, _kinds(faults))
    if as_json:
        print_json(summary.document())
    else:
        _print(summary)
    return 1 if summary.wrong else 0


def _kinds(faults: str) -> tuple[str, ...]:
    if faults in {"all", "none"}:
        return KINDS if faults == "all" else ()
    kinds = tuple(kind.strip() for kind in faults.split(",") if kind.strip())
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'} is no kind of fault; these are: {', '.join(KINDS)}"
        )
    return kinds


def _print(summary: Summary) -> None:
    for kind, count in sorted(summary.faults.items()):
        print_line(f"{kind}: {count}")
    for wrong in summary.wrong:
        warn(f"seed {wrong['seed']}: {'; '.join(wrong['what'][:3])}")
        if "test" in wrong:
            print_line(wrong["test"])
    print_line(
        f"{summary.periods} periods, {sum(summary.faults.values())} faults, {summary.predicted} lines short "
        f"as foretold, {len(summary.wrong)} worlds wrong: {'WRONG' if summary.wrong else 'EXACT'}"
    )
