"""Every error of the core is an exception of its own, with the same number and name."""

import copy
import inspect
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import libgateway
import pytest
from libgateway import DeniedError, FullError, Gateway, GatewayError, InputError, error_codes
from libgateway.errors import BY_NUMBER

from conftest import ROUTE, flux

OWN = {9001: "forked", 9002: "no_result", 9003: "limited", 9004: "breaker_open"}


def test_the_exceptions_are_exactly_the_errors_of_the_core() -> None:
    ours = {number: cls.code for number, cls in BY_NUMBER.items()}
    assert ours == dict(error_codes()) | OWN


def test_every_leaf_stands_under_one_family_and_the_base() -> None:
    families = [cls for cls in GatewayError.__subclasses__()]
    for cls in BY_NUMBER.values():
        assert issubclass(cls, Exception)
        assert sum(issubclass(cls, family) for family in families) == 1, cls


def test_every_exception_can_be_imported_from_the_package() -> None:
    for cls in [*BY_NUMBER.values(), *GatewayError.__subclasses__()]:
        assert getattr(libgateway, cls.__name__) is cls
        assert cls.__name__ in libgateway.__all__


def test_numbers_tell_the_family() -> None:
    hundreds: dict[int, set[type]] = {}
    for number, cls in BY_NUMBER.items():
        family = cls.__mro__[1] if cls.__mro__[1] is not GatewayError else cls
        hundreds.setdefault(number // 100, set()).add(family)
    assert {key: len(families) for key, families in hundreds.items() if key not in (11, 90)} == dict.fromkeys(
        [2, 3, 4, 5, 6, 7, 12, 13, 14, 15], 1
    )


def test_an_error_tells_number_code_field_and_message_and_survives_a_pickle() -> None:
    with pytest.raises(InputError) as caught:
        flux(slots=0)
    error = caught.value
    assert (error.number, error.code, error.field) == (204, "out_of_range", "slots")
    assert error.message == str(error) == "slots is 0, allowed is 1 to 65536"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.field) == (type(error), error.message, error.field)
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("number", "provoke"),
    [
        (201, lambda g: g.submit("", ROUTE)),
        (202, lambda g: g.submit("x" * 129, ROUTE)),
        (203, lambda g: g.submit("a\nb", ROUTE)),
        (204, lambda g: g.progress(g.dispatch_many(1)[0] if g.submit("a", ROUTE) else 0, ppm=1_000_001)),
        (205, lambda g: libgateway.RateLimit(amount=1, per=10**12)),
        (206, lambda g: g.submit("acme", "image/flux")),
        (207, lambda g: libgateway.Backoff(base=10, max=5)),
        (208, lambda g: libgateway.Usage(gpu_ns=1, device="a") + libgateway.Usage(gpu_ns=1, device="a")),
        (301, lambda g: [full.submit("a", ROUTE) for full in [Gateway(backends=[flux()], jobs_max=1)] * 2]),
        (401, lambda g: [g.submit("a", ROUTE, body, idempotency_key="k") for body in ("x", "y")]),
        (402, lambda g: g.submit("acme", "image/wan/dev/t2i")),
        (403, lambda g: [g.submit("acme", ROUTE, id=libgateway.JobId(1)) for _ in range(2)]),
        (501, lambda g: [g.submit("a", ROUTE), [g.release(lease) for lease in g.dispatch_many(1) * 2]]),
        (502, lambda g: g.heartbeat(17)),
        (601, lambda g: g.cancel(libgateway.JobId(1))),
        (602, lambda g: [g.cancel(job) for job in [g.submit("a", ROUTE)] * 2]),
        (603, lambda g: g.delete(g.submit("a", ROUTE))),
        (604, lambda g: g.preempt(g.submit("a", ROUTE))),
        (606, lambda g: [own.submit("a", ROUTE) and [own.preempt(lease.job) for lease in own.dispatch_many(1)]
                         for own in [Gateway(backends=[flux()], preemptions_max=0)]]),
        (701, lambda g: g.drain_backend("nobody")),
        (702, lambda g: g.remove_customer("nobody")),
        (703, lambda g: g.pause("image/wan/dev/t2i")),
        (511, lambda g: [g.submit("a", ROUTE), g.correct_usage(g.dispatch(), gpu_seconds=1)]),
        (512, lambda g: [own.submit("a", ROUTE) and [own.release(lease) for lease in own.dispatch_many(1)] and own.correct_usage(1, gpu_ns=1)
                         for own in [Gateway(backends=[flux()], billing=libgateway.BillingPolicy(late_usage_for=0))]]),
        (1103, lambda g: [own.submit("a", ROUTE) and [own.complete(lease, "x", gpu_seconds=10) for lease in own.dispatch_many(1)]
                          for own in [Gateway(backends=[flux()], billing=libgateway.BillingPolicy(excess="refuse"))]]),
        (1111, lambda g: g.confirm_settlements(libgateway.Batch(7, 1, 1))),
        (1201, lambda g: Gateway.restore(b"")),
        (1202, lambda g: Gateway.restore(b"x" * 100)),
        (1204, lambda g: Gateway.restore(g.snapshot()[:-1] + b"!")),
        (1301, lambda g: Gateway.from_config("{}!")),
    ],
)
def test_each_number_is_raised_as_its_own_class(gateway: Gateway, number: int, provoke: object) -> None:
    with pytest.raises(BY_NUMBER[number]) as caught:
        provoke(gateway)  # type: ignore[operator]
    assert caught.value.number == number
    assert 0 < len(caught.value.message) <= 1_000


ERRORS = sorted(
    {cls for cls in vars(libgateway.errors).values() if inspect.isclass(cls) and issubclass(cls, GatewayError)},
    key=lambda cls: cls.__name__,
)


def made(cls: type[GatewayError]) -> GatewayError:
    """An error with everything that one can have."""
    error = cls("it is so", "field")
    for name in inspect.get_annotations(FullError if issubclass(cls, FullError) else DeniedError):
        setattr(error, name, len(name))
    error.number_of_the_host = 7  # type: ignore[attr-defined]
    return error


def same(one: BaseException, other: BaseException) -> bool:
    return (type(one), str(one), one.args, vars(one)) == (type(other), str(other), other.args, vars(other))


@pytest.mark.parametrize("cls", ERRORS)
def test_an_error_survives_pickle_and_copy_with_all_its_fields(cls: type[GatewayError]) -> None:
    error = made(cls)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert same(pickle.loads(pickle.dumps(error, protocol)), error)
    for again in (copy.copy(error), copy.deepcopy(error)):
        assert same(again, error) and again is not error
        assert (again.message, again.field, again.number, again.code) == ("it is so", "field", cls.number, cls.code)


def refuse(name: str) -> None:
    raise made(getattr(libgateway, name))


def test_errors_come_out_of_a_pool_of_processes_as_they_were_raised() -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        told = [(cls, pool.submit(refuse, cls.__name__)) for cls in ERRORS]
        for cls, future in told:
            error = future.exception()
            assert error is not None and same(error, made(cls)), cls


def test_a_limited_call_says_when_to_come_again_in_another_process_too() -> None:
    limiter = libgateway.RateLimiter(amount=1, per=10**9)

    @limiter
    def guarded() -> int:
        return 1

    assert guarded() == 1
    with pytest.raises(libgateway.LimitedError) as caught:
        guarded()
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.retry_after == caught.value.retry_after and 0 < again.retry_after <= 10**9


def test_wrong_types_are_type_errors(gateway: Gateway) -> None:
    for call in (
        lambda: gateway.submit(1, ROUTE),  # type: ignore[arg-type]
        lambda: gateway.submit("a", 1),  # type: ignore[arg-type]
        lambda: gateway.submit("a", ROUTE, 1),  # type: ignore[arg-type]
        lambda: gateway.cancel(1),  # type: ignore[arg-type]
        lambda: gateway.heartbeat("1"),  # type: ignore[arg-type]
        lambda: gateway.submit("a", ROUTE, now_ns=1.5),  # type: ignore[arg-type]
        lambda: gateway.put_backend("flux-1"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError):
            call()


def test_integers_out_of_range_are_refused(gateway: Gateway) -> None:
    calls: list[Callable[[], object]] = [
        lambda: gateway.submit("a", ROUTE, now_ns=-1),
        lambda: gateway.submit("a", ROUTE, now_ns=2**64),
        lambda: gateway.submit("a", ROUTE, tokens=2**64),
        lambda: gateway.submit("a", ROUTE, estimate=2**64),
        lambda: libgateway.JobId(2**128),
    ]
    for call in calls:
        with pytest.raises((OverflowError, InputError)):
            call()


def test_public_names_are_documented() -> None:
    for name in libgateway.__all__:
        found = getattr(libgateway, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert found.__doc__, name
            assert not found.__doc__.startswith(f"{name}("), f"{name} has only the words of dataclass"
