"""OpenTelemetry: real spans through the real SDK, in memory and over OTLP to a collector."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import Start, model

from cloudai.errors import ConfigError
from cloudai.server import tracing
from cloudai.server.app import App
from cloudai.server.config import ModelConfig, ServerConfig, VariantConfig

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="the extra otel is not installed")

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{CALLER}-00f067aa0ba902b7-01"


def test_a_requests_spans(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    config = ServerConfig(
        models=(
            ModelConfig(
                name="m", variants=(VariantConfig(path=str(model(tmp_path)), version="7"),)
            ),
        ),
        workers=1,
    )

    async def ask() -> None:
        app = App(config, tracing=tracing.Tracing(provider))
        await app.inference.models.load(config)
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            headers = {"traceparent": TRACEPARENT, "x-request-id": "r-1"}
            body = {"inputs": [1, 2, 3], "params": {"sleep": 0.05}}
            good = await http.post("/predict?token=hidden", json=body, headers=headers)
            assert good.status_code == 200
            assert (await http.post("/predict", json={"inputs": ["secret"]})).status_code == 422
            assert (await http.get("/ping")).status_code == 200
        await app.inference.models.stop()

    asyncio.run(ask())
    spans = memory.get_finished_spans()
    tops = [span for span in spans if span.kind.name == "SERVER"]
    assert [span.name for span in tops] == ["POST predict", "POST predict"]
    top = tops[0]
    assert format(top.context.trace_id, "032x") == CALLER
    assert format(top.parent.span_id, "016x") == "00f067aa0ba902b7"
    assert dict(top.attributes) == {
        "http.request.method": "POST", "http.route": "predict", "http.response.status_code": 200,
        "url.path": "/predict", "url.scheme": "http", "cloudai.request_id": "r-1",
        "cloudai.model": "m", "cloudai.variant": "main", "cloudai.version": "7", "cloudai.items": 3,
    }  # fmt: skip
    below = {span.name: span for span in spans if span.parent == top.context}
    assert set(below) == {"queue", "predict"}
    assert below["predict"].attributes["cloudai.batch_items"] == 3
    assert top.start_time <= below["queue"].start_time <= below["queue"].end_time
    assert below["predict"].end_time - below["predict"].start_time >= 50_000_000
    assert below["predict"].end_time <= top.end_time
    told = str([span.to_json() for span in spans]) + capfd.readouterr().err
    assert CALLER in told
    assert "hidden" not in told
    assert "secret" not in told


@pytest.fixture
def collector() -> Generator[tuple[str, list[Any]]]:
    """A collector of OTLP over HTTP: its address, and the requests that came."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    got: list[Any] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.path == "/v1/traces"
            got.append(ExportTraceServiceRequest.FromString(body))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_exports_to_a_collector(start: Start, collector: tuple[str, list[Any]]) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="extra otel")
    url, got = collector
    server = start(env={"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_SERVICE_NAME": "digits"})
    assert server.predict(1, headers={"traceparent": TRACEPARENT}).status_code == 200
    assert server.stop() == 0  # what is left is exported before the end
    resources = [one for request in got for one in request.resource_spans]
    names = {a.key: a.value.string_value for one in resources for a in one.resource.attributes}
    assert names["service.name"] == "digits"
    spans = [s for one in resources for scope in one.scope_spans for s in scope.spans]
    assert {span.name for span in spans} == {"POST predict", "queue", "predict"}
    assert {span.trace_id.hex() for span in spans} == {CALLER}
    (logged,) = [event for event in server.events("request") if event["route"] == "predict"]
    assert logged["trace_id"] == CALLER


def test_when_traces_are_wanted() -> None:
    assert not tracing.wanted({})
    assert tracing.configure({}) is None
    assert not tracing.wanted({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "x"})
    assert not tracing.wanted({"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"})
    with pytest.raises(ConfigError, match="'zipkin' is not one of otlp, console"):
        tracing.configure({"OTEL_TRACES_EXPORTER": "zipkin"})
    with pytest.raises(ConfigError, match="'grpc' is not spoken here"):
        tracing.configure({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
