"""Texts with half a surrogate pair, as file names and careless JSON bring them: no Unicode, and Python's ``str`` all the same."""

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from libgateway import (
    Backend,
    BillingCollector,
    CustomerPolicy,
    FailureKind,
    Failure,
    FairQueue,
    Gateway,
    Histogram,
    InputError,
    JobId,
    JobStore,
    CombinedLimiter,
    KeyedRateLimiter,
    PriceBook,
    RateLimit,
    Route,
    Submit,
    Usage,
)

from conftest import ROUTE, flux

HALF = "\ud800"
TAIL = "é\udfff!"

Named = tuple[str, Callable[[Gateway, str], object]]

NAMES: list[Named] = [
    ("customer", lambda own, text: own.submit(text, ROUTE)),
    ("route", lambda own, text: own.submit("acme", text)),
    ("payload", lambda own, text: own.submit("acme", ROUTE, text)),
    ("affinity", lambda own, text: own.submit("acme", ROUTE, affinity=text)),
    ("idempotency_key", lambda own, text: own.submit("acme", ROUTE, idempotency_key=text)),
    ("id", lambda own, text: own.submit("acme", ROUTE, id=text)),
    ("job", lambda own, text: own.cancel(text)),
    ("value", lambda own, text: JobId(text)),
    ("customer", lambda own, text: own.job_by_key(text, "k")),
    ("key", lambda own, text: own.job_by_key("acme", text)),
    ("name", lambda own, text: own.backend(text)),
    ("name", lambda own, text: own.customer(text)),
    ("backend", lambda own, text: own.running_on(text)),
    ("backend", lambda own, text: own.dispatch_to(text)),
    ("backend", lambda own, text: own.lease(backend=text).__enter__()),
    ("backend", lambda own, text: own.remove_backend(text)),
    ("backend", lambda own, text: own.drain_backend(text)),
    ("backend", lambda own, text: own.evict_backend(text)),
    ("backend", lambda own, text: own.force_breaker(text, None)),
    ("customer", lambda own, text: own.put_customer(text, CustomerPolicy())),
    ("customer", lambda own, text: own.remove_customer(text)),
    ("customers", lambda own, text: Gateway(customers={text: CustomerPolicy()})),
    ("config", lambda own, text: Gateway.from_config(text)),
    ("route", lambda own, text: own.pause(text)),
    ("route", lambda own, text: own.dispatch(route=text)),
    ("output", lambda own, text: own.complete(1, text)),
    ("device", lambda own, text: own.complete(1, "x", gpu_ns=1, device=text)),
    ("device", lambda own, text: own.preempt(JobId(1), gpu_ns=1, device=text)),
    ("customer", lambda own, text: own.transaction().submit(text, ROUTE)),
    ("backend", lambda own, text: own.transaction().dispatch_to(text)),
    ("text", lambda own, text: Route(text)),
    ("customer", lambda own, text: Submit(text, ROUTE)),
    ("name", lambda own, text: Backend(text, modality="image", family="flux")),
    ("modality", lambda own, text: Backend("b", modality=text, family="flux")),
    ("family", lambda own, text: Backend("b", modality="image", family=text)),
    ("models", lambda own, text: Backend("b", modality="image", family="flux", models=text)),
    ("models", lambda own, text: Backend("b", modality="image", family="flux", models=["dev", text])),
    ("labels", lambda own, text: flux(labels={text: "x"})),
    ("kind", lambda own, text: Backend("b", kind=text, modality="image", family="flux")),
    ("device", lambda own, text: Usage(gpu_ns=1, device=text)),
    ("tier", lambda own, text: CustomerPolicy(tier=text)),
    ("currency", lambda own, text: PriceBook(1, currency=text)),
    ("per", lambda own, text: PriceBook(1, prices={("*", "*"): "1"}, per=text)),
    ("prices", lambda own, text: PriceBook(1, prices={(text, "*"): "1"})),
    ("prices", lambda own, text: PriceBook(1, prices={("*", text): "1"})),
    ("model", lambda own, text: PriceBook(1).price(text, "standard")),
    ("tier", lambda own, text: PriceBook(1).price("m", text)),
    ("key", lambda own, text: KeyedRateLimiter().try_acquire(text)),
    ("key", lambda own, text: KeyedRateLimiter().peek(text)),
    ("key", lambda own, text: KeyedRateLimiter().remove(text)),
    ("key", lambda own, text: CombinedLimiter(KeyedRateLimiter()).try_acquire(key=text)),
    ("keys", lambda own, text: KeyedRateLimiter().try_acquire_many(["a", text])),
    ("customer", lambda own, text: FairQueue[int]().push(1, customer=text)),
    ("customer", lambda own, text: FairQueue[int]().waiting(text)),
    ("customer", lambda own, text: JobStore().insert(text)),
    ("key", lambda own, text: JobStore().by_key("acme", text)),
    ("request_id", lambda own, text: BillingCollector(PriceBook(1)).start(text, model="m")),
    ("model", lambda own, text: BillingCollector(PriceBook(1)).start("r", model=text)),
    ("customer", lambda own, text: BillingCollector(PriceBook(1)).start("r", model="m", customer=text)),
    ("tier", lambda own, text: BillingCollector(PriceBook(1)).start("r", model="m", tier=text)),
    ("request_id", lambda own, text: BillingCollector(PriceBook(1)).abandon(text)),
    ("text", lambda own, text: RateLimit.from_json(text)),
    ("text", lambda own, text: Histogram.from_json(text)),
]


@pytest.mark.parametrize("text", [HALF, f"a{HALF}", TAIL], ids=["half", "end", "middle"])
@pytest.mark.parametrize(("field", "use"), NAMES, ids=[f"{n}-{field}" for n, (field, _) in enumerate(NAMES)])
def test_a_name_with_half_a_character_is_refused_by_the_name_of_its_argument(
    field: str, use: Callable[[Gateway, str], object], text: str
) -> None:
    gateway = Gateway(backends=[flux()], now_ns=0)
    digest = gateway.digest()
    with pytest.raises(InputError) as caught:
        use(gateway, text)
    assert caught.value.field == field and isinstance(caught.value, ValueError)
    assert gateway.digest() == digest
    assert str(pickle.loads(pickle.dumps(caught.value))) == caught.value.message


def test_the_error_says_at_which_byte() -> None:
    with pytest.raises(InputError) as caught:
        KeyedRateLimiter().try_acquire(TAIL)
    assert (caught.value.code, caught.value.message) == (
        "character",
        "key has a character that is not allowed at byte 2",
    )


def test_a_question_about_an_id_with_half_a_character_is_about_nothing(gateway: Gateway) -> None:
    assert gateway.job(HALF) is None and gateway.explain(HALF) is None and HALF not in JobStore()


WORDS = [
    (f"model {HALF} gone", "model \ufffd gone"),
    (TAIL, "é\ufffd!"),
    (HALF * 3, "\ufffd" * 3),
    ("\ud83e\udd8a", "\U0001f98a"),  # Two halves that are a fox.
    ("a fox \U0001f98a", "a fox \U0001f98a"),
]


@pytest.mark.parametrize(("text", "told"), WORDS)
def test_words_for_people_are_told_with_a_replacement(text: str, told: str) -> None:
    assert Failure("backend", text).message == told
    assert flux(labels={"note": text}).labels == {"note": told}
    failed: list[Any] = []
    ends: tuple[Callable[[Any, Any], object], ...] = (
        lambda gateway, lease: gateway.fail(lease, "rejected", text),
        lambda gateway, lease: lease.fail("rejected", text),
        lambda gateway, lease: lease.fail(Failure("rejected", text)),
    )
    for end in ends:
        gateway = Gateway(backends=[flux()])
        job = gateway.submit("acme", ROUTE)
        end(gateway, gateway.dispatch())
        failed.append(gateway.job(job))
    store = JobStore()
    stored = store.insert("acme")
    store.fail(stored, store.start(stored), "backend", text)
    failed.append(store.get(stored))
    assert [own.outcome.failure.message for own in failed] == [told] * 4


def test_an_exception_with_such_words_fails_its_lease(gateway: Gateway) -> None:
    job = gateway.submit("acme", ROUTE)
    with pytest.raises(OSError), gateway.lease():
        raise OSError(f"no file {HALF}.png")
    view = gateway.job(job)
    assert view is not None and view.failure is not None
    assert (view.failure.kind, view.failure.message) == (FailureKind.BACKEND, "OSError: no file \ufffd.png")


def test_a_log_line_with_half_a_character_is_answered_and_changes_nothing() -> None:
    gateway = Gateway(now_ns=0)
    digest = gateway.digest()
    lines = [
        f'{{"now":1,"command":{{"remove_backend":{{"backend":"{HALF}"}}}}}}',
        json.dumps({"now": 1, "command": {"remove_backend": {"backend": HALF}}}),
        HALF,
    ]
    for reply in [*map(gateway.apply, lines), *gateway.apply_many(lines)]:
        assert json.loads(reply)["error"]["name"] == "not_a_command", reply
    told = gateway.apply({"now": 1, "command": {"remove_backend": {"backend": HALF}}})
    assert told["error"]["name"] == "not_a_command" and gateway.digest() == digest
