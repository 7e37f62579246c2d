"""How blocks end: whose exception leaves, what becomes of a job whose result was refused, and how progress is told."""

import builtins
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import (
    Backoff,
    BatchSupersededError,
    BillingPolicy,
    EmptyError,
    Failure,
    FailureKind,
    Gateway,
    JobState,
    JobStore,
    MalformedError,
    NoResultError,
    NotNowError,
    OutOfRangeError,
    SupersededError,
    TooLongError,
    Usage,
    UsageExceedsElapsedError,
    WatchKind,
)

from conftest import ROUTE, SECOND, START, Clock, flux


class Broken(Exception):
    """What a clock raises that cannot be read."""


class Stopped(Clock):
    broken = False

    def __call__(self) -> int:
        if self.broken:
            raise Broken("the clock stands")
        return super().__call__()


def refusing(clock: Clock, retries: int = 3) -> Gateway:
    return Gateway(
        backends=[flux(slots=4)],
        backoff=Backoff(jitter=0, retries=retries),
        billing=BillingPolicy(excess="refuse"),
        output_len_max=100,
        seed=1,
        clock=clock,
    )


def settled(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE)
    with gateway.lease() as lease:
        assert lease is not None and lease.job == job
        lease.complete("x")


def test_an_exception_leaves_the_block_of_settlements_though_giving_back_failed(gateway: Gateway, clock: Clock) -> None:
    # What the caller was told was "batch superseded", and the reason was lost.
    settled(gateway, clock)
    error = OSError("the ledger is full")
    with pytest.raises(OSError) as caught:
        with gateway.take_settlements() as taken:
            assert len(taken) == 1 and taken.batch is not None
            gateway.return_settlements(taken.batch)
            gateway.take_settlements()
            raise error
    assert caught.value is error
    assert isinstance(error.__context__, BatchSupersededError) and error.__context__.__context__ is None
    told = "".join(traceback.format_exception(error))
    assert "BatchSupersededError" in told and "the ledger is full" in told


def test_what_came_before_stays_in_the_chain(gateway: Gateway, clock: Clock) -> None:
    settled(gateway, clock)
    with pytest.raises(ValueError) as caught:
        with gateway.take_settlements() as taken:
            assert taken.batch is not None
            gateway.return_settlements(taken.batch)
            gateway.take_settlements()
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("second") from None
    chain, at = [], caught.value.__context__
    while at is not None:
        chain.append(type(at))
        at = at.__context__
    assert chain == [BatchSupersededError, KeyError]
    notes = getattr(caught.value, "__notes__", None)  # From Python 3.11 on.
    assert notes is None or "BatchSupersededError" in notes[0]


def test_settlements_that_could_not_be_confirmed_are_given_back() -> None:
    # The block took the word for the deed: nobody was handed them for a minute.
    clock = Stopped()
    gateway = Gateway(backends=[flux()], seed=1, clock=clock)
    settled(gateway, clock)
    with pytest.raises(Broken) as caught:
        with gateway.take_settlements() as taken:
            clock.broken = True
            try:
                taken.confirm()
            finally:
                clock.broken = False
    assert caught.value.__context__ is None
    with gateway.take_settlements() as again:
        assert len(again) == 1


def test_settlements_are_given_back_and_confirmed_as_before(gateway: Gateway, clock: Clock) -> None:
    settled(gateway, clock)
    with pytest.raises(KeyError) as caught:
        with gateway.take_settlements():
            raise KeyError
    assert caught.value.__context__ is None
    with gateway.take_settlements() as taken:
        assert len(taken) == 1
    assert gateway.stats().unconfirmed == 0


@pytest.mark.parametrize("error", [ValueError("the worker's"), KeyboardInterrupt()])
def test_an_exception_leaves_the_block_of_a_lease_though_the_lease_could_not_be_ended(error: BaseException) -> None:
    clock = Stopped()
    gateway = Gateway(backends=[flux()], seed=1, clock=clock)
    gateway.submit("acme", ROUTE)
    with pytest.raises(type(error)) as caught:
        with gateway.lease() as lease:
            clock.broken = True
            raise error
    assert caught.value is error and isinstance(error.__context__, Broken)
    assert lease is not None and not lease.ended


@pytest.mark.parametrize("max_", [1, 10, 31, 100])
def test_however_short_words_have_to_be_a_block_ends_its_lease(clock: Clock, max_: int) -> None:
    # The words of the failure were longer than an output may be: refused, and the lease went on without a worker.
    gateway = Gateway(backends=[flux()], seed=1, output_len_max=max_, clock=clock)
    for error, text in ((ValueError("ü" * 50), "ValueError: " + "ü" * 50), (None, "the worker ended without a result")):
        job = gateway.submit("acme", ROUTE)
        with pytest.raises((ValueError, NoResultError)):
            with gateway.lease() as lease:
                assert lease is not None
                if error is not None:
                    raise error
        view = gateway.job(job)
        assert view is not None and view.state is JobState.ERROR and view.failure is not None and lease is not None and lease.ended
        kept = text.encode()[:max_].decode(errors="ignore")
        assert view.failure.message == kept


REFUSED: list[tuple[Callable[[Any], Any], type[BaseException]]] = [
    (lambda lease: lease.complete(b"x" * 101), TooLongError),
    (lambda lease: lease.complete(""), EmptyError),
    (lambda lease: lease.complete(None), TypeError),
    (lambda lease: lease.complete("x", gpu_seconds=3600), UsageExceedsElapsedError),
    (lambda lease: lease.complete("x", gpu_seconds=-0.001), MalformedError),
    (lambda lease: lease.complete("x", gpu_seconds=float("nan")), MalformedError),
    (lambda lease: lease.complete("x", gpu_ns=-1), OverflowError),
    (lambda lease: lease.complete("x", usage=Usage(), gpu_ns=1), ValueError),
    (lambda lease: lease.fail("http", "no status"), ValueError),
    (lambda lease: lease.fail("nonsense"), ValueError),
    (lambda lease: lease.fail(Failure("timeout", "x" * 101)), TooLongError),
    (lambda lease: lease.release(gpu_seconds=3600), UsageExceedsElapsedError),
    (lambda lease: lease.cancel(gpu_seconds=-1.0), MalformedError),
    (lambda lease: lease.progress(1.5), MalformedError),
    (lambda lease: lease.progress(ppm=1_000_001), OutOfRangeError),
    (lambda lease: lease.progress(-0.5), MalformedError),
]


@pytest.mark.parametrize(("word", "error"), REFUSED)
def test_a_word_that_is_refused_is_no_final_error_of_the_job(
    clock: Clock, word: Callable[[Any], Any], error: type[BaseException]
) -> None:
    # An output a byte too long, or a progress of 1.0001, and a job was lost that another attempt would have made.
    gateway = refusing(clock)
    job = gateway.submit("acme", ROUTE)
    with pytest.raises(error) as caught:
        with gateway.lease() as lease:
            assert lease is not None
            word(lease)
    view = gateway.job(job)
    assert view is not None and view.failure is not None and lease is not None and lease.ended
    assert (view.state, view.attempts, view.failure.kind, view.failure.retriable) == (
        JobState.QUEUED,
        1,
        FailureKind.BACKEND,
        True,
    )
    assert view.failure.message.startswith(type(caught.value).__name__)


@pytest.mark.parametrize(("word", "error"), REFUSED)
def test_a_lease_whose_word_was_refused_is_still_the_blocks_to_end(
    clock: Clock, word: Callable[[Any], Any], error: type[BaseException]
) -> None:
    gateway = refusing(clock)
    job = gateway.submit("acme", ROUTE)
    with gateway.lease() as lease:
        assert lease is not None
        with pytest.raises(error):
            word(lease)
        assert not lease.ended
        lease.complete("shorter")
    view = gateway.job(job)
    assert view is not None and view.state is JobState.COMPLETE


def test_a_refusal_is_one_of_its_own_lease_whoever_was_told(clock: Clock) -> None:
    def gateway_word(gateway: Gateway, lease: Any) -> None:
        gateway.complete(lease, b"x" * 101)

    def steps(gateway: Gateway, lease: Any) -> None:
        with gateway.transaction() as tx:
            tx.complete(lease, b"x" * 101)

    def not_now(gateway: Gateway, lease: Any) -> None:
        with gateway.transaction() as tx:
            tx.complete(lease, "x")
            tx.dispatch()

    def many(gateway: Gateway, lease: Any) -> None:
        [error] = gateway.complete_many([(lease, b"x" * 101)])
        assert isinstance(error, TooLongError)
        raise error

    def another(gateway: Gateway, lease: Any) -> None:
        gateway.submit("acme", ROUTE)
        other = gateway.dispatch()
        assert other is not None
        other.complete(b"x" * 101)

    for say, ends in (
        (gateway_word, JobState.QUEUED),
        (steps, JobState.QUEUED),
        (many, JobState.QUEUED),
        (lambda gateway, lease: gateway.cancel_lease(lease, gpu_seconds=3600), JobState.QUEUED),
        (not_now, JobState.QUEUED),
        (another, JobState.ERROR),
        (lambda gateway, lease: gateway.submit("", ROUTE), JobState.ERROR),
    ):
        gateway = refusing(clock)
        job = gateway.submit("acme", ROUTE)
        with pytest.raises((TooLongError, EmptyError, NotNowError, UsageExceedsElapsedError)):
            with gateway.lease() as lease:
                say(gateway, lease)
        view = gateway.job(job)
        assert view is not None and view.state is ends, say


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions came with Python 3.11")
def test_a_group_of_exceptions_is_what_all_in_it_are(clock: Clock) -> None:
    group = getattr(builtins, "ExceptionGroup", None)
    assert group is not None
    gateway = refusing(clock)

    def refusal(lease: Any) -> BaseException:
        with pytest.raises(TooLongError) as caught:
            lease.complete(b"x" * 101)
        return caught.value

    cases: list[tuple[Callable[[Any], list[BaseException]], FailureKind, JobState]] = [
        (lambda lease: [TimeoutError(), group("", [TimeoutError()])], FailureKind.TIMEOUT, JobState.QUEUED),
        (lambda lease: [TimeoutError(), ConnectionError()], FailureKind.BACKEND, JobState.ERROR),
        (lambda lease: [group("", [refusal(lease)])], FailureKind.BACKEND, JobState.QUEUED),
        (lambda lease: [refusal(lease), OSError()], FailureKind.BACKEND, JobState.ERROR),
    ]
    for errors, kind, ends in cases:
        job = gateway.submit("acme", ROUTE)
        with pytest.raises(group):
            with gateway.lease() as lease:
                assert lease is not None and lease.job == job
                raise group("several", errors(lease))
        view = gateway.job(job)
        assert view is not None and view.failure is not None and (view.failure.kind, view.state) == (kind, ends)
        if ends is JobState.QUEUED:
            gateway.cancel(job)


def test_a_result_that_is_refused_each_time_ends_when_the_policy_says_so(clock: Clock) -> None:
    gateway = refusing(clock, retries=2)
    job = gateway.submit("acme", ROUTE)
    for attempt in (1, 2, 3):
        with pytest.raises(TooLongError):
            with gateway.lease() as lease:
                assert lease is not None and lease.attempt == attempt
                lease.complete(b"x" * 101)
        clock.tick(60 * SECOND)
        gateway.advance()
    view = gateway.job(job)
    assert view is not None and (view.state, view.attempts) == (JobState.ERROR, 3)


def test_a_refused_result_of_a_lease_that_was_taken_ends_the_block_in_peace(clock: Clock) -> None:
    gateway = refusing(clock)
    job = gateway.submit("acme", ROUTE)
    with pytest.raises(SupersededError) as caught:
        with gateway.lease() as lease:
            assert lease is not None
            gateway.cancel(job)
            lease.complete("x")
    assert caught.value.__context__ is None and lease is not None and lease.ended


def test_progress_without_a_number_is_a_heartbeat(gateway: Gateway, clock: Clock) -> None:
    # It set the job back to 0.
    job = gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    lease.progress(0.75)
    events = gateway.next_event
    clock.tick(SECOND)
    assert lease.progress() == lease.heartbeat() == gateway.progress(lease) == START + 301 * SECOND
    with gateway.transaction() as tx:
        step = tx.progress(lease)
    view = gateway.job(job)
    assert step.value == START + 301 * SECOND and gateway.next_event == events
    assert view is not None and (view.progress, view.progress_ppm) == (0.75, 750_000)


def test_progress_is_a_fraction_or_parts_per_million_wherever_it_is_told_and_read(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None
    store = JobStore(now_ns=0)
    stored = store.insert("acme", now_ns=0)
    attempt = store.start(stored, now_ns=0)

    def steps(*args: Any, **kwargs: Any) -> None:
        with gateway.transaction() as tx:
            tx.progress(lease, *args, **kwargs)

    def read() -> tuple[Any, ...]:
        view = gateway.job(job)
        event = gateway._poll(gateway._watch(job))
        assert view is not None and event and event.kind is WatchKind.RUNNING
        assert (event.progress, event.progress_ppm) == (view.progress, view.progress_ppm)
        return view.progress, view.progress_ppm

    def read_stored() -> tuple[Any, ...]:
        view = store.get(stored)
        assert view is not None
        return view.progress, view.progress_ppm

    ways: list[tuple[Callable[..., Any], Callable[[], tuple[Any, ...]], bool]] = [
        (lease.progress, read, False),
        (lambda *args, **kwargs: gateway.progress(lease, *args, **kwargs), read, True),
        (steps, read, True),
        (lambda *args, **kwargs: store.progress(stored, attempt, *args, now_ns=0, **kwargs), read_stored, True),
    ]
    for tell, told, old in ways:
        tell(0.0)
        assert told() == (0.0, 0)
        tell(0.25)
        assert told() == (0.25, 250_000)
        tell(ppm=333_333)
        assert told() == (0.333333, 333_333)
        tell(1.0)
        assert told() == (1.0, 1_000_000)
        with pytest.raises(ValueError):
            tell(0.5, ppm=500_000)
        with pytest.raises(ValueError):
            tell(1.01)
        if old:
            for args, kwargs in (((7,), {}), ((), {"progress_ppm": 7})):
                with pytest.warns(DeprecationWarning, match="ppm") as caught:
                    tell(*args, **kwargs)
                assert told() == (0.000007, 7) and caught[0].filename == __file__
            with pytest.raises(ValueError):
                tell(progress_ppm=1, ppm=1)
    with pytest.raises(EmptyError):
        store.progress(stored, attempt, now_ns=0)


def test_a_store_fails_a_job_for_good_and_a_gateway_decides(gateway: Gateway, clock: Clock) -> None:
    store = JobStore(now_ns=0)
    for failure in (("http", "busy", 503), (Failure("http", "busy", status=503, retriable=True),)):
        job = store.insert("acme", now_ns=0)
        kind, *message = failure
        more: dict[str, Any] = {"status": 503, "retriable": True} if message else {}
        store.fail(job, store.start(job, now_ns=0), kind, *message[:1], now_ns=0, **more)  # type: ignore[arg-type]
        view = store.get(job)
        assert view is not None and view.state is JobState.ERROR and view.outcome is not None
        found = view.outcome.failure
        assert found is not None and (found.status, found.message, found.retriable) == (503, "busy", True)
    job = gateway.submit("acme", ROUTE)
    lease = gateway.dispatch()
    assert lease is not None and gateway.fail(lease, "http", "busy", status=503) == START + SECOND
    waits = gateway.job(job)
    assert waits is not None and (waits.state, waits.attempts) == (JobState.QUEUED, 1)


def test_attempts_count_what_they_say(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE)
    numbers = []
    for end in ("release", "fail", "preempt", "complete"):
        lease = gateway.dispatch()
        assert lease is not None
        numbers.append(lease.attempt)
        if end == "preempt":
            gateway.preempt(job)
        else:
            getattr(lease, end)(*{"fail": ("timeout",), "complete": ("x",)}.get(end, ()))
        clock.tick(10 * SECOND)
        gateway.advance()
    view = gateway.job(job)
    assert numbers == [1, 2, 3, 4] and view is not None
    assert (view.attempts, view.requeues, view.preemptions) == (1, 2, 1)
    with gateway.take_settlements() as taken:
        assert (taken[0].attempts, taken[0].requeues) == (1, 2)
