"""Waiting for tokens, in asyncio and in threads: first come, first served.

Who waits stands in a line: one for each limiter, and in a keyed one for each key. Only the first of a line asks for tokens, so
a line has one timer in each event loop that waits in it, whatever its length, and serving costs the same for each. A line
looks again when its timer fires, and whenever tokens are given back, the limit changes or a key is forgotten, from whichever
thread. ``try_acquire`` does not stand in line: it takes what is there.

Threads stand in the same lines as tasks. The first thread of a line sleeps until the line has to look, all others until they
are woken; none of them holds the interpreter, and Ctrl-C wakes the main thread.

A task that is cancelled while it waits leaves nothing behind; one that is cancelled just after it was served gives its tokens
back. So does a thread whose time is over, or that is interrupted.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING
from weakref import WeakSet

from .errors import LimitedError

if TYPE_CHECKING:
    from ._native import Answer
    from .values import Seconds

Attempt = Callable[[int], "Answer"]
Refund = Callable[[int], None]

_TIMER_STEP = 0.001
"""What a timer that fired too early waits at least: loops round to their own step."""

_LOCK = threading.RLock()
"""Held while lines come and go."""


def _forked() -> None:
    """Called in a child process: whoever held the lock is not there."""
    global _LOCK
    _LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def limited(answer: Answer) -> LimitedError:
    error = LimitedError("the rate limit is reached")
    nanos = answer.retry_after_ns
    error.retry_after = None if nanos is None else nanos / 1e9
    return error


class Waiter:
    """One that waits: a task or a thread."""

    __slots__ = ("cost", "answer", "error")

    def __init__(self, cost: int) -> None:
        self.cost = cost
        self.answer: Answer | None = None
        self.error: BaseException | None = None

    @property
    def gone(self) -> bool:
        """Whether nobody can be woken any more."""
        return False

    def wake(self) -> bool:
        """Tells it to look at its answer. Returns whether it can."""
        raise NotImplementedError

    def served(self) -> Answer | None:
        """What it was told: its answer, or nothing yet."""
        if self.error is not None:
            raise self.error
        return self.answer


class TaskWaiter(Waiter):
    """One task that waits."""

    __slots__ = ("loop", "future")

    def __init__(self, loop: asyncio.AbstractEventLoop, cost: int) -> None:
        super().__init__(cost)
        self.loop = loop
        self.future: asyncio.Future[None] = loop.create_future()

    @property
    def gone(self) -> bool:
        return self.loop.is_closed()

    def wake(self) -> bool:
        if _running() is self.loop:
            _resolve(self)
            return True
        try:
            self.loop.call_soon_threadsafe(_resolve, self)
        except RuntimeError:  # The loop is closed.
            return False
        return True


class ThreadWaiter(Waiter):
    """One thread that waits."""

    __slots__ = ("event", "at")

    def __init__(self, cost: int) -> None:
        super().__init__(cost)
        self.event = threading.Event()
        self.at: float | None = None
        """When the line has to look, in monotonic time, where that is its task."""

    def wake(self) -> bool:
        self.event.set()
        return True

    def sleep(self, end: float | None) -> None:
        """Until it is woken, the line has to look, or the end."""
        ends = [at for at in (self.at, end) if at is not None]
        self.event.wait(min(max(min(ends) - time.monotonic(), 0.0), threading.TIMEOUT_MAX) if ends else None)
        self.event.clear()


class LoopState:
    """How many of a line wait in one event loop, and the timer there."""

    __slots__ = ("waiting", "timer", "at")

    def __init__(self) -> None:
        self.waiting = 0
        self.timer: asyncio.TimerHandle | None = None
        self.at = 0.0
        """When it is to look, in the time of that loop; 0: not at all."""


class Line:
    """Who waits for the tokens of one bucket, in whichever loops."""

    def __init__(self, lines: Lines, attempt: Attempt, refund: Refund) -> None:
        self.users = 0
        self._lines = lines
        self._attempt = attempt
        self._refund = refund
        # Garbage that is collected in here may give tokens back, and so come in again.
        self._lock = threading.RLock()
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._loops: dict[asyncio.AbstractEventLoop, LoopState] = {}
        self._threads: OrderedDict[ThreadWaiter, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiters)

    async def acquire(self, cost: int, peek: Attempt) -> Answer:
        waiter = TaskWaiter(asyncio.get_running_loop(), cost)
        answer = self._enlist(waiter, peek)
        if answer is not None:
            return answer
        try:
            await waiter.future
        except BaseException:
            self._leave(waiter)
            raise
        answer = waiter.served()
        assert answer is not None
        return answer

    def acquire_blocking(self, cost: int, peek: Attempt, timeout: float | None) -> Answer:
        end = None if timeout is None else time.monotonic() + timeout
        waiter = ThreadWaiter(cost)
        try:
            answer = self._enlist(waiter, peek)
            while answer is None:
                waiter.sleep(end)
                now = time.monotonic()
                if (answer := waiter.served()) is not None:
                    break
                if waiter.at is not None and waiter.at <= now:
                    waiter.at = None
                    self.pump(_TIMER_STEP)
                elif end is not None and end <= now:
                    self.pump()
                    if (answer := waiter.served()) is None:
                        raise limited(peek(cost))
        except BaseException:
            self._leave(waiter)
            raise
        return answer

    def _enlist(self, waiter: Waiter, peek: Attempt) -> Answer | None:
        """The answer, where there is nothing to wait for; or the waiter is in the line."""
        cost = waiter.cost
        with self._lock:
            answer = self._attempt(cost) if cost == 0 or not self._waiters else peek(cost)
            if answer.retry_after_ns is None:
                raise limited(answer)
            if answer and (cost == 0 or not self._waiters):
                return answer
            self._waiters[waiter] = None
            alone = True
            if isinstance(waiter, TaskWaiter):
                state = self._loops.setdefault(waiter.loop, LoopState())
                state.waiting += 1
                alone = state.waiting == 1
            elif isinstance(waiter, ThreadWaiter):
                self._threads[waiter] = None
                alone = len(self._threads) == 1
            first = next(iter(self._waiters))
            if first is waiter or alone or first.gone:
                self.pump()  # There is a timer to set, or somebody to pass over.
        return None

    def pump(self, least: float = 0.0) -> None:
        """Serves from the front as many as there are tokens for, and has the timers set for the next. From any thread."""
        with self._lock:
            while self._waiters:
                first = next(iter(self._waiters))
                if first.gone:  # Whoever waited in it is gone.
                    self._take(first)
                    continue
                try:
                    answer = self._attempt(first.cost)
                except BaseException as error:  # It is that of who waits, not of who happens to be here.
                    if self._take(first):
                        first.error = error
                        self._wake(first)
                    continue
                nanos = answer.retry_after_ns
                if not answer and nanos is not None:
                    self._lines.starved.add(self) if answer.kind == "full" else self._lines.starved.discard(self)
                    self._arm(max(nanos / 1e9, least))
                    return
                least = 0.0
                if not self._take(first):  # Served or gone meanwhile.
                    if answer:
                        self._refund(first.cost)
                    continue
                if answer:
                    first.answer = answer
                else:
                    first.error = limited(answer)
                self._wake(first)
            self._lines.starved.discard(self)

    def _take(self, waiter: Waiter) -> bool:
        """Takes a waiter out of the line; whether it stood there."""
        if waiter not in self._waiters:
            return False
        del self._waiters[waiter]
        if isinstance(waiter, ThreadWaiter):
            del self._threads[waiter]
            return True
        assert isinstance(waiter, TaskWaiter)
        state = self._loops[waiter.loop]
        state.waiting -= 1
        if not state.waiting:
            del self._loops[waiter.loop]
            if state.timer is not None and _running() is waiter.loop:
                state.timer.cancel()
        return True

    def _wake(self, waiter: Waiter) -> None:
        if not waiter.wake() and waiter.answer:
            self._refund(waiter.cost)

    def _leave(self, waiter: Waiter) -> None:
        with self._lock:
            was_first = next(iter(self._waiters), None) is waiter or next(iter(self._threads), None) is waiter
            if not self._take(waiter):
                if not waiter.answer:
                    return
                self._refund(waiter.cost)
            elif not was_first:
                return
            self.pump()

    def _arm(self, delay: float) -> None:
        """Has each loop that waits, and one of the threads, look again after ``delay`` seconds, or earlier."""
        if self._threads:
            thread, now = next(iter(self._threads)), time.monotonic()
            if thread.at is None or thread.at > now + delay:
                thread.at = now + delay
                thread.wake()
        running = _running()
        for loop, state in list(self._loops.items()):
            at = loop.time() + delay
            if state.at and state.at <= at:
                continue  # It looks again when it fires; setting it anew for each change would cost more.
            state.at = at
            if loop is running:
                self._set(loop, state)
            else:
                try:
                    loop.call_soon_threadsafe(self._set, loop, state)
                except RuntimeError:
                    pass  # The loop is closed: who waits in it is passed over at the front of the line.

    def _set(self, loop: asyncio.AbstractEventLoop, state: LoopState) -> None:
        """In its own loop: a timer of another thread's loop must not be touched."""
        if state.timer is not None:
            state.timer.cancel()
        state.timer = loop.call_at(state.at, self._fire, loop, state) if state.waiting else None

    def _fire(self, loop: asyncio.AbstractEventLoop, state: LoopState) -> None:
        with self._lock:
            state.timer, state.at = None, 0.0
            if self._loops.get(loop) is state:
                self.pump(_TIMER_STEP)


class Lines:
    """The lines of one limiter, by key."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lines: dict[object, Line] = {}
        self.starved: set[Line] = set()
        """Those that wait for room and not for tokens."""
        self.joint: WeakSet[Lines] = WeakSet()
        """Those of limiters that ask this one together with others."""

    def poke(self, key: object) -> None:
        """Something of this key has changed."""
        if self.lines:
            line = self.lines.get(key)
            if line is not None:
                line.pump()
            for line in tuple(self.starved):
                line.pump()
        for lines in tuple(self.joint):
            lines.poke_all() if key is None else lines.poke(key)

    def poke_all(self) -> None:
        for line in tuple(self.lines.values()):
            line.pump()
        for lines in tuple(self.joint):
            lines.poke_all()


class Taking:
    """A block before which tokens are taken. They are spent, however it ends."""

    __slots__ = ("_wait", "_block")

    def __init__(self, wait: Callable[[], Awaitable[Answer]], block: Callable[[], Answer]) -> None:
        self._wait = wait
        self._block = block

    def __enter__(self) -> Answer:
        return self._block()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    async def __aenter__(self) -> Answer:
        return await self._wait()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class Waiting:
    """What limiters have in common: tasks and threads that wait for them."""

    __slots__ = ()

    _own_lines: Lines

    @property
    def _lines(self) -> Lines:
        try:
            return self._own_lines
        except AttributeError:
            with _LOCK:
                if not hasattr(self, "_own_lines"):
                    # The slot is that of the class this is mixed into.
                    object.__setattr__(self, "_own_lines", Lines())
                return self._own_lines

    async def _wait(self, key: object, cost: int, attempt: Attempt, peek: Attempt, refund: Refund) -> Answer:
        line = self._join(key, attempt, refund)
        if line is None:
            return peek(cost)  # It says that it was forked.
        try:
            return await line.acquire(cost, peek)
        finally:
            self._part(key, line)

    def _wait_blocking(
        self, key: object, cost: int, attempt: Attempt, peek: Attempt, refund: Refund, timeout: Seconds | None
    ) -> Answer:
        if _running() is not None:
            raise RuntimeError("this thread runs an event loop, which would stand still: wait with async with or await")
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        line = self._join(key, attempt, refund)
        if line is None:
            return peek(cost)
        try:
            return line.acquire_blocking(cost, peek, None if seconds is None else float(seconds))
        finally:
            self._part(key, line)

    def _join(self, key: object, attempt: Attempt, refund: Refund) -> Line | None:
        """The line of a key; none in a forked child, where its lock may be held by a thread that is not there."""
        lines = self._lines
        if lines.pid != os.getpid():
            return None
        with _LOCK:
            line = lines.lines.get(key)
            if line is None:
                line = lines.lines[key] = Line(lines, attempt, refund)
            line.users += 1
        return line

    def _part(self, key: object, line: Line) -> None:
        lines = self._lines
        with _LOCK:
            line.users -= 1
            if not line.users:
                del lines.lines[key]
                lines.starved.discard(line)


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _resolve(waiter: TaskWaiter) -> None:
    if not waiter.future.done():
        waiter.future.set_result(None)
