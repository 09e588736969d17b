"""Each planted bug is found: the layer's source is copied, changed in one place, and simulated.

The same world is right with the layer as it is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox.simulator.verdict import judge
from sandbox.simulator.world import World
from tests.simulator.hunt import worlds

SOURCE = Path(__file__).parents[2] / "src"
TRIES = 12
"""Worlds that are tried from the recorded one on: the generator's change with each new thing in them."""


@dataclass(frozen=True)
class Bug:
    """Source as it is shipped, and what is planted instead; `why`: what the verdict has to say."""

    file: str
    shipped: str
    planted: str
    why: str
    kind: str = "none"
    recorded: int = 0
    """The number of the world from which on it is looked for."""


BUGS = {
    "sends twice": Bug(
        "sender.py",
        'api.call("post", "/v1/billing/meter_events", event, idempotency_key=send.key)\n',
        """\
api.call("post", "/v1/billing/meter_events", event, idempotency_key=send.key)
            event["identifier"] += ".2"
            await self.api.call("post", "/v1/billing/meter_events", event, idempotency_key=send.key + ".2")
""",
        "OVER",
        recorded=10,
    ),
    "the whole value instead of the difference": Bug(
        "model.py",
        "        return self.value - self.accounted\n",
        "        return self.value\n",
        "OVER",
        recorded=25,
    ),
    "a bound ignored": Bug(
        "windows.py",
        "    at = dict(cuts) if isinstance(cuts, Mapping) else {bound: bound for bound in cuts}\n",
        "    at = dict[int, int]()\n",
        "OVER|SHORT",
        recorded=25,
    ),
    "a stamp at the bound": Bug(
        "windows.py",
        "    stamp = (piece.closes if until >= piece.end else min(piece.closes, until)) - 1\n",
        "    stamp = piece.closes if until >= piece.end else min(piece.closes, until)\n",
        "OVER|SHORT",
        recorded=25,
    ),
    "no pagination": Bug(
        "stripe_api.py",
        '        return page, bool(page and answer.get("has_more"))\n',
        "        return page, False\n",
        "SHORT",
        kind="pages",
    ),
    "the intent not written": Bug(
        "sender.py",
        "        intended = await self.ledger.write_entry(entry.with_sends(sends), self.clock())\n",
        "        intended = entry.with_sends(sends)\n",
        "OVER",
        kind="crash",
        recorded=18,
    ),
    "the ledger read after OpenMeter": Bug(
        "mirroring.py",
        """\
        going_on = await together(going_on, read_entries)
        going_on = await side_by_side(going_on, clear_up)
        going_on = await read_hours(self.openmeter, going_on, cases)
""",
        """\
        going_on = await read_hours(self.openmeter, going_on, cases)
        going_on = await together(going_on, read_entries)
        going_on = await side_by_side(going_on, clear_up)
""",
        "held .* less than the",
        kind="overtaken",
        recorded=14,
    ),
    "one idempotency key for ever": Bug(
        "model.py",
        '        return f"{self.identifier}.{self.attempt}"\n',
        '        return "usage"\n',
        "SHORT",
        recorded=25,
    ),
    "the same key after an answered error": Bug(
        "sender.py",
        "                    send = replace(send, attempt=send.attempt + 1)\n",
        "                    pass\n",
        "SHORT|unknown",
        kind="stripe_500_stored",
        recorded=8,
    ),
    "the account left off where usage is sent": Bug(
        "stripe_api.py",
        "        if self.account == OWN_ACCOUNT:\n            return {}\n",
        '        if self.account == OWN_ACCOUNT or path.endswith("/meter_events"):\n            return {}\n',
        "MIXED UP",
        kind="accounts",
    ),
    "the ledger's key without the account": Bug(
        "model.py",
        '    return f"{account}#{mode}#{customer}#{holder}"\n',
        '    return f"self#{mode}#{customer}#{holder}"\n',
        "OVER|SHORT",
        kind="accounts",
    ),
}


def hunt(layer: Path, bug: Bug) -> dict[str, Any]:
    """What is wrong in the first world in which anything is, with this layer."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(layer), str(SOURCE)])}
    script = str(Path(__file__).with_name("hunt.py"))
    command = [sys.executable, "-W", "ignore", script, bug.kind, str(bug.recorded), str(TRIES)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240)
    return dict(json.loads(ended.stdout)) if ended.stdout else {}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str, tmp_path: Path) -> None:
    bug = BUGS[name]
    layer = tmp_path / "layer"
    shutil.copytree(SOURCE / "layer", layer)
    path = layer / "usage_reporting" / bug.file
    source = path.read_text()
    assert source.count(bug.shipped) == 1, "the layer has changed: plant the bug anew"
    path.write_text(source.replace(bug.shipped, bug.planted))

    found = hunt(layer, bug)

    assert found, "the simulator did not notice"
    assert re.search(bug.why, "\n".join(found["wrong"])), f"{found['seed']}: {found['wrong'][:3]}"
    [same] = worlds(bug.kind, found["number"], 1)
    assert judge(same, World(same).play()).wrong == []
