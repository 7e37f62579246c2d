"""A guarded call counts by how it ends, and not by how it is made."""

import asyncio
import builtins
import functools
import gc
import inspect
import sys
import warnings
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from libgateway import (
    BreakerConfig,
    BreakerOpenError,
    BreakerState,
    CircuitBreaker,
    KeyedRateLimiter,
    LimitedError,
    RateLimiter,
)

from conftest import SECOND


def opening(failures: int = 3) -> CircuitBreaker:
    return CircuitBreaker(BreakerConfig(consecutive_failures=failures))


def counts(breaker: CircuitBreaker) -> tuple[int, int]:
    status = breaker.status()
    return status.successes_total, status.failures_total


def probing() -> CircuitBreaker:
    """A breaker whose next call is the one probe."""
    breaker = CircuitBreaker(BreakerConfig(consecutive_failures=1, open_for=1, probe_timeout=None), now_ns=0)
    breaker.failure(breaker.admit(now_ns=0), now_ns=0)
    return breaker


class Awaited:
    """Can be awaited, and is no coroutine."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.name = error, "its own"

    def __await__(self) -> Generator[Any, Any, str]:
        yield from asyncio.sleep(0).__await__()
        if self.error is not None:
            raise self.error
        return "fine"

    async def __aenter__(self) -> "Awaited":
        return self

    async def __aexit__(self, *left: object) -> None:
        pass


def stream(error: BaseException | None) -> Generator[int, None, None]:
    yield 1
    if error is not None:
        raise error


async def astream(error: BaseException | None) -> AsyncGenerator[int, None]:
    yield 1
    await asyncio.sleep(0)
    if error is not None:
        raise error


async def coroutine(error: BaseException | None) -> int:
    await asyncio.sleep(0)
    if error is not None:
        raise error
    return 1


class Called:
    def __call__(self, error: BaseException | None) -> Any:
        return stream(error)

    def bound(self, error: BaseException | None) -> Any:
        return stream(error)


class AsyncCalled:
    async def __call__(self, error: BaseException | None) -> int:
        return await coroutine(error)


def future(error: BaseException | None) -> "Future[int]":
    made: Future[int] = Future()
    made.set_exception(error) if error is not None else made.set_result(1)
    return made


async def afuture(error: BaseException | None) -> "asyncio.Future[int]":
    made = asyncio.get_running_loop().create_future()
    made.set_exception(error) if error is not None else made.set_result(1)
    return made


async def consume(made: Any) -> None:
    if isinstance(made, Future):
        made.result()
    elif inspect.isawaitable(made):
        ended = await made
        if hasattr(ended, "__aiter__") or hasattr(ended, "__await__"):
            await consume(ended)
    elif hasattr(made, "__aiter__"):
        async for _ in made:
            pass
    else:
        for _ in made:
            pass


async def streaming(error: BaseException | None) -> Any:
    return astream(error)


KINDS: list[Callable[[BaseException | None], Any]] = [
    stream,
    astream,
    coroutine,
    Called(),
    AsyncCalled(),
    functools.partial(lambda more, error: stream(error), 1),
    functools.partial(coroutine),
    Called().bound,
    lambda error: coroutine(error),
    lambda error: astream(error),
    future,
    afuture,
    Awaited,
    streaming,
]


@pytest.mark.parametrize("fn", KINDS, ids=lambda fn: getattr(fn, "__qualname__", repr(type(fn))))
def test_of_five_calls_that_fail_at_their_end_three_are_made(fn: Callable[..., Any]) -> None:
    breaker = opening()
    guarded = breaker(fn)

    async def main() -> list[str]:
        seen = []
        for _ in range(5):
            try:
                await consume(guarded(ConnectionError()))
            except (ConnectionError, BreakerOpenError) as error:
                seen.append(type(error).__name__)
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(main()) == ["ConnectionError"] * 3 + ["BreakerOpenError"] * 2
    assert counts(breaker) == (0, 3) and breaker.state() is BreakerState.OPEN
    assert (breaker.status().why, breaker.status().reason_count) == ("3 failures in a row", 3)


@pytest.mark.parametrize("fn", KINDS, ids=lambda fn: getattr(fn, "__qualname__", repr(type(fn))))
def test_a_call_is_a_success_once_it_has_ended_well_and_not_before(fn: Callable[..., Any]) -> None:
    breaker = opening()
    guarded = breaker(fn)

    async def main() -> None:
        made = guarded(None)
        if not isinstance(made, Future):
            assert counts(breaker) == (0, 0)
        await consume(made)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert counts(breaker) == (1, 0)


def test_a_stream_that_its_consumer_closes_is_no_failure_and_frees_the_probe() -> None:
    breaker = probing()
    guarded, aguarded = breaker(stream), breaker(astream)
    made = guarded(None)
    assert next(made) == 1 and not breaker.would_admit()
    made.close()
    assert counts(breaker) == (0, 1) and breaker.would_admit()
    for _ in guarded(None):
        break
    gc.collect()
    assert counts(breaker) == (0, 1) and breaker.would_admit()

    async def main() -> None:
        made = aguarded(None)
        async for _ in made:
            break
        assert not breaker.would_admit()
        await made.aclose()
        assert breaker.would_admit()
        task = asyncio.ensure_future(breaker(coroutine)(None))
        await asyncio.sleep(0)
        assert not breaker.would_admit()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert counts(breaker) == (0, 1) and breaker.would_admit()


def test_a_call_that_nobody_pursues_frees_the_probe() -> None:
    breaker = probing()
    kinds: list[Any] = [stream, lambda error: astream(error), Awaited, lambda error: Future()]
    for fn in kinds:
        made: Any = breaker(fn)(None)
        assert not breaker.would_admit()
        del made
        gc.collect()
        assert breaker.would_admit(), fn
    made = breaker(lambda error: coroutine(error))(None)
    with pytest.warns(RuntimeWarning, match="'coroutine' was never awaited") as caught:
        del made
        gc.collect()
    assert len(caught) == 1
    del caught  # What was warned of is kept there.
    gc.collect()
    assert breaker.would_admit() and counts(breaker) == (0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        breaker(lambda error: coroutine(error))(None).close()
    waits: Future[int] = breaker(lambda: Future())()
    assert waits.cancel() and breaker.would_admit() and counts(breaker) == (0, 1)


def test_what_stands_for_a_stream_behaves_like_it() -> None:
    breaker = opening()

    @breaker
    def echo() -> Generator[str, str, str]:
        """Its words."""
        said = "?"
        while said != "end":
            try:
                said = yield said
            except KeyError as error:
                said = repr(error)
        return "done"

    made: Any = echo()
    assert (made.__name__, echo.__doc__) == ("echo", "Its words.")
    assert [next(made), made.send("a"), made.throw(KeyError("k"))] == ["?", "a", "KeyError('k')"]
    with pytest.raises(StopIteration) as ended:
        made.send("end")
    assert ended.value.value == "done" and counts(breaker) == (1, 0)

    @breaker
    async def aecho() -> Any:
        said = "?"
        while said != "end":
            try:
                said = yield said
            except KeyError as error:
                said = repr(error)

    async def main() -> list[str]:
        made = aecho()
        heard = [await made.__anext__(), await made.asend("a"), await made.athrow(KeyError("k"))]
        with pytest.raises(StopAsyncIteration):
            await made.asend("end")
        return heard

    assert asyncio.run(main()) == ["?", "a", "KeyError('k')"] and counts(breaker) == (2, 0)
    nested = opening()

    @nested
    def outer() -> Iterator[int]:
        yield from breaker(stream)(None)

    assert list(outer()) == [1] and counts(nested) == (1, 0) and counts(breaker) == (3, 0)


def test_a_result_of_any_type_is_given_through() -> None:
    class Unhashable(type):
        __hash__ = None  # type: ignore[assignment]

    class Result(metaclass=Unhashable):
        pass

    breaker, made = opening(), Result()
    assert breaker(lambda: made)() is made and counts(breaker) == (1, 0)
    for result in ([1], iter([1]), range(3), open, Result):
        assert breaker(lambda: result)() is result


def test_a_context_manager_of_a_guarded_generator_turns_exceptions_into_others() -> None:
    breaker = opening()

    @contextmanager
    @breaker
    def turned() -> Iterator[None]:
        try:
            yield
        except KeyError as error:
            raise OSError from error

    @asynccontextmanager
    @breaker
    async def aturned() -> AsyncGenerator[None, None]:
        try:
            yield
        except KeyError:
            pass

    with pytest.raises(OSError):
        with turned():
            raise KeyError
    with turned():
        pass

    async def main() -> None:
        async with aturned():
            raise KeyError

    asyncio.run(main())
    assert counts(breaker) == (2, 1)


def test_what_can_be_awaited_or_entered_still_can() -> None:
    breaker = opening()
    guarded = breaker(Awaited)

    async def main() -> None:
        assert guarded().name == "its own"
        assert await guarded() == "fine"
        async with guarded() as entered:
            assert isinstance(entered, Awaited) and counts(breaker) == (1, 0)
        with pytest.raises(OSError):
            async with guarded():
                raise OSError

    asyncio.run(main())
    assert counts(breaker) == (2, 1)


def test_a_forgotten_error_of_a_future_is_still_told() -> None:
    breaker, told = opening(), []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["message"]))
        breaker(lambda: asyncio.ensure_future(coroutine(OSError())))()
        for _ in range(3):
            await asyncio.sleep(0)
        gc.collect()

    asyncio.run(main())
    assert counts(breaker) == (0, 1) and told == ["Task exception was never retrieved"]


class Refused(Exception):
    status = 404


@pytest.mark.parametrize(
    "kinds",
    [
        Refused,
        (Refused, KeyError),
        [KeyError, Refused],
        {Refused},
        (KeyError, (OSError, Refused)),
        Refused | KeyError,
        lambda error: getattr(error, "status", 0) == 404,
        [KeyError, lambda error: isinstance(error, Refused)],
        functools.partial(lambda kind, error: isinstance(error, kind), Refused),
        iter([Refused]),
    ],
    ids=["class", "tuple", "list", "set", "nested", "union", "function", "mixed", "partial", "iterator"],
)
def test_kinds_of_exceptions_are_told_in_every_usual_way(kinds: Any) -> None:
    for argument, counted in (("answered", (2, 1)), ("ignore", (0, 1))):
        if argument == "ignore" and hasattr(kinds, "__next__"):
            continue  # It was used up.
        breaker = opening()

        @breaker(**{argument: kinds})
        def call(error: BaseException) -> None:
            raise error

        for error in (Refused(), Refused(), ValueError(), KeyboardInterrupt()):
            with pytest.raises(type(error)):
                call(error)
        assert counts(breaker) == counted
    with pytest.raises(Refused):
        with opening().calling(ignore=kinds):
            raise Refused


@pytest.mark.parametrize("kinds", [int, 5, "KeyError", None, [int], (5,)])
def test_what_is_no_kind_of_exceptions_is_refused_where_it_is_said(kinds: Any) -> None:
    with pytest.raises(TypeError):
        opening()(ignore=kinds)
    with pytest.raises(TypeError):
        opening()(answered=kinds)


def test_a_function_of_kinds_that_fails_itself_counts_for_nothing_and_frees_the_probe() -> None:
    breaker = probing()

    @breaker(ignore=lambda error: error.status == 404)
    def call() -> None:
        raise OSError("the callee's")

    with pytest.raises(AttributeError) as caught:
        call()
    assert isinstance(caught.value.__context__, OSError)
    assert counts(breaker) == (0, 1) and breaker.would_admit()


def test_a_denial_inside_is_no_failure_of_the_callee() -> None:
    breaker, limiter = opening(1), RateLimiter(amount=1, per=3600)

    @breaker
    @limiter
    def call() -> int:
        return 1

    assert call() == 1
    with pytest.raises(LimitedError):
        call()
    assert counts(breaker) == (1, 0)
    probe = probing()

    @probe
    def twice(more: bool = True) -> int:
        return twice(False) if more else 1

    with pytest.raises(BreakerOpenError):
        twice()
    assert counts(probe) == (0, 1) and probe.would_admit()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="groups of exceptions came with Python 3.11")
def test_a_group_of_exceptions_is_what_all_in_it_are() -> None:
    group: Any = getattr(builtins, "BaseExceptionGroup", None)
    breaker = opening()

    @breaker(answered=KeyError, ignore=ValueError)
    def call(*errors: BaseException) -> None:
        raise group("several", errors)

    for errors, counted in (
        ((KeyError(), group("", [KeyError()])), (1, 0)),
        ((ValueError(), asyncio.CancelledError()), (1, 0)),
        ((KeyError(), ValueError()), (1, 1)),
        ((ValueError(), OSError()), (1, 2)),
    ):
        with pytest.raises(group):
            call(*errors)
        assert counts(breaker) == counted


def test_would_admit_takes_no_probe_and_counts_no_denial() -> None:
    breaker = CircuitBreaker(BreakerConfig(consecutive_failures=1, open_for=60), now_ns=0)
    assert breaker.would_admit(now_ns=0)
    breaker.failure(breaker.admit(now_ns=0), now_ns=0)
    assert not breaker.would_admit(now_ns=60 * SECOND - 1)
    assert all(breaker.would_admit(now_ns=60 * SECOND) for _ in range(3))
    status = breaker.status(now_ns=60 * SECOND)
    assert (status.probe_out, status.rejected_total) == (False, 0)
    assert breaker.admit(now_ns=60 * SECOND).probe
    assert not breaker.would_admit(now_ns=60 * SECOND)


def test_a_breaker_says_how_many_of_what_it_counted() -> None:
    breaker = CircuitBreaker(BreakerConfig(consecutive_failures=None, calls_min=4, open_for=1, probes_to_close=1), now_ns=0)
    for fails in (False, True, False, True):
        (breaker.failure if fails else breaker.success)(breaker.admit(now_ns=0), now_ns=0)
    status = breaker.status(now_ns=0)
    assert (status.reason, status.reason_count, status.reason_calls) == ("failure_rate", 2, 4)
    assert (status.why, status.calls, status.successes_total, status.failures_total) == ("2 failures in 4 calls", 0, 2, 2)
    breaker.success(breaker.admit(now_ns=SECOND), now_ns=SECOND)
    assert breaker.status(now_ns=SECOND).why == "1 probe succeeded"
    assert CircuitBreaker(now_ns=0).status(now_ns=0).why == "initial"


def test_a_block_of_a_breaker_that_began_at_an_instant_ends_at_the_latest_it_was_told() -> None:
    # It ended at the system's time: half a century later, when the window had nothing in it.
    breaker = CircuitBreaker(BreakerConfig(consecutive_failures=2, open_for=60), now_ns=0)
    for now in (1, 2):
        with pytest.raises(OSError):
            with breaker.calling(now_ns=now * SECOND):
                breaker.state(now_ns=5 * SECOND)
                raise OSError
    assert breaker.status(now_ns=5 * SECOND).until_ns == 65 * SECOND


def test_methods_of_classes_are_guarded_beneath_their_decorator_or_above() -> None:
    breaker, limiter = opening(), KeyedRateLimiter(per_second=100)

    class Client:
        @breaker
        @staticmethod
        def one(prompt: str) -> str:
            return prompt

        @breaker
        @classmethod
        def two(cls, prompt: str) -> str:
            return cls.__name__ + prompt

        @limiter(key="customer")
        @classmethod
        def three(cls, customer: str) -> str:
            return cls.__name__ + customer

    client = Client()
    assert (client.one("a"), client.two("b"), Client.three("c")) == ("a", "Clientb", "Clientc")
    assert counts(breaker) == (2, 0)
    with pytest.raises(TypeError):
        breaker(5)  # type: ignore[call-overload]


def test_tokens_are_taken_when_the_call_is_made() -> None:
    limiter = RateLimiter(amount=2, per=3600)
    made = limiter(stream)(None)
    assert limiter.available() == 1 and list(made) == [1] and limiter.available() == 1
    waits = limiter(coroutine)(None)
    assert limiter.available() == 1
    asyncio.run(waits)
    assert limiter.available() == 0
    for fn in (stream, astream):
        with pytest.raises(LimitedError):
            limiter(fn)(None)  # And not at its first item: an answer may have begun by then.


def test_an_async_generator_waits_for_tokens_before_its_first_item(run: Callable[..., Any]) -> None:
    limiter = RateLimiter(amount=1, per=3600)
    guarded = limiter(wait=True)(astream)

    async def main() -> list[int]:
        made = guarded(None)
        assert limiter.available() == 1
        first = [item async for item in made]
        assert limiter.available() == 0
        second = asyncio.ensure_future(guarded(None).__anext__())
        await asyncio.sleep(0)
        assert not second.done()
        limiter.refund()
        return [*first, await second]

    assert run(main()) == [1, 1]


def test_an_object_that_is_called_and_a_partial_one_are_limited_as_functions() -> None:
    limiter = KeyedRateLimiter(amount=1, per=3600)

    class Render:
        async def __call__(self, customer: str, prompt: str = "") -> str:
            return customer

    async def plain(customer: str, prompt: str) -> str:
        return prompt

    render = limiter(key="customer", wait=True)(Render())
    partial = limiter(key="customer")(functools.partial(plain, prompt="fox"))
    assert inspect.iscoroutinefunction(render) and inspect.iscoroutinefunction(partial)
    assert asyncio.run(render("acme")) == "acme" and asyncio.run(partial("zoo")) == "fox"
    with pytest.raises(LimitedError):
        asyncio.run(partial(customer="acme"))
    with pytest.raises(TypeError, match="no argument 'nobody'"):
        limiter(key="nobody")(functools.partial(plain, prompt="fox"))
