"""What the tests share: time as an argument, a gateway that knows no other, and event loops whose time does not pass."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import libgateway
import pytest
from libgateway import Backend, Backoff, Gateway, JobId, JobView, Lease

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]
START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
ROUTE = "image/flux/dev/t2i"


def skipped(what: str, why: str) -> None:
    """Says what this machine cannot check, where `make test` shows it, and skips."""
    path = os.environ.get("GATEWAY_SKIPPED")
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"skipped: {what} ({why})\n")
    pytest.skip(f"{what}: {why}")


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: int = START) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def tick(self, nanos: int) -> None:
        self.now += nanos


@pytest.fixture
def clock() -> Clock:
    return Clock()


def flux(name: str = "flux-1", **more: Any) -> Backend:
    return Backend(name, kind="torch", modality="image", family="flux", **more)


def look(gateway: Gateway, job: JobId) -> JobView:
    """A job that has to be there."""
    view = gateway.job(job)
    assert view is not None
    return view


def granted(gateway: Gateway) -> Lease:
    """A lease that has to be there."""
    lease = gateway.dispatch()
    assert lease is not None
    return lease


@pytest.fixture
def gateway(clock: Clock) -> Gateway:
    return Gateway(backends=[flux(slots=4)], backoff=Backoff(jitter=0), seed=1, clock=clock)


class VirtualSelector(selectors.DefaultSelector):
    """Waits for nothing: where nothing is ready, the loop's time jumps to its next timer."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("everybody waits, and nothing will happen")
        if not ready and timeout:
            self.loop.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time that moves a gateway's clock along."""

    def __init__(self, clock: Clock) -> None:
        selector = VirtualSelector()
        selector.loop = self
        self._clock = clock
        super().__init__(selector)

    def time(self) -> float:
        return (self._clock.now - START) / 1e9

    def jump(self, seconds: float) -> None:
        # Rounded up: a loop that wakes a nanosecond early would have to wait again.
        self._clock.tick(int(seconds * 1e9) + 1)


@pytest.fixture
def virtual(clock: Clock) -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """Runs a coroutine in virtual time."""
    loop = VirtualLoop(clock)
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def _uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """Runs a coroutine in real time, in each event loop there is."""
    loop = _uvloop() if request.param == "uvloop" else asyncio.new_event_loop()
    yield loop.run_until_complete
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def native_path() -> Path:
    """The extension that is under test: the one of the installed wheel, never of the source tree."""
    path = Path(libgateway.__file__).parent
    assert "site-packages" in path.parts, f"{path} is not installed"
    return path


sys.dont_write_bytecode = True
