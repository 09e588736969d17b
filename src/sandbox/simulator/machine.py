"""One clock for everything, and event loops that run on it: sleeping takes virtual time only."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor


class VirtualClock:
    """UTC seconds; moves when it is told to, never back."""

    def __init__(self, now: float) -> None:
        self.exact = float(now)

    def __call__(self) -> int:
        return int(self.exact)

    def reach(self, instant: float) -> None:
        """Let time pass up to an instant; nothing happens when that is past."""
        self.exact = max(self.exact, instant)

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass."""
        self.exact += max(seconds, 0.0)


class _Selector(selectors.SelectSelector):
    """Waits by moving the clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing ever arrives from outside: skip to the next timer."""
        if timeout:
            self._clock.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on the virtual clock; what is given to threads runs at once, in order."""

    def __init__(self, clock: VirtualClock) -> None:
        self._virtual = clock
        super().__init__(_Selector(clock))
        # Seconds since 1970 in float64 are no finer than this; a timer due now has to fire now.
        self._clock_resolution = 1e-3
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        """The virtual time."""
        return self._virtual.exact

    def run_in_executor[T, *A](
        self,
        executor: Executor | None,  # noqa: ARG002 - asyncio's signature
        func: Callable[[*A], T],
        *args: *A,
    ) -> asyncio.Future[T]:
        """Run it now, before this returns, so that the order is always the same."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the result
            done.set_exception(error)
        return done

    def _write_to_self(self) -> None:
        """Nobody waits in a selector to be woken."""
