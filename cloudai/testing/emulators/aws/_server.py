"""moto's server, with the paths that it would send astray."""

from __future__ import annotations

from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication


class Dispatcher(DomainDispatcherApplication):
    """moto tells SageMaker's runtime from its control plane by the end of the path, and does not
    know that of response streams."""

    def infer_service_region_host(self, environ: dict[str, Any], path: str) -> str | None:
        host = super().infer_service_region_host(environ, path)
        if (
            host is not None
            and host.startswith("api.sagemaker.")
            and path.startswith("/endpoints/")
        ):
            return f"runtime.{host.removeprefix('api.')}"
        return host
