"""Runs every command of docs/first-hour.md, in order and for real, and compares what they print.

`make transcript`. Exit code 1, and a difference to read, where something is other than the document shows.
It is run in a clone: what the document types before `make` is what brought us here.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.transcript.document import INTERRUPT, Step, steps
from tests.transcript.likeness import ANYTHING, compare, difference, fits, named
from tests.transcript.terminals import Shell, Staying, TranscriptError, shell

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENT = PROJECT / "docs" / "first-hour.md"
GETTING_HERE = ("git clone ", "cd ")


def play(document: Path, folder: Path) -> int:
    """Run what a document shows, in a folder; the exit code."""
    # A shell that runs this in the background has Ctrl-C ignored, and so would the demo.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session = Session(folder)
    began = time.monotonic()
    with ExitStack() as opened:
        opened.callback(session.end)
        try:
            for step in steps(document):
                session.take(step)
        except TranscriptError as error:
            print(f"\ntranscript: NOT AS SHOWN in {document.name}: {error}", file=sys.stderr)
            return 1
    print(f"transcript: AS SHOWN, {session.taken} commands in {time.monotonic() - began:.0f} s")
    return 0


class Session:
    """What goes on in both terminals; `taken`: how many commands were run."""

    def __init__(self, folder: Path) -> None:
        self.taken = 0
        self._folder = folder
        self._ids: dict[str, str] = {}
        self._staying: Staying | None = None
        self._shell: Shell | None = None
        self._opened = ExitStack()

    def take(self, step: Step) -> None:
        """Run one command and compare. Raises TranscriptError."""
        if step.command.startswith(GETTING_HERE):
            return
        command = named(step.command, self._ids)
        print(f"terminal {step.terminal}: {command}", flush=True)
        if step.command == INTERRUPT:
            printed = self._left().interrupt()
        elif step.terminal == 1:
            self._staying = Staying(command, self._folder)
            self._opened.callback(self._staying.end)
            printed = self._staying.wait_for(lambda lines: self._is_all(step.printed, lines))
        else:
            printed = self._typed(command)
        self._compare(step, printed)
        self.taken += 1

    def end(self) -> None:
        """Have all of it gone."""
        self._opened.close()

    def _left(self) -> Staying:
        if self._staying is None:
            raise TranscriptError("Ctrl-C is typed where nothing runs")
        return self._staying

    def _typed(self, command: str) -> list[str]:
        if self._shell is None:
            self._shell = self._opened.enter_context(shell(self._folder))
        printed, code = self._shell.run(command)
        if code:
            raise TranscriptError(f"$ {command}\nended with exit code {code}:\n" + "\n".join(printed))
        return printed

    def _is_all(self, shown: Sequence[str], printed: Sequence[str]) -> bool:
        """Whether the last line that is shown was printed."""
        last = next(line for line in reversed(shown) if line not in {"", ANYTHING})
        return any(fits(last, line, {}) is not None for line in printed)

    def _compare(self, step: Step, printed: Sequence[str]) -> None:
        shown, lines = _trimmed(step.printed), _trimmed(printed)
        ids = compare(shown, lines, self._ids)
        if ids is None:
            raise TranscriptError(
                f"$ {step.command}\n{difference(shown, lines)}\n\nas printed:\n" + "\n".join(lines)
            )
        self._ids = ids


def _trimmed(lines: Sequence[str]) -> list[str]:
    """Without empty lines at both ends."""
    return "\n".join(lines).strip("\n").splitlines()


if __name__ == "__main__":
    sys.exit(play(DOCUMENT, PROJECT))
