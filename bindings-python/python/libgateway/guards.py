"""Limiters and breakers as decorators, and waiting for tokens in asyncio."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from . import _native
from .errors import BreakerOpenError
from .line import Waiting, limited

if TYPE_CHECKING:
    from ._native import Admit, Answer, RateLimit
    from .values import Moment, Seconds

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
# Kinds of exceptions.
_Kinds = tuple[type[BaseException], ...]


def _guard(
    fn: F,
    enter: Callable[[tuple[Any, ...], dict[str, Any]], Answer],
    wait: Callable[[tuple[Any, ...], dict[str, Any]], Awaitable[Answer]] | None,
) -> F:
    """``fn``, called only if ``enter`` says so, or once ``wait`` is over."""
    if inspect.iscoroutinefunction(fn):

        @functools.wraps(fn)
        async def waiting(*args: Any, **kwargs: Any) -> Any:
            if wait is not None:
                await wait(args, kwargs)
            elif not (answer := enter(args, kwargs)):
                raise limited(answer)
            return await fn(*args, **kwargs)

        return cast(F, waiting)
    if wait is not None:
        raise TypeError("only an async function can wait for tokens")

    @functools.wraps(fn)
    def plain(*args: Any, **kwargs: Any) -> Any:
        answer = enter(args, kwargs)
        if not answer:
            raise limited(answer)
        return fn(*args, **kwargs)

    return cast(F, plain)


class RateLimiter(_native.RateLimiter, Waiting):
    """One token bucket: ``per_second`` tokens flow in, or ``amount`` per ``per``, and at most ``burst`` are kept. It starts full.

    Without numbers it is 100 a second, 1000 kept.

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
    """

    __slots__ = ("__weakref__", "_own_lines")

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, fn: None = None, /, *, cost: int = 1, wait: bool = False) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, cost: int = 1, wait: bool = False) -> Any:
        """Guards a function, plain or async: a call beyond the limit raises ``LimitedError``, or waits (``wait``, async only)."""
        enter = lambda args, kwargs: self.try_acquire(cost)  # noqa: E731
        waits = (lambda args, kwargs: self.acquire(cost)) if wait else None
        return (lambda fn: _guard(fn, enter, waits)) if fn is None else _guard(fn, enter, waits)

    async def acquire(self, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens, behind those that wait already. Raises ``LimitedError`` where they never come."""
        return await self._wait(None, cost, self.try_acquire, self.peek, super().refund)

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
        """Guards a function, plain or async. ``key`` is the name of the argument that is the key, or a function of all arguments."""

        def guard(fn: F) -> F:
            key_of = _argument(fn, key) if isinstance(key, str) else key
            enter = lambda args, kwargs: self.try_acquire(key_of(*args, **kwargs), cost)  # noqa: E731
            waits = (lambda args, kwargs: self.acquire(key_of(*args, **kwargs), cost)) if wait else None
            return _guard(fn, enter, waits)

        return guard

    async def acquire(self, key: str, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens of ``key``, behind those that wait for it already. Raises ``LimitedError`` where they never
        come."""
        refund = super().refund
        return await self._wait(
            key, cost, lambda n: self.try_acquire(key, n), lambda n: self.peek(key, n), lambda n: refund(key, n)
        )

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


class WindowLimiter(_native.WindowLimiter, Waiting):
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

    @overload
    def __call__(self, fn: F, /) -> F: ...
    @overload
    def __call__(self, fn: None = None, /, *, cost: int = 1, wait: bool = False) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, cost: int = 1, wait: bool = False) -> Any:
        """Guards a function, plain or async: a call beyond the limit raises ``LimitedError``, or waits (``wait``, async only)."""
        enter = lambda args, kwargs: self.try_acquire(cost)  # noqa: E731
        waits = (lambda args, kwargs: self.acquire(cost)) if wait else None
        return (lambda fn: _guard(fn, enter, waits)) if fn is None else _guard(fn, enter, waits)

    async def acquire(self, cost: int = 1) -> Answer:
        """Waits for ``cost`` tokens, behind those that wait already. Raises ``LimitedError`` where they never come."""
        return await self._wait(None, cost, self.try_acquire, self.peek, super().refund)

    def refund(self, cost: int = 1, *, now_ns: Moment | None = None) -> None:
        """Gives ``cost`` tokens back. The oldest go, so that no window has more than its amount of those that stay."""
        super().refund(cost, now_ns=now_ns)
        self._lines.poke(None)

    def set_limit(self, amount: int, per: Seconds, *, now_ns: Moment | None = None) -> None:
        """Changes the limit. What was taken stays taken: under a lower amount nothing is allowed until enough has left."""
        super().set_limit(amount, per, now_ns=now_ns)
        self._lines.poke_all()


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
    def __call__(self, fn: None = None, /, *, answered: _Kinds = (), ignore: _Kinds = ()) -> Callable[[F], F]: ...
    def __call__(self, fn: Any = None, /, *, answered: _Kinds = (), ignore: _Kinds = ()) -> Any:
        """Guards a function, plain or async: while the breaker is open a call raises ``BreakerOpenError``.

        An exception counts as a failure; one of ``answered`` as a success, for the callee is alive and said no; one of
        ``ignore``, and what is no ``Exception`` (a cancelled task), as neither: the call says nothing of the callee.

        >>> breaker = CircuitBreaker()
        >>> @breaker(answered=(KeyError,), ignore=(ValueError,))
        ... def call(error):
        ...     raise error
        >>> for error in (KeyError(), ValueError(), OSError()):
        ...     try:
        ...         call(error)
        ...     except Exception:
        ...         pass
        >>> breaker.status().successes_total, breaker.status().failures_total
        (1, 1)
        """
        count = functools.partial(self._count, answered, ignore)
        if fn is None:
            return lambda fn: self._guard(fn, count)
        return self._guard(fn, count)

    def _guard(
        self, fn: Callable[..., Any], count: Callable[[Admit, BaseException], None]
    ) -> Callable[..., Any]:
        if inspect.iscoroutinefunction(fn):

            @functools.wraps(fn)
            async def waiting(*args: Any, **kwargs: Any) -> Any:
                if not (admit := self.admit()):
                    raise _open(admit)
                try:
                    result = await cast(Awaitable[Any], fn(*args, **kwargs))
                except BaseException as error:
                    count(admit, error)
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
                count(admit, error)
                raise
            self.success(admit)
            return result

        return plain

    def _count(self, answered: _Kinds, ignore: _Kinds, admit: Admit, error: BaseException) -> None:
        if isinstance(error, answered):
            self.success(admit)
        elif isinstance(error, Exception) and not isinstance(error, ignore):
            self.failure(admit)
        else:
            self.cancelled(admit)

    @contextmanager
    def calling(self, *, answered: _Kinds = (), ignore: _Kinds = ()) -> Iterator[Admit]:
        """A call as a block: it counts by how the block ends, as a decorated function does. Raises ``BreakerOpenError``
        where it may not be made."""
        if not (admit := self.admit()):
            raise _open(admit)
        try:
            yield admit
        except BaseException as error:
            self._count(answered, ignore, admit, error)
            raise
        self.success(admit)
