"""The life of objects: what is collected, what is made once, and who goes on while a call is long."""

import asyncio
import gc
import inspect
import json
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import libgateway
import pytest
from libgateway import (
    BillingCollector,
    CircuitBreaker,
    CombinedLimiter,
    FairQueue,
    Gateway,
    GatewayError,
    Histogram,
    JobId,
    JobStore,
    KeyedRateLimiter,
    Lease,
    PriceBook,
    RateLimiter,
    Submit,
    WindowLimiter,
)

from conftest import ROUTE, START, Clock, flux

Run = Callable[..., Any]


class Owner:
    """Something that can be part of any circle."""

    def now(self) -> int:
        return START


def leased(owner: Owner) -> tuple[Gateway, Lease]:
    gateway = Gateway(backends=[flux()], clock=owner.now)
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    return gateway, lease


def a_gateway(owner: Owner) -> object:
    return Gateway(clock=owner.now)


def a_lease(owner: Owner) -> object:
    return leased(owner)[1]


def slices(owner: Owner) -> object:
    return Gateway(clock=owner.now).slices()


def a_queue(owner: Owner) -> object:
    queue: FairQueue[object] = FairQueue()
    queue.push(owner, customer="acme")
    queue.push(owner.now, customer="zoo")
    return queue


def waited(gateway: Gateway) -> Gateway:
    async def main() -> None:
        waits = asyncio.create_task(gateway.changed())
        await asyncio.sleep(0)
        waits.cancel()

    asyncio.run(main())
    return gateway


def a_limiter(owner: Owner) -> object:
    limiter = RateLimiter(per_second=1)
    limiter.refund()

    @limiter
    def guarded() -> Owner:
        return owner

    owner.guarded = guarded  # type: ignore[attr-defined]
    limiter._lines.lines[None] = owner  # type: ignore[assignment]
    return limiter


def a_combined_limiter(owner: Owner) -> object:
    limiter, window = RateLimiter(per_second=1), WindowLimiter(1, per=1)
    both = CombinedLimiter(limiter, window)
    limiter._lines.lines[None] = both  # type: ignore[assignment]
    window._lines.lines[None] = owner  # type: ignore[assignment]
    return both


def a_block(owner: Owner) -> object:
    limiter = RateLimiter(per_second=1)
    owner.taking = limiter.taking()  # type: ignore[attr-defined]
    limiter._lines.lines[None] = owner  # type: ignore[assignment]
    return limiter


def a_guarded_function(owner: Owner) -> object:
    breaker = CircuitBreaker()

    @breaker
    def guarded() -> Owner:
        return owner

    owner.unfinished = breaker(lambda: iter([owner]))()  # type: ignore[attr-defined]
    return guarded


HOLDERS: dict[str, Callable[[Owner], object]] = {
    "Gateway": a_gateway,
    "Gateway that was waited for": lambda owner: waited(Gateway(clock=owner.now)),
    "Lease": a_lease,
    "Lease in a list": lambda owner: [leased(owner)],
    "LeaseBlock": lambda owner: Gateway(clock=owner.now).lease(),
    "Slices": slices,
    "FairQueue": a_queue,
    "RateLimiter": a_limiter,
    "CombinedLimiter": a_combined_limiter,
    "CircuitBreaker": a_guarded_function,
    "Taking": a_block,
    "Leases": lambda owner: Gateway(clock=owner.now).leases(),
    "Events": lambda owner: Gateway(clock=owner.now).watch(JobId(1)),
    "Settlements": lambda owner: Gateway(clock=owner.now).take_settlements(),
    "Transaction": lambda owner: Gateway(clock=owner.now).transaction(),
    "Group": lambda owner: Gateway(clock=owner.now).transaction().all(),
}


@pytest.mark.parametrize("make", HOLDERS.values(), ids=HOLDERS)
def test_what_holds_objects_is_collected_in_a_circle_with_them(make: Callable[[Owner], object]) -> None:
    gone = []
    gc.collect()
    for _ in range(20):
        owner = Owner()
        owner.held = make(owner)  # type: ignore[attr-defined]
        gone.append(weakref.ref(owner))
        del owner
    gc.collect()
    assert [ref() for ref in gone] == [None] * 20


def test_what_is_collected_while_the_lock_is_taken_is_what_is_out_of_reach() -> None:
    # The collector looks at each object more than once, and has to see the same each time: a queue whose items it saw only the
    # first time would lose them while they are in use.
    queue: FairQueue[Any] = FairQueue()
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            ticket = queue.push({"n": [0]}, customer="busy")
            assert queue.remove(ticket) == {"n": [0]}

    threads = [threading.Thread(target=busy) for _ in range(4)]
    with switching():
        for thread in threads:
            thread.start()
        kept = [queue.push({"n": [n]}, customer="acme") for n in range(100)]
        for _ in range(50):
            gc.collect()
        found = [queue.remove(ticket) for ticket in kept]
        stop.set()
        for thread in threads:
            thread.join()
    assert found == [{"n": [n]} for n in range(100)]


def test_a_queue_that_dies_lets_its_items_ask_it_no_more() -> None:
    heard = []

    class Item:
        def __del__(self) -> None:
            heard.append(JobId(7).int)

    queue: FairQueue[Item] = FairQueue()
    for _ in range(3):
        queue.push(Item(), customer="acme")
    del queue
    assert heard == [7, 7, 7]


def examples() -> Iterator[object]:
    """An instance of each public class that is not an exception, an enum or a mere alias."""
    gateway = Gateway(backends=[flux()], prices=PriceBook(1, prices={("*", "*"): "0.0012/s"}), now_ns=START)
    job = gateway.submit("acme", ROUTE, now_ns=START)
    yield from (gateway, job, gateway.stats(), gateway.stats().counters, gateway.job(job), gateway.explain(job))
    lease = gateway.dispatch(now_ns=START)
    assert lease is not None
    yield from (lease, lease.complete("x", gpu_ns=1, now_ns=START), gateway.customer("acme"), gateway.backend("flux-1"))
    with gateway.take_settlements(now_ns=START) as settlements:
        yield from (settlements, settlements.batch, settlements[0], *settlements[0].devices)
    yield from (gateway.poll_events()[0], gateway.advance(now_ns=START), gateway.correct_usage(lease, gpu_ns=2, now_ns=START))
    yield from (gateway.take_settlements(now_ns=START)[0].correction, gateway.transaction(), gateway.transaction().all())
    yield from (gateway.leases(), gateway.watch(job), gateway.lease(), gateway.slices(), libgateway.Step())
    gateway.submit("acme", ROUTE, now_ns=START)
    other = gateway.dispatch(now_ns=START)
    assert other is not None
    yield from gateway.evict_backend("flux-1", now_ns=START)
    outcome = gateway.job(job)
    assert outcome is not None
    yield outcome.outcome

    async def first() -> object:
        return await gateway.watch(job).__anext__()

    yield asyncio.run(first())
    bucket, breaker, store, queue = RateLimiter(per_second=1), CircuitBreaker(), JobStore(), FairQueue[int]()
    yield from (CombinedLimiter(bucket, WindowLimiter(1, per=1)), libgateway.WindowLimit(1, per=1))
    yield from (bucket, bucket.limit, bucket.try_acquire(), bucket.headers(), KeyedRateLimiter(), WindowLimiter(1, per=1))
    yield from (breaker, breaker.admit(), breaker.status(), queue, queue.push(1, customer="acme"), Histogram(), store)
    stored = store.insert("acme")
    store.fail(stored, store.start(stored), "backend")
    failed = store.get(stored)
    assert failed is not None and failed.outcome is not None
    yield from (failed, failed.outcome.failure)
    billing = BillingCollector(PriceBook(1))
    billing.start("r", model="m")
    yield from (billing, billing.end("r", gpu_ns=1), billing.totals)
    taken = billing.take()
    assert taken is not None
    yield taken[1][0]
    yield from (libgateway.Backoff(), libgateway.BillingPolicy(), libgateway.BreakerConfig(), libgateway.CustomerPolicy())
    yield from (libgateway.Failure("backend"), PriceBook(1), libgateway.Route(ROUTE), Submit("acme", ROUTE), flux())
    yield from (libgateway.Timeouts(), libgateway.Usage())


def test_every_public_class_can_be_weakly_referenced() -> None:
    made = list(examples())
    classes = {
        own
        for own in vars(libgateway).values()
        if inspect.isclass(own) and not issubclass(own, (BaseException, str))
    }
    assert classes - {type(own) for own in made} == set()
    for own in made:
        assert weakref.ref(own)() is own, type(own)


@contextmanager
def switching(interval: float = 1e-6) -> Iterator[None]:
    """Threads change so often meanwhile; or, with a long interval, only where one gives way."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(interval)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def at_once(n: int, body: Callable[[], object]) -> list[object]:
    """What `n` threads get that begin together."""
    barrier = threading.Barrier(n)
    results: list[object] = []

    def run() -> None:
        barrier.wait()
        results.append(body())

    threads = [threading.Thread(target=run) for _ in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_that_wait_first_make_one_hub() -> None:
    with switching():
        for _ in range(300):
            gateway = Gateway()
            assert len({id(own) for own in at_once(2, lambda: gateway._waiters)}) == 1


def test_a_hub_that_is_made_while_another_is_made_is_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same without chance: while the one is made the other is, from beginning to end.
    from libgateway import gateway as module
    from libgateway.aio import Hub

    gateway = Gateway()
    inner: list[object] = []

    def hub(own: Gateway) -> object:
        if not inner:
            inner.append(None)
            inner[0] = gateway._waiters
        return Hub(own)

    monkeypatch.setattr(module, "Hub", hub)
    assert gateway._waiters is inner[0] is gateway._waiters


def test_threads_that_wait_for_tokens_first_make_one_line() -> None:
    with switching():
        for _ in range(300):
            limiter = KeyedRateLimiter()
            assert len({id(own) for own in at_once(2, lambda: limiter._lines)}) == 1


def test_threads_that_ask_parts_and_their_combination_at_once_wait_in_no_circle() -> None:
    parts = [RateLimiter(amount=10**6, per=10**6) for _ in range(3)]
    window, keyed = WindowLimiter(9_000, per=10**6), KeyedRateLimiter(amount=10**6, per=10**6)
    limiters = [CombinedLimiter(*parts, window, keyed), CombinedLimiter(keyed, window, *reversed(parts))]

    def take() -> None:
        for _ in range(200):
            for limiter in limiters:
                assert limiter.try_acquire(key="a")
            for part in parts:
                assert part.try_acquire()

    with switching():
        at_once(4, take)
    assert window.available() == 9_000 - 4 * 200 * 2
    assert [part.available() for part in parts] == [10**6 - 4 * 200 * 3] * 3


FIRST = """
import sys, threading
from libgateway import *
sys.setswitchinterval(1e-6)
gateway = Gateway(backends=[Backend("b", modality="image", family="flux")])
job = gateway.submit("acme", "image/flux/dev/t2i")
barrier, found = threading.Barrier(8), []
def first():
    barrier.wait()
    try:
        gateway.delete(JobId(1))
    except UnknownJobError:
        found.append((gateway.job(job).state, gateway.stats().counters.completed, gateway.explain(job).kind))
threads = [threading.Thread(target=first) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert found == [(JobState.QUEUED, 0, "next")] * 8, found
"""


def test_the_first_answers_of_a_process_may_be_asked_for_by_many_threads() -> None:
    from test_exit import all_end_well

    all_end_well([FIRST] * 8)


def test_what_is_asked_for_while_it_is_looked_up_is_looked_up_twice() -> None:
    # Importing the classes of the answers runs Python code, which may ask for an answer: that was a thread waiting for itself.
    from test_exit import ends_well

    ends_well(
        """
import builtins
from libgateway import *
gateway = Gateway()
real, inner = builtins.__import__, []
def asks(name, *more):
    if name == "libgateway.values" and not inner:
        inner.append(None)
        inner[0] = gateway.stats().queued
    return real(name, *more)
builtins.__import__ = asks
outer = gateway.stats().queued
assert [outer] == inner == [0], inner
"""
    )


SNAPSHOT = Gateway(now_ns=START).snapshot()
ADVANCE = json.dumps({"now": START, "command": {"advance": {}}})
LONG: dict[str, Callable[[Gateway], object]] = {
    "snapshot": lambda gateway: gateway.snapshot(),
    "slices": lambda gateway: list(gateway.slices()),
    "digest": lambda gateway: gateway.digest(),
    "restore": lambda gateway: Gateway.restore(SNAPSHOT),
    "replica": lambda gateway: Gateway.replica(SNAPSHOT),
    "apply_many": lambda gateway: gateway.apply_many([ADVANCE]),
    "submit_many": lambda gateway: gateway.submit_many([Submit("acme", ROUTE) for _ in range(256)]),
    "complete_many": lambda gateway: gateway.complete_many([(1, "x")] * 256),
    "dispatch_many": lambda gateway: gateway.dispatch_many(256),
    "heartbeat_many": lambda gateway: gateway.heartbeat_many([1] * 256),
    "record_many": lambda gateway: Histogram().record_many([1]),
}


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is nothing to give away")
@pytest.mark.parametrize("call", LONG.values(), ids=LONG)
def test_a_long_call_lets_other_threads_of_python_go_on(call: Callable[[Gateway], object]) -> None:
    # Nobody is made to give way here: the other thread goes on only where the call lets it, and the loop ends only when it has.
    # It says nothing of how fast anything is; a call that kept the interpreter would go round for ever.
    gateway = Gateway(backends=[flux()], now_ns=START)
    steps, stop = [0], threading.Event()

    def other() -> None:
        while not stop.is_set():
            steps[0] += 1
            os.stat(".")  # Gives the interpreter away.

    thread = threading.Thread(target=other)
    thread.start()
    try:
        with switching(1e6):
            for _ in range(3):
                before = steps[0]
                while steps[0] == before:
                    call(gateway)
    finally:
        stop.set()
        thread.join()


def test_iterators_of_leases_close_and_leave_nothing(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        leases = gateway.leases()
        waits = [asyncio.create_task(leases.__anext__()) for _ in range(3)]
        other = asyncio.create_task(gateway.leases().__anext__())
        await asyncio.sleep(0)
        assert gateway.waiting == 4
        await leases.aclose()
        assert gateway.waiting == 1
        assert [type(error) for error in await asyncio.gather(*waits, return_exceptions=True)] == [StopAsyncIteration] * 3
        job = gateway.submit("acme", ROUTE)
        assert [lease.job async for lease in leases] == []
        assert (await other).job == job and gateway.waiting == 0
        await leases.aclose()
        async with aclosing(gateway.leases()) as again:
            gateway.submit("acme", ROUTE)
            async for lease in again:
                lease.complete("x")
                break
        assert gateway.waiting == 0 and not gateway._waiters._states

    virtual(main())


def test_iterators_of_events_close_and_let_go_of_the_outcome(clock: Clock, virtual: Run) -> None:
    gateway = Gateway(backends=[flux(slots=4)], retained_max=0, retain_for=0, seed=1, clock=clock)

    async def main() -> None:
        job = gateway.submit("acme", ROUTE)
        events = gateway.watch(job)
        assert (await events.__anext__()).position == 0
        waits = asyncio.create_task(events.__anext__())
        other = asyncio.create_task(gateway.result(job))
        await asyncio.sleep(0)
        assert gateway.waiting == 2
        await events.aclose()
        assert gateway.waiting == 1
        with pytest.raises(StopAsyncIteration):
            await waits
        assert [event async for event in events] == []
        await events.aclose()
        async with aclosing(gateway.watch(job)) as again:
            async for event in again:
                break
        assert gateway.waiting == 1
        lease = gateway.dispatch()
        assert lease is not None
        lease.complete("x")
        assert (await other).output == "x"
        # Nobody holds it any more, and none is kept.
        gateway.advance()
        assert gateway.job(job) is None and gateway.waiting == 0 and not gateway._waiters.forgone

    virtual(main())


def test_an_iterator_that_never_began_closes_too(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        job = gateway.submit("acme", ROUTE)
        for own in (gateway.leases(), gateway.watch(job), gateway.watch(JobId(7))):
            await own.aclose()
            with pytest.raises(StopAsyncIteration):
                await own.__anext__()
        assert gateway.waiting == 0

    virtual(main())


def test_ids_seeds_and_epochs_come_of_the_interpreters_own_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    from test_exit import ends_well

    ends_well(
        """
import os
from libgateway import *
asked = []
def urandom(n):
    asked.append(n)
    return bytes(range(256)) * (n // 256)
os.urandom = urandom
first = JobId()
assert asked == [4096] and first.int == int.from_bytes(bytes(range(16)), "little"), (asked, first.int)
assert len({JobId() for _ in range(15)}) == 15 and asked == [4096]
assert Gateway().epoch != 0

def blocked(n):
    raise NotImplementedError("no entropy here")
os.urandom = blocked
made = 0
try:
    for made in range(1_000):
        JobId()
except NotImplementedError as error:
    assert "no entropy" in str(error) and made < 256
else:
    raise AssertionError("it had some")
os.urandom = lambda n: bytes(n - 1)
try:
    JobId()
except RuntimeError as error:
    assert "4095" in str(error)
else:
    raise AssertionError("it took what there was")
assert JobId(7).int == 7 and Gateway(seed=1).commands == 0
"""
    )


def test_a_gateway_error_is_weakly_referenced_and_freed() -> None:
    gone = []
    for _ in range(3):
        try:
            Gateway().delete(JobId(1))
        except GatewayError as error:
            gone.append(weakref.ref(error))
    gc.collect()
    assert [ref() for ref in gone] == [None] * 3
