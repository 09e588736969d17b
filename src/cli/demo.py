"""`usage-reporter demo`: from usage to final invoice on this machine, without any account."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from types import FrameType
from typing import Annotated, Any

import typer

from cli.acts import Acts
from cli.errors import NotDoneError
from cli.narrator import Narrator
from cli.output import AsJson, print_json, print_line, print_table, warn
from sandbox.cloud import LocalCloudError
from sandbox.stage import Stage
from sandbox.story import Bill
from usage_reporting.amounts import to_wire

_STOPPED = 130


def demo(
    seed: Annotated[int, typer.Option("--seed", help="Another number makes other usage.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Watch a month end, and see each invoice carry exactly what was used.

    Stand-ins for Stripe and OpenMeter and a local cloud run on this machine; the template and the three
    functions are the real ones. It needs no account and leaves nothing behind. Exit code 0 only if every
    line is EXACT.

    Example: `usage-reporter demo`
    """
    tell = Narrator(aside=as_json)
    with _stoppable(), _in_one_line(), Stage() as stage:
        bills = Acts(stage, tell, seed).play()
    tell.end()
    is_exact = bool(bills) and all(bill.verdict == "EXACT" for bill in bills)
    if as_json:
        print_json(_document(bills, tell.seconds, seed, is_exact=is_exact))
    else:
        _print_bills(bills)
        print_line(f"demo: {'EXACT' if is_exact else 'NOT EXACT'}")
    if not is_exact:
        raise typer.Exit(1)


def _print_bills(bills: Sequence[Bill]) -> None:
    columns = ["customer", "meter", "metered", "billed", "invoice", "invoice amount", "verdict"]
    rows = [
        [
            bill.customer,
            bill.meter,
            _units(bill.metered),
            _units(bill.billed),
            bill.invoice,
            f"${bill.amount / 100:,.2f}",
            bill.verdict,
        ]
        for bill in bills
    ]
    print_table(columns, rows, right=("metered", "billed", "invoice amount"))
    print_line()


def _document(
    bills: Sequence[Bill], seconds: dict[str, float], seed: int, *, is_exact: bool
) -> dict[str, Any]:
    return {
        "verdict": "EXACT" if is_exact else "NOT EXACT",
        "seed": seed,
        "seconds": seconds,
        "lines": [
            {
                "customer": bill.customer,
                "meter": bill.meter,
                "metered": to_wire(bill.metered),
                "billed": to_wire(bill.billed),
                "invoice": bill.invoice,
                "invoice_amount": f"{Decimal(bill.amount).scaleb(-2):f}",
                "verdict": bill.verdict,
            }
            for bill in bills
        ],
    }


def _units(value: Decimal) -> str:
    """With three decimals, or with all there are."""
    return f"{value:,.3f}" if value == round(value, 3) else f"{value:,f}"


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except LocalCloudError as error:
        raise NotDoneError(str(error).partition("\n")[0]) from error
    except (OSError, RuntimeError) as error:
        raise NotDoneError(f"the demo cannot run on this machine: {error}") from error


@contextmanager
def _stoppable() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C: with everything taken down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        warn("demo: stopped, and all of it taken down")
        raise typer.Exit(_STOPPED) from None
    finally:
        signal.signal(signal.SIGTERM, before)
