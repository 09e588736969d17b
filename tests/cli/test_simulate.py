"""`simulate`: what it prints, and what it takes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from sandbox.simulator.campaign import Summary, Worlds
from sandbox.simulator.trouble import ACCOUNT_FAULTS, GROUPS, KINDS
from sandbox.stripe.undocumented import AS_ASSUMED, Undocumented

WRONG: dict[str, Any] = {
    "seed": "5.3",
    "customer": "c2",
    "contract": "c2s0",
    "what": ["c2s0: item 0 m1: OVER: billed 4 of 2 used"],
    "shortest": {"contracts": 1, "usage": 1, "acts": 0, "faults": 0, "what": ["c2s0: OVER: billed 2 of 1"]},
    "test": "def test_seed_5_3() -> None:\n    assert False\n",
}


def simulate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["simulate", *arguments])


@pytest.fixture
def comes_to(monkeypatch: pytest.MonkeyPatch) -> Callable[[Summary], dict[str, Any]]:
    """What a campaign comes to, without playing one; gives what it was asked for."""

    def comes_to(summary: Summary) -> dict[str, Any]:
        asked: dict[str, Any] = {}

        def campaign(
            seed: int,
            periods: int,
            worlds: Worlds,
            *,
            progress: Callable[[int], None],
            shrinking: Callable[[str], None],
        ) -> Any:
            asked.update(seed=seed, periods=periods, worlds=worlds)
            progress(summary.periods)
            shrinking("5.3")
            return summary

        monkeypatch.setattr("cli.simulate.campaign", campaign)
        return asked

    return comes_to


def test_each_kind_of_fault_is_in_one_group() -> None:
    assert Counter(kind for kinds in GROUPS.values() for kind in kinds) == Counter((*KINDS, *ACCOUNT_FAULTS))


def test_help_names_every_kind_of_fault() -> None:
    words = set(simulate("--help").stdout.replace(",", " ").split())

    assert set(KINDS) <= words
    assert {f"{name}:" for name in GROUPS} <= words


@pytest.mark.parametrize("faults", ["crash,meteor", "meteor", "", " , "])
def test_an_unknown_fault_is_wrong_use_and_the_known_ones_are_named(faults: str) -> None:
    result = simulate("--faults", faults)

    assert result.exit_code == 2
    assert result.stdout == ""
    assert ("meteor" if "meteor" in faults else "nothing") in result.stderr
    assert all(kind in result.stderr for kind in KINDS)


@pytest.mark.parametrize(
    ("faults", "kinds"),
    [
        ("all", (*KINDS, *ACCOUNT_FAULTS)),
        ("none", ()),
        (" crash, late_usage", ("crash", "late_usage")),
        ("account_down,crash", ("account_down", "crash")),
    ],
)
def test_what_goes_wrong_can_be_chosen(
    comes_to: Callable[[Summary], dict[str, Any]], faults: str, kinds: tuple[str, ...]
) -> None:
    asked = comes_to(Summary(5, periods=10))

    assert simulate("--seed", "5", "--periods", "10", "--faults", faults).exit_code == 0
    assert (asked["seed"], asked["periods"], asked["worlds"].kinds) == (5, 10, kinds)


def test_several_accounts_are_asked_for(comes_to: Callable[[Summary], dict[str, Any]]) -> None:
    asked = comes_to(Summary(5, periods=10))

    assert simulate("--accounts", "3", "--faults", "account_down").exit_code == 0
    assert (asked["worlds"].accounts, asked["worlds"].kinds) == (3, ("account_down",))


def test_what_strikes_one_account_of_several_needs_several(
    comes_to: Callable[[Summary], dict[str, Any]],
) -> None:
    comes_to(Summary(5, periods=10))

    result = simulate("--faults", "account_down,account_limited")

    assert result.exit_code == 2
    assert "add --accounts 2" in result.stderr


def test_right_worlds_end_in_a_table_and_one_line(comes_to: Callable[[Summary], dict[str, Any]]) -> None:
    comes_to(
        Summary(5, periods=2001, worlds=30, predicted=3, faults=Counter(crash=12, stripe_429=3, slow_call=4))
    )

    result = simulate()

    assert result.exit_code == 0
    *table, last = result.stdout.splitlines()
    assert table == [
        "what goes wrong  fault       times",
        "functions        crash          12",
        "                 slow_call       4",
        "Stripe           stripe_429      3",
        "",
    ]
    assert last == (
        "seed 5: 2001 periods in 30 worlds, 19 faults, 3 lines short as foretold, 0 held, 0 over, 0 under, "
        "0 worlds wrong: EXACT"
    )
    assert result.stderr == ""


def test_a_wrong_world_is_shown_with_its_customer_its_seed_and_a_test(
    comes_to: Callable[[Summary], dict[str, Any]],
) -> None:
    comes_to(Summary(5, periods=2001, worlds=30, over=1, wrong=[WRONG]))

    result = simulate("--faults", "none")

    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0] == "WRONG: customer c2 in the world of seed 5.3"
    assert "  c2s0: item 0 m1: OVER: billed 4 of 2 used" in lines
    assert "  shortest history: 1 contracts, 1 usage events, 0 acts, 0 faults" in lines
    assert WRONG["test"] in result.stdout
    assert lines[-1].endswith("1 over, 0 under, 1 worlds wrong: WRONG")


def test_json_is_one_object_of_worlds_that_were_played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.simulator.campaign.os.cpu_count", lambda: 1)
    result = simulate("--periods", "1", "--faults", "none", "--json")

    assert result.exit_code == 0
    assert result.stderr == ""
    document = json.loads(result.stdout)
    assert {"seed", "periods", "wrong", "over", "under", "held", "faults", "converged_after_s"} <= set(
        document
    )
    assert document["seed"] == 1
    assert document["periods"] >= 1
    assert (document["wrong"], document["faults"]) == ([], {})


@pytest.mark.parametrize(
    ("options", "meter_stream"),
    [([], None), (["--meter-stream", "on"], True), (["--meter-stream", "off"], False)],
)
def test_usage_goes_through_the_stream_in_half_of_the_worlds_unless_told(
    comes_to: Callable[[Summary], dict[str, Any]], options: list[str], meter_stream: bool | None
) -> None:
    asked = comes_to(Summary(5, periods=10, worlds=1))
    assert simulate("--seed", "5", *options).exit_code == 0
    assert asked["worlds"].meter_stream is meter_stream
    assert asked["worlds"].brake is False


def test_the_brake_is_on_where_that_is_asked_for(comes_to: Callable[[Summary], dict[str, Any]]) -> None:
    asked = comes_to(Summary(5, periods=10, worlds=1))
    assert simulate("--brake").exit_code == 0
    assert asked["worlds"].brake is True


def facts_file(folder: Path, *facts: dict[str, Any]) -> str:
    file = folder / "facts.json"
    file.write_text(json.dumps({"facts": facts}))
    return str(file)


def test_stripe_behaves_as_a_file_of_facts_says(
    comes_to: Callable[[Summary], dict[str, Any]], tmp_path: Path
) -> None:
    asked = comes_to(Summary(5, periods=10))
    file = facts_file(
        tmp_path,
        {"name": "last-by-stamp", "result": "differs", "sandbox": {"last_by_receipt": True}},
        {"name": "tiers-add-up", "result": "differs", "sandbox": {}},
        {"name": "period-end", "result": "holds", "sandbox": {"end_is_in_ended_period": False}},
        {"name": "stored-500", "result": "could not be seen", "sandbox": {}},
    )
    result = simulate("--facts", file)

    assert result.exit_code == 0
    assert asked["worlds"].undocumented == Undocumented(last_by_receipt=True)
    assert result.stderr.splitlines() == [
        "Stripe behaves otherwise than assumed in: last_by_receipt",
        "what the stand-in cannot imitate is as assumed: tiers-add-up",
    ]


def test_without_a_file_stripe_behaves_as_assumed(comes_to: Callable[[Summary], dict[str, Any]]) -> None:
    asked = comes_to(Summary(5, periods=10))
    assert simulate().exit_code == 0
    assert asked["worlds"].undocumented == AS_ASSUMED


def test_a_file_of_no_facts_is_wrong_use(tmp_path: Path) -> None:
    for file in (str(tmp_path / "none.json"), facts_file(tmp_path, {"name": "x"})):
        result = simulate("--facts", file)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "--facts cannot be read" in result.stderr
