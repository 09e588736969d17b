"""A document that shows sessions in two terminals, taken apart.

Above each ```console block the text says **Terminal 1** or **Terminal 2**. A line of it that begins with `$ `
is typed; what follows up to the next one is what it prints. `^C` is Ctrl-C; beside it stands what comes then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

INTERRUPT = "^C"

_PARTS = re.compile(
    r"\*\*Terminal (?P<terminal>\d)\b|^```console\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command, or INTERRUPT, and the lines that it prints."""

    terminal: int
    command: str
    printed: tuple[str, ...]


def steps(document: Path) -> list[Step]:
    """All that is typed, in order. Raises ValueError for a block that is in no terminal or types nothing."""
    found: list[Step] = []
    terminal = 0
    for part in _PARTS.finditer(document.read_text()):
        if part["terminal"]:
            terminal = int(part["terminal"])
        elif not terminal:
            raise ValueError("a block stands above the first **Terminal ...**")
        else:
            found += _typed(terminal, part["body"].splitlines())
    return found


def _typed(terminal: int, lines: list[str]) -> list[Step]:
    found: list[tuple[str, list[str]]] = []
    for line in lines:
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line.startswith(INTERRUPT):
            found.append((INTERRUPT, [line.removeprefix(INTERRUPT)]))
        elif not found:
            raise ValueError(f"a block begins with what nobody typed: {line}")
        else:
            found[-1][1].append(line)
    return [Step(terminal, command, tuple(printed)) for command, printed in found]
