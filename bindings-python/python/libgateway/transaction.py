"""Transactions: steps are gathered in a block and done together when it ends, or not at all.

Because the steps are data, a transaction cannot be left open, cannot deadlock, and can be tried again by itself when
something was not there.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from ._native import Steps
from .errors import NotNowError

if TYPE_CHECKING:
    from ._native import Failure, JobId, Lease, Route, Settled, Timeouts, Usage
    from .gateway import Gateway
    from .values import Body, Corrected, Moment, Seconds

T = TypeVar("T")


class Step(Generic[T]):
    """What a step will have answered once the transaction is done."""

    __slots__ = ("_value", "done", "__weakref__")

    def __init__(self) -> None:
        self.done = False
        self._value: Any = None

    @property
    def value(self) -> T:
        """The answer, as the gateway's own method would return it.

        Raises ``RuntimeError`` while there is none.
        """
        if not self.done:
            raise RuntimeError("the step was not done")
        return cast(T, self._value)

    def _set(self, value: object) -> None:
        self.done = True
        self._value = value

    def __repr__(self) -> str:
        return f"<Step {self._value!r}>" if self.done else "<Step not done>"


class _Gathered:
    """The steps that a block gathers. Each method takes what the gateway's method of that name takes."""

    def __init__(self) -> None:
        self._native = Steps()
        self._steps: list[Step[Any] | Group] = []
        self._closed = False

    def _add(self) -> Step[Any]:
        step: Step[Any] = Step()
        self._steps.append(step)
        return step

    def _open(self) -> Steps:
        if self._closed:
            raise RuntimeError("the block has ended")
        return self._native

    def submit(
        self,
        customer: str,
        route: str | Route,
        payload: Body | None = None,
        *,
        priority: str | None = None,
        estimate: Seconds | None = None,
        tokens: int = 1,
        affinity: str | None = None,
        idempotency_key: str | None = None,
        timeouts: Timeouts | None = None,
        not_before_ns: Moment | None = None,
        id: JobId | str | None = None,
    ) -> Step[JobId]:
        """Takes a job in."""
        self._open().submit(
            customer,
            route,
            payload,
            priority=priority,
            estimate=estimate,
            tokens=tokens,
            affinity=affinity,
            idempotency_key=idempotency_key,
            timeouts=timeouts,
            not_before_ns=not_before_ns,
            id=id,
        )
        return self._add()

    def dispatch(self, *, route: str | Route | None = None) -> Step[Lease]:
        """Leases the next job, of a route or of all; "not now" where there is none."""
        self._open().dispatch(route=route)
        return self._add()

    def dispatch_to(self, backend: str, n: int = 1) -> Step[list[Lease]]:
        """Leases up to ``n`` jobs to a backend; "not now" where there is none."""
        self._open().dispatch_to(backend, n)
        return self._add()

    def heartbeat(self, lease: Lease | int) -> Step[int]:
        """Tells that a lease's worker lives."""
        self._open().heartbeat(lease)
        return self._add()

    def progress(
        self,
        lease: Lease | int,
        progress: float | None = None,
        *,
        ppm: int | None = None,
        progress_ppm: int | None = None,
    ) -> Step[int]:
        """Tells how far a job is, see ``Gateway.progress``."""
        self._open().progress(lease, progress, ppm=ppm, progress_ppm=progress_ppm)
        return self._add()

    def complete(
        self,
        lease: Lease | int,
        output: Body,
        *,
        usage: Usage | None = None,
        gpu_seconds: Seconds | None = None,
        gpu_ns: int | None = None,
        device: str = "gpu",
    ) -> Step[Settled]:
        """Takes a result."""
        self._open().complete(lease, output, usage=usage, gpu_seconds=gpu_seconds, gpu_ns=gpu_ns, device=device)
        return self._add()

    def fail(self, lease: Lease | int, failure: Failure, *, usage: Usage | None = None) -> Step[int | None]:
        """Takes a failure."""
        self._open().fail(lease, failure, usage=usage)
        return self._add()

    def release(
        self, lease: Lease | int, *, not_before_ns: Moment | None = None, usage: Usage | None = None
    ) -> Step[JobId]:
        """Takes a lease back; the job waits again, at once or until an instant."""
        self._open().release(lease, not_before_ns=not_before_ns, usage=usage)
        return self._add()

    def preempt(self, job: JobId | str, *, usage: Usage | None = None) -> Step[int]:
        """Takes the lease of a job that runs back; answers with its number. Who needs the room gets it in the next step.

        >>> from libgateway import Backend, Gateway
        >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")])
        >>> batch = gateway.submit("acme", "image/flux/dev/t2i", priority="low")
        >>> lease = gateway.dispatch()
        >>> urgent = gateway.submit("acme", "image/flux/dev/t2i", priority="high")
        >>> with gateway.transaction() as tx:
        ...     preempted = tx.preempt(batch)
        ...     step = tx.dispatch()
        >>> preempted.value == lease.id, step.value.job == urgent, gateway.job(batch).preemptions
        (True, True, 1)
        """
        self._open().preempt(job, usage=usage)
        return self._add()

    def cancel(self, job: JobId | str, *, usage: Usage | None = None) -> Step[None]:
        """Gives a job up."""
        self._open().cancel(job, usage=usage)
        return self._add()

    def cancel_lease(self, lease: Lease | int, *, usage: Usage | None = None) -> Step[JobId]:
        """Gives up the job of a live lease."""
        self._open().cancel_lease(lease, usage=usage)
        return self._add()

    def correct_usage(self, lease: Lease | int, usage: Usage) -> Step[Corrected]:
        """Takes what a lease used that has ended."""
        self._open().correct_usage(lease, usage)
        return self._add()

    def delete(self, job: JobId | str) -> Step[None]:
        """Removes the record of a job that has ended."""
        self._open().delete(job)
        return self._add()

    def _set(self, values: list[Any]) -> None:
        for step, value in zip(self._steps, values):
            step._set(value)


class Group(_Gathered):
    """Steps inside a transaction that are one step of it: all of them, or the first that can be done now."""

    def __init__(self, parent: Transaction, first: bool) -> None:
        super().__init__()
        self._parent = parent
        self._first = first
        self.index: int | None = None
        """Which step of ``first_of`` was done, from 0."""

    def __enter__(self) -> Group:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        if kind is None:
            steps = self._parent._open()
            (steps.first_of if self._first else steps.all)(self._native)
            self._parent._steps.append(self)

    def _set(self, values: Any) -> None:
        if self._first:
            self.index, value = values
            assert self.index is not None
            self._steps[self.index]._set(value)
        else:
            super()._set(values)


class Transaction(_Gathered):
    """Steps of a gateway, gathered in a ``with`` block and done together when it ends, or not at all.

    If the block is left by an exception nothing is done. If something is not there now, ``with`` raises ``NotNowError``;
    ``async with`` waits for a change and tries again. Answers are in the steps afterwards.
    """

    def __init__(self, gateway: Gateway, now_ns: Moment | None = None) -> None:
        super().__init__()
        self._gateway = gateway
        self._now_ns = now_ns

    def all(self) -> Group:
        """A group of steps, in a ``with`` block of its own: all of them."""
        self._open()
        return Group(self, False)

    def first_of(self) -> Group:
        """A group of steps, in a ``with`` block of its own: the first of them that can be done now."""
        self._open()
        return Group(self, True)

    def __enter__(self) -> Transaction:
        self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closed = True
        if kind is None:
            self._set(self._run())

    async def __aenter__(self) -> Transaction:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if kind is None:
            self._set(await self._gateway._waiters.until(self._try, lambda: ("other", None)))

    def _try(self) -> list[Any] | None:
        try:
            return self._run()
        except NotNowError:
            return None

    def _run(self) -> list[Any]:
        if not self._steps:
            return []
        return cast("list[Any]", self._gateway._run(self._native, now_ns=self._now_ns))
