"""An identifier tells its own parts, and whether it was made for given facts."""

from __future__ import annotations

import pytest

from usage_reporting.identifiers import Identifier, identifier

MADE = identifier("self#test#cus_1#mtr_1", "cus_1", 1000, 2, "1999", "3", "0.5")


def test_it_is_taken_apart() -> None:
    read = Identifier.read(MADE)

    assert read == Identifier("cus_1", 1000, 2, MADE)


@pytest.mark.parametrize("text", ["adopted.1000", "cus_1.1000.2", "cus_1.1000.2.xyz", "", MADE + "0"])
def test_others_are_not_of_this_form(text: str) -> None:
    assert Identifier.read(text) is None


@pytest.mark.parametrize(
    ("pk", "facts", "fits"),
    [
        ("self#test#cus_1#mtr_1", ("1999", "3", "0.5"), True),
        ("self#test#cus_1#mtr_2", ("1999", "3", "0.5"), False),
        ("self#test#cus_1#mtr_1", ("1998", "3", "0.5"), False),
        ("self#test#cus_1#mtr_1", ("1999", "3", "0.50"), False),
    ],
)
def test_it_names_just_its_facts(pk: str, facts: tuple[str, ...], *, fits: bool) -> None:
    read = Identifier.read(MADE)

    assert read is not None
    assert read.names(pk, *facts) is fits
