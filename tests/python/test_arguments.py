"""Every argument of every call: what does not fit is refused at once, by its name, and the same way everywhere.

The calls and their arguments are found by their signatures, so one that is added is tested without being listed here.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal, FloatOperation, Inexact, Rounded, localcontext
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import pytest
from libgateway import (
    Backend,
    Backoff,
    BillingCollector,
    BillingPolicy,
    BreakerConfig,
    CharacterError,
    CircuitBreaker,
    CombinedLimiter,
    ContradictionError,
    CustomerPolicy,
    Failure,
    FairQueue,
    Gateway,
    GatewayError,
    Histogram,
    InputError,
    JobId,
    JobStore,
    KeyedRateLimiter,
    MalformedError,
    OutOfRangeError,
    OverflowInputError,
    PriceBook,
    RateLimit,
    RateLimiter,
    Route,
    Submit,
    RangeInputError,
    Timeouts,
    Usage,
    WindowLimit,
    WindowLimiter,
    WrongTypeError,
    _native,
    instant,
)

from conftest import ROUTE, flux

U64 = 2**64 - 1
JOB = str(JobId(7))


def leased() -> Any:
    gateway = Gateway(backends=[flux()], seed=1, now_ns=0)
    gateway.submit("acme", ROUTE, now_ns=0)
    return gateway.dispatch(now_ns=0)


# What each class is made with, where it needs anything.
MADE: dict[str, Callable[[], Any]] = {
    "Backend": flux,
    "Failure": lambda: Failure("timeout"),
    "PriceBook": lambda: PriceBook(1),
    "Route": lambda: Route(ROUTE),
    "Submit": lambda: Submit("acme", ROUTE),
    "BillingCollector": lambda: BillingCollector(PriceBook(1)),
    "WindowLimit": lambda: WindowLimit(1, 1),
    "WindowLimiter": lambda: WindowLimiter(1, 1),
    "CombinedLimiter": lambda: CombinedLimiter(RateLimiter()),
    "Lease": leased,
    "CircuitBreaker": CircuitBreaker,
    "Gateway": lambda: Gateway(backends=[flux()], seed=1),
    "RateLimiter": RateLimiter,
    "KeyedRateLimiter": KeyedRateLimiter,
}
# What fits each argument that has to be given.
FITS: dict[str, Any] = {
    "customer": "acme", "route": ROUTE, "job": JOB, "jobs": [], "lease": 1, "leases": [], "output": "x", "failure": "timeout",
    "kind": "timeout", "attempt": 1, "progress_ppm": 0, "amount": 1, "per": 1, "key": "k", "keys": [], "cost": 1,
    "limit": RateLimit(), "name": "b", "modality": "image", "family": "flux", "text": "{}", "version": 1, "model": "m",
    "tier": "t", "first_ns": 0, "prices": PriceBook(1), "request_id": "r", "batch": None, "state": "queued", "item": 1,
    "n": 1, "weight": 1, "value": 1, "values": [], "other": Histogram(), "quantile": 0, "ppm": 0, "first": 0,
    "entry": "{}", "entries": [], "snapshot": b"", "submits": [], "results": [], "policy": CustomerPolicy(), "usage": Usage(),
    "backend": "flux-1", "admit": None, "ticket": None, "steps": None,
}  # fmt: skip
# What takes anything: objects that are kept as they are.
ANYTHING = {"item", "default"}
CLASSES = [
    getattr(_native, name)
    for name in _native.__all__
    if inspect.isclass(getattr(_native, name)) and name not in ("Admit", "Answer", "BackendView", "Settled", "Slices", "Ticket", "Watch")
]


def fitting(cls: type, method: str, name: str) -> Any:
    if (cls.__name__, method, name) == ("Gateway", "put_backend", "backend"):
        return flux()
    if name == "admit":
        return CircuitBreaker().admit()
    if name == "ticket":
        return FairQueue[int]().push(1, customer="acme")
    if name == "batch":
        from libgateway import Batch

        return Batch(1, 1, 1)
    if name == "steps":
        return _native.Steps()
    if (method, name) in (("force", "state"), ("force_breaker", "state")):
        return "open"
    if (cls.__name__, name) == ("Steps", "failure"):
        return Failure("timeout")
    return FITS[name]


def bound(cls: type, method: str) -> Callable[..., Any]:
    """The call, of an object that nothing else has touched."""
    if method == "__new__":
        return {"RateLimiter": RateLimiter, "KeyedRateLimiter": KeyedRateLimiter, "WindowLimiter": WindowLimiter,
                "CircuitBreaker": CircuitBreaker, "CombinedLimiter": CombinedLimiter, "Gateway": Gateway}.get(cls.__name__, cls)  # fmt: skip
    made = MADE.get(cls.__name__, cls)()
    found: Callable[..., Any] = getattr(super(type(made), made) if type(made) is not cls else made, method)
    return found


def calls() -> list[tuple[type, str, str]]:
    """Each class, method and argument there is."""
    found = []
    for cls in CLASSES:
        methods = [name for name, own in vars(cls).items() if not name.startswith("_") and not inspect.isdatadescriptor(own)]
        for method in ["__new__", *methods] if cls.__name__ not in ("Lease", "Settlement") else methods:
            if cls.__name__ == "Settlement":
                continue  # It is only ever read.
            own = cls if method == "__new__" else getattr(cls, method)
            for name in inspect.signature(own).parameters:
                if name != "self" and name not in ANYTHING:
                    found.append((cls, method, name))
    return found


ALL = calls()
IDS = [f"{cls.__name__}.{method}({name})" for cls, method, name in ALL]


def call(cls: type, method: str, name: str, value: object) -> Any:
    """Calls with one argument that is `value`, and otherwise only what has to be given."""
    own = cls if method == "__new__" else getattr(cls, method)
    given, positional = {}, []
    for parameter in inspect.signature(own).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.name == name:
            argument = value
        elif parameter.default is inspect.Parameter.empty:
            argument = fitting(cls, method, parameter.name)
        else:
            continue
        if parameter.kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL):
            positional.append(argument)
        else:
            given[parameter.name] = argument
    with warnings.catch_warnings():
        # Progress that is told as an integer warns.
        warnings.simplefilter("ignore", DeprecationWarning)
        return bound(cls, method)(*positional, **given)


def misfit(cls: type, method: str, name: str, value: object) -> InputError | None:
    """The error that says that the argument does not fit."""
    try:
        call(cls, method, name, value)
    except InputError as error:
        return error if error.field == name else None
    except GatewayError:
        pass  # It fits, and what it means is not there.
    return None


class Index:
    """As an integer of numpy."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Real:
    """As a number of a kind nobody here knows."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


class Float32(Real):
    """As a float of numpy that is not Python's."""

    def as_integer_ratio(self) -> tuple[int, int]:
        return self.value.as_integer_ratio()


class Numpy(Real):
    """As a scalar or an array of numpy that says of what kind it is."""

    def __init__(self, value: int, kind: str, ndim: int = 0) -> None:
        super().__init__(float(value))
        self.dtype = SimpleNamespace(kind=kind)
        self.ndim = ndim

    def __index__(self) -> int:
        return int(self.value)


HUGE = 10**1_000_000
NEVER: dict[str, Any] = {
    "-1": -1, "-1 numpy": Index(-1), "a million digits below 0": -HUGE, "a million digits": HUGE,
    "Decimal(-1e-12)": Decimal("-1e-12"), "Decimal(1e9999999)": Decimal("1e9999999"), "Decimal(NaN)": Decimal("NaN"),
    "Decimal(sNaN)": Decimal("sNaN"), "Decimal(-Infinity)": Decimal("-Infinity"), "Decimal(-1e-999999)": Decimal("-1e-999999"),
    "Fraction(huge)": Fraction(HUGE, 3), "Fraction(-tiny)": Fraction(-1, HUGE), "nan": float("nan"), "inf": float("inf"),
    "-inf": float("-inf"), "-0.5": -0.5, "1e300": 1e300, "nan numpy": Float32(float("nan")), "inf numpy": Float32(float("inf")),
    "-0.5 real": Real(-0.5), "timedelta(-1)": timedelta(-1), "complex": 1j,
    "timedelta64": Numpy(1, "m"), "datetime64": Numpy(1, "M"), "complex64": Numpy(1, "c"), "array": Numpy(1, "i", 1),
}  # fmt: skip


def test_the_calls_are_found() -> None:
    assert len(ALL) > 250 and len({cls for cls, _, _ in ALL}) >= 22
    assert (Gateway.__mro__[1], "submit", "not_before_ns") in ALL and (_native.Lease, "complete", "gpu_seconds") in ALL


@pytest.mark.parametrize(("cls", "method", "name"), ALL, ids=IDS)
def test_an_argument_that_does_not_fit_is_refused_by_its_name(cls: type, method: str, name: str) -> None:
    with pytest.raises(WrongTypeError) as caught:
        call(cls, method, name, object())
    error = caught.value
    assert isinstance(error, InputError) and isinstance(error, TypeError) and isinstance(error, ValueError)
    assert (error.field, error.number, error.code) == (name, 206, "malformed")
    assert error.message.startswith(f"{name} is malformed: expected ") and error.message.endswith(", not object")


@pytest.mark.parametrize(("cls", "method", "name"), ALL, ids=IDS)
def test_no_number_of_a_stranger_is_taken_or_computed_with(cls: type, method: str, name: str) -> None:
    for what, value in NEVER.items():
        error = misfit(cls, method, name, value)
        assert error is not None, what
        assert 0 < len(error.message) <= 1_000
        if what in ("-1", "a million digits"):  # As it was before there was a name to it.
            assert isinstance(error, (OverflowError, TypeError))


@pytest.mark.parametrize(("cls", "method", "name"), ALL, ids=IDS)
def test_numbers_of_every_kind_are_taken_or_refused_alike(cls: type, method: str, name: str) -> None:
    def fits(value: object) -> bool:
        return misfit(cls, method, name, value) is None

    if (cls, method, name) == (_native.JobId, "__new__", "value"):
        assert fits(1) and fits(True) and fits(Index(1)) and fits(Numpy(1, "b")) and not fits(1.0)
        return
    is_bool = fits(True) and fits(False) and not fits(1)
    if not is_bool:
        assert fits(True) == fits(1) == fits(Index(1)) == fits(Numpy(1, "u")) and fits(False) == fits(0) == fits(Index(0))
    for one in (1, 0):
        assert len({fits(kind(float(one))) for kind in (float, Decimal, Fraction, Real, Float32)}) == 1
    if fits(1.0):
        assert fits(1)
    assert not fits("1") or fits("x")  # A text is no number.


def test_the_callers_own_decimal_context_changes_nothing() -> None:
    with localcontext() as context:
        context.prec = 1
        context.traps[Inexact] = context.traps[Rounded] = context.traps[FloatOperation] = True
        context.rounding = ROUND_CEILING
        assert Usage(gpu_seconds=Decimal("1234.0000000004")).gpu_ns == 1_234 * 10**9
        assert RateLimit(per_second=Decimal("12.5")).amount == 25 and RateLimit(per_second=0.1).per_ns == 10**10
        assert PriceBook(1, prices={("*", "*"): Decimal("12.345")}).price("m", "t") == "12.345/s"


def raised(provoke: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as caught:
        provoke()
    return caught.value


SPANS = "a number of seconds from 0 to 2^64 nanoseconds"


@pytest.mark.parametrize(
    ("provoke", "cls", "message"),
    [
        (lambda: RateLimit(burst=-10), OutOfRangeError, f"burst is -10, allowed is 0 to {U64}"),
        (lambda: RateLimit(burst=HUGE), OutOfRangeError, f"burst is out of range, allowed is 0 to {U64}"),
        (lambda: RateLimiter(RateLimit(), burst=5), ContradictionError, "burst contradicts limit"),
        (lambda: KeyedRateLimiter(RateLimit(), per_second=5), ContradictionError, "per_second contradicts limit"),
        (lambda: RateLimit(per_second=1, amount=1, per=1), ContradictionError, "per_second contradicts amount"),
        (lambda: RateLimit(per_second=1, per=1), ContradictionError, "per_second contradicts per"),
        (lambda: RateLimit(amount=1, per=10**12), OverflowInputError, "per overflows 64 bits"),
        (lambda: Usage(gpu_seconds=-1), RangeInputError, f"gpu_seconds is malformed: expected {SPANS}"),
        (lambda: Usage(gpu_seconds=Decimal("1e9999999")), OverflowInputError, "gpu_seconds overflows 64 bits"),
        (lambda: Usage(gpu_ns=-1), OutOfRangeError, f"gpu_ns is -1, allowed is 0 to {U64}"),
        (lambda: Usage(gpu_ns=1, gpu_seconds=1), ContradictionError, "gpu_seconds contradicts gpu_ns"),
        (lambda: PriceBook(1).charge("m", "t"), InputError, "gpu_seconds is empty"),
        (lambda: Gateway(now_ns=-1), RangeInputError,
         "now_ns is malformed: expected an instant from 0 to 2^64 nanoseconds since the Unix epoch"),
        (lambda: Gateway(clock=lambda: -1), RangeInputError,
         "clock is malformed: expected an instant from 0 to 2^64 nanoseconds since the Unix epoch"),
        (lambda: Gateway(clock=5), WrongTypeError,  # type: ignore[arg-type]
         "clock is malformed: expected a function that returns an instant, not int"),
        (lambda: Gateway(backends=["flux-1"]), WrongTypeError,  # type: ignore[list-item]
         "backends is malformed: expected a Backend, not str"),
        (lambda: Gateway(customers={"acme": {"weight": 3}}), WrongTypeError,  # type: ignore[dict-item]
         "customers is malformed: expected a CustomerPolicy, not dict"),
        (lambda: Gateway().put_customer("acme", {}), WrongTypeError,  # type: ignore[arg-type]
         "policy is malformed: expected a CustomerPolicy, not dict"),
        (lambda: BreakerConfig(failure_rate=50), RangeInputError, "failure_rate is malformed: expected a number from 0 to 1"),
        (lambda: BreakerConfig(failure_rate_ppm=1_000_001), OutOfRangeError,
         "failure_rate_ppm is 1000001, allowed is 0 to 1000000"),
        (lambda: BreakerConfig(window=-30), RangeInputError, f"window is malformed: expected {SPANS}"),
        (lambda: Backoff(factor=0.5), RangeInputError, "factor is malformed: expected a number from 1 to 1000"),
        (lambda: Backoff(jitter=float("nan")), RangeInputError, "jitter is malformed: expected a number from 0 to 1"),
        (lambda: Histogram().quantile(1.5), RangeInputError, "quantile is malformed: expected a number from 0 to 1"),
        (lambda: leased().progress(1.5), RangeInputError, "progress is malformed: expected a number from 0 to 1"),
        (lambda: PriceBook(1, prices={"flux/dev": 1}), WrongTypeError,  # type: ignore[dict-item]
         "prices is malformed: expected a pair (model, tier) as each key, not str"),
        (lambda: PriceBook(1, per="fortnight"), MalformedError,
         "per is malformed: expected a time, as s, min, h or d, or one of them with an integer before it"),
        (lambda: Gateway().submit("a\ud800", ROUTE), CharacterError,
         "customer has a character that is not allowed at byte 1"),
        (lambda: Gateway().cancel("nope"), MalformedError, "job is malformed: expected j_ and 26 lower-case base32 characters"),
        (lambda: Gateway().complete_many([(1,)]), WrongTypeError,  # type: ignore[list-item]
         "results is malformed: expected (lease, output) or (lease, output, usage) for each, not tuple"),
        (lambda: Timeouts.from_json("{}!"), MalformedError, "text is malformed: trailing characters at line 1 column 3"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_it_is_about(provoke: Callable[[], object], cls: type, message: str) -> None:
    error = raised(provoke)
    assert (type(error), error.message) == (cls, message) or cls is InputError and error.message == message
    assert error.field == message.split()[0]


@pytest.mark.parametrize("price", [-1, Decimal(-1), "-1", "-1/h", Decimal("-1e-12"), Decimal("NaN"), Decimal("-1e9999999")])
def test_a_price_below_nothing_is_called_a_price(price: Any) -> None:
    error = raised(lambda: PriceBook(1, prices={("*", "*"): price}))
    assert (error.field, error.message) == ("prices", "prices is malformed: expected prices of 0 or more")


@pytest.mark.parametrize("price", [HUGE, Decimal("1e9999999"), Decimal("1e-999999999"), "1" * 100_000, Decimal("1" * 100_000)],
                         ids=range(5))  # fmt: skip
def test_a_price_of_a_stranger_is_refused_at_once(price: Any) -> None:
    error = raised(lambda: PriceBook(1, prices={("*", "*"): price}))
    assert (error.number, error.field) == (205, "prices")


@pytest.mark.parametrize("price", [0.5, Fraction(1, 2), Real(1), Float32(0.5)])
def test_a_price_is_an_exact_decimal(price: Any) -> None:
    error = raised(lambda: PriceBook(1, prices={("*", "*"): price}))
    assert isinstance(error, WrongTypeError) and error.field == "prices"
    for exact in (1, True, Index(1), "1", Decimal("1.0"), Decimal("1E+0")):
        book = PriceBook(1, prices={("*", "*"): exact})  # type: ignore[dict-item]
        assert book.charge("m", "t", gpu_seconds=1) == 1
    assert PriceBook(1, prices={("*", "*"): Decimal("0E-999999999")}).charge("m", "t", gpu_seconds=1) == 0


@pytest.mark.parametrize(
    ("span", "nanos"),
    [
        (Decimal("1e-999999999"), 0), (Decimal("0E-999999999"), 0), (Decimal("0E+999999999"), 0), (Decimal("-0"), 0), (-0.0, 0),
        (Decimal("4.99999999999999999999e-10"), 0), (Decimal("5e-10"), 1), (Decimal("18446744073.709551615"), U64),
        (Decimal("18446744073.7095516154"), U64), (Decimal("0." + "3" * 100_000), 333_333_333),
        (Fraction(1, 3), 333_333_333), (Fraction(2, 3), 666_666_667), (Fraction(HUGE + 1, HUGE), 10**9), (Fraction(1, HUGE), 0),
        (Fraction(U64, 10**9), U64), (Index(3), 3 * 10**9), (True, 10**9), (Real(0.1), 10**8), (Float32(0.5), 5 * 10**8),
        (18446744073, 18446744073 * 10**9),
    ],
    ids=range(20),
)  # fmt: skip
def test_a_span_is_exact_to_the_nearest_nanosecond(span: Any, nanos: int) -> None:
    assert Usage(gpu_seconds=span).gpu_ns == Failure("http", status=503, retry_after=span).retry_after_ns == nanos


@pytest.mark.parametrize("span", [Decimal("18446744073.7095516155"), Fraction(U64 + 1, 10**9), 18446744074, 18446744073.8])
def test_a_span_beyond_64_bits_is_refused_from_the_first_one(span: Any) -> None:
    error = raised(lambda: Usage(gpu_seconds=span))
    assert (error.number, error.field, isinstance(error, OverflowError)) == (205, "gpu_seconds", True)


@pytest.mark.parametrize(
    ("rate", "amount", "seconds", "burst"),
    [
        (0.1, 1, 10, 1), (Decimal("0.1"), 1, 10, 1), (Fraction(1, 10), 1, 10, 1), (1 / 3, 1, 3, 1), (Fraction(1, 3), 1, 3, 1),
        (2.5, 5, 2, 3), (Decimal("2.5"), 5, 2, 3), (0.001, 1, 1_000, 1), (1e-9, 1, 10**9, 1), (3.0, 3, 1, 3), (3, 3, 1, 3),
        (True, 1, 1, 1), (Index(7), 7, 1, 7), (Real(0.25), 1, 4, 1), (Float32(0.25), 1, 4, 1), (U64, U64, 1, U64), (0, 0, 1, 0),
        (0.0, 0, 1, 0), (Decimal("1E+3"), 1_000, 1, 1_000), (1e6 + 0.1, 10_000_001, 10, 1_000_001),
    ],
)  # fmt: skip
def test_a_rate_per_second_is_exact(rate: Any, amount: int, seconds: int, burst: int) -> None:
    limit = RateLimit(per_second=rate)
    assert (limit.amount, limit.per_ns, limit.burst) == (amount, seconds * 10**9, burst)
    assert RateLimiter(per_second=rate, now_ns=0).limit == KeyedRateLimiter(per_second=rate, now_ns=0).limit == limit


def test_a_token_every_ten_seconds_comes_every_ten_seconds() -> None:
    limiter = RateLimiter(per_second=0.1, now_ns=0)
    assert limiter.try_acquire(now_ns=0)
    assert limiter.try_acquire(now_ns=0).retry_after_ns == 10**10
    assert not limiter.peek(now_ns=10**10 - 1) and limiter.peek(now_ns=10**10)


@pytest.mark.parametrize("rate", [Decimal("1e-11"), Fraction(1, 10**11), 1e-11, Fraction(U64 + 1, 3), Decimal("0." + "3" * 50)])
def test_a_rate_that_is_not_exact_says_how_to_write_it(rate: Any) -> None:
    error = raised(lambda: RateLimit(per_second=rate))
    assert (type(error), error.field) == (MalformedError, "per_second")
    assert "amount=1, per=10 for 0.1 a second" in error.message


# Configurations that can never accept anything.
NEVER_ACCEPTS: list[tuple[Callable[[], object], str]] = [
    (lambda: JobStore(jobs_max=0), "jobs_max"),
    (lambda: Timeouts(queue=0), "queue"),
    (lambda: Timeouts(start=0), "start"),
    (lambda: Timeouts(run=0), "run"),
    (lambda: Timeouts(total=0), "total"),
    (lambda: Timeouts.from_json('{"queue":0,"start":null,"run":null,"total":null}'), "queue"),
    (lambda: BillingPolicy(tolerance_ppm=1_000_000_001), "tolerance_ppm"),
    (lambda: CustomerPolicy(weight=0), "weight"),
    (lambda: Backend("b", modality="image", family="flux", slots=0), "slots"),
    (lambda: BreakerConfig(buckets=0), "buckets"),
    (lambda: BreakerConfig(open_for=0), "open_for"),
    (lambda: BreakerConfig.from_json('{"buckets":0}'), "buckets"),
    (lambda: Backoff.from_json('{"factor_ppm":0}'), "factor_ppm"),
    (lambda: Backoff(base=10, max=5), "max"),
    (lambda: FairQueue(items_max=0), "items_max"),
    (lambda: KeyedRateLimiter(keys_max=0), "keys_max"),
    (lambda: WindowLimiter(1, 0), "per"),
    (lambda: RateLimit(amount=1, per=0), "per"),
    (lambda: BillingCollector(PriceBook(1), starts_max=0), "starts_max"),
    (lambda: BillingCollector(PriceBook(1), outbox_max=0), "outbox_max"),
    (lambda: Gateway(jobs_max=0), "jobs_max"),
    (lambda: Gateway(lease_for=0), "lease_for"),
]


@pytest.mark.parametrize(("make", "field"), NEVER_ACCEPTS)
def test_what_can_never_accept_is_refused_as_it_is_made(make: Callable[[], object], field: str) -> None:
    assert raised(make).field == field


def test_a_reason_that_quotes_a_text_is_cut() -> None:
    error = raised(lambda: RateLimit.from_json('{"' + "x" * 100_000 + '":1}'))
    assert error.message.startswith("text is malformed: unknown field `xxx") and len(error.message) <= 1_000


@pytest.mark.parametrize("ns", [HUGE, -HUGE, 2**80], ids=range(3))
def test_an_instant_that_no_datetime_can_be_is_refused_by_its_name(ns: int) -> None:
    assert isinstance(error := raised(lambda: instant(ns)), OverflowError) and error.field == "ns"
    assert isinstance(error := raised(lambda: instant(1.5)), TypeError) and error.field == "ns"  # type: ignore[arg-type]
    assert instant(Index(10**9)) == instant(10**9)  # type: ignore[arg-type]


NOT_THERE = ["nope", "", "j1", "j_", JOB, JOB.upper(), "j_" + "z" * 26, "a\ud800", "x" * 100_000, JobId()]


@pytest.mark.parametrize("job", NOT_THERE, ids=range(len(NOT_THERE)))
def test_a_question_about_what_is_not_there_is_answered(gateway: Gateway, job: Any, virtual: Callable[..., Any]) -> None:
    store = JobStore(now_ns=0)
    assert [gateway.job(job), gateway.position(job), gateway.explain(job), store.get(job)] == [None] * 4
    assert gateway.positions([job, job]) == [None, None]
    assert job not in store

    async def ask() -> list[str]:
        with pytest.raises(GatewayError) as caught:
            await gateway.result(job)
        assert (caught.value.code, caught.value.field) == ("unknown_job", "job")
        assert len(caught.value.message) <= 1_000
        return [str(event.kind) async for event in gateway.watch(job)]

    assert virtual(ask()) == ["gone"]


@pytest.mark.parametrize("thing", [None, 5, b"x", [], object()])
def test_whether_a_store_has_it_may_be_asked_of_anything(thing: Any) -> None:
    assert thing not in JobStore(now_ns=0) and thing not in FairQueue[int]()


@pytest.mark.parametrize("name", ["", "nope", "x" * 10_000])
def test_questions_about_names_are_answered(gateway: Gateway, name: str) -> None:
    assert [gateway.backend(name), gateway.running_on(name), gateway.customer(name)] == [None] * 3
    assert [gateway.job_by_key(name, name), JobStore().by_key(name, name), PriceBook(1).price(name, name)] == [None] * 3
    assert FairQueue[int]().waiting(name) == 0 and KeyedRateLimiter(per_second=1).remove(name) is False


COMMANDS: list[Callable[[Gateway, Any], object]] = [
    lambda gateway, job: gateway.cancel(job),
    lambda gateway, job: gateway.delete(job),
    lambda gateway, job: gateway.preempt(job),
    lambda gateway, job: gateway.submit("acme", ROUTE, id=job),
    lambda gateway, job: gateway.transaction().cancel(job),
    lambda gateway, job: JobStore().cancel(job),
    lambda gateway, job: JobStore().start(job),
]


@pytest.mark.parametrize("command", COMMANDS, ids=range(len(COMMANDS)))
def test_a_command_needs_an_id(gateway: Gateway, command: Callable[[Gateway, Any], object]) -> None:
    with pytest.raises(MalformedError) as caught:
        command(gateway, "nope")
    assert caught.value.field in ("job", "id")
