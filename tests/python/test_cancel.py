"""A task that is cancelled while it waits takes nothing with it: no lease, no waiter, no timer, nobody's wake-up."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import Gateway, Timeouts

from conftest import ROUTE, Clock, flux

Run = Callable[..., Any]
ROUNDS = 1_000


async def turns(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def work(gateway: Gateway, rng: random.Random) -> None:
    """A worker of whichever kind, that gives its loop a turn wherever it may."""
    kind = rng.randrange(3)
    if kind == 0:
        async for lease in gateway.leases(backend="flux-1"):
            with lease:
                await turns(rng.randrange(3))
                lease.complete("x")
    elif kind == 1:
        while True:
            async with gateway.lease() as lease:
                await turns(rng.randrange(3))
                lease.complete("x")
    else:
        while True:
            async with gateway.transaction() as tx:
                step = tx.dispatch()
            with step.value as lease:
                await turns(rng.randrange(3))
                lease.complete("x")


async def look(gateway: Gateway, job: Any, rng: random.Random) -> None:
    """Somebody who waits for a job."""
    if rng.randrange(2):
        await gateway.result(job)
    else:
        async for _ in gateway.watch(job):
            await turns(rng.randrange(2))


async def storm(gateway: Gateway, rng: random.Random) -> int:
    """Starts tasks, lets them have some turns, and cancels each at whichever point it has come to."""
    cancelled = 0
    for _ in range(ROUNDS):
        jobs = [gateway.submit(f"c{rng.randrange(3)}", ROUTE) for _ in range(rng.randrange(3))]
        tasks = [asyncio.create_task(work(gateway, rng)) for _ in range(rng.randrange(1, 4))]
        tasks += [asyncio.create_task(look(gateway, job, rng)) for job in jobs]
        await turns(rng.randrange(5))
        rng.shuffle(tasks)
        for task in tasks:
            cancelled += task.cancel()
            await turns(rng.randrange(2))
        await asyncio.gather(*tasks, return_exceptions=True)
        # Whoever had a lease has ended it or given it back, and nobody is on any list.
        assert gateway.stats().running == 0
        assert len(gateway._waiters) == 0 and not gateway._waiters._states
    return cancelled


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_cancellations_leave_nothing_behind(run: Run, seed: int) -> None:
    gateway = Gateway(backends=[flux(slots=2), flux("flux-2", slots=1)])
    assert run(storm(gateway, random.Random(seed))) >= ROUNDS
    # What is left is done by the first who comes: no place, slot or token was lost.
    left = gateway.stats().queued
    done = 0
    while leases := gateway.dispatch_many(3):
        for lease in leases:
            lease.complete("x")
            done += 1
    stats = gateway.stats()
    assert (done, stats.queued, stats.running) == (left, 0, 0)
    assert stats.counters.completed == stats.counters.submitted


@pytest.mark.parametrize("turns_before", range(6))
@pytest.mark.parametrize("turns_after", range(3))
def test_a_wake_up_that_meets_a_cancelled_worker_goes_to_the_next(
    gateway: Gateway, virtual: Run, turns_before: int, turns_after: int
) -> None:
    async def main() -> None:
        first = asyncio.create_task(gateway.leases().__anext__())
        second = asyncio.create_task(gateway.leases().__anext__())
        await turns(5)
        job = gateway.submit("acme", ROUTE)
        await turns(turns_before)
        first.cancel()
        await turns(turns_after)
        if first.done() and not first.cancelled():
            lease = first.result()
            second.cancel()
        else:
            # In virtual time, a wake-up that was lost would be waited for forever, and the loop says so.
            lease = await second
        assert lease.job == job
        lease.complete("x")
        await asyncio.gather(first, second, return_exceptions=True)

    virtual(main())
    assert gateway.stats().running == 0 and len(gateway._waiters) == 0


def test_a_wait_that_ran_out_of_time_took_no_lease(clock: Clock, virtual: Run) -> None:
    gateway = Gateway(backends=[flux()], clock=clock)

    async def main() -> None:
        for _ in range(50):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(gateway.leases().__anext__(), 1)
        job = gateway.submit("acme", ROUTE, timeouts=Timeouts(total=30))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(gateway.result(job), 5)
        assert gateway.position(job) == 0

    virtual(main())
    assert not gateway._waiters._states
