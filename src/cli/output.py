"""What commands print: results on standard output; progress, questions and warnings on standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_WIDE = 400

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
StackName = Annotated[str, typer.Option("--stack", help="Name of the deployed CloudFormation stack.")]
Region = Annotated[
    str, typer.Option("--region", help="AWS region of the stack; without it, that of your AWS settings.")
]
Account = Annotated[
    str,
    typer.Option(
        "--account", help="This connected account (acct_...) alone; self: the key's own account alone."
    ),
]


def is_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty()


# Line breaks, and what turns the direction of writing around, among them.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+")


def plain(text: str) -> str:
    """A name from Stripe or OpenMeter on one line: it must not move the cursor, or pass for another line."""
    return _CONTROL.sub(" ", text)


def print_line(text: str = "") -> None:
    """One line of the result, as it is."""
    typer.echo(text)


def print_json(document: Any) -> None:
    """The result as one JSON document."""
    typer.echo(json.dumps(document, indent=2))


def warn(text: str) -> None:
    """One line beside the result."""
    typer.echo(text, err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Aligned columns; those named in `right` hold numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    for row in rows:
        table.add_row(*map(plain, row))
    # As wide as it needs to be: an id or a link that is cut in two can be neither copied nor clicked.
    console = Console(width=_WIDE, markup=False, highlight=False, emoji=False)
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():
        print_line(line.rstrip())


@contextmanager
def progress(what: str, steps: int) -> Iterator[Progress]:
    """A bar with the time left on standard error, when that is a terminal."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *([MofNCompleteColumn()] if steps > 1 else [TaskProgressColumn()]),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    bar.add_task(what, total=steps)
    with bar:
        yield bar


@contextmanager
def status(what: str) -> Iterator[Callable[[str], None]]:
    """A line on standard error that says what is under way, when that is a terminal."""
    console = Console(stderr=True)
    with console.status(what) if sys.stderr.isatty() else nullcontext() as shown:
        yield shown.update if shown is not None else lambda _text: None
