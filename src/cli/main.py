"""The entry point `usage-reporter`."""

from __future__ import annotations

import logging
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cli.adopt import adopt
from cli.bench import bench
from cli.connect import connect
from cli.demo import demo
from cli.doctor import doctor
from cli.errors import WRONG_USE, explain
from cli.event import event
from cli.explain import explain_bill
from cli.output import warn
from cli.plan import plan
from cli.probe.command import probe
from cli.reconcile import reconcile
from cli.redrive import redrive
from cli.report import report
from cli.setup import setup
from cli.simulate import FAULTS_HELP, simulate
from usage_reporting.telemetry import SERVICE


class OneLineErrors(TyperGroup):
    """Ends every failed command with one line on standard error and the exit code that belongs to it."""

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


def _misuse(error: typer.TyperException) -> int:
    said = getattr(error, "format_message", lambda: str(error))()
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "usage-reporter"
    warn(f"error: {said.rstrip('.')}; see `{command} --help`")
    return WRONG_USE


app = typer.Typer(
    cls=OneLineErrors,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Mirrors the usage that OpenMeter measured into Stripe. Exit codes: 0 done, 1 something was not "
    "delivered, 2 wrong use.",
)
for command in (setup, connect, doctor, plan, report, adopt, reconcile, redrive, event, demo, bench, probe):
    app.command()(command)
app.command("explain")(explain_bill)
app.command(epilog=FAULTS_HELP)(simulate)


@app.callback()
def _usage_reporter() -> None:
    pass


def main() -> None:
    """Run the command line."""
    app()
