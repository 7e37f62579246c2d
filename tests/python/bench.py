"""What calls cost from Python, beside the peers, in one run: a table, and lines appended to a JSON file.

    python bench.py target/bench.json

Every row is the best of many rounds of the thread's own time, per operation, with the loop of `timeit` (about 5 ns) in it,
ours and theirs alike. Both read their own clock. A peer that is not installed is left out, and said so.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import itertools
import json
import os
import queue
import random
import sys
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from libgateway import (
    Backend,
    CircuitBreaker,
    FairQueue,
    Gateway,
    KeyedRateLimiter,
    Lease,
    RateLimit,
    Route,
    Submit,
    Usage,
    _native,
)

ROUNDS = 31
ROUTE = "image/flux/dev/t2i"
NEVER = 4_000_000_000
"""A rate that is never reached: what is measured is the check, not the refusal."""


class Row(NamedTuple):
    name: str
    n: int
    ours: float
    peers: dict[str, float]
    budget: float | None = None


class Missing(Exception):
    """A peer that is not there."""


def best(call: Callable[[], object], number: int, rounds: int = ROUNDS, each: int = 1) -> float:
    """Nanoseconds for one of the `each` operations that one call does."""
    timer = timeit.Timer(call, timer=time.thread_time)
    gc.collect()
    return min(timer.repeat(rounds, number)) / number / each * 1e9


def peer(measure: Callable[[], float], peers: dict[str, float], name: str) -> None:
    try:
        peers[name] = measure()
    except (ImportError, Missing) as error:
        print(f"not measured: {name} ({error})", file=sys.stderr)


# --- Limiter ---


def limiter(empty: float) -> list[Row]:
    keys = [f"customer-{n}" for n in range(10_000)]
    random.Random(1).shuffle(keys)
    following = itertools.cycle(keys).__next__
    overhead = best(following, 20_000)

    ours = KeyedRateLimiter(RateLimit(amount=NEVER, per=1, burst=NEVER))
    acquire = ours.try_acquire
    one = best(lambda: acquire("acme"), 20_000)
    many = best(lambda: acquire(following()), 20_000)
    bare = best(lambda: None, 20_000)

    peers: dict[str, float] = {}

    def limits_() -> float:
        import limits

        storage = limits.storage.MemoryStorage()
        strategy = limits.strategies.FixedWindowRateLimiter(storage)
        rule = limits.RateLimitItemPerSecond(NEVER)
        return best(lambda: strategy.hit(rule, following()), 2_000) - overhead

    def pyrate() -> float:
        from pyrate_limiter import Limiter, Rate, StateBucket, TokenBucket

        # A bucket of its own for each key would be the caller's work: one bucket.
        limiter = Limiter(StateBucket([Rate(1_000_000_000, 1_000)], algorithm=TokenBucket()))
        return best(lambda: limiter.try_acquire("acme", blocking=False), 500, 11)

    def aio() -> float:
        from aiolimiter import AsyncLimiter

        limiter = AsyncLimiter(NEVER, 1)

        async def main() -> float:
            least = float("inf")
            for _ in range(ROUNDS):
                start = time.thread_time_ns()
                for _ in range(2_000):
                    await limiter.acquire()
                least = min(least, (time.thread_time_ns() - start) / 2_000)
            return least

        return asyncio.run(main())

    for name, measure in {"limits, fixed window": limits_, "pyrate-limiter, one key": pyrate, "aiolimiter, one key": aio}.items():
        peer(measure, peers, name)
    return [
        Row("python: keyed try_acquire", 10_000, many - overhead, peers),
        Row("python: try_acquire over an empty call", 1, one - bare - empty, {}, 150.0),
    ]


# --- Breaker ---


def breaker() -> list[Row]:
    def callee() -> None:
        return None

    ours = CircuitBreaker()
    guarded = ours(callee)
    peers: dict[str, float] = {}

    def pybreaker_() -> float:
        import pybreaker

        other = pybreaker.CircuitBreaker(fail_max=5)(callee)
        return best(other, 5_000)

    def purgatory_() -> float:
        import purgatory

        other = purgatory.SyncCircuitBreakerFactory()("callee")(callee)
        return best(other, 2_000)

    peer(pybreaker_, peers, "pybreaker")
    peer(purgatory_, peers, "purgatory")
    bare = best(lambda: ours.success(ours.admit()), 20_000)
    return [
        Row("python: breaker, decorated call", 1, best(guarded, 5_000), peers),
        Row("python: breaker, admit + success", 1, bare, {}),
    ]


# --- Queue ---


def queues(n: int) -> list[Row]:
    rng = random.Random(2)
    customers = [f"customer-{rng.randrange(1_000)}" for _ in range(n)]
    following = itertools.cycle(customers).__next__
    costs = itertools.cycle([rng.randrange(1, 1_000_000) for _ in range(10_007)]).__next__
    numbers = itertools.count()
    overhead = best(lambda: (following(), costs()), 20_000)

    ours: FairQueue[int] = FairQueue(items_max=2 * n)
    for _ in range(n):
        ours.push(1, customer=following(), cost=costs())

    def fair() -> None:
        ours.push(1, customer=following(), cost=costs())
        ours.pop()

    heap: list[tuple[int, int]] = []
    for _ in range(n):
        heapq.heappush(heap, (costs(), next(numbers)))

    def heaps() -> None:
        following()
        heapq.heappush(heap, (costs(), next(numbers)))
        heapq.heappop(heap)

    locked: queue.PriorityQueue[tuple[int, int]] = queue.PriorityQueue()
    for _ in range(n):
        locked.put((costs(), next(numbers)))

    def priority() -> None:
        following()
        locked.put((costs(), next(numbers)))
        locked.get()

    peers = {
        "heapq (no fairness, no lock)": best(heaps, 5_000) - overhead,
        "queue.PriorityQueue (no fairness)": best(priority, 2_000) - overhead,
    }
    return [Row("python: fair queue, push + pop", n, best(fair, 5_000) - overhead, peers)]


# --- Gateway ---


def fleet(backends: int, slots: int) -> Gateway:
    made = [Backend(f"flux-{n}", modality="image", family="flux", slots=slots) for n in range(backends)]
    return Gateway(backends=made, jobs_max=4_000_000, retained_max=1_000)


def settle(gateway: Gateway) -> None:
    while settlements := gateway.take_settlements(10_000):
        settlements.confirm()


def cycle() -> list[Row]:
    gateway = fleet(10, 64)
    route = Route(ROUTE)
    for _ in range(1_000):
        gateway.submit("acme", route, b"a red fox")

    def one() -> None:
        gateway.submit("acme", route, b"a red fox")
        lease = gateway.dispatch()
        assert lease is not None
        lease.complete("https://cdn/1.webp", gpu_ns=0)

    def measured() -> float:
        least = float("inf")
        for _ in range(ROUNDS):
            start = time.thread_time_ns()
            for _ in range(1_000):
                one()
            gateway.take_settlements(1_000).confirm()
            least = min(least, (time.thread_time_ns() - start) / 1_000)
        return least

    settled = measured()
    settle(gateway)
    plain = best(one, 1_000)
    settle(gateway)

    awaited = fleet(10, 64)

    async def waited() -> float:
        least = float("inf")
        for _ in range(11):
            start = time.thread_time_ns()
            for _ in range(300):
                job = awaited.submit("acme", route, b"a red fox")
                result = asyncio.ensure_future(awaited.result(job))
                await asyncio.sleep(0)
                for lease in awaited.dispatch_many(1):
                    lease.complete("https://cdn/1.webp", gpu_ns=0)
                assert await result
            least = min(least, (time.thread_time_ns() - start) / 300)
        return least

    usage = Usage(gpu_ns=0)
    batched = fleet(10, 1_000)

    def batch() -> None:
        batched.submit_many([Submit("acme", route, b"a red fox") for _ in range(1_000)])
        leases: list[Lease] = batched.dispatch_many(1_000)
        batched.complete_many([(lease, "https://cdn/1.webp", usage) for lease in leases])
        batched.take_settlements(1_000).confirm()

    return [
        Row("python: submit + dispatch + complete", 1_000, plain, {}, 3_000.0),
        Row("python: the same, settlements taken as objects and confirmed", 1_000, settled, {}),
        Row("python: batch of 1 000, each job, settled", 1_000, best(batch, 1, 11, each=1_000), {}),
        Row("python: the cycle with a task that awaits the result", 1_000, asyncio.run(waited()), {}),
    ]


def loaded() -> list[Row]:
    """The same under the load of the core's own row: everything is drawn from many, so nothing lies at hand."""
    rng = random.Random(3)
    families, models, queued = range(10), range(10), 100_000
    backends = [Backend(f"b-{f}-{n}", modality="image", family=f"f{f}", slots=64) for f in families for n in range(8)]
    gateway = Gateway(backends=backends, jobs_max=4_000_000, retained_max=1_000)
    routes = [Route(f"image/f{f}/m{m}/t2i") for f in families for m in models]
    customers = [f"customer-{n}" for n in range(10_000)]
    drawn = [(rng.choice(customers), rng.choice(routes)) for _ in range(200_000)]
    following = itertools.cycle(drawn).__next__
    for _ in range(queued):
        gateway.submit(*following())
    live = [lease for _ in range(256) if (lease := gateway.dispatch())]

    def one() -> None:
        gateway.submit(*following())
        lease = gateway.dispatch()
        assert lease is not None
        at = rng.randrange(256)
        live[at].complete("https://cdn/1.webp", gpu_ns=0)
        live[at] = lease

    cost = best(one, 5_000)
    settle(gateway)
    return [Row("python: the same, 10 k customers, 100 routes", queued, cost, {}, 3_000.0)]


def choosing() -> list[Row]:
    """A backend for a request: with us that is a lease, which also gives the slot back when nobody says a word."""
    gateway = fleet(10, 64)
    gateway.submit("acme", ROUTE)

    def one() -> None:
        lease = gateway.dispatch()
        assert lease is not None
        lease.release()

    peers: dict[str, float] = {}

    def litellm_() -> float:
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        try:
            import litellm
        except Exception as error:
            raise Missing(error) from error
        deployments: list[Any] = [
            {"model_name": "flux", "litellm_params": {"model": f"openai/flux-{n}", "api_key": "x", "api_base": "http://x"}}
            for n in range(10)
        ]
        router = litellm.Router(model_list=deployments, routing_strategy="least-busy")
        messages: list[Any] = [{"role": "user", "content": "a red fox"}]
        return best(lambda: router.get_available_deployment(model="flux", messages=messages), 100, 11)

    peer(litellm_, peers, "LiteLLM Router, least busy of 10")
    return [Row("python: choose a backend of 10, lease + release", 1, best(one, 5_000), peers)]


def main(path: Path | None) -> None:
    empty = best(_native._nothing, 50_000)
    rows = [Row("python: an empty PyO3 call", 1, empty, {})]
    rows += limiter(empty) + breaker() + queues(1_000) + queues(100_000) + cycle() + loaded() + choosing()
    lines = [line for row in rows for line in told(row)]
    print(f"\nPython {sys.version.split()[0]}")
    show(lines)
    if path is not None:
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        kept = [line for line in kept if not line["name"].startswith("python: ")]
        path.write_text(json.dumps(kept + lines, indent=2) + "\n", encoding="utf-8")


def told(row: Row) -> list[dict[str, Any]]:
    """The lines of a row in `bench.json`: one for each peer, or one without."""
    peers: list[tuple[str | None, float | None]] = list(row.peers.items()) or [(None, None)]
    return [
        {
            "name": row.name,
            "n": row.n,
            "ns_per_op": row.ours,
            "peer": name,
            "peer_ns_per_op": theirs,
            "ratio": None if theirs is None else row.ours / theirs,
            "budget_ns": row.budget,
        }
        for name, theirs in peers
    ]


def show(lines: list[dict[str, Any]]) -> None:
    form = "{:<62} {:>7} {:>9} {:<34} {:>9} {:>7} {:>7} {}"
    print(form.format("row", "n", "ns", "peer", "ns", "ratio", "budget", "").rstrip())
    for line in lines:
        theirs, ratio, budget = line["peer_ns_per_op"], line["ratio"], line["budget_ns"]
        cells = (
            line["name"],
            line["n"],
            f"{line['ns_per_op']:.0f}",
            line["peer"] or "-",
            "-" if theirs is None else f"{theirs:.0f}",
            "-" if ratio is None else f"{ratio:.2f}",
            "-" if budget is None else f"{budget:.0f}",
            "" if budget is None else "ok" if line["ns_per_op"] <= budget else "MISSED",
        )
        print(form.format(*cells).rstrip())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
