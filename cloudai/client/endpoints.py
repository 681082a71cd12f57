"""``client.endpoints``: deploy, attach, list."""

from __future__ import annotations

import os
from typing import Any

from cloudai._core.calls import threads
from cloudai.client._create import checked, create, named
from cloudai.client._runtime import CapabilityBinding, Runtime
from cloudai.client.endpoint import AsyncEndpoint, Deployable, Endpoint, deployment
from cloudai.client.jobs import check_kind
from cloudai.errors import CloudAIError, EndpointError
from cloudai.types import EndpointStatus, Plan


class _Flows:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def _bound(self) -> CapabilityBinding:
        return self._runtime.binding("endpoints")

    def _plan(self, model: Deployable, given: dict[str, Any]) -> Plan:
        spec = checked(named(deployment(model, given), "endpoint"))
        return self._bound.adapter.plan(spec)

    def _start(
        self, model: Deployable, given: dict[str, Any]
    ) -> tuple[CapabilityBinding, str, float]:
        binding = self._bound
        spec = checked(named(deployment(model, given), "endpoint"))
        uri = create(self._runtime, binding, "endpoint", spec, binding.adapter.deploy, spec.timeout)
        return binding, self._runtime.locate(uri)[2], spec.timeout

    def _find(self, id: str) -> tuple[CapabilityBinding, str]:
        if not id.startswith("cloudai:"):
            return self._bound, id
        binding, kind, native = self._runtime.locate(id)
        check_kind(kind, "endpoint", id)
        return binding, native

    def _list(self) -> list[EndpointStatus]:
        binding = self._bound
        return list(
            binding.caller.run("endpoints.list", binding.adapter.list, binding.caller.call())
        )


class Endpoints(_Flows):
    """Endpoints on a profile."""

    def plan(self, model: Deployable, *, name: str | None = None, **spec: Any) -> Plan:
        """What ``deploy`` would send, refuse and cost, found out without a connection."""
        return self._plan(model, {"name": name, **spec})

    def deploy(
        self,
        model: Deployable,
        *,
        name: str | None = None,
        handler: str | os.PathLike[str] | None = None,
        wait: bool = True,
        **spec: Any,
    ) -> Endpoint:
        """Deploys a model and waits until it is in service.

        Parameters
        ----------
        model: a ``Model``, a path or URI, a list of ``Variant``s, or a whole ``Deployment``.
        name: the endpoint's; needed unless a ``Deployment`` has it.
        handler: a Python file with ``load`` and ``predict``; None where the model directory has
            its own ``handler.py``.
        wait: False gives the handle at once.
        spec: the other fields of ``Deployment``.

        Raises InvalidRequest before anything is sent; Conflict for a name that is taken;
        EndpointError, with the server's own log, when it does not come up: what was made of it
        is removed.
        """
        given = {"name": name, "handler": handler and os.fspath(handler), **spec}
        binding, native, timeout = self._start(model, given)
        endpoint = Endpoint(self._runtime, binding, native)
        if wait:
            try:
                endpoint.wait(timeout)
            except EndpointError as error:
                _clean_up(endpoint, error)
                raise
        return endpoint

    def attach(self, id: str) -> Endpoint:
        """The endpoint of a handle's URI, or of the provider's own id. Raises NotFound."""
        binding, native = self._find(id)
        endpoint = Endpoint(self._runtime, binding, native)
        endpoint._status()
        return endpoint

    def list(self) -> list[EndpointStatus]:
        """The endpoints at the provider that were made through cloudai."""
        return self._list()


class AsyncEndpoints(_Flows):
    """Endpoints on a profile, under asyncio."""

    async def plan(self, model: Deployable, *, name: str | None = None, **spec: Any) -> Plan:
        """See ``Endpoints.plan``."""
        return await threads.run(self._plan, model, {"name": name, **spec})

    async def deploy(
        self,
        model: Deployable,
        *,
        name: str | None = None,
        handler: str | os.PathLike[str] | None = None,
        wait: bool = True,
        **spec: Any,
    ) -> AsyncEndpoint:
        """See ``Endpoints.deploy``."""
        given = {"name": name, "handler": handler and os.fspath(handler), **spec}
        binding, native, timeout = await threads.finish(self._start, model, given)
        endpoint = AsyncEndpoint(self._runtime, binding, native)
        if wait:
            try:
                await endpoint.wait(timeout)
            except EndpointError as error:
                await threads.finish(_clean_up, endpoint, error)
                raise
        return endpoint

    async def attach(self, id: str) -> AsyncEndpoint:
        """See ``Endpoints.attach``."""
        binding, native = self._find(id)
        endpoint = AsyncEndpoint(self._runtime, binding, native)
        await threads.run(endpoint._status)
        return endpoint

    async def list(self) -> list[EndpointStatus]:
        """See ``Endpoints.list``."""
        return await threads.run(self._list)


def _clean_up(endpoint: Endpoint | AsyncEndpoint, error: EndpointError) -> None:
    """Removes what a failed deployment left; a failure of that is told in the error."""
    try:
        endpoint._delete()
    except CloudAIError as failure:
        error.hint = f"{endpoint.id} could not be removed ({failure}): cloudai destroy it"
