"""The entry point `usage-reporter`."""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import VERSION
from cli.errors import WRONG_USE, explain
from cli.output import print_line, warn
from usage_reporting.telemetry import SERVICE

PANELS = {
    "Set up": ("setup", "connect", "doctor", "probe"),
    "Before money moves, and after": ("plan", "reconcile", "explain", "console"),
    "Act": ("report", "adopt", "redrive", "migrate"),
    "Try it on this machine": ("demo", "event", "simulate", "bench"),
}
"""The commands, as `--help` groups them; each is the function of its name in the module of its name."""


class Commands(TyperGroup):
    """Imports only the command that is run, for each needs other libraries.

    Every failed command ends with one line on standard error and the exit code that belongs to it.
    """

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        names = [name for names in PANELS.values() for name in names]
        self.commands = dict.fromkeys(names)  # type: ignore[assignment]  # each until it is asked for

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the library asks with its context
        """The names, in the order of `--help`."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name in self.commands and self.commands[cmd_name] is None:
            self.commands[cmd_name] = command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run a command; unless `standalone_mode` is False the process ends with its exit code."""
        ends_process = extra.pop("standalone_mode", True)
        # The layer logs for Lambda; an operator reads the same in the command's own words.
        logger = logging.getLogger(SERVICE)
        disabled, logger.disabled = logger.disabled, True
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False}) or 0
        except typer.TyperException as error:
            code = _misuse(error)
        except typer.Abort:
            warn("stopped; nothing further was done")
            code = 1
        except Exception as error:  # noqa: BLE001 - an operator gets a line, never a stack trace
            line, code = explain(error)
            warn(f"error: {line}")
        finally:
            logger.disabled = disabled
        if ends_process:
            sys.exit(code)
        return code


def command(name: str) -> Any:
    """One command, with what it imports."""
    module = importlib.import_module(f"cli.{name}")
    [panel] = [panel for panel, names in PANELS.items() if name in names]
    alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    epilog = getattr(module, "EPILOG", None)
    alone.command(name, epilog=epilog, rich_help_panel=panel)(getattr(module, name))
    return typer.main.get_command(alone)


def _misuse(error: typer.TyperException) -> int:
    said = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "usage-reporter"
    warn(f"error: {said.rstrip('.')}; see `{command} --help`")
    return WRONG_USE


app = typer.Typer(
    cls=Commands,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Mirrors the usage that OpenMeter measured into Stripe. Exit codes: 0 done, 1 something was not "
    "delivered, 2 wrong use.",
)


def _say_version(is_asked: bool) -> None:
    if is_asked:
        print_line(f"usage-reporter {VERSION}")
        raise typer.Exit


@app.callback()
def _usage_reporter(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Show the version, and stop."),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line."""
    app()
