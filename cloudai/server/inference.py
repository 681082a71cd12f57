"""What a request becomes: items in the queue of the variant that answers it, and their results,
counted. The routes are handed this, and nothing of the app."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from cloudai.errors import CloudAIError
from cloudai.server.config import Limits, ServerConfig
from cloudai.server.http.errors import Gone
from cloudai.server.http.intake import Intake
from cloudai.server.http.messages import Request
from cloudai.server.log import log
from cloudai.server.metrics import Metrics
from cloudai.server.models import Models, ServedModel, Variant
from cloudai.server.tracing import Mark, Tracing
from cloudai.server.workers.pool import DeadlinePassed
from cloudai.server.workers.wire import Item, Result

VARIANT_HEADER: Final = b"x-cloudai-variant"
STICKY_HEADER: Final = b"x-cloudai-sticky"


class ResultError(CloudAIError):
    """A worker's error, with its class name and status."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.error, status=result.status, code=None)
        self.type = result.error_type
        self.field = result.field


class Inference:
    """The models, and the one path that every prediction takes to them.

    Parameters
    ----------
    config: the server's. tracing: begins and ends spans; None: there are none.
    on_event: told the name of each event of a worker: it became ready, it died.

    Attributes
    ----------
    models: what is loaded. metrics: what is counted. intake: what all bodies may take together.
    started: when, in seconds since 1970.
    stopping: True while the last requests are answered.
    """

    def __init__(
        self,
        config: ServerConfig,
        tracing: Tracing | None = None,
        on_event: Callable[[str], None] = lambda event: None,
    ) -> None:
        self.models = Models(config, self._on_batch, self._log_event)
        self.metrics = Metrics(
            lambda: self.models.gauge(lambda group: group.waiting),
            lambda: self.models.gauge(lambda group: group.ready),
            lambda: self.models.gauge(lambda group: group.restarts),
        )
        self.intake = Intake(config.limits.held)
        self.tracing = tracing
        self.started = time.time()
        self.stopping = False
        self._on_event = on_event
        self._loopback = config.loopback

    @property
    def ready(self) -> bool:
        return self.models.ready and not self.stopping

    @property
    def limits(self) -> Limits:
        """What a request may take."""
        return self.models.config.limits

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
                self.tracing.stages(request, submitted, marks)
        # Not before the answer: see ``App._finish``.
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

    def _log_event(self, event: str, **fields: Any) -> None:
        log(event, **fields)
        self._on_event(event)

    def _on_batch(self, model: str, variant: str, items: int, seconds: float) -> None:
        self.metrics.batch_size.observe(items, model, variant)
        self.metrics.batch_seconds.observe(seconds, model, variant)


def _expire(futures: Sequence[asyncio.Future[Result]]) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(DeadlinePassed("no answer came within the request's time"))
