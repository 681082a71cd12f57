"""What the adapters of one profile share: region, credentials, clients and connections.

botocore finds the credentials (environment, profiles, SSO, roles, containers, machines) and signs;
its clients do the control plane. Chat and embeddings are signed here and sent straight over the
pool, since a botocore client spends half a millisecond on each call. SDK retries are off.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore import exceptions as sdk
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials
from botocore.loaders import Loader, create_loader
from botocore.utils import get_environ_proxies

from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile
from cloudai._version import __version__
from cloudai.errors import AuthenticationError, CallTimeout, CloudAIError, ConnectionFailed
from cloudai.protocols import Call, Place
from cloudai.providers.aws import catalog, errors, transport
from cloudai.providers.aws.settings import Settings, check_role
from cloudai.types._base import unknown

T = TypeVar("T")

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
        verify = source.get_config_variable("ca_bundle")
        proxies = get_environ_proxies(self.endpoint_url or "https://amazonaws.com")
        self.pool = transport.Pool(verify, proxies)
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
        client._endpoint.http_session = transport.BotocoreSession(self.pool)
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
        token = transport.remaining.set(call.remaining if call is not None else None)
        try:
            return self._renewing(
                lambda: getattr(self.client(service), operation)(**parameters),
            )
        finally:
            transport.remaining.reset(token)

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
            pool, urls = self.pool, self._urls
            self._start()
            self.pool, self._urls = pool, urls
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
        *,
        stream: bool = False,
    ) -> Any:
        """One POST to a runtime service: urllib3's response, with a status below 300.

        Raises CloudAIError. With ``stream`` the body is still to be read.
        """
        started = self._botocore
        response = self._sent(service, operation, path, body, headers, call, stream)
        if response.status < 300:
            return response
        error = errors.from_response(service, operation, response.status, response)
        if error.code in errors.EXPIRED and self._renew(started):
            response = self._sent(service, operation, path, body, headers, call, stream)
            if response.status < 300:
                return response
            error = errors.from_response(service, operation, response.status, response)
        raise error

    def _sent(
        self,
        service: str,
        operation: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        call: Call,
        stream: bool,
    ) -> Any:
        base, prefix = self.base(service)
        target = prefix + path
        try:
            signed = self._signed(service, base + target, body, headers)
        except (sdk.BotoCoreError, sdk.ClientError) as error:
            raise errors.from_sdk(error) from error
        # In-process mocks (moto) answer on this event, as they do for botocore's own requests.
        event = f"before-send.{service}.{operation}"
        prepared = AWSPreparedRequest("POST", base + target, signed, body, stream)
        for _, answer in self._emitter.emit(event, request=prepared):
            if answer is not None:
                return _Mocked(answer)
        return self.pool.send("POST", base, target, signed, body, call.remaining(), stream=stream)

    def _signed(
        self, service: str, url: str, body: bytes, headers: Mapping[str, str]
    ) -> dict[str, str]:
        if service == "bedrock-runtime":
            # Bedrock's API key goes before credentials, as it does in the SDKs.
            token = os.environ.get("AWS_BEARER_TOKEN_BEDROCK")
            if token:
                return {**headers, "User-Agent": _AGENT, "Authorization": f"Bearer {token}"}
        request = AWSRequest("POST", url, dict(headers), body)
        SigV4Auth(self._frozen(), _SIGNING[service], self.region).add_auth(request)
        made: dict[str, str] = dict(request.headers.items())
        made["User-Agent"] = _AGENT
        return made

    def close(self) -> None:
        with self._lock:
            self._clients = {}
            self.pool.close()


class _Mocked:
    """A mock's answer, as urllib3's response."""

    def __init__(self, answer: Any) -> None:
        self.status: int = answer.status_code
        self.headers: Any = answer.headers
        self.data: bytes = answer.content

    def read_chunked(self) -> list[bytes]:
        return [self.data]

    chunked = True

    def read(self) -> bytes:
        return self.data

    def close(self) -> None:
        pass

    def release_conn(self) -> None:
        pass


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
