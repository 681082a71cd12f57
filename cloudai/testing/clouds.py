"""Emulated clouds with one interface: what the pytest fixtures give and ``cloudai emulate`` starts.

::

    with emulated("aws") as cloud, cloud.applied():  # cloudai, boto3, any program
        cloud.faults.throttle("chat.create", times=2, retry_after=1)
        cloud.fate("PREEMPTED")                      # of the next training job
        cloud.fate("PARTIAL", of="batch")

Each cloud is an emulator of ``cloudai.testing.emulators`` with models deployed, lives of the same
length, and, where it is told to ``execute``, the user's own code run on this machine.

Longer than other modules, so that the clouds stand beside each other and their differences show.
"""

from __future__ import annotations

import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.testing._cloud_faults import CloudFaults
from cloudai.testing.emulators.common.fates import KINDS, known
from cloudai.testing.emulators.common.local_models import shared
from cloudai.types import JSON
from cloudai.types._base import unknown

if TYPE_CHECKING:
    from cloudai.client import AsyncClient, Client

PORTS: Final = {"aws": 0, "azure": 1, "vertex": 3}
"""What is added to a first port, so that a cloud's address does not depend on the others: azure
also takes the next one, for https."""

_NAMES: Final = {"training": "a training job", "endpoints": "an endpoint", "batch": "a batch"}

LIVES: Final = {"starting": 0.5, "running": 1.0, "endpoint": 1.0}
"""Seconds of an emulator's clock in which a scripted job starts and runs, and an endpoint comes
up."""


class EmulatedCloud(ABC):
    """One emulated cloud. Start it with ``with``, or with ``start`` and ``stop``.

    Parameters
    ----------
    speed: how many times as fast as the wall clock its own goes.
    port: 0 takes a free one. seed: of the faults' chances, so that a run can be repeated.
    execute: runs jobs and models on this machine and answers with its local models; False
        answers by rule, and lets jobs take a scripted course.

    Attributes
    ----------
    name: ``"aws"``, ``"azure"`` or ``"vertex"``. emulator: what is behind it, with all that
        only this cloud has.
    """

    name: ClassVar[str]
    astray: ClassVar[tuple[str, ...]]
    """Environment variables that would lead a program past the emulator."""

    emulator: Any

    def __init__(
        self, *, speed: float = 1.0, port: int = 0, seed: int = 0, execute: bool = False
    ) -> None:
        if not speed > 0:
            raise InvalidRequest(
                f"speed={speed!r} is not above 0", field="speed", hint="1 is the wall clock's"
            )
        if not 0 <= port <= 65_000:
            raise InvalidRequest(
                f"port={port!r} is not within 0..65000", field="port", hint="0 takes a free one"
            )
        self._speed, self._port, self._seed, self._execute = speed, port, seed, execute
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    # -- what differs -----------------------------------------------------------------------

    @abstractmethod
    def _make(self) -> Any:
        """The emulator, not started."""

    def _vendor(self) -> dict[str, str]:
        """The variables that the vendor's SDKs follow."""
        return dict(self.emulator.env)

    @abstractmethod
    def _begun(self) -> None:
        """Sets lives and models once it serves."""

    # -- what is common ---------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """A folder of its own, removed at the end."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(
                prefix=f"cloudai-emulated-{self.name}-", ignore_cleanup_errors=True
            )
        return Path(self._folder.name)

    @property
    def url(self) -> str:
        """Its address, such as ``http://127.0.0.1:40123``."""
        return self.emulator.url

    @property
    def keys(self) -> dict[str, Any]:
        """The keys of ``cloudai.Client(provider=cloud.name, **cloud.keys)``. What is made here is
        kept in a home of the cloud's own, and ends with it: it is none of the user's."""
        return {**self.emulator.keys(), "home": str(self.folder / "home")}

    @property
    def env(self) -> dict[str, str]:
        """Environment variables that point any program at it: the vendor's SDKs by their own,
        cloudai by ``CLOUDAI_<PROVIDER>_<KEY>``."""
        own = {
            f"CLOUDAI_{self.name.upper()}_{key.upper()}": str(value)
            for key, value in self.keys.items()
        }
        return {**self._vendor(), **own, **_no_proxy()}

    @property
    def unset(self) -> tuple[str, ...]:
        """Variables that must not be set beside ``env``: other credentials and addresses."""
        return self.astray

    @contextmanager
    def applied(self) -> Generator[None]:
        """Sets this process's environment to it while it is open: what ``client()`` needs on AWS,
        whose credentials come from there, and what plain SDKs follow."""
        before = dict(os.environ)
        apply(environment([self]), os.environ.__setitem__, lambda name: os.environ.pop(name, None))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)

    @property
    def faults(self) -> CloudFaults:
        """Faults on purpose."""
        return CloudFaults(self.name, self.emulator.faults)

    @property
    def requests(self) -> list[Any]:
        """What came in, in order, as the emulator keeps it."""
        return self.emulator.requests

    def client(self, **keys: Any) -> Client:
        """A new cloudai client of it; ``keys`` go over ``self.keys``."""
        from cloudai.client import Client

        return Client(provider=self.name, **{**self.keys, **keys})

    def async_client(self, **keys: Any) -> AsyncClient:
        """The same, for asyncio."""
        from cloudai.client import AsyncClient

        return AsyncClient(provider=self.name, **{**self.keys, **keys})

    def fate(self, outcome: str, *, of: str = "training") -> None:
        """What the next training job, endpoint or batch comes to, whatever its script or model
        would do. A service that has no such end leaves it to the next one that has.

        Parameters
        ----------
        outcome: ``"SUCCEEDED"``, ``"FAILED"``, ``"TIMED_OUT"``, ``"EXPIRED"``, ``"PREEMPTED"``,
            ``"CAPACITY"`` (no machine was to be had) or ``"PARTIAL"``, as far as the cloud
            knows it.
        of: ``"training"``, ``"endpoints"`` (a new one, or an update) or ``"batch"`` (of the
            service's own; what the client runs by itself has no fate).

        Raises UnsupportedByProvider for an outcome that this cloud's services do not come to,
        ConfigError for another kind.
        """
        if of not in KINDS:
            raise unknown("kind of fate", of, KINDS)
        ends = known(self.name, of)
        if outcome not in ends:
            raise UnsupportedByProvider(
                f"the fate {outcome!r} of {_NAMES[of]}",
                provider=self.name,
                alternative=f"There are: {', '.join(ends)}",
                field="outcome",
                value=outcome,
            )
        self.emulator.told.tell(of, outcome)

    def reply(
        self,
        text: str = "",
        *,
        tool_calls: Mapping[str, Mapping[str, JSON]] | None = None,
        error: type[Exception] | str | None = None,
        **about: Any,
    ) -> EmulatedCloud:
        """Queues one chat answer, as ``FakeScript.reply`` does: the next chat, whole or streamed,
        gets it in the vendor's own form, also where ``execute`` runs models.

        Parameters
        ----------
        text: the answer; of an error its message. tool_calls: by the tool's name, its arguments.
        error: a class of ``cloudai.errors`` or its name: ``"RateLimited"``,
            ``"ServiceUnavailable"``, ``"InvalidRequest"``, …
        about: ``finish_reason`` (``"stop"``, ``"length"``, ``"tool_calls"``), ``reasoning``.

        Raises InvalidRequest for an error that no reply can be, ConfigError for unknown fields.
        """
        self.emulator.cloud_state.answers.reply(text, tool_calls=tool_calls, error=error, **about)
        return self

    @abstractmethod
    def advance(self, seconds: float) -> None:
        """Lets seconds of its clock go by at once."""

    def start(self) -> EmulatedCloud:
        """Begins to serve."""
        self.emulator = self._make()
        try:
            self.emulator.start()
        except OSError as error:
            self.stop()
            raise InvalidRequest(
                f"port {self._port} for {self.name} cannot be listened on: {error.strerror}",
                field="port",
                hint="Choose another, or 0 for a free one",
            ) from error
        self._begun()
        return self

    def stop(self) -> None:
        """Ends it, with what it runs, and removes its files."""
        self.emulator.stop()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> EmulatedCloud:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"EmulatedCloud({self.name!r})"


class EmulatedAws(EmulatedCloud):
    """SageMaker, Bedrock and what else moto has; ``emulator`` is an ``AwsEmulator``."""

    name = "aws"
    astray = (
        "AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN", "AWS_SECURITY_TOKEN",
        "AWS_BEARER_TOKEN_BEDROCK", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "AWS_USE_FIPS_ENDPOINT",
        "AWS_USE_DUALSTACK_ENDPOINT",
    )  # fmt: skip

    def _make(self) -> Any:
        from cloudai.testing.emulators.aws import AwsEmulator, Fate, LocalExecutor, ScriptedExecutor

        if self._execute:
            executor: Any = LocalExecutor(
                self.folder / "work", starting=LIVES["starting"], models=shared()
            )
        else:
            fate = Fate(starting=LIVES["starting"], running=LIVES["running"])
            executor = ScriptedExecutor(default=fate)
        return AwsEmulator(executor, port=self._port, seed=self._seed)

    def _begun(self) -> None:
        from cloudai.testing.emulators.aws import Fate

        world = self.emulator.cloud_state
        world.speed = self._speed
        world.endpoint_seconds = LIVES["endpoint"]
        world.life = Fate(starting=LIVES["starting"], running=LIVES["running"])

    def _vendor(self) -> dict[str, str]:
        return {**self.emulator.env, "AWS_REGION": self.emulator.region}

    @property
    def unset(self) -> tuple[str, ...]:
        """See ``EmulatedCloud``; AWS has one more variable for each service."""
        services = (name for name in os.environ if name.startswith("AWS_ENDPOINT_URL_"))
        return (*self.astray, *sorted(services))

    def advance(self, seconds: float) -> None:
        """See ``EmulatedCloud``."""
        self.emulator.cloud_state.advance(seconds)


class EmulatedAzure(EmulatedCloud):
    """Azure OpenAI, Key Vault, identity, Resource Manager and Azure ML; ``emulator`` is an
    ``AzureEmulator``."""

    name = "azure"
    astray = (
        "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PATH",
        "AZURE_FEDERATED_TOKEN_FILE", "AZURE_TENANT_ID", "AZURE_OPENAI_AD_TOKEN",
        "AZURE_TOKEN_CREDENTIALS", "AZURE_AUTHORITY_HOST", "IMDS_ENDPOINT", "MSI_ENDPOINT",
        "OPENAI_ORG_ID", "OPENAI_PROJECT_ID",
    )  # fmt: skip

    models: ClassVar[dict[str, str]] = {
        "gpt-5.1": "gpt-5.1",
        "gpt-5.4-mini": "gpt-5.4-mini",
        "text-embedding-3-small": "text-embedding-3-small",
    }
    """Deployments that are there from the start → their models."""

    def _make(self) -> Any:
        from cloudai.testing.emulators.azure import AzureEmulator, LocalExecutor

        executor = LocalExecutor(shared()) if self._execute else None
        return AzureEmulator(executor, speed=self._speed, port=self._port, seed=self._seed)

    def _begun(self) -> None:
        for name, model in self.models.items():
            self.emulator.deploy(name, model=model)

    def _vendor(self) -> dict[str, str]:
        azure = self.emulator
        env = {name: text for name, text in azure.env.items() if not name.startswith("CLOUDAI_")}
        keys = self.keys
        return {
            **env,
            "AZURE_OPENAI_API_KEY": azure.key,
            "OPENAI_API_VERSION": "2024-10-21",
            # The plain client, which has no notion of Azure, speaks to the v1 API.
            "OPENAI_BASE_URL": f"{azure.url}/openai/v1/",
            "OPENAI_API_KEY": azure.key,
            "AZURE_KEYVAULT_URL": azure.vault_url,
            "AZURE_SUBSCRIPTION_ID": keys["subscription"],
            "AZURE_RESOURCE_GROUP": keys["resource_group"],
            "CURL_CA_BUNDLE": env["SSL_CERT_FILE"],
        }

    def advance(self, seconds: float) -> None:
        """See ``EmulatedCloud``."""
        self.emulator.advance(seconds)


class EmulatedVertex(EmulatedCloud):
    """Vertex AI, Gemini, Cloud Storage, Secret Manager and Logging; ``emulator`` is a
    ``VertexEmulator``."""

    name = "vertex"
    astray = (
        "GOOGLE_API_KEY", "GOOGLE_GENAI_USE_VERTEXAI", "GOOGLE_GENAI_USE_ENTERPRISE",
        "GOOGLE_GENAI_HTTP_CLIENT", "GOOGLE_CLOUD_QUOTA_PROJECT", "GOOGLE_CLOUD_UNIVERSE_DOMAIN",
        "GOOGLE_API_USE_CLIENT_CERTIFICATE", "GOOGLE_API_USE_MTLS_ENDPOINT",
    )  # fmt: skip

    def _make(self) -> Any:
        from cloudai.testing.emulators.vertex import VertexEmulator

        return VertexEmulator(
            speed=self._speed,
            port=self._port,
            seed=self._seed,
            execute=self._execute,
            models=shared() if self._execute else None,
        )

    def _vendor(self) -> dict[str, str]:
        env = {**self.emulator.env, **self.emulator.developer_env}
        # With it genai.Client() would ask Google itself, whatever its base URL is.
        del env["GOOGLE_GENAI_USE_VERTEXAI"]
        return env

    def _begun(self) -> None:
        from cloudai.testing.emulators.vertex import Fate

        cloud = self.emulator
        starting, running = LIVES["starting"], LIVES["running"]
        cloud.jobs.fate = Fate(pending=starting, running=running)
        cloud.batches.pending = starting
        cloud.serving.deploy_seconds = LIVES["endpoint"]

    def advance(self, seconds: float) -> None:
        """See ``EmulatedCloud``."""
        self.emulator.clock.advance(seconds)


CLOUDS: Final[dict[str, type[EmulatedCloud]]] = {
    "aws": EmulatedAws,
    "azure": EmulatedAzure,
    "vertex": EmulatedVertex,
}


def emulated(name: str, **about: Any) -> EmulatedCloud:
    """An emulated cloud by its name, not started; ``about`` are ``EmulatedCloud``'s parameters.
    Raises ConfigError for another name."""
    if name not in CLOUDS:
        raise unknown("emulated cloud", name, CLOUDS)
    return CLOUDS[name](**about)


def environment(clouds: Iterable[EmulatedCloud]) -> dict[str, str | None]:
    """The environment of a program that is to see all of these: None stands for a variable that
    must not be set. With one cloud alone it is also the default profile."""
    found = list(clouds)
    made: dict[str, str | None] = {}
    for cloud in found:
        made.update(dict.fromkeys(cloud.unset))
    for cloud in found:
        made.update(cloud.env)
    if len(found) == 1:
        made["CLOUDAI_PROFILE"] = found[0].name
    return made


def apply(
    variables: dict[str, str | None],
    put: Callable[[str, str], object],
    remove: Callable[[str], object],
) -> None:
    """Carries ``environment``'s answer out, by functions that set and remove one variable."""
    for name, value in variables.items():
        if value is None:
            remove(name)
        else:
            put(name, value)


def _no_proxy() -> dict[str, str]:
    """Loopback is not asked for through a proxy, whatever else is."""
    given = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    hosts = [host for host in given.split(",") if host]
    hosts += [host for host in ("127.0.0.1", "localhost") if host not in hosts]
    return dict.fromkeys(("NO_PROXY", "no_proxy"), ",".join(hosts))
