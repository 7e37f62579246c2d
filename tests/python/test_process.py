"""Threads and forks."""

import asyncio
import multiprocessing
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import (
    BillingCollector,
    CircuitBreaker,
    CombinedLimiter,
    FairQueue,
    ForkedError,
    Gateway,
    GatewayError,
    Histogram,
    JobId,
    JobStore,
    KeyedRateLimiter,
    Lease,
    PriceBook,
    RateLimit,
    RateLimiter,
    WindowLimiter,
    line,
)

from conftest import ROUTE, flux

GATEWAYS: weakref.WeakKeyDictionary[Lease, Gateway] = weakref.WeakKeyDictionary()


def leased() -> Lease:
    gateway = Gateway(backends=[flux()])
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    GATEWAYS[lease] = gateway
    return lease


def gathered() -> Any:
    lease = leased()
    transaction = GATEWAYS[lease].transaction()
    transaction.heartbeat(lease)
    return transaction


def combined() -> CombinedLimiter:
    return CombinedLimiter(RateLimiter(amount=9, per=1), KeyedRateLimiter(amount=9, per=1), WindowLimiter(9, per=1))


def commit(transaction: Any) -> None:
    try:
        with transaction:
            pass
    finally:
        transaction._closed = False


def first(iterator: Any) -> object:
    """The first thing of it; waiting is given up after a few turns."""

    async def main() -> object:
        task = asyncio.ensure_future(iterator().__anext__())
        for _ in range(5):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            return None
        return await task

    return asyncio.run(main())


def awaited(awaitable: Callable[[], Any]) -> object:
    async def main() -> object:
        return await awaitable()

    return asyncio.run(main())


MADE: list[tuple[str, Callable[[], Any], Callable[[Any], object]]] = [
    ("Gateway", lambda: Gateway(backends=[flux()]), lambda own: own.submit("acme", ROUTE)),
    ("RateLimiter", lambda: RateLimiter(per_second=1), lambda own: own.try_acquire()),
    ("KeyedRateLimiter", lambda: KeyedRateLimiter(per_second=1), lambda own: own.try_acquire("acme")),
    ("CircuitBreaker", CircuitBreaker, lambda own: own.admit()),
    ("FairQueue", FairQueue, lambda own: own.pop()),
    ("JobStore", JobStore, lambda own: own.insert("acme")),
    ("BillingCollector", lambda: BillingCollector(PriceBook(1)), lambda own: own.take()),
    ("Histogram", Histogram, lambda own: own.record(1)),
    ("WindowLimiter", lambda: WindowLimiter(9, per=1), lambda own: own.try_acquire()),
    ("Lease", leased, lambda own: own.heartbeat()),
    ("Slices", lambda: Gateway().slices(), lambda own: next(own, None)),
    ("Transaction", gathered, commit),
    ("Step of a transaction", gathered, lambda own: own.dispatch()),
    ("Settlements", lambda: Gateway().take_settlements(), lambda own: own._gateway.take_settlements()),
    ("LeaseBlock", lambda: Gateway().lease(), lambda own: own.__enter__()),
    ("Leases", lambda: Gateway().leases(), lambda own: first(lambda: own)),
    ("Events", lambda: Gateway().watch(JobId(1)), lambda own: first(lambda: own._gateway.watch(JobId(1)))),
    ("RateLimiter.acquire", lambda: RateLimiter(amount=9, per=1), lambda own: awaited(own.acquire)),
    ("KeyedRateLimiter.acquire", lambda: KeyedRateLimiter(amount=9, per=1), lambda own: awaited(lambda: own.acquire("a"))),
    ("WindowLimiter.acquire", lambda: WindowLimiter(9, per=1), lambda own: awaited(own.acquire)),
    ("RateLimiter.acquire_blocking", lambda: RateLimiter(amount=9, per=1), lambda own: own.acquire_blocking()),
    ("RateLimiter.taking", lambda: RateLimiter(amount=9, per=1).taking(), lambda own: own.__enter__()),
    ("CombinedLimiter", combined, lambda own: own.try_acquire(key="a")),
    ("CombinedLimiter.acquire", combined, lambda own: awaited(lambda: own.acquire(key="a"))),
    ("CombinedLimiter.acquire_blocking", combined, lambda own: own.acquire_blocking(key="a", timeout=9)),
    ("CircuitBreaker.calling", CircuitBreaker, lambda own: own.calling().__enter__()),
    ("RateLimiter.refund", lambda: RateLimiter(per_second=1), lambda own: own.refund()),
    ("RateLimiter.set_limit", RateLimiter, lambda own: own.set_limit(RateLimit(per_second=2))),
]


def in_child(body: Callable[[], None]) -> int:
    """The exit code of a forked child that runs `body`: 0 if it came to its end."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize(("name", "make", "use"), MADE, ids=[name for name, _, _ in MADE])
def test_what_was_made_before_a_fork_is_refused_after_it(
    name: str, make: Callable[[], Any], use: Callable[[Any], object]
) -> None:
    made = make()
    use(made)

    def child() -> None:
        with pytest.raises(ForkedError) as caught:
            use(made)
        assert caught.value.code == "forked" and "fork" in caught.value.message
        use(make())
        # And once more: a grandchild is another process again.
        own = make()

        def grandchild() -> None:
            with pytest.raises(ForkedError):
                use(own)
            with pytest.raises(ForkedError):
                use(made)

        assert in_child(grandchild) == 0

    assert in_child(child) == 0
    use(made)


def test_a_fork_while_another_thread_holds_the_lock_does_not_hang() -> None:
    gateway = Gateway(backends=[flux()])
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            gateway.snapshot()

    thread = threading.Thread(target=busy)
    thread.start()

    def child() -> None:
        with pytest.raises(ForkedError):
            gateway.stats()
        JobId()

    try:
        assert [in_child(child) for _ in range(20)] == [0] * 20
    finally:
        stop.set()
        thread.join()


# What a thread of the parent was doing when it was forked; none of it may keep the child waiting.
BUSY: dict[str, Callable[[Any], object]] = {
    "snapshot": lambda own: own.gateway.snapshot(),
    "advance": lambda own: own.gateway.advance(),
    "ids": lambda own: [JobId() for _ in range(300)],
    "views": lambda own: own.gateway.stats(),
    "queue": lambda own: (own.queue.push(1, customer="a"), own.queue.pop()),
    "limiter": lambda own: own.keyed.try_acquire("a"),
    "waiting": lambda own: first(own.gateway.leases),
}


class Machines:
    def __init__(self) -> None:
        self.gateway = Gateway(backends=[flux()])
        self.queue: FairQueue[int] = FairQueue()
        self.keyed = KeyedRateLimiter(per_second=1)


@pytest.mark.parametrize("busy", BUSY.values(), ids=BUSY)
def test_a_fork_amid_anything_leaves_a_child_that_answers(busy: Callable[[Any], object]) -> None:
    machines = Machines()
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            busy(machines)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child() -> None:
        for use in BUSY.values():
            try:
                use(machines)
            except ForkedError:
                pass
        with pytest.raises(ForkedError):
            machines.gateway.advance()
        for use in BUSY.values():
            use(Machines())

    try:
        assert [in_child(child) for _ in range(10)] == [0] * 10
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_line_that_was_locked_at_the_fork_is_refused_and_not_waited_for() -> None:
    limiter, keyed = RateLimiter(amount=1, per=10**6), KeyedRateLimiter(amount=1, per=10**6)
    held, stop = threading.Event(), threading.Event()

    async def wait() -> None:
        tasks = [asyncio.ensure_future(limiter.acquire()), asyncio.ensure_future(keyed.acquire("a"))]
        await asyncio.sleep(0)
        assert len(limiter._lines.lines) == len(keyed._lines.lines) == 1
        with line._LOCK, limiter._lines.lines[None]._lock, keyed._lines.lines["a"]._lock:
            held.set()
            stop.wait()
        for task in tasks:
            task.cancel()

    limiter.try_acquire()
    keyed.try_acquire("a")
    thread = threading.Thread(target=lambda: asyncio.run(wait()))
    thread.start()
    held.wait()

    def child() -> None:
        for acquire in (limiter.acquire, lambda: keyed.acquire("a"), lambda: keyed.acquire("b")):
            with pytest.raises(ForkedError):
                awaited(acquire)
        blocks: list[Callable[[], object]] = [
            limiter.__enter__,
            limiter.acquire_blocking,
            lambda: keyed.acquire_blocking("a", timeout=9),
        ]
        for block in blocks:
            with pytest.raises(ForkedError):
                block()
        for use in (limiter.refund, lambda: keyed.remove("a"), lambda: keyed.set_limit(RateLimit(per_second=1))):
            with pytest.raises(ForkedError):
                use()
        assert awaited(RateLimiter(per_second=1).acquire)
        assert awaited(lambda: KeyedRateLimiter(per_second=1).acquire("a"))

    try:
        assert in_child(child) == 0
    finally:
        stop.set()
        thread.join()


def test_a_child_that_was_forked_in_a_call_ends_at_once() -> None:
    # The parent's threads that are inside calls are not in the child, and nobody there waits for them at its end.
    inside, stop = threading.Event(), threading.Event()

    def clock() -> int:
        inside.set()
        stop.wait()
        return 1

    thread = threading.Thread(target=lambda: Gateway(clock=clock))
    thread.start()
    inside.wait()

    def child() -> None:
        from libgateway._native import _ending

        assert _ending()
        assert Gateway(clock=lambda: 5).now_ns == 5

    try:
        assert in_child(child) == 0
    finally:
        stop.set()
        thread.join()


def test_what_is_only_read_is_the_childs_as_well() -> None:
    lease, ticket = leased(), FairQueue[int]().push(1, customer="a")

    def child() -> None:
        assert (lease.backend, lease.attempt, str(lease.job)[:2]) == ("flux-1", 1, "j_")
        assert repr(ticket).startswith("<Ticket") and flux().slots == 1
        with pytest.raises(GatewayError):
            lease.__exit__(None, None, None)

    assert in_child(child) == 0


def test_a_child_never_hands_out_the_ids_of_its_parent() -> None:
    JobId()
    reader, writer = os.pipe()

    def child() -> None:
        os.write(writer, b"".join(JobId().int.to_bytes(16, "big") for _ in range(100)))

    assert in_child(child) == 0
    ours = {JobId().int.to_bytes(16, "big") for _ in range(1_000)}
    theirs = os.read(reader, 1_600)
    assert len(theirs) == 1_600
    assert not ours & {theirs[at : at + 16] for at in range(0, 1_600, 16)}


def test_multiprocessing_notices_as_well() -> None:
    limiter = RateLimiter(per_second=1)
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        assert pool.apply(_refused, (0,)) == "fresh"
        assert pool.apply(_refused, (1,)) == "forked"
    assert limiter.try_acquire()


_AT_IMPORT = RateLimiter(per_second=1)


def _refused(which: int) -> str:
    try:
        (RateLimiter(per_second=1) if which == 0 else _AT_IMPORT).try_acquire()
    except ForkedError:
        return "forked"
    return "fresh"


def test_many_threads_never_get_more_than_there_is() -> None:
    limiter = KeyedRateLimiter(amount=1, per=10**6, burst=500)
    gateway = Gateway(backends=[flux(slots=10)])
    jobs = [gateway.submit("acme", ROUTE) for _ in range(400)]
    taken: list[int] = []
    leased: list[JobId] = []
    barrier = threading.Barrier(8)

    def body() -> None:
        barrier.wait()
        for _ in range(200):
            if limiter.try_acquire("acme"):
                taken.append(1)
            for lease in gateway.dispatch_many(3):
                assert gateway.stats().running <= 10
                leased.append(lease.job)
                lease.complete("x")

    threads = [threading.Thread(target=body) for _ in range(8)]
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert len(taken) == 500
    assert sorted(leased) == sorted(jobs)
    assert gateway.stats().counters.completed == 400
