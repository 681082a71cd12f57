"""Whether the server can answer: the probes of SageMaker, Vertex AI, Azure ML and KServe."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from cloudai.server.http.messages import Request, Response
from cloudai.server.inference import Inference
from cloudai.server.routing import Table

_encode = msgspec.json.encode


async def health(inference: Inference, request: Request) -> Response:
    """200 when every model can answer, else 503."""
    ready = inference.ready
    status = "ok" if ready else "stopping" if inference.stopping else "loading"
    told = {"status": status, "models": list(inference.models.served)}
    return Response(_encode(told), 200 if ready else 503)


async def ping(inference: Inference, request: Request) -> Response:
    """SageMaker's and Vertex AI's health check."""
    ready = inference.ready
    return Response(b"{}" if ready else b'{"status":"loading"}', 200 if ready else 503)


async def live(inference: Inference, request: Request) -> Response:
    """200 while the process answers at all."""
    return Response(b'{"live":true}')


async def ready(inference: Inference, request: Request) -> Response:
    """KServe's v2 readiness."""
    ready = inference.ready
    return Response(_encode({"ready": ready}), 200 if ready else 503)


def add(table: Table, env: Mapping[str, str]) -> None:
    """Puts these routes into the table. ``env``: where Vertex AI says its own."""
    for path, name, route in (
        ("/health", "health", health),
        ("/ping", "ping", ping),
        ("/livez", "live", live),
        ("/readyz", "ready", ready),
        ("/v2/health/live", "live", live),
        ("/v2/health/ready", "ready", ready),
    ):
        table.add("GET", path, name, route)
    if env.get("AIP_HEALTH_ROUTE"):
        table.add("GET", env["AIP_HEALTH_ROUTE"], "health", health)
