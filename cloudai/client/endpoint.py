"""The handle of an endpoint, and the spec made of the arguments of ``deploy`` and ``update``."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import msgspec

from cloudai._core.calls import threads, wait
from cloudai._core.state.ledger import Entry
from cloudai.client import _ownership as ownership
from cloudai.client import _predictions
from cloudai.client._create import checked, named
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.errors import EndpointError, TransientError, WaitTimeout
from cloudai.protocols import Call
from cloudai.types import (
    JSON,
    Deployment,
    EndpointStatus,
    LogLine,
    Model,
    Prediction,
    PredictRequest,
    State,
    Variant,
)
from cloudai.types._base import invalid

T = TypeVar("T")

Deployable: TypeAlias = "Deployment | Model | str | os.PathLike[str] | Sequence[Variant]"


class _Handle:
    """What every handle of an endpoint knows; the methods with an underscore work in sync."""

    def __init__(self, runtime: Runtime, binding: CapabilityBinding, native_id: str) -> None:
        self._runtime = runtime
        self._bound = binding
        self.native_id = native_id
        self._looked_up: tuple[Entry | None] | None = None

    @property
    def id(self) -> str:
        """The handle's URI; ``client.attach(id)`` finds it again from any process."""
        return self._bound.uri("endpoint", self.native_id)

    @property
    def name(self) -> str:
        """The endpoint's name at the provider."""
        return self.native_id.rpartition("/")[2]

    def to_json(self) -> str:
        """The handle as JSON: its URI, which is all there is to it."""
        return msgspec.json.encode({"id": self.id}).decode()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id}>"

    def __reduce__(self) -> Any:
        raise TypeError("a handle does not pickle: pass its .id, and attach to it there")

    def _call(self, operation: str, function: Callable[..., T], timeout: float | None = None) -> T:
        caller = self._bound.caller
        return caller.run(f"endpoints.{operation}", function, caller.call(timeout))

    def _entry(self) -> Entry | None:
        """The ledger's row; looked up once. Raises Conflict for one that was made elsewhere."""
        if self._looked_up is None:
            self._looked_up = (ownership.entry_of(self._runtime, self._bound, self.id),)
        return self._looked_up[0]

    def _status(self) -> EndpointStatus:
        entry = self._entry()
        found = self._call("status", lambda call: self._bound.adapter.status(self.native_id, call))
        if entry is not None:
            self._runtime.ledger(self._bound).saw(entry, found.state)
        return found

    def _predict(
        self,
        inputs: Sequence[JSON],
        params: dict[str, JSON] | None,
        variant: str | None,
        timeout: float | None,
    ) -> Prediction:
        request = _request(inputs, params, variant)
        return _predictions.predicted(self._bound, self.native_id, request, timeout)

    def _update(self, model: Deployable, given: dict[str, Any]) -> float:
        """Starts the update; gives the seconds that it may take."""
        spec = checked(named(deployment(model, {**given, "name": self.name}), self.name))
        entry = self._entry()

        def attempt(call: Call) -> None:
            ownership.check_owner(self._bound, self.native_id, entry, call, "updated")
            self._bound.adapter.update(self.native_id, spec, call)

        self._call("update", attempt)
        return spec.timeout + spec.rollout.seconds

    def _lines(self) -> list[LogLine]:
        lines: list[LogLine] = []
        cursor: str | None = None
        while True:
            page = self._call(
                "logs", lambda call, at=cursor: self._bound.adapter.logs(self.native_id, at, call)
            )
            if not page.lines:
                return lines
            lines.extend(page.lines)
            cursor = page.cursor

    def _delete(self, force: bool = False) -> None:
        ownership.remove(self._runtime, self._bound, self.id, self.native_id, force=force)

    def _settled(self, last: EndpointStatus | None, timeout: float) -> EndpointStatus:
        """The snapshot of an endpoint in service; EndpointError or WaitTimeout for another."""
        if last is not None and last.state is State.RUNNING:
            return last
        if last is not None and last.state.done:
            raise EndpointError(
                f"the endpoint {self.name!r} did not come up: {last.reason or last.state}",
                provider=self._bound.profile.provider,
                log_tail=last.log_tail,
            )
        raise WaitTimeout(
            f"the endpoint {self.name!r} is not in service after {timeout:g} s",
            provider=self._bound.profile.provider,
            hint="It may still come up: wait again, or delete it",
        )


class Endpoint(_Handle):
    """An endpoint. ``id`` finds it again; all else asks the provider."""

    @property
    def status(self) -> EndpointStatus:
        """A fresh snapshot."""
        return self._status()

    @property
    def url(self) -> str | None:
        """Where it answers, where it has an address of its own."""
        return self._status().url

    @property
    def state(self) -> State:
        """The state of a fresh snapshot."""
        return self._status().state

    @property
    def cost(self) -> float | None:
        """US dollars so far; None where not known; 0.0 locally."""
        return self._status().cost

    def wait(self, timeout: float = 900.0) -> EndpointStatus:
        """Waits until it is in service. Raises EndpointError when it cannot come up, WaitTimeout
        after ``timeout`` seconds."""
        last: EndpointStatus | None = None
        for pause in wait.intervals(remote=self._bound.remote, timeout=timeout):
            last = _looked(self, last)
            if last is not None and (last.state is State.RUNNING or last.state.done):
                break
            time.sleep(pause)
        return self._settled(last, timeout)

    def predict(
        self,
        inputs: Sequence[JSON],
        *,
        params: dict[str, JSON] | None = None,
        variant: str | None = None,
        timeout: float | None = None,
    ) -> list[JSON]:
        """One output for each input, in their order.

        Parameters
        ----------
        inputs: JSON values. params: handed to ``predict`` as they are.
        variant: asks one variant, past the weights.
        timeout: seconds, retries included.
        """
        return self._predict(inputs, params, variant, timeout).outputs

    def invoke(
        self,
        inputs: Sequence[JSON],
        *,
        params: dict[str, JSON] | None = None,
        variant: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """Like ``predict``, and says which variant and version answered."""
        return self._predict(inputs, params, variant, timeout)

    def stream(
        self,
        inputs: Sequence[JSON],
        *,
        params: dict[str, JSON] | None = None,
        variant: str | None = None,
        timeout: float | None = None,
    ) -> Iterator[bytes]:
        """The server's answer piece by piece, as it writes it; arguments as for ``predict``.

        Put together, the pieces are the server's own answer: ``{"predictions": […]}`` of a
        handler. A provider that gives answers whole gives it as one piece. Raises StreamTruncated,
        with what had come, for one that breaks off; it is tried again until its first piece.
        """
        request = _request(inputs, params, variant)
        yield from _predictions.pieces(self._bound, self.native_id, request, timeout)

    def update(self, model: Deployable, *, wait: bool = True, **spec: Any) -> None:
        """Puts other variants behind the endpoint, without a lost request; arguments as for
        ``deploy``. Waits for the deployment's ``timeout`` and the rollout's own time."""
        seconds = self._update(model, spec)
        if wait:
            self.wait(seconds)

    def logs(self) -> Iterator[LogLine]:
        """The log's lines so far."""
        yield from self._lines()

    def delete(self, *, force: bool = False) -> None:
        """Removes it with all that it left at the provider; harmless when it is gone.

        Raises Conflict for one that cloudai did not make, or made elsewhere; ``force`` removes
        what has its name all the same.
        """
        self._delete(force)


class AsyncEndpoint(_Handle):
    """An endpoint, under asyncio."""

    @property
    def status(self) -> Awaitable[EndpointStatus]:
        """See ``Endpoint.status``."""
        return threads.run(self._status)

    @property
    def url(self) -> Awaitable[str | None]:
        """See ``Endpoint.url``."""
        return threads.run(lambda: self._status().url)

    @property
    def state(self) -> Awaitable[State]:
        """See ``Endpoint.state``."""
        return threads.run(lambda: self._status().state)

    @property
    def cost(self) -> Awaitable[float | None]:
        """See ``Endpoint.cost``."""
        return threads.run(lambda: self._status().cost)

    async def wait(self, timeout: float = 900.0) -> EndpointStatus:
        """See ``Endpoint.wait``."""
        last: EndpointStatus | None = None
        for pause in wait.intervals(remote=self._bound.remote, timeout=timeout):
            last = await threads.run(_looked, self, last)
            if last is not None and (last.state is State.RUNNING or last.state.done):
                break
            await asyncio.sleep(pause)
        return self._settled(last, timeout)

    async def predict(
        self,
        inputs: Sequence[JSON],
        *,
        params: dict[str, JSON] | None = None,
        variant: str | None = None,
        timeout: float | None = None,
    ) -> list[JSON]:
        """See ``Endpoint.predict``."""
        return (await threads.run(self._predict, inputs, params, variant, timeout)).outputs

    async def invoke(
        self,
        inputs: Sequence[JSON],
        *,
        params: dict[str, JSON] | None = None,
        variant: str | None = None,
        timeout: float | None = None,
    ) -> Prediction:
        """See ``Endpoint.invoke``."""
        return await threads.run(self._predict, inputs, params, variant, timeout)

    async def stream(
        self,
        inputs: Sequence[JSON],
        *,
        params: dict[str, JSON] | None = None,
        variant: str | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[bytes]:
        """See ``Endpoint.stream``."""
        request = _request(inputs, params, variant)
        async for piece in _predictions.apieces(self._bound, self.native_id, request, timeout):
            yield piece

    async def update(self, model: Deployable, *, wait: bool = True, **spec: Any) -> None:
        """See ``Endpoint.update``."""
        seconds = await threads.finish(self._update, model, spec)
        if wait:
            await self.wait(seconds)

    async def logs(self) -> list[LogLine]:
        """See ``Endpoint.logs``."""
        return await threads.run(self._lines)

    async def delete(self, *, force: bool = False) -> None:
        """See ``Endpoint.delete``."""
        await threads.finish(self._delete, force)


def _request(
    inputs: Sequence[JSON], params: dict[str, JSON] | None, variant: str | None
) -> PredictRequest:
    if isinstance(inputs, (str, bytes, dict)) or not isinstance(inputs, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise invalid("inputs", inputs, "is not a list", "Give a list of inputs: [x].")
    return PredictRequest(inputs=tuple(inputs), params=params or {}, variant=variant)


def _looked(handle: _Handle, last: EndpointStatus | None) -> EndpointStatus | None:
    try:
        return handle._status()
    except TransientError:
        return last  # a look that failed says nothing of the endpoint


def deployment(model: Deployable, given: dict[str, Any]) -> Deployment:
    """The spec that ``deploy``'s arguments describe."""
    if isinstance(image := given.get("image"), os.PathLike):
        given = {**given, "image": os.path.abspath(os.path.expanduser(os.fspath(image)))}
    if isinstance(model, Deployment):
        rest = {key: value for key, value in given.items() if value is not None}
        return msgspec.structs.replace(model, **rest) if rest else model
    if isinstance(model, (Model, str, os.PathLike)):
        uri = os.fspath(model) if isinstance(model, os.PathLike) else model
        variants = (Variant(model=uri),)
    else:
        variants = tuple(model)
    handler = given.get("handler")
    if isinstance(handler, Path):
        given = {**given, "handler": str(handler)}
    known = Deployment.__struct_fields__
    for key in given:
        if key not in known:
            raise invalid(key, given[key], "is no field of a Deployment", f"There are: {known}")
    if given.get("name") is None:
        raise invalid("name", None, "is missing", "Name the endpoint.")
    return Deployment(
        variants=variants, **{key: value for key, value in given.items() if value is not None}
    )
