"""Waiting for a gateway in asyncio: plain Python over ``next_deadline`` and the gateway's own word that it changed.

Nothing here polls and nothing starts a thread. Each event loop that waits has one timer, armed at the gateway's next
deadline. Every call that changes the gateway, from whichever thread, pokes the loops that wait; a poked loop looks once,
in its next round, and wakes whom the changes may help. A task that is cancelled while it waits takes nothing with it:
leases are granted in the step that returns them, never in between.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast

from ._native import JobId
from .errors import GatewayError, UnknownJobError
from .values import Outcome, WatchEvent, WatchKind

if TYPE_CHECKING:
    from ._native import Lease, Watch
    from .gateway import Gateway

T = TypeVar("T")

_TIMER_STEP = 0.001
"""What a timer that fired too early waits at least: loops round to their own step."""

_LOOK_EVERY = 0.1
"""How often positions are looked at, in seconds."""

_LOOK_MAX = 1_000
"""And how many of them at a time: the others come next time. So ten thousand watchers cost no more than that."""


class Waiter:
    """One task that waits."""

    __slots__ = ("future", "kind", "key", "position")

    def __init__(self, future: asyncio.Future[None], kind: str, key: object) -> None:
        self.future = future
        self.kind = kind
        self.key = key
        self.position: int | None = None
        """Of a watcher of a job that waits: what it was told."""


class LoopState:
    """Who waits in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seen: int) -> None:
        self.loop = loop
        self.seen = seen
        self.dirty = False
        self.timer: asyncio.TimerHandle | None = None
        self.workers: dict[object, deque[Waiter]] = {}
        self.watchers: dict[object, set[Waiter]] = {}
        self.others: set[Waiter] = set()
        self.places: dict[Waiter, None] = {}
        """Watchers that are told positions, the one looked at longest ago first."""
        self.unlooked = 0
        """How many of them have to be looked at since the last change."""
        self.looked = loop.time() - _LOOK_EVERY
        self.look: asyncio.TimerHandle | None = None

    @property
    def empty(self) -> bool:
        return not (self.workers or self.watchers or self.others)


class Hub:
    """Who waits for one gateway, in whichever loops."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._lock = threading.Lock()
        self._states: dict[asyncio.AbstractEventLoop, LoopState] = {}
        self.attempts = 0
        """How often tasks looked whether what they wait for is there, and how often positions were."""
        self.forgone: deque[JobId] = deque()
        """Jobs whose watchers went without a word."""

    def __len__(self) -> int:
        states = tuple(self._states.values())
        lists = [list(state.workers.values()) + list(state.watchers.values()) for state in states]
        return sum(len(state.others) for state in states) + sum(len(each) for some in lists for each in some)

    def poke(self) -> None:
        """Something changed: each loop that waits looks in its next round. May be called from any thread."""
        for state in tuple(self._states.values()):
            if not state.dirty:
                self._schedule(state)

    def _schedule(self, state: LoopState) -> None:
        state.dirty = True
        try:
            running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            running = None
        try:
            if running is state.loop:
                state.loop.call_soon(self._deliver, state)
            else:
                state.loop.call_soon_threadsafe(self._deliver, state)
        except RuntimeError:  # The loop is closed, and whoever waited in it is gone.
            with self._lock:
                self._states.pop(state.loop, None)
                self._gateway._set_waiting(bool(self._states))

    def enlist(self, kind: str, key: object) -> Waiter:
        """A new waiter. Look again before you wait for it: what changed before it was there does not wake it."""
        while self.forgone:
            self._gateway._release(self.forgone.popleft())
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future(), kind, key)
        with self._lock:
            state = self._states.get(loop)
            if state is None:
                state = self._states[loop] = LoopState(loop, self._gateway.next_event)
                self._gateway._set_waiting(True)
        if kind == "worker":
            state.workers.setdefault(key, deque()).append(waiter)
        elif kind in ("watcher", "place"):
            state.watchers.setdefault(key, set()).add(waiter)
            if kind == "place":
                state.places[waiter] = None
        else:
            state.others.add(waiter)
        self._arm(state)
        return waiter

    def delist(self, waiter: Waiter) -> None:
        """Takes a waiter away, woken or not."""
        state = self._states.get(waiter.future.get_loop())
        if state is None:
            return
        if waiter.kind == "worker":
            queue = state.workers.get(waiter.key)
            if queue is not None:
                if waiter in queue:
                    queue.remove(waiter)
                if not queue:
                    del state.workers[waiter.key]
        elif waiter.kind in ("watcher", "place"):
            state.places.pop(waiter, None)
            watchers = state.watchers.get(waiter.key)
            if watchers is not None:
                watchers.discard(waiter)
                if not watchers:
                    del state.watchers[waiter.key]
        else:
            state.others.discard(waiter)
        if state.empty:
            self._close(state)

    def _close(self, state: LoopState) -> None:
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        if state.look is not None:
            state.look.cancel()
            state.look = None
        with self._lock:
            self._states.pop(state.loop, None)
            self._gateway._set_waiting(bool(self._states))

    def _deliver(self, state: LoopState) -> None:
        """Wakes whom the news may help."""
        state.dirty = False
        if state.empty:
            return
        try:
            state.seen, jobs, queued = self._gateway._news(state.seen)
        except GatewayError:
            # A call panicked under the lock: whoever waits is told so when he looks.
            self._wake_all(state)
            return
        for waiter in state.others:
            _wake(waiter)
        if state.places:
            state.unlooked = len(state.places)
            self._look_soon(state)
        for job in state.watchers if jobs is None else jobs:
            for waiter in state.watchers.get(job, ()):
                _wake(waiter)
        if queued:
            # One for each backend: its own dispatch is a change, which brings the next one here.
            for queue in state.workers.values():
                for waiter in queue:
                    if not waiter.future.done():
                        _wake(waiter)
                        break
        self._arm(state)

    def _wake_all(self, state: LoopState) -> None:
        for waiters in (state.others, *state.workers.values(), *state.watchers.values()):
            for waiter in waiters:
                _wake(waiter)

    def _look_soon(self, state: LoopState) -> None:
        if state.look is None:
            at = max(state.loop.time(), state.looked + _LOOK_EVERY)
            state.look = state.loop.call_at(at, self._look, state)

    def _look(self, state: LoopState) -> None:
        """Looks at positions, some of them, and wakes whose has changed."""
        state.look = None
        state.looked = state.loop.time()
        waiters = list(islice(state.places, min(_LOOK_MAX, state.unlooked)))
        state.unlooked -= len(waiters)
        self.attempts += len(waiters)
        try:
            positions = self._gateway.positions([cast(JobId, waiter.key) for waiter in waiters])
        except GatewayError:
            self._wake_all(state)
            return
        for waiter, position in zip(waiters, positions):
            del state.places[waiter]
            state.places[waiter] = None
            if position != waiter.position:
                _wake(waiter)
        if state.unlooked and state.places:
            self._look_soon(state)

    def _arm(self, state: LoopState, least: float = 0.0) -> None:
        """Sets the timer of a loop to the gateway's next deadline."""
        try:
            due = self._gateway._due_in_ns()
        except GatewayError:
            return self._wake_all(state)
        if due is None:
            return
        at = state.loop.time() + max(due / 1e9, least)
        if state.timer is not None:
            if state.timer.when() <= at:
                return  # It looks again when it fires; setting it anew for each change would cost more.
            state.timer.cancel()
        state.timer = state.loop.call_at(at, self._fire, state)

    def _fire(self, state: LoopState) -> None:
        state.timer = None
        if state.empty:
            return
        try:
            self._gateway.advance()
        except GatewayError:
            return self._wake_all(state)
        if not state.dirty:  # It was early, or what was due has changed nothing.
            self._arm(state, _TIMER_STEP)

    async def until(
        self,
        attempt: Callable[[], T | None],
        place: Callable[[], tuple[str, object]],
        position: Callable[[], int | None] = lambda: None,
    ) -> T:
        """Tries until there is something, and waits in its place for a change in between."""
        while True:
            self.attempts += 1
            found = attempt()
            if found is not None:
                return found
            waiter = self.enlist(*place())
            waiter.position = position()
            try:
                found = attempt()
                if found is not None:
                    return found
                await waiter.future
            except BaseException:
                if waiter.future.done() and not waiter.future.cancelled():
                    # It was woken and leaves: what it was woken for is there for the next one.
                    self.poke()
                raise
            finally:
                self.delist(waiter)


def _wake(waiter: Waiter) -> None:
    if not waiter.future.done():
        waiter.future.set_result(None)


class Leases:
    """Leases as they come: ``async for lease in gateway.leases(…)``, each in a ``with lease:`` of its own."""

    def __init__(self, gateway: Gateway, attempt: Callable[[], Lease | None], key: object) -> None:
        self._gateway = gateway
        self._attempt = attempt
        self._key = key
        self._stopped = False

    def __aiter__(self) -> Leases:
        return self

    async def __anext__(self) -> Lease:
        # Raised here and not in `_next`: through a coroutine it would be an error.
        found = await self._gateway._waiters.until(self._next, lambda: ("worker", self._key))
        if not found:
            raise StopAsyncIteration
        return found[0]

    def _next(self) -> list[Lease] | None:
        if self._stopped:
            return []
        lease = self._attempt()
        return None if lease is None else [lease]

    def stop(self) -> None:
        """Ends the iteration, also one that waits: no further lease is taken. Call it in the loop that iterates."""
        self._stopped = True
        state = self._gateway._waiters._states.get(asyncio.get_running_loop())
        for waiter in () if state is None else state.workers.get(self._key, ()):
            _wake(waiter)

    async def aclose(self) -> None:
        """``stop``, and waits until nothing of it waits any more: what ``contextlib.aclosing`` calls as its block ends.

        >>> from contextlib import aclosing
        >>> from libgateway import Backend, Gateway
        >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")])
        >>> job = gateway.submit("acme", "image/flux/dev/t2i")
        >>> async def first():
        ...     async with aclosing(gateway.leases()) as leases:
        ...         async for lease in leases:
        ...             return lease.job
        >>> asyncio.run(first()) == job, gateway.waiting
        (True, 0)
        """
        self.stop()
        await asyncio.sleep(0)


class Events:
    """What happens to a job: its present state first, then only changes, always an end.

    What happens to the job itself is told at once. That others before it left, and it moved up, is told within a tenth of a
    second, or of as many as there are thousands of watchers that are told positions; positions in between are left out.
    """

    def __init__(self, gateway: Gateway, job: JobId) -> None:
        self._gateway = gateway
        self._job = job
        self._watch: Watch = gateway._watch(job)
        self._position: int | None = None
        self._waits = True
        self._held = False
        self._done = False

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> WatchEvent:
        if self._done:
            raise StopAsyncIteration
        hub = self._gateway._waiters
        if not self._held:
            # From now on its end is told, however soon its record leaves.
            self._gateway._hold(self._job)
            self._held = True
        found = await hub.until(self._next, self._place, lambda: self._position)
        if not found:
            raise StopAsyncIteration
        event = found[0]
        self._waits = event.kind is WatchKind.QUEUED
        self._position = event.position
        if event.kind in (WatchKind.ENDED, WatchKind.GONE):
            self._end()
        return event

    async def aclose(self) -> None:
        """Ends the iteration, also one that waits, and lets go of the job's end: what ``contextlib.aclosing`` calls as its
        block ends. Call it in the loop that iterates.

        >>> from contextlib import aclosing
        >>> from libgateway import Backend, Gateway
        >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")])
        >>> job = gateway.submit("acme", "image/flux/dev/t2i")
        >>> async def first():
        ...     async with aclosing(gateway.watch(job)) as events:
        ...         async for event in events:
        ...             return str(event.kind)
        >>> asyncio.run(first()), gateway.waiting
        ('queued', 0)
        """
        try:
            self._end()
        except GatewayError:
            pass  # A call panicked under the lock, or it was forked: what is kept there is of no use to anybody.
        state = self._gateway._waiters._states.get(asyncio.get_running_loop())
        for waiter in () if state is None else state.watchers.get(self._job, ()):
            _wake(waiter)
        await asyncio.sleep(0)

    def _end(self) -> None:
        """No more is told, and the job's end is not held for it."""
        self._done = True
        held, self._held = self._held, False
        if held:
            self._gateway._release(self._job)

    def __del__(self) -> None:
        if getattr(self, "_held", False):
            # Released by the next one who waits: the collector must not wait for a lock.
            self._gateway._waiters.forgone.append(self._job)

    def _next(self) -> list[WatchEvent] | None:
        if self._done:
            return []
        event = self._gateway._poll(self._watch)
        return None if event is None or event is False else [event]

    def _place(self) -> tuple[str, object]:
        # While it waits, others that leave or overtake it change its position.
        return ("place" if self._waits else "watcher", self._job)


class Outcomes:
    """Waits for the end of a job."""

    __slots__ = ("_gateway", "_job", "_watch")

    def __init__(self, gateway: Gateway, job: JobId) -> None:
        self._gateway = gateway
        self._job = job
        self._watch: Watch = gateway._watch(job)

    async def wait(self) -> Outcome:
        # From now on its end is told, however soon its record leaves.
        self._gateway._hold(self._job)
        try:
            return await self._gateway._waiters.until(self._next, lambda: ("watcher", self._job))
        finally:
            try:
                self._gateway._release(self._job)
            except GatewayError:
                pass  # A call panicked under the lock: what is kept there is of no use to anybody.

    def _next(self) -> Outcome | None:
        outcome = self._gateway._outcome(self._watch)
        if outcome is False:
            raise UnknownJobError(f"job {self._job} is not known", "job")
        return outcome


async def sleep_ns(nanos: int) -> None:
    """Waits so long, and leaves nothing behind when it is cancelled."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    timer = loop.call_at(loop.time() + nanos / 1e9, lambda: None if future.done() else future.set_result(None))
    try:
        await future
    finally:
        timer.cancel()
