"""Whatever goes wrong ends in one line and an exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import stripe
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from typer.testing import CliRunner

from cli import VERSION
from cli.errors import NotDoneError, WrongUseError, explain
from cli.main import PANELS, app
from tests.cli.conftest import Run
from tests.integration.world import World
from usage_reporting.errors import ConfigurationError, NotFoundError, StripeUnavailableError

PROGRAM = Path(sys.executable).with_name("usage-reporter")
PLAIN = {name: value for name, value in os.environ.items() if name not in {"FORCE_COLOR", "GITHUB_ACTIONS"}}
COMMANDS = [name for names in PANELS.values() for name in names]
KEY = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
SILENCE = stripe.APIConnectionError(f"no route for {KEY}")  # type: ignore[no-untyped-call]
REFUSAL = stripe.InvalidRequestError("Bad price.", "price", http_status=400)  # type: ignore[no-untyped-call]


def test_the_version_is_said() -> None:
    said = CliRunner().invoke(app, ["--version"])

    assert (said.exit_code, said.output) == (0, f"usage-reporter {VERSION}\n")


@pytest.mark.parametrize(
    ("error", "says", "code"),
    [
        (WrongUseError("no such thing"), "no such thing", 2),
        (NotDoneError("try again"), "try again", 1),
        (ConfigurationError("MODE is 'x'"), "MODE is 'x'", 2),
        (NotFoundError("Stripe says: no such customer"), "no such customer", 2),
        (StripeUnavailableError("Stripe gave no answer"), "gave no answer", 1),
        (stripe.AuthenticationError(f"Invalid API Key: {KEY}", http_status=401), "does not accept", 2),
        (stripe.PermissionError(f"key '{KEY}' may not", http_status=403), "key '[key]' may not", 2),
        (SILENCE, "gave no answer", 1),
        (REFUSAL, "(400): Bad price.", 1),
        (NoCredentialsError(), "set AWS_PROFILE", 2),
        (EndpointConnectionError(endpoint_url="http://x"), "AWS gave no answer", 1),
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutItem"),
            "not allow PutItem",
            2,
        ),
        (ClientError({"Error": {"Code": "Throttling", "Message": "no"}}, "PutItem"), "refused PutItem", 1),
        (KeyError(KEY), "unexpected KeyError at an unknown place", 1),
        (WrongUseError(f"two\nlines with {KEY}"), "two lines with [key]", 2),
    ],
)
def test_each_error_is_one_line_without_a_key(error: Exception, says: str, code: int) -> None:
    line, exit_code = explain(error)

    assert exit_code == code
    assert says in line
    assert "\n" not in line
    assert KEY not in line
    assert "zdp7dc" not in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing command"),
        (["reprot"], "No such command 'reprot'. Did you mean 'report'?"),
        (["report", "--customers"], "No such option: --customers"),
        (["connect"], "Missing option '--stack'"),
        (["adopt"], "Missing option '--stack'"),
    ],
)
def test_wrong_use_is_told_in_one_line(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)

    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith(f"error: {says}")
    assert result.err.rstrip("\n").endswith("--help`")
    assert result.err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_an_example(run: Run, command: str) -> None:
    result = run(command, "--help")

    assert result.code == 0
    said = " ".join(result.out.split())
    assert f"usage-reporter {command}" in said.partition("Example:")[2].partition("╭")[0]
    assert "--json" in result.out


@pytest.mark.parametrize("arguments", [["--help"], ["report", "--help"], ["event", "closing"], ["reprot"]])
def test_what_is_piped_has_no_colour(arguments: list[str]) -> None:
    done = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, check=False, env=PLAIN)

    assert done.stdout + done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_the_shell_completes_commands_and_options() -> None:
    def completed(words: str, place: int) -> list[str]:
        asked = {"_USAGE_REPORTER_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        return subprocess.check_output([PROGRAM], env={**PLAIN, **asked}, text=True).split()

    assert "report" in completed("usage-reporter re", 1)
    assert completed("usage-reporter report --dry", 2) == ["--dry-run"]


def test_a_stripe_out_of_reach_is_not_delivered(
    run: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_API_BASE", "http://127.0.0.1:9")
    monkeypatch.setattr("cli.stripe_account.RETRIES", 0)

    for command in ("setup", "report"):
        result = run(command)
        assert result.code == 1
        assert "Stripe gave no answer" in result.err
        assert result.err.count("\n") == 1


def test_a_base_address_that_is_none_is_wrong_use(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_BASE", "localhost:1")

    assert "STRIPE_API_BASE is 'localhost:1'" in run("setup").err


def test_setup_without_a_key_is_wrong_use(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STRIPE_KEY")

    result = run("setup")

    assert result.code == 2
    assert result.err.startswith("error: STRIPE_KEY is not set")


def test_the_installed_command_runs() -> None:
    done = subprocess.run([PROGRAM, "event", "birthday"], capture_output=True, text=True, check=False)

    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no event 'birthday'")
    assert done.stdout == ""
