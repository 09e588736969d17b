"""Two terminals: one in which a program stays, and one shell for all other commands."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STAYS_UP_S = 1200.0
"""Until the demo invites: on its first run it installs what it needs."""
ENDS_S = 60.0
COMMAND_S = 300.0


class TranscriptError(Exception):
    """The document's session went another way; the text says where and how."""


class Staying:
    """A program that stays in the foreground of its terminal until Ctrl-C."""

    def __init__(self, command: str, folder: Path) -> None:
        self.printed: list[str] = []
        self._program = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, is_there: Callable[[list[str]], bool]) -> list[str]:
        """The lines up to now, when it has printed what is waited for. Raises TranscriptError."""
        deadline = time.monotonic() + STAYS_UP_S
        while not is_there(lines := list(self.printed)):
            if self._program.poll() is not None and not self._reader.is_alive():
                return list(self.printed)
            if time.monotonic() > deadline:
                raise TranscriptError("it did not come so far:\n" + "\n".join(lines))
            time.sleep(0.2)
        return lines

    def interrupt(self) -> list[str]:
        """Ctrl-C: what it prints then, when all of it has ended. Raises TranscriptError."""
        before = len(self.printed)
        os.killpg(self._program.pid, signal.SIGINT)
        try:
            code = self._program.wait(ENDS_S)
        except subprocess.TimeoutExpired as error:
            raise TranscriptError(f"{ENDS_S:.0f} seconds after Ctrl-C it still runs") from error
        self._reader.join(ENDS_S)
        if code not in {0, -signal.SIGINT, 128 + signal.SIGINT}:
            raise TranscriptError(f"after Ctrl-C it ended with exit code {code}")
        return self.printed[before:]

    def end(self) -> None:
        """Have it gone, however it stands."""
        for sign in (signal.SIGINT, signal.SIGKILL):
            if self._program.poll() is None:
                os.killpg(self._program.pid, sign)
                try:
                    self._program.wait(ENDS_S)
                except subprocess.TimeoutExpired:
                    continue
        self._reader.join(ENDS_S)
        if self._program.stdout is not None and not self._reader.is_alive():
            self._program.stdout.close()

    def _read(self) -> None:
        assert self._program.stdout is not None
        for line in self._program.stdout:
            self.printed.append(line.rstrip("\n"))


class Shell:
    """One shell that keeps its variables from command to command."""

    def __init__(self, folder: Path) -> None:
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: str) -> tuple[list[str], int]:
        """What a command prints, on both streams, and its exit code. Raises TranscriptError."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        end = f"end-of-command-{uuid.uuid4().hex}"
        self._shell.stdin.write(f"{{ {command}\n}} < /dev/null\nprintf '\\n{end} %s\\n' $?\n")
        self._shell.stdin.flush()
        lines: list[str] = []
        watch = threading.Timer(COMMAND_S, self._shell.kill)
        watch.start()
        try:
            for line in self._shell.stdout:
                if line.startswith(end):
                    return _without_last_break(lines), int(line.split()[1])
                lines.append(line.rstrip("\n"))
        finally:
            watch.cancel()
        raise TranscriptError("the shell ended, or was given up after minutes:\n" + "\n".join(lines))

    def close(self) -> None:
        """End the shell."""
        with suppress(BrokenPipeError):
            self._shell.communicate(timeout=ENDS_S)


@contextmanager
def shell(folder: Path) -> Iterator[Shell]:
    """A shell, gone on exit."""
    opened = Shell(folder)
    try:
        yield opened
    finally:
        opened.close()


def _without_last_break(lines: list[str]) -> list[str]:
    """Without the empty line that keeps the mark apart from what does not end in a line break."""
    return lines[:-1] if lines and not lines[-1] else lines
