"""How a call ends. What a function returns may be only its beginning: a coroutine, a stream or a future ends later.

:func:`follow` gives back what stands in the place of such a result and behaves like it, and tells once how it ended.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, cast

from .errors import GatewayError

Tell = Callable[[BaseException | None], None]
"""Hears the end of a call: its exception, or ``None``. Of one that was given up it is no ``Exception``."""

_LATER: tuple[type, ...] = (CoroutineType, GeneratorType, AsyncGeneratorType, Future)


class Ending:
    """The end of one call, told once. A call that nobody pursues was given up when it is dropped."""

    __slots__ = ("_tell", "_made")

    def __init__(self, tell: Tell, made: Any = None) -> None:
        self._tell: Tell | None = tell
        self._made = made

    def __call__(self, error: BaseException | None) -> None:
        tell, self._tell = self._tell, None
        if tell is not None:
            tell(error)

    def __del__(self) -> None:
        if self._tell is not None:
            if isinstance(self._made, CoroutineType):
                self._made.close()  # What stands for it says that it was never awaited.
            try:
                self(GeneratorExit())
            except GatewayError:
                pass  # Of another process, or after a panic.


def is_async(fn: Callable[..., Any]) -> bool:
    """Whether a call of it gives a coroutine: also of a partial one, and of an object that is called.

    >>> async def render(prompt): ...
    >>> is_async(functools.partial(render, "a fox")), is_async(len)
    (True, False)
    """
    while isinstance(fn, functools.partial):
        fn = fn.func
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))


def is_later(kind: type) -> bool:
    """Whether a result of this type is only the beginning of a call.

    >>> is_later(type(n for n in range(3))), is_later(list)
    (True, False)
    """
    try:
        return _KINDS(kind)
    except TypeError:  # A metaclass may make its types unhashable.
        return _is_later(kind)


def _is_later(kind: Any) -> bool:
    return issubclass(kind, _LATER) or hasattr(kind, "__await__")


# Asked at each call of a guarded function.
_KINDS: Callable[[Any], bool] = functools.lru_cache(maxsize=256)(_is_later)


def follow(made: Any, tell: Tell) -> Any:
    """``made``, or what stands for it. ``tell`` hears how it ends: at once, where it is a result already."""
    if not is_later(type(made)):
        tell(None)
        return made
    if isinstance(made, Future) or asyncio.isfuture(made):
        ending = Ending(tell)
        made.add_done_callback(lambda future: ending(_error_of(future)))
        return made
    ending = Ending(tell, made)
    if isinstance(made, AsyncGeneratorType):
        return _named(_async_stream(ending, made), made)
    if isinstance(made, CoroutineType):
        return _named(_coroutine(ending, made), made)
    if isinstance(made, GeneratorType) and not inspect.isawaitable(made):
        return _named(_stream(ending, made), made)
    return (_Block if hasattr(type(made), "__aenter__") else _Awaited)(made, ending)


def _named(stand_in: Any, made: Any) -> Any:
    stand_in.__name__, stand_in.__qualname__ = made.__name__, made.__qualname__
    return stand_in


async def _coroutine(ending: Ending, made: Coroutine[Any, Any, Any]) -> Any:
    try:
        result = await made
    except BaseException as error:
        ending(error)
        raise
    return follow(result, ending)


def _stream(ending: Ending, made: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        result = yield from made
    except BaseException as error:
        ending(error)
        raise
    ending(None)
    return result


def begin_after(wait: Callable[[], Awaitable[Any]], made: AsyncGenerator[Any, Any]) -> AsyncGenerator[Any, Any]:
    """``made``, whose first item waits."""
    return cast("AsyncGenerator[Any, Any]", _named(_async_stream(Ending(lambda error: None), made, wait), made))


async def _async_stream(
    ending: Ending, made: AsyncGenerator[Any, Any], wait: Callable[[], Awaitable[Any]] | None = None
) -> AsyncGenerator[Any, Any]:
    try:
        if wait is not None:
            await wait()
        item = await made.__anext__()
        while True:
            try:
                sent = yield item
            except GeneratorExit:
                await made.aclose()
                raise
            except BaseException as error:
                item = await made.athrow(error)
            else:
                item = await made.asend(sent)
    except StopAsyncIteration:
        ending(None)
    except BaseException as error:
        ending(error)
        raise


def _error_of(future: Any) -> BaseException | None:
    if future.cancelled():
        return asyncio.CancelledError()
    # Asked by `exception()`, a future of asyncio would no longer say that nobody looked at its error.
    error: BaseException | None = getattr(future, "_exception", None)
    return error


class _Awaited:
    """Stands for something that can be awaited and is no coroutine."""

    def __init__(self, made: Any, ending: Ending) -> None:
        self._made = made
        self._ending = ending

    def __await__(self) -> Generator[Any, Any, Any]:
        return _stream(self._ending, self._made.__await__())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made, name)


class _Block(_Awaited):
    """Stands for one that can also be entered: by how the block ends, the call does."""

    async def __aenter__(self) -> Any:
        try:
            return await self._made.__aenter__()
        except BaseException as error:
            self._ending(error)
            raise

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> Any:
        try:
            swallowed = await self._made.__aexit__(kind, error, trace)
        except BaseException as own:
            self._ending(own)
            raise
        self._ending(error)
        return swallowed
