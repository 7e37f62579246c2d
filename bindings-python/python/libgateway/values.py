"""What calls answer: enums and frozen dataclasses that compare, hash, print and pickle.

Integers say their unit in their name (``_ns``, ``_ppm``, ``_micros``) and are exact. Beside them stand properties in the
types of the standard library: ``datetime`` (which keeps microseconds), ``timedelta``, ``Decimal``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from operator import index
from typing import TypeAlias

from ._native import JobId
from .errors import RangeInputError, WrongTypeError

Moment: TypeAlias = int | datetime
"""An instant: nanoseconds since the Unix epoch, or an aware ``datetime``."""
Number: TypeAlias = float | Decimal | Fraction
"""A number that may have a fraction: also an integer, a scalar of numpy, or anything with ``as_integer_ratio`` or
``__float__``. A text is none, nor is what has a unit or a shape (``timedelta64``, an array). Where an integer is expected,
whatever ``operator.index`` takes is one, ``True`` included, and nothing else: no ``float``, not even ``1.0``. It is the same
in every call, but for prices, which are exact decimals."""
Seconds: TypeAlias = timedelta | Number
"""A span: a ``timedelta``, or a number of seconds, to the nearest nanosecond."""
Body: TypeAlias = str | bytes | bytearray | memoryview
"""What a job is given, or an output: text is UTF-8, and a URL where an output is meant."""


def instant(ns: int) -> datetime:
    """Nanoseconds since the Unix epoch as an aware ``datetime`` in UTC, cut to microseconds.

    >>> instant(1_700_000_000_123_456_789)
    datetime.datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=datetime.timezone.utc)
    """
    try:
        seconds, rest = divmod(index(ns), 1_000_000_000)
        return datetime.fromtimestamp(seconds, timezone.utc).replace(microsecond=rest // 1_000)
    except TypeError:
        expected = f"an integer of nanoseconds since the Unix epoch, not {type(ns).__name__}"
        raise WrongTypeError(f"ns is malformed: expected {expected}", "ns") from None
    except (OverflowError, OSError, ValueError):
        raise RangeInputError("ns is malformed: expected an instant that a datetime can be", "ns") from None


def _maybe(ns: int | None) -> datetime | None:
    return None if ns is None else instant(ns)


def _decimal(units: int, decimals: int) -> Decimal:
    """An integer of small units as the canonical ``Decimal`` of the large one.

    >>> _decimal(1_700_000_000, 9), _decimal(0, 9), _decimal(20_000_000_000, 9)
    (Decimal('1.7'), Decimal('0'), Decimal('20'))
    """
    whole, rest = divmod(units, 10**decimals)
    return Decimal(f"{whole}.{rest:0{decimals}}".rstrip("0").rstrip("."))


class _Word(str, Enum):
    """An enum whose members are their own text."""

    def __str__(self) -> str:
        return str.__str__(self)

    def __format__(self, spec: str) -> str:
        return str.__format__(str(self), spec)


class Priority(_Word):
    """The lane a job waits in; a higher one is served first."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Ordering(_Word):
    """How customers of one lane follow each other."""

    FAIR = "fair"
    FIFO = "fifo"


class RateRule(_Word):
    """How a share is held against its threshold: ``>=`` or ``>``."""

    AT_LEAST = "at_least"
    ABOVE = "above"


class JobState(_Word):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETE = "complete"
    ERROR = "error"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the job has ended, which is final.

        >>> JobState.ERROR.ended, JobState.RUNNING.ended
        (True, False)
        """
        return self in (JobState.COMPLETE, JobState.ERROR, JobState.CANCELLED)


class Task(_Word):
    """What a job asks a model to do."""

    T2I = "t2i"
    I2I = "i2i"
    EDIT = "edit"
    T2V = "t2v"
    I2V = "i2v"
    COMPLETE = "complete"
    CHAT = "chat"
    INFILL = "infill"
    EMBED = "embed"


class BackendKind(_Word):
    """The engine a backend runs."""

    NUNCHAKU = "nunchaku"
    TORCH = "torch"
    TENSORRT = "tensorrt"
    VLLM = "vllm"
    SGLANG = "sglang"
    OTHER = "other"


class FailureKind(_Word):
    """Why an attempt failed. It decides whether the job is tried again, and whether the breaker hears of it."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    NETWORK = "network"
    HTTP = "http"
    BACKEND = "backend"
    REJECTED = "rejected"
    LOST = "lost"


class CancelReason(_Word):
    """Why a job was cancelled."""

    REQUESTED = "requested"
    QUEUE_TIMEOUT = "queue_timeout"
    START_TIMEOUT = "start_timeout"
    TOTAL_TIMEOUT = "total_timeout"


class BreakerState(_Word):
    """Whether calls pass a breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Payer(_Word):
    """Who pays for an attempt that did not deliver."""

    CUSTOMER = "customer"
    HOUSE = "house"


class Excess(_Word):
    """What becomes of a usage beyond what its devices can have worked."""

    CAP = "cap"
    REFUSE = "refuse"


class EvictTo(_Word):
    """What becomes of a job whose backend is taken from it: it waits again at once, or it ends in error."""

    QUEUE = "queue"
    ERROR = "error"


class BillingOutcome(_Word):
    """How a call left a billing collector; only an ended one is charged."""

    ENDED = "ended"
    ABANDONED = "abandoned"
    SWEPT = "swept"


class WatchKind(_Word):
    """What a watcher is told of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"
    GONE = "gone"


class EventKind(_Word):
    """What can happen in a gateway."""

    QUEUED = "queued"
    STARTED = "started"
    PROGRESS = "progress"
    RETRIED = "retried"
    REQUEUED = "requeued"
    AGED = "aged"
    ENDED = "ended"
    FORGOTTEN = "forgotten"
    CLOCK_LEAPT = "clock_leapt"
    USAGE_CAPPED = "usage_capped"
    CORRECTED = "corrected"


class _Value:
    """What all values have: they can be weakly referenced. (``weakref_slot`` is of Python 3.11.)"""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class JobFailure(_Value):
    """Why a job is in error, or why its latest attempt failed."""

    kind: FailureKind
    status: int | None
    message: str
    retriable: bool


@dataclass(frozen=True, slots=True)
class Outcome(_Value):
    """How a job ended: its output (a URL as ``str``, data as ``bytes``), its failure, or why it was cancelled."""

    state: JobState
    output: str | bytes | None = None
    failure: JobFailure | None = None
    cancelled: CancelReason | None = None

    def __bool__(self) -> bool:
        return self.state is JobState.COMPLETE


@dataclass(frozen=True, slots=True)
class JobView(_Value):
    """A job as it stands.

    ``attempts`` counts the attempts that failed, and nothing else: not the one that runs, and not those that were lost,
    given back or preempted, which ``requeues`` counts (and ``preemptions`` those of them that the host asked for). A lease's
    ``attempt`` is the number of all before it, and one.

    >>> from libgateway import Backend, Gateway
    >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], now_ns=0)
    >>> job = gateway.submit("acme", "image/flux/dev/t2i", now_ns=0)
    >>> released = gateway.dispatch(now_ns=0).release(now_ns=0)
    >>> lease = gateway.dispatch(now_ns=0)
    >>> lease.attempt, gateway.job(job).attempts, gateway.job(job).requeues
    (2, 0, 1)
    """

    id: JobId
    customer: str
    route: str
    task: Task
    priority: Priority
    state: JobState
    created_ns: int
    started_ns: int | None
    finished_ns: int | None
    position: int | None
    eta_ns: int | None
    progress_ppm: int
    attempts: int
    requeues: int
    preemptions: int
    lease: int | None
    backend: str | None
    failed_on: tuple[str, ...]
    failure: JobFailure | None
    outcome: Outcome | None
    version: int

    @property
    def progress(self) -> float:
        """How far it is, from 0 to 1."""
        return self.progress_ppm / 1_000_000

    @property
    def created(self) -> datetime:
        """When it was submitted."""
        return instant(self.created_ns)

    @property
    def started(self) -> datetime | None:
        """When its latest attempt began."""
        return _maybe(self.started_ns)

    @property
    def finished(self) -> datetime | None:
        """When it ended."""
        return _maybe(self.finished_ns)

    @property
    def eta(self) -> timedelta | None:
        """How long it will probably wait."""
        return None if self.eta_ns is None else timedelta(microseconds=self.eta_ns // 1_000)


@dataclass(frozen=True, slots=True)
class WaitReason(_Value):
    """Why a job waits: ``not_before``, ``paused``, ``no_backend``, ``customer_running``, ``customer_rate``,
    ``backends_busy``, ``behind`` or ``next``, with the number or instant that goes with it.

    ``not_before`` is an instant that its submission or its worker named, or that of its next attempt after a failure;
    ``failed_on`` are the backends that failed it until then, the latest last.

    >>> from libgateway import Backend, Gateway
    >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], now_ns=0)
    >>> job = gateway.submit("acme", "image/flux/dev/t2i", not_before_ns=5_000, now_ns=0)
    >>> gateway.explain(job)
    WaitReason(kind='not_before', until_ns=5000, running=None, jobs=None, failed_on=())
    """

    kind: str
    until_ns: int | None = None
    running: int | None = None
    jobs: int | None = None
    failed_on: tuple[str, ...] = ()

    @property
    def until(self) -> datetime | None:
        """When that ends by itself."""
        return _maybe(self.until_ns)


@dataclass(frozen=True, slots=True)
class BreakerStatus(_Value):
    """All there is to know of a breaker at an instant.

    ``calls`` and ``failures`` are results in the window and failures among them: of the closed state alone, open and
    half-open have none. ``consecutive_failures`` are those since the last success. ``probe_out`` says whether the one probe
    is out, ``probe_successes`` how many in this half-open state succeeded, ``reopens`` how often in a row one failed. The
    totals count since the breaker was made; what was ignored, given up or told after a change of state is in none of them.

    ``reason`` is why it came into its state: ``initial``, ``consecutive_failures``, ``failure_rate``, ``waited``,
    ``probe_failed``, ``probe_timed_out``, ``probes_succeeded``, ``forced`` or ``force_ended``. ``reason_count`` says how many
    it took (failures in a row, failures in the window, probes that succeeded), and ``reason_calls`` of how many results in
    the window. ``why`` has both in words.

    >>> from libgateway import BreakerConfig, CircuitBreaker
    >>> breaker = CircuitBreaker(BreakerConfig(consecutive_failures=3), now_ns=0)
    >>> for _ in range(3):
    ...     counted = breaker.failure(breaker.admit(now_ns=0), now_ns=0)
    >>> status = breaker.status(now_ns=0)
    >>> str(status.state), status.why, status.calls, status.failures_total
    ('open', '3 failures in a row', 0, 3)
    """

    state: BreakerState
    forced: bool
    since_ns: int
    until_ns: int | None
    reason: str
    calls: int
    failures: int
    consecutive_failures: int
    reopens: int
    probe_out: bool
    probe_successes: int
    successes_total: int
    failures_total: int
    rejected_total: int
    reason_count: int | None = None
    reason_calls: int | None = None

    @property
    def why(self) -> str:
        """The reason in words, with its numbers."""
        some = "" if self.reason_count == 1 else "s"
        match self.reason:
            case "consecutive_failures":
                return f"{self.reason_count} failure{some} in a row"
            case "failure_rate":
                return f"{self.reason_count} failure{some} in {self.reason_calls} calls"
            case "probes_succeeded":
                return f"{self.reason_count} probe{some} succeeded"
        return self.reason.replace("_", " ")


@dataclass(frozen=True, slots=True)
class CustomerView(_Value):
    """A customer as it stands."""

    weight: int
    running: int
    queued: int
    tokens: int | None
    tier: str
    own_policy: bool


@dataclass(frozen=True, slots=True)
class Counters(_Value):
    """What has happened since the beginning."""

    submitted: int
    leases: int
    warm_hits: int
    probes: int
    completed: int
    errors: int
    cancelled: int
    retries: int
    requeues: int
    lost: int
    released: int
    preempted: int
    parked: int
    aged: int
    forgotten: int
    clock_leaps: int
    capped: int
    unpriced: int
    corrections: int


@dataclass(frozen=True, slots=True)
class Stats(_Value):
    """Numbers of the whole gateway. Each gauge is a count of what there is."""

    queued: int
    running: int
    complete: int
    error: int
    cancelled: int
    customers: int
    routes: int
    backends: int
    unconfirmed: int
    charged_micros: int
    credited_micros: int
    unpriced_ns: int
    events: int
    clock_offset_ns: int
    counters: Counters

    @property
    def charged(self) -> Decimal:
        """All charges so far; what has no price is not among them."""
        return _decimal(self.charged_micros, 6)

    @property
    def credited(self) -> Decimal:
        """All that corrections gave back so far."""
        return _decimal(self.credited_micros, 6)

    @property
    def unpriced_gpu_seconds(self) -> Decimal:
        """GPU-seconds that customers pay for without a price."""
        return _decimal(self.unpriced_ns, 9)


@dataclass(frozen=True, slots=True)
class Advance(_Value):
    """What a call of ``advance`` did."""

    handled: int
    now_ns: int
    more: bool
    leapt_ns: int | None
    next_deadline_ns: int | None


@dataclass(frozen=True, slots=True)
class Event(_Value):
    """One thing that happened. Numbers have no gaps; a higher one than expected tells that some were dropped.

    ``epoch`` is the life of the gateway: where it is not the one that was known, look again.
    """

    epoch: int
    number: int
    at_ns: int
    kind: EventKind
    job: JobId | None = None
    state: JobState | None = None
    leapt_ns: int | None = None
    reported_ns: int | None = None
    billed_ns: int | None = None

    @property
    def at(self) -> datetime:
        """When it happened."""
        return instant(self.at_ns)


@dataclass(frozen=True, slots=True)
class WatchEvent(_Value):
    """What a watcher is told of a job."""

    kind: WatchKind
    position: int | None = None
    progress_ppm: int | None = None
    outcome: Outcome | None = None

    @property
    def progress(self) -> float | None:
        """How far it is, from 0 to 1."""
        return None if self.progress_ppm is None else self.progress_ppm / 1_000_000


@dataclass(frozen=True, slots=True)
class DeviceTime(_Value):
    """What one device worked."""

    device: str
    gpu_ns: int

    @property
    def gpu_seconds(self) -> Decimal:
        """The same in seconds, exactly."""
        return _decimal(self.gpu_ns, 9)


@dataclass(frozen=True, slots=True)
class Correction(_Value):
    """What makes a settlement a correction: the epoch and the number of the first entry it corrects, by whose lease, which of
    that lease's corrections it is, when, and what is taken back."""

    corrects_epoch: int
    corrects: int
    lease: int
    revision: int
    at_ns: int
    usage_credit_ns: int
    absorbed_credit_ns: int
    charge_credit_micros: int

    @property
    def charge_credit(self) -> Decimal:
        """What is given back."""
        return _decimal(self.charge_credit_micros, 6)


@dataclass(frozen=True, slots=True)
class Corrected(_Value):
    """What a usage that was told late came to; ``settlement`` is the number of the correcting entry, if there is one."""

    job: JobId
    settlement: int | None
    reported_ns: int
    billed_ns: int
    capped: bool


@dataclass(frozen=True, slots=True)
class Evicted(_Value):
    """A lease that ended because its backend was taken from it: the lease's number, and its job.

    >>> from libgateway import Backend, Gateway
    >>> gateway = Gateway(backends=[Backend("b", modality="image", family="flux")], seed=1, now_ns=0)
    >>> job = gateway.submit("acme", "image/flux/dev/t2i", id=JobId(7), now_ns=0)
    >>> lease = gateway.dispatch(now_ns=0)
    >>> gateway.evict_backend("b", now_ns=0)
    [Evicted(lease=1, job=JobId('j_00000000000000000000000007'))]
    >>> lease.id, str(gateway.job(job).state), gateway.backend("b").live
    (1, 'queued', 0)
    """

    lease: int
    job: JobId


@dataclass(frozen=True, slots=True)
class Batch(_Value):
    """Entries that were handed out together."""

    id: int
    first_seq: int
    len: int


@dataclass(frozen=True, slots=True)
class RateHeaders(_Value):
    """What ``X-RateLimit-Limit``, ``-Remaining`` and ``-Reset`` say."""

    limit: int
    remaining: int
    reset_ns: int

    @property
    def reset_seconds(self) -> int:
        """Time until the bucket is full, in whole seconds, rounded up."""
        return -(-self.reset_ns // 1_000_000_000)


@dataclass(frozen=True, slots=True)
class StoredJob(_Value):
    """A job of a ``JobStore`` as it stands. ``attempt`` is the number of its latest attempt: how often it was started."""

    id: JobId
    customer: str
    state: JobState
    payload: bytes
    created_ns: int
    started_ns: int | None
    finished_ns: int | None
    progress_ppm: int
    attempt: int
    outcome: Outcome | None
    version: int

    @property
    def progress(self) -> float:
        """How far it is, from 0 to 1."""
        return self.progress_ppm / 1_000_000


@dataclass(frozen=True, slots=True)
class BillingReceipt(_Value):
    """What the end of a call came to."""

    seq: int
    reported_ns: int
    billed_ns: int
    capped: bool
    charge_micros: int | None

    @property
    def gpu_seconds(self) -> Decimal:
        """GPU-seconds charged."""
        return _decimal(self.billed_ns, 9)

    @property
    def charge(self) -> Decimal | None:
        """What is charged; ``None`` where there was no price."""
        return None if self.charge_micros is None else _decimal(self.charge_micros, 6)


@dataclass(frozen=True, slots=True)
class BillingRecord(_Value):
    """What a call came to: the entry of the outbox."""

    seq: int
    request_id: str
    customer: str | None
    model: str
    tier: str | None
    outcome: BillingOutcome
    devices: tuple[DeviceTime, ...]
    reported_ns: int
    billed_ns: int
    capped: bool
    measured: bool
    started_ns: int
    ended_ns: int
    elapsed_ns: int
    clock_back: bool
    price: str | None
    price_version: int
    currency: str
    charge_micros: int | None

    @property
    def gpu_seconds(self) -> Decimal:
        """GPU-seconds charged."""
        return _decimal(self.billed_ns, 9)

    @property
    def charge(self) -> Decimal | None:
        """What is charged; ``None`` where there was no price."""
        return None if self.charge_micros is None else _decimal(self.charge_micros, 6)


@dataclass(frozen=True, slots=True)
class BillingTotals(_Value):
    """Sums over the whole life of a collector."""

    started: int
    ended: int
    abandoned: int
    swept: int
    unpriced: int
    unpriced_ns: int
    capped: int
    unmeasured: int
    usage_ns: int
    charge_micros: int
