"""A real browser for the tests of the pages: one for all of them, a fresh profile for each."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from tests.console.chromium import Chromium

Steps = Callable[[Page], Awaitable[None]]

PATIENCE_MS = 20_000


class Visitor:
    """Does what a person does with a page, and watches what the page does meanwhile.

    The steps are coroutines on the browser's own event loop: what runs another loop belongs into a thread.
    """

    def __init__(self, loop: asyncio.Runner, browser: Browser) -> None:
        self._loop = loop
        self._browser = browser
        self.requests: list[str] = []
        """Every address that a page asked for in the last visit."""

    def visit(
        self,
        url: str,
        steps: Steps,
        *,
        color_scheme: Literal["dark", "light"] = "light",
        has_script: bool = True,
    ) -> None:
        """Open an address and do these steps; fails where the page asks another host, or has errors."""
        self.requests.clear()
        self._loop.run(self._visit(url, steps, color_scheme=color_scheme, java_script_enabled=has_script))

    async def _visit(self, url: str, steps: Steps, **profile: Any) -> None:
        errors: list[str] = []

        def heard(message: ConsoleMessage) -> None:
            if message.type == "error":
                errors.append(message.text)

        def asked(request: Request) -> None:
            self.requests.append(request.url)

        context = await self._browser.new_context(viewport={"width": 1280, "height": 900}, **profile)
        try:
            context.set_default_timeout(PATIENCE_MS)
            context.on("request", asked)
            page = await context.new_page()
            page.on("console", heard)
            page.on("pageerror", lambda error: errors.append(str(error)))
            await page.goto(url)
            await steps(page)
        finally:
            await context.close()
        here = urlsplit(url)
        elsewhere = [one for one in self.requests if (urlsplit(one).scheme, urlsplit(one).netloc) != here[:2]]
        assert [one for one in elsewhere if not one.startswith("data:")] == []
        assert errors == []


@contextmanager
def started(chromium: Chromium) -> Iterator[Visitor]:
    """The browser, until all tests are over."""
    expect.set_options(timeout=PATIENCE_MS)
    with asyncio.Runner() as loop:
        playwright = loop.run(async_playwright().start())
        browser = loop.run(
            playwright.chromium.launch(
                executable_path=chromium.program, env={**_environment(), **chromium.environment}
            )
        )
        try:
            yield Visitor(loop, browser)
        finally:
            loop.run(browser.close())
            loop.run(playwright.stop())


def _environment() -> dict[str, str | float | bool]:
    """Nothing of the operator's: a proxy among it would be asked for what is here."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
