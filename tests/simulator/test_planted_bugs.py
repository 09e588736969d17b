"""Each planted bug is found: the layer's source is copied, changed in one place, and simulated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "src"

BUGS = {
    "sends twice": (
        "sender.py",
        '        await self.api.call("post", "/v1/billing/meter_events", event, idempotency_key=key)\n',
        """\
        await self.api.call("post", "/v1/billing/meter_events", event, idempotency_key=key)
        event["identifier"] += ".2"
        await self.api.call("post", "/v1/billing/meter_events", event, idempotency_key=key + ".2")
""",
        "none",
    ),
    "the whole value instead of the difference": (
        "model.py",
        "        return self.value - self.accounted\n",
        "        return self.value\n",
        "none",
    ),
    "a bound ignored": (
        "windows.py",
        "    at = dict(cuts) if isinstance(cuts, Mapping) else {bound: bound for bound in cuts}\n",
        "    at = dict[int, int]()\n",
        "none",
    ),
    "a stamp at the bound": (
        "windows.py",
        "    stamp = (piece.closes if until >= piece.end else min(piece.closes, until)) - 1\n",
        "    stamp = piece.closes if until >= piece.end else min(piece.closes, until)\n",
        "none",
    ),
    "the intent not written": (
        "sender.py",
        "        intended = await self.ledger.write_entry(entry.with_sends(sends), self.clock())\n",
        "        intended = entry.with_sends(sends)\n",
        "crashes",
    ),
    "one idempotency key for ever": (
        "sender.py",
        '        key = f"{send.identifier}.{send.attempt}"\n',
        '        key = "usage"\n',
        "none",
    ),
    "the same key after an answered error": (
        "sender.py",
        "                    send = replace(send, attempt=send.attempt + 1)\n",
        "                    pass\n",
        "stripe_500_stored",
    ),
}

HUNT = (
    "import json, sys\n"
    "from sandbox.simulator.campaign import play\n"
    "from sandbox.simulator.trouble import KINDS\n"
    "kinds = tuple(kind for kind in sys.argv[1].split(',') if kind in KINDS)\n"
    "for number in range(15):\n"
    "    wrong = play(f'planted.{number}', kinds).verdict.wrong\n"
    "    if wrong:\n"
    "        print(json.dumps({'seed': f'planted.{number}', 'wrong': [str(one) for one in wrong]}))\n"
    "        break\n"
)


CRASHES = (
    "import json\n"
    "from sandbox.simulator.history import Contract, Fault, History, Item, Usage\n"
    "from sandbox.simulator.verdict import judge\n"
    "from sandbox.simulator.world import World\n"
    "start, hour = 1799712000, 3600\n"
    "end = start + 36 * hour + 3000\n"
    "used = tuple(Usage('c0', 'm1', end - ago, '2', end - ago) for ago in (2900, 1500, 600))\n"
    "contract = Contract('s0', 'c0', end - 24 * hour, 'day', (Item(),))\n"
    "for skip in range(60):\n"
    "    crash = Fault('crash', end - 2000, skip)\n"
    "    made = History('crash', start, end + 5 * hour, (contract,), used, faults=(crash,))\n"
    "    wrong = judge(made, World(made).play()).wrong\n"
    "    if wrong:\n"
    "        print(json.dumps({'seed': str(skip), 'wrong': [str(one) for one in wrong]}))\n"
    "        break\n"
)


def hunt(layer: Path, faults: str) -> dict[str, Any]:
    """What is wrong in the first world in which anything is, with this layer."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(layer), str(SOURCE)])}
    script = CRASHES if faults == "crashes" else HUNT
    command = [sys.executable, "-W", "ignore", "-c", script, faults]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240)
    return dict(json.loads(ended.stdout)) if ended.stdout else {}


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    file, shipped, planted, faults = BUGS[bug]
    layer = tmp_path / "layer"
    shutil.copytree(SOURCE / "layer", layer)
    path = layer / "usage_reporting" / file
    source = path.read_text()
    assert source.count(shipped) == 1, "the layer has changed: plant the bug anew"
    path.write_text(source.replace(shipped, planted))

    found = hunt(layer, faults)

    assert found, "the simulator did not notice"


def test_nothing_is_found_where_nothing_is_planted() -> None:
    assert hunt(SOURCE / "layer", "crashes") == {}
