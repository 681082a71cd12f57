"""Vertex AI, Gemini and Cloud Storage on loopback, for the vendor's own SDKs and for cloudai.

::

    with VertexEmulator() as cloud:
        os.environ.update(cloud.env)          # cloudai, google-genai, aiplatform, storage
        client = cloudai.Client(provider="vertex", **cloud.keys())

REST over plain http. Requests are checked against the messages of ``google.cloud.aiplatform``:
required fields, unknown fields, types; what only the service sets is ignored, as the real one
does, and named in ``ignored``. Jobs, operations and endpoints go through their states by
``clock``, whose speed is yours.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from cloudai.testing.emulators.common.fates import Fates
from cloudai.testing.emulators.common.faults import Faults
from cloudai.testing.emulators.common.local_models import LocalModels
from cloudai.testing.emulators.common.server import EmulatorServer
from cloudai.testing.emulators.vertex._batch import Batches
from cloudai.testing.emulators.vertex._developer import BASE as DEVELOPER
from cloudai.testing.emulators.vertex._developer import Developer
from cloudai.testing.emulators.vertex._execute import LocalExecutor
from cloudai.testing.emulators.vertex._gemini import Gemini
from cloudai.testing.emulators.vertex._http import (
    Answer,
    Refused,
    Request,
    Router,
    error_body,
    read,
    send,
)
from cloudai.testing.emulators.vertex._identity import (
    Identity,
    Logging,
    Secrets,
    service_account,
)
from cloudai.testing.emulators.vertex._jobs import Executor, Fate, Jobs
from cloudai.testing.emulators.vertex._operations import Operations
from cloudai.testing.emulators.vertex._predicting import Predicting
from cloudai.testing.emulators.vertex._serving import Serving
from cloudai.testing.emulators.vertex._state import Clock, VertexState
from cloudai.testing.emulators.vertex._storage import Storage
from cloudai.testing.emulators.vertex._tuning import Tunings

__all__ = ["Clock", "Executor", "Fate", "LocalExecutor", "VertexEmulator"]


_PREDICTING: Final = (":predict", ":rawpredict", ":streamrawpredict")


class VertexEmulator:
    """The emulator. Start it with ``with``, or with ``start`` and ``stop``.

    Parameters
    ----------
    project, location: what exists there; other projects are refused.
    speed: how fast its clock runs. port: 0 takes a free one. seed: of the faults' chances.
    execute: True runs jobs and models on this machine, by a ``LocalExecutor``; False leaves them
        to their fates. An ``Executor`` of your own does as it likes.
    models: this machine's models, to answer for Gemini and for embeddings; None leaves them to
        rules.

    Attributes
    ----------
    clock: see ``Clock``. faults: see ``cloudai.testing.emulators.common.faults.Faults``.
    storage, gemini, developer, identity, secrets, logging, jobs, serving, batches, tunings,
        operations: the services.
    """

    def __init__(
        self,
        *,
        project: str = "emulated-project",
        location: str = "us-central1",
        speed: float = 1.0,
        port: int = 0,
        seed: int = 0,
        execute: bool | Executor = False,
        models: LocalModels | None = None,
    ) -> None:
        self.clock = Clock(speed)
        self.cloud_state = VertexState(project, location, self.clock)
        self._router = Router()
        self.identity = Identity(self.cloud_state)
        self.secrets = Secrets(self.cloud_state)
        self.logging = Logging(self.cloud_state)
        self.storage = Storage(self.cloud_state)
        self.gemini = Gemini(self.cloud_state)
        self.gemini.local = models
        self.developer = Developer(self.cloud_state, self.gemini)
        self.operations = Operations(self.cloud_state)
        self.jobs = Jobs(self.cloud_state, self.operations, self.logging, self.storage)
        self.serving = Serving(self.cloud_state, self.operations, self.logging)
        self.batches = Batches(
            self.cloud_state, self.operations, self.storage, self.serving, self.gemini, seed
        )
        self.tunings = Tunings(self.cloud_state, self.storage, self.serving, self.gemini)
        for service in (
            self.identity,
            self.secrets,
            self.logging,
            self.storage,
            self.gemini,
            self.developer,
            self.jobs,
            self.serving,
            Predicting(self.cloud_state, self.serving, seed),
            self.batches,
            self.tunings,
            self.operations,  # last: its routes fit any resource
        ):
            service.routes(self._router)
        self._server = EmulatorServer(
            self._app, error_body, port=port, seed=seed, now=self.clock.now
        )
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._executor: Executor | None = None
        if execute:
            self._executor = LocalExecutor(self) if execute is True else execute
        self.jobs.executor = self.batches.executor = self.serving.executor = self._executor
        self.bucket = "emulated-bucket"
        self.storage.bucket(self.bucket)

    @property
    def project(self) -> str:
        return self.cloud_state.project

    @property
    def location(self) -> str:
        return self.cloud_state.location

    @property
    def told(self) -> Fates:
        """Outcomes of the next jobs, endpoints and batches."""
        return self.cloud_state.told

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def faults(self) -> Faults:
        return self._server.faults

    @property
    def requests(self) -> list[Request]:
        """All requests so far, in order; tokens left out."""
        return self.cloud_state.requests

    @property
    def ignored(self) -> list[str]:
        """Fields of requests that only the service sets."""
        return self.cloud_state.ignored

    @property
    def credentials(self) -> Path:
        """A service account's file, whose tokens the emulator gives out."""
        with self.cloud_state.lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="cloudai-vertex-")
                path = Path(self._folder.name) / "service-account.json"
                path.write_text(service_account(self.project, self.url))
                path.chmod(0o600)
            return Path(self._folder.name) / "service-account.json"

    @property
    def env(self) -> dict[str, str]:
        """What points a program at the emulator: cloudai, Cloud Storage, and google-genai where it
        is told ``vertexai=True`` and the project and location, follow it; the aiplatform SDK also
        wants ``init(api_endpoint=…, api_transport="rest")``. For ``genai.Client()``, see
        ``developer_env``."""
        return {
            "GOOGLE_APPLICATION_CREDENTIALS": str(self.credentials),
            "GOOGLE_CLOUD_PROJECT": self.project,
            "GOOGLE_CLOUD_LOCATION": self.location,
            "GOOGLE_GENAI_USE_VERTEXAI": "true",
            "GOOGLE_VERTEX_BASE_URL": self.url,
            "STORAGE_EMULATOR_HOST": self.url,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": self.url,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_LOGGING": self.url,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_SECRETMANAGER": self.url,
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS": self.url,
        }

    @property
    def developer_env(self) -> dict[str, str]:
        """What points ``genai.Client()`` at the same models behind an API key; it must not be
        set together with ``GOOGLE_GENAI_USE_VERTEXAI``."""
        return {"GEMINI_API_KEY": self.developer.key, "GOOGLE_GEMINI_BASE_URL": self.url}

    def keys(self) -> dict[str, Any]:
        """The keys of ``Client(provider="vertex", **keys)``."""
        return {
            "project": self.project,
            "location": self.location,
            "bucket": self.bucket,
            "endpoint": self.url,
            "credentials": str(self.credentials),
        }

    def start(self) -> VertexEmulator:
        """Begins to serve."""
        self._server.start()
        self.cloud_state.url = self.url
        return self

    def stop(self) -> None:
        """Ends it."""
        self.jobs.stop()
        self.batches.stop()
        self.tunings.stop()
        self._server.stop()
        if isinstance(self._executor, LocalExecutor):
            self._executor.close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> VertexEmulator:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _app(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request, token = read(environ)
        try:
            answer = self._handle(request, token)
        except Refused as error:
            answer = Answer(
                data=error.body(),
                http=error.http,
                headers={"Content-Type": "application/json; charset=UTF-8"},
            )
        except Exception as error:  # noqa: BLE001 - a fault of the emulator, told as one
            traceback.print_exc()
            told = f"The emulator failed: {type(error).__name__}: {error}"
            answer = Answer(data=error_body(501, told)[1], http=501)
        answer.headers.setdefault("x-request-id", f"emulated-{len(self.cloud_state.requests)}")
        return send(answer, start)

    def _handle(self, request: Request, token: str | None) -> Answer:
        with self.cloud_state.lock:
            self.cloud_state.requests.append(request)
        found = self._router.find(request)
        if found is None:
            raise Refused(
                404, "NOT_FOUND", f"The requested URL {request.method} {request.path} was not found"
            )
        # The developers' API has a key instead of a token, and asks for it itself.
        open_to_all = ("/token", "/computeMetadata", DEVELOPER)
        # The storage client sends no token at all to STORAGE_EMULATOR_HOST.
        anonymous = token is None and ("/b/" in request.path or request.path.endswith("/b"))
        free = anonymous or request.path == "/" or request.path.startswith(open_to_all)
        if not free and not self.identity.knows(token):
            raise Refused(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        handler, values = found
        # These may take their time: tokens that are told to, and models that think.
        thinks = self.gemini.local is not None and (
            "/models/" in request.path or request.path.endswith("enerateContent")
        )
        thinks |= self._executor is not None and request.path.lower().endswith(_PREDICTING)
        if request.path == "/token" or (thinks and request.method == "POST"):
            with self.cloud_state.lock:
                self.operations.advance()
            made = handler(request, **values)
        else:
            with self.cloud_state.lock:
                self.operations.advance()
                made = handler(request, **values)
        return made if isinstance(made, Answer) else Answer(json=made)
