"""The parts by themselves: limiters, breaker, fair queue, job store, billing collector, histogram, backoff."""

import asyncio
import gc
import pickle
import weakref
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libgateway import (
    AlreadyStartedError,
    Backoff,
    BillingCollector,
    BillingOutcome,
    BreakerConfig,
    BreakerOpenError,
    BreakerState,
    CircuitBreaker,
    FairQueue,
    FullError,
    Histogram,
    JobState,
    JobStore,
    KeyedRateLimiter,
    LimitedError,
    PriceBook,
    Priority,
    RateLimit,
    RateLimiter,
    StaleAttemptError,
    Timeouts,
)

SECOND = 10**9


@given(st.integers(1, 1000), st.integers(1, 50), st.lists(st.integers(0, 3 * SECOND), max_size=20))
def test_denied_until_the_exact_instant(rate: int, burst: int, gaps: list[int]) -> None:
    limiter = RateLimiter(per_second=rate, burst=burst, now_ns=0)
    now = 0
    for gap in gaps:
        now += gap
        answer = limiter.try_acquire(burst, now_ns=now)
        if not answer:
            assert answer.until_ns is not None and answer.retry_after_ns == answer.until_ns - now
            assert not limiter.peek(burst, now_ns=answer.until_ns - 1)
            assert limiter.peek(burst, now_ns=answer.until_ns)


def test_answers_say_all_there_is_to_say() -> None:
    limiter = RateLimiter(RateLimit(amount=1, per=10, burst=2), now_ns=0)
    allow = limiter.try_acquire(now_ns=0)
    assert (bool(allow), allow.kind, allow.remaining, allow.retry_after) == (True, "allow", 1, 0)
    limiter.try_acquire(now_ns=0)
    deny = limiter.try_acquire(now_ns=1)
    assert (bool(deny), deny.kind, deny.until_ns, deny.retry_after) == (False, "deny", 10 * SECOND, 10)
    never = limiter.try_acquire(3, now_ns=0)
    assert (never.kind, never.until_ns, never.retry_after) == ("never", None, None)
    assert deny == limiter.peek(now_ns=1) and hash(deny) == hash(limiter.peek(now_ns=1)) and deny != never
    headers = limiter.headers(now_ns=0)
    assert (headers.limit, headers.remaining, headers.reset_seconds) == (2, 0, 20)
    limiter.refund(2)
    limiter.set_limit(RateLimit(per_second=1, burst=1), now_ns=0)
    assert limiter.available(now_ns=0) == 1 and limiter.limit == RateLimit(per_second=1, burst=1)


def test_keys_are_apart_and_bounded() -> None:
    limiter = KeyedRateLimiter(per_second=1, burst=1, keys_max=2, seed=1, now_ns=0)
    answers = limiter.try_acquire_many(["a", "b", "a", "c"], now_ns=0)
    assert [answer.kind for answer in answers] == ["allow", "allow", "deny", "shared"]
    full = limiter.try_acquire("d", now_ns=0)
    assert full.kind == "full" and full.until_ns == SECOND and len(limiter) == 2
    assert limiter.try_acquire("c", now_ns=SECOND)
    assert limiter.remove("c") and not limiter.remove("c")
    assert limiter.available("zoo", now_ns=SECOND) == 1 and limiter.headers("zoo", now_ns=SECOND).remaining == 1
    assert KeyedRateLimiter(), "an empty limiter is no false one"


def test_a_decorator_limits_plain_and_async_functions() -> None:
    limiter = KeyedRateLimiter(amount=1, per=3600, burst=1)

    @limiter(key="customer")
    def plain(prompt: str, customer: str = "acme") -> str:
        return prompt

    @limiter(key=lambda customer: customer.lower())
    async def waits(customer: str) -> str:
        """Its words."""
        return customer

    assert plain("x") == "x" and plain("y", customer="zoo") == "y"
    with pytest.raises(LimitedError) as caught:
        plain("z")
    assert caught.value.code == "limited" and caught.value.retry_after is not None and caught.value.retry_after > 3500
    assert waits.__doc__ == "Its words." and asyncio.iscoroutinefunction(waits)
    assert asyncio.run(waits("Foo")) == "Foo"
    with pytest.raises(LimitedError):
        asyncio.run(waits("FOO"))
    with pytest.raises(TypeError):
        limiter(key="nobody")(plain)
    with pytest.raises(TypeError):
        limiter(key="customer", wait=True)(plain)


def test_async_waits_for_tokens(run: Callable[..., Any]) -> None:
    limiter = RateLimiter(per_second=1_000, burst=1)

    @limiter(wait=True)
    async def step() -> int:
        return 1

    async def main() -> int:
        await limiter.acquire()
        return sum([await step() for _ in range(20)])

    assert run(main()) == 20
    with pytest.raises(LimitedError):
        run(limiter.acquire(2))


def test_a_breaker_opens_probes_and_closes_at_exact_instants() -> None:
    breaker = CircuitBreaker(BreakerConfig(consecutive_failures=2, open_for=60, probes_to_close=1), now_ns=0)
    for _ in range(2):
        admit = breaker.admit(now_ns=0)
        assert admit and not admit.probe and breaker.failure(admit, now_ns=0)
    deny = breaker.admit(now_ns=60 * SECOND - 1)
    assert (bool(deny), deny.until_ns, deny.retry_after) == (False, 60 * SECOND, 1)
    assert not breaker.success(deny, now_ns=60 * SECOND - 1)
    assert breaker.next_deadline_ns == 60 * SECOND
    probe = breaker.admit(now_ns=60 * SECOND)
    assert probe and probe.probe and not breaker.admit(now_ns=60 * SECOND)
    assert breaker.cancelled(probe, now_ns=60 * SECOND)
    again = breaker.admit(now_ns=60 * SECOND)
    assert breaker.success(again, now_ns=60 * SECOND)
    assert breaker.state(now_ns=60 * SECOND) is BreakerState.CLOSED
    assert breaker.status(now_ns=60 * SECOND).reason == "probes_succeeded"
    assert breaker.force("open", until=70 * SECOND, now_ns=60 * SECOND)
    assert breaker.state(now_ns=60 * SECOND) is BreakerState.OPEN
    assert breaker.release(now_ns=61 * SECOND) and not breaker.release(now_ns=61 * SECOND)
    with pytest.raises(ValueError):
        breaker.force("half_open")


def test_a_decorated_function_is_counted_by_how_it_ends() -> None:
    breaker = CircuitBreaker(BreakerConfig(consecutive_failures=2))

    class Refused(Exception):
        pass

    class NotAsked(Exception):
        pass

    @breaker(answered=(Refused,), ignore=(NotAsked,))
    def plain(error: BaseException | None = None) -> str:
        if error is not None:
            raise error
        return "fine"

    @breaker
    async def waits(error: BaseException | None = None) -> str:
        return plain.__wrapped__(error)  # type: ignore[attr-defined, no-any-return]

    def counts() -> tuple[int, int]:
        status = breaker.status()
        return status.successes_total, status.failures_total

    assert plain() == "fine" and asyncio.run(waits()) == "fine"
    assert counts() == (2, 0)
    with pytest.raises(Refused):
        plain(Refused())
    assert counts() == (3, 0)
    for error in (KeyboardInterrupt(), GeneratorExit(), NotAsked()):
        with pytest.raises(BaseException) as caught:
            plain(error)
        assert caught.value is error
    assert counts() == (3, 0)
    with pytest.raises(ValueError):
        plain(ValueError())
    with pytest.raises(ValueError):
        asyncio.run(waits(ValueError()))
    assert counts() == (3, 2)
    with pytest.raises(BreakerOpenError) as denied:
        plain()
    assert denied.value.retry_after == 60
    with pytest.raises(BreakerOpenError):
        asyncio.run(waits())


def test_a_fair_queue_keeps_places_and_objects() -> None:
    queue: FairQueue[str] = FairQueue()
    flood = [queue.push(f"f{n}", customer="flood", cost=10) for n in range(5)]
    high = queue.push("high", customer="zoo", lane=Priority.HIGH)
    queue.set_weight("acme", 1_000)
    acme = [queue.push(f"a{n}", customer="acme", cost=10) for n in range(2)]
    assert queue.position(high) == 0 and high in queue and len(queue) == 8
    assert queue.remove(flood[0]) == "f0" and queue.remove(flood[0]) is None and flood[0] not in queue
    assert queue.pop_ticket() == (high, "high")
    queue.pause("acme")
    assert queue.pop() == "f1" and queue.waiting("acme") == 2
    queue.resume("acme")
    assert set(queue.pop_many(10)) == {"a0", "a1", "f2", "f3", "f4"}
    assert queue.pop() is None and queue.pop("nothing") == "nothing" and queue.pop_ticket() is None
    other: FairQueue[str] = FairQueue()
    ticket = other.push("x", customer="acme")
    assert queue.position(ticket) is None and ticket not in queue and queue.remove(ticket) is None
    assert acme[0] != acme[1] and "x" not in queue


def test_a_queue_in_a_circle_with_its_items_is_collected() -> None:
    class Item:
        queue: "FairQueue[Item]"

    item = Item()
    item.queue = FairQueue()
    item.queue.push(item, customer="acme")
    gone = weakref.ref(item)
    del item
    gc.collect()
    assert gone() is None


def test_an_item_that_comes_back_when_it_dies_finds_no_lock() -> None:
    queue: FairQueue[object] = FairQueue(items_max=1)

    class Item:
        def __del__(self) -> None:
            len(queue)

    queue.push(1, customer="acme")
    with pytest.raises(FullError):
        queue.push(Item(), customer="acme")
    queue.pop()
    queue.push(Item(), customer="acme")
    queue.pop()
    queue.pop(Item())


def test_a_store_moves_jobs_as_the_table_says() -> None:
    store = JobStore(timeouts=Timeouts(queue=5), retain_for=60, now_ns=0)
    job = store.insert("acme", "x", idempotency_key="k", now_ns=0)
    assert store.insert("acme", "x", idempotency_key="k", now_ns=0) == job == store.by_key("acme", "k")
    assert store.next_deadline_ns == 5 * SECOND and job in store
    attempt = store.start(job, now_ns=0)
    store.progress(job, attempt, ppm=10, now_ns=0)
    store.requeue(job, attempt, now_ns=SECOND)
    with pytest.raises(StaleAttemptError):
        store.fail(job, store.start(job, now_ns=SECOND) - 1, "timeout", now_ns=SECOND)
    store.fail(job, 2, "http", "busy", status=503, retriable=True, now_ns=SECOND)
    found = store.get(job)
    assert found is not None and found.outcome is not None and found.outcome.failure is not None
    assert (found.state, found.outcome.failure.status, found.outcome.failure.retriable) == ("error", 503, True)
    assert store.count(JobState.ERROR) == 1
    assert store.handle_timeout(now_ns=61 * SECOND - 1) == 0 and job in store
    assert store.handle_timeout(now_ns=61 * SECOND) == 1 and job not in store
    gone = store.insert("acme", now_ns=61 * SECOND)
    store.cancel(gone, now_ns=61 * SECOND)
    store.delete(gone, now_ns=61 * SECOND)
    assert store.get(gone) is None


def test_each_call_leaves_exactly_one_record() -> None:
    billing = BillingCollector(PriceBook(1, currency="EUR", prices={("m", "*"): "0.5"}), start_age_max=10)
    for name in ("ended", "abandoned", "swept"):
        billing.start(name, customer="acme", model="m", now_ns=0)
    with pytest.raises(AlreadyStartedError):
        billing.start("ended", customer="acme", model="m", now_ns=0)
    receipt = billing.end("ended", gpu_seconds=2, device="GPU-1", now_ns=2 * SECOND)
    assert (receipt.gpu_seconds, receipt.charge) == (Decimal(2), Decimal(1))
    billing.abandon("abandoned", now_ns=2 * SECOND)
    assert billing.next_deadline_ns == 10 * SECOND and billing.open == 1
    assert billing.handle_timeout(now_ns=10 * SECOND) == 1
    taken = billing.take(now_ns=10 * SECOND)
    assert taken is not None
    batch, records = taken
    assert [(record.request_id, record.outcome, record.charge) for record in records] == [
        ("ended", BillingOutcome.ENDED, Decimal(1)),
        ("abandoned", BillingOutcome.ABANDONED, Decimal(0)),
        ("swept", BillingOutcome.SWEPT, Decimal(0)),
    ]
    assert records[0].currency == "EUR" and records[0].devices[0].device == "GPU-1"
    assert billing.give_back(batch) == 3 and billing.take(now_ns=10 * SECOND) is not None and len(billing) == 3
    billing.put_prices(PriceBook(2, currency="EUR"))
    totals = billing.totals
    assert (totals.started, totals.ended, totals.abandoned, totals.swept) == (3, 1, 1, 1)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_never_below_the_true_one(values: list[int], quantile: float) -> None:
    histogram = Histogram()
    histogram.record_many(values)
    ppm = round(quantile * 1_000_000)
    true = sorted(values)[max(-(-ppm * len(values) // 1_000_000), 1) - 1]
    told = histogram.quantile(quantile)
    assert told is not None and true <= told <= true * (1 + histogram.relative_error_ppm / 1e6) + 1
    assert (histogram.count, histogram.sum, histogram.min, histogram.max) == (len(values), sum(values), min(values), max(values))
    again = pickle.loads(pickle.dumps(histogram))
    assert again == histogram and again.buckets() == histogram.buckets()


def test_histograms_add_up() -> None:
    one, other = Histogram(), Histogram()
    one.record(5, 3)
    other.record(7)
    one.merge(other)
    one.merge(one)
    assert (one.count, one.sum, one.mean) == (8, 44, 5)
    with pytest.raises(ValueError):
        one.merge(Histogram(precision_bits=3))
    one.clear()
    assert not one and one.quantile(0.5) is None and one != other


def test_a_schedule_is_a_pure_function() -> None:
    backoff = Backoff(base=1, factor=2.0, max=3, retries=3, jitter=0.5, seed=7)
    assert backoff.delay_ns(2, key=5) == Backoff(base=1, max=3, jitter_ppm=500_000, seed=7).delay_ns(2, key=5)
    assert backoff.delay_ns(2, key=5) != backoff.delay_ns(2, key=6)
    assert SECOND <= backoff.delay_ns(2) <= 2 * SECOND and backoff.delay(1, retry_after=60).total_seconds() >= 60
    assert backoff.next_at_ns(4, first_ns=0, now_ns=0) is None
    with pytest.raises(ValueError):
        Backoff(factor=2, factor_ppm=2_000_000)
