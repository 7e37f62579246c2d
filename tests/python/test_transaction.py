"""Transactions: all of it or none of it, and nothing that could be left open."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import Backend, Backoff, Failure, Gateway, JobId, NotNowError, SupersededError

from conftest import ROUTE, START, Clock, flux

WAN = "image/wan/default/i2i"


@pytest.fixture
def two(clock: Clock) -> Gateway:
    backends = [flux(), Backend("wan-1", modality="image", family="wan")]
    return Gateway(backends=backends, backoff=Backoff(jitter=0), seed=1, clock=clock)


def test_both_or_neither(two: Gateway) -> None:
    job = two.submit("acme", ROUTE)
    before = two.digest()
    with pytest.raises(NotNowError):
        with two.transaction() as tx:
            first = tx.dispatch(route=ROUTE)
            second = tx.dispatch(route=WAN)
    assert two.digest() == before and two.position(job) == 0
    assert not first.done
    with pytest.raises(RuntimeError):
        second.value
    two.submit("acme", WAN)
    with two.transaction() as tx:
        first, second = tx.dispatch(route=ROUTE), tx.dispatch(route=WAN)
    assert (first.value.backend, second.value.backend) == ("flux-1", "wan-1")


def test_a_block_left_by_an_exception_does_nothing(two: Gateway) -> None:
    before = two.digest()
    with pytest.raises(KeyError):
        with two.transaction() as tx:
            tx.submit("acme", ROUTE)
            raise KeyError
    assert two.digest() == before


def test_an_error_in_one_step_undoes_the_others(two: Gateway) -> None:
    two.submit("acme", ROUTE)
    lease = two.dispatch()
    assert lease is not None
    two.release(lease)
    before = two.digest()
    with pytest.raises(SupersededError):
        with two.transaction() as tx:
            tx.submit("acme", WAN)
            tx.complete(lease, "x")
    assert two.digest() == before


def test_every_step_answers_as_the_call_of_its_own(two: Gateway, clock: Clock) -> None:
    ended = two.submit("acme", ROUTE)
    two.cancel(ended)
    jobs = [two.submit("acme", ROUTE, id=JobId(n)) for n in (1, 2)]
    two.put_backend(flux(slots=9))
    leases = two.dispatch_many(2)
    with two.transaction() as tx:
        submitted = tx.submit("acme", ROUTE, "x", id=JobId(3))
        leased = tx.dispatch()
        beat = tx.heartbeat(leases[0])
        told = tx.progress(leases[0], 0.5)
        settled = tx.complete(leases[0], "url", gpu_ns=0)
        failed = tx.fail(leases[1], Failure("timeout"))
        deleted = tx.delete(ended)
        cancelled = tx.cancel(jobs[1])
        more = tx.submit("acme", WAN, id=JobId(4))
        many = tx.dispatch_to("wan-1", 3)
    assert submitted.value == JobId(3) and leased.value.job == JobId(3)
    assert beat.value == told.value == START + 300 * 10**9
    assert settled.value.job == JobId(1)
    assert failed.value == START + 10**9
    assert deleted.value is None and cancelled.value is None
    assert [lease.job for lease in many.value] == [more.value] == [JobId(4)]
    with two.transaction() as tx:
        released = tx.release(many.value[0])
    assert released.value == JobId(4)


def test_groups_are_one_step(two: Gateway) -> None:
    two.submit("acme", ROUTE, id=JobId(1))
    with two.transaction() as tx:
        with tx.first_of() as either:
            wan = either.dispatch(route=WAN)
            any_ = either.dispatch()
        with tx.all() as both:
            one = both.submit("acme", ROUTE, id=JobId(2))
            other = both.submit("acme", ROUTE, id=JobId(3))
    assert either.index == 1 and not wan.done and any_.value.job == JobId(1)
    assert (one.value, other.value) == (JobId(2), JobId(3))


def test_an_empty_transaction_is_nothing_and_an_ended_one_takes_no_more(two: Gateway) -> None:
    before = two.digest()
    with two.transaction() as tx:
        pass
    assert two.digest() == before
    with pytest.raises(RuntimeError):
        tx.dispatch()
    with pytest.raises(RuntimeError):
        tx.first_of()


def test_steps_are_checked_where_they_are_written(two: Gateway) -> None:
    with pytest.raises(ValueError):
        with two.transaction() as tx:
            tx.submit("acme", "image/flux")


def test_the_gateway_may_be_used_inside_the_block(two: Gateway) -> None:
    with two.transaction() as tx:
        tx.submit("acme", ROUTE, id=JobId(1))
        assert two.submit("acme", ROUTE, id=JobId(2)) == JobId(2)
        assert two.position(JobId(1)) is None
    assert two.position(JobId(1)) == 1


def test_async_waits_until_all_of_it_is_there(two: Gateway, virtual: Callable[..., Any]) -> None:
    async def both() -> list[str]:
        async with two.transaction() as tx:
            first, second = tx.dispatch(route=ROUTE), tx.dispatch(route=WAN)
        return [first.value.backend, second.value.backend]

    async def main() -> list[str]:
        task = asyncio.create_task(both())
        await asyncio.sleep(0)
        job = two.submit("acme", ROUTE)
        for _ in range(5):
            await asyncio.sleep(0)
        assert two.position(job) == 0 and not task.done()
        two.submit("acme", WAN)
        return await task

    assert virtual(main()) == ["flux-1", "wan-1"]
    assert len(two._waiters) == 0
    view = two.stats()
    assert (view.running, view.queued) == (2, 0)
