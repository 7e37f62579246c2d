"""A block that has a lease ends it, whichever way it is left."""

import asyncio
from collections.abc import Callable

import pytest
from libgateway import FailureKind, Gateway, JobId, JobState, NoResultError, SupersededError, Timeouts

from conftest import ROUTE, SECOND, START, Clock, flux


def state(gateway: Gateway, job: JobId) -> JobState:
    view = gateway.job(job)
    assert view is not None
    return view.state


def failure(gateway: Gateway, job: JobId) -> tuple[FailureKind, str]:
    view = gateway.job(job)
    assert view is not None and view.failure is not None
    return view.failure.kind, view.failure.message


def test_without_a_job_the_block_has_none(gateway: Gateway) -> None:
    with gateway.lease() as lease:
        assert lease is None


def test_a_block_with_a_result_is_complete(gateway: Gateway) -> None:
    job = gateway.submit("acme", ROUTE)
    with gateway.lease(backend="flux-1") as lease:
        assert lease is not None
        lease.complete("https://cdn/1.webp")
    assert state(gateway, job) is JobState.COMPLETE


@pytest.mark.parametrize(
    ("error", "kind", "message", "ends"),
    [
        (TimeoutError("too slow"), FailureKind.TIMEOUT, "TimeoutError: too slow", JobState.QUEUED),
        (asyncio.TimeoutError(), FailureKind.TIMEOUT, "TimeoutError", JobState.QUEUED),
        (ConnectionRefusedError("no"), FailureKind.CONNECTION, "ConnectionRefusedError: no", JobState.QUEUED),
        (ValueError("bad prompt"), FailureKind.BACKEND, "ValueError: bad prompt", JobState.ERROR),
        (RuntimeError("x" * 5_000), FailureKind.BACKEND, ("RuntimeError: " + "x" * 5_000)[:1_000], JobState.ERROR),
    ],
    ids=["timeout", "asyncio timeout", "connection", "other", "long"],
)
def test_an_exception_fails_it_and_goes_on(
    gateway: Gateway, error: Exception, kind: FailureKind, message: str, ends: JobState
) -> None:
    job = gateway.submit("acme", ROUTE)
    with pytest.raises(type(error)) as caught:
        with gateway.lease():
            raise error
    assert caught.value is error
    assert failure(gateway, job) == (kind, message)
    assert state(gateway, job) is ends


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError])
def test_what_is_no_failure_of_the_job_gives_it_back(gateway: Gateway, error: type[BaseException]) -> None:
    job = gateway.submit("acme", ROUTE)
    with pytest.raises(error):
        with gateway.lease():
            raise error
    view = gateway.job(job)
    assert view is not None and (view.state, view.attempts, view.requeues) == (JobState.QUEUED, 0, 1)


def test_a_block_that_says_nothing_has_failed_and_says_so(gateway: Gateway) -> None:
    job = gateway.submit("acme", ROUTE)
    with pytest.raises(NoResultError):
        with gateway.lease():
            pass
    assert failure(gateway, job) == (FailureKind.BACKEND, "the worker ended without a result")
    assert state(gateway, job) is JobState.ERROR


@pytest.mark.parametrize("end", [lambda lease: lease.release(), lambda lease: lease.fail("rejected")])
def test_a_block_that_ended_it_itself_is_done(gateway: Gateway, end: Callable[..., object]) -> None:
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    with lease:
        end(lease)
    assert lease.ended and gateway.stats().running == 0


def test_a_job_cancelled_meanwhile_ends_the_block_in_peace(gateway: Gateway) -> None:
    for leave in (None, ValueError("late")):
        job = gateway.submit("acme", ROUTE)
        lease = gateway.dispatch()
        assert lease is not None
        try:
            with lease:
                gateway.cancel(job)
                with pytest.raises(SupersededError):
                    lease.heartbeat()
                if leave is not None:
                    raise leave
        except ValueError as error:
            assert error is leave
        assert state(gateway, job) is JobState.CANCELLED
        assert lease.ended


def test_a_result_that_is_refused_can_be_given_again(gateway: Gateway) -> None:
    gateway.submit("acme", ROUTE)
    with gateway.lease() as lease:
        assert lease is not None
        with pytest.raises(ValueError):
            lease.complete("")
        assert not lease.ended
        lease.complete("better")


def test_an_exception_without_words_still_fails_the_job(gateway: Gateway) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    job = gateway.submit("acme", ROUTE)
    with pytest.raises(Mute):
        with gateway.lease():
            raise Mute
    assert failure(gateway, job) == (FailureKind.BACKEND, "Mute")


def test_leases_compare_by_number_and_gateway(gateway: Gateway, clock: Clock) -> None:
    other = Gateway.replica(gateway.snapshot(), clock=clock)
    for one in (gateway, other):
        one.submit("acme", ROUTE, id=JobId(1))
    first, second = gateway.dispatch(), other.dispatch()
    assert first is not None and second is not None
    assert first == first and first != second and first.id == second.id and hash(first) == hash(second)
    assert first.deadline_ns == START + 300 * 10**9


def test_a_block_opened_at_an_instant_reads_no_clock() -> None:
    # The block ended at the system's time: sixty years after it began.
    def never() -> int:
        raise AssertionError("the clock was read")

    gateway = Gateway(backends=[flux(slots=4)], seed=1, clock=never, now_ns=START)
    job = gateway.submit("acme", ROUTE, now_ns=START)
    with gateway.lease(now_ns=START + 1) as lease:
        assert lease is not None
        lease.heartbeat(now_ns=START + 5)
        settled = lease.complete("x")
    assert (settled.job, settled.usage_ns) == (job, 4)
    other = gateway.submit("acme", ROUTE, now_ns=START + 10)
    with pytest.raises(ValueError):
        with gateway.lease(route=ROUTE, now_ns=START + 10):
            gateway.advance(now_ns=START + 30)
            raise ValueError
    view = gateway.job(other)
    assert view is not None and view.finished_ns == START + 30
    with gateway.take_settlements(now_ns=START + 40) as settlements:
        assert [own.finished_ns for own in settlements] == [START + 5, START + 30]
    assert gateway.stats().unconfirmed == 0 and gateway.now_ns == START + 40
    with pytest.raises(KeyError):
        with gateway.take_settlements(now_ns=START + 50):
            raise KeyError


def test_steps_at_an_instant_grant_leases_that_keep_to_it() -> None:
    gateway = Gateway(backends=[flux(slots=4)], seed=1, now_ns=START)
    gateway.submit("acme", ROUTE, now_ns=START)
    with gateway.transaction(now_ns=START + 2) as tx:
        step = tx.dispatch()
    with step.value as lease:
        lease.complete("x")
    assert gateway.now_ns == START + 2


def test_a_lease_granted_at_an_instant_is_given_back_and_up_at_the_latest_one() -> None:
    # Both were told at the system's time: years after the lease was granted.
    gateway = Gateway(backends=[flux(slots=4)], seed=1, now_ns=START)
    for end in ("release", "cancel"):
        gateway.submit("acme", ROUTE, now_ns=START)
        lease = gateway.dispatch(now_ns=START)
        assert lease is not None
        getattr(lease, end)()
        assert gateway.now_ns == START


def test_a_block_that_waits_takes_no_instant(gateway: Gateway, virtual: Callable[..., object]) -> None:
    async def main() -> None:
        with pytest.raises(TypeError):
            async with gateway.lease(now_ns=START):
                pass

    virtual(main())


@pytest.mark.parametrize("hours", [-87_600, -10, -0.001, 0.001, 10, 87_600])
def test_a_step_of_the_clock_neither_freezes_a_gateway_nor_ends_what_is_heard(hours: float) -> None:
    clock = Clock(START + int(hours * 3_600) * SECOND)
    gateway = Gateway(backends=[flux(lease_for=60)], seed=1, clock=clock)
    clock.now = START
    waiting = gateway.submit("acme", "image/flux/other/t2i", timeouts=Timeouts(queue=30))
    job = gateway.submit("acme", ROUTE)
    gateway.cancel(gateway.submit("acme", ROUTE))
    lease = gateway.dispatch(route=ROUTE)
    assert lease is not None and lease.deadline_ns == START + 60 * SECOND
    assert gateway.next_deadline_ns == START + 30 * SECOND
    for _ in range(6):
        clock.tick(20 * SECOND)
        assert lease.heartbeat() == clock.now + 60 * SECOND
    view = gateway.job(waiting)
    assert view is not None and view.finished_ns == START + 30 * SECOND
    clock.tick(60 * SECOND)
    gateway.advance()
    assert state(gateway, job) is JobState.QUEUED
