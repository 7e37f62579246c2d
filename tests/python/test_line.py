"""Waiting for tokens: first come, first served, in virtual time; and what a limiter says under any clock."""

import asyncio
import gc
import pickle
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from libgateway import (
    Answer,
    CustomerPolicy,
    FullError,
    Gateway,
    JobStore,
    KeyedRateLimiter,
    LimitedError,
    OverflowInputError,
    RateLimit,
    RateLimiter,
    TooManyStepsError,
    WindowLimiter,
)
from libgateway.line import Waiting

from conftest import ROUTE, SECOND, START, Clock, flux

Run = Callable[..., Any]
DAY = 86_400 * SECOND


class Timed(RateLimiter):
    """A limiter that knows no clock but the test's, and counts how often it is asked."""

    __slots__ = ("clock", "asked")
    clock: Clock
    asked: int

    def try_acquire(self, cost: int = 1, *, now_ns: Any = None) -> Answer:
        self.asked += 1
        return super().try_acquire(cost, now_ns=self.clock.now)


class TimedKeys(KeyedRateLimiter):
    __slots__ = ("clock",)
    clock: Clock

    def try_acquire(self, key: str, cost: int = 1, *, now_ns: Any = None) -> Answer:
        return super().try_acquire(key, cost, now_ns=self.clock.now)


class TimedWindow(WindowLimiter):
    __slots__ = ("clock",)
    clock: Clock

    def try_acquire(self, cost: int = 1, *, now_ns: Any = None) -> Answer:
        return super().try_acquire(cost, now_ns=self.clock.now)


def timed(clock: Clock, per_second: int = 1, burst: int = 1) -> Timed:
    limiter = Timed(per_second=per_second, burst=burst, now_ns=clock.now)
    limiter.clock, limiter.asked = clock, 0
    return limiter


def idle(limiter: Waiting) -> bool:
    return not limiter._lines.lines and not limiter._lines.starved


async def turns(n: int = 5) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


def in_line(limiter: Any, served: list[Any], clock: Clock, *args: Any, name: Any = None) -> "asyncio.Task[None]":
    async def wait() -> None:
        await limiter.acquire(*args)
        served.append((name, (clock.now - START) // SECOND))

    return asyncio.create_task(wait())


def test_who_came_first_is_served_first_whatever_it_costs(clock: Clock, virtual: Run) -> None:
    # A small request once slipped past a large one for as long as small ones came.
    limiter, served = timed(clock, burst=5), []  # type: ignore[var-annotated]

    async def main() -> None:
        assert limiter.try_acquire(5)
        tasks = [in_line(limiter, served, clock, cost, name=name) for name, cost in (("big", 5), ("a", 1), ("b", 1))]
        await turns()
        tasks.append(in_line(limiter, served, clock, 1, name="late"))
        await asyncio.gather(*tasks)

    virtual(main())
    assert served == [("big", 5), ("a", 6), ("b", 7), ("late", 8)]
    assert idle(limiter)


def test_two_thousand_who_wait_cost_each_what_twenty_do(clock: Clock, virtual: Run) -> None:
    def cost(waiters: int) -> tuple[float, float, int]:
        limiter, timers, most = timed(clock), 0, 0

        async def main() -> None:
            nonlocal timers
            loop = asyncio.get_running_loop()
            call_at = loop.call_at

            def counted(*args: Any, **kwargs: Any) -> Any:
                nonlocal timers, most
                timers += 1
                handle = call_at(*args, **kwargs)
                most = max(most, len(loop._scheduled))  # type: ignore[attr-defined]
                return handle

            loop.call_at = counted  # type: ignore[assignment, method-assign]
            try:
                await asyncio.gather(*(limiter.acquire() for _ in range(waiters)))
            finally:
                del loop.call_at

        virtual(main())
        assert idle(limiter)
        return limiter.asked / waiters, timers / waiters, most

    few, many = cost(20), cost(2_000)
    assert many[0] <= 4 and many[1] <= 2 and few[2] == many[2] == 1, (few, many)


def test_a_refund_and_a_new_limit_wake_the_line_at_once(clock: Clock, virtual: Run) -> None:
    limiter, served = timed(clock, burst=2), []  # type: ignore[var-annotated]

    async def main() -> None:
        limiter.set_limit(RateLimit(amount=1, per=1_000, burst=2), now_ns=clock.now)
        assert limiter.try_acquire(2)
        tasks = [in_line(limiter, served, clock, name=name) for name in range(3)]
        await turns()
        assert served == []
        limiter.refund()
        await turns()
        assert served == [(0, 0)]
        limiter.set_limit(RateLimit(per_second=1, burst=2), now_ns=clock.now)
        await asyncio.gather(*tasks)

    virtual(main())
    assert served == [(0, 0), (1, 1), (2, 2)]
    assert idle(limiter)


def test_a_limit_that_became_too_small_tells_who_waits(clock: Clock, virtual: Run) -> None:
    limiter = timed(clock, burst=5)

    async def main() -> None:
        assert limiter.try_acquire(5)
        big, small = asyncio.create_task(limiter.acquire(5)), asyncio.create_task(limiter.acquire(1))
        await turns()
        limiter.set_limit(RateLimit(per_second=1, burst=2), now_ns=clock.now)
        with pytest.raises(LimitedError) as caught:
            await big
        assert caught.value.retry_after is None
        assert await small
        # And at once where there is a line already.
        waits = asyncio.create_task(limiter.acquire(2))
        await turns()
        with pytest.raises(LimitedError):
            await limiter.acquire(3)
        assert await waits and await limiter.acquire(0)

    virtual(main())
    assert idle(limiter)


def test_a_key_that_is_forgotten_wakes_its_line_and_who_waits_for_room(clock: Clock, virtual: Run) -> None:
    none = RateLimit(per_second=0, burst=0)
    limiter = TimedKeys(amount=1, per=1_000, burst=1, keys_max=1, overflow=none, now_ns=clock.now)
    limiter.clock = clock
    served: list[Any] = []

    async def main() -> None:
        assert limiter.try_acquire("a")
        tasks = [in_line(limiter, served, clock, key, name=key) for key in ("a", "b")]
        await turns()
        assert served == [] and limiter.try_acquire("b").kind == "full"
        assert limiter.remove("a")
        await turns()
        assert served == [("a", 0)]
        assert limiter.remove("a")
        await asyncio.gather(*tasks)

    virtual(main())
    assert served == [("a", 0), ("b", 0)]
    assert idle(limiter)


def test_who_is_cancelled_leaves_no_trace(clock: Clock, virtual: Run) -> None:
    limiter, served = timed(clock, burst=5), []  # type: ignore[var-annotated]

    async def main() -> None:
        assert limiter.try_acquire(5)
        # First, in the middle, last; and the first again, whose place is another's then.
        tasks = [in_line(limiter, served, clock, cost, name=name) for name, cost in enumerate((5, 1, 5, 1, 5))]
        await turns()
        for name in (0, 2, 4):
            tasks[name].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert served == [(1, 1), (3, 2)] and idle(limiter)
        # Served and cancelled in the same round: the tokens go back, to the next.
        first, second = in_line(limiter, served, clock, name="first"), in_line(limiter, served, clock, name="second")
        await turns()
        limiter.refund()
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert served[2:] == [("second", 2)]
        assert first.cancelled() and limiter.available(now_ns=clock.now) == 0

    virtual(main())
    assert idle(limiter)
    assert limiter.available(now_ns=clock.now) == 0
    gc.collect()


def test_a_line_is_one_over_loops_and_threads() -> None:
    limiter = RateLimiter(amount=1, per=3_600, burst=1)
    assert limiter.try_acquire()
    served: list[str] = []
    ready, first_in_line = threading.Event(), threading.Event()

    def other() -> None:
        async def main() -> None:
            task = asyncio.create_task(limiter.acquire())
            await asyncio.sleep(0)
            first_in_line.set()
            await task
            served.append("first")
            ready.set()

        asyncio.run(main())

    thread = threading.Thread(target=other)
    thread.start()
    assert first_in_line.wait(60)

    async def main() -> None:
        task = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.refund()
        while not ready.is_set():
            await asyncio.sleep(0)
        assert not task.done()
        limiter.refund()
        await task
        served.append("second")

    asyncio.run(main())
    thread.join()
    assert served == ["first", "second"] and idle(limiter)


def test_a_loop_that_was_closed_does_not_hold_the_line() -> None:
    limiter = RateLimiter(amount=1, per=3_600, burst=1)
    assert limiter.try_acquire()
    loop = asyncio.new_event_loop()
    lost = loop.create_task(limiter.acquire())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

    async def main() -> None:
        task = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.refund()
        await task

    asyncio.run(main())
    assert not lost.done()


def test_a_window_has_a_line_too(clock: Clock, virtual: Run) -> None:
    limiter = TimedWindow(2, per=60, now_ns=clock.now)
    limiter.clock = clock
    served: list[Any] = []

    @limiter(wait=True)
    async def step(name: int) -> None:
        served.append((name, (clock.now - START) // SECOND))

    async def main() -> None:
        await asyncio.gather(*(step(name) for name in range(5)))

    virtual(main())
    assert served == [(0, 0), (1, 0), (2, 60), (3, 60), (4, 120)]
    assert idle(limiter)


@pytest.mark.parametrize("ahead", [8 * 3_600 * SECOND, DAY, 10 * 365 * DAY])
def test_no_step_of_the_clock_freezes_a_limiter(ahead: int) -> None:
    tenth = SECOND // 10
    limiter = RateLimiter(per_second=10, burst=1, now_ns=START)
    assert limiter.try_acquire(now_ns=START + ahead)
    denied = limiter.try_acquire(now_ns=START)
    assert denied.until_ns == START + tenth and denied.retry_after_ns == tenth
    assert limiter.try_acquire(now_ns=START + tenth)
    keyed = KeyedRateLimiter(per_second=10, burst=1, now_ns=START)
    assert keyed.try_acquire("wild", now_ns=START + ahead) and keyed.try_acquire("acme", now_ns=START)
    assert keyed.try_acquire("acme", now_ns=START).until_ns == START + tenth
    window = WindowLimiter(1, per=1, now_ns=START)
    assert window.try_acquire(now_ns=START + ahead)
    assert window.try_acquire(now_ns=START).until_ns == START + SECOND


def test_limits_of_any_amount_and_period_are_exact_or_refused_by_name() -> None:
    for amount, days, wait in [(9_973, 30, 259_901_734_684), (5 * 10**9, 1, 17_280)]:
        limiter = RateLimiter(amount=amount, per=timedelta(days=days), now_ns=START)
        assert limiter.try_acquire(amount, now_ns=START).remaining == 0
        assert limiter.try_acquire(now_ns=START).retry_after_ns == wait == -(-days * DAY // amount)
        assert not limiter.peek(now_ns=START + wait - 1) and limiter.peek(now_ns=START + wait)
    fast = RateLimiter(per_second=2**64 - 1, now_ns=START)
    assert fast.try_acquire(2**64 - 1, now_ns=START)
    assert fast.available(now_ns=START + 1) == (2**64 - 1) // SECOND
    with pytest.raises(OverflowInputError) as caught:
        RateLimit(amount=1, per=timedelta(days=365_000))
    assert caught.value.field == "per"
    assert RateLimit() == RateLimit(per_second=100, burst=1_000) == RateLimiter().limit
    assert RateLimit.from_json(RateLimit(amount=9_973, per=30 * 86_400).to_json()).burst == 9_973


def test_new_keys_share_a_bucket_while_there_is_no_room() -> None:
    limiter = KeyedRateLimiter(amount=1, per=60, burst=2, keys_max=2, overflow=RateLimit(per_second=1, burst=1), now_ns=0)
    assert limiter.try_acquire_many(["a", "b"], 2, now_ns=0) and len(limiter) == 2
    kinds = [limiter.try_acquire(key, now_ns=0).kind for key in ("c", "d", "a")]
    assert kinds == ["shared", "full", "deny"]
    full = limiter.peek("d", now_ns=0)
    assert not full and full.until_ns == SECOND and repr(full) == "<Answer full, retry after 1s>"
    assert limiter.try_acquire("d", now_ns=SECOND).kind == "shared"


def test_a_flood_of_made_up_keys_takes_nothing_from_known_ones() -> None:
    limiter = KeyedRateLimiter(amount=10, per=60, burst=10, keys_max=500, overflow=RateLimit(per_second=100), seed=1, now_ns=START)
    known, newcomers, asked = 0, 0, 0
    for second in range(120):
        now = START + second * SECOND
        for key in range(second % 7, 50, 7):
            known += not limiter.try_acquire(f"known-{key}", now_ns=now)
        for flood in range(1_000 if second >= 20 else 0):
            limiter.try_acquire(f"made-up-{second}-{flood}", now_ns=now + flood * 1_000_000)
            if flood == second * 37 % 1_000:
                newcomers += bool(limiter.try_acquire(f"new-{second}", now_ns=now + flood * 1_000_000))
                asked += 1
        assert len(limiter) <= 500
    assert known == 0 and asked == 100 and newcomers >= 5, newcomers


def test_what_is_full_says_whose_limit_it_is_and_how_far(clock: Clock) -> None:
    customer = CustomerPolicy(queued_max=1)
    gateway = Gateway(backends=[flux()], customers={"acme": customer}, jobs_max=2, clock=clock)
    gateway.submit("acme", ROUTE)
    with pytest.raises(FullError) as caught:
        gateway.submit("acme", ROUTE)
    error = caught.value
    assert (error.field, error.scope, error.measured, error.max, error.retry_at_ns) == ("queued", "customer", 1, 1, None)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.scope, again.measured, again.max, str(again)) == (type(error), "customer", 1, 1, str(error))
    job = gateway.submit("zoo", ROUTE)
    gateway.cancel(job)
    with pytest.raises(FullError, match="settlements that are not confirmed count") as caught:
        gateway.submit("zoo", ROUTE)
    assert (caught.value.field, caught.value.scope, caught.value.measured) == ("jobs", "gateway", 2)
    store = JobStore(jobs_max=1, now_ns=0)
    store.insert("acme", now_ns=0)
    with pytest.raises(FullError) as caught:
        store.insert("acme", now_ns=0)
    assert (caught.value.scope, caught.value.max) == ("part", 1)


def test_a_transaction_as_data_has_a_most_of_steps(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], steps_max=2, clock=clock)
    steps: list[dict[str, Any]] = [{"dispatch": {}}] * 2
    assert gateway.apply({"now": clock.now, "command": {"first_of": steps}})["error"]["name"] == "not_now"
    for command in ({"all": steps * 2}, {"first_of": [{"all": steps}, {"all": []}]}):
        error = gateway.apply({"now": clock.now, "command": command})["error"]
        assert (error["number"], error["name"], error["field"]) == (TooManyStepsError.number, "too_many_steps", "steps")
