"""The gateway as Python sees it: the machine of ``_native``, with blocks, transactions and waiting for asyncio."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from . import _native
from ._native import JobId, Lease, Settlement
from .aio import Events, Hub, Leases, Outcomes
from .errors import CharacterError, MalformedError, UnknownJobError, WrongTypeError, _beside
from .transaction import Transaction
from .values import Batch, Outcome

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Callable

    from ._native import Route
    from .values import Moment


class Gateway(_native.Gateway):
    """A GPU gateway's decisions: who may enter, who runs next and where, what happens when that fails, what it costs.

    Every call is atomic and safe from any thread. ``backends``, ``customers`` (a policy for each name) and ``prices`` are put
    in force at once; all other arguments are limits and policies, see ``docs/commands.md`` for what each means. ``seed`` is
    random unless given. From ``entropy`` come the numbers that leases have: random, unless it or a ``seed`` is given; with a
    ``seed`` alone leases are numbered from 1 on, as in tests and replays. ``clock`` is called for the time where ``now_ns`` is
    not given: nanoseconds since the Unix epoch. Without
    one it is the system's, read once in a process and never stepping from then on. Every instant that is answered is of that
    clock, as it was read last.

    Waiting is for asyncio: ``async for lease in gateway.leases()``, ``await gateway.result(job)``,
    ``async for event in gateway.watch(job)``, ``async with gateway.transaction()``.
    """

    __slots__ = ("__weakref__",)

    @property
    def _waiters(self) -> Hub:
        hub = self._hub
        return self._keep_hub(Hub(self)) if hub is None else hub

    @property
    def waiting(self) -> int:
        """How many tasks wait for a lease, a result, an event or a change."""
        return len(self._waiters)

    def _wake(self) -> None:
        self._waiters.poke()

    @classmethod
    def restore(
        cls,
        snapshot: bytes,
        *,
        entropy: int | None = None,
        clock: Callable[[], int] | None = None,
        now_ns: Moment | None = None,
    ) -> Gateway:
        """The gateway that goes on where the one of ``snapshot`` stopped, or was lost after it.

        It is ``replica``, and then ``begin_epoch`` with ``entropy``, by default of the system; give one where there is a log, which
        has to show that command. Workers keep the leases the snapshot knows; the answer of any other raises
        ``SupersededError``.

        >>> gateway = Gateway()
        >>> restored = Gateway.restore(gateway.snapshot())
        >>> restored.epoch != gateway.epoch, restored.commands - gateway.commands
        (True, 1)
        """
        return cls(snapshot=snapshot, entropy=entropy, clock=clock, now_ns=now_ns)

    @classmethod
    def replica(cls, snapshot: bytes, *, clock: Callable[[], int] | None = None) -> Gateway:
        """The very gateway that ``snapshot`` was taken of: for replays of a log, for standbys and for checks.

        >>> gateway = Gateway()
        >>> Gateway.replica(gateway.snapshot()).digest() == gateway.digest()
        True
        """
        return cls(replica=snapshot, clock=clock)

    @classmethod
    def from_config(
        cls,
        config: str | Mapping[str, Any],
        *,
        entropy: int | None = None,
        clock: Callable[[], int] | None = None,
        now_ns: Moment | None = None,
    ) -> Gateway:
        """A gateway with a configuration as the first line of a log has it: JSON text, or the same as a dict.

        It is in its first life, as a log begins, unless ``entropy`` is given.

        >>> json.loads(Gateway.from_config({"jobs_max": 10}).config_json)["jobs_max"]
        10
        """
        text = config if isinstance(config, str) else json.dumps(config)
        return cls(config=text, entropy=entropy, clock=clock, now_ns=now_ns)

    @overload
    def apply(self, entry: str) -> str: ...
    @overload
    def apply(self, entry: Mapping[str, Any]) -> dict[str, Any]: ...
    def apply(self, entry: str | Mapping[str, Any]) -> str | dict[str, Any]:
        """Applies a command given as data, and returns the reply as data: JSON text for JSON text, a dict for a dict.

        What is no command, or is refused, is answered by ``{"error": …}`` and changes nothing.

        >>> gateway = Gateway(now_ns=5)
        >>> gateway.apply('{"now":7,"command":{"advance":{}}}')
        '{"advanced":{"handled":0,"now":7,"more":false,"leapt":null,"next_deadline":null}}'
        >>> gateway.apply({"now": 7, "command": {"cancel": {"job": str(JobId(1))}}})["error"]["name"]
        'unknown_job'
        """
        if isinstance(entry, str):
            return self._apply_json(entry)
        reply: dict[str, Any] = json.loads(self._apply_json(json.dumps(entry, separators=(",", ":"))))
        return reply

    def transaction(self, *, now_ns: Moment | None = None) -> Transaction:
        """Several steps as one: gathered in the block, done together when it ends, or not at all.

        >>> from libgateway import Backend, NotNowError
        >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux"),
        ...                             Backend("c", modality="image", family="wan")])
        >>> job = gateway.submit("acme", "image/flux/dev/t2i")
        >>> try:
        ...     with gateway.transaction() as tx:
        ...         first = tx.dispatch(route="image/flux/dev/t2i")
        ...         second = tx.dispatch()
        ... except NotNowError as error:
        ...     error.code, gateway.stats().running, gateway.position(job)
        ('not_now', 0, 0)
        >>> with gateway.transaction() as tx:
        ...     step = tx.dispatch()
        >>> step.value.job == job
        True
        """
        return Transaction(self, now_ns)

    def lease(
        self, *, backend: str | None = None, route: str | Route | None = None, now_ns: Moment | None = None
    ) -> LeaseBlock:
        """The next job, for a block: ``with`` gives a lease or ``None`` at once, ``async with`` waits for one.

        The block ends the lease as it ends itself, see ``Lease``. With a ``backend`` the next job for that, with a ``route`` the
        next of that. With ``now_ns`` no clock is read: the block begins at that instant and ends at the latest one the gateway
        was told. ``async with`` waits by the clock and takes no ``now_ns``.

        >>> from libgateway import Backend
        >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], now_ns=1_000)
        >>> job = gateway.submit("acme", "image/flux/dev/t2i", now_ns=1_000)
        >>> with gateway.lease(now_ns=2_000) as lease:
        ...     deadline = lease.heartbeat(now_ns=5_000)
        ...     settled = lease.complete(b"an image")
        >>> settled.usage_ns
        3000
        """
        return LeaseBlock(self, backend, route, now_ns)

    def leases(self, *, backend: str | None = None, route: str | Route | None = None) -> Leases:
        """Leases as they come, for a worker: ``async for lease in gateway.leases(backend="flux-1"): with lease: …``.

        Workers that ask for the same get theirs in the order in which they came.
        """
        return Leases(self, lambda: self._next_lease(backend, route), (backend, None if route is None else str(route)))

    def _next_lease(self, backend: str | None, route: str | Route | None, now_ns: Moment | None = None) -> Lease | None:
        if backend is None:
            return self.dispatch(route=route, now_ns=now_ns)
        leases = self.dispatch_to(backend, now_ns=now_ns)
        return leases[0] if leases else None

    async def result(self, job: JobId | str) -> Outcome:
        """Waits for the end of a job and returns how it ended. Raises ``UnknownJobError`` where it is not known (any more)."""
        asked = _asked(job)
        if asked is None:
            raise UnknownJobError(f"job {str(job)[:64]!r} is not known", "job")
        return await Outcomes(self, asked).wait()

    def watch(self, job: JobId | str) -> Events:
        """What happens to a job: its present state first, then only changes, always an end."""
        return Events(self, _asked(job) or JobId())  # A new id is that of no job.

    async def changed(self) -> None:
        """Waits until something has changed that may help somebody."""
        before = self.changes
        await self._waiters.until(lambda: None if self.changes == before else True, lambda: ("other", None))

    def take_settlements(self, max: int = 1_000, *, now_ns: Moment | None = None) -> Settlements:
        """Hands out up to ``max`` settlements, the oldest first. They stay until they are confirmed.

        With ``now_ns`` no clock is read: they are confirmed or given back at the latest instant the gateway was told.

        >>> gateway = Gateway()
        >>> with gateway.take_settlements() as settlements:
        ...     len(settlements)
        0
        """
        return Settlements(self, self._take_settlements(max, now_ns=now_ns), now_ns is not None)


def _asked(job: JobId | str) -> JobId | None:
    """The id in a question; ``None``: the text is no id, so no job has it."""
    if isinstance(job, JobId):
        return job
    try:
        return JobId(job)
    except WrongTypeError:
        raise
    except (MalformedError, CharacterError):
        return None


class LeaseBlock:
    """A block that leases the next job when it begins and ends the lease when it ends."""

    __slots__ = ("_gateway", "_backend", "_route", "_now_ns", "_lease", "__weakref__")

    def __init__(
        self, gateway: Gateway, backend: str | None, route: str | Route | None, now_ns: Moment | None = None
    ) -> None:
        self._gateway = gateway
        self._backend = backend
        self._route = route
        self._now_ns = now_ns
        self._lease: Lease | None = None

    def __enter__(self) -> Lease | None:
        self._lease = self._gateway._next_lease(self._backend, self._route, self._now_ns)
        return self._lease

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.__exit__(kind, error, trace)

    async def __aenter__(self) -> Lease:
        if self._now_ns is not None:
            raise WrongTypeError("what waits, waits by the clock: give the gateway a clock instead of a now_ns", "now_ns")
        self._lease = await self._gateway.leases(backend=self._backend, route=self._route).__anext__()
        return self._lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)


class Settlements:
    """Settlements that were handed out together. As a block: confirmed when it ends well, given back when it does not.

    An exception that leaves the block goes on. Where they could not even be given back (they are handed out again by
    themselves after ``settle_within``), that error stands beside it, as its ``__context__``.
    """

    __slots__ = ("_gateway", "batch", "_entries", "_timed", "_told", "__weakref__")

    def __init__(
        self, gateway: Gateway, taken: tuple[Batch, list[Settlement]] | None, timed: bool = False
    ) -> None:
        self._gateway = gateway
        self._timed = timed
        self.batch: Batch | None = None
        """What to confirm or to give back; ``None`` where there are none."""
        self._entries: list[Settlement] = []
        self._told = False
        if taken is not None:
            self.batch, self._entries = taken

    def confirm(self) -> int:
        """Lets go of them: they are safe elsewhere. Returns how many."""
        count = 0 if self.batch is None else self._gateway.confirm_settlements(self.batch, now_ns=self._now_ns())
        self._told = True  # What was refused is still the block's to say.
        return count

    def give_back(self) -> int:
        """They could not be kept: they are handed out again. Returns how many."""
        count = 0 if self.batch is None else self._gateway.return_settlements(self.batch, now_ns=self._now_ns())
        self._told = True
        return count

    def _now_ns(self) -> int | None:
        return self._gateway.now_ns if self._timed else None

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Settlement]:
        return iter(self._entries)

    def __getitem__(self, index: int) -> Settlement:
        return self._entries[index]

    def __enter__(self) -> Settlements:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._told:
            if error is None:
                self.confirm()
                return
            try:
                self.give_back()
            except Exception as own:
                _beside(error, own)

    def __repr__(self) -> str:
        return f"<Settlements: {len(self)} in {self.batch}>"
