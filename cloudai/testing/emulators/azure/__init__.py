"""An offline Azure: Azure OpenAI, Key Vault, identity, Resource Manager and Azure ML.

The vendors' own SDKs talk to it over real sockets: plain http for the data plane and the
identity endpoint, https (with a certificate of its own) for the rest::

    with AzureEmulator() as azure:
        azure.deploy("smart", model="gpt-5.1")
        os.environ.update(azure.env)
        cloudai.Client(provider="azure").chat.create("hello", model="smart")

Each request is checked against the types that the openai SDK publishes and the limits that
Microsoft states, and refused in the service's own words.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from cloudai.testing.emulators.azure import _tls
from cloudai.testing.emulators.azure._arm import CLOUD, Cloud, Manager
from cloudai.testing.emulators.azure._batches import Batches
from cloudai.testing.emulators.azure._blobs import Blobs
from cloudai.testing.emulators.azure._chat import DataPlane
from cloudai.testing.emulators.azure._files import Files
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes, read, write
from cloudai.testing.emulators.azure._local import LocalExecutor
from cloudai.testing.emulators.azure._ml import MachineLearning, Scoring
from cloudai.testing.emulators.azure._scripted import ScriptedExecutor
from cloudai.testing.emulators.azure._state import (
    ACCOUNT,
    CLIENT,
    GROUP,
    SUBSCRIPTION,
    TENANT,
    WORKSPACE,
    AzureState,
    Clock,
    Deployed,
    Executor,
    Vault,
)
from cloudai.testing.emulators.azure._tuning import Tuning
from cloudai.testing.emulators.azure._vault import Authority, Identity, KeyVault
from cloudai.testing.emulators.common.fates import Fates
from cloudai.testing.emulators.common.faults import Faults
from cloudai.testing.emulators.common.server import EmulatorServer

__all__ = [
    "AzureEmulator",
    "Deployed",
    "Executor",
    "LocalExecutor",
    "Request",
    "ScriptedExecutor",
    "Vault",
]


class AzureEmulator:
    """One subscription with one Azure OpenAI resource, one vault and one Azure ML workspace.

    Parameters
    ----------
    executor: who does the work; None is scripted, ``LocalExecutor()`` runs Azure ML's jobs and
        models on this machine.
    speed: how many times as fast as the real clock jobs go through their lives.
    port: of http, and the next one of https; 0 takes free ones. seed: of the faults' chances.
    subscription, tenant: whose it is. workspace, location: the Azure ML workspace, and where it is.
    """

    def __init__(
        self,
        executor: Executor | None = None,
        *,
        speed: float = 1.0,
        port: int = 0,
        seed: int = 0,
        subscription: str = SUBSCRIPTION,
        tenant: str = TENANT,
        workspace: str = WORKSPACE,
        location: str = "westeurope",
    ) -> None:
        self.executor: Any = executor or ScriptedExecutor()
        self.cloud_state = AzureState(
            self.executor, Clock(speed), subscription, tenant, workspace, location
        )
        self._folder = tempfile.TemporaryDirectory(prefix="cloudai-azure-")
        self._data = DataPlane(self.cloud_state)
        self._vault = KeyVault(self.cloud_state)
        self._identity = Identity(self.cloud_state)
        self._planes: list[tuple[str, Any, Routes]] = []
        files = Files(self.cloud_state)
        self.batches = Batches(self.cloud_state, files, self._data)
        self.manager = Manager(self.cloud_state)
        self._tuning = Tuning(self.cloud_state, files)
        self._add("/openai/", self._data, files, self.batches, self._tuning)
        self._add("/secrets", self._vault)
        self._add("/deletedsecrets", self._vault)
        self._add("/identity/", self._identity)
        self._add(f"/{tenant}/", Authority(self.cloud_state, self._identity))
        self._add("/metadata/", Cloud(lambda: self.secure_url))
        ml = MachineLearning(self.cloud_state)
        self._add("/subscriptions/", self.manager, ml)
        self._add("/store/", Blobs(self.cloud_state))
        scoring = Scoring(self.cloud_state, ml)
        self._add("/score/", scoring)
        self._add("/jobs/", scoring)
        context, self.authority = _tls.make(Path(self._folder.name))
        self._plain = EmulatorServer(self._serve, error_body, port=port, seed=seed)
        # Both servers share one set of faults.
        self._secure = EmulatorServer(
            self._plain.faults, error_body, port=port and port + 1, tls=context
        )

    def _add(self, prefix: str, *planes: Any) -> None:
        table = Routes()
        for plane in planes:
            plane.routes(table)
        self._planes.append((prefix, planes[0], table))

    def _serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        request = read(environ)
        with self.cloud_state.lock:
            self.cloud_state.requests.append(request)
        return write(self._answer(request), start)

    def _answer(self, request: Request) -> Response:
        try:
            for prefix, plane, table in self._planes:
                if request.path.lower().startswith(prefix):
                    plane.admit(request)
                    return table.find(request)
            raise Refused(404, "404", "Resource not found")
        except Refused as refused:
            return refused.response

    @property
    def bundle(self) -> Path:
        """The emulator's authority beside those that are trusted without it: a program may also
        speak to other services."""
        return self.authority.with_name("bundle.pem")

    @property
    def faults(self) -> Faults:
        """Faults on purpose; see ``Faults.add``."""
        return self._plain.faults

    @property
    def told(self) -> Fates:
        """Outcomes of the next jobs, endpoints and batches."""
        return self.cloud_state.told

    @property
    def url(self) -> str:
        """The Azure OpenAI resource, over http on loopback."""
        return self._plain.url

    @property
    def secure_url(self) -> str:
        """The same over https; Key Vault, Resource Manager and Azure ML answer here alone."""
        return f"https://127.0.0.1:{self._secure.port}"

    @property
    def vault_url(self) -> str:
        return self.secure_url

    @property
    def key(self) -> str:
        """The resource's API key."""
        return next(iter(self.cloud_state.keys))

    @property
    def vault(self) -> Vault:
        """The vault's content."""
        return self.cloud_state.vault

    @property
    def requests(self) -> list[Request]:
        """All requests that were handled, in order."""
        return self.cloud_state.requests

    @property
    def tokens_issued(self) -> int:
        return self._identity.issued

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point cloudai, and the plain SDKs with their default
        credential, to this emulator. The API key is not among them."""
        return {
            "AZURE_OPENAI_ENDPOINT": self.url,
            "IDENTITY_ENDPOINT": f"{self.url}/identity/token",
            "IDENTITY_HEADER": self.cloud_state.identity_header,
            "REQUESTS_CA_BUNDLE": str(self.bundle),
            "SSL_CERT_FILE": str(self.bundle),
            "CLOUDAI_ENDPOINT": self.url,
            "CLOUDAI_MANAGEMENT_ENDPOINT": self.secure_url,
            "CLOUDAI_SUBSCRIPTION": self.cloud_state.subscription,
            "CLOUDAI_RESOURCE_GROUP": GROUP,
            "CLOUDAI_ACCOUNT": ACCOUNT,
            "CLOUDAI_CREDENTIAL": "managed-identity",
        }

    def keys(self) -> dict[str, Any]:
        """The keys of ``Client(provider="azure", **keys)``: with an API key for Azure OpenAI, a
        managed identity for the rest, and Azure ML for training, endpoints and batch."""
        return {
            "endpoint": self.url,
            "api_key": self.key,
            "credential": "managed-identity",
            "management_endpoint": self.secure_url,
            "subscription": self.cloud_state.subscription,
            "resource_group": GROUP,
            "account": ACCOUNT,
            "workspace": self.cloud_state.workspace,
            "compute": "cluster",
        }

    @property
    def cloud(self) -> tuple[str, dict[str, str]]:
        """What azure-ai-ml's own client needs beside ``env``: the name to give it as ``cloud=``,
        and the environment variable that says where it is."""
        return CLOUD, {"ARM_CLOUD_METADATA_URL": f"{self.url}/metadata/endpoints"}

    @property
    def principal(self) -> dict[str, str]:
        """Environment variables of a service principal, for ``credential = "environment"`` and
        the default chain, which then ask this emulator's Entra ID."""
        return {
            "AZURE_AUTHORITY_HOST": self.secure_url,
            "AZURE_TENANT_ID": self.cloud_state.tenant,
            "AZURE_CLIENT_ID": CLIENT,
            "AZURE_CLIENT_SECRET": self.cloud_state.client_secret,
        }

    def deploy(self, name: str, model: str = "gpt-5.1", **about: Any) -> Deployed:
        """Puts a deployment there, as if it had been made before."""
        made = Deployed(name=name, model=model, **about)
        with self.cloud_state.lock:
            self.cloud_state.deployments[name] = made
        return made

    def fate(self, kind: str, *fates: str) -> None:
        """What the next of a kind (``fine_tuning``, ``batches``, ``deployments``, ``jobs``) end
        in, one each, in the service's own words: ``failed``, ``expired``, …"""
        with self.cloud_state.lock:
            self.cloud_state.fates.setdefault(kind, []).extend(fates)

    def advance(self, seconds: float) -> None:
        """Lets time pass at once for all that is under way."""
        self.cloud_state.clock.advance(seconds)

    def freeze(self) -> None:
        """Stops the time of all that is under way; ``advance`` alone moves it from then on."""
        self.cloud_state.clock.freeze()

    def reset(self) -> None:
        """Forgets all that was made, asked and scripted; keys and addresses stay."""
        cloud_state = self.cloud_state
        with cloud_state.lock:
            for held in (
                cloud_state.deployments,
                cloud_state.files,
                cloud_state.batches,
                cloud_state.tunings,
                cloud_state.tuned,
                cloud_state.ml,
                cloud_state.blobs,
                cloud_state.operations,
                cloud_state.fates,
                cloud_state.requests,
            ):
                held.clear()
            cloud_state.told.clear()
            cloud_state.vault = Vault()
        self.faults.clear()

    def rotate(self, key: str) -> None:
        """Makes ``key`` the resource's only API key."""
        with self.cloud_state.lock:
            self.cloud_state.keys = {key}

    def start(self) -> AzureEmulator:
        """Begins to serve."""
        self._plain.start()
        try:
            self._secure.start()
        except BaseException:
            self._plain.stop()
            raise
        if isinstance(self.executor, LocalExecutor):
            self.executor.env = {
                name: text for name, text in self.env.items() if not name.startswith("CLOUDAI_")
            }
        return self

    def stop(self) -> None:
        """Ends it."""
        self._secure.stop()
        self._plain.stop()
        self._tuning.close()
        self._folder.cleanup()
        close = getattr(self.executor, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> AzureEmulator:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()


def error_body(status: int, message: str) -> tuple[str, bytes]:
    """Azure's shape of an error."""
    code = {429: "429", 503: "ServiceUnavailable"}.get(status, str(status))
    return "application/json", msgspec.json.encode({"error": {"code": code, "message": message}})
