"""Files through Cloud Storage, with the vendor's own client: it uploads in resumable pieces and
checks their checksums. Its retries are off; its tokens are the session's."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from cloudai._core.calls import failures
from cloudai._core.calls.until import LONG, left, within
from cloudai._core.files.tree import tree
from cloudai._core.files.unpack import place
from cloudai._core.profiles.config import Profile
from cloudai.errors import CloudAIError, Conflict, NotFound, PermissionDenied
from cloudai.protocols import Call
from cloudai.providers.vertex import errors
from cloudai.providers.vertex.session import VertexSession
from cloudai.types._base import invalid

T = TypeVar("T")

PARALLEL: Final = 8
"""Objects under way at once; requests keeps 10 connections to a host."""


DUAL: Final[dict[str, tuple[str, ...]]] = {
    "asia1": ("asia-northeast1", "asia-northeast2"),
    "eur4": ("europe-north1", "europe-west4"),
    "eur5": ("europe-west1", "europe-west2"),
    "eur7": ("europe-west2", "europe-west3"),
    "eur8": ("europe-west3", "europe-west6"),
    "nam4": ("us-central1", "us-east1"),
}
"""The regions of the predefined dual-regions ("Bucket locations", Cloud Storage documentation;
ASIA1 read 2026-11-30, the others as remembered); of one that the owner put together the bucket
itself tells them."""


class Files:
    """The objects that one profile may reach."""

    def __init__(self, session: VertexSession) -> None:
        self._session = session
        self._client: Any = None
        self._locations: dict[str, tuple[str, ...]] = {}

    @classmethod
    def of(cls, profile: Profile) -> Files:
        """The files of a profile, for ``profile.shared``."""
        return cls(profile.shared(VertexSession.of))

    def _bucket(self, uri: str) -> tuple[Any, str]:
        bucket, name = split(uri)
        if self._client is None:
            from google.cloud import storage

            own = _credentials(self._session)
            self._client = storage.Client(
                project=self._session.project,
                credentials=own,
                client_options={"api_endpoint": self._session.url("storage")},
                _http=self._session.requests(own),
            )
        return self._client.bucket(bucket), name

    def put(self, uri: str, data: bytes, call: Call, *, generation: int | None = None) -> None:
        """Writes an object. ``generation`` is the one it replaces; 0: there must be none.
        Raises Conflict where it is another."""
        with mapped(call):
            bucket, name = self._bucket(uri)
            bucket.blob(name).upload_from_string(
                data,
                content_type="application/octet-stream",
                if_generation_match=generation,
                timeout=call.remaining(LONG),
                retry=None,
            )

    def put_file(self, uri: str, path: Path, call: Call, *, generation: int | None = None) -> None:
        """Writes an object from a file."""
        with mapped(call):
            bucket, name = self._bucket(uri)
            bucket.blob(name).upload_from_filename(
                str(path), if_generation_match=generation, timeout=call.remaining(LONG), retry=None
            )

    def put_folder(self, uri: str, folder: Path, call: Call) -> None:
        """Writes what travels of a folder below a URI."""
        base = uri.rstrip("/")
        self._bucket(base)  # the client is made here rather than in several threads
        _each(
            lambda one: self.put_file(f"{base}/{one[0]}", one[1], call),
            list(tree(folder, field="inputs").files.items()),
        )

    def get(self, uri: str, call: Call) -> bytes:
        """An object's bytes. Raises NotFound."""
        with mapped(call):
            bucket, name = self._bucket(uri)
            found: bytes = bucket.blob(name).download_as_bytes(
                timeout=call.remaining(LONG), retry=None
            )
            return found

    def version(self, uri: str, call: Call) -> tuple[bytes, int]:
        """An object's bytes and generation. Raises NotFound."""
        with mapped(call):
            bucket, name = self._bucket(uri)
            blob = bucket.blob(name)
            blob.reload(timeout=call.remaining(LONG), retry=None)
            generation = int(blob.generation)
            made = bucket.blob(name, generation=generation)
            return made.download_as_bytes(timeout=call.remaining(LONG), retry=None), generation

    @property
    def home(self) -> str:
        """The folder of the profile's ledger."""
        return str(self._session.profile.home)

    def get_file(self, uri: str, path: Path, call: Call) -> None:
        """Copies an object into a file."""
        with mapped(call):
            bucket, name = self._bucket(uri)
            path.parent.mkdir(parents=True, exist_ok=True)
            bucket.blob(name).download_to_filename(
                str(path), timeout=call.remaining(LONG), retry=None
            )

    def get_folder(self, uri: str, folder: Path, call: Call) -> None:
        """Copies what lies below a URI, or the one object it names, into a folder. Raises
        NotFound where there is nothing, InvalidRequest for a name that would lead out."""
        base = uri.rstrip("/")
        names = list(self.names(base + "/", call))
        wanted = [
            (name, place(folder, name[len(base) + 1 :], base))
            for name in names
            if not name.endswith("/")  # a folder's marker
        ]
        _each(lambda one: self.get_file(one[0], one[1], call), wanted)
        if not names:
            self.get_file(base, folder / base.rpartition("/")[2], call)

    def copy_folder(self, uri: str, to: str, call: Call) -> None:
        """Copies what lies below a URI below another, inside Cloud Storage."""
        base, new = uri.rstrip("/"), to.rstrip("/")
        _each(
            lambda name: self._copy(name, f"{new}/{name[len(base) + 1 :]}", call),
            list(self.names(base + "/", call)),
        )

    def _copy(self, uri: str, to: str, call: Call) -> None:
        with mapped(call):
            source, from_name = self._bucket(uri)
            target, to_name = self._bucket(to)
            blob, made = source.blob(from_name), target.blob(to_name)
            token: str | None = None
            while True:  # a large object takes several calls
                token, _, _ = made.rewrite(
                    blob, token=token, timeout=call.remaining(LONG), retry=None
                )
                if token is None:
                    break

    def exists(self, uri: str, call: Call) -> bool:
        """Whether there is an object of this name, or any below it."""
        base = uri.rstrip("/")
        return any(name == base or name.startswith(base + "/") for name in self.names(base, call))

    def names(self, uri: str, call: Call) -> Iterator[str]:
        """The URIs of the objects whose names begin so, in order."""
        with mapped(call):
            bucket, prefix = self._bucket(uri)
            pages = self._client.list_blobs(
                bucket, prefix=prefix, timeout=call.remaining(LONG), retry=None
            ).pages
        while True:
            with mapped(call):
                page = next(pages, None)
                blobs = [] if page is None else list(page)
            for blob in blobs:
                yield f"gs://{bucket.name}/{blob.name}"
            if page is None:
                return

    def remove(self, uri: str, call: Call) -> None:
        """Removes an object; harmless where there is none."""
        try:
            with mapped(call):
                bucket, name = self._bucket(uri)
                bucket.blob(name).delete(timeout=call.remaining(LONG), retry=None)
        except NotFound:
            pass

    def remove_folder(self, uri: str, call: Call) -> None:
        """Removes all objects below a URI."""
        _each(lambda name: self.remove(name, call), list(self.names(uri.rstrip("/") + "/", call)))

    @contextmanager
    def undone(self, folder: str, call: Call) -> Generator[None]:
        """Takes back what was put below a URI when the work it was for is refused for good; what
        may still be, or be tried again, keeps its files."""
        try:
            yield
        except CloudAIError as error:
            if not error.ambiguous and not error.retryable:
                with suppress(CloudAIError):
                    self.remove_folder(folder, call)
            raise

    def check_region(self, bucket: str, call: Call) -> None:
        """Refuses a bucket that lies in another region than the work: it would be slow, charged
        for, and refused by most of Vertex AI."""
        region = self._session.location.lower()
        if region == "global":
            return  # work that lies nowhere in particular reads any bucket
        places = self._locations.get(bucket)
        if places is None:
            try:
                with mapped(call):
                    self._bucket(f"gs://{bucket}/")
                    found = self._client.get_bucket(
                        bucket, timeout=call.remaining(LONG), retry=None
                    )
            except PermissionDenied:
                # Who may write objects need not be allowed to look at the bucket itself.
                return
            location = str(found.location).lower()
            places = DUAL.get(location) or tuple(
                str(one).lower() for one in found.data_locations or (location,)
            )
            self._locations[bucket] = places
        if not any(_within(region, place) or _within(place, region) for place in places):
            raise invalid(
                "bucket",
                bucket,
                f"is in {' and '.join(places)}, and the work would be in {region}",
                f"Use a bucket in {region}, or another location.",
            )

    def check_input(self, field: str, uri: str, call: Call) -> None:
        """Refuses an input in a bucket where nothing lies. Who may not look is believed: the
        work has an account of its own."""
        if not uri.startswith("gs://"):
            return
        try:
            there = self.exists(uri, call)
        except NotFound:
            there = False
        except PermissionDenied:
            return
        if not there:
            raise invalid(field, uri, "does not exist", "Mend the URI.")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


def _each(function: Callable[[T], None], items: Sequence[T]) -> None:
    """Calls it for each item, several at once. The first error ends it, and is raised."""
    if len(items) < 2:
        for item in items:
            function(item)
        return
    with ThreadPoolExecutor(min(PARALLEL, len(items)), thread_name_prefix="cloudai-gcs") as pool:
        running = [pool.submit(function, item) for item in items]
        try:
            for one in running:
                one.result()
        except BaseException:
            for one in running:
                one.cancel()
            raise


def _within(place: str, larger: str) -> bool:
    """Whether a region is a place, or lies in a multi-region such as ``us`` or ``eu``."""
    return place == larger or place.startswith({"eu": "europe"}.get(larger, larger) + "-")


def split(uri: str) -> tuple[str, str]:
    """Bucket and name of a ``gs://`` URI. Raises InvalidRequest for another."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    if not uri.startswith("gs://") or not bucket:
        raise invalid("uri", uri, "is not gs://BUCKET/NAME")
    return bucket, name


def _credentials(session: VertexSession) -> Any:
    from google.auth.credentials import Credentials

    class Shared(Credentials):
        """The session's tokens, for the vendor's client: one refresh serves both."""

        def refresh(self, request: Any) -> None:
            session.tokens.headers(left(60.0))

        def before_request(
            self, request: Any, method: str, url: str, headers: dict[str, str]
        ) -> None:
            headers.update(session.tokens.headers(left(60.0)))

    return Shared()


@contextmanager
def mapped(call: Call) -> Generator[None]:
    """Turns the errors of the storage client into ours, and the call's end into its own."""
    from google.api_core.exceptions import GoogleAPICallError, RetryError
    from google.cloud.exceptions import ClientError
    from requests.exceptions import ConnectionError as NoConnection
    from requests.exceptions import RequestException, Timeout
    from urllib3.exceptions import ReadTimeoutError

    try:
        with within(call.remaining(LONG)):
            yield
    except CloudAIError:  # our transport's; one is a TimeoutError too
        raise
    except (GoogleAPICallError, ClientError) as error:
        status = int(error.code or 500)
        text = error.message.encode()
        found = errors.from_response(status, {}, text)
        if status == 412:
            raise Conflict(
                "the object was changed, or is there already", provider=errors.PROVIDER
            ) from None
        raise found from None
    except Timeout:
        raise failures.late(errors.PROVIDER, "Cloud Storage") from None
    except (NoConnection, RetryError, RequestException) as error:
        if error.args and isinstance(error.args[0], ReadTimeoutError):
            raise failures.late(errors.PROVIDER, "Cloud Storage") from None
        raise failures.unreachable(error, errors.PROVIDER, "Cloud Storage", sent=True) from None
    except OSError as error:
        raise invalid("path", error.filename, f"cannot be used ({error.strerror})") from None
