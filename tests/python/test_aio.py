"""Waiting in asyncio: exact in virtual time, the same under uvloop, and from other threads."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import (
    Backend,
    CancelReason,
    CustomerPolicy,
    Gateway,
    JobId,
    JobState,
    PoisonedError,
    RateLimit,
    Timeouts,
    UnknownBackendError,
    UnknownJobError,
    WatchKind,
)
from libgateway.aio import sleep_ns

from conftest import ROUTE, SECOND, START, Clock, flux

Run = Callable[..., Any]


async def turns(n: int = 10) -> None:
    """Lets everybody else have their turn."""
    for _ in range(n):
        await asyncio.sleep(0)


def idle(gateway: Gateway) -> bool:
    """Whether nobody waits and no timer is left."""
    return len(gateway._waiters) == 0 and not gateway._waiters._states


def test_a_worker_gets_each_job_once_in_order(gateway: Gateway, virtual: Run) -> None:
    async def worker(done: list[int]) -> None:
        async for lease in gateway.leases(backend="flux-1"):
            with lease:
                done.append(lease.job.int)
                await sleep_ns(SECOND)
                lease.complete("x")

    async def main() -> list[int]:
        done: list[int] = []
        workers = [asyncio.create_task(worker(done)) for _ in range(4)]
        await turns()
        jobs = [gateway.submit("acme", ROUTE, id=JobId(n)) for n in range(20)]
        outcomes = await asyncio.gather(*(gateway.result(job) for job in jobs))
        assert all(outcomes) and {outcome.output for outcome in outcomes} == {"x"}
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        return done

    assert virtual(main()) == list(range(20))
    assert idle(gateway) and gateway.stats().running == 0


def test_a_result_comes_at_the_exact_instant_of_a_deadline(gateway: Gateway, clock: Clock, virtual: Run) -> None:
    gateway.drain_backend("flux-1")

    async def main() -> int:
        job = gateway.submit("acme", ROUTE, timeouts=Timeouts(queue=7.5))
        outcome = await gateway.result(job)
        assert outcome.cancelled is CancelReason.QUEUE_TIMEOUT and not outcome
        view = gateway.job(job)
        assert view is not None and view.finished_ns is not None
        return view.finished_ns

    assert virtual(main()) == START + 7 * SECOND + SECOND // 2
    assert idle(gateway)


def test_a_deadline_that_moved_away_is_waited_for_again(clock: Clock, virtual: Run) -> None:
    gateway = Gateway(backends=[flux(lease_for=10)], losses_max=0, clock=clock)

    async def main() -> int:
        job = gateway.submit("acme", ROUTE)
        lease = gateway.dispatch()
        assert lease is not None
        task = asyncio.create_task(gateway.result(job))
        await sleep_ns(5 * SECOND)
        beat = lease.heartbeat()
        outcome = await task
        assert outcome.failure is not None and outcome.failure.kind == "lost"
        view = gateway.job(job)
        assert view is not None and view.finished_ns == beat
        return beat

    assert START + 15 * SECOND <= virtual(main()) < START + 16 * SECOND
    assert idle(gateway)


def test_a_worker_is_woken_by_tokens_backoff_and_lost_leases(clock: Clock, virtual: Run) -> None:
    policy = CustomerPolicy(rate=RateLimit(per_second=1, burst=1))
    gateway = Gateway(backends=[flux(slots=9, lease_for=100)], customers={"acme": policy}, clock=clock)
    for _ in range(3):
        gateway.submit("acme", ROUTE)
    retried = gateway.submit("zoo", ROUTE)

    async def main() -> list[tuple[str, int]]:
        seen = []
        leases = gateway.leases()
        async for lease in leases:
            seen.append((lease.customer, (clock.now - START) // SECOND))
            if lease.customer == "zoo":
                if lease.attempt == 1:
                    lease.fail("timeout", retry_after=10)
                elif lease.attempt == 3:
                    lease.complete("x")
                    leases.stop()
                # The second attempt is left to be lost.
            else:
                lease.complete("x")
        return seen

    seen = virtual(main())
    assert sorted(seen) == [("acme", 0), ("acme", 1), ("acme", 2), ("zoo", 0), ("zoo", 10), ("zoo", 110)]
    view = gateway.job(retried)
    assert view is not None and view.state is JobState.COMPLETE and view.requeues == 1
    assert idle(gateway)


def test_a_leap_that_is_not_believed_does_not_make_a_waiter_spin(gateway: Gateway, clock: Clock, virtual: Run) -> None:
    gateway.submit("acme", ROUTE)
    assert gateway.dispatch() is not None
    clock.tick(7_200 * SECOND)
    gateway.advance()
    rounds = 0

    async def main() -> None:
        nonlocal rounds
        task = asyncio.create_task(gateway.result(gateway.submit("acme", ROUTE, timeouts=Timeouts(total=50))))
        gateway.drain_backend("flux-1")
        fire = gateway._waiters._fire

        def counted(state: Any) -> None:
            nonlocal rounds
            rounds += 1
            fire(state)

        gateway._waiters._fire = counted  # type: ignore[method-assign]
        assert (await task).cancelled is CancelReason.TOTAL_TIMEOUT

    virtual(main())
    assert rounds <= 3


def test_watching_tells_the_present_then_changes_then_the_end(gateway: Gateway, virtual: Run) -> None:
    gateway.put_backend(flux(slots=1))
    first = gateway.submit("acme", ROUTE)
    job = gateway.submit("acme", ROUTE)

    async def watch() -> list[Any]:
        return [(event.kind, event.position, event.progress, event.outcome) async for event in gateway.watch(job)]

    async def main() -> list[Any]:
        task = asyncio.create_task(watch())
        await turns()
        with gateway.lease() as lease:
            assert lease is not None and lease.job == first
            await turns()
            lease.complete("x")
        await turns()
        with gateway.lease() as lease:
            assert lease is not None
            await turns()
            lease.progress(0.5)
            await turns()
            lease.complete("y")
        return await task

    events = virtual(main())
    assert [event[:3] for event in events] == [
        (WatchKind.QUEUED, 1, None),
        (WatchKind.QUEUED, 0, None),
        (WatchKind.RUNNING, None, 0.0),
        (WatchKind.RUNNING, None, 0.5),
        (WatchKind.ENDED, None, None),
    ]
    assert events[-1][3].output == "y"
    assert idle(gateway)


def test_what_is_not_known_is_told_at_once(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        with pytest.raises(UnknownJobError):
            await gateway.result(JobId(1))
        assert [event.kind async for event in gateway.watch(str(JobId(1)))] == [WatchKind.GONE]
        with pytest.raises(UnknownBackendError):
            await gateway.leases(backend="nobody").__anext__()
        job = gateway.submit("acme", ROUTE)
        task = asyncio.create_task(gateway.result(job))
        await turns()
        gateway.cancel(job)
        gateway.delete(job)
        # Who waited gets the end, though the record left with it; who comes later does not.
        assert (await task).cancelled == CancelReason.REQUESTED
        with pytest.raises(UnknownJobError):
            await gateway.result(job)

    virtual(main())
    assert idle(gateway)


def test_a_hundred_that_wait_get_a_hundred_outcomes_however_few_are_kept(clock: Clock, virtual: Run) -> None:
    for gateway in (
        Gateway(backends=[flux(slots=100)], seed=1, clock=clock, retained_max=1),
        Gateway(backends=[flux(slots=100)], seed=1, clock=clock, retained_bytes_max=0),
    ):

        async def main(gateway: Gateway = gateway) -> list[str]:
            jobs = [gateway.submit("acme", ROUTE, id=JobId(n)) for n in range(100)]
            results = [asyncio.create_task(gateway.result(job)) for job in jobs]
            events = asyncio.create_task(kinds(gateway, jobs[0]))
            await turns()
            for lease in gateway.dispatch_many(100):
                gateway.complete(lease, str(lease.job.int))
            assert (await events)[-1] is WatchKind.ENDED
            return [str((await result).output) for result in results]

        async def kinds(gateway: Gateway, job: JobId) -> list[WatchKind]:
            return [event.kind async for event in gateway.watch(job)]

        assert virtual(main()) == [str(n) for n in range(100)]
        assert idle(gateway)
        assert sum(gateway.job(JobId(n)) is not None for n in range(100)) <= 1


def test_the_end_of_a_job_costs_its_own_watchers_a_look_and_no_others(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        jobs = [gateway.submit("acme", ROUTE) for _ in range(2_000)]
        tasks = [asyncio.create_task(gateway.result(job)) for job in jobs]
        await turns()
        before = gateway._waiters.attempts
        gateway.cancel(jobs[7])
        await tasks[7]
        await turns()
        assert gateway._waiters.attempts - before <= 2
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual(main())
    assert idle(gateway)


def test_positions_are_told_at_a_bounded_rate_and_all_of_them_in_the_end(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        jobs = [gateway.submit("acme", ROUTE) for _ in range(3_000)]
        told: dict[JobId, int | None] = {}

        async def watch(job: JobId) -> None:
            async for event in gateway.watch(job):
                told[job] = event.position

        tasks = [asyncio.create_task(watch(job)) for job in jobs]
        await turns()
        before = gateway._waiters.attempts
        begun = loop.time()
        for job in jobs[:50]:
            gateway.cancel(job)
            await turns()
        ended = 50 * 3
        looked = gateway._waiters.attempts - before
        # All fifty ends are one moment: a thousand positions were looked at, and who was told looks for more.
        assert loop.time() == begun and looked <= ended + 3 * 1_000, looked
        while any(told[job] != n for n, job in enumerate(jobs[50:])):
            await sleep_ns(SECOND // 10)
            assert loop.time() - begun < 1.0
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    virtual(main())
    gc.collect()
    assert idle(gateway)


def test_transactions_that_wait_are_woken_by_no_step_that_was_taken_back(gateway: Gateway, virtual: Run) -> None:
    async def pair() -> set[JobId]:
        async with gateway.transaction() as tx:
            first, second = tx.dispatch(), tx.dispatch()
        return {first.value.job, second.value.job}

    async def main() -> None:
        gateway.submit("acme", ROUTE)
        tasks = [asyncio.create_task(pair()) for _ in range(2)]
        await turns(200)
        # Each looks once, and once more when it stands in line.
        assert gateway._waiters.attempts == 2 and gateway.commands <= 2 + 2 * 2
        for _ in range(3):
            gateway.submit("acme", ROUTE)
        pairs = await asyncio.gather(*tasks)
        assert len(pairs[0] | pairs[1]) == 4

    virtual(main())
    assert idle(gateway)


def test_poison_wakes_everybody_who_waits(clock: Clock, virtual: Run) -> None:
    class Poisonable(Gateway):
        """Answers as a gateway does after a call panicked under its lock."""

        poisoned = False

        def _check(self) -> None:
            if Poisonable.poisoned:
                raise PoisonedError("a call panicked under the lock")

        def _news(self, first: int) -> Any:
            self._check()
            return super()._news(first)

        def _outcome(self, watch: Any) -> Any:
            self._check()
            return super()._outcome(watch)

        def dispatch(self, **more: Any) -> Any:
            self._check()
            return super().dispatch(**more)

        def _run(self, *args: Any, **more: Any) -> Any:
            self._check()
            return super()._run(*args, **more)

        def _poll(self, watch: Any) -> Any:
            self._check()
            return super()._poll(watch)

    gateway = Poisonable(backends=[flux(slots=1)], seed=1, clock=clock)

    async def transact() -> None:
        async with gateway.transaction() as tx:
            tx.dispatch()
            tx.dispatch()

    async def main() -> None:
        job = gateway.submit("acme", ROUTE)
        gateway.pause(ROUTE)
        waits: list[Any] = [gateway.result(job), gateway.leases().__anext__(), transact(), watch(job)]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await turns()
        Poisonable.poisoned = True
        gateway._wake()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(end) for end in ends] == [PoisonedError] * 4

    async def watch(job: JobId) -> None:
        async for _ in gateway.watch(job):
            pass

    virtual(main())


def test_a_block_waits_for_a_lease_and_ends_it(gateway: Gateway, virtual: Run) -> None:
    async def work() -> str:
        async with gateway.lease(route=ROUTE) as lease:
            lease.complete("x")
            return str(lease.job)

    async def main() -> None:
        task = asyncio.create_task(work())
        await turns()
        job = gateway.submit("acme", ROUTE)
        assert await task == str(job)

    virtual(main())
    assert idle(gateway)


def test_stopping_ends_the_iteration_and_takes_no_further_lease(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        leases = gateway.leases()
        task = asyncio.create_task(leases.__anext__())
        await turns()
        leases.stop()
        with pytest.raises(StopAsyncIteration):
            await task
        gateway.submit("acme", ROUTE)
        assert [lease async for lease in leases] == []

    virtual(main())
    assert idle(gateway) and gateway.stats().queued == 1


def test_change_is_told(gateway: Gateway, virtual: Run) -> None:
    async def main() -> None:
        task = asyncio.create_task(gateway.changed())
        await turns()
        assert not task.done()
        gateway.put_backend(Backend("wan-1", modality="image", family="wan"))
        await task

    virtual(main())
    assert idle(gateway)


def test_events_that_were_fetched_or_dropped_wake_everybody(clock: Clock, virtual: Run) -> None:
    gateway = Gateway(backends=[flux(slots=50)], events_max=2, clock=clock)

    async def main() -> None:
        jobs = [gateway.submit("acme", ROUTE) for _ in range(10)]
        tasks = [asyncio.create_task(gateway.result(job)) for job in jobs]
        await turns()
        for lease in gateway.dispatch_many(10):
            lease.complete("x")
        gateway.poll_events()
        assert all(await asyncio.gather(*tasks))

    virtual(main())
    assert idle(gateway)


def test_it_works_in_real_time_and_with_other_threads(run: Run) -> None:
    gateway = Gateway(backends=[flux(slots=64)])
    count = 300

    def workers() -> None:
        done = 0
        while done < count:
            for lease in gateway.dispatch_many(16):
                lease.complete(b"x")
                done += 1

    async def main() -> int:
        thread = threading.Thread(target=workers)
        thread.start()
        try:
            jobs = [gateway.submit(f"c{n % 7}", ROUTE) for n in range(count)]
            outcomes = await asyncio.gather(*(gateway.result(job) for job in jobs))
        finally:
            thread.join()
        return sum(map(bool, outcomes))

    assert run(main()) == count
    assert idle(gateway)


def test_real_deadlines_fire_in_real_time(run: Run) -> None:
    gateway = Gateway(backends=[flux()])
    gateway.drain_backend("flux-1")

    async def main() -> None:
        job = gateway.submit("acme", ROUTE, timeouts=Timeouts(queue=0.02))
        outcome = await asyncio.wait_for(gateway.result(job), 60)
        assert outcome.cancelled is CancelReason.QUEUE_TIMEOUT
        view = gateway.job(job)
        assert view is not None and view.finished_ns == view.created_ns + SECOND // 50

    run(main())
    assert idle(gateway)


def test_two_loops_may_wait_for_one_gateway() -> None:
    gateway = Gateway(backends=[flux(slots=64)])
    jobs = [gateway.submit("acme", ROUTE) for _ in range(40)]
    started = threading.Barrier(3)
    outcomes: list[Any] = []

    def wait(own: list[JobId]) -> None:
        async def main() -> None:
            tasks = [asyncio.create_task(gateway.result(job)) for job in own]
            await turns()
            started.wait()
            outcomes.extend(await asyncio.gather(*tasks))

        asyncio.run(main())

    threads = [threading.Thread(target=wait, args=(jobs[n::2],)) for n in range(2)]
    for thread in threads:
        thread.start()
    started.wait()
    for lease in gateway.dispatch_many(100):
        lease.complete("x")
    for thread in threads:
        thread.join()
    assert len(outcomes) == 40 and all(outcomes)
    assert idle(gateway)


def test_a_loop_that_was_closed_on_its_waiters_is_forgotten(gateway: Gateway) -> None:
    loop = asyncio.new_event_loop()
    task = loop.create_task(gateway.leases().__anext__())
    loop.run_until_complete(turns())
    assert len(gateway._waiters) == 1
    task.cancel()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()
    gateway.submit("acme", ROUTE)
    assert not gateway._waiters._states
    gateway.submit("acme", ROUTE)
    assert gateway.stats().queued == 2
    del task
    gc.collect()


def test_a_gateway_that_was_waited_for_is_collected(virtual: Run, clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], clock=clock)

    async def main() -> None:
        task = asyncio.create_task(gateway.leases().__anext__())
        await turns()
        gateway.submit("acme", ROUTE)
        (await task).complete("x")

    virtual(main())
    gone = weakref.ref(gateway)
    del gateway, main
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("hours", [-10, 10])
def test_a_loop_does_not_spin_and_does_not_oversleep_over_a_step_of_the_clock(hours: int, virtual: Run, clock: Clock) -> None:
    # The pause was computed from two clocks: of one that was right again, and of one that had been ten hours off.
    shift = hours * 3_600 * SECOND
    reads = 0

    def host() -> int:
        nonlocal reads
        reads += 1
        return clock.now + shift

    gateway = Gateway(backends=[flux()], seed=1, clock=host)
    gateway.submit("acme", ROUTE)
    gateway.dispatch()

    async def main() -> int:
        nonlocal shift, reads
        job = gateway.submit("acme", ROUTE, timeouts=Timeouts(queue=30))
        result = asyncio.create_task(gateway.result(job))
        await turns()
        shift = 0
        gateway.advance()
        reads, began = 0, clock.now
        outcome = await result
        assert outcome.cancelled is CancelReason.QUEUE_TIMEOUT
        return clock.now - began

    took = virtual(main())
    assert took <= 31 * SECOND and reads < 20, (took, reads)


def test_a_timer_that_was_set_before_a_step_back_is_not_hours_late(virtual: Run, clock: Clock) -> None:
    shift = 10 * 3_600 * SECOND
    gateway = Gateway(backends=[flux()], seed=1, clock=lambda: clock.now + shift)

    async def main() -> int:
        nonlocal shift
        first = gateway.submit("acme", ROUTE, timeouts=Timeouts(queue=30))
        shift = 0
        began = clock.now
        await gateway.result(first)
        return clock.now - began

    # Nobody read the clock between its step and the timer: what passed until then is not known.
    assert virtual(main()) <= 61 * SECOND
