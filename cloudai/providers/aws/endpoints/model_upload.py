"""Models on their way to SageMaker: what is served, packed and put into S3."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from cloudai._core.files import pack
from cloudai._core.files import tree as files
from cloudai._core.files.paths import here
from cloudai._core.handlers import container
from cloudai._core.handlers.handler import find_handler
from cloudai.errors import UnsupportedByProvider
from cloudai.protocols import Call
from cloudai.providers.aws import catalog, images, package, s3
from cloudai.providers.aws.session import AwsSession
from cloudai.types._base import invalid


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model and what serves it.

    Parameters
    ----------
    uri: as the spec has it. code: what is put beside it; None for an image of one's own.
    digest: of all of it. target: where its archive will lie; None where it is taken as it is.
    """

    uri: str
    code: package.Code | None
    digest: str
    target: str | None


def source(
    uri: str,
    handler: str | None,
    requirements: str | None,
    image: str | None,
    base: str,
    field: str = "model",
) -> Source:
    """What has to be done with a model; pure but for local files. Raises InvalidRequest for a
    model or a handler that is missing.

    With an image of one's own and no handler the model goes as it is.
    """
    path = here(uri)
    if path is None and not s3.is_s3(uri):
        raise invalid(field, uri, "is not what SageMaker reads", "Use s3:// or a local path.")
    if path is not None and not path.exists():
        raise invalid(field, uri, "does not exist", "Give the directory of a trained model.")
    bare = image is not None and handler is None
    code = None if bare else package.Code(handler, requirements)
    if code is not None:
        code.check()
    if path is None:
        s3.parse(uri, field)
        if code is None:
            return Source(uri=uri, code=None, digest=s3.digest(uri), target=None)
        digest = s3.digest(uri, code.digest)
    elif path.is_dir():
        if code is not None:
            find_handler(path, code.handler)
        content = files.digest(files.tree(path, field=field).files)
        digest = s3.digest(content, code.digest if code is not None else "")
    else:
        digest = s3.digest(path.read_bytes(), code.digest if code is not None else "")
    return Source(uri=uri, code=code, digest=digest, target=f"{base}/model-{digest}/model.tar.gz")


def upload(store: s3.Store, found: Source, field: str, call: Call) -> str:
    """Puts the archive where it belongs, unless it lies there; gives the URI to serve."""
    if found.target is None:
        store.check_exists(found.uri, field, call)
        return found.uri
    if store.exists(found.target, call):
        return found.target
    path = here(found.uri)
    with tempfile.TemporaryDirectory(prefix="cloudai-") as draft:
        packed = Path(draft) / "model.tar.gz"
        with packed.open("wb") as out:
            if path is not None and path.is_dir():
                if found.code is not None:
                    package.write_model(out, path, found.code, field)
                else:
                    pack.write(out, {**files.tree(path, field=field).files})
            else:
                archive = path or Path(draft) / "fetched.tar.gz"
                if path is None:
                    store.check_exists(found.uri, field, call)
                    store.download(_archive(store, found.uri, field, call), archive, call)
                package.repack(archive, out, found.code or package.Code(None, None), found.uri)
        store.upload(packed, found.target, call)
    return found.target


def _archive(store: s3.Store, uri: str, field: str, call: Call) -> str:
    """The archive at a URI, or the one right below it."""
    if uri.endswith((".tar.gz", ".tgz")):
        return uri
    inner = s3.join(uri, "model.tar.gz")
    if not store.exists(inner, call):
        raise invalid(
            field, uri, "is no model.tar.gz, and has none",
            "Pack it, or name an image that reads the objects as they are.",
        )  # fmt: skip
    return inner


class Container(msgspec.Struct, frozen=True):
    """An inference image, and the environment that it is told where it is one's own."""

    image: str
    environment: dict[str, str] = {}

    @property
    def digest(self) -> str:
        """Of all of it."""
        if not self.environment:
            return self.image
        return s3.digest(msgspec.json.encode(self, order="sorted"))


def image(
    session: AwsSession,
    given: str | None,
    framework: str,
    machine: str | None,
    handled: bool,
    *,
    vpc: bool = False,
) -> Container:
    """The inference image: the one that is given, or AWS's own. Raises InvalidRequest for one
    that SageMaker cannot pull, UnsupportedByProvider for a framework whose image takes no
    handler."""
    if given is not None:
        told = container.settings(given).sagemaker
        session.check_image(told.image, vpc=vpc)
        return Container(told.image, told.environment)
    if handled and framework.startswith("tensorflow"):
        raise UnsupportedByProvider(
            f"framework={framework!r} with a handler (its image is TF Serving, which takes none)",
            provider="aws",
            alternative="Name an image of your own, or use pytorch or huggingface",
            field="framework",
            value=framework,
        )
    chip = catalog.chip(machine or "")
    return Container(
        images.image(framework, "inference", session.region, chip=chip, suffix=session.dns_suffix)
    )
