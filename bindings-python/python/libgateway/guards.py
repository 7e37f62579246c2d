"""Limiters and breakers as decorators and blocks, and waiting for tokens in asyncio and in threads."""

from __future__ import annotations

import builtins
import concurrent.futures
import functools
import inspect
import typing
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from . import _native
from .ends import begin_after, follow, is_async, is_later
from .errors import BreakerOpenError, DeniedError
from .line import Taking, Waiting, limited

if TYPE_CHECKING:
    from ._native import Admit, Answer, RateLimit, WindowLimit
    from .values import Moment, Seconds

F = TypeVar("F", bound=Callable[..., Any])
# Kinds of exceptions: a class, several, or a function that says whether one is meant.
_Kinds = type[BaseException] | Iterable[Any] | Callable[[Any], object]
_Args = tuple[Any, ...]


def _guard(
    fn: F,
    enter: Callable[[_Args, dict[str, Any]], Answer],
    wait: Callable[[_Args, dict[str, Any]], Awaitable[Answer]] | None,
) -> F:
    """``fn``, called only if ``enter`` says so, or once ``wait`` is over."""
    if isinstance(fn, (staticmethod, classmethod)):
        return cast(F, type(fn)(_guard(fn.__func__, enter, wait)))
    if is_async(fn):

        @functools.wraps(fn)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            if wait is not None:
                await wait(args, kwargs)
            elif not (answer := enter(args, kwargs)):
                raise limited(answer)
            return await fn(*args, **kwargs)

        return cast(F, waiting)
    if wait is not None:
        if not inspect.isasyncgenfunction(fn):
            raise TypeError("only an async function can wait for tokens")
        waits = wait

        @functools.wraps(fn)
        def streaming(*args: Any, **kwargs: Any) -> Any:
            return begin_after(lambda: waits(args, kwargs), fn(*args, **kwargs))

        return cast(F, streaming)

    @functools.wraps(fn)
    def plain(*args: Any, **kwargs: Any) -> Any:
        answer = enter(args, kwargs)
        if not answer:
            raise limited(answer)
        return fn(*args, **kwargs)

    return cast(F, plain)


class _Keyless(Waiting):
    """What limiters without keys have in common."""

    __slots__ = ()

    # What the classes it is mixed into have.

    def try_acquire(self, cost: int = 1, *, now_ns: Moment | None = None) -> Answer:
        raise NotImplementedError

    def peek(self, cost: int = 1, *, now_ns: Moment | None = None) -> Answer:
        raise NotImplementedError

    def _return(self, cost: int) -> None:
        raise NotImplementedError

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, fn: None = None, /, *, cost: int = 1, wait: bool = False) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, cost: int = 1, wait: bool = False) -> Any:
        """Guards a function, plain or async: a call beyond the limit raises ``LimitedError``, or waits (``wait``, async only).

        Tokens are taken when the call is made: of a generator then, and not at its first item; of a coroutine when it is
        awaited; with ``wait`` of an async generator at its first item.
        """
        enter = lambda args, kwargs: self.try_acquire(cost)  # noqa: E731
        waits = (lambda args, kwargs: self.acquire(cost)) if wait else None
        return (lambda fn: _guard(fn, enter, waits)) if fn is None else _guard(fn, enter, waits)

    async def acquire(self, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens, behind those that wait already. Raises ``LimitedError`` where they never come."""
        return await self._wait(None, cost, self.try_acquire, self.peek, self._return)

    def acquire_blocking(self, cost: int = 1, *, timeout: Seconds | None = None) -> Answer:
        """As ``acquire``, in a thread that runs no event loop, and in the same line. Raises ``LimitedError`` also where they
        have not come within ``timeout``: its ``retry_after`` says how much longer it takes at least."""
        return self._wait_blocking(None, cost, self.try_acquire, self.peek, self._return, timeout)

    def taking(self, cost: int = 1, *, timeout: Seconds | None = None) -> Taking:
        """A block that waits for ``cost`` tokens before it begins: ``with`` as ``acquire_blocking``, ``async with`` as
        ``acquire``. ``async with`` knows no ``timeout``."""
        return Taking(
            _untimed(timeout, lambda: self.acquire(cost)), lambda: self.acquire_blocking(cost, timeout=timeout)
        )

    def __enter__(self) -> Answer:
        return self.acquire_blocking()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    async def __aenter__(self) -> Answer:
        return await self.acquire()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class RateLimiter(_native.RateLimiter, _Keyless):
    """One token bucket: ``per_second`` tokens flow in, or ``amount`` per ``per``, and at most ``burst`` are kept. It starts full.

    Without numbers it is 100 a second, 1000 kept. ``with limiter:`` and ``async with limiter:`` wait for a token, first come,
    first served, threads and tasks in one line. A limiter is always true.

    >>> from libgateway import LimitedError
    >>> limiter = RateLimiter(per_second=2, burst=1)
    >>> @limiter
    ... def render(prompt):
    ...     return f"an image of {prompt}"
    >>> render("a fox")
    'an image of a fox'
    >>> try:
    ...     render("a fox")
    ... except LimitedError as error:
    ...     0 < error.retry_after <= 0.5
    True
    >>> with RateLimiter(per_second=2, burst=3) as answer:
    ...     answer.remaining
    2
    """

    __slots__ = ("__weakref__", "_own_lines")

    def _return(self, cost: int) -> None:
        super().refund(cost)

    def refund(self, cost: int = 1) -> None:
        """Gives ``cost`` tokens back, up to the burst."""
        super().refund(cost)
        self._lines.poke(None)

    def set_limit(self, limit: RateLimit, *, now_ns: Moment | None = None) -> None:
        """Changes the limit. The tokens there are stay, up to the new burst."""
        super().set_limit(limit, now_ns=now_ns)
        self._lines.poke_all()


class KeyedRateLimiter(_native.KeyedRateLimiter, Waiting):
    """A token bucket for each of at most ``keys_max`` keys, full when first seen.

    While there is no room for a new key, new keys share one bucket, and the answer says so; see ``overflow`` and ``known_for``.

    >>> limiter = KeyedRateLimiter(per_second=1, burst=1)
    >>> @limiter(key="customer")
    ... async def render(customer, prompt):
    ...     return f"an image of {prompt}"
    >>> import asyncio
    >>> asyncio.run(render("acme", "a fox"))
    'an image of a fox'
    >>> limiter.try_acquire("acme").kind, limiter.try_acquire("zoo").kind
    ('deny', 'allow')
    """

    __slots__ = ("__weakref__", "_own_lines")

    def __call__(self, *, key: str | Callable[..., str], cost: int = 1, wait: bool = False) -> Callable[[F], F]:
        """Guards a function, plain or async. ``key`` is the name of the argument that is the key, or a function of all arguments.

        Tokens are taken when the call is made, see ``RateLimiter.__call__``.
        """

        def guard(fn: F) -> F:
            key_of = _argument(fn, key) if isinstance(key, str) else key
            enter = lambda args, kwargs: self.try_acquire(key_of(*args, **kwargs), cost)  # noqa: E731
            waits = (lambda args, kwargs: self.acquire(key_of(*args, **kwargs), cost)) if wait else None
            return _guard(fn, enter, waits)

        return guard

    async def acquire(self, key: str, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens of ``key``, behind those that wait for it already. Raises ``LimitedError`` where they never
        come."""
        return await self._wait(key, cost, *self._of(key))

    def acquire_blocking(self, key: str, cost: int = 1, *, timeout: Seconds | None = None) -> Answer:
        """As ``acquire``, in a thread that runs no event loop, and in the same line. Raises ``LimitedError`` also where they
        have not come within ``timeout``."""
        return self._wait_blocking(key, cost, *self._of(key), timeout)

    def taking(self, key: str, cost: int = 1, *, timeout: Seconds | None = None) -> Taking:
        """A block that waits for ``cost`` tokens of ``key`` before it begins, see ``RateLimiter.taking``.

        >>> with KeyedRateLimiter(per_second=1, burst=3).taking("acme", 2) as answer:
        ...     answer.remaining
        1
        """
        return Taking(
            _untimed(timeout, lambda: self.acquire(key, cost)),
            lambda: self.acquire_blocking(key, cost, timeout=timeout),
        )

    def _of(self, key: str) -> tuple[Callable[[int], Answer], Callable[[int], Answer], Callable[[int], None]]:
        refund = super().refund
        return lambda n: self.try_acquire(key, n), lambda n: self.peek(key, n), lambda n: refund(key, n)

    def refund(self, key: str, cost: int = 1) -> None:
        """Gives ``cost`` tokens of ``key`` back, up to the burst. Nothing goes back to the bucket that new keys share."""
        super().refund(key, cost)
        self._lines.poke(key)

    def set_limit(self, limit: RateLimit, *, now_ns: Moment | None = None) -> None:
        """Changes the limit of all keys. A key keeps the tokens it has, up to the new burst."""
        super().set_limit(limit, now_ns=now_ns)
        self._lines.poke_all()

    def remove(self, key: str) -> bool:
        """Forgets a key, which is full from then on. Says whether it was remembered."""
        removed = super().remove(key)
        self._lines.poke(key)
        return removed


class WindowLimiter(_native.WindowLimiter, _Keyless):
    """A strict limit: at most ``amount`` tokens in any stretch of time of length ``per``, wherever it begins.

    A bucket lets as many more through as it keeps; this does not. ``amount`` is at most 65536.

    >>> limiter = WindowLimiter(6, per=60, now_ns=0)
    >>> limiter.try_acquire(6, now_ns=59_000_000_000)
    <Answer allow, 0 remaining>
    >>> limiter.try_acquire(now_ns=60_000_000_000).retry_after
    59
    >>> bool(limiter.try_acquire(6, now_ns=119_000_000_000))
    True
    """

    __slots__ = ("__weakref__", "_own_lines")

    def _return(self, cost: int) -> None:
        super().refund(cost)

    def refund(self, cost: int = 1, *, now_ns: Moment | None = None) -> None:
        """Gives ``cost`` tokens back. The oldest go, so that no window has more than its amount of those that stay."""
        super().refund(cost, now_ns=now_ns)
        self._lines.poke(None)

    def set_limit(
        self, amount: int | WindowLimit, per: Seconds | None = None, *, now_ns: Moment | None = None
    ) -> None:
        """Changes the limit. What was taken stays taken: under a lower amount nothing is allowed until enough has left."""
        super().set_limit(amount, per, now_ns=now_ns)
        self._lines.poke_all()


class CombinedLimiter(_native.CombinedLimiter, Waiting):
    """Limiters that are asked together: tokens are taken of all of them at one instant, or of none.

    Any of ``RateLimiter``, ``KeyedRateLimiter`` and ``WindowLimiter``, each once. Where one has keys each call names a
    ``key``, which is that of all that have. They can still be asked alone, and whatever makes room in one wakes who waits
    for all.

    >>> a_second, an_hour = RateLimiter(per_second=10, now_ns=0), RateLimiter(amount=1000, per=3600, now_ns=0)
    >>> both = CombinedLimiter(a_second, an_hour, WindowLimiter(12, per=60, now_ns=0))
    >>> both.try_acquire(8, now_ns=0)
    <Answer allow, 2 remaining>
    >>> denied = both.try_acquire(5, now_ns=0)  # The second has 2 left, the minute 4.
    >>> denied.retry_after, denied.remaining, an_hour.available(now_ns=0)
    (60, 2, 992)
    """

    __slots__ = ("__weakref__", "_own_lines")

    def __init__(self, *limiters: RateLimiter | KeyedRateLimiter | WindowLimiter) -> None:
        for limiter in limiters:
            limiter._lines.joint.add(self._lines)

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(
        self, fn: None = None, /, *, key: str | Callable[..., str] | None = None, cost: int = 1, wait: bool = False
    ) -> Callable[[F], F]: ...
    def __call__(
        self, fn: Any = None, /, *, key: str | Callable[..., str] | None = None, cost: int = 1, wait: bool = False
    ) -> Any:
        """Guards a function, plain or async, see ``RateLimiter.__call__``; ``key`` as in ``KeyedRateLimiter.__call__``."""

        def guard(fn: F) -> F:
            if key is None:
                key_of: Callable[..., str | None] = lambda *args, **kwargs: None  # noqa: E731
            else:
                key_of = _argument(fn, key) if isinstance(key, str) else key
            enter = lambda args, kwargs: self.try_acquire(cost, key=key_of(*args, **kwargs))  # noqa: E731
            waits = (lambda args, kwargs: self.acquire(cost, key=key_of(*args, **kwargs))) if wait else None
            return _guard(fn, enter, waits)

        return guard if fn is None else guard(fn)

    async def acquire(self, cost: int = 1, *, key: str | None = None) -> Answer:
        """Waits for ``cost`` tokens of each, behind those that wait for all of them already. Raises ``LimitedError`` where
        they never come."""
        return await self._wait(key, cost, *self._of(key))

    def acquire_blocking(self, cost: int = 1, *, key: str | None = None, timeout: Seconds | None = None) -> Answer:
        """As ``acquire``, in a thread that runs no event loop, and in the same line. Raises ``LimitedError`` also where they
        have not come within ``timeout``."""
        return self._wait_blocking(key, cost, *self._of(key), timeout)

    def taking(self, cost: int = 1, *, key: str | None = None, timeout: Seconds | None = None) -> Taking:
        """A block that waits for ``cost`` tokens of each before it begins, see ``RateLimiter.taking``."""
        return Taking(
            _untimed(timeout, lambda: self.acquire(cost, key=key)),
            lambda: self.acquire_blocking(cost, key=key, timeout=timeout),
        )

    def refund(self, cost: int = 1, *, key: str | None = None, now_ns: Moment | None = None) -> None:
        """Gives ``cost`` tokens back to each limiter."""
        super().refund(cost, key=key, now_ns=now_ns)
        for limiter in self.limiters:
            limiter._lines.poke(key if isinstance(limiter, KeyedRateLimiter) else None)

    def _of(self, key: str | None) -> tuple[Callable[[int], Answer], Callable[[int], Answer], Callable[[int], None]]:
        refund = super().refund
        return (
            lambda n: self.try_acquire(n, key=key),
            lambda n: self.peek(n, key=key),
            lambda n: refund(n, key=key),
        )


def _untimed(timeout: Seconds | None, wait: Callable[[], Awaitable[Answer]]) -> Callable[[], Awaitable[Answer]]:
    if timeout is None:
        return wait

    def refuse() -> Awaitable[Answer]:
        raise TypeError("async with knows no timeout: take asyncio.timeout or asyncio.wait_for")

    return refuse


def _argument(fn: Callable[..., Any], name: str) -> Callable[..., str]:
    if isinstance(fn, (staticmethod, classmethod)):
        fn = fn.__func__
    signature = inspect.signature(fn)
    if name not in signature.parameters:
        raise TypeError(f"{getattr(fn, '__qualname__', fn)} has no argument {name!r} to be limited by")

    def key_of(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cast(str, bound.arguments[name])

    return key_of


def _open(admit: Admit) -> BreakerOpenError:
    error = BreakerOpenError("the breaker is open")
    error.retry_after = admit.retry_after
    return error


def _meaning(kinds: Any) -> Callable[[BaseException], bool]:
    """Says of an exception whether it is of these kinds. Functions are asked about each ``Exception``, and no other."""
    if isinstance(kinds, type):
        if not issubclass(kinds, BaseException):
            raise TypeError(f"expected a kind of exceptions, and not {kinds.__name__}")
        return lambda error: isinstance(error, kinds)
    if typing.get_args(kinds):  # ValueError | KeyError
        kinds = typing.get_args(kinds)
    elif callable(kinds):
        return lambda error: isinstance(error, Exception) and bool(kinds(error))
    if isinstance(kinds, (str, bytes)) or not isinstance(kinds, Iterable):
        raise TypeError("expected a kind of exceptions, several, or a function that says whether one is meant")
    meanings = [_meaning(each) for each in kinds]
    return lambda error: any(meant(error) for meant in meanings)


def _causes(error: BaseException) -> list[BaseException]:
    """The exceptions of a group, of all groups in it, too; or the exception itself."""
    if not isinstance(error, _GROUP):
        return [error]
    return [cause for each in error.exceptions for cause in _causes(each)]


class CircuitBreaker(_native.CircuitBreaker):
    """A circuit breaker round one callee: it keeps calls away from what fails, and finds out with few calls when it works again.

    *Closed*, every call is allowed, and its result counts in a sliding window. A failure opens the breaker when it is one of
    ``consecutive_failures`` in a row, or when the share of failures in the window reaches ``failure_rate`` of at least
    ``calls_min`` results; a success never does. *Open*, no call is allowed for ``open_for``. Then, *half-open*, one probe at a
    time is allowed: ``probes_to_close`` that succeed close the breaker, one that fails opens it again, for longer. A probe
    that is not answered within ``probe_timeout`` has failed.

    Each call asks ``admit`` and says by ``success``, ``failure`` or ``cancelled`` (nothing is known; the probe's place is free
    again) how it went; decorators and ``calling`` do both. Results of calls begun before the last change of state count for
    nothing. ``would_admit`` asks without taking anything, and ``status`` says how many of what was counted.

    >>> from libgateway import BreakerConfig
    >>> breaker = CircuitBreaker(BreakerConfig(consecutive_failures=2, open_for=60))
    >>> @breaker
    ... def call():
    ...     raise ConnectionError
    >>> for _ in range(3):
    ...     try:
    ...         call()
    ...     except ConnectionError:
    ...         print("failed")
    ...     except BreakerOpenError as error:
    ...         print(error.code, error.retry_after)
    failed
    failed
    breaker_open 60
    """

    __slots__ = ("__weakref__",)

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, fn: None = None, /, *, answered: _Kinds = (), ignore: _Kinds = ()) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, answered: _Kinds = (), ignore: _Kinds = ()) -> Any:
        """Guards whatever can be called: while the breaker is open a call raises ``BreakerOpenError``.

        A call counts by how it ends. Where it returns a coroutine (or anything that is awaited), a generator, plain or async,
        or a future, that end is the one that counts: the last item, the exception on the way. A stream that its consumer
        closes counts as neither, as what is given up does.

        An exception counts as a failure. One of ``answered`` counts as a success, for the callee is alive and said no. One of
        ``ignore`` counts as nothing, neither success nor failure, for the call says nothing of the callee; so do those that
        are no ``Exception`` (a cancelled task), and ``DeniedError``, which says that a call was not made. Both take a class,
        several of them, or a function that says of an exception whether it is meant; ``answered`` goes before ``ignore``. A
        group of exceptions is what all in it are, and else a failure.

        >>> breaker = CircuitBreaker()
        >>> @breaker(answered=KeyError, ignore=[ValueError, lambda error: str(error) == "busy"])
        ... def call(error):
        ...     raise error
        >>> for error in (KeyError(), ValueError(), OSError("busy"), OSError()):
        ...     try:
        ...         call(error)
        ...     except Exception:
        ...         pass
        >>> breaker.status().successes_total, breaker.status().failures_total
        (1, 1)
        >>> @breaker
        ... def stream():
        ...     yield "a red"
        ...     raise ConnectionError
        >>> try:
        ...     for word in stream():
        ...         print(word, breaker.status().failures_total)
        ... except ConnectionError:
        ...     print(breaker.status().failures_total)
        a red 1
        2
        """
        judge = self._judge(answered, ignore)
        if fn is None:
            return lambda fn: self._guard(fn, judge)
        return self._guard(fn, judge)

    def _guard(
        self, fn: Callable[..., Any], judge: Callable[[Admit, BaseException | None], None]
    ) -> Callable[..., Any]:
        if isinstance(fn, (staticmethod, classmethod)):
            return type(fn)(self._guard(fn.__func__, judge))
        if is_async(fn):

            @functools.wraps(fn)
            async def waiting(*args: Any, **kwargs: Any) -> Any:
                if not (admit := self.admit()):
                    raise _open(admit)
                try:
                    result = await fn(*args, **kwargs)
                except BaseException as error:
                    judge(admit, error)
                    raise
                if is_later(type(result)):
                    return follow(result, functools.partial(judge, admit))
                self.success(admit)
                return result

            return waiting
        if not callable(fn):
            raise TypeError("expected something that can be called")

        @functools.wraps(fn)
        def plain(*args: Any, **kwargs: Any) -> Any:
            if not (admit := self.admit()):
                raise _open(admit)
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                judge(admit, error)
                raise
            if is_later(type(result)):
                return follow(result, functools.partial(judge, admit))
            self.success(admit)
            return result

        return plain

    def _judge(
        self, answered: _Kinds, ignore: _Kinds, timed: bool = False
    ) -> Callable[[Admit, BaseException | None], None]:
        succeeded, ignored = _meaning(answered), _meaning(ignore)

        def judge(admit: Admit, error: BaseException | None) -> None:
            verdict = self.cancelled  # Also where one of the functions fails.
            try:
                causes = [] if error is None else _causes(error)
                if all(succeeded(cause) for cause in causes):
                    verdict = self.success
                elif not all(
                    not isinstance(cause, Exception) or isinstance(cause, _UNSAID) or ignored(cause) for cause in causes
                ):
                    verdict = self.failure
            finally:
                verdict(admit, now_ns=self._latest_ns if timed else None)

        return judge

    @contextmanager
    def calling(
        self, *, answered: _Kinds = (), ignore: _Kinds = (), now_ns: Moment | None = None
    ) -> Iterator[Admit]:
        """A call as a block: it counts by how the block ends, as a decorated function does. Raises ``BreakerOpenError``
        where it may not be made.

        With ``now_ns`` no clock is read: the block ends at the latest instant the breaker was told.
        """
        judge = self._judge(answered, ignore, now_ns is not None)
        if not (admit := self.admit(now_ns=now_ns)):
            raise _open(admit)
        try:
            yield admit
        except BaseException as error:
            judge(admit, error)
            raise
        judge(admit, None)


# What says nothing of the callee: a call that was not made, or was given up.
_UNSAID: tuple[type[BaseException], ...] = (DeniedError, concurrent.futures.CancelledError)
# From Python 3.11 on.
_GROUP: Any = getattr(builtins, "BaseExceptionGroup", ())
