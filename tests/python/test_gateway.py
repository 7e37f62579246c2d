"""The machine through Python: jobs from submission to settlement, views, batches, snapshots, time."""

import gc
import json
import pickle
import weakref
from datetime import timedelta
from decimal import Decimal

import pytest
from libgateway import (
    Backend,
    BackendKind,
    BreakerConfig,
    BreakerState,
    CancelReason,
    ChangedError,
    CustomerPolicy,
    EndedError,
    EventKind,
    Failure,
    FailureKind,
    FullError,
    Gateway,
    IdempotencyConflictError,
    JobId,
    JobState,
    PriceBook,
    Priority,
    RateLimit,
    Route,
    Submit,
    SupersededError,
    Task,
    Timeouts,
    Usage,
)

from conftest import ROUTE, SECOND, START, Clock, flux


def test_a_job_runs_from_submission_to_settlement(clock: Clock) -> None:
    prices = PriceBook(1, prices={("flux/dev", "*"): Decimal("0.0012")})
    gateway = Gateway(backends=[flux(slots=4)], prices=prices, clock=clock)
    job = gateway.submit("acme", ROUTE, b"a red fox", priority=Priority.HIGH)
    assert gateway.position(job) == 0
    lease = gateway.dispatch()
    assert lease is not None
    assert (lease.job, lease.customer, lease.backend, lease.route) == (job, "acme", "flux-1", "image/flux/dev")
    assert (lease.task, lease.payload, lease.attempt, lease.warm, lease.probe) == (Task.T2I, b"a red fox", 1, False, False)
    assert lease.deadline_ns == START + 300 * SECOND
    clock.tick(2 * SECOND)
    assert lease.progress(0.25) == START + 302 * SECOND
    view = gateway.job(job)
    assert view is not None and (view.progress_ppm, view.state, view.lease) == (250_000, JobState.RUNNING, lease.id)
    settled = lease.complete("https://cdn/1.webp", gpu_seconds=Decimal("1.7"), device="GPU-8f2c")
    assert (settled.job, settled.gpu_seconds, settled.charge) == (job, Decimal("1.7"), Decimal("0.00204"))
    view = gateway.job(str(job))
    assert view is not None and view.outcome is not None
    assert (view.state, view.outcome.output, bool(view.outcome)) == (JobState.COMPLETE, "https://cdn/1.webp", True)
    with gateway.take_settlements() as settlements:
        [one] = settlements
        assert (one.number, one.job, one.customer, one.tier) == (1, job, "acme", "standard")
        assert (one.gpu_seconds, one.charge, one.price) == (Decimal("1.7"), Decimal("0.00204"), "0.0012/s")
        assert [(own.device, own.gpu_seconds) for own in one.devices] == [("GPU-8f2c", Decimal("1.7"))]
        assert one.finished - one.created == timedelta(seconds=2) and one.started == one.created
        assert pickle.loads(pickle.dumps(one)) == one and hash(one) and one == type(one).from_json(one.to_json())
    assert gateway.stats().unconfirmed == 0
    assert gateway.stats().charged == Decimal("0.00204")


def test_settlements_that_could_not_be_kept_are_handed_out_again(gateway: Gateway) -> None:
    gateway.cancel(gateway.submit("acme", ROUTE))
    with pytest.raises(OSError):
        with gateway.take_settlements():
            raise OSError("the disk is full")
    assert len(gateway.take_settlements()) == 1
    assert len(gateway.take_settlements()) == 0


def test_a_confirmed_batch_is_confirmed_once(gateway: Gateway) -> None:
    gateway.cancel(gateway.submit("acme", ROUTE))
    settlements = gateway.take_settlements()
    assert settlements.batch is not None and settlements[0].number == 1
    assert (settlements.confirm(), settlements.confirm()) == (1, 0)


def test_a_failure_is_tried_again_at_its_instant_and_not_before(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    at = lease.fail("http", "loading", status=503, retry_after=5)
    assert at == START + 5 * SECOND
    reason = gateway.explain(job)
    assert reason is not None and (reason.kind, reason.until_ns, reason.failed_on) == ("not_before", at, ("flux-1",))
    clock.now = at - 1
    assert gateway.dispatch() is None
    clock.now = at
    again = gateway.dispatch()
    assert again is not None and again.attempt == 2
    assert again.fail(Failure("rejected")) is None
    view = gateway.job(job)
    assert view is not None and view.failure is not None
    assert (view.state, view.failure.kind, view.attempts) == (JobState.ERROR, FailureKind.REJECTED, 2)


def test_a_late_result_changes_nothing(gateway: Gateway, clock: Clock) -> None:
    gateway.submit("acme", ROUTE)
    [lease] = gateway.dispatch_to("flux-1")
    clock.tick(300 * SECOND)
    with pytest.raises(SupersededError):
        lease.complete("late")
    assert lease.ended
    [again] = gateway.dispatch_to("flux-1", 5)
    assert again.job == lease.job and again.id != lease.id and again != lease
    again.complete(b"\x89PNG")
    view = gateway.job(again.job)
    assert view is not None and view.outcome is not None and view.outcome.output == b"\x89PNG"


def test_the_same_idempotency_key_is_the_same_job(gateway: Gateway) -> None:
    first = gateway.submit("acme", ROUTE, "x", idempotency_key="order-1")
    assert gateway.submit("acme", ROUTE, "x", idempotency_key="order-1") == first
    assert gateway.job_by_key("acme", "order-1") == first
    assert gateway.job_by_key("acme", "order-2") is None


def test_cancelling_tells_why_and_only_once(gateway: Gateway) -> None:
    job = gateway.submit("acme", ROUTE)
    gateway.cancel(job)
    view = gateway.job(job)
    assert view is not None and view.outcome is not None and view.outcome.cancelled is CancelReason.REQUESTED
    assert not view.outcome
    with pytest.raises(EndedError):
        gateway.cancel(job)
    gateway.delete(job)
    assert gateway.job(job) is None and gateway.position(job) is None and gateway.explain(job) is None


def test_a_batch_answers_for_each(gateway: Gateway) -> None:
    submits = [Submit("acme", ROUTE, str(n)) for n in range(3)] + [Submit("acme", "image/wan/dev/t2i")]
    jobs = gateway.submit_many(submits)
    assert jobs[:3] == [submit.id for submit in submits[:3]]
    assert isinstance(jobs[3], Exception) and jobs[3].code == "unknown_route"
    assert gateway.positions([job for job in jobs if isinstance(job, JobId)]) == [0, 1, 2]
    leases = gateway.dispatch_many(10)
    assert [lease.payload for lease in leases] == [b"0", b"1", b"2"]
    assert gateway.heartbeat_many([*leases, 99]) == [START + 300 * SECOND] * 3 + [None]
    settled = gateway.complete_many([(leases[0], "a"), (leases[1], "b", Usage(gpu_ns=0)), (leases[1], "b")])
    assert [getattr(one, "code", "ok") for one in settled] == ["ok", "ok", "superseded"]


def test_routes_are_dispatched_by_name_and_paused(gateway: Gateway) -> None:
    gateway.put_backend(Backend("wan-1", modality="image", family="wan"))
    wan = Route("image/wan/default/i2i")
    gateway.submit("acme", ROUTE)
    job = gateway.submit("acme", wan)
    gateway.pause(wan)
    assert gateway.dispatch(route=wan) is None
    reason = gateway.explain(job)
    assert reason is not None and reason.kind == "paused"
    gateway.resume("image/wan/default/i2i")
    lease = gateway.dispatch(route=wan)
    assert lease is not None and lease.job == job and lease.backend == "wan-1"


def test_backends_drain_leave_and_are_shut_off(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], breaker=BreakerConfig(consecutive_failures=1, open_for=60), clock=clock)
    [view] = gateway.backends()
    assert (view.name, view.backend, view.backend.kind, view.live) == ("flux-1", flux(), BackendKind.TORCH, 0)
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    lease.fail("timeout")
    status = gateway.backends()[0].breaker
    assert (status.state, status.until_ns, status.reason) == (BreakerState.OPEN, START + 60 * SECOND, "consecutive_failures")
    gateway.force_breaker("flux-1", "closed", until=START + 5 * SECOND)
    assert gateway.backends()[0].breaker.forced
    gateway.drain_backend("flux-1")
    found = gateway.backend("flux-1")
    assert found is not None and found.draining and found.failed == 1
    gateway.remove_backend("flux-1")
    assert gateway.backend("flux-1") is None


def test_customers_have_their_limits(gateway: Gateway, clock: Clock) -> None:
    gateway.put_customer("acme", CustomerPolicy(rate=RateLimit(per_second=1, burst=1), queued_max=2, weight=3))
    job = gateway.submit("acme", ROUTE), gateway.submit("acme", ROUTE)
    with pytest.raises(FullError) as caught:
        gateway.submit("acme", ROUTE)
    assert caught.value.field == "queued"
    assert gateway.dispatch() is not None and gateway.dispatch() is None
    reason = gateway.explain(job[1])
    assert reason is not None and (reason.kind, reason.until_ns) == ("customer_rate", START + SECOND)
    view = gateway.customer("acme")
    assert view is not None and (view.weight, view.running, view.queued, view.tokens) == (3, 1, 1, 0)
    gateway.remove_customer("acme")
    view = gateway.customer("acme")
    assert view is not None and not view.own_policy
    assert gateway.customer("nobody") is None


def test_timeouts_end_a_job_at_their_instant(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE, timeouts=Timeouts(queue=timedelta(seconds=2)))
    gateway.drain_backend("flux-1")
    assert gateway.next_deadline_ns == START + 2 * SECOND
    assert gateway.advance(now_ns=START + 2 * SECOND - 1).handled == 0
    assert gateway.advance(now_ns=START + 2 * SECOND).handled == 1
    view = gateway.job(job)
    assert view is not None and view.outcome is not None and view.outcome.cancelled is CancelReason.QUEUE_TIMEOUT


def test_a_step_of_the_clock_is_on_trial_until_somebody_says_that_it_is_right(gateway: Gateway, clock: Clock) -> None:
    gateway.submit("acme", ROUTE)
    assert gateway.dispatch() is not None
    clock.tick(86_400 * SECOND)
    advance = gateway.advance()
    assert (advance.leapt_ns, advance.now_ns) == (86_400 * SECOND, clock.now)
    assert advance.next_deadline_ns == clock.now + 60 * SECOND  # Then the trial ends.
    assert gateway.stats().clock_offset_ns == 86_400 * SECOND
    assert gateway.accept_clock().now_ns == clock.now
    assert gateway.stats().clock_offset_ns == 0


def test_events_are_numbered_and_fetched_once(gateway: Gateway) -> None:
    job = gateway.submit("acme", ROUTE)
    gateway.cancel(job)
    kept = gateway.events_from(2)
    assert [(event.number, event.kind, event.job, event.state) for event in kept] == [
        (2, EventKind.ENDED, job, JobState.CANCELLED)
    ]
    assert [event.kind for event in gateway.poll_events()] == ["queued", "ended"]
    assert gateway.poll_events() == [] and gateway.next_event == 3


def test_a_restored_gateway_goes_on_where_the_first_one_stood(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE, "x")
    again = Gateway.replica(gateway.snapshot(), clock=clock)
    assert again.digest() == gateway.digest() and again.config_json == gateway.config_json
    first, second = gateway.dispatch(), again.dispatch()
    assert first is not None and second is not None and first.job == second.job == job
    assert again.digest() == gateway.digest()


def test_a_worker_that_is_not_remembered_ends_nobody_elses_job(gateway: Gateway, clock: Clock) -> None:
    snapshot = gateway.snapshot()
    assert Gateway.commands_in(snapshot) == gateway.commands
    gateway.submit("alice", ROUTE)
    alice = gateway.dispatch()
    assert alice is not None and alice.id == 1
    for entropy in (0, 7, None):
        restored = Gateway.restore(snapshot, now_ns=START, entropy=entropy, clock=clock)
        assert restored.commands == Gateway.commands_in(snapshot) + 1
        job = restored.submit("bob", ROUTE)
        bob = restored.dispatch()
        assert bob is not None and bob.id == restored.epoch + 1 > 2**52
        with pytest.raises(SupersededError):
            restored.complete(alice.id, "alice.webp")
        view = restored.job(job)
        assert view is not None and view.state is JobState.RUNNING
        restored.complete(bob, "bob.webp")
        assert restored.take_settlements()[0].epoch == restored.epoch
        assert restored.poll_events()[0].epoch == restored.epoch
        assert restored.begin_epoch() == restored.epoch != 0


def test_a_tail_that_is_applied_twice_is_refused_by_number(gateway: Gateway) -> None:
    entry = {"sequence": gateway.commands + 1, "now": START, "command": {"advance": {}}}
    assert "advanced" in gateway.apply(entry)
    digest = gateway.digest()
    error = gateway.apply(entry)["error"]
    assert (error["number"], error["name"], error["field"]) == (1303, "out_of_sequence", "sequence")
    assert gateway.digest() == digest and gateway.commands == entry["sequence"]


def test_slices_are_the_snapshot_and_a_command_in_between_ends_them(gateway: Gateway) -> None:
    for _ in range(2_000):
        gateway.submit("acme", ROUTE)
    slices = list(gateway.slices())
    assert len(slices) > 1 and b"".join(slices) == gateway.snapshot()
    begun = gateway.slices()
    next(begun)
    gateway.advance()
    with pytest.raises(ChangedError):
        next(begun)


def test_a_key_outlives_its_record(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], seed=1, clock=clock, retained_max=0, idempotency_for=10)
    job = gateway.submit("acme", ROUTE, "a", idempotency_key="k")
    gateway.cancel(job)
    assert gateway.job(job) is None and gateway.job_by_key("acme", "k") == job
    clock.tick(10 * SECOND - 1)
    assert gateway.submit("acme", ROUTE, "a", idempotency_key="k") == job
    with pytest.raises(IdempotencyConflictError):
        gateway.submit("acme", ROUTE, "b", idempotency_key="k")
    clock.tick(1)
    assert gateway.submit("acme", ROUTE, "b", idempotency_key="k") != job


def test_the_data_door_takes_text_for_text_and_dicts_for_dicts(gateway: Gateway) -> None:
    entry = {"now": START, "command": {"submit": {"id": str(JobId(1)), "customer": "acme", "route": ROUTE}}}
    assert gateway.apply(entry) == {"submitted": {"job": str(JobId(1))}}
    reply = gateway.apply(json.dumps({"now": START, "command": {"dispatch": {}}}))
    assert json.loads(reply)["leased"]["job"] == str(JobId(1))
    assert json.loads(gateway.apply("dispatch, please"))["error"]["number"] == 1301
    assert gateway.apply_many(["x", '{"now":1,"command":{"cancel":{"job":"%s"}}}' % JobId(1)])[1] == '{"done":{}}'


def test_two_gateways_made_alike_decide_alike(clock: Clock) -> None:
    one, two = (Gateway(backends=[flux()], seed=9, clock=clock) for _ in range(2))
    for gateway in (one, two):
        gateway.submit("acme", ROUTE, id=JobId(5))
        gateway.dispatch()
    assert one.digest() == two.digest()
    assert json.loads(Gateway().config_json)["seed"] != json.loads(Gateway().config_json)["seed"]


def test_a_gateway_in_a_circle_with_its_clock_is_collected() -> None:
    class Host:
        def __init__(self) -> None:
            self.gateway = Gateway(clock=self.read)

        def read(self) -> int:
            return START

    host = Host()
    gone = weakref.ref(host.gateway)
    del host
    gc.collect()
    assert gone() is None


def test_a_clock_that_raises_changes_nothing() -> None:
    def broken() -> int:
        raise OSError("no clock")

    gateway = Gateway(backends=[flux()], clock=broken, now_ns=START)
    before = gateway.digest()
    with pytest.raises(OSError):
        gateway.submit("acme", ROUTE)
    assert gateway.digest() == before


def test_reprs_say_what_it_is(gateway: Gateway) -> None:
    gateway.submit("acme", ROUTE, id=JobId(1))
    assert repr(gateway) == "<Gateway: 1 queued, 0 running, 1 backends>"
    lease = gateway.dispatch()
    assert repr(lease) == "<Lease 1 of j_00000000000000000000000001 on flux-1, attempt 1>"
    assert repr(gateway.backend("flux-1")) == "<BackendView flux-1: 1 of 4 slots>"


def test_who_runs_on_a_backend_is_told_lowest_lane_first(gateway: Gateway) -> None:
    jobs = [gateway.submit("acme", ROUTE, priority=lane) for lane in ("high", "low", "normal", "low")]
    assert len(gateway.dispatch_to("flux-1", 9)) == 4
    running = gateway.running_on("flux-1")
    assert running is not None and [own.id for own in running] == [jobs[i] for i in (1, 3, 2, 0)]
    assert all(own.backend == "flux-1" and own.lease is not None for own in running)
    assert gateway.running_on("nobody") is None
