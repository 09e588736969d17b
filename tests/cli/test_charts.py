"""The chart needs no script, loads nothing, and can be read aloud."""

from __future__ import annotations

import re
from decimal import Decimal
from xml.etree import ElementTree as ET

import pytest

from cli.charts import UsagePoint, counts_chart, usage_chart
from usage_reporting.windows import DAY, HOUR

SVG = "{http://www.w3.org/2000/svg}"


def points(step: int, count: int) -> list[UsagePoint]:
    first = 1_784_073_600
    return [
        UsagePoint(first + number * step, first + (number + 1) * step, Decimal(number) / 8, Decimal(number))
        for number in range(count)
    ]


@pytest.mark.parametrize(("step", "count"), [(DAY, 31), (HOUR, 48), (DAY, 1)])
def test_it_is_whole_by_itself(step: int, count: int) -> None:
    drawn = usage_chart(points(step, count), title="tokens <b> & more")

    assert not re.search(r"<script|href|src=|url\(|@import|\bon\w+=|<!--", drawn)
    assert re.findall(r"https?://[^\"]+", drawn) == ["http://www.w3.org/2000/svg"]
    root = ET.fromstring(drawn)
    bars = [one for one in root.iter(f"{SVG}rect") if "rect" in (one.get("class") or "").split()]
    assert len(bars) == 2 * count


def test_it_has_a_name_and_a_description() -> None:
    root = ET.fromstring(usage_chart(points(DAY, 3), title="tokens <b> & more"))

    title, description = root[0], root[1]
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert title.text == "tokens <b> & more"
    assert "in all 0.375 units metered and 3 units billed" in str(description.text)


def test_two_charts_on_a_page_do_not_share_names() -> None:
    both = usage_chart(points(DAY, 2), title="a") + usage_chart(points(DAY, 2), title="b")

    names = re.findall(r'\bid="([^"]+)"', both)
    assert len(names) == len(set(names))


def test_days_and_hours_are_named_in_utc() -> None:
    day, hour = points(DAY, 1)[0], points(HOUR, 1)[0]

    assert (day.name, day.label) == ("2026-07-15", "15 Jul")
    assert (hour.name, hour.label) == ("2026-07-15 00:00", "15 Jul 00:00")


def test_counts_stand_on_each_other_and_are_summed_in_words() -> None:
    drawn = counts_chart(["10:00", "11:00"], {"sent": [3, 1], "rejected": [0, 2]}, title="sends")

    root = ET.fromstring(drawn)
    assert (root[0].text, root[1].text) == (
        "sends",
        "2 bars; in all 4 sent, 2 rejected. The table has the same numbers.",
    )
    assert "sent" in drawn
    assert "rejected" in drawn
    assert not re.search(r"<script|href|src=|url\(|@import|\bon\w+=|<!--", drawn)
