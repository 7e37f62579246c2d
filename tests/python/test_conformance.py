"""The same everywhere: command logs through Python, byte for byte what Rust answers."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libgateway import Gateway, JobId

from conftest import ROOT, START, skipped

VECTORS = sorted((ROOT / "tests" / "vectors").glob("*.jsonl"))
SCRIPT = Path(os.environ.get("GATEWAY_SCRIPT", ROOT / "target" / "debug" / "script"))


def parts(line: str) -> tuple[str, str]:
    """The texts of entry and reply as they stand in a line."""
    start = line.index(":") + 1
    _, end = json.JSONDecoder().raw_decode(line, start)
    middle = ',"reply":'
    assert line.startswith('{"entry":') and line[end:].startswith(middle) and line.endswith("}")
    return line[start:end], line[end + len(middle) : -1]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_vector_gets_its_replies_and_its_digest(path: Path) -> None:
    first, *lines, last = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    opening = json.loads(first)
    gateway = Gateway.from_config(opening["config"], now_ns=opening["now"])
    for number, line in enumerate(lines, 2):
        entry, reply = parts(line)
        assert gateway.apply(entry) == reply, f"{path.name}:{number}"
    assert json.loads(last) == {"digest": gateway.digest()}


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_a_restored_copy_goes_on_alike(path: Path) -> None:
    first, *lines, last = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    opening = json.loads(first)
    gateway = Gateway.from_config(opening["config"], now_ns=opening["now"])
    entries = [parts(line) for line in lines]
    half = len(entries) // 2
    gateway.apply_many([entry for entry, _ in entries[:half]])
    again = Gateway.replica(gateway.snapshot())
    assert again.apply_many([entry for entry, _ in entries[half:]]) == [reply for _, reply in entries[half:]]
    assert json.loads(last) == {"digest": again.digest()}


def test_there_are_vectors() -> None:
    if not (ROOT / "tests" / "vectors").is_dir():
        skipped("conformance vectors in Python", "there are none in tests/vectors")
    assert len(VECTORS) >= 10


# Random logs: few names, so that they meet.
CUSTOMERS = st.sampled_from(["acme", "birch", "zoo", ""])
BACKENDS = st.sampled_from(["b-0", "b-1", "b-2"])
JOBS = st.integers(0, 15).map(lambda n: str(JobId(n)))
LEASES = st.integers(0, 25)
FAMILIES = st.sampled_from(["flux", "wan"])
MODELS = st.sampled_from(["dev", "schnell"])
ROUTES = st.builds(
    lambda family, model, task, query: f"image/{family}/{model}/{task}{query}",
    FAMILIES,
    MODELS,
    st.sampled_from(["t2i", "i2i", "t2x"]),
    st.sampled_from(["", "", "", "?backend=torch"]),
)
SPANS = st.sampled_from([0, 1, 10**9, 5 * 10**9, 2**64 - 1])
INSTANTS = st.sampled_from([None, None, 0, START, START + 1, START + 5 * 10**9, START + 400 * 10**9, 2**64 - 1])
USAGE = st.lists(st.fixed_dictionaries({"device": st.sampled_from(["g0", "g1"]), "gpu_ns": st.integers(0, 10**10)}), max_size=2)
OUTPUT = st.sampled_from([{"url": "https://cdn/1"}, {"inline": [137, 80]}, {"inline": "text"}, {"url": ""}])


def command(name: str, /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(fields).map(lambda own: {name: own})


LEAVES = st.one_of(
    command(
        "submit",
        id=JOBS,
        customer=CUSTOMERS,
        route=ROUTES,
        payload=st.sampled_from(["", "a fox", [255, 0]]),
        priority=st.sampled_from(["high", "normal", "low"]),
        estimate=st.sampled_from([None, 10**9, 7 * 10**9]),
        tokens=st.integers(0, 4),
        affinity=st.sampled_from([None, None, "lora-1", "lora-2"]),
        idempotency_key=st.sampled_from([None, None, "k1", "k2"]),
        timeouts=st.fixed_dictionaries({}, optional={"queue": SPANS, "start": SPANS, "run": SPANS, "total": SPANS}),
        not_before=INSTANTS,
    ),
    command("dispatch"),
    command("dispatch"),
    command("dispatch_route", route=ROUTES),
    command("dispatch_to", backend=BACKENDS, max=st.integers(0, 3)),
    command("heartbeat", lease=LEASES),
    command("progress", lease=LEASES, progress_ppm=st.integers(0, 1_000_001)),
    command("complete", lease=LEASES, output=OUTPUT, usage=USAGE),
    command(
        "fail",
        lease=LEASES,
        failure=st.fixed_dictionaries(
            {"class": st.sampled_from(["timeout", "backend", "lost", {"http": 503}, {"http": 400}])},
            optional={"message": st.text(max_size=5), "retry_after": SPANS, "retriable": st.booleans()},
        ),
        usage=USAGE,
    ),
    command("release", lease=LEASES, not_before=INSTANTS, usage=USAGE),
    command("preempt", job=JOBS, usage=USAGE),
    command("cancel", job=JOBS),
    command("delete", job=JOBS),
)
GROUPS = st.one_of(
    st.lists(LEAVES, max_size=3).map(lambda steps: {"all": steps}),
    st.lists(LEAVES, max_size=3).map(lambda steps: {"first_of": steps}),
)
STEPS = st.lists(st.one_of(LEAVES, GROUPS), max_size=3)
COMMANDS = st.one_of(
    LEAVES,
    LEAVES,
    LEAVES,
    STEPS.map(lambda steps: {"all": steps}),
    STEPS.map(lambda steps: {"first_of": steps}),
    command("advance"),
    command("accept_clock"),
    command(
        "put_backend",
        name=BACKENDS,
        kind=st.sampled_from(["torch", "vllm"]),
        modality=st.just("image"),
        family=FAMILIES,
        models=st.sampled_from(["all", {"only": ["dev"]}, {"only": ["dev", "schnell"]}, {"only": []}]),
        slots=st.integers(0, 3),
        lease_for=st.sampled_from([None, 3 * 10**9]),
    ),
    command("remove_backend", backend=BACKENDS),
    command("drain_backend", backend=BACKENDS, draining=st.booleans()),
    command("evict_backend", backend=BACKENDS, to=st.sampled_from(["queue", "queue", "error", "nowhere"])),
    command("force_breaker", backend=BACKENDS, state=st.sampled_from([None, "open", "closed"]), until=st.none()),
    command(
        "put_customer",
        customer=CUSTOMERS,
        policy=st.fixed_dictionaries(
            {},
            optional={
                "weight": st.integers(0, 5),
                "rate": st.sampled_from([None, {"amount": 1, "per": 10**9, "burst": 2}]),
                "running_max": st.integers(0, 2),
                "queued_max": st.integers(0, 4),
            },
        ),
    ),
    command("remove_customer", customer=CUSTOMERS),
    command("pause", route=ROUTES),
    command("resume", route=ROUTES),
    st.integers(0, 3).map(
        lambda version: {
            "put_prices": {
                "version": version,
                "currency": "USD",
                "prices": [{"model": "*", "tier": "*", "price": "4.32/h"}],
            }
        }
    ),
    command("take_settlements", max=st.integers(0, 3)),
    st.integers(0, 4).map(lambda n: {"confirm_settlements": {"batch": {"id": n, "first_seq": 1, "len": 1}}}),
    st.integers(0, 4).map(lambda n: {"return_settlements": {"batch": {"id": n, "first_seq": 1, "len": 1}}}),
    command("no_such_command"),
)
FLEET: list[dict[str, Any]] = [
    {
        "put_backend": {
            "name": f"b-{n}",
            "kind": "torch",
            "modality": "image",
            "family": family,
            "models": "all",
            "slots": 2,
        }
    }
    for n, family in enumerate(["flux", "wan"])
]
GAPS = st.sampled_from([0, 0, 1, 10**9, 4 * 10**9, 400 * 10**9, -(10**9), 7_200 * 10**9])
CONFIGS = st.fixed_dictionaries(
    {"seed": st.integers(0, 2**64 - 1)},
    optional={
        "ordering": st.sampled_from(["fair", "fifo"]),
        "age_after": st.sampled_from([None, 3 * 10**9]),
        "jobs_max": st.integers(2, 20),
        "retained_max": st.integers(0, 5),
        "losses_max": st.integers(0, 2),
        "releases_max": st.sampled_from([0, 1, 2, 1_000_000]),
        "preemptions_max": st.sampled_from([0, 1, 2, 1_000_000]),
        "billing": st.fixed_dictionaries({"preempted": st.sampled_from(["customer", "house"])}),
        "events_max": st.integers(1, 5),
    },
)


@settings(max_examples=150, deadline=None)
@given(CONFIGS, st.lists(st.tuples(GAPS, COMMANDS), max_size=60))
def test_random_logs_get_from_python_what_rust_answers(config: dict[str, Any], log: list[tuple[int, dict[str, Any]]]) -> None:
    if not SCRIPT.is_file():
        skipped("random logs, Python against Rust", f"{SCRIPT} is not built")
    now, lines = START, [json.dumps({"config": config, "now": START})]
    for gap, entry in [(0, own) for own in FLEET] + log:
        now = max(now + gap, 0)
        lines.append(json.dumps({"now": now, "command": entry}))
    told = subprocess.run([SCRIPT], input="\n".join(lines), capture_output=True, text=True, check=True, timeout=60)
    opened, *replies, digest = told.stdout.splitlines()
    assert opened == '{"done":{}}'
    gateway = Gateway.from_config(config, now_ns=START)
    assert [gateway.apply(line) for line in lines[1:]] == replies
    assert json.loads(digest) == {"digest": gateway.digest()}
