"""A small service round a gateway: jobs over HTTP, their events as server-sent events, metrics, and two fake GPUs.

    pip install libgateway starlette uvicorn
    python service.py --port 8000
    curl -d '{"customer":"acme","route":"image/flux/dev/t2i","prompt":"a red fox"}' localhost:8000/v1/jobs
    curl localhost:8000/v1/jobs/j_…
    curl -N localhost:8000/v1/jobs/j_…/events
    curl -X DELETE localhost:8000/v1/jobs/j_…
    curl localhost:8000/metrics

One process, one event loop, no thread: the gateway decides, this file carries.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from libgateway import (
    Backend,
    FullError,
    Gateway,
    GatewayError,
    Histogram,
    InputError,
    JobError,
    JobView,
    KeyedRateLimiter,
    Lease,
    LeaseError,
    PriceBook,
    SubmitError,
    Timeouts,
    WatchKind,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

STATUS: list[tuple[type[GatewayError], int]] = [
    (InputError, 422),
    (FullError, 429),
    (JobError, 404),
    (SubmitError, 409),
    (LeaseError, 409),
]


class Service:
    """The gateway, what limits it, and what it measures."""

    def __init__(self, step_seconds: float) -> None:
        self.step_seconds = step_seconds
        self.backends = ["gpu-0", "gpu-1"]
        self.gateway = Gateway(
            backends=[Backend(name, kind="torch", modality="image", family="flux") for name in self.backends],
            prices=PriceBook(1, prices={("*", "*"): "0.0012"}),
            timeouts=Timeouts(queue=60, total=600),
            lease_for=10,
        )
        self.limiter = KeyedRateLimiter(per_second=50, burst=100)
        self.latency_ms = Histogram()
        self.bills: list[str] = []

    # --- Over HTTP ---

    async def submit(self, request: Request) -> Response:
        body = await request.json()
        customer = str(body.get("customer", ""))
        if not (answer := self.limiter.try_acquire(customer)):
            return JSONResponse({"error": {"code": "limited"}}, 429, {"Retry-After": str(answer.retry_after)})
        job = self.gateway.submit(
            customer,
            str(body.get("route", "")),
            str(body.get("prompt", "")),
            priority=body.get("priority"),
            idempotency_key=request.headers.get("idempotency-key"),
        )
        where = f"/v1/jobs/{job}"
        return JSONResponse({"job": str(job), "position": self.gateway.position(job)}, 202, {"Location": where})

    async def job(self, request: Request) -> Response:
        view = self.gateway.job(request.path_params["job"])
        if view is None:
            return JSONResponse({"error": {"code": "unknown_job"}}, 404)
        return JSONResponse(describe(view))

    async def events(self, request: Request) -> Response:
        job = request.path_params["job"]
        if self.gateway.job(job) is None:
            return JSONResponse({"error": {"code": "unknown_job"}}, 404)

        async def stream() -> AsyncIterator[str]:
            # When the client goes away this is cancelled where it waits, and leaves nothing behind.
            async for event in self.gateway.watch(job):
                data: dict[str, Any] = {"position": event.position, "progress": event.progress}
                if event.kind is WatchKind.ENDED and event.outcome is not None:
                    data = {"state": event.outcome.state, "output": event.outcome.output}
                yield f"event: {event.kind}\ndata: {json.dumps(data)}\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def cancel(self, request: Request) -> Response:
        self.gateway.cancel(request.path_params["job"])
        return Response(status_code=204)

    async def metrics(self, request: Request) -> Response:
        stats = self.gateway.stats()
        gauges = {
            "jobs_queued": stats.queued,
            "jobs_running": stats.running,
            "tasks_waiting": self.gateway.waiting,
            "jobs_completed_total": stats.counters.completed,
            "jobs_cancelled_total": stats.counters.cancelled,
            "job_retries_total": stats.counters.retries,
            "charged_usd_total": stats.charged,
            "settlements_kept_total": len(self.bills),
            "latency_p95_ms": self.latency_ms.quantile(0.95) or 0,
        }
        return PlainTextResponse("".join(f"gateway_{name} {value}\n" for name, value in gauges.items()))

    async def refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        status = next((status for family, status in STATUS if isinstance(error, family)), 500)
        told = {"number": error.number, "code": error.code, "field": error.field, "message": error.message}
        return JSONResponse({"error": told}, status)

    # --- Beside it ---

    async def work(self, backend: str) -> None:
        """A fake GPU: takes what is for it, as long as it lives."""
        async for lease in self.gateway.leases(backend=backend):
            with contextlib.suppress(LeaseError, RuntimeError), lease:
                await self.render(lease)

    async def render(self, lease: Lease) -> None:
        started = time.perf_counter_ns()
        prompt = lease.payload.decode()
        for step in range(4):
            lease.progress(step / 4)  # a heartbeat, too; raises when the job was cancelled
            await asyncio.sleep(self.step_seconds)
            if prompt == "crash":
                raise RuntimeError("out of memory")
        gpu_ns = time.perf_counter_ns() - started
        settled = lease.complete(f"https://cdn.example/{lease.job}.webp", gpu_ns=gpu_ns, device=lease.backend)
        self.latency_ms.record(settled.usage_ns // 1_000_000)

    async def bill(self) -> None:
        """Keeps settlements: a real service would write them to its ledger before the block ends."""
        while True:
            with self.gateway.take_settlements() as settlements:
                self.bills.extend(f"{one.number} {one.customer} {one.job} {one.charge}" for one in settlements)
            if not settlements:
                await self.gateway.changed()

    def app(self) -> Starlette:
        @contextlib.asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            tasks = [asyncio.create_task(self.work(backend)) for backend in self.backends]
            tasks.append(asyncio.create_task(self.bill()))
            yield
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        routes = [
            Route("/v1/jobs", self.submit, methods=["POST"]),
            Route("/v1/jobs/{job}", self.job, methods=["GET"]),
            Route("/v1/jobs/{job}", self.cancel, methods=["DELETE"]),
            Route("/v1/jobs/{job}/events", self.events, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
        ]
        return Starlette(routes=routes, lifespan=lifespan, exception_handlers={GatewayError: self.refused})


def describe(view: JobView) -> dict[str, Any]:
    """A job as the outside sees it."""
    return {
        "job": str(view.id),
        "state": view.state,
        "position": view.position,
        "progress": view.progress,
        "backend": view.backend,
        "output": view.outcome.output if view.outcome else None,
        "failure": view.failure.message if view.failure else None,
        "created": view.created.isoformat(),
        "finished": view.finished.isoformat() if view.finished else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("--step-seconds", type=float, default=0.25, help="a job takes four steps")
    arguments = parser.parse_args()

    listener = socket.create_server(("127.0.0.1", arguments.port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(Service(arguments.step_seconds).app(), log_level="warning", timeout_graceful_shutdown=1)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again once everything is closed
        uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
