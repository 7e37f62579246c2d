"""Values: what comes in as time and money, what goes out, and that values compare, hash, print and pickle."""

import copy
import inspect
import json
import pickle
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import libgateway
import pytest
from hypothesis import given
from hypothesis import strategies as st
from libgateway import (
    Backoff,
    BillingPolicy,
    BreakerConfig,
    CustomerPolicy,
    Failure,
    Gateway,
    JobId,
    JobState,
    PriceBook,
    Priority,
    RateLimit,
    Route,
    Submit,
    Timeouts,
    Usage,
    WindowLimit,
    instant,
)

from conftest import ROUTE, START, Clock, flux

VALUES: list[tuple[Any, Any]] = [
    (JobId(7), JobId(8)),
    (Route(ROUTE), Route(ROUTE + "?backend=torch")),
    (flux(labels={"zone": "a"}), flux(slots=2)),
    (Usage(gpu_ns=5, device="a"), Usage()),
    (Failure("http", "x", status=503, retry_after=1.5), Failure("timeout")),
    (Submit("acme", ROUTE, b"\xff", id=JobId(1)), Submit("acme", ROUTE, id=JobId(1))),
    (Submit("acme", ROUTE, id=JobId(1), not_before_ns=START), Submit("acme", ROUTE, id=JobId(1))),
    (RateLimit(per_second=5), RateLimit(amount=5, per=2, burst=7)),
    (RateLimit(amount=7, per=Decimal("9999999.123456789")), RateLimit(amount=7, per=Decimal("9999999.123456788"))),
    (WindowLimit(5, per=2), WindowLimit(5, per=0.1)),
    (WindowLimit(5, per=Decimal("9999999.123456789")), WindowLimit(6, per=Decimal("9999999.123456789"))),
    (CustomerPolicy(weight=3, rate=RateLimit(per_second=1)), CustomerPolicy()),
    (Timeouts(queue=1, total=timedelta(hours=1)), Timeouts()),
    (Timeouts(queue=0.1), Timeouts(queue=Decimal("9999999.123456789"))),
    (Timeouts(run=1e-9, start=Decimal("18446744073.709551615")), Timeouts(run=2e-9)),
    (BillingPolicy(failed="customer"), BillingPolicy()),
    (BillingPolicy(preempted="customer"), BillingPolicy(released="customer")),
    (PriceBook(1, prices={("*", "*"): 1}), PriceBook(1)),
    (Backoff(jitter=0.5), Backoff()),
    (BreakerConfig(consecutive_failures=None), BreakerConfig()),
    (flux(warm_max=3, devices=2, lease_for=0.25), flux(models=["dev"])),
    (flux(lease_for=Decimal("9999999.123456789")), flux(labels={"it's": "a\\b\n", "z": ""}, lease_for=30)),
    (Failure("backend", "\r\n\t\0\x7f\x85\u2028 'a' \\ \"b\" ü"), Failure("backend", "x", retry_after=Decimal("9999999.123456789"))),
]


@pytest.mark.parametrize(("value", "other"), VALUES, ids=lambda value: type(value).__name__)
def test_values_compare_hash_print_copy_and_pickle(value: Any, other: Any) -> None:
    assert value != other and not value == other and value != 1
    for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
        assert again == value and hash(again) == hash(value) and repr(again) == repr(value)
        assert {value: 1}[again] == 1
    assert type(value).__name__ in repr(value)


@pytest.mark.parametrize("value", [value for pair in VALUES for value in pair], ids=repr)
def test_a_repr_that_looks_like_python_is_the_value(value: Any) -> None:
    text = repr(value)
    assert "\n" not in text and text.isprintable() or "\u2028" in text
    if isinstance(value, (Submit, PriceBook)):
        assert text.startswith("<")  # Of any size, so they say who they are.
    else:
        assert eval(text, vars(libgateway)) == value


@pytest.mark.parametrize("value", [value for pair in VALUES for value in pair], ids=repr)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_keeps_a_value(value: Any, protocol: int) -> None:
    assert pickle.loads(pickle.dumps([value, value], protocol)) == [value, value]
    assert copy.deepcopy({"a": [value]}) == {"a": [value]} and {value, copy.copy(value)} == {value}


@pytest.mark.parametrize("cls", [Backoff, BillingPolicy, BreakerConfig, CustomerPolicy, Timeouts])
def test_the_defaults_that_help_shows_are_the_defaults(cls: Any) -> None:
    shown = {name: parameter.default for name, parameter in inspect.signature(cls).parameters.items()}
    assert cls(**shown) == cls()


def test_the_defaults_of_a_gateway_that_help_shows_are_its_defaults() -> None:
    parameters = inspect.signature(libgateway._native.Gateway).parameters
    shown = {name: parameter.default for name, parameter in parameters.items()} | {"seed": 0}
    assert Gateway(**shown).config_json == Gateway(seed=0).config_json == Gateway.from_config("{}").config_json


@given(st.integers(0, 2**128 - 1))
def test_a_job_id_is_its_text_and_its_number(bits: int) -> None:
    job = JobId(bits)
    assert job.int == bits and JobId(str(job)) == job and len(str(job)) == 28
    assert (job < JobId(2**128 - 1)) == (bits < 2**128 - 1)


def test_new_job_ids_differ() -> None:
    assert len({JobId() for _ in range(10_000)}) == 10_000


@given(st.integers(0, 2**64 - 1))
def test_an_instant_is_cut_to_microseconds_and_never_rounded(ns: int) -> None:
    at = instant(ns)
    since = at - datetime(1970, 1, 1, tzinfo=timezone.utc)
    micros = (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    assert micros == ns // 1_000


@given(st.integers(0, 2**63 // 1_000))
def test_a_datetime_goes_in_as_it_came_out(micros: int) -> None:
    gateway = Gateway(now_ns=0)
    at = instant(micros * 1_000)
    assert gateway.advance(now_ns=at).now_ns == micros * 1_000
    assert Gateway(now_ns=at).now_ns == micros * 1_000


def test_a_datetime_of_any_zone_is_the_same_instant_and_one_without_is_refused() -> None:
    at = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert Gateway(now_ns=at).now_ns == int(at.timestamp()) * 10**9
    with pytest.raises(TypeError, match="time zone"):
        Gateway(now_ns=at.replace(tzinfo=None))
    with pytest.raises(OverflowError):
        Gateway(now_ns=datetime(1969, 12, 31, tzinfo=timezone.utc))


@pytest.mark.parametrize(
    ("span", "nanos"),
    [
        (30, 30_000_000_000),
        (0.1, 100_000_000),
        (1e-9, 1),
        (timedelta(minutes=2, microseconds=1), 120_000_001_000),
        (Decimal("1.000000001"), 1_000_000_001),
        (Decimal("0.0000000005"), 1),
        (Decimal("0.0000000004"), 0),
    ],
)
def test_spans_are_seconds_or_timedeltas_to_the_nearest_nanosecond(span: Any, nanos: int) -> None:
    assert Failure("timeout", retry_after=span).retry_after_ns == nanos


@pytest.mark.parametrize("span", [-1, -0.5, float("nan"), float("inf"), 2**64, timedelta(days=-1), Decimal(-1), "5"])
def test_what_is_no_span_is_refused(span: Any) -> None:
    with pytest.raises((ValueError, OverflowError, TypeError)):
        Failure("timeout", retry_after=span)


@given(st.integers(0, 10**15))
def test_gpu_seconds_are_exact_both_ways(nanos: int) -> None:
    exact = Decimal(nanos).scaleb(-9)
    usage = Usage(gpu_seconds=exact)
    assert usage.gpu_ns == nanos and usage.gpu_seconds == exact


@given(st.integers(0, 2**64 - 1))
def test_money_is_exact_both_ways(micros: int) -> None:
    whole, rest = divmod(micros, 10**6)
    price = Decimal(f"{whole}.{rest:06}")
    for given in (price, str(price)):
        assert PriceBook(1, prices={("*", "*"): given}).charge("m", "t", gpu_seconds=1) == Decimal(micros) / 1_000_000


@pytest.mark.parametrize("price", [0.5, -1, "x", None, "1e-3", "1/fortnight", Decimal("NaN")])
def test_what_is_no_amount_of_money_is_refused(price: Any) -> None:
    with pytest.raises((ValueError, TypeError, OverflowError, ArithmeticError)):
        PriceBook(1, prices={("*", "*"): price})


def test_enums_are_their_words() -> None:
    assert str(Priority.HIGH) == f"{Priority.HIGH}" == "high"
    assert {"high": 1}[Priority.HIGH] == 1
    assert f"{JobState.QUEUED:>8}" == "  queued"
    assert JobState("error") is JobState.ERROR and JobState.ERROR.ended and not JobState.RUNNING.ended
    assert json.dumps({"state": JobState.ERROR}) == '{"state": "error"}'


def test_views_are_frozen_dataclasses_that_pickle(gateway: Gateway, clock: Clock) -> None:
    job = gateway.submit("acme", ROUTE, b"x")
    view = gateway.job(job)
    assert view is not None
    assert pickle.loads(pickle.dumps(view)) == view and hash(view)
    assert view.created == instant(START) and view.started is None and view.eta is None
    with pytest.raises(AttributeError):
        view.state = JobState.ERROR  # type: ignore[misc]
    assert gateway.job(job) is not view and gateway.job(job) == view


def test_bodies_may_be_anything_like_bytes(gateway: Gateway) -> None:
    for body in (b"\xff\x00", bytearray(b"\xff\x00"), memoryview(b"\xff\x00")):
        gateway.submit("acme", ROUTE, body)
    gateway.submit("acme", ROUTE, "ü")
    assert [lease.payload for lease in gateway.dispatch_many(9)] == [b"\xff\x00"] * 3 + ["ü".encode()]
