"""The app: the table of all routes, the token, errors as answers, the access log. It alone sees
the whole server; what it is made of does not know it."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

from cloudai.errors import (
    CloudAIError,
    EndpointError,
    InvalidRequest,
    NotFound,
    RateLimited,
    ServiceUnavailable,
)
from cloudai.server.config import Limits, ServerConfig
from cloudai.server.gate import Gate
from cloudai.server.http import asgi
from cloudai.server.http.errors import Broken, Gone, HTTPError
from cloudai.server.http.guard import Guard
from cloudai.server.http.intake import Intake
from cloudai.server.http.messages import (
    REQUEST_ID,
    Headers,
    Reply,
    Request,
    Response,
    error_body,
    header_value,
)
from cloudai.server.inference import VARIANT_HEADER, Inference, ResultError
from cloudai.server.log import log
from cloudai.server.routes import about, feedback, health, open_inference, openai, predict
from cloudai.server.routing import Table
from cloudai.server.targets import scoped
from cloudai.server.tracing import QUIET, Tracing
from cloudai.server.workers.pool import DeadlinePassed

VERSION_HEADER: Final = b"x-cloudai-model-version"

# Azure ML's callers find their own id in the answer (its inference server does the same).
CLIENT_ID_HEADER: Final = b"x-ms-client-request-id"

OPEN_ROUTES: Final = frozenset({"ping", "health", "live", "ready", "model_ready", "root"})
"""Answered without the token: probes send none, and they tell nothing."""


def table(env: Mapping[str, str], config: ServerConfig) -> tuple[Table, Gate | None]:
    """All routes, and what stands before them under a target."""
    made = Table()
    health.add(made, env)
    predict.add(made, env)
    feedback.add(made)
    open_inference.add(made)
    openai.add(made)
    gate = None if config.target is None else Gate(config.target, config, made)
    about.add(made, gate)
    return made, gate


class App:
    """The app.

    Parameters
    ----------
    config: the server's. token: what callers must send, or None.
    on_event: told the name of each event of a worker: it became ready, it died.
    tracing: begins and ends spans; None: there are none.

    Attributes
    ----------
    inference: what the routes ask. guard: looks at where requests come from; None: nobody does,
        which is right for all but a server on loopback. Under another server the app looks itself
        at what is asked on loopback; ``config.hosts`` names what else it may be called.
    """

    def __init__(
        self,
        config: ServerConfig,
        token: str | None = None,
        on_event: Callable[[str], None] = lambda event: None,
        tracing: Tracing | None = None,
    ) -> None:
        self.inference = Inference(config, tracing, on_event)
        self._tracing = tracing
        self.guard: Guard | None = None
        self._door = Guard(config.hosts)
        self._token = token.encode() if token is not None else None
        routes, gate = table(scoped(os.environ, config.target), config)
        self._find = routes.find if gate is None else gate.find

    @property
    def limits(self) -> Limits:
        """What a request may take."""
        return self.inference.limits

    @property
    def intake(self) -> Intake:
        """What all requests may take together."""
        return self.inference.intake

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """As an ASGI application."""
        await asgi.run(self, scope, receive, send)

    async def serve(self, request: Request, reply: Reply) -> None:
        """Answers one request."""
        try:
            await self._serve(request, reply)
        finally:
            request.release()

    async def _serve(self, request: Request, reply: Reply) -> None:
        begun = time.perf_counter()  # the loop's own clock ticks in milliseconds
        route = "other"
        try:
            guard = self._door if request.loopback else self.guard
            if guard is not None:
                guard.check(request.headers)
            route, handler = self._find(request)
            if self._tracing is not None and route not in QUIET:
                self._tracing.begin(request)
            if self._token is not None and route not in OPEN_ROUTES:
                self._check_token(request)
            response = await handler(self.inference, request)
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

    def _check_token(self, request: Request) -> None:
        token = self._token or b""
        scheme, _, given = request.headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), token):
            raise HTTPError(401, "the bearer token is missing or wrong")

    def _finish(self, request: Request, route: str, status: int, begun: float) -> None:
        """Counts and logs, once the answer is on its way and before anything more is read: what
        is written goes out at the end of the loop's turn, what is called soon comes in the next."""
        seconds = time.perf_counter() - begun
        asyncio.get_running_loop().call_soon(self._tell, request, route, status, seconds)

    def _tell(self, request: Request, route: str, status: int, seconds: float) -> None:
        self.inference.metrics.requests.add(1, route, str(status))
        if request.model:
            self.inference.metrics.latency.observe(seconds, request.model, request.variant)
        traced: dict[str, str] = {}
        if self._tracing is not None and request.span is not None:
            self._tracing.end(request, route, status)
            traced["trace_id"] = self._tracing.trace_id(request)
        if self.inference.models.config.access_log:
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
