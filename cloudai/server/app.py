"""The app: routes, the token, errors as answers, the access log, and the one path that every
prediction takes."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from cloudai.errors import (
    CloudAIError,
    EndpointError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.server import asgi
from cloudai.server.config import Limits, ServerConfig
from cloudai.server.http import (
    REQUEST_ID,
    Broken,
    Gone,
    Headers,
    HTTPError,
    Reply,
    Request,
    Response,
    error_body,
    header_value,
)
from cloudai.server.metrics import Metrics
from cloudai.server.models import Models, ServedModel, Variant
from cloudai.server.pool import DeadlinePassed
from cloudai.server.targets import scoped
from cloudai.server.tracing import QUIET, Mark, Tracing
from cloudai.server.wire import Item, Result

Route: TypeAlias = Callable[["App", Request], Awaitable[Response]]

MODEL_HEADER, VARIANT_HEADER = b"x-cloudai-model", b"x-cloudai-variant"
STICKY_HEADER, VERSION_HEADER = b"x-cloudai-sticky", b"x-cloudai-model-version"

# Azure ML's callers find their own id in the answer (its inference server does the same).
CLIENT_ID_HEADER = b"x-ms-client-request-id"


class ResultError(CloudAIError):
    """A worker's error, with its class name and status."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.error, status=result.status, code=None)
        self.type = result.error_type


class App:
    """The app.

    Parameters
    ----------
    config: the server's. token: what callers must send, or None.
    on_event: told the name of each event of a worker: it became ready, it died.
    tracing: begins and ends spans; None: there are none.
    """

    def __init__(
        self,
        config: ServerConfig,
        token: str | None = None,
        on_event: Callable[[str], None] = lambda event: None,
        tracing: Tracing | None = None,
    ) -> None:
        from cloudai.server.gate import Gate
        from cloudai.server.routes import OPEN_ROUTES, find, table

        self.config = config
        self.models = Models(config, self._on_batch, self._log_event)
        self.metrics = Metrics(
            lambda: self.models.gauge(lambda group: group.waiting),
            lambda: self.models.gauge(lambda group: group.ready),
            lambda: self.models.gauge(lambda group: group.restarts),
        )
        self.stopping = False
        self._on_event = on_event
        self.tracing = tracing
        self.started = time.time()
        self._token = token.encode() if token is not None else None
        self._loopback = config.host in {"127.0.0.1", "::1", "localhost"}
        self._open = OPEN_ROUTES
        self._table = table(scoped(os.environ, config.target))
        self.gate = None if config.target is None else Gate(config.target, config, self._table)
        self._find = find if self.gate is None else self.gate.find

    @property
    def ready(self) -> bool:
        return self.models.ready and not self.stopping

    @property
    def limits(self) -> Limits:
        """What a request may take."""
        return self.models.config.limits

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """As an ASGI application."""
        await asgi.run(self, scope, receive, send)

    async def serve(self, request: Request, reply: Reply) -> None:
        """Answers one request."""
        begun = time.perf_counter()  # the loop's own clock ticks in milliseconds
        route = "other"
        try:
            route, handler = self._find(self._table, request)
            if self.tracing is not None and route not in QUIET:
                self.tracing.begin(request)
            if self._token is not None and route not in self._open:
                self._check_token(request)
            response = await handler(self, request)
        except (Gone, asyncio.CancelledError):
            if not request.gone:
                raise
            self._finish(request, route, 499, begun)
            return
        except Exception as error:  # noqa: BLE001 (every error is an answer; ours are logged)
            response = _error_response(request, error)
        headers: Headers = [(b"x-request-id", request.id.encode()), *response.headers]
        client_id = request.headers.get(CLIENT_ID_HEADER)
        if client_id is not None and REQUEST_ID.match(client_id):
            headers.append((CLIENT_ID_HEADER, client_id))
        if request.variant:
            headers.append((VARIANT_HEADER, request.variant.encode()))
            headers.append((VERSION_HEADER, header_value(request.version)))
        status = response.status
        try:
            if response.stream is None:
                reply.whole(response, headers)
            else:
                reply.begin(response, headers)
                async with contextlib.aclosing(response.stream) as pieces:
                    async for piece in pieces:
                        await reply.piece(piece)
                reply.end()
        except Broken:
            request.break_off()
            status = 500
        except Gone:
            status = 499
        self._finish(request, route, status, begun)

    async def infer(
        self, request: Request, model: ServedModel, items: Sequence[Item]
    ) -> list[Result]:
        """The items' answers, from the variant that the request's headers or the weights choose.

        Raises RateLimited, DeadlinePassed, or the first error among the answers.
        """
        variant = self.variant(request, model)
        marks: list[Mark] | None = None if request.span is None else []
        submitted = 0 if marks is None else time.time_ns()
        futures = variant.group.submit(items, request.deadline, request.has_left, marks=marks)
        for shadow in model.shadows:
            self._shadow(model, shadow, items)
        loop = asyncio.get_running_loop()
        timer = loop.call_at(request.deadline, _expire, futures)
        try:
            results: list[Result] = []
            for future in futures:
                results.append(await future)
        except asyncio.CancelledError:
            if request.gone:
                raise Gone from None
            raise
        finally:
            timer.cancel()
            for future in futures:
                future.cancel()
            if marks and self.tracing is not None:
                self.tracing.parts(request, submitted, marks)
        # Not before the answer: see ``_finish``.
        loop.call_soon(self.count, model, variant, items, results, request)
        for result in results:
            if result.status != 200:
                raise self.error_of(result, request)
        return results

    def error_of(self, result: Result, request: Request) -> ResultError:
        """A worker's error. A handler's traceback goes to callers on this machine only; others
        get its first line, without the file's path, and the log keeps the rest. Of an error over
        an input the log has no message, which may well quote the input."""
        if result.error_type == "NotFinite":
            log("not_finite", level="warning", id=request.id, model=request.model,
                variant=request.variant)  # fmt: skip
        if result.error_type in ("HandlerError", "NotFinite") and not self._loopback:
            told = result.error
            if result.status < 500:
                frames = [line for line in told.split("\n") if line.startswith("  File ")]
                told = "\n".join(frames)
            log("handler_error", level="error", id=request.id, error=told)
            first = result.error.partition("\n")[0]
            result.error = first.partition(".py: ")[2] or first
        return ResultError(result)

    def variant(self, request: Request, model: ServedModel) -> Variant:
        """The variant that answers this request."""
        wanted = request.headers.get(VARIANT_HEADER)
        sticky = request.headers.get(STICKY_HEADER)
        variant = model.choose(
            wanted.decode("latin-1") if wanted is not None else None,
            sticky.decode("latin-1") if sticky is not None else None,
        )
        request.model, request.variant, request.version = model.name, variant.name, variant.version
        return variant

    def count(
        self,
        model: ServedModel,
        variant: Variant,
        items: Sequence[Item],
        results: Sequence[Result],
        request: Request | None,
    ) -> None:
        """Counts answers, and warns of low confidences and long inputs."""
        who = (model.name, variant.name, variant.version)
        low, long, config = 0, 0, self.models.config
        for item, result in zip(items, results, strict=True):
            status = "ok" if result.status == 200 else "error"
            count = len(result.outputs) or item.count
            self.metrics.predictions.add(count, *who, status)
            self.metrics.errors.add(0 if status == "ok" else count, count, *who)
            if request is not None:
                request.items += count
            if result.confidences:
                self.metrics.confidence.observe_all(result.confidences, *who)
                if min(result.confidences) < config.low_confidence:
                    low += sum(value < config.low_confidence for value in result.confidences)
            long += result.long
            if result.tokens:
                self.metrics.tokens.add(result.tokens, *who, "input")
            if result.generated:
                self.metrics.tokens.add(result.generated, *who, "output")
        if low:
            self.metrics.low_confidence.add(low, *who)
        if long:
            self.metrics.long_inputs.add(long, *who)
        if (low or long) and request is not None:
            log(
                "low_confidence" if low else "long_input",
                level="warning",
                id=request.id,
                model=model.name,
                variant=variant.name,
                low_confidence=low,
                long_inputs=long,
            )

    def _shadow(self, model: ServedModel, shadow: Variant, items: Sequence[Item]) -> None:
        """A copy for a shadow variant, by chance of its weight where that is below 1; what it
        answers is only counted, and a full queue of its own drops the copy."""
        if random.random() >= shadow.config.weight:  # noqa: S311 (shares traffic)
            return
        deadline = asyncio.get_running_loop().time() + self.limits.timeout
        try:
            futures = shadow.group.submit(items, deadline, lambda: False)
        except CloudAIError:
            return
        for item, future in zip(items, futures, strict=True):
            future.add_done_callback(
                lambda done, item=item: (
                    self.count(model, shadow, [item], [done.result()], None)
                    if not done.cancelled() and done.exception() is None
                    else None
                )
            )

    def _check_token(self, request: Request) -> None:
        token = self._token or b""
        scheme, _, given = request.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token):
            raise HTTPError(401, "the bearer token is missing or wrong")

    def _log_event(self, event: str, **fields: Any) -> None:
        log(event, **fields)
        self._on_event(event)

    def _on_batch(self, model: str, variant: str, items: int, seconds: float) -> None:
        self.metrics.batch_size.observe(items, model, variant)
        self.metrics.batch_seconds.observe(seconds, model, variant)

    def _finish(self, request: Request, route: str, status: int, begun: float) -> None:
        """Counts and logs, once the answer is on its way and before anything more is read: what
        is written goes out at the end of the loop's turn, what is called soon comes in the next."""
        seconds = time.perf_counter() - begun
        asyncio.get_running_loop().call_soon(self._tell, request, route, status, seconds)

    def _tell(self, request: Request, route: str, status: int, seconds: float) -> None:
        self.metrics.requests.add(1, route, str(status))
        if request.model:
            self.metrics.latency.observe(seconds, request.model, request.variant)
        traced: dict[str, str] = {}
        if self.tracing is not None and request.span is not None:
            self.tracing.end(request, route, status)
            traced["trace_id"] = self.tracing.trace_id(request)
        if self.models.config.access_log:
            log(
                "request",
                id=request.id,
                method=request.method,
                route=route,
                path=request.path[:200],
                status=status,
                ms=round(seconds * 1e3, 3),
                model=request.model,
                variant=request.variant,
                items=request.items,
                **traced,
            )


def log(event: str, level: str = "info", **fields: Any) -> None:
    """One JSON line on standard error. Inputs, outputs and headers never stand in it."""
    line = msgspec.json.encode({"time": round(time.time(), 3), "level": level, "event": event,
                                **fields})  # fmt: skip
    with contextlib.suppress(OSError):  # a full disk or a closed pipe must not end the server
        os.write(2, line + b"\n")


def _expire(futures: Sequence[asyncio.Future[Result]]) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(DeadlinePassed("no answer came within the request's time"))


def _error_response(request: Request, error: Exception) -> Response:
    headers: Headers = []
    retry_after = getattr(error, "retry_after", None)
    if isinstance(error, (HTTPError, ResultError)):
        status = error.status or 500
    elif isinstance(error, InvalidRequest):
        status = 400
    elif isinstance(error, NotFound):
        status = 404
    elif isinstance(error, RateLimited):
        status = 429
    elif isinstance(error, DeadlinePassed):
        status = 504
    elif isinstance(error, (ServiceUnavailable, EndpointError)):
        status = 503
    else:
        status = 500
        log("fault", level="error", id=request.id, error=f"{type(error).__name__}: {error}")
        if not isinstance(error, CloudAIError):
            sys.excepthook(type(error), error, error.__traceback__)
            error = CloudAIError("the server failed; its log says more")
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % max(1, round(retry_after or 1.0))))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 405 and error.hint:
        headers.append((b"allow", error.hint.encode()))
    return Response(error_body(request, status, error), status, headers=headers)
