"""The demo after its story: still up, for every command of the operator to be tried on it."""

from __future__ import annotations

import shlex
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from cli.output import print_line

_IN_THE_WAY = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "MODE")
"""What another terminal may have set for a real account."""


def exports(environment: Mapping[str, str]) -> list[str]:
    """The lines that make another terminal the operator's of the demo's stack."""
    commands = shlex.quote(str(Path(sys.executable).parent))
    return [
        f"unset {' '.join(_IN_THE_WAY)}",
        f'export PATH={commands}:"$PATH"',
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
    ]


def print_invitation(environment: Mapping[str, str], examples: Sequence[str]) -> None:
    """Say what to paste into another terminal, and what to try there; every key in it is made up."""
    print_line("The demo stays up until Ctrl-C. Paste this into another terminal:\n")
    for line in exports(environment):
        print_line(line)
    print_line("\nThen try there any command of the operator, for example:\n")
    for example in examples:
        print_line(example)
    print_line()


def wait_until_stopped() -> None:
    """Wait for Ctrl-C or SIGTERM; where KeyboardInterrupt stands for both."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
