"""What the server tells of itself: the page, its metrics, its models, its description."""

from __future__ import annotations

import msgspec

from cloudai.server.gate import Gate
from cloudai.server.http.messages import Request, Response
from cloudai.server.inference import Inference
from cloudai.server.metrics import CONTENT_TYPE
from cloudai.server.routes.openapi import document
from cloudai.server.routes.page import page, policy
from cloudai.server.routing import Table

_encode = msgspec.json.encode


async def root(inference: Inference, request: Request) -> Response:
    """A page for a person; for all others KServe v1's liveness, which Azure ML's server has in
    the same place."""
    if b"text/html" in request.headers.get(b"accept", b""):
        return Response(
            page(),
            content_type=b"text/html; charset=utf-8",
            headers=[
                (b"content-security-policy", policy()),
                (b"x-content-type-options", b"nosniff"),
                (b"cache-control", b"no-cache"),
            ],
        )
    models = list(inference.models.served)
    return Response(_encode({"status": "alive", "ready": inference.ready, "models": models}))


async def metrics(inference: Inference, request: Request) -> Response:
    """Prometheus' text format."""
    return Response(inference.metrics.text(), content_type=CONTENT_TYPE.encode())


async def execution_parameters(inference: Inference, request: Request) -> Response:
    """What SageMaker's batch transform asks before it begins."""
    limits = inference.limits
    workers = sum(variant.group.count for variant in inference.models.get(None).variants)
    return Response(
        _encode(
            {
                "MaxConcurrentTransforms": max(1, workers * 2),
                "BatchStrategy": "MULTI_RECORD",
                # SageMaker takes at most 100 (CreateTransformJob, read 2026-11).
                "MaxPayloadInMB": max(1, min(100, limits.body >> 20)),
            }
        )
    )


def add(table: Table, gate: Gate | None) -> None:
    """Puts these routes into the table. ``gate``: what it lets pass is what is described."""

    async def describe(inference: Inference, request: Request) -> Response:
        """What is loaded, for the page and for people."""
        models = inference.models
        return Response(
            _encode(
                {"models": models.describe(), "started": inference.started,
                 "ready": inference.ready, "generation": models.generation,
                 "target": None if gate is None else gate.about()}
            )
        )  # fmt: skip

    async def openapi(inference: Inference, request: Request) -> Response:
        """The description of all routes."""
        told = document(inference.models)
        return Response(_encode(told if gate is None else gate.described(told)))

    for path, name, route in (
        ("/", "root", root),
        ("/metrics", "metrics", metrics),
        ("/models", "describe", describe),
        ("/openapi.json", "openapi", openapi),
        ("/swagger.json", "openapi", openapi),  # where Azure ML looks for it
        ("/execution-parameters", "execution_parameters", execution_parameters),
    ):
        table.add("GET", path, name, route)
