"""Models behind their own inference code, in processes of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cloudai._core.handlers.container import PORT
from cloudai.testing.emulators.aws import _stores
from cloudai.testing.emulators.aws._state import Echo, Streamed
from cloudai.testing.emulators.common.served import ServedModel


class Unserved(Echo):
    """A model whose files cannot be laid out."""

    def __init__(self, problem: str) -> None:
        super().__init__(None, None)
        self._problem = problem

    def problem(self) -> str | None:
        return self._problem


class ProcessServed:
    """A model behind the real endpoint server, in the place of SageMaker's inference container:
    ``code/inference.py`` of its archive, or what ``SAGEMAKER_PROGRAM`` names."""

    def __init__(
        self, container: dict[str, Any], place: Path, env: dict[str, str] | None = None
    ) -> None:
        model = place / "model"
        uri = container.get("ModelDataUrl")
        source = container.get("ModelDataSource", {}).get("S3DataSource", {})
        if uri or source.get("CompressionType") == "Gzip":
            _stores.unpack(uri or source["S3Uri"], model)
        elif source:
            _stores.lay_out(source["S3Uri"], model)
        else:
            model.mkdir()
        told: dict[str, str] = container.get("Environment", {})
        packed = told.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
        if packed.startswith("s3://"):
            _stores.unpack(packed, model / "code")
        named = model / "code" / told.get("SAGEMAKER_PROGRAM", "inference.py")
        own = "CLOUDAI_PORT" in told  # an image with the server in it, which reads no arguments
        if own:
            # The folder stands for /opt/ml/model.
            told = {**told, "CLOUDAI_MODEL_DIR": str(model)}
        self._served = ServedModel(
            None if own else model,
            place,
            handler=named if named.is_file() and not own else None,
            env={**(env or {}), **told},
            port=PORT if own else None,
        )

    def problem(self) -> str | None:
        return self._served.problem()

    def invoke(self, body: bytes, content_type: str, accept: str) -> tuple[int, str, bytes]:
        headers = {"Content-Type": content_type, "Accept": accept}
        return self._served.post("/invocations", body, headers)

    def stream(self, body: bytes, content_type: str, accept: str) -> Streamed:
        headers = {"Content-Type": content_type, "Accept": accept}
        return self._served.ask("/invocations", body, headers)

    def close(self, *, gently: bool = False) -> None:
        self._served.close(gently=gently)
