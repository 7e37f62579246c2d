"""Jobs that may not run before an instant: submitted for later, or given back until then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import pytest
from libgateway import (
    CancelReason,
    FailureKind,
    Gateway,
    InputError,
    JobId,
    JobState,
    Lease,
    OutOfRangeError,
    Submit,
    SupersededError,
    Timeouts,
    WaitReason,
    instant,
)

from conftest import ROUTE, SECOND, START, Clock, flux, granted, look

LATER = START + 10 * SECOND


def runs_exactly_at_later(gateway: Gateway, clock: Clock, job: JobId) -> Lease:
    assert gateway.explain(job) == WaitReason("not_before", LATER)
    assert gateway.next_deadline_ns == LATER
    clock.now = LATER - 1
    assert gateway.dispatch() is None
    clock.now = LATER
    lease = granted(gateway)
    assert lease.job == job and gateway.explain(job) is None
    return lease


def test_a_job_submitted_for_later_says_so_and_runs_at_its_instant(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE, not_before_ns=LATER)
    assert gateway.position(job) == 0
    assert runs_exactly_at_later(gateway, clock, job).attempt == 1


def test_the_instant_may_be_a_datetime(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE, not_before_ns=instant(LATER))
    runs_exactly_at_later(gateway, clock, job)


def test_a_batch_and_a_transaction_submit_for_later_too(gateway: Gateway, clock: Clock) -> None:
    [first] = gateway.submit_many([Submit("acme", ROUTE, not_before_ns=LATER)])
    assert isinstance(first, JobId)
    with gateway.transaction() as tx:
        step = tx.submit("acme", ROUTE, not_before_ns=LATER)
    for job in (first, step.value):
        assert gateway.explain(job) == WaitReason("not_before", LATER)
    clock.now = LATER - 1
    assert gateway.dispatch_many(9) == []
    clock.now = LATER
    assert [lease.job for lease in gateway.dispatch_many(9)] == [first, step.value]


@pytest.mark.parametrize("at", [0, START - 1, START])
def test_an_instant_that_has_passed_is_now(gateway: Gateway, at: int) -> None:
    job = gateway.submit("acme", ROUTE, not_before_ns=at)
    reason = gateway.explain(job)
    assert reason is not None and reason.kind == "next"
    lease = granted(gateway)
    lease.release(not_before_ns=at)
    assert granted(gateway).job == job


@pytest.mark.parametrize(
    ("timeouts", "reason"),
    [
        (Timeouts(queue=2), CancelReason.QUEUE_TIMEOUT),
        (Timeouts(start=2), CancelReason.START_TIMEOUT),
        (Timeouts(total=2), CancelReason.TOTAL_TIMEOUT),
    ],
    ids=["queue", "start", "total"],
)
def test_the_clocks_of_a_job_for_later_count_from_its_instant(
    gateway: Gateway, timeouts: Timeouts, reason: CancelReason
) -> None:
    gateway.drain_backend("flux-1")
    job = gateway.submit("acme", ROUTE, not_before_ns=LATER, timeouts=timeouts)
    gateway.advance(now_ns=LATER)
    gateway.advance(now_ns=LATER + 2 * SECOND - 1)
    assert look(gateway, job).state is JobState.QUEUED
    gateway.advance(now_ns=LATER + 2 * SECOND)
    outcome = look(gateway, job).outcome
    assert outcome is not None and outcome.cancelled is reason


def test_a_job_given_back_until_an_instant_runs_then_and_has_not_failed(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE)
    assert gateway.release(granted(gateway), not_before_ns=LATER) == job
    lease = runs_exactly_at_later(gateway, clock, job)
    view = look(gateway, job)
    assert (lease.attempt, view.attempts, view.requeues, view.preemptions) == (2, 0, 1, 0)
    counters = gateway.stats().counters
    assert (counters.released, counters.preempted, counters.retries, counters.requeues) == (1, 0, 0, 1)


def test_a_block_gives_its_job_back_until_an_instant(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE)
    with gateway.lease() as lease:
        assert lease is not None
        assert lease.release(not_before_ns=instant(LATER), gpu_seconds=0) == job
    assert lease.ended
    with pytest.raises(SupersededError):
        lease.release(not_before_ns=LATER)
    runs_exactly_at_later(gateway, clock, job)


def test_a_transaction_gives_a_lease_back_until_an_instant_and_fills_its_slot(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], seed=1, clock=clock)
    first, second = (gateway.submit("acme", ROUTE) for _ in range(2))
    lease = granted(gateway)
    with gateway.transaction() as tx:
        released = tx.release(lease, not_before_ns=LATER)
        step = tx.dispatch()
    assert (released.value, step.value.job) == (first, second)
    assert gateway.explain(first) == WaitReason("not_before", LATER)


def test_who_is_given_back_too_often_is_in_error(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], releases_max=1, seed=1, clock=clock)
    job = gateway.submit("acme", ROUTE)
    granted(gateway).release(not_before_ns=START)
    assert look(gateway, job).state is JobState.QUEUED
    assert granted(gateway).release(not_before_ns=LATER) == job
    view = look(gateway, job)
    assert view.failure is not None
    assert (view.state, view.failure.kind) == (JobState.ERROR, FailureKind.LOST)
    assert view.failure.message == "it was given back too often"
    assert (view.requeues, gateway.stats().counters.released) == (1, 2)


BAD: list[Callable[[Gateway, Any], object]] = [
    lambda gateway, at: gateway.submit("acme", ROUTE, not_before_ns=at),
    lambda gateway, at: Submit("acme", ROUTE, not_before_ns=at),
    lambda gateway, at: gateway.transaction().submit("acme", ROUTE, not_before_ns=at),
    lambda gateway, at: gateway.release(1, not_before_ns=at),
    lambda gateway, at: granted(gateway).release(not_before_ns=at),
    lambda gateway, at: gateway.transaction().release(1, not_before_ns=at),
]
NAMES = ["submit", "Submit", "tx.submit", "release", "lease.release", "tx.release"]


@pytest.mark.parametrize("call", BAD, ids=NAMES)
@pytest.mark.parametrize("at", [-1, 2**64, datetime(1969, 12, 31, tzinfo=timezone.utc)], ids=["-1", "2**64", "1969"])
def test_an_instant_that_cannot_be_is_refused_by_its_name(
    gateway: Gateway, call: Callable[[Gateway, Any], object], at: object
) -> None:
    gateway.submit("acme", ROUTE)
    with pytest.raises(InputError) as caught:
        call(gateway, at)
    assert (caught.value.number, caught.value.field) == (206, "not_before_ns")
    assert caught.value.message == (
        "not_before_ns is malformed: expected an instant from 0 to 2^64 nanoseconds since the Unix epoch"
    )


@pytest.mark.parametrize("call", BAD, ids=NAMES)
@pytest.mark.parametrize("at", [1.5, "soon", datetime(2030, 1, 1)], ids=["float", "str", "no zone"])
def test_what_is_no_instant_is_a_type_error(
    gateway: Gateway, call: Callable[[Gateway, Any], object], at: object
) -> None:
    gateway.submit("acme", ROUTE)
    with pytest.raises(TypeError):
        call(gateway, at)


@pytest.mark.parametrize("name", ["releases_max", "preemptions_max"])
def test_a_limit_beyond_a_million_is_refused_by_its_name(name: str) -> None:
    Gateway(**{name: 1_000_000})  # type: ignore[arg-type]
    with pytest.raises(OutOfRangeError) as caught:
        Gateway(**{name: 1_000_001})  # type: ignore[arg-type]
    assert (caught.value.number, caught.value.field) == (204, name)
    assert caught.value.message == f"{name} is 1000001, allowed is 0 to 1000000"


def test_a_worker_that_waits_is_woken_at_the_instants(gateway: Gateway, clock: Clock, virtual: Callable[..., Any]) -> None:
    seen: list[tuple[int, int]] = []

    async def work() -> None:
        leases = gateway.leases(backend="flux-1")
        async for lease in leases:
            with lease:
                seen.append((lease.attempt, (clock.now - START) // 1_000_000))
                if lease.attempt == 1:
                    lease.release(not_before_ns=clock.now + 5 * SECOND)
                else:
                    lease.complete("x")
                    leases.stop()

    async def main() -> bool:
        worker = asyncio.create_task(work())
        await asyncio.sleep(0)
        job = gateway.submit("acme", ROUTE, not_before_ns=LATER)
        outcome = await gateway.result(job)
        await worker
        return bool(outcome)

    assert virtual(main())
    assert seen == [(1, 10_000), (2, 15_000)]
    assert gateway.waiting == 0
