"""Exceptions: one base, a family for each kind of operation, a leaf for each error.

Refusals are return values; these are misuse and damage. Numbers and codes are fixed, the same in Rust, C and HTTP. A leaf
of :class:`InputError` or :class:`FullError` may come out of any call.

>>> import libgateway
>>> try:
...     libgateway.Route("image/flux")
... except libgateway.InputError as error:
...     error.number, error.code, error.field, error.message
(206, 'malformed', 'route', 'route is malformed: expected modality/family/model/task')

An argument that does not fit is an :class:`InputError` whose ``field`` is the argument's name. Where Python itself has a class
for it, it is of that, too: :class:`WrongTypeError` is a ``TypeError``, :class:`OutOfRangeError` an ``OverflowError``.

>>> try:
...     libgateway.RateLimit(burst=-10)
... except OverflowError as error:
...     error.code, error.field, error.message
('out_of_range', 'burst', 'burst is -10, allowed is 0 to 18446744073709551615')
"""

from __future__ import annotations


class GatewayError(Exception):
    """Any error of the library. It survives pickle, copy and process pools with all that was set on it."""

    number: int = 0
    """The fixed number: hundreds tell the family."""
    code: str = "gateway"
    """The fixed snake_case name."""
    message: str
    """Words for people."""
    field: str | None
    """The field the error is about, where there is one."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class InputError(GatewayError, ValueError):
    """A value that cannot be: of a configuration or of a call. 2xx."""


ConfigError = InputError
"""A configuration cannot be; the field it names is one of the configuration."""


class FullError(GatewayError):
    """A bounded table has no room left; ``field`` names its limit. 3xx."""

    scope: str
    """Whose limit it is: ``customer``, ``gateway`` or ``part``."""
    measured: int
    """What is in it. Of ``jobs`` of a gateway: jobs that have not ended, and settlements that are not confirmed."""
    max: int
    """The limit."""
    retry_at_ns: int | None
    """The first instant at which there will be room by itself; ``None`` where that is not known."""

    def __init__(
        self,
        message: str,
        field: str | None = None,
        scope: str = "part",
        measured: int = 0,
        max: int = 0,
        retry_at_ns: int | None = None,
    ) -> None:
        super().__init__(message, field)
        self.scope = scope
        self.measured = measured
        self.max = max
        self.retry_at_ns = retry_at_ns


class SubmitError(GatewayError):
    """A job was not taken in. 4xx."""


class LeaseError(GatewayError):
    """A result or word of a lease was not taken. 5xx."""


class JobError(GatewayError):
    """A job is not there, or not in a state for the call. 6xx."""


class FleetError(GatewayError):
    """A backend, customer or route is not there. 7xx."""


class BillingError(GatewayError):
    """A call could not be billed. 1101 and up."""


class OutboxError(GatewayError):
    """The outbox does not know a batch that way. 1111 and up."""


class SnapshotError(GatewayError):
    """Bytes are no snapshot. 12xx."""


class CommandError(GatewayError):
    """A text or record is no command. 13xx."""


class TransactionError(GatewayError):
    """Steps were not done together. 14xx."""


class PoisonedError(GatewayError):
    """A call panicked under the lock: restore the gateway from a snapshot or log."""

    number, code = 1501, "poisoned"


class ForkedError(GatewayError, RuntimeError):
    """It was made in another process. Two of the same would both grant what is there once: make a new one after a fork."""

    number, code = 9001, "forked"


class NoResultError(LeaseError):
    """The block of a lease ended without a word. The attempt has failed with kind ``backend``."""

    number, code = 9002, "no_result"


class DeniedError(GatewayError):
    """A decorated function was not called: its limiter or its breaker said no."""

    retry_after: float | None = None
    """Seconds after which it is worth trying again; ``None`` where that is never."""


class LimitedError(DeniedError):
    """The limiter of a decorated function has no tokens."""

    number, code = 9003, "limited"


class BreakerOpenError(DeniedError):
    """The breaker of a decorated function is open."""

    number, code = 9004, "breaker_open"


class EmptyError(InputError):
    """A field is empty."""

    number, code = 201, "empty"


class TooLongError(InputError):
    """A field is longer than its limit."""

    number, code = 202, "too_long"


class CharacterError(InputError):
    """A field has a character that is not allowed in it."""

    number, code = 203, "character"


class OutOfRangeError(InputError, OverflowError):
    """A number is outside its range."""

    number, code = 204, "out_of_range"


class OverflowInputError(InputError, OverflowError):
    """A span, a sum or a product does not fit into 64 bits."""

    number, code = 205, "overflow"


class MalformedError(InputError):
    """A field does not have the form it must have."""

    number, code = 206, "malformed"


class WrongTypeError(MalformedError, TypeError):
    """An argument is not of the class that belongs there; ``field`` names it."""


class RangeInputError(MalformedError, OverflowError):
    """An instant, a span or a share is outside what it can be: before 1970, below 0, no number (NaN), more than all."""


class ContradictionError(InputError):
    """Two fields contradict each other."""

    number, code = 207, "contradiction"


class RepeatedError(InputError):
    """The same value stands twice in a list that has each at most once."""

    number, code = 208, "repeated"


class TableFullError(FullError):
    """A table has no room left; ``field`` names it."""

    number, code = 301, "full"


class IdempotencyConflictError(SubmitError):
    """The idempotency key stands for a job with another payload, route or priority."""

    number, code = 401, "idempotency_conflict"


class UnknownRouteError(SubmitError):
    """No backend was ever declared for the route."""

    number, code = 402, "unknown_route"


class DuplicateJobError(SubmitError):
    """The id stands for another job."""

    number, code = 403, "duplicate_job"


class SupersededError(LeaseError):
    """The lease has ended: stop working for it."""

    number, code = 501, "superseded"


class StillLiveError(LeaseError):
    """The lease is live: what it used comes with its result."""

    number, code = 511, "still_live"


class TooLateError(LeaseError):
    """The lease ended too long ago for its usage to be told."""

    number, code = 512, "too_late"


class UnknownLeaseError(LeaseError):
    """This gateway never granted such a lease."""

    number, code = 502, "unknown_lease"


class UnknownJobError(JobError):
    """No job of that id is known, or it is no longer."""

    number, code = 601, "unknown_job"


class EndedError(JobError):
    """The job has ended."""

    number, code = 602, "ended"


class NotEndedError(JobError):
    """The job has not ended."""

    number, code = 603, "not_ended"


class NotAllowedError(JobError):
    """The event cannot happen to a job in its state."""

    number, code = 604, "not_allowed"


class StaleAttemptError(JobError):
    """Another attempt has begun since."""

    number, code = 605, "stale_attempt"


class PreemptedTooOftenError(JobError):
    """The job was preempted as often as it may be, and runs on."""

    number, code = 606, "preempted_too_often"


class UnknownBackendError(FleetError):
    """No backend of that name is known."""

    number, code = 701, "unknown_backend"


class UnknownCustomerError(FleetError):
    """No customer of that name has a policy of its own."""

    number, code = 702, "unknown_customer"


class RouteNotServedError(FleetError):
    """No backend serves the route, and no job waits for one."""

    number, code = 703, "route_not_served"


class NoStartError(BillingError):
    """The call was never started, or has ended already."""

    number, code = 1101, "no_start"


class AlreadyStartedError(BillingError):
    """The call is started already."""

    number, code = 1102, "already_started"


class UsageExceedsElapsedError(BillingError):
    """A device worked longer than the call lasted."""

    number, code = 1103, "usage_exceeds_elapsed"


class ChargeOverflowError(BillingError):
    """Usage times price does not fit into 64 bits of micro-units."""

    number, code = 1104, "charge_overflow"


class UnknownBatchError(OutboxError):
    """No such batch was ever handed out."""

    number, code = 1111, "unknown_batch"


class BatchSupersededError(OutboxError):
    """The batch was given back, and its entries are handed out again."""

    number, code = 1112, "batch_superseded"


class HandedOutError(OutboxError):
    """An entry that somebody may have seen cannot be taken back."""

    number, code = 1113, "handed_out"


class TruncatedError(SnapshotError):
    """The bytes end too early."""

    number, code = 1201, "truncated"


class NotASnapshotError(SnapshotError):
    """The bytes do not begin like a snapshot."""

    number, code = 1202, "not_a_snapshot"


class NewerVersionError(SnapshotError):
    """A newer library made it."""

    number, code = 1203, "newer_version"


class AlteredError(SnapshotError):
    """Bytes were changed: the digest does not fit."""

    number, code = 1204, "altered"


class CorruptError(SnapshotError):
    """The digest fits, but the content contradicts itself."""

    number, code = 1205, "corrupt"


class ChangedError(SnapshotError):
    """The gateway was given a command while its snapshot was taken in slices."""

    number, code = 1206, "changed"


class NotACommandError(CommandError):
    """The text is not that of a command or configuration."""

    number, code = 1301, "not_a_command"


class BadBytesError(CommandError):
    """The bytes are not those of a command."""

    number, code = 1302, "bad_bytes"


class OutOfSequenceError(CommandError):
    """The entry is not the next one of the log: it was applied before, or one before it was not."""

    number, code = 1303, "out_of_sequence"


class NotNowError(TransactionError):
    """Something the steps need is not there now; nothing was done."""

    number, code = 1401, "not_now"


class NoStepError(TransactionError):
    """There is no step in it."""

    number, code = 1402, "no_step"


class TooManyStepsError(TransactionError):
    """It has more steps than the gateway's ``steps_max``."""

    number, code = 1403, "too_many_steps"


def _beside(error: BaseException, other: BaseException) -> None:
    """Lets ``error`` go on, with what came up meanwhile beside it: as its context, before that it had, and as a note."""
    seen: list[BaseException] = []
    last: BaseException | None = error
    while last is not None and last not in seen:
        if last is other:
            return  # It stands there already.
        seen.append(last)
        last = last.__context__
    last = other
    seen = [other]
    while last.__context__ is not None and last.__context__ is not error and last.__context__ not in seen:
        last = last.__context__
        seen.append(last)
    last.__context__, error.__context__ = error.__context__, other
    if hasattr(error, "add_note"):
        error.add_note(f"And while the block ended: {type(other).__name__}: {other}")


def _leaves(cls: type[GatewayError]) -> list[type[GatewayError]]:
    found = [cls] if "number" in vars(cls) and cls.number else []
    for child in cls.__subclasses__():
        found.extend(_leaves(child))
    return found


BY_NUMBER: dict[int, type[GatewayError]] = {leaf.number: leaf for leaf in _leaves(GatewayError)}
"""The exception of each error number."""
