"""The example service as a user starts it: a process of its own, real HTTP over a real socket."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from conftest import ROOT, ROUTE


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    command = [sys.executable, str(ROOT / "examples" / "python" / "service.py"), "--port", "0", "--step-seconds", "0.01"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            with httpx.Client(base_url=url, timeout=30, transport=httpx.HTTPTransport(retries=5)) as client:
                yield client
        finally:
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read()
            process.wait(timeout=30)
    assert "Traceback" not in errors, errors


def submit(client: httpx.Client, prompt: str = "a red fox", **more: Any) -> str:
    headers = more.pop("headers", None)
    body = {"customer": "acme", "route": ROUTE, "prompt": prompt} | more
    response = client.post("/v1/jobs", json=body, headers=headers)
    assert response.status_code == 202, response.text
    assert response.headers["location"] == f"/v1/jobs/{response.json()['job']}"
    job: str = response.json()["job"]
    return job


def events(client: httpx.Client, job: str) -> list[tuple[str, dict[str, Any]]]:
    with client.stream("GET", f"/v1/jobs/{job}/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join(response.iter_text())
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for kind, data in blocks]


def metric(client: httpx.Client, name: str) -> str:
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines())
    return lines[f"gateway_{name}"]


def test_a_job_is_posted_watched_and_read(client: httpx.Client) -> None:
    job = submit(client)
    told = events(client, job)
    kinds = [kind for kind, _ in told]
    assert kinds[-1] == "ended" and set(kinds) <= {"queued", "running", "ended"}
    assert told[-1][1] == {"state": "complete", "output": f"https://cdn.example/{job}.webp"}
    view = client.get(f"/v1/jobs/{job}").json()
    assert (view["state"], view["output"]) == ("complete", f"https://cdn.example/{job}.webp")
    assert events(client, job) == told[-1:]


def test_many_clients_at_once_all_get_their_end(client: httpx.Client) -> None:
    jobs = [submit(client, f"fox {n}") for n in range(12)]
    ends: dict[str, str] = {}

    def follow(job: str) -> None:
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            ends[job] = events(own, job)[-1][1]["state"]

    threads = [threading.Thread(target=follow, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == dict.fromkeys(jobs, "complete")


def test_a_crash_fails_the_job_and_not_the_worker(client: httpx.Client) -> None:
    job = submit(client, "crash")
    assert events(client, job)[-1] == ("ended", {"state": "error", "output": None})
    assert client.get(f"/v1/jobs/{job}").json()["failure"] == "RuntimeError: out of memory"
    assert events(client, submit(client))[-1][1]["state"] == "complete"


def test_a_cancelled_job_ends_its_stream(client: httpx.Client) -> None:
    running = [submit(client) for _ in range(4)]
    job = submit(client, "never mind")
    with client.stream("GET", f"/v1/jobs/{job}/events") as response:
        lines = response.iter_lines()
        assert next(lines) == "event: queued"
        assert client.delete(f"/v1/jobs/{job}").status_code == 204
        rest = list(lines)
    assert rest[-3:-1] == ["event: ended", 'data: {"state": "cancelled", "output": null}']
    again = client.delete(f"/v1/jobs/{job}")
    assert (again.status_code, again.json()["error"]["code"]) == (404, "ended")
    for other in running:
        events(client, other)


def test_refusals_say_why(client: httpx.Client) -> None:
    wrong = client.post("/v1/jobs", json={"customer": "acme", "route": "image/flux", "prompt": ""})
    assert wrong.status_code == 422
    assert (wrong.json()["error"]["code"], wrong.json()["error"]["field"]) == ("malformed", "route")
    nowhere = client.post("/v1/jobs", json={"customer": "acme", "route": "image/wan/x/t2i"})
    assert (nowhere.status_code, nowhere.json()["error"]["number"]) == (409, 402)
    headers = {"Idempotency-Key": "order-1"}
    first = submit(client, "one", headers=headers)
    assert submit(client, "one", headers=headers) == first
    conflict = client.post("/v1/jobs", json={"customer": "acme", "route": ROUTE, "prompt": "two"}, headers=headers)
    assert (conflict.status_code, conflict.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert client.get("/v1/jobs/j_00000000000000000000000000").status_code == 404
    assert client.get("/v1/jobs/x").status_code == 404
    statuses = [client.post("/v1/jobs", json={"customer": "flood", "route": ROUTE}) for _ in range(140)]
    denied = [response for response in statuses if response.status_code == 429]
    assert denied and denied[0].headers["retry-after"] == "1"


def test_a_client_that_hangs_up_leaves_nobody_waiting(client: httpx.Client) -> None:
    # Everything so far has to be done: then only the two workers and the biller wait.
    job = submit(client, "last of all", priority="low")
    events(client, job)
    blocked = [submit(client) for _ in range(6)]
    for _ in range(5):
        with client.stream("GET", f"/v1/jobs/{blocked[-1]}/events") as response:
            next(response.iter_lines())
    for job in blocked:
        events(client, job)
    while metric(client, "jobs_running") != "0" or metric(client, "jobs_queued") != "0":
        pass
    assert int(metric(client, "tasks_waiting")) <= 3
    assert float(metric(client, "charged_usd_total")) > 0
    assert int(metric(client, "settlements_kept_total")) > 20
