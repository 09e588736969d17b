"""The demo after its story: still up, for every command of the operator to be tried on it."""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


@contextmanager
def exported(environment: Mapping[str, str], file: Path) -> Iterator[None]:
    """Have a file that another terminal can source, as long as the demo is up; every key in it is made up.

    Raises OSError.
    """
    text = "".join(f"{line}\n" for line in exports(environment))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    try:
        yield
    finally:
        if file.exists() and file.read_text() == text:  # and not that of a demo begun since
            file.unlink()


def print_invitation(file: Path, examples: Sequence[str]) -> None:
    """Say what makes another terminal the operator's, and what to try there."""
    here = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    print_line("The demo stays up until Ctrl-C. In another terminal, in this folder:\n")
    print_line(f"source {shlex.quote(os.fspath(here))}")
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
