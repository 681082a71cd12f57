"""What stands before the routes under ``--target``: the platform's own limits, so that a request
that passes here passes there. The rules are data, in ``targets``."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncGenerator
from typing import Any, Final

from cloudai._core.numerals import numeral
from cloudai.server.config import ServerConfig
from cloudai.server.http.errors import Broken, HTTPError
from cloudai.server.http.messages import Request, Response
from cloudai.server.inference import Inference
from cloudai.server.log import log
from cloudai.server.routing import Route, Table
from cloudai.server.targets import TARGETS, Target, TargetName
from cloudai.server.workers.pool import DeadlinePassed

# For whoever runs the server here: the page and what it asks, probes, Prometheus. No platform hands
# a caller's request on to them.
_OPERATOR: Final = frozenset(
    {"root", "describe", "metrics", "openapi", "live", "ready", "health", "ping"}
)


class TargetLimit(HTTPError):
    """A request or an answer that the target would not let pass."""


class Gate:
    """The limits of one target.

    Parameters
    ----------
    name: of the target. config: the server's. table: the routes that it stands before.
    """

    def __init__(self, name: TargetName, config: ServerConfig, table: Table) -> None:
        self.name = name
        self.target: Target = TARGETS[name]
        self.table = table
        # Vertex AI asks one route. Which one, the container is told; here it may be any of those
        # that cloudai tells Vertex AI.
        named = {name for methods in table.paths.values() for name, _ in methods.values()}
        self._posts = [name for name in self.target.posts if name in {*named, "v1_predict"}]
        if "vertex_predict" in self._posts:
            self._posts = ["vertex_predict"]
        paths = {
            name: path for path, methods in table.paths.items() for name, _ in methods.values()
        }
        self.paths = [
            paths.get(name, f"/v1/models/{config.models[0].name}:predict") for name in self._posts
        ]
        pending = self.target.pending
        self._most = None if pending is None else pending * (config.workers or 1)
        self._now = 0

    def find(self, request: Request) -> tuple[str, Route]:
        """As ``Table.find``, with the target's limits around the route.

        Raises TargetLimit 404 for a route that the target's callers cannot come to.
        """
        name, route = self.table.find(request)
        if name in self._posts:
            return name, functools.partial(self._limited, route)
        if self.allows(name):
            return name, route
        raise TargetLimit(
            404,
            f"{self.target.title} hand no request on to {request.method[:20]} "
            f"{request.path[:200]}; callers come to POST {' or '.join(self.paths)}",
            hint=f"Ask that, or serve without target {self.name!r}",
        )

    def allows(self, name: str) -> bool:
        """Whether the route of this name is answered."""
        return name in self._posts or name in _OPERATOR or name in self.target.probes

    def described(self, document: dict[str, Any]) -> dict[str, Any]:
        """The OpenAPI description without the routes that are not answered."""
        paths: dict[str, Any] = {}
        for path, operations in document["paths"].items():
            methods = self.table.methods(path) or {}
            if any(self.allows(name) for name, _ in methods.values()):
                paths[path] = operations
        return {**document, "paths": paths}

    async def _limited(self, route: Route, inference: Inference, request: Request) -> Response:
        self._check_headers(request)
        if self._most is not None and self._now >= self._most:
            raise TargetLimit(
                429,
                f"{self._now} requests are under way, and {self.target.title} take at most "
                f"{self._most} at once: twice max_concurrent_requests_per_instance, which is the "
                "number of workers",
                hint="Give more --workers, or ask less at once",
                retry_after=1.0,
            )
        self._now += 1
        streams = False
        try:
            response = await route(inference, request)
            if response.stream is not None:
                pieces = self._until(response.stream, inference, request)
                await anext(pieces)
                streams = True  # from here on it counts itself off, read or not
                response.stream = pieces
            elif self.target.answer is not None and len(response.body) > self.target.answer:
                raise TargetLimit(
                    500,
                    f"the answer has {len(response.body)} bytes, and {self.target.title} let pass "
                    f"at most {self.target.answer} ({self.target.source})",
                    hint="Ask for less in one request, or let predict answer less",
                )
            return response
        except (HTTPError, DeadlinePassed) as error:
            raise self._explained(error, inference, request) or error from None
        finally:
            if not streams:
                self._now -= 1

    def _check_headers(self, request: Request) -> None:
        """Leaves the headers that the target hands on. The one that asks for a variant, which the
        target obeys itself, is ours here."""
        kept, most, wanted = self.target.headers, self.target.header_size, self.target.variant
        if kept is not None:
            own = tuple(name for name in kept if name.endswith(b"-"))
            request.headers = {
                name: value
                for name, value in request.headers.items()
                if name in kept or (own and name.startswith(own))
            }
            for name, value in request.headers.items():
                if most is not None and len(value) > most:
                    raise TargetLimit(
                        400,
                        f"the header {name.decode('latin-1')} has {len(value)} characters, and "
                        f"{self.target.title} take at most {most}",
                    )
        if wanted is not None and wanted in request.headers:
            request.headers[b"x-cloudai-variant"] = request.headers[wanted]

    def _explained(
        self, error: Exception, inference: Inference, request: Request
    ) -> TargetLimit | None:
        """The error as the target's, where its limit is the one that was met."""
        target, limits = self.target, inference.limits
        status = error.status if isinstance(error, HTTPError) else 504
        if status == 413 and limits.body == target.body:
            return TargetLimit(
                413,
                f"the body has more than {target.body} bytes, which is the most that "
                f"{target.title} take ({target.source})",
                hint="Send less in one request, or use a batch transform",
            )
        # A loop may look at its clock only every few milliseconds.
        over = asyncio.get_running_loop().time() - request.started > limits.timeout - 0.05
        if status == 504 and over and limits.timeout >= target.timeout:
            more = ""
            if limits.timeout < target.most_timeout:
                more = f", unless told to wait for up to {numeral(target.most_timeout)}"
            return TargetLimit(
                504,
                f"no answer came within {numeral(limits.timeout)} seconds, after which "
                f"{target.title} give up{more} ({target.source})",
                hint="Ask for less in one request, or use a batch transform",
            )
        return None

    async def _until(
        self, pieces: AsyncGenerator[bytes, None], inference: Inference, request: Request
    ) -> AsyncGenerator[bytes, None]:
        """Nothing, and then the pieces, as long as the target waits for the last one; after that
        the connection is broken off, as it does. The nothing is for the generator to be under way:
        only then is it closed, wherever it is dropped."""
        seconds = self.target.stream or inference.limits.timeout
        end = request.started + seconds
        try:
            async with contextlib.aclosing(pieces):
                yield b""
                while True:
                    async with asyncio.timeout_at(end):
                        piece = await anext(pieces)
                    yield piece
        except StopAsyncIteration:
            return
        except TimeoutError:
            log(
                "target_limit",
                level="warning",
                id=request.id,
                target=self.name,
                error=f"the stream had no end within {numeral(seconds)} seconds, which is the "
                f"most that {self.target.title} wait",
            )
            raise Broken from None
        finally:
            self._now -= 1

    def about(self) -> dict[str, Any]:
        """For the page and for people. ``openai``: the route takes OpenAI's bodies too."""
        return {
            "name": self.name,
            "title": self.target.title,
            "posts": self.paths,
            "openai": self._posts[0] in ("invocations", "score"),
        }
