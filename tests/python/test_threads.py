"""Threads that wait for tokens, blocks that do, and limiters that are asked together."""

import asyncio
import gc
import signal
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from libgateway import (
    BillingCollector,
    CircuitBreaker,
    CombinedLimiter,
    EmptyError,
    FairQueue,
    Histogram,
    InputError,
    KeyedRateLimiter,
    LimitedError,
    PriceBook,
    RateLimit,
    RateLimiter,
    WindowLimit,
    WindowLimiter,
)
from libgateway.line import Waiting

from conftest import SECOND, START, Clock

HOUR = 3_600


def waiting(limiter: Waiting) -> int:
    return sum(len(line) for line in tuple(limiter._lines.lines.values()))


def until(true: Callable[[], bool]) -> None:
    """Waits for what another thread is about to do."""
    others = threading.Event()
    while not true():
        others.wait(0.001)


class Crowd:
    """Threads that wait for a limiter, one behind the other."""

    def __init__(self, limiter: Any) -> None:
        self.limiter, self.served, self.threads = limiter, [], []  # type: ignore[var-annotated]

    def join_in(self, name: Any, wait: Callable[[], Any]) -> None:
        before = waiting(self.limiter)

        def body() -> None:
            try:
                wait()
                self.served.append(name)
            except LimitedError as error:
                self.served.append((name, error))

        thread = threading.Thread(target=body, daemon=True)
        thread.start()
        self.threads.append(thread)
        until(lambda: waiting(self.limiter) == before + 1)

    def end(self) -> list[Any]:
        for thread in self.threads:
            thread.join()
        assert not self.limiter._lines.lines and not self.limiter._lines.starved
        return self.served


def test_threads_are_served_first_come_first_served_whoever_costs_less() -> None:
    limiter = RateLimiter(amount=1, per=HOUR, burst=3)
    limiter.try_acquire(3)
    crowd = Crowd(limiter)
    for name, cost in enumerate((3, 1, 1, 1)):
        crowd.join_in(name, lambda cost=cost: limiter.acquire_blocking(cost))  # type: ignore[misc]
    limiter.refund(2)
    assert waiting(limiter) == 4, "the first needs three"
    for served in range(1, 5):
        limiter.refund(1)
        until(lambda: len(crowd.served) == served)
    assert crowd.end() == [0, 1, 2, 3]


@pytest.mark.parametrize("way", ["refund", "set_limit", "remove"])
def test_a_thread_is_woken_by_whatever_makes_room(way: str) -> None:
    keyed = KeyedRateLimiter(amount=1, per=HOUR)
    window, bucket = WindowLimiter(1, per=HOUR), RateLimiter(amount=1, per=HOUR)
    combined = CombinedLimiter(keyed, window, bucket)
    assert combined.try_acquire(key="a")
    more = RateLimit(amount=HOUR * 1_000, per=HOUR, burst=9)
    wakes: list[tuple[Any, Callable[[], Any], Callable[[], Any]]] = [
        (
            keyed,
            lambda: keyed.acquire_blocking("a"),
            {"refund": lambda: keyed.refund("a"), "set_limit": lambda: keyed.set_limit(more)}.get(
                way, lambda: keyed.remove("a")
            ),
        )
    ]
    if way != "remove":
        wakes.append(
            (bucket, bucket.acquire_blocking, {"refund": bucket.refund, "set_limit": lambda: bucket.set_limit(more)}[way])
        )
        wakes.append(
            (window, window.acquire_blocking, {"refund": window.refund, "set_limit": lambda: window.set_limit(9, 1)}[way])
        )
    for limiter, wait, wake in wakes:
        crowd = Crowd(limiter)
        crowd.join_in("one", wait)
        wake()
        assert crowd.end() == ["one"]


def test_a_thread_that_waits_lets_others_run_and_is_served_at_its_time() -> None:
    limiter = RateLimiter(per_second=1_000, burst=1)
    limiter.try_acquire()
    ran: list[int] = []
    crowd = Crowd(RateLimiter(amount=1, per=HOUR))
    crowd.limiter.try_acquire()
    crowd.join_in("late", crowd.limiter.acquire_blocking)
    for step in range(20):
        assert limiter.acquire_blocking(timeout=60)
        ran.append(step)
    crowd.limiter.refund()
    assert ran == list(range(20)) and crowd.end() == ["late"]


@pytest.mark.parametrize("timeout", [0, 0.001, timedelta(milliseconds=1), Decimal("0.001"), -1])
def test_a_thread_whose_time_is_over_leaves_the_line_and_says_how_much_longer(timeout: Any) -> None:
    limiter = RateLimiter(amount=1, per=HOUR)
    assert limiter.acquire_blocking(timeout=timeout), "what is there is had at once"
    with pytest.raises(LimitedError) as caught:
        limiter.acquire_blocking(timeout=timeout)
    assert caught.value.retry_after is not None and 0 < caught.value.retry_after <= HOUR
    assert not limiter._lines.lines
    with pytest.raises(LimitedError) as never:
        limiter.acquire_blocking(2)
    assert never.value.retry_after is None


def test_who_stood_behind_one_that_left_is_served_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = [0.0]
    monkeypatch.setattr("libgateway.line.time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    limiter = RateLimiter(amount=1, per=HOUR, burst=2)
    limiter.try_acquire(1)
    crowd = Crowd(limiter)
    crowd.join_in("two", lambda: limiter.acquire_blocking(2, timeout=1_000))
    crowd.join_in("one", lambda: limiter.acquire_blocking(1))
    ahead[0] = 1_001
    next(iter(limiter._lines.lines[None]._threads)).wake()
    (two, error), one = sorted(crowd.end(), key=lambda name: name == "one")
    assert (two, one, limiter.available()) == ("two", "one", 0) and error.retry_after > 0


def test_tasks_and_threads_stand_in_one_line() -> None:
    limiter = RateLimiter(amount=1, per=HOUR)
    limiter.try_acquire()
    crowd = Crowd(limiter)
    crowd.join_in("thread", limiter.acquire_blocking)

    async def task(name: str) -> None:
        async with limiter:
            crowd.served.append(name)

    async def main() -> None:
        first = asyncio.ensure_future(task("task"))
        while waiting(limiter) < 2:
            await asyncio.sleep(0)
        await asyncio.get_running_loop().run_in_executor(None, crowd.join_in, "last", limiter.acquire_blocking)
        for served in (1, 2, 3):
            limiter.refund()
            while len(crowd.served) < served:
                await asyncio.sleep(0)
        await first

    asyncio.run(main())
    assert crowd.end() == ["thread", "task", "last"]


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to a thread are of POSIX")
def test_ctrl_c_interrupts_a_thread_that_waits_and_it_leaves_nothing_behind() -> None:
    limiter = RateLimiter(amount=1, per=HOUR)
    limiter.try_acquire()
    main, over = threading.get_ident(), threading.Event()

    def interrupt() -> None:
        until(lambda: waiting(limiter) == 1)
        while not over.wait(0.01):  # One that comes just before it sleeps is seen at the next.
            if waiting(limiter):
                signal.pthread_kill(main, signal.SIGUSR1)

    def interrupted(*_: object) -> None:
        if waiting(limiter):
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, interrupted)
    helper = threading.Thread(target=interrupt)
    helper.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire_blocking()
    finally:
        over.set()
        helper.join()
        signal.signal(signal.SIGUSR1, before)
    assert waiting(limiter) == 0
    limiter.refund()
    assert limiter.available() == 1 and limiter.acquire_blocking(timeout=0)


def test_a_thread_with_an_event_loop_does_not_stand_still() -> None:
    limiter, keyed = RateLimiter(), KeyedRateLimiter()

    async def main() -> None:
        with pytest.raises(RuntimeError, match="event loop"):
            with limiter:
                pass
        with pytest.raises(RuntimeError):
            keyed.acquire_blocking("a")
        with pytest.raises(TypeError, match="timeout"):
            async with limiter.taking(timeout=1):
                pass

    asyncio.run(main())
    assert limiter.available() == 1_000


def test_blocks_take_tokens_and_keep_them_however_they_end() -> None:
    bucket, keyed = RateLimiter(amount=10, per=HOUR), KeyedRateLimiter(amount=10, per=HOUR)
    window = WindowLimiter(10, per=HOUR)
    both = CombinedLimiter(keyed, window)
    with bucket as answer:
        assert answer.remaining == 9
    with pytest.raises(OSError):
        with window.taking(2):
            raise OSError
    with keyed.taking("a", 3), both.taking(4, key="a") as answer:
        assert answer.remaining == 3

    async def main() -> None:
        async with bucket as answer:
            assert answer.remaining == 8
        async with window.taking(1), keyed.taking("a", 1):
            pass
        async with both.taking(key="a") as answer:
            assert answer.remaining == 1

    asyncio.run(main())
    assert (bucket.available(), window.available(), keyed.available("a")) == (8, 2, 1)
    with pytest.raises(LimitedError):
        with both.taking(3, key="a", timeout=0):
            raise AssertionError("the block began")


def test_of_limiters_that_are_asked_together_all_are_taken_or_none() -> None:
    second = RateLimiter(per_second=10, now_ns=0)
    hour = RateLimiter(amount=1_000, per=HOUR, now_ns=0)
    minute = WindowLimiter(15, per=60, now_ns=0)
    all_ = CombinedLimiter(second, hour, minute)

    def left(now: int) -> tuple[int, int, int]:
        return second.available(now_ns=now), hour.available(now_ns=now), minute.available(now_ns=now)

    answer = all_.try_acquire(8, now_ns=0)
    assert answer and (answer.kind, answer.remaining) == ("allow", 2) and left(0) == (2, 992, 7)
    denied = all_.try_acquire(3, now_ns=0)
    assert not denied and (denied.until_ns, denied.remaining) == (SECOND // 10, 2) and left(0) == (2, 992, 7)
    assert all_.peek(3, now_ns=0) == denied
    assert not all_.try_acquire(3, now_ns=SECOND // 10 - 1) and all_.try_acquire(3, now_ns=SECOND // 10)
    later = all_.try_acquire(5, now_ns=SECOND)
    assert (later.kind, later.until_ns, later.remaining) == ("deny", 60 * SECOND, 4), "the window decides"
    assert left(SECOND)[1] == 989
    never = all_.try_acquire(11, now_ns=SECOND)
    assert (never.kind, never.until_ns, never.remaining) == ("never", None, 4)
    assert all_.available(now_ns=SECOND) == 4 and all_.try_acquire(0, now_ns=SECOND)
    all_.refund(2, now_ns=SECOND)
    assert left(SECOND) == (10, 991, 6)


def test_a_key_is_that_of_all_that_have_keys() -> None:
    second = KeyedRateLimiter(per_second=2, now_ns=0)
    hour = KeyedRateLimiter(amount=3, per=HOUR, now_ns=0)
    everybody = RateLimiter(amount=5, per=HOUR, now_ns=0)
    all_ = CombinedLimiter(second, hour, everybody)
    assert all_.try_acquire(2, key="a", now_ns=0) and not all_.try_acquire(1, key="a", now_ns=0)
    assert all_.try_acquire(2, key="b", now_ns=0)
    assert all_.try_acquire(1, key="a", now_ns=SECOND).remaining == 0
    assert not all_.try_acquire(1, key="c", now_ns=SECOND), "all of them have had five"
    assert second.available("c", now_ns=SECOND) == 2 and hour.available("b", now_ns=SECOND) == 1
    calls: list[Callable[[], Any]] = [all_.try_acquire, lambda: CombinedLimiter(everybody).try_acquire(key="a")]
    for call in calls:
        with pytest.raises(TypeError, match="key"):
            call()
    with pytest.raises(EmptyError):
        CombinedLimiter()
    with pytest.raises(InputError):
        CombinedLimiter(everybody, everybody)
    with pytest.raises(TypeError):
        CombinedLimiter(RateLimit())  # type: ignore[arg-type]
    assert "RateLimiter of RateLimit" in repr(all_) and set(all_.limiters) == {second, hour, everybody}


def test_who_waits_for_several_is_woken_by_each_of_them() -> None:
    keyed, bucket = KeyedRateLimiter(amount=1, per=HOUR), RateLimiter(amount=1, per=HOUR)
    both = CombinedLimiter(keyed, bucket)
    crowd = Crowd(both)
    assert both.try_acquire(key="a")
    for wake in (lambda: keyed.refund("a"), lambda: keyed.remove("a")):
        crowd.join_in("a", lambda: both.acquire_blocking(key="a"))
        bucket.refund()
        assert waiting(both) == 1, "only one of them has made room"
        wake()
        until(lambda: not waiting(both))
    crowd.join_in("a", lambda: both.acquire_blocking(key="a"))
    both.refund(key="a")
    assert crowd.end() == ["a"] * 3
    lines = bucket._lines
    assert len(lines.joint) == 1
    del crowd, both
    gc.collect()
    assert len(lines.joint) == 0


def test_limiters_asked_together_in_any_order_by_many_threads_give_no_more_than_there_is() -> None:
    one, two = RateLimiter(amount=500, per=HOUR), KeyedRateLimiter(amount=300, per=HOUR)
    sides = [CombinedLimiter(one, two), CombinedLimiter(two, one)]
    taken: list[int] = []

    def body(side: CombinedLimiter) -> None:
        taken.append(sum(bool(side.try_acquire(key="a")) for _ in range(200)))

    threads = [threading.Thread(target=body, args=(sides[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 300 and one.available() == 200 and two.available("a") == 0


def test_a_decorator_of_several_limiters() -> None:
    all_ = CombinedLimiter(KeyedRateLimiter(amount=1, per=HOUR), RateLimiter(amount=5, per=HOUR))

    @all_(key="customer")
    def plain(customer: str) -> str:
        return customer

    @all_(key=lambda customer: customer.lower(), wait=True)
    async def waits(customer: str) -> str:
        return customer

    assert plain("a") == "a" and asyncio.run(waits("B")) == "B"
    with pytest.raises(LimitedError):
        plain("b")
    alone = CombinedLimiter(RateLimiter(amount=1, per=HOUR))
    assert alone(len)([]) == 0
    with pytest.raises(LimitedError):
        alone(len)([])


def test_an_answer_says_what_is_left_also_where_it_denies() -> None:
    bucket = RateLimiter(amount=10, per=60, burst=10, now_ns=0)
    bucket.try_acquire(7, now_ns=0)
    for answer in (bucket.try_acquire(5, now_ns=0), bucket.peek(5, now_ns=0), bucket.try_acquire(11, now_ns=0)):
        assert not answer and answer.remaining == 3
    assert bucket.try_acquire(5, now_ns=6 * SECOND).remaining == 4
    window = WindowLimiter(10, per=60, now_ns=0)
    window.try_acquire(7, now_ns=0)
    assert window.try_acquire(5, now_ns=0).remaining == window.peek(5, now_ns=0).remaining == 3
    keyed = KeyedRateLimiter(amount=10, per=60, keys_max=1, overflow=RateLimit(amount=2, per=60), now_ns=0)
    keyed.try_acquire("a", 7, now_ns=0)
    answers = keyed.try_acquire_many(["a", "a"], 5, now_ns=0)
    assert [answer.remaining for answer in answers] == [3, 3] and keyed.peek("a", 5, now_ns=0).remaining == 3
    assert keyed.try_acquire("b", 2, now_ns=0).remaining == 0 and keyed.try_acquire("c", 1, now_ns=0).remaining == 0


def test_a_window_is_given_as_a_value_or_as_its_numbers() -> None:
    limit = WindowLimit(6, per=60)
    limiter = WindowLimiter(limit, now_ns=0)
    assert limiter.limit == limit and (limiter.amount, limiter.per_ns) == (6, 60 * SECOND)
    limiter.set_limit(WindowLimit(2, per=1), now_ns=0)
    assert limiter.limit == WindowLimit(2, per=timedelta(seconds=1))
    limiter.set_limit(3, 1, now_ns=0)
    assert limiter.limit.amount == 3
    with pytest.raises(EmptyError):
        WindowLimiter(6)  # type: ignore[call-overload]
    with pytest.raises(ValueError):
        WindowLimiter(limit, per=60)  # type: ignore[call-overload]
    with pytest.raises(ValueError):
        WindowLimit(65_537, per=60)


def test_containers_are_false_when_they_are_empty_and_machines_never_are() -> None:
    queue: FairQueue[int] = FairQueue()
    histogram = Histogram()
    assert not queue and not histogram and not PriceBook(1)
    queue.push(1, customer="a")
    histogram.record(1)
    assert queue and histogram and PriceBook(1, prices={("*", "*"): 1})
    empty = RateLimiter(amount=1, per=HOUR, now_ns=START)
    denied = (empty.try_acquire(now_ns=START), empty.try_acquire(now_ns=START))
    assert [bool(answer) for answer in denied] == [True, False]
    machines = [
        empty,
        KeyedRateLimiter(),
        WindowLimiter(0, per=1),
        CombinedLimiter(empty),
        CircuitBreaker(),
        BillingCollector(PriceBook(1)),
    ]
    assert all(machines)
    breaker = CircuitBreaker()
    breaker.force("open")
    assert breaker and not breaker.admit()


def test_a_clock_that_stands_serves_no_thread_before_its_time(clock: Clock) -> None:
    asked = []

    class Timed(RateLimiter):
        __slots__ = ()

        def try_acquire(self, cost: int = 1, *, now_ns: Any = None) -> Any:
            asked.append(clock.now)
            return super().try_acquire(cost, now_ns=clock.now)

    limiter = Timed(amount=1, per=0.001, now_ns=START)
    limiter.try_acquire()
    crowd = Crowd(limiter)
    crowd.join_in("one", limiter.acquire_blocking)
    until(lambda: len(asked) >= 5)
    assert not crowd.served
    clock.tick(SECOND)
    assert crowd.end() == ["one"]
