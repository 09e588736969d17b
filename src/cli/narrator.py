"""How the demo tells its story: plain lines; a spinner only where someone watches a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from rich.console import Console


class Narrator:
    """Numbered steps with the seconds that each took; with `aside` on standard error."""

    def __init__(self, *, aside: bool) -> None:
        self._console = Console(stderr=aside, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._began = time.monotonic()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str, title: str) -> Iterator[None]:
        """A step of the story; its time is kept under its name."""
        began = time.monotonic()
        self._console.print(f"{len(self.seconds) + 1}. {title}", style="bold")
        with self._console.status("working …") if self._console.is_terminal else nullcontext():
            yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        self._console.print(f"   took {self.seconds[name]:.1f} s", style="dim")

    def say(self, text: str) -> None:
        """A line of the step at hand."""
        self._console.print(f"   {text}")

    def end(self) -> None:
        """Say how long everything took."""
        self.seconds["total"] = round(time.monotonic() - self._began, 1)
        self._console.print(f"All of it took {self.seconds['total']:.1f} s.\n")
