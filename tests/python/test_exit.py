"""How processes end: threads that are at work, that wait, and that are about to; and interpreters that are not the first."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

# Up to Python 3.13 a thread that asked for the interpreter while it ended was unwound, and aborted the process where the stack
# had frames of Rust: in nine of ten ends of these.
PRELUDE = """
import asyncio, atexit, gc, os, sys, threading, time, weakref
from decimal import Decimal
from fractions import Fraction
from libgateway import *

class Stamp:
    def __call__(self):
        return sum(range(20)) + time.time_ns()

def flux():
    return Backend("flux-1", modality="image", family="flux", slots=64)

gateway = Gateway(backends=[flux()], clock=Stamp())
job = gateway.submit("acme", "image/flux/dev/t2i")
keyed, queue, store, breaker = KeyedRateLimiter(per_second=1), FairQueue(), JobStore(), CircuitBreaker()
billing = BillingCollector(PriceBook(1, prices={("*", "*"): "0.0012/s"}))
histogram, window, bucket = Histogram(), WindowLimiter(6, per=60), RateLimiter(per_second=1)

combined = CombinedLimiter(keyed, window, bucket)
free = RateLimiter(amount=10**9, per=1)

class Number:
    def __index__(self):
        return sum(range(20))

class Dies:
    def __del__(self):
        sum(range(20))

def daemons(body, n=3):
    begun = [threading.Event() for _ in range(n)]
    def run(own):
        while True:
            body()
            own.set()
    for own in begun:
        threading.Thread(target=run, args=(own,), daemon=True).start()
    for own in begun:
        own.wait()
"""

BODIES = {
    "Gateway": "gateway.advance(); gateway.job(job); gateway.stats()",
    "Gateway, errors": "\n    try:\n        gateway.delete(JobId())\n    except GatewayError:\n        pass",
    "Gateway, long calls": "gateway.snapshot(); gateway.digest(); list(gateway.slices()); Gateway.replica(gateway.snapshot())",
    "Gateway, made": "Gateway(backends=(flux() for _ in range(3)), clock=Stamp())",
    "Lease": "\n    gateway.submit('a', 'image/flux/dev/t2i')\n    with gateway.lease() as lease:\n        lease.complete('x').gpu_seconds",
    "Transaction": "\n    with gateway.transaction() as tx:\n        tx.submit('a', 'image/flux/dev/t2i')",
    "RateLimiter": "bucket.try_acquire(); bucket.headers(); bucket.limit",
    "KeyedRateLimiter": "keyed.try_acquire('a'); keyed.headers('a')",
    "WindowLimiter": "window.try_acquire(); window.headers()",
    "CombinedLimiter": "combined.try_acquire(key='a'); combined.available(key='a'); repr(combined)",
    "tokens, waited for": "\n    free.acquire_blocking()\n    with free.taking(2):\n        pass",
    "tokens, waited for in vain": "\n    try:\n        bucket.acquire_blocking(timeout=0.001)\n    except LimitedError:\n        pass",
    "numbers": "bucket.try_acquire(Number()); RateLimit(per_second=Fraction(1, 3)); RateLimit(per_second=0.1, burst=Number()); Usage(gpu_seconds=Decimal('1.5'))",
    "wrong arguments": "\n    for wrong in (Number, Decimal('1e99'), -1, '\\ud800'):\n        try:\n            Timeouts(queue=wrong)\n        except InputError:\n            pass",
    "CircuitBreaker": "breaker.admit(); breaker.status()",
    "calls that are guarded": "\n    with breaker.calling():\n        breaker(lambda: [Dies() for _ in range(3)])()",
    "words that are refused": "\n    gateway.submit('a', 'image/flux/dev/t2i')\n    try:\n        with gateway.lease() as lease:\n            lease.complete('x', gpu_ns=-1)\n    except (InputError, AttributeError):\n        pass",
    "FairQueue": "queue.push(Dies(), customer='a'); queue.pop(); FairQueue().push(Dies(), customer='a')",
    # What is called in a loop of unknown length must not fill up: each time a new one.
    "JobStore": "own = JobStore(); own.get(own.insert('a', 'x'))",
    "BillingCollector": "own = BillingCollector(PriceBook(1)); own.start(str(JobId()), model='m'); own.totals",
    "Histogram": "histogram.record_many(n for n in range(300))",
    "JobId": "[JobId() for _ in range(300)]",
    "Backend": "Backend('b', modality='image', family='flux', models=(m for m in ['dev', 'schnell']))",
}

CALL = "def call():\n    {}\n"
ENDS = {
    "at work": "",
    "in asyncio": """
async def main():
    while True:
        call()
        await asyncio.sleep(0)
daemons(lambda: asyncio.run(asyncio.wait_for(main(), 0.01)) if False else call())
def loop():
    asyncio.run(main())
threading.Thread(target=loop, daemon=True).start()
""",
    "with exit handlers": """
def late():
    call()
    gateway.stats()
atexit.register(late)
""",
    "with a teardown": """
class Last:
    def __del__(self):
        gateway.stats(); gateway.snapshot(); call()
sys.last = Last()
sys.last.again = sys.last
""",
}


def ends_well(source: str) -> None:
    """Runs a program in a child, which has to end by itself, with nothing said."""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


def all_end_well(sources: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(ends_well, sources):
            pass


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_daemon_thread_in_a_call_does_not_abort_the_end(body: str) -> None:
    all_end_well([PRELUDE + CALL.format(body) + "daemons(call)\n"] * 4)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_it_ends_well_with_whatever_there_is_to_do(end: str) -> None:
    body = BODIES["Gateway"] + "; gateway.snapshot()"
    all_end_well([PRELUDE + CALL.format(body) + "daemons(call)\n" + end] * 4)


def test_threads_that_wait_for_the_lock_take_it_nowhere() -> None:
    # Long calls hold it while they are away; others wait for it. What a teardown asks afterwards has to find it free.
    source = """
for n in range(2_000):
    gateway.submit("acme", "image/flux/dev/t2i", b"x" * 1_000)
daemons(gateway.snapshot, 2)
daemons(gateway.advance, 4)
class Last:
    def __del__(self):
        gateway.stats(); gateway.digest()
sys.last = Last()
"""
    all_end_well([PRELUDE + source] * 6)


def test_tasks_that_wait_in_a_daemon_thread_end_with_it() -> None:
    source = """
waits = threading.Event()
async def main():
    tasks = [asyncio.create_task(gateway.result(job)), asyncio.create_task(gateway.changed()), asyncio.create_task(bucket.acquire())]
    async for event in gateway.watch(job):
        waits.set()
threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
waits.wait()
daemons(lambda: gateway.submit("acme", "image/flux/dev/t2i"))
"""
    all_end_well([PRELUDE + source] * 4)


def test_an_exit_handler_of_before_the_import_may_wait_for_a_thread_that_is_at_work() -> None:
    # It runs after ours, which keeps calls from beginning; such a thread goes on after a while.
    source = """
import atexit, threading
stop, done, count = threading.Event(), threading.Event(), []
def drain():
    stop.set()
    done.wait()
    print(len(count) > 0 and count[-1])
atexit.register(drain)
"""
    rest = """
def run():
    while not stop.is_set():
        gateway.stats()
    count.append(gateway.stats().queued)
    done.set()
threading.Thread(target=run, daemon=True).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", source + PRELUDE + rest], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_exit_handlers_that_were_run_by_hand_leave_a_process_at_work() -> None:
    source = """
atexit._run_exitfuncs()
answers = []
threads = [threading.Thread(target=lambda: answers.append(gateway.stats().queued)) for _ in range(2)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert answers == [1, 1] and gateway.stats().queued == 1
"""
    ends_well(PRELUDE + source)


SUB = """
import sys
try:
    import _interpreters as api
except ImportError:
    import _xxsubinterpreters as api
{first}
def create(kind):
    if sys.version_info >= (3, 13):
        return api.create(kind) if kind else api.create()
    return api.create(isolated=kind == "isolated")
code = '''
try:
    import libgateway
except ImportError as error:
    assert "sub" in str(error) and "interpreter" in str(error), error
else:
    raise AssertionError("it was loaded")
try:
    import libgateway._native
except ImportError:
    pass
else:
    raise AssertionError("it was loaded by its back door")
'''
for kind in ("legacy", "isolated", ""):
    for _ in range(2):
        interpreter = create(kind)
        found = getattr(api, "exec", None) or api.run_string
        failure = found(interpreter, code)
        assert failure is None, failure
        api.destroy(interpreter)
import libgateway
gateway = libgateway.Gateway()
assert type(gateway.stats()) is libgateway.Stats
"""


@pytest.mark.parametrize("first", ["import libgateway", ""], ids=["after the main one", "before the main one"])
def test_an_interpreter_that_is_not_the_main_one_is_refused_at_import(first: str) -> None:
    ends_well(SUB.format(first=first))
