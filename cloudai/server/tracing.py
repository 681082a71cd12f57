"""OpenTelemetry spans of the server: one a request, with its wait in the queue and its forward
below it. Nothing is loaded unless the variables of OpenTelemetry's specification ask for it, or
the program that runs the app has set a tracer provider.

Never part of a span: inputs, outputs, headers, the query of a URL.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from cloudai import _version
from cloudai.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from cloudai.server.http.messages import Request

_ASKING: Final = (
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)

QUIET: Final = frozenset({"ping", "health", "live", "ready", "model_ready", "root", "metrics"})
"""Routes without spans: probes and scrapes would drown the others."""


class Mark(msgspec.Struct):
    """When one part of a request went to a worker, in nanoseconds since 1970, and in which
    company."""

    at: int
    worker: int
    batch: int


def wanted(env: Mapping[str, str]) -> bool:
    """Whether the environment asks for traces (OpenTelemetry's "Environment Variable
    Specification" 1.5x, read 2026-11)."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if env.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(env.get(name) for name in _ASKING)


def configure(env: Mapping[str, str]) -> Tracing | None:
    """A tracer that exports as the environment says, or None where it does not ask for traces.
    Sampling, limits, headers and the resource are read from it by OpenTelemetry's own SDK.

    Raises MissingExtra without the SDK, ConfigError for an exporter that is not known here.
    """
    if not wanted(env):
        return None
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        raise MissingExtra("opentelemetry-sdk", extra="otel") from None
    about: dict[str, Any] = {}
    if not env.get("OTEL_SERVICE_NAME") and "service.name" not in env.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    ):
        about["service.name"] = "cloudai-server"
    provider = TracerProvider(resource=Resource.create(about), shutdown_on_exit=False)
    for name in (env.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        provider.add_span_processor(BatchSpanProcessor(_exporter(name.strip(), env)))
    return Tracing(provider)


def _exporter(name: str, env: Mapping[str, str]) -> Any:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter(out=sys.stderr)
    if name != "otlp":
        raise ConfigError(f"OTEL_TRACES_EXPORTER={name!r} is not one of otlp, console, none")
    protocol = env.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or env.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise ConfigError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r} is not spoken here",
            hint="Use http/protobuf, which collectors take on port 4318.",
        )
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ModuleNotFoundError:
        raise MissingExtra("opentelemetry-exporter-otlp-proto-http", extra="otel") from None
    return OTLPSpanExporter()


class Tracing:
    """Begins and ends the server's spans.

    Parameters
    ----------
    provider: a TracerProvider of OpenTelemetry's.
    """

    def __init__(self, provider: Any) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.trace import SpanKind, Status, StatusCode

        self._provider = provider
        self._tracer = provider.get_tracer("cloudai.server", _version.__version__)
        self._extract = propagate.extract
        self._within = trace.set_span_in_context
        self._server = SpanKind.SERVER
        self._failed = Status(StatusCode.ERROR)

    def begin(self, request: Request) -> None:
        """The span of a request, a child of the caller's where its headers name one."""
        carrier = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in request.headers.items()}  # fmt: skip
        request.span = self._tracer.start_span(
            request.method,
            context=self._extract(carrier),
            kind=self._server,
            attributes={
                "http.request.method": request.method,
                "url.path": request.path,
                "url.scheme": request.scheme,
                "cloudai.request_id": request.id,
            },
        )

    def end(self, request: Request, route: str, status: int) -> None:
        """Ends a request's span, with the names of OpenTelemetry's HTTP conventions."""
        span = request.span
        span.update_name(f"{request.method[:20]} {route}")
        span.set_attribute("http.route", route)
        span.set_attribute("http.response.status_code", status)
        if request.model:
            span.set_attribute("cloudai.model", request.model)
            span.set_attribute("cloudai.variant", request.variant)
            span.set_attribute("cloudai.version", request.version)
            span.set_attribute("cloudai.items", request.items)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(self._failed)
        span.end()

    def stages(self, request: Request, submitted: int, marks: list[Mark]) -> None:
        """The spans below a request's: the wait for a worker, and the worker's time, of each
        part that the request was cut into."""
        now = time.time_ns()
        context = self._within(request.span)
        for mark in marks:
            queue = self._tracer.start_span("queue", context=context, start_time=submitted)
            queue.end(end_time=mark.at)
            forward = self._tracer.start_span(
                "predict",
                context=context,
                start_time=mark.at,
                attributes={"cloudai.worker": mark.worker, "cloudai.batch_items": mark.batch},
            )
            forward.end(end_time=now)

    def trace_id(self, request: Request) -> str:
        """As log lines have it: 32 hexadecimal digits."""
        return format(request.span.get_span_context().trace_id, "032x")

    def stop(self) -> None:
        """Exports what is left."""
        self._provider.shutdown()
