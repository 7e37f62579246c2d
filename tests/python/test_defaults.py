"""Each default stands in the core. What repeats it (signatures, the stub) is compared with that, so that none can drift."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libgateway
import pytest
from libgateway import (
    Backoff,
    BillingCollector,
    BillingPolicy,
    BreakerConfig,
    CustomerPolicy,
    FairQueue,
    Gateway,
    JobStore,
    KeyedRateLimiter,
    PriceBook,
    RateLimit,
    Timeouts,
    _native,
)

CORE: dict[str, Any] = json.loads(Gateway.from_config({}).config_json)
"""The configuration of a gateway that was given none: the core's own."""
BILLING, QUEUE, STORE, KEYED = json.loads(_native._defaults())


def signature(cls: type) -> dict[str, Any]:
    """The defaults that a signature shows."""
    parameters = inspect.signature(cls).parameters.values()
    return {own.name: own.default for own in parameters if own.default is not inspect.Parameter.empty}


SPANS = {
    "estimate", "lease_for", "retain_for", "idempotency_for", "customer_idle", "settle_within", "clock_jump_max", "base", "max",
    "retry_after_max", "slack", "late_usage_for", "window", "open_for", "open_for_max", "probe_timeout", "start_age_max", "hold",
    "known_for",
}  # fmt: skip


def compare(cls: type, core: dict[str, Any], apart: set[str]) -> int:
    """Compares every default with the core's. Returns how many; `apart` have no one value there."""
    compared = 0
    for name, default in signature(cls).items():
        if name in apart:
            continue
        if name in SPANS and default is not None:
            default = round(default * 10**9)
        assert core[name] == default, f"{cls.__name__}({name})"
        compared += 1
    return compared


def test_a_gateway_without_arguments_has_the_configuration_of_the_core() -> None:
    own = json.loads(Gateway(seed=CORE["seed"]).config_json)
    assert own == CORE


def test_every_default_of_a_gateway_that_is_shown_is_that_of_the_core() -> None:
    parts = {"customer", "timeouts", "backoff", "breaker", "billing"}
    made = {"backends", "customers", "prices", "seed", "config", "snapshot", "replica", "entropy", "clock", "now_ns"}
    assert all(signature(Gateway)[name] is None for name in parts | made)
    assert compare(Gateway, CORE, parts | made) == len(CORE) - len(parts) - 1
    given = {name: value for name, value in signature(Gateway).items() if name not in made}
    assert json.loads(Gateway(seed=CORE["seed"], **given).config_json) == CORE


@pytest.mark.parametrize(
    ("cls", "core", "apart", "compared"),
    [
        (Backoff, CORE["backoff"], {"factor", "factor_ppm", "jitter", "jitter_ppm"}, 6),
        (BillingPolicy, CORE["billing"], set(), 12),
        (BreakerConfig, CORE["breaker"], {"failure_rate", "failure_rate_ppm"}, 10),
        (CustomerPolicy, CORE["customer"], set(), 5),
        (Timeouts, CORE["timeouts"], set(), 4),
    ],
)
def test_every_default_of_a_policy_is_that_of_the_core(cls: Any, core: Any, apart: set[str], compared: int) -> None:
    assert json.loads(cls().to_json()) == core
    assert compare(cls, core, apart) == compared
    assert cls(**{name: value for name, value in signature(cls).items()}) == cls()


@pytest.mark.parametrize(
    ("cls", "core", "apart", "compared"),
    [
        (JobStore, STORE, {"timeouts", "now_ns"}, 10),
        (FairQueue, QUEUE, set(), 4),
        (KeyedRateLimiter.__mro__[1], KEYED, {"limit", "per_second", "amount", "per", "burst", "seed", "now_ns"}, 3),
        (BillingCollector, {**BILLING, **BILLING["outbox"]}, set(), 8),
    ],
)
def test_every_default_of_a_part_is_that_of_the_core(cls: Any, core: Any, apart: set[str], compared: int) -> None:
    assert compare(cls, core, apart) == compared


def test_a_limit_without_numbers_is_that_of_the_core() -> None:
    assert KeyedRateLimiter().limit == RateLimit() == RateLimit.from_json(json.dumps(KEYED["limit"]))


def test_the_parts_of_which_a_gateway_has_one_have_its_defaults() -> None:
    assert Gateway(seed=CORE["seed"], backoff=Backoff(), breaker=BreakerConfig(), billing=BillingPolicy(), timeouts=Timeouts(),
                   customer=CustomerPolicy()).config_json == Gateway(seed=CORE["seed"]).config_json  # fmt: skip
    apart = {"jobs_max", "timeouts", "seed"}
    assert {name: STORE[name] for name in STORE if name not in apart} == {
        name: CORE[name] for name in STORE if name not in apart
    }
    assert PriceBook(1).currency == signature(PriceBook)["currency"]


STUB = ast.parse((Path(libgateway.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))


def stub_defaults() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Class, method and defaults of everything in the stub."""
    for cls in STUB.body:
        for own in cls.body if isinstance(cls, ast.ClassDef) else []:
            if not isinstance(own, ast.FunctionDef) or any(ast.unparse(mark) == "overload" for mark in own.decorator_list):
                continue
            positional = [*own.args.posonlyargs, *own.args.args]
            defaults = dict(zip([arg.arg for arg in reversed(positional)], reversed(own.args.defaults)))
            defaults |= {arg.arg: value for arg, value in zip(own.args.kwonlyargs, own.args.kw_defaults) if value is not None}
            assert isinstance(cls, ast.ClassDef)
            yield cls.name, own.name, {name: ast.literal_eval(value) for name, value in defaults.items()}


@pytest.mark.parametrize(("cls", "method", "stub"), [pytest.param(*own, id=f"{own[0]}.{own[1]}") for own in stub_defaults() if own[2]])
def test_every_default_of_the_stub_is_that_of_the_signature(cls: str, method: str, stub: dict[str, Any]) -> None:
    own = getattr(_native, cls)
    assert stub == signature(own if method == "__new__" else getattr(own, method))


WRAPPED: list[Callable[..., Any]] = [
    getattr(getattr(libgateway, cls), method)
    for cls in ("RateLimiter", "KeyedRateLimiter", "WindowLimiter", "CircuitBreaker", "Gateway")
    for method in vars(getattr(libgateway, cls))
    if not method.startswith("_") and hasattr(getattr(_native, cls), method)
] + [getattr(libgateway.Transaction, method) for method in dir(_native.Steps) if not method.startswith("_") and method not in ("all", "first_of")]


@pytest.mark.parametrize("wrapper", WRAPPED, ids=lambda own: own.__qualname__)
def test_what_is_wrapped_has_the_defaults_of_what_it_wraps(wrapper: Callable[..., Any]) -> None:
    cls, method = wrapper.__qualname__.split(".")
    inner = getattr(_native, "Steps" if cls == "_Gathered" else cls)
    assert signature(wrapper) == signature(getattr(inner, method))  # type: ignore[arg-type]
