"""Money at the edges: usage with every end of a lease and after it, exact prices, what has no price, no outbox."""

import asyncio
from decimal import Decimal

import pytest
from libgateway import (
    BillingCollector,
    BillingPolicy,
    EventKind,
    Gateway,
    JobState,
    PriceBook,
    Settlement,
    StillLiveError,
    SupersededError,
    TooLateError,
    Usage,
    UsageExceedsElapsedError,
)

from conftest import ROUTE, SECOND, Clock, flux

PRICES = PriceBook(1, prices={("*", "*"): "0.001"})


def make(clock: Clock, **policy: object) -> Gateway:
    billing = BillingPolicy(**policy)  # type: ignore[arg-type]
    return Gateway(backends=[flux(slots=4)], prices=PRICES, billing=billing, clock=clock)


def settlements(gateway: Gateway) -> list[Settlement]:
    with gateway.take_settlements() as taken:
        return list(taken)


def test_a_result_is_taken_although_the_clock_was_set_back(clock: Clock) -> None:
    gateway = make(clock)
    job = gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    clock.tick(1_500_000_000)  # 2 s have passed, and the clock was set back by half a second
    settled = lease.complete("https://cdn/1.webp", gpu_seconds=Decimal("1.9"))
    view = gateway.job(job)
    assert view is not None and view.state == JobState.COMPLETE
    assert (settled.reported_ns, settled.gpu_seconds, settled.capped) == (1_900_000_000, Decimal("1.615"), True)
    [one] = settlements(gateway)
    assert (one.reported_ns, one.usage_ns, one.capped) == (1_900_000_000, 1_615_000_000, True)
    told = [event for event in gateway.poll_events() if event.kind == EventKind.USAGE_CAPPED]
    assert [(event.job, event.reported_ns, event.billed_ns) for event in told] == [(job, 1_900_000_000, 1_615_000_000)]
    assert gateway.stats().counters.capped == 1


def test_who_wants_it_refuses_what_cannot_be(clock: Clock) -> None:
    gateway = make(clock, excess="refuse")
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    with pytest.raises(UsageExceedsElapsedError):
        lease.complete("x", gpu_seconds=1)
    with pytest.raises(UsageExceedsElapsedError):
        lease.cancel(gpu_seconds=1)
    lease.complete("x", gpu_seconds=Decimal("0.1"))


@pytest.mark.parametrize("payer", ["customer", "house"])
def test_a_client_that_leaves_after_three_seconds_leaves_three_seconds(clock: Clock, payer: str) -> None:
    gateway = make(clock, released=payer, cancelled=payer)
    job = gateway.submit("acme", ROUTE)

    async def stream() -> None:
        lease = gateway.dispatch()
        assert lease is not None
        with lease:
            clock.tick(3 * SECOND)
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(stream())
    gateway.cancel(job)
    [one] = settlements(gateway)
    usage = (3 * SECOND, 0) if payer == "customer" else (0, 3 * SECOND)
    assert (one.usage_ns, one.absorbed_ns) == usage


def test_cancel_and_release_take_usage(clock: Clock) -> None:
    gateway = make(clock)
    jobs = [gateway.submit("acme", ROUTE) for _ in range(3)]
    first, second, third = gateway.dispatch_many(3)
    clock.tick(3 * SECOND)
    assert first.cancel(gpu_seconds=Decimal("2.8")) == jobs[0]
    with pytest.raises(SupersededError):
        first.cancel()
    gateway.cancel(jobs[1], usage=Usage(gpu_seconds=Decimal("2.5"), device="GPU-1"))
    assert third.release(gpu_seconds=1) == jobs[2]
    gateway.cancel(jobs[2])
    told = [(one.gpu_seconds, one.absorbed_ns, one.measured) for one in settlements(gateway)]
    assert told == [(Decimal("2.8"), 0, True), (Decimal("2.5"), 0, True), (Decimal(0), SECOND, True)]
    assert second.ended is False  # nobody told it through this object


def test_usage_told_late_is_an_entry_of_its_own(clock: Clock) -> None:
    gateway = make(clock)
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    with pytest.raises(StillLiveError):
        gateway.correct_usage(lease, gpu_seconds=1)
    clock.tick(3 * SECOND)
    lease.complete("x")
    corrected = gateway.correct_usage(lease.id, gpu_seconds=Decimal("2.8"), device="GPU-1")
    assert (corrected.settlement, corrected.billed_ns, corrected.capped) == (2, 2_800_000_000, False)
    assert gateway.correct_usage(lease, gpu_seconds=Decimal("2.8"), device="GPU-1").settlement is None
    first, second = settlements(gateway)
    assert (first.charge, first.correction) == (Decimal("0.003"), None)
    assert second.correction is not None
    assert (second.correction.corrects, second.correction.lease) == (1, lease.id)
    assert (second.charge, second.correction.charge_credit) == (Decimal(0), Decimal("0.0002"))
    assert Settlement.from_json(second.to_json()) == second
    assert (gateway.stats().charged, gateway.stats().credited) == (Decimal("0.003"), Decimal("0.0002"))
    for _ in range(2):
        clock.tick(1_800 * SECOND)
        gateway.advance()
    with pytest.raises(TooLateError):
        gateway.correct_usage(lease, gpu_seconds=1)


def test_the_same_in_a_transaction(clock: Clock) -> None:
    gateway = make(clock)
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    clock.tick(3 * SECOND)
    with gateway.transaction() as tx:
        cancelled = tx.cancel_lease(lease, usage=Usage(gpu_seconds=2))
        corrected = tx.correct_usage(lease, Usage(gpu_seconds=1))
    assert (cancelled.value, corrected.value.settlement) == (lease.job, 2)


def test_what_has_no_price_is_not_free(clock: Clock) -> None:
    gateway = Gateway(backends=[flux()], clock=clock)
    gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    clock.tick(2 * SECOND)
    settled = lease.complete("x")
    assert (settled.charge, settled.charge_micros) == (None, None)
    [one] = settlements(gateway)
    assert (one.charge, one.price) == (None, None)
    stats = gateway.stats()
    assert (stats.counters.unpriced, stats.unpriced_gpu_seconds, stats.charged) == (1, Decimal(2), Decimal(0))


@pytest.mark.parametrize("given, per", [("0.0084/h", "s"), ("0.0084", "h"), (Decimal("0.0084"), "60min"), ("0.00014", "min")])
def test_a_price_an_hour_costs_for_an_hour_what_is_written(given: Decimal | str, per: str) -> None:
    book = PriceBook(1, prices={("*", "*"): given}, per=per)
    assert book.charge("m", "t", gpu_seconds=3_600) == Decimal("0.0084")
    assert PriceBook.from_json(book.to_json()) == book


def test_without_settlements_nothing_has_to_be_confirmed(clock: Clock) -> None:
    billing = BillingPolicy(settlements=False)
    gateway = Gateway(backends=[flux()], prices=PRICES, billing=billing, jobs_max=1, clock=clock)
    for _ in range(5):
        gateway.submit("acme", ROUTE)
        lease = gateway.dispatch()
        assert lease is not None
        clock.tick(SECOND)
        lease.complete("x")
    assert len(gateway.take_settlements()) == 0
    assert gateway.stats().charged == Decimal("0.005")


def test_the_collector_takes_every_end(clock: Clock) -> None:
    billing = BillingCollector(PriceBook(1, prices={("m", "*"): "3.6/h"}))
    billing.start("a", model="m", now_ns=100 * SECOND)
    receipt = billing.end("a", gpu_seconds=9, now_ns=102 * SECOND)
    assert (receipt.reported_ns, receipt.gpu_seconds, receipt.capped) == (9 * SECOND, Decimal("2.12"), True)
    billing.start("b", model="other", customer="acme", tier="gold", now_ns=110 * SECOND)
    billing.end("b", gpu_seconds=Decimal("0.05"), now_ns=109 * SECOND)
    taken = billing.take(now_ns=110 * SECOND)
    assert taken is not None
    first, second = taken[1]
    assert (first.customer, first.tier, first.clock_back, first.price) == (None, None, False, "3.6/h")
    assert (second.customer, second.tier, second.clock_back, second.charge) == ("acme", "gold", True, None)
    totals = billing.totals
    assert (totals.capped, totals.unpriced, totals.unpriced_ns) == (1, 1, 50_000_000)
