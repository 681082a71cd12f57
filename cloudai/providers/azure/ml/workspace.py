"""One workspace: its path in Resource Manager, its assets and its storage."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from cloudai._core.calls.until import LONG, cause, within
from cloudai._core.files.unpack import place
from cloudai._core.profiles import registry
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    AuthenticationError,
    CloudAIError,
    ConnectionFailed,
    MissingExtra,
    NotFound,
    PermissionDenied,
    ServiceUnavailable,
)
from cloudai.protocols import Call, Place
from cloudai.providers.azure import arm
from cloudai.providers.azure.session import loopback, session
from cloudai.types._base import invalid

API_VERSION: Final = "2025-12-01"
"""What azure-ai-ml 1.35 sends."""
DATA: Final = "workspaceblobstore"
"""The workspace's own datastore, where outputs go."""
ARTIFACTS: Final = "workspaceartifactstore"
"""Where the service keeps the logs of jobs."""

Files = dict[str, Path]
"""What travels: names with slashes, and where each file is."""


class Workspace:
    """The profile's workspace. Thread-safe."""

    def __init__(self, profile: Profile) -> None:
        self.session = session(profile)
        self.profile = profile

    @property
    def base(self) -> str:
        """Raises ConfigError where a key is missing."""
        profile, why = self.profile, "a workspace is found by it"
        return (
            f"/subscriptions/{quote(str(profile.require('subscription', why)), safe='')}"
            f"/resourceGroups/{quote(str(profile.require('resource_group', why)), safe='')}"
            "/providers/Microsoft.MachineLearningServices"
            f"/workspaces/{quote(str(profile.require('workspace', why)), safe='')}"
        )

    def place(self, call: Call) -> Place:
        """The subscription with its tenant and resource group, the workspace, and the address of
        Resource Manager where it is none of Microsoft's own."""
        profile = self.profile
        url = self.session.management_endpoint
        return Place(
            account=f"{profile.get('subscription')}/{profile.get('resource_group')}",
            tenant=arm.tenant(self.session, call),
            workspace=str(profile.get("workspace")),
            emulator=registry.mark(profile.spec, url),
        )

    def send(
        self,
        method: str,
        path: str,
        call: Call,
        body: Any = None,
        params: dict[str, str] | None = None,
    ) -> Any:
        """One request below the workspace, such as ``PUT jobs/x``; the decoded answer."""
        whole = f"{self.base}/{path}"
        return arm.send(self.session, method, whole, API_VERSION, call, body, params=params).body

    def listed(self, path: str, call: Call) -> list[Any]:
        return arm.pages(self.session, f"{self.base}/{path}", API_VERSION, call)

    def found(self, path: str, call: Call) -> Any:
        """The resource; None where there is none."""
        try:
            return self.send("GET", path, call)
        except NotFound:
            return None

    def id_of(self, path: str) -> str:
        """A resource's id in Resource Manager."""
        return f"{self.base}/{path}"

    def named(self, kind: str, given: str) -> str:
        """The id of an asset as users write it: ``azureml:NAME:VERSION``, ``NAME:VERSION``, or an
        id, which is taken as it is. The version defaults to 1."""
        if given.startswith(("azureml://", "/subscriptions/")):
            return given
        name, _, version = given.removeprefix("azureml:").partition(":")
        return self.id_of(f"{kind}/{name}/versions/{version or '1'}")

    def size_of(self, compute: str, call: Call) -> str | None:
        """The machines of a cluster, by its id or name; None where there is no such cluster."""
        found = self.found(f"computes/{compute.rpartition('/')[2]}", call) if compute else None
        about = ((found or {}).get("properties") or {}).get("properties") or {}
        return about.get("vmSize")

    # -- assets --------------------------------------------------------------------------

    def upload(self, kind: str, files: Files, call: Call) -> tuple[str, str]:
        """Puts files there as an asset named by their content; gives its id and where the files
        lie. What is there already is not sent again.

        Parameters
        ----------
        kind: ``codes`` or ``models``.
        """
        path = f"{kind}/{asset_name(files)}/versions/1"
        field = "codeUri" if kind == "codes" else "modelUri"
        known = self.found(path, call)
        if known is not None:
            return self.id_of(path), str(known["properties"][field])
        asked = {"pendingUploadType": "TemporaryBlobReference"}
        pending = self.send("POST", f"{path}/startPendingUpload", call, asked)
        blob = pending["blobReferenceForConsumption"]
        uri = str(blob["blobUri"]).rstrip("/")
        with (
            _container(str(blob["credential"]["sasUri"]), self.session.transport) as container,
            _storage_errors(uri, call),
        ):
            for name, file in files.items():
                with file.open("rb") as content:
                    container.upload_blob(name, content, overwrite=True)
        properties: dict[str, Any] = {field: uri}
        if kind == "codes":
            properties["isAnonymous"] = True
        else:
            properties["modelType"] = "custom_model"
        self.send("PUT", path, call, {"properties": properties})
        return self.id_of(path), uri

    # -- storage -------------------------------------------------------------------------

    @contextmanager
    def storage(self, datastore: str, call: Call) -> Generator[Any]:
        """A datastore's container, as azure-storage-blob has it."""
        about = self.send("GET", f"datastores/{datastore}", call)["properties"]
        secrets = self.send("POST", f"datastores/{datastore}/listSecrets", call, {})
        host = f"{about['accountName']}.blob.{about['endpoint']}"
        if loopback(str(about["endpoint"]).partition(":")[0]):
            host = f"{about['endpoint']}/{about['accountName']}"  # as Azurite has it
        url = f"{about.get('protocol', 'https')}://{host}/{about['containerName']}"
        sas, key = secrets.get("sasToken"), secrets.get("key")
        if sas:
            url = f"{url}?{str(sas).lstrip('?')}"
        with _container(
            url, self.session.transport, key or (None if sas else self.session.credential)
        ) as container:
            yield container

    @contextmanager
    def blob(self, uri: str, call: Call, field: str = "uri") -> Generator[tuple[Any, str]]:
        """The container and the name of a blob that a URI means. Raises InvalidRequest for one that
        is not read here."""
        store = _DATASTORE.match(uri)
        if store is not None:
            if store["workspace"] not in (None, self.profile.get("workspace")):
                mend = "Use azureml://datastores/NAME/paths/… of this one."
                raise invalid(field, uri, "lies in another workspace", mend)
            with self.storage(store["datastore"], call) as container:
                yield container, store["path"]
            return
        url, name = address(uri, field)
        with _container(url, self.session.transport, self.session.credential) as container:
            yield container, name

    def fetch(self, uri: str, to: Path, call: Call, field: str = "uri") -> None:
        """Copies a blob into a file. Raises NotFound, InvalidRequest."""
        with self.blob(uri, call, field) as (container, name), _storage_errors(uri, call):
            to.parent.mkdir(parents=True, exist_ok=True)
            with to.open("wb") as file:
                container.download_blob(name).readinto(file)

    def put(self, uri: str, file: Path, call: Call, field: str = "uri") -> None:
        """Writes a blob, over one that is there."""
        with (
            self.blob(uri, call, field) as (container, name),
            _storage_errors(uri, call),
            file.open("rb") as content,
        ):
            container.upload_blob(name, content, overwrite=True)

    def exists(self, uri: str, call: Call, field: str = "uri") -> bool:
        """Whether there is a blob."""
        with self.blob(uri, call, field) as (container, name), _storage_errors(uri, call):
            return bool(container.get_blob_client(name).exists())

    def read(self, datastore: str, name: str, call: Call, offset: int = 0) -> bytes:
        """A blob from ``offset`` on; nothing where it is not there, or no longer."""
        from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

        with self.storage(datastore, call) as container, _storage_errors(name, call):
            try:
                return container.download_blob(name, offset=offset or None).readall()
            except ResourceNotFoundError:
                return b""
            except HttpResponseError as error:
                if error.status_code == 416:  # nothing new
                    return b""
                raise

    def download(self, datastore: str, prefix: str, to: Path, call: Call) -> int:
        """Copies all blobs below a prefix into a folder; gives their number."""
        count = 0
        root = to.resolve()
        with self.storage(datastore, call) as container, _storage_errors(prefix, call):
            for name in list(container.list_blob_names(name_starts_with=f"{prefix}/")):
                target = place(root, name[len(prefix) + 1 :], prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    container.download_blob(name).readinto(file)
                count += 1
        return count

    def remove(self, datastore: str, prefix: str, call: Call) -> None:
        """Deletes all blobs below a prefix."""
        with self.storage(datastore, call) as container, _storage_errors(prefix, call):
            for name in list(container.list_blob_names(name_starts_with=f"{prefix}/")):
                container.delete_blob(name)


REMOTE: Final = ("azureml://", "https://", "abfss://", "wasbs://")


def remote(uri: str) -> bool:
    """Whether it lies in Azure's storage."""
    return uri.startswith(REMOTE)


def address(uri: str, field: str = "uri") -> tuple[str, str]:
    """A container's address and a blob's name in it. Raises InvalidRequest for what is no storage
    of Azure's, whom our token would be shown to, and for a signed address, which would be kept.

    ``abfss://`` and ``wasbs://`` name the container before the account ("Azure Blob Filesystem
    driver", read 2026-11); Data Lake's accounts answer as blob storage too.
    """
    parts = urlsplit(uri)
    path = unquote(parts.path).lstrip("/")
    if parts.scheme in {"abfss", "wasbs"}:
        container, _, host = parts.netloc.partition("@")
    elif loopback(parts.hostname or ""):  # as Azurite has it: the account is the path's first part
        account, _, path = path.partition("/")
        container, _, path = path.partition("/")
        host = f"{parts.netloc}/{account}"
    else:
        container, _, path = path.partition("/")
        host = parts.netloc
    if parts.query:
        mend = "Leave the query out: the profile's credential reads it."
        raise invalid(field, parts.path, "is a signed address, which would be written down", mend)
    if not (container and path and (loopback(parts.hostname or "") or _STORAGE.match(host))):
        mend = (
            "Use azureml://datastores/NAME/paths/PATH, abfss://CONTAINER@ACCOUNT.dfs.core.windows.net"
            "/PATH or https://ACCOUNT.blob.core.windows.net/CONTAINER/PATH."
        )
        raise invalid(field, uri, "is no blob of Azure Storage", mend)
    return f"https://{host.replace('.dfs.', '.blob.', 1)}/{container}", path


_DATASTORE: Final = re.compile(
    r"azureml://(?:subscriptions/[^/]+/resource[gG]roups/[^/]+/workspaces/(?P<workspace>[^/]+)/)?"
    r"datastores/(?P<datastore>[^/]+)/paths/(?P<path>.+)"
)
_STORAGE: Final = re.compile(
    r"[a-z0-9]{3,24}\.(?:blob|dfs)\.core\.(?:windows\.net|usgovcloudapi\.net|chinacloudapi\.cn)$"
)


def datastore_uri(path: str) -> str:
    """A place in the workspace's datastore, as jobs name it."""
    return f"azureml://datastores/{DATA}/paths/{path}"


def asset_name(files: Files) -> str:
    """A name that tells the files' content."""
    digest = hashlib.sha256()
    for name in sorted(files):
        content = hashlib.sha256(files[name].read_bytes()).hexdigest()
        digest.update(f"{name}\0{content}\0".encode())
    return f"cloudai-{digest.hexdigest()[:32]}"


@contextmanager
def _container(url: str, transport: Any, credential: Any = None) -> Generator[Any]:
    try:
        from azure.storage.blob import ContainerClient
    except ModuleNotFoundError:
        raise MissingExtra("azure-storage-blob", extra="azureml", provider="azure") from None
    for name in ("urllib3.connectionpool", "urllib3.util.retry"):
        logging.getLogger(name).addFilter(_unsigned)  # a filter that is there is not added again
    with ContainerClient.from_container_url(
        url, credential, retry_total=0, transport=transport
    ) as container:
        yield container


@contextmanager
def _storage_errors(what: str, call: Call) -> Generator[None]:
    """The storage SDK's errors as ours, and the call's end as its own."""
    from azure.core.exceptions import (
        AzureError,
        ClientAuthenticationError,
        HttpResponseError,
        ServiceRequestError,
        ServiceResponseError,
    )

    try:
        with within(call.remaining(LONG)):
            yield
    except CloudAIError as error:
        raise error from None  # as below
    except ClientAuthenticationError as error:
        if (failure := cause(error)) is not None:
            raise failure from None
        raise AuthenticationError(_line(what, error), provider="azure") from None
    except (ServiceRequestError, ServiceResponseError) as error:
        # Without its cause, whose message holds the whole signed address.
        raise ConnectionFailed(_line(what, error), provider="azure") from None
    except HttpResponseError as error:
        status = error.status_code or 500
        kind: type[CloudAIError] = ServiceUnavailable if status >= 500 else NotFound
        if status == 403:
            kind = PermissionDenied
        raise kind(_line(what, error), provider="azure", status=status) from None
    except AzureError as error:
        raise ServiceUnavailable(_line(what, error), provider="azure") from None


def _line(what: str, error: BaseException) -> str:
    told = (str(error).splitlines() or [""])[0]
    return f"storage of {what}: {_SIGNATURE.sub('sig=***', told)}"


_SIGNATURE: Final = re.compile(r"\bsig=[^&\s\"'\\)]+")


class _Unsigned(logging.Filter):
    """Takes the signatures out of the addresses that urllib3 writes to its log: azure-core, which
    takes them out of its own, has no say in that one."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                _SIGNATURE.sub("sig=***", str(arg)) if "sig=" in str(arg) else arg
                for arg in record.args
            )
        return True


_unsigned: Final = _Unsigned()
