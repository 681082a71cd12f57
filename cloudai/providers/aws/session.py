"""What the adapters of one profile share: region, credentials, clients and connections.

botocore finds the credentials (environment, profiles, SSO, roles, containers, machines) and signs;
its clients do the control plane. Chat and embeddings are signed here and sent straight over the
pool, since a botocore client spends half a millisecond on each call. SDK retries are off.

Longer than other modules: credentials, clients and signing share one lock and one life.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import closing, suppress
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions as sdk
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials
from botocore.loaders import Loader, create_loader

from cloudai._core.calls import threads
from cloudai._core.calls.failures import Told
from cloudai._core.calls.http import Answer, Http, Stream
from cloudai._core.calls.network import network_of
from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile
from cloudai._core.profiles.secrets import Hidden
from cloudai._version import __version__
from cloudai.errors import (
    AuthenticationError,
    CallTimeout,
    CloudAIError,
    ConnectionFailed,
    MissingExtra,
    ProviderError,
)
from cloudai.protocols import Call, Place
from cloudai.providers.aws import catalog, errors, transport
from cloudai.providers.aws.settings import Settings, check_role
from cloudai.types._base import unknown

if TYPE_CHECKING:
    from cloudai._core.calls.aio import Aio, AsyncStream

T = TypeVar("T")

Asked: TypeAlias = tuple[str, str, str, bytes, Mapping[str, str]]
"""A request to a runtime service: the service, the operation, path, body and headers."""

_REGION: Final = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d\Z")

_STS: Final = 10.0
"""Seconds that STS may take to say whose the credentials are."""

_SIGNING: Final = {
    "bedrock-runtime": "bedrock",
    "sagemaker-runtime": "sagemaker",
}
"""The names that the services sign under, where they differ from the clients'."""


@cache
def _loader(data_path: str | None) -> Loader:
    """What reads the services' descriptions. It keeps them: all sessions have one, since reading
    those of SageMaker and S3 anew takes each client 0.2 s."""
    return create_loader(data_path)


class AwsSession(Settings):
    """The one session of a profile. Made by ``profile.shared(AwsSession)``; thread-safe."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._lock = threading.RLock()
        self._clients: dict[str, Any] = {}
        self._urls: dict[str, tuple[str, str]] = {}
        self._start()

    def _start(self) -> None:
        """Reads the AWS configuration and sets up the credentials; asks nobody yet."""
        name = self.profile.get("profile")
        source = botocore.session.Session(profile=name)
        try:
            source.get_scoped_config()
        except sdk.ProfileNotFound:
            raise unknown(
                "profile in the AWS configuration", name, source.available_profiles
            ) from None
        source.register_component("data_loader", _loader(source.get_config_variable("data_path")))
        self._source = source
        self._place: Place | None = None
        self.region = self._find_region()
        self.endpoint_url: str | None = self.profile.get("endpoint_url")
        self.network = network_of(self.profile, source.get_config_variable("ca_bundle"))
        self.http = Http("aws", self.network)
        self._aio: Aio | None = None
        self._emitter: Any = source.get_component("event_emitter")
        role = self.profile.get("assume_role")
        if role is not None:
            check_role("assume_role", role)
            signed = botocore.session.Session(profile=name)
            signed.register_component("data_loader", source.get_component("data_loader"))
            # The setter that boto3.Session itself uses is for fixed keys only.
            signed._credentials = DeferredRefreshableCredentials(  # type: ignore[attr-defined]
                refresh_using=partial(self._assume, role), method="assume-role"
            )
            self._botocore = signed
        else:
            self._botocore = source
        self._boto3 = boto3.Session(botocore_session=self._botocore, region_name=self.region)
        paths: list[str] = source.get_component("data_loader").search_paths
        if paths.count(paths[-1]) > 1:  # boto3 adds its own folder once a session
            paths.pop()
        self._emitter = self._botocore.get_component("event_emitter")

    def _find_region(self) -> str:
        region = self.profile.get("region") or self._source.get_config_variable("region")
        if region is None:
            self.profile.require("region", "the AWS configuration has none either")
        if not isinstance(region, str) or not _REGION.match(region):
            raise unknown("AWS region", str(region), self.regions())
        if region not in catalog.REGIONS and self.profile.get("endpoint_url") is None:
            known = self.regions()
            if region not in known:
                raise unknown("AWS region", region, known)
        return region

    def regions(self) -> list[str]:
        """The regions that botocore knows SageMaker in."""
        found: list[str] = []
        for partition in self._source.get_available_partitions():
            found += self._source.get_available_regions("sagemaker", partition)
        return sorted(found)

    @property
    def dns_suffix(self) -> str:
        """Such as ``amazonaws.com``."""
        resolver = self._source._get_internal_component("endpoint_resolver")
        found = resolver.construct_endpoint("ecr", self.region)
        return found["dnsSuffix"] if found else "amazonaws.com"

    def _assume(self, role: str) -> dict[str, str]:
        client = self._source.create_client(
            "sts", self.region, endpoint_url=self.endpoint_url, config=_CONFIG
        )
        answer = client.assume_role(RoleArn=role, RoleSessionName="cloudai")["Credentials"]
        return {
            "access_key": answer["AccessKeyId"],
            "secret_key": answer["SecretAccessKey"],
            "token": answer["SessionToken"],
            "expiry_time": answer["Expiration"].isoformat(),
        }

    def client(self, service: str) -> Any:
        """boto3's client of a service; made once, retries off, over the shared pool."""
        found = self._clients.get(service)
        if found is None:
            with self._lock:
                found = self._clients.get(service)
                if found is None:
                    found = self._made(service)
                    self._clients[service] = found
        return found

    def _made(self, service: str) -> Any:
        try:
            client = self._boto3.client(service, endpoint_url=self.endpoint_url, config=_CONFIG)
        except (ValueError, sdk.BotoCoreError) as error:
            raise errors.from_sdk(error) from error
        client._endpoint.http_session = transport.BotocoreSession(self.http)
        return client

    def place(self, call: Call) -> Place:
        """The account that the credentials belong to, the region, and the address where it is
        none of AWS's own. STS is asked once, a question that needs no right; where it cannot be
        reached the account stays unknown."""
        if self._place is None:
            account = ""
            with suppress(ConnectionFailed, CallTimeout):
                soon = Call(time.monotonic() + min(_STS, call.remaining()))
                account = str(self.call("sts", "get_caller_identity", soon)["Account"])
            url = self.client("sagemaker").meta.endpoint_url
            mark = registry.mark(self.profile.spec, url)
            made = Place(account=account, region=self.region, emulator=mark)
            if not account:
                return made  # asked again the next time
            self._place = made
        return self._place

    def model(self, service: str) -> Any:
        """botocore's description of a service."""
        return self._source.get_service_model(service)

    def call(self, service: str, operation: str, call: Call | None, **parameters: Any) -> Any:
        """One operation of the control plane, by the client's method name. Raises CloudAIError.

        Credentials that were refused as expired are looked up anew, once: a long wait outlasts
        those that something else (``aws sso login``) renews in a file.
        """

        def ask() -> Any:
            send = getattr(self.client(service), operation)
            try:
                return send(**parameters)
            except CloudAIError:
                raise
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                # botocore's parsers, of an answer that is none of the service's.
                raise ProviderError(
                    f"the answer of {service}:{operation} cannot be read ({error})", provider="aws"
                ) from None

        return Told("aws", f"{service}:{operation}", self.within(call, ask))

    def within(self, call: Call | None, work: Callable[[], T]) -> T:
        """``work``, with botocore's requests held to the call's deadline and its errors mapped."""
        token = transport.remaining.set(call.remaining if call is not None else None)
        try:
            return self._renewing(work)
        finally:
            transport.remaining.reset(token)

    def _renewing(self, work: Callable[[], T]) -> T:
        started = self._botocore
        try:
            return errors.mapped(work)
        except AuthenticationError as error:
            if error.code not in errors.EXPIRED or not self._renew(started):
                raise
        return errors.mapped(work)

    def _renew(self, stale: Any) -> bool:
        """Looks the credentials up anew; False where they are still the same ones."""
        with self._lock:
            if self._botocore is not stale:
                return True
            before = self._frozen().access_key
            clients, self._clients = self._clients, {}
            http, aio, urls = self.http, self._aio, self._urls
            self._start()
            self.http, self._aio, self._urls = http, aio, urls
            if self._frozen().access_key == before:
                self._clients = clients
                return False
            return True

    def _frozen(self) -> Any:
        """The credentials of now; renewed first where they are about to expire."""
        found = self._botocore.get_credentials()
        if found is None:
            raise AuthenticationError(
                "no AWS credentials were found",
                provider="aws",
                hint="Set AWS_PROFILE or AWS_ACCESS_KEY_ID, run aws sso login, or name profile "
                "in cloudai.toml",
            )
        return found.get_frozen_credentials()

    # The short way: signed here, sent over the pool.

    def base(self, service: str) -> tuple[str, str]:
        """The service's ``scheme://host`` and the beginning of its paths."""
        found = self._urls.get(service)
        if found is None:
            # A client is made for its URL alone: botocore knows every rule of it (partitions,
            # FIPS, dual stack, AWS_ENDPOINT_URL_…, services in the configuration).
            url = urlsplit(self.client(service).meta.endpoint_url)
            found = self._urls[service] = (f"{url.scheme}://{url.netloc}", url.path.rstrip("/"))
        return found

    def send(
        self,
        service: str,
        operation: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        call: Call,
    ) -> Answer:
        """One POST to a runtime service, and its answer with a status below 300. Raises
        CloudAIError."""
        base, target = self._target(service, path)

        def ask() -> Answer:
            signed = self._signed(service, base + target, body, headers)
            mocked = self._mocked(service, operation, base + target, signed, body)
            left = call.remaining()
            return mocked or self.http.send("POST", base, target, signed, body, left)

        started = self._botocore
        answer = ask()
        if answer.status >= 300:
            error = errors.from_response(service, operation, answer)
            if error.code not in errors.EXPIRED or not self._renew(started):
                raise error
            answer = ask()
            if answer.status >= 300:
                raise errors.from_response(service, operation, answer)
        return answer

    async def asend(
        self,
        service: str,
        operation: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        call: Call,
    ) -> Answer:
        """The async twin of ``send``."""
        base, target = self._target(service, path)

        async def ask() -> Answer:
            signed = await self._asigned(service, base + target, body, headers)
            mocked = self._mocked(service, operation, base + target, signed, body)
            left = call.remaining()
            return mocked or await self.aio.send("POST", base, target, signed, body, left)

        started = self._botocore
        answer = await ask()
        if answer.status >= 300:
            error = errors.from_response(service, operation, answer)
            if error.code not in errors.EXPIRED or not await threads.run(self._renew, started):
                raise error
            answer = await ask()
            if answer.status >= 300:
                raise errors.from_response(service, operation, answer)
        return answer

    def open(
        self,
        service: str,
        operation: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        call: Call,
    ) -> Stream:
        """Like ``send``, its body still to be read."""
        base, target = self._target(service, path)

        def ask() -> Stream:
            signed = self._signed(service, base + target, body, headers)
            mocked = self._mocked(service, operation, base + target, signed, body)
            left = call.remaining()
            return (
                _Mocked(mocked)
                if mocked
                else self.http.open("POST", base, target, signed, body, left)
            )

        started = self._botocore
        stream = ask()
        if stream.status >= 300:
            error = errors.from_response(service, operation, _whole(stream, stream.read()))
            if error.code not in errors.EXPIRED or not self._renew(started):
                raise error
            stream = ask()
            if stream.status >= 300:
                raise errors.from_response(service, operation, _whole(stream, stream.read()))
        return stream

    async def aopen(
        self,
        service: str,
        operation: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        call: Call,
    ) -> AsyncStream:
        """The async twin of ``open``."""
        base, target = self._target(service, path)

        async def ask() -> AsyncStream:
            signed = await self._asigned(service, base + target, body, headers)
            mocked = self._mocked(service, operation, base + target, signed, body)
            left = call.remaining()
            if mocked is not None:
                return cast("AsyncStream", _AsyncMocked(mocked))
            return await self.aio.open("POST", base, target, signed, body, left)

        started = self._botocore
        stream = await ask()
        if stream.status >= 300:
            with closing(stream):
                error = errors.from_response(
                    service, operation, _whole(stream, await stream.read())
                )
            if error.code not in errors.EXPIRED or not await threads.run(self._renew, started):
                raise error
            stream = await ask()
            if stream.status >= 300:
                with closing(stream):
                    raise errors.from_response(
                        service, operation, _whole(stream, await stream.read())
                    )
        return stream

    @property
    def aio(self) -> Aio:
        """The connections under asyncio. Raises MissingExtra without aiohttp."""
        if self._aio is None:
            with self._lock:
                if self._aio is None:
                    try:
                        from cloudai._core.calls.aio import Aio
                    except ModuleNotFoundError:
                        raise MissingExtra("aiohttp", extra="bedrock", provider="aws") from None
                    self._aio = Aio("aws", self.network)
        return self._aio

    def _target(self, service: str, path: str) -> tuple[str, str]:
        base, prefix = self.base(service)
        return base, prefix + path

    def _mocked(
        self, service: str, operation: str, url: str, signed: dict[str, str], body: bytes
    ) -> Answer | None:
        """What an in-process mock (moto) answers: on this event, as to botocore's requests."""
        prepared = AWSPreparedRequest("POST", url, signed, body, False)
        event = f"before-send.{service}.{operation}"
        for _, answer in self._emitter.emit(event, request=prepared):
            if answer is not None:
                return Answer(answer.status_code, answer.headers, answer.content)
        return None

    async def _asigned(
        self, service: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        found: Any = self._botocore._credentials
        needed = getattr(found, "refresh_needed", None)
        if found is None or (needed is not None and needed()):  # they have to be asked for
            return await threads.run(self._signed, service, url, body, headers)
        return self._signed(service, url, body, headers)

    def _signed(
        self, service: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        if service == "bedrock-runtime":
            # Bedrock's API key goes before credentials, as it does in the SDKs.
            token = Hidden(os.environ.get("AWS_BEARER_TOKEN_BEDROCK", ""))
            if token:
                bearer = Hidden(f"Bearer {token}")
                return {**headers, "User-Agent": _AGENT, "Authorization": bearer}
        request = AWSRequest("POST", url, dict(headers), body)
        try:
            SigV4Auth(self._frozen(), _SIGNING[service], self.region).add_auth(request)
        except (sdk.BotoCoreError, sdk.ClientError) as error:
            raise errors.from_sdk(error) from error
        made: dict[str, str] = dict(request.headers.items())
        for name in ("Authorization", "X-Amz-Security-Token"):
            if name in made:
                made[name] = Hidden(made[name])
        made["User-Agent"] = _AGENT
        return made

    def close(self) -> None:
        with self._lock:
            self._clients = {}
            self.http.close()
            if self._aio is not None:
                self._aio.close()


def _whole(stream: Stream | AsyncStream, data: bytes) -> Answer:
    return Answer(stream.status, stream.headers, data)


class _Mocked(Stream):
    """A mock's answer as a stream."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.data = answer.data
        self.heard = lambda: None

    def __iter__(self) -> Iterator[bytes]:
        yield self.data

    def read(self) -> bytes:
        return self.data

    def close(self) -> None:
        """There is nothing open."""


class _AsyncMocked(_Mocked):
    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.data

    async def read(self) -> bytes:  # type: ignore[override]
        return self.data


_AGENT: Final = f"cloudai/{__version__} {botocore.session.Session().user_agent()}"

_CONFIG: Final = Config(
    retries={"total_max_attempts": 1, "mode": "standard"},
    user_agent_extra=f"cloudai/{__version__}",
    # Trailing checksums cost a pass over every upload, and S3 reckons its own.
    request_checksum_calculation="when_required",
    response_checksum_validation="when_required",
)


def session(profile: Profile) -> AwsSession:
    """The session of a profile."""
    try:
        return profile.shared(AwsSession)
    except CloudAIError:
        raise
    except sdk.BotoCoreError as error:
        raise errors.from_sdk(error) from error
