"""The project's documents, taken apart: code, tables, links, headings."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from usage_reporting import telemetry

PROJECT = Path(__file__).resolve().parents[2]
README = PROJECT / "README.md"
HOW_IT_WORKS = PROJECT / "docs" / "how-it-works.md"
RUNBOOK = PROJECT / "docs" / "runbook.md"
DOCTOR = PROJECT / "docs" / "doctor.md"
WATCHING = PROJECT / "docs" / "watching.md"
DOCUMENTS = (README, *sorted((PROJECT / "docs").glob("*.md")))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")


@cache
def text(document: Path) -> str:
    return document.read_text()


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return [body for kind, body in _FENCE.findall(text(document)) if kind == language]


def prose(document: Path) -> str:
    """The document without its fenced blocks."""
    return _FENCE.sub("", text(document))


def spans(document: Path) -> list[str]:
    """What stands between single backticks."""
    return _SPAN.findall(prose(document))


def code(document: Path) -> list[str]:
    """Every piece of code: spans, and the lines of fenced blocks without their comments."""
    lines = [line for _, body in _FENCE.findall(text(document)) for line in body.splitlines()]
    return [*spans(document), *(re.sub(r"\s+#.*", "", line) for line in lines)]


def all_code() -> list[str]:
    return [piece for document in DOCUMENTS for piece in code(document)]


def section(document: Path, heading: str) -> str:
    """A section's text, from its heading to the next one of any rank."""
    _, _, rest = text(document).partition(f"# {heading}\n")
    assert rest, f"{document.name} has no section {heading!r}"
    return re.split(r"^#+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables of a text: each a list of rows without the heading, each a list of cells."""
    found = re.findall(r"(?:^\|.*\|\n)+", markdown, re.MULTILINE)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        for table in found
    ]


def anchors(document: Path) -> set[str]:
    """The anchors that a forge makes of the headings."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(document: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(document))


@cache
def source() -> str:
    """All code and configuration in which a name may stand."""
    workflows = (PROJECT / ".github" / "workflows").glob("*.yml")
    own = [PROJECT / "template.yaml", PROJECT / "Makefile", *workflows]
    files = [*(PROJECT / "src").rglob("*.py"), *own]
    return "\n".join(file.read_text() for file in files)


@cache
def messages() -> str:
    """Every text in the code, a line each; what is filled in is left out."""
    found = []
    for file in (PROJECT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value for part in node.values if isinstance(part, ast.Constant)]
                found.append("\0".join(str(part) for part in parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def emitted_metrics() -> set[str]:
    """The names of all metrics that the functions write."""
    layer = PROJECT / "src" / "layer" / "usage_reporting"
    calls = "\n".join(file.read_text() for file in layer.glob("*.py"))
    counted = re.findall(r"\b(?:(?:count|_measure|_count_by)\((.+)|yield (?=\"[A-Z])(.+))", calls)
    literal = {name for call in map("".join, counted) for name in re.findall(r'"([A-Z]\w+)"', call)}
    return literal | set(telemetry._COUNTED.values()) | set(telemetry._VERDICTS.values())
