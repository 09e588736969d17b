"""`usage-reporter demo`: from usage to final invoice on this machine, without any account."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.acts import Acts
from cli.console import Port, serve_console
from cli.errors import NotDoneError
from cli.evidence import InvoiceEvidence, summary
from cli.ingress import Ingress, Played
from cli.narrator import Narrator
from cli.openmeter_api import OpenMeterApi
from cli.output import AsJson, print_json, print_line, print_table, warn
from cli.stack import Stack
from cli.staying import exported, print_invitation, wait_until_stopped
from cli.stopping import stoppable
from sandbox.cloud import LocalCloudError
from sandbox.playground import Playground, PlaygroundError
from sandbox.stage import STACK, Stage
from sandbox.story import Bill
from usage_reporting.amounts import to_wire

_WORKER_S = 20.0


def demo(
    *,
    seed: Annotated[int, typer.Option("--seed", help="Another number makes other usage.")] = 1,
    stay: Annotated[
        bool,
        typer.Option(
            "--stay",
            help="Stay up after the story until Ctrl-C, to try every command on it in another terminal.",
        ),
    ] = False,
    console: Annotated[
        bool,
        typer.Option(
            "--console",
            help="As --stay, with the console over it: end periods, break things, replay webhooks, watch.",
        ),
    ] = False,
    openmeter_api: OpenMeterApi = "v1",
    port: Port = 0,
    ingress: Played = Ingress.API,
    as_json: AsJson = False,
) -> None:
    """Watch a month end, and see each invoice carry exactly what was used.

    Stand-ins for Stripe and OpenMeter and a local cloud run on this machine; the template and the three
    functions are the real ones. It needs no account and leaves nothing behind. Exit code 0 only if every
    line is EXACT, and `explain` finds how. With --stay all of it is there until Ctrl-C: `source
    .cache/demo.env` in another terminal, and every command works there with --stack usage-reporter
    (docs/first-hour.md). With --console a page on this machine shows it, too, with buttons that steer the
    stand-ins (--port as of `console`). With --ingress eventbridge Stripe's events come over Amazon
    EventBridge: bus, rule and queue of the local cloud take the place of API Gateway.

    Example: `usage-reporter demo --console`
    """
    is_staying = stay or console
    tell = Narrator(aside=as_json)
    with (
        stoppable("demo: stopped, and all of it taken down"),
        _in_one_line(),
        Stage(openmeter_api, over_event_bridge=ingress is Ingress.EVENTBRIDGE) as stage,
    ):
        acts = Acts(stage, tell, seed)
        told = Told(acts.play(), acts.explained, seed)
        tell.end()
        if is_staying:
            there = Staying(stage.environment, stage.environment_file, _examples(acts))
            with exported(there.environment, there.file):
                _print(told, tell.seconds, there, as_json=as_json)
                if console:
                    _serve_console(stage, port, warn if as_json else print_line)
                else:
                    wait_until_stopped()
    if is_staying:
        warn("demo: all of it taken down")
    else:
        _print(told, tell.seconds, None, as_json=as_json)
    if not told.is_exact:
        raise typer.Exit(1)


def _serve_console(stage: Stage, port: int, tell: Callable[[str], None]) -> None:
    environment = {**os.environ, **stage.environment}
    levers = playground_of(stage)
    serve_console(Stack.read(STACK), environment, port=port, playground=levers, tell=tell)


def playground_of(stage: Stage) -> Playground:
    """The console's levers over what is on the stage."""

    def tick(scope: str) -> str:
        try:
            answer = stage.tick(scope)
        except LocalCloudError as error:
            raise PlaygroundError(str(error)) from error
        if "customer_meters" not in answer:
            raise PlaygroundError(
                f"the schedule function says {answer.get('reason') or answer.get('status')}"
            )
        is_done = stage.wait_for_queue(_WORKER_S)
        worker = "the worker took them" if is_done else "the worker is still at it"
        return f"The schedule function queued {answer['customer_meters']} customer meters, and {worker}"

    return Playground(stage.stripe, stage.openmeter, stage.client, tick)


@dataclass(frozen=True, slots=True)
class Told:
    """What came of the story."""

    bills: Sequence[Bill]
    explained: Sequence[InvoiceEvidence]
    """The invoices as `explain` finds them."""
    seed: int

    @property
    def is_exact(self) -> bool:
        """Whether every line bills what was metered, and is explained, and there are lines."""
        lines = [line for invoice in self.explained for line in invoice.lines]
        is_explained = len(lines) == len(self.bills) and all(line.is_explained for line in lines)
        return bool(self.bills) and is_explained and all(bill.verdict == "EXACT" for bill in self.bills)

    def to_json(self) -> dict[str, Any]:
        """The outcome, amounts as texts."""
        return {
            "verdict": "EXACT" if self.is_exact else "NOT EXACT",
            "seed": self.seed,
            "lines": [_line(bill) for bill in self.bills],
            "explained": [
                {"invoice": found.id, "lines": len(found.lines), "explained": found.is_explained}
                for found in self.explained
            ],
        }


@dataclass(frozen=True, slots=True)
class Staying:
    """How another terminal reaches the demo while it stays up."""

    environment: Mapping[str, str]
    file: Path
    """Which exports it, to be sourced."""
    examples: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """For a script."""
        return {"environment": dict(self.environment), "file": str(self.file), "examples": [*self.examples]}


def _examples(acts: Acts) -> list[str]:
    """Commands that show something in another terminal."""
    stack = f"--stack {STACK}"
    customers = [acts.stage.customers[person.name] for person in acts.people[:1]]
    return [
        f"usage-reporter doctor {stack}",
        *(f"usage-reporter explain {found.id} {stack}" for found in acts.explained[:1]),
        *(f"usage-reporter report {stack} --customer {customer} --dry-run" for customer in customers),
    ]


def _print(told: Told, seconds: Mapping[str, float], staying: Staying | None, *, as_json: bool) -> None:
    if as_json:
        there = staying.to_json() if staying else {}
        print_json({**told.to_json(), "seconds": dict(seconds), **there})
        return
    _print_bills(told.bills)
    print_line(summary(told.explained))
    print_line(f"demo: {'EXACT' if told.is_exact else 'NOT EXACT'}")
    if staying:
        print_line()
        print_invitation(staying.file, staying.examples)


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


def _line(bill: Bill) -> dict[str, Any]:
    return {
        "customer": bill.customer,
        "meter": bill.meter,
        "metered": to_wire(bill.metered),
        "billed": to_wire(bill.billed),
        "invoice": bill.invoice,
        "invoice_amount": f"{Decimal(bill.amount).scaleb(-2):f}",
        "verdict": bill.verdict,
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
