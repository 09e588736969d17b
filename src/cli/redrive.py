"""`usage-reporter redrive`: lists dead letters, and sends them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from cli.dead_letters import EVENT, DeadLetter, DeadLetters, reasons
from cli.errors import WrongUseError, explain
from cli.output import (
    AsJson,
    Region,
    StackName,
    is_terminal,
    print_json,
    print_line,
    print_table,
    progress,
    status,
    warn,
)
from cli.stack import Stack
from usage_reporting.windows import rfc3339

SHOWN = 3
"""So many customers of a page are named in the table; --json names all."""
LONGEST_REASON = 160


def redrive(
    *,
    stack: StackName,
    everything: Annotated[bool, typer.Option("--all", help="Send all of them again.")] = False,
    messages: Annotated[
        list[str] | None, typer.Option("--message", help="Send this one again; may be repeated.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list, whatever else is said.")] = False,
    region: Region = "",
    as_json: AsJson = False,
) -> None:
    """List the dead letters of a stack, and send them again: pages that failed three times, and events of
    Stripe over EventBridge that could not be handled.

    Without --all or --message it lists only: whose usage each is about, when it was first sent, how often it
    was received, and why it failed, as far as the functions' logs tell. Looking takes nothing off
    the queue: each message is hidden from others for the moment, counts as received once more, and is put
    back.

    A page is read afresh when it is reported, so that sending an old one again does no harm, and is seldom
    needed: each tick since then has listed the same customers. Mend the cause first, or it fails again.

    Example: `usage-reporter redrive --stack usage-reporter --all`
    """
    chosen = list(dict.fromkeys(messages or []))
    if everything and chosen:
        raise WrongUseError("say which are sent again: --all, or --message ID, not both")
    deployed = Stack.read(stack, region)
    queue = DeadLetters(
        deployed.session.client("sqs"),
        deployed.output("DeadLetterQueueUrl"),
        deployed.output("QueueUrl"),
        deployed.outputs.get("StripeEventQueueUrl", ""),
    )
    with status("looking at the dead letters"):
        found = queue.look()
        why = _why(deployed, found)
    wanted = _wanted(found, chosen, everything=everything)
    if not as_json:
        _print(found, why)
    moves = bool(wanted) and not dry_run and (yes or _is_wanted(len(wanted)))
    problems = _moved(queue, wanted) if moves else {}
    if as_json:
        print_json(_document(stack, found, why, problems))
    else:
        _print_end(found, problems, wanted, moves=moves)
    was_refused = bool(wanted) and not dry_run and not moves
    if was_refused or any(problems.values()):
        raise typer.Exit(1)


def _why(deployed: Stack, found: Sequence[DeadLetter]) -> dict[str, str]:
    """The functions' own words, where their logs still have them and may be read."""
    said = {one.id: one.why for one in found if one.why}
    events = [one for one in found if one.kind == EVENT and not one.why]
    others = [one for one in found if one.kind != EVENT and not one.why]
    for function, letters in (("worker", others), ("webhook", events)):
        if not letters:
            continue
        try:
            group = f"/aws/lambda/{deployed.name}-{function}"
            said |= reasons(deployed.session.client("logs"), group, letters)
        except (ClientError, BotoCoreError) as error:
            warn(f"note: why they failed is not known: {explain(error)[0]}")
    return said


def _wanted(found: Sequence[DeadLetter], chosen: Sequence[str], *, everything: bool) -> list[str]:
    ids = [one.id for one in found]
    if unknown := [id_ for id_ in chosen if id_ not in ids]:
        raise WrongUseError(
            f"there is no message {unknown[0]!r} among the {len(ids)} dead letters; take an id that "
            "`usage-reporter redrive` lists"
        )
    return ids if everything else list(chosen)


def _is_wanted(count: int) -> bool:
    if not is_terminal():
        raise WrongUseError("there is no terminal to ask at; look at the list, then pass --yes")
    return typer.confirm(f"Send {_messages(count)} again?", err=True)


def _moved(queue: DeadLetters, wanted: Sequence[str]) -> dict[str, str]:
    """Why each could not be moved, by id; an empty text for those that were."""
    problems: dict[str, str] = {}
    with progress("sending again", len(wanted)) as bar:
        for id_, problem in queue.move(wanted):
            problems[id_] = problem
            bar.advance(bar.task_ids[0])
    return problems


def _print(found: Sequence[DeadLetter], why: Mapping[str, str]) -> None:
    if not found:
        return
    columns = ["message", "first sent", "received", "kind", "meter", "about", "why"]
    rows = [
        [
            one.id,
            rfc3339(one.sent_at),
            str(one.received),
            one.kind,
            one.meter,
            _some(one.about),
            why.get(one.id, "not known")[:LONGEST_REASON],
        ]
        for one in found
    ]
    print_table(columns, rows, right=["received"])


def _print_end(
    found: Sequence[DeadLetter], problems: Mapping[str, str], wanted: Sequence[str], *, moves: bool
) -> None:
    for id_, problem in problems.items():
        if problem:
            print_line(f"not moved: {id_}: {problem}")
    if not found:
        print_line("there are no dead letters")
    elif moves:
        moved = sum(not problem for problem in problems.values())
        print_line(f"sent again: {moved}, not moved: {len(problems) - moved}, left: {len(found) - moved}")
    else:
        print_line(f"{_messages(len(found))}, all still there{'; nothing was sent' if wanted else ''}")
        print_line("each tick lists the same customers anew; --all or --message ID sends these again")


def _some(about: Sequence[str]) -> str:
    more = len(about) - SHOWN
    return ", ".join(about[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _messages(count: int) -> str:
    return f"{count} dead letter{'s' if count != 1 else ''}"


def _document(
    stack: str, found: Sequence[DeadLetter], why: Mapping[str, str], problems: Mapping[str, str]
) -> dict[str, Any]:
    moved = {id_ for id_, problem in problems.items() if not problem}
    return {
        "stack": stack,
        "messages": [
            {
                "message": one.id,
                "first_sent": rfc3339(one.sent_at),
                "received": one.received,
                "kind": one.kind,
                "meter": one.meter,
                "about": list(one.about),
                "why": why.get(one.id),
                "moved": one.id in moved,
                "problem": problems.get(one.id) or None,
            }
            for one in found
        ],
        "moved": len(moved),
        "left": len(found) - len(moved),
    }
