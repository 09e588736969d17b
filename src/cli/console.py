"""`usage-reporter console`: a page on this machine of what is metered, billed, sent, refused and held."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Annotated, Any

import typer
import uvicorn

from cli.desk.desk import Desk
from cli.desk.guard import ADDRESS
from cli.desk.site import create_site
from cli.errors import NotDoneError, WrongUseError
from cli.output import Account, AsJson, Region, StackName, print_json, print_line, status, warn
from cli.stack import Stack
from cli.wiring import operator
from sandbox.playground import Playground
from usage_reporting.accounts import OWN_ACCOUNT

USUAL_PORT = 8787
_HIGHEST_PORT = 65_535

Port = Annotated[
    int,
    typer.Option(
        "--port", help=f"Serve the page at this port; without it at {USUAL_PORT}, or a free one.", min=0
    ),
]


def console(
    *,
    stack: StackName = "",
    port: Port = 0,
    is_opened: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in this machine's browser.")
    ] = False,
    account: Account = "",
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """Look at everything on one page: periods and deadlines, metered against billed, sends, verdicts.

    It serves a page at 127.0.0.1, for this machine alone, until Ctrl-C, and reads with the keys, the settings
    and the ledger of the deployed stack. It sends nothing and writes nothing. With --json it prints what the
    page would show, once, and ends; exit code 1 then says that something is held, refused, rejected or could
    not be read.

    Example: `usage-reporter console --stack usage-reporter`
    """
    if not stack:
        raise WrongUseError("the page shows what a stack's ledger knows; pass --stack NAME")
    deployed = Stack.read(stack, region)
    if as_json:
        _print_once(deployed, account)
    else:
        serve_console(deployed, os.environ, account=account, port=port, is_opened=is_opened)


def serve_console(
    deployed: Stack,
    environment: Mapping[str, str],
    *,
    account: str = "",
    port: int = 0,
    is_opened: bool = False,
    playground: Playground | None = None,
    tell: Callable[[str], None] = print_line,
) -> None:
    """Serve the page until Ctrl-C, and `tell` its address; with a playground it has the sandbox's levers.

    Raises WrongUseError for a port that is taken, and ConfigurationError for a bad setting.
    """
    with closing(_listener(port)) as listener:
        address = f"http://{ADDRESS}:{listener.getsockname()[1]}/"

        def started() -> None:
            tell(f"console: {address} (Ctrl-C ends it)")
            if is_opened and not webbrowser.open(address):
                warn("console: this machine has no browser to open; go to the address yourself")

        with suppress(KeyboardInterrupt):
            asyncio.run(_serve(deployed, environment, account, listener, playground, started))
        warn("console: ended")


async def _serve(
    deployed: Stack,
    environment: Mapping[str, str],
    account: str,
    listener: socket.socket,
    playground: Playground | None,
    started: Callable[[], None],
) -> None:
    async with operator(environment, deployed) as parts:
        site = create_site(nullcontext(Desk(parts.of(account or OWN_ACCOUNT))), playground)
        config = uvicorn.Config(
            site,
            log_level="critical",
            access_log=False,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config, started)
        await server.serve(sockets=[listener])
        if not server.started:
            raise NotDoneError("the page could not be served; try another --port")


class _Server(uvicorn.Server):
    """Says so when it takes calls, and ends at a signal as at the end of its work."""

    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn would raise the signal once more when it has ended, and cut short what is closed then."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take calls."""
        await super().startup(sockets)
        if self.started:
            self._tell_started()


def _print_once(deployed: Stack, account: str) -> None:
    with status("asking Stripe, OpenMeter and the ledger"):
        document = asyncio.run(_read_once(deployed, account))
    print_json(document)
    undelivered = {"held", "refused", "rejected", "unknown"}
    if undelivered & document["counts"].keys() or document["problems"] or document["unreadable"]:
        raise typer.Exit(1)


async def _read_once(deployed: Stack, account: str) -> dict[str, Any]:
    async with operator(os.environ, deployed) as parts:
        desk = Desk(parts.of(account or OWN_ACCOUNT), patience_s=None)
        try:
            return await desk.document()
        finally:
            await desk.close()


def _listener(port: int) -> socket.socket:
    """A socket of this machine alone. Raises WrongUseError."""
    if port > _HIGHEST_PORT:
        raise WrongUseError(f"there is no port {port}; take one up to {_HIGHEST_PORT}")
    for wanted in [port] if port else [USUAL_PORT, 0]:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ADDRESS, wanted))
        except OSError as error:
            listener.close()
            failed = error
        else:
            return listener
    raise WrongUseError(f"port {port} cannot be had on this machine ({failed.strerror}); take another --port")
