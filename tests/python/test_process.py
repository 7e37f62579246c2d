"""Threads and forks."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import (
    BillingCollector,
    CircuitBreaker,
    FairQueue,
    ForkedError,
    Gateway,
    Histogram,
    JobId,
    JobStore,
    KeyedRateLimiter,
    PriceBook,
    RateLimiter,
)

from conftest import ROUTE, flux

MADE: list[tuple[str, Callable[[], Any], Callable[[Any], object]]] = [
    ("Gateway", lambda: Gateway(backends=[flux()]), lambda own: own.submit("acme", ROUTE)),
    ("RateLimiter", lambda: RateLimiter(per_second=1), lambda own: own.try_acquire()),
    ("KeyedRateLimiter", lambda: KeyedRateLimiter(per_second=1), lambda own: own.try_acquire("acme")),
    ("CircuitBreaker", CircuitBreaker, lambda own: own.admit()),
    ("FairQueue", FairQueue, lambda own: own.pop()),
    ("JobStore", JobStore, lambda own: own.insert("acme")),
    ("BillingCollector", lambda: BillingCollector(PriceBook(1)), lambda own: own.take()),
    ("Histogram", Histogram, lambda own: own.record(1)),
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
