"""Limiters and breakers as decorators, and waiting for tokens in asyncio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from . import _native
from .aio import sleep_ns
from .errors import BreakerOpenError, LimitedError

if TYPE_CHECKING:
    from ._native import Admit, Answer

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


def _limited(answer: Answer) -> LimitedError:
    error = LimitedError("the rate limit is reached")
    nanos = answer.retry_after_ns
    error.retry_after = None if nanos is None else nanos / 1e9
    return error


def _guard(fn: F, enter: Callable[[tuple[Any, ...], dict[str, Any]], Answer], wait: bool) -> F:
    """``fn``, called only if ``enter`` says so."""
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            while not (answer := enter(args, kwargs)):
                nanos = answer.retry_after_ns
                if not wait or nanos is None:
                    raise _limited(answer)
                await sleep_ns(nanos)
            return await fn(*args, **kwargs)

        return cast(F, waiting)
    if wait:
        raise TypeError("only an async function can wait for tokens")

    @functools.wraps(fn)
    def plain(*args: Any, **kwargs: Any) -> Any:
        answer = enter(args, kwargs)
        if not answer:
            raise _limited(answer)
        return fn(*args, **kwargs)

    return cast(F, plain)


async def _acquire(attempt: Callable[[], Answer]) -> Answer:
    while not (answer := attempt()):
        nanos = answer.retry_after_ns
        if nanos is None:
            raise _limited(answer)
        await sleep_ns(nanos)
    return answer


class RateLimiter(_native.RateLimiter):
    """One token bucket: ``per_second`` tokens flow in, or ``amount`` per ``per``, and at most ``burst`` are kept. It starts full.

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
    """

    __slots__ = ("__weakref__",)

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, fn: None = None, /, *, cost: int = 1, wait: bool = False) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, cost: int = 1, wait: bool = False) -> Any:
        """Guards a function, plain or async: a call beyond the limit raises ``LimitedError``, or waits (``wait``, async only)."""
        if fn is None:
            return lambda fn: _guard(fn, lambda args, kwargs: self.try_acquire(cost), wait)
        return _guard(fn, lambda args, kwargs: self.try_acquire(cost), wait)

    async def acquire(self, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens. Raises ``LimitedError`` where they never come."""
        return await _acquire(lambda: self.try_acquire(cost))


class KeyedRateLimiter(_native.KeyedRateLimiter):
    """A token bucket for each of at most ``keys_max`` keys, full when first seen.

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

    __slots__ = ("__weakref__",)

    def __call__(self, *, key: str | Callable[..., str], cost: int = 1, wait: bool = False) -> Callable[[F], F]:
        """Guards a function, plain or async. ``key`` is the name of the argument that is the key, or a function of all arguments."""

        def guard(fn: F) -> F:
            key_of = _argument(fn, key) if isinstance(key, str) else key
            return _guard(fn, lambda args, kwargs: self.try_acquire(key_of(*args, **kwargs), cost), wait)

        return guard

    async def acquire(self, key: str, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens of ``key``. Raises ``LimitedError`` where they never come."""
        return await _acquire(lambda: self.try_acquire(key, cost))


def _argument(fn: Callable[..., Any], name: str) -> Callable[..., str]:
    signature = inspect.signature(fn)
    if name not in signature.parameters:
        raise TypeError(f"{fn.__qualname__} has no argument {name!r} to be limited by")

    def key_of(*args: Any, **kwargs: Any) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cast(str, bound.arguments[name])

    return key_of


def _open(admit: Admit) -> BreakerOpenError:
    error = BreakerOpenError("the breaker is open")
    error.retry_after = admit.retry_after
    return error


class CircuitBreaker(_native.CircuitBreaker):
    """A circuit breaker round one callee: it keeps calls away from what fails, and finds out with few calls when it works again.

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
    def __call__(self, fn: None = None, /, *, ignore: tuple[type[BaseException], ...] = ()) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, ignore: tuple[type[BaseException], ...] = ()) -> Any:
        """Guards a function, plain or async: while the breaker is open a call raises ``BreakerOpenError``.

        An exception counts as a failure; one of ``ignore`` as a success, for the callee has answered; what is no ``Exception``
        (a cancelled task) as neither.
        """
        if fn is None:
            return lambda fn: self._guard(fn, ignore)
        return self._guard(fn, ignore)

    def _guard(self, fn: Callable[..., Any], ignore: tuple[type[BaseException], ...]) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def waiting(*args: Any, **kwargs: Any) -> Any:
                if not (admit := self.admit()):
                    raise _open(admit)
                try:
                    result = await cast(Awaitable[Any], fn(*args, **kwargs))
                except BaseException as error:
                    self._count(admit, error, ignore)
                    raise
                self.success(admit)
                return result

            return waiting

        @functools.wraps(fn)
        def plain(*args: Any, **kwargs: Any) -> Any:
            if not (admit := self.admit()):
                raise _open(admit)
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                self._count(admit, error, ignore)
                raise
            self.success(admit)
            return result

        return plain

    def _count(self, admit: Admit, error: BaseException, ignore: tuple[type[BaseException], ...]) -> None:
        if isinstance(error, ignore):
            self.success(admit)
        elif isinstance(error, Exception):
            self.failure(admit)
        else:
            self.cancelled(admit)

    @contextmanager
    def calling(self, *, ignore: tuple[type[BaseException], ...] = ()) -> Iterator[Admit]:
        """A call as a block: it counts by how the block ends. Raises ``BreakerOpenError`` where it may not be made."""
        if not (admit := self.admit()):
            raise _open(admit)
        try:
            yield admit
        except BaseException as error:
            self._count(admit, error, ignore)
            raise
        self.success(admit)
