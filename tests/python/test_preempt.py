"""Leases that the host takes back: of a job, for another one, and of a whole backend."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import (
    Backend,
    BillingPolicy,
    EndedError,
    Evicted,
    EvictTo,
    FailureKind,
    Gateway,
    InputError,
    JobId,
    JobState,
    NotAllowedError,
    NotNowError,
    PreemptedTooOftenError,
    SupersededError,
    UnknownBackendError,
    UnknownJobError,
    Usage,
    UsageExceedsElapsedError,
)

from conftest import ROUTE, SECOND, START, Clock, flux, granted, look

WAN = "image/wan/default/i2i"


@pytest.fixture
def one(clock: Clock) -> Gateway:
    return Gateway(backends=[flux()], seed=1, clock=clock)


def test_an_urgent_job_gets_the_slot_of_a_preempted_one_in_one_transaction(one: Gateway) -> None:
    batch = one.submit("acme", ROUTE, priority="low")
    lease = granted(one)
    urgent = one.submit("acme", ROUTE, priority="high")
    assert one.dispatch() is None
    with one.transaction() as tx:
        preempted = tx.preempt(batch, usage=Usage(gpu_ns=0))
        step = tx.dispatch()
    assert (preempted.value, step.value.job) == (lease.id, urgent)
    view = look(one, batch)
    assert (view.state, view.attempts, view.requeues, view.preemptions) == (JobState.QUEUED, 0, 1, 1)
    counters = one.stats().counters
    assert (counters.preempted, counters.requeues, counters.released, counters.retries) == (1, 1, 0, 0)


def test_a_transaction_that_finds_no_job_leaves_the_other_one_its_lease(clock: Clock) -> None:
    gateway = Gateway(backends=[flux(), Backend("wan-1", modality="image", family="wan")], seed=1, clock=clock)
    batch = gateway.submit("acme", ROUTE)
    lease = granted(gateway)
    gateway.cancel(gateway.submit("acme", WAN))
    before = gateway.digest()
    with pytest.raises(NotNowError):
        with gateway.transaction() as tx:
            tx.preempt(batch)
            tx.dispatch(route=WAN)
    assert gateway.digest() == before and look(gateway, batch).lease == lease.id
    assert lease.heartbeat() == START + 300 * SECOND


def test_a_preempted_job_waits_before_what_its_customer_submitted_later(one: Gateway) -> None:
    first = one.submit("acme", ROUTE)
    lease = granted(one)
    later = one.submit("acme", ROUTE)
    assert one.preempt(str(first)) == lease.id
    assert one.positions([first, later]) == [0, 1]
    again = granted(one)
    assert (again.job, again.attempt) == (first, 2) and again.id != lease.id


def test_the_result_of_a_preempted_lease_is_refused(one: Gateway) -> None:
    job = one.submit("acme", ROUTE)
    lease = granted(one)
    one.preempt(job)
    with pytest.raises(SupersededError):
        lease.complete("late")
    assert lease.ended and look(one, job).state is JobState.QUEUED


@pytest.mark.parametrize("leave", [None, ValueError("late"), asyncio.CancelledError()], ids=["end", "error", "cancelled"])
@pytest.mark.parametrize(
    "take",
    [lambda gateway, job: gateway.preempt(job), lambda gateway, job: gateway.evict_backend("flux-1")],
    ids=["preempt", "evict"],
)
def test_a_block_whose_lease_was_taken_ends_in_peace(
    one: Gateway, take: Callable[[Gateway, JobId], object], leave: BaseException | None
) -> None:
    job = one.submit("acme", ROUTE)
    try:
        with one.lease() as lease:
            assert lease is not None
            take(one, job)
            with pytest.raises(SupersededError):
                lease.heartbeat()
            if leave is not None:
                raise leave
    except BaseException as error:
        assert error is leave
    view = look(one, job)
    assert (view.state, view.attempts, view.requeues, view.preemptions) == (JobState.QUEUED, 0, 1, 1)
    assert view.failure is None and lease is not None and lease.ended


def test_what_cannot_be_preempted_says_why(one: Gateway) -> None:
    with pytest.raises(UnknownJobError) as unknown:
        one.preempt(JobId(1))
    job = one.submit("acme", ROUTE)
    with pytest.raises(NotAllowedError) as waits:
        one.preempt(job)
    one.cancel(job)
    with pytest.raises(EndedError) as ended:
        one.preempt(job)
    told = [(caught.value.number, caught.value.field) for caught in (unknown, waits, ended)]
    assert told == [(601, "job"), (604, "job"), (602, "job")]


def test_a_job_that_was_preempted_as_often_as_it_may_be_runs_on(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], preemptions_max=1, seed=1, clock=clock)
    job = gateway.submit("acme", ROUTE)
    granted(gateway)
    gateway.preempt(job)
    lease = granted(gateway)
    with pytest.raises(PreemptedTooOftenError) as caught:
        gateway.preempt(job)
    with pytest.raises(PreemptedTooOftenError):
        with gateway.transaction() as tx:
            tx.preempt(job)
    error = caught.value
    assert (error.number, error.code, error.field) == (606, "preempted_too_often", "job")
    assert error.message == f"job {job} was preempted 1 times, as often as it may be"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.field) == (PreemptedTooOftenError, error.message, "job")
    assert lease.complete("x").job == job


@pytest.mark.parametrize(("payer", "usage", "absorbed"), [("customer", 2 * SECOND, 0), ("house", 0, 2 * SECOND)])
def test_what_a_preempted_lease_used_is_paid_by_whom_the_policy_names(
    clock: Clock, payer: str, usage: int, absorbed: int
) -> None:
    gateway = Gateway(backends=[flux()], billing=BillingPolicy(preempted=payer), seed=1, clock=clock)
    job = gateway.submit("acme", ROUTE)
    granted(gateway)
    clock.tick(3 * SECOND)
    gateway.preempt(job, gpu_seconds=2, device="GPU-1")
    gateway.cancel(job)
    with gateway.take_settlements() as [one]:
        assert (one.usage_ns, one.absorbed_ns, one.requeues) == (usage, absorbed, 1)


def test_usage_that_cannot_be_is_refused_and_the_job_runs_on(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], billing=BillingPolicy(excess="refuse"), seed=1, clock=clock)
    job = gateway.submit("acme", ROUTE)
    lease = granted(gateway)
    with pytest.raises(UsageExceedsElapsedError):
        gateway.preempt(job, gpu_seconds=1)
    with pytest.raises(InputError) as caught:
        gateway.preempt(job, gpu_ns=0, usage=Usage())
    assert (caught.value.number, caught.value.field) == (207, "usage")
    assert look(gateway, job).lease == lease.id


def test_an_evicted_backend_tells_its_leases_in_the_order_in_which_they_were_granted(clock: Clock) -> None:
    gateway = Gateway(backends=[flux(slots=2), flux("flux-2")], preemptions_max=0, seed=1, clock=clock)
    jobs = [gateway.submit("acme", ROUTE, priority=lane) for lane in ("high", "low")]
    leases = gateway.dispatch_to("flux-1", 2)
    other = gateway.submit("acme", ROUTE)
    [kept] = gateway.dispatch_to("flux-2")
    assert gateway.evict_backend("flux-1") == [Evicted(lease.id, lease.job) for lease in leases]
    assert [lease.job for lease in leases] == jobs
    for job in jobs:
        view = look(gateway, job)
        assert (view.state, view.attempts, view.preemptions) == (JobState.QUEUED, 0, 1)
    assert (look(gateway, other).lease, gateway.stats().counters.preempted) == (kept.id, 2)
    # It goes on taking new ones.
    assert [lease.job for lease in gateway.dispatch_to("flux-1", 2)] == jobs
    assert gateway.evict_backend("flux-2", to="queue") == [Evicted(kept.id, other)]
    assert gateway.evict_backend("flux-2") == []


def test_a_backend_that_is_evicted_and_removed_is_forgotten_at_once(one: Gateway) -> None:
    job = one.submit("acme", ROUTE)
    lease = granted(one)
    [evicted] = one.evict_backend("flux-1")
    assert (evicted.lease, evicted.job) == (lease.id, job)
    assert pickle.loads(pickle.dumps(evicted)) == evicted and hash(evicted)
    one.remove_backend("flux-1")
    assert (one.stats().backends, look(one, job).state) == (0, JobState.QUEUED)
    reason = one.explain(job)
    assert reason is not None and reason.kind == "no_backend"


def test_a_backend_that_is_not_known_cannot_be_evicted(one: Gateway) -> None:
    with pytest.raises(UnknownBackendError) as caught:
        one.evict_backend("nobody")
    assert (caught.value.number, caught.value.code) == (701, "unknown_backend")


@pytest.mark.parametrize("to", ["error", EvictTo.ERROR], ids=["word", "member"])
def test_jobs_of_an_evicted_backend_end_in_error_where_that_is_asked_for(one: Gateway, to: str) -> None:
    job = one.submit("acme", ROUTE)
    lease = granted(one)
    assert one.evict_backend("flux-1", to=to) == [Evicted(lease.id, job)]
    view = look(one, job)
    assert view.failure is not None
    assert (view.state, view.failure.kind, view.failure.retriable) == (JobState.ERROR, FailureKind.LOST, True)
    assert view.failure.message == "its backend was taken away"
    counters = one.stats().counters
    assert (counters.preempted, counters.errors, counters.requeues) == (1, 1, 0)


def test_where_else_jobs_could_go_is_refused_by_the_arguments_name(one: Gateway) -> None:
    one.submit("acme", ROUTE)
    lease = granted(one)
    with pytest.raises(InputError) as caught:
        one.evict_backend("flux-1", to="nowhere")
    assert (caught.value.number, caught.value.field) == (206, "to")
    assert caught.value.message == "to is malformed: expected queue or error"
    with pytest.raises(TypeError):
        one.evict_backend("flux-1", to=None)  # type: ignore[arg-type]
    assert lease.heartbeat() == START + 300 * SECOND


@pytest.mark.parametrize("take", ["preempt", "evict_backend"])
def test_a_worker_that_waits_gets_the_slot_that_was_taken(
    one: Gateway, virtual: Callable[..., Any], take: str
) -> None:
    async def main() -> None:
        batch = one.submit("acme", ROUTE, priority="low")
        granted(one)
        urgent = one.submit("acme", ROUTE, priority="high")
        worker = asyncio.create_task(one.leases().__anext__())
        await asyncio.sleep(0)
        if take == "preempt":
            one.preempt(batch)
        else:
            one.evict_backend("flux-1")
        lease = await worker
        assert lease.job == urgent
        lease.complete("x")

    virtual(main())
    assert (one.stats().queued, one.stats().running, one.stats().counters.completed) == (1, 0, 1)
    assert one.waiting == 0


def test_the_result_of_a_job_that_is_evicted_to_error_is_told_at_once(one: Gateway, virtual: Callable[..., Any]) -> None:
    async def main() -> str:
        job = one.submit("acme", ROUTE)
        granted(one)
        waiting = asyncio.create_task(one.result(job))
        await asyncio.sleep(0)
        one.evict_backend("flux-1", to="error")
        outcome = await waiting
        assert outcome.failure is not None and not outcome
        return outcome.failure.message

    assert virtual(main()) == "its backend was taken away"
    assert one.now_ns == START
