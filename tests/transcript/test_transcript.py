"""The transcript's commands exist, and its runner takes for the same only what is the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.main import command as command_of
from sandbox.cloud import LocalCloud
from sandbox.stage import STACK, Stage
from tests.transcript.__main__ import DOCUMENT, GETTING_HERE, PROJECT, play
from tests.transcript.document import INTERRUPT, Step, steps
from tests.transcript.likeness import compare, difference, fits, named

STEPS = steps(DOCUMENT)
ADA = "in_PI4mawdGwE9NNv4Gf6JuAQ7B"
NOW = "in_0000000000000000000000Ab"


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.command[:40])
def test_each_command_and_its_options_exist(step: Step) -> None:
    program, *arguments = step.command.split("#")[0].split()
    if program == "usage-reporter":
        known = {name for parameter in command_of(arguments[0]).params for name in parameter.opts}
        assert {word for word in arguments if word.startswith("--")} <= known
        assert arguments[arguments.index("--stack") + 1] == STACK
    elif program == "make":
        assert re.search(rf"^{arguments[0]}:", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    elif program == "source":
        stage = Stage()
        stage.cloud = LocalCloud()
        assert PROJECT / arguments[0] == stage.environment_file
    else:
        assert step.command.startswith((*GETTING_HERE, "invoice=", INTERRUPT))


def test_it_goes_from_a_clone_to_an_explained_invoice_and_the_end() -> None:
    typed = [(step.terminal, step.command.split()[0]) for step in STEPS]
    assert typed[:3] == [(1, "git"), (1, "cd"), (1, "make")]
    assert typed[-1] == (1, INTERRUPT)
    assert {terminal for terminal, _ in typed[3:-1]} == {2}
    asked = [step.command.split()[1] for step in STEPS if step.command.startswith("usage-reporter")]
    assert list(dict.fromkeys(asked)) == ["doctor", "plan", "reconcile", "explain"]


def test_every_id_that_is_typed_was_printed_before() -> None:
    printed = ""
    for step in STEPS:
        assert all(id_ in printed for id_ in re.findall(r"\bin_\w{8,}", step.command))
        printed += "\n".join(step.printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("   took 29.8 s", "   took 0.0 s"),
        ("   3,297 events", "   12 events"),
        ("billed      5110.753", "billed   4.5"),
        ("changed  -$1,234.50 and +3", "changed  +$2.00 and -1.5"),
        (
            "from 2026-10-23T10:04:13Z  10:04:13  2026-10-23",
            "from 2027-01-02T00:00:59Z  23:59:59  2027-02-28",
        ),
        (
            "at http://127.0.0.1:46913/_aws/execute-api/e74c612d/x",
            "at http://127.0.0.1:80/_aws/execute-api/ab12cd34/x",
        ),
        ("short  0", "short      0"),
        ("a warning, ... and more", "a warning, of anything at all and more"),
        (f"invoice {ADA}, paid", f"invoice {NOW}, paid"),
    ],
)
def test_what_may_differ_is_the_same(shown: str, printed: str) -> None:
    assert fits(shown, printed, {}) is not None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("Ada  5,110.753  EXACT", "Ada  5,110.753  SHORT by 5"),
        ("problem  Grace", "ok  Grace"),
        ("short  0", "short  1"),
        ("problem 0, skipped 4", "problem 10, skipped 4"),
        ("sent  12", "sent  -"),
        ("charged  $5.00", "charged"),
        (f"invoice {ADA}, paid", "invoice cus_0000000000, paid"),
        (f"{ADA} and {ADA}", f"{NOW} and in_0000000001"),
        ("a line", "a line and more"),
    ],
)
def test_what_may_not_differ_is_not(shown: str, printed: str) -> None:
    assert fits(shown, printed, {}) is None


@pytest.mark.parametrize(
    ("shown", "printed", "is_same"),
    [
        (["a", "...", "c"], ["a", "b", "b", "c"], True),
        (["a", "...", "c"], ["a", "c"], True),
        (["...", "c", "d"], ["c", "b", "c", "d"], True),
        (["...", "c", "..."], ["c"], True),
        (["a", "...", "c"], ["a", "b"], False),
        (["a", "c"], ["a", "b", "c"], False),
        (["a"], ["a", "a"], False),
        (["a", "..."], [], False),
        ([], [], True),
        ([], ["a"], False),
    ],
)
def test_dots_stand_for_any_lines(shown: Sequence[str], printed: Sequence[str], is_same: bool) -> None:
    assert (compare(shown, printed, {}) is not None) == is_same


def test_an_id_is_learnt_once_and_holds_from_then_on() -> None:
    known = compare(["...", f"Ada  {ADA}"], [f"Ada  {NOW}"], {})

    assert known == {ADA: NOW}
    assert named(f"explain {ADA}", known) == f"explain {NOW}"
    assert compare([f"invoice {ADA}"], [f"invoice {NOW}"], known) == known
    assert compare([f"invoice {ADA}"], ["invoice in_another1"], known) is None


def test_a_difference_shows_only_what_may_not_differ() -> None:
    said = difference(["took 1.5 s", "Ada  EXACT"], ["took 2 s", "Ada  SHORT"]).splitlines()

    assert said[-3:] == [" took <number> s", "-Ada EXACT", "+Ada SHORT"]


UP = "trap 'echo all of it gone; exit' INT; echo made in_abcdefgh1; echo up; while :; do sleep 0.05; done"


def written(folder: Path, second: str, end: str = "^Call of it gone") -> Path:
    document = folder / "session.md"
    first = f"$ git clone nowhere\n$ {UP}\nmade in_exampleid\n...\nup"
    parts = [("1", first), ("2", second), ("1", end)]
    document.write_text("\n".join(f"**Terminal {no}.**\n\n```console\n{body}\n```\n" for no, body in parts))
    return document


def test_a_session_that_goes_as_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typed = "$ name=in_exampleid  # yours\n$ echo $name; echo >&2 2 errors\nin_exampleid\n5 errors"

    assert play(written(tmp_path, typed), tmp_path) == 0
    assert "transcript: AS SHOWN, 4 commands in " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "end", "said"),
    [
        ("$ echo SHORT\nEXACT", "^Call of it gone", "-EXACT\n+SHORT"),
        ("$ echo EXACT; false\nEXACT", "^Call of it gone", "ended with exit code 1"),
        ("$ exit 0", "^Call of it gone", "the shell ended"),
        ("$ true", "^Ca part of it gone", "-a part of it gone\n+all of it gone"),
    ],
)
def test_a_session_that_goes_another_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], typed: str, end: str, said: str
) -> None:
    assert play(written(tmp_path, typed, end), tmp_path) == 1
    assert said in capsys.readouterr().err


def test_a_program_that_ends_before_it_is_up_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "session.md"
    document.write_text("**Terminal 1**\n\n```console\n$ echo broken\nup\n```\n")

    assert play(document, tmp_path) == 1
    assert "-up\n+broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["```console\n$ ls\n```\n", "**Terminal 1**\n\n```console\nnobody typed this\n```\n"]
)
def test_a_document_that_cannot_be_played(tmp_path: Path, text: str) -> None:
    document = tmp_path / "session.md"
    document.write_text(text)

    with pytest.raises(ValueError, match="a block"):
        steps(document)
