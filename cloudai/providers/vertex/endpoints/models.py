"""The models behind endpoints and batches: checked, put into the bucket, uploaded, removed."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from cloudai._core.files import requirements
from cloudai._core.files.paths import local_path
from cloudai._core.files.tree import tree
from cloudai._core.handlers import container, travel
from cloudai._core.handlers.handler import find_handler, siblings
from cloudai.errors import CloudAIError, Conflict, InvalidRequest, NotFound
from cloudai.protocols import Call
from cloudai.providers.vertex import SPEC, common
from cloudai.providers.vertex.endpoints import wire
from cloudai.providers.vertex.errors import PROVIDER
from cloudai.providers.vertex.gcs import Files
from cloudai.providers.vertex.resources import Resources, pauses
from cloudai.providers.vertex.session import VertexSession
from cloudai.types import Deployment, Variant, Violation


class Models:
    """The models of one profile.

    Parameters
    ----------
    folder: below ``cloudai/`` in the bucket, where those lie that cloudai puts there.
    """

    def __init__(self, session: VertexSession, files: Files, folder: str) -> None:
        self._session = session
        self._files = files
        self._folder = folder
        self._models = Resources(session, "models")

    def violations(self, spec: Deployment) -> list[Violation]:
        """What Vertex AI would refuse, and what is not there."""
        found = wire.violations(spec, self._session.location)
        if spec.mode != "realtime":
            found.append(
                Violation(
                    "mode", f"{spec.mode!r} is not offered.", SPEC.gaps["endpoints:serverless"]
                )
            )
        if spec.image is not None:
            try:
                container.settings(spec.image)
            except InvalidRequest as error:
                found.append(Violation("image", error.message, error.hint or ""))
        if spec.requirements is not None and spec.image is None:
            try:
                requirements.lines(spec.requirements)
            except InvalidRequest as error:
                found.append(Violation("requirements", error.message, error.hint or ""))
        for variant in spec.variants:
            if variant.uri.startswith("projects/"):
                problem = f"{variant.uri!r} is at Vertex AI already, not a directory."
                mend = "Chat with a tuned model by model=job.model.uri."
                found.append(Violation("model", problem, mend))
                continue
            if "://" in variant.uri:
                handler = variant.handler or spec.handler
                if handler is not None and not Path(handler).is_file():
                    found.append(Violation("handler", f"there is no file {handler!r}."))
                continue
            try:
                own = variant.handler or spec.handler
                folder = Path(variant.uri).expanduser()
                if spec.image is None or own is not None:
                    find_handler(folder, Path(own) if own is not None else None)
                if not folder.is_dir():
                    found.append(Violation("model", f"{variant.uri!r} is not a directory."))
                else:
                    tree(folder, field="model")
            except InvalidRequest as error:
                found.append(Violation(error.field or "model", error.message, error.hint or ""))
        return found

    def base(self, name: str) -> str:
        """Below which the files of an endpoint lie, where cloudai put them."""
        return f"gs://{self._session.bucket}/cloudai/{self._folder}/{name}"

    def artifact(self, spec: Deployment, variant: Variant) -> str:
        """Where a variant's model lies: where it is, unless something has to be put to it."""
        handler = variant.handler or spec.handler
        if variant.uri.startswith("gs://") and handler is None and spec.image is not None:
            return variant.uri.rstrip("/")
        return f"{self.base(spec.name)}/{variant.name}-{wire.suffix(spec)}"

    def upload(self, spec: Deployment, call: Call) -> None:
        """Puts the models into the bucket, and uploads what Vertex AI calls Models."""
        self._files.check_region(self._session.bucket, call)
        for variant in spec.variants:
            self.put(spec, variant, call)
        for variant in spec.variants:
            artifact = self.artifact(spec, variant)
            body = wire.model(spec, variant, artifact, self._session.location)
            try:
                made = self._models.ask("POST", f"{self._session.parent}/models:upload", body, call)
                self._models.wait(made, call)
            except Conflict:
                # An upload whose reply was lost: the id is made of our key.
                self._models.get(wire.model_id(spec, variant), call)

    def put(self, spec: Deployment, variant: Variant, call: Call) -> None:
        """Puts a variant's model where ``artifact`` says. Raises NotFound, InvalidRequest."""
        artifact = self.artifact(spec, variant)
        handler = variant.handler or spec.handler
        if variant.uri.startswith("gs://"):
            if not self._files.exists(variant.uri, call):
                raise NotFound(f"there is no model at {variant.uri}", provider=PROVIDER)
            if handler is None:
                names = ("handler.py", "code/inference.py", "inference.py")
                base = variant.uri.rstrip("/")
                if spec.image is None and not any(
                    self._files.exists(f"{base}/{name}", call) for name in names
                ):
                    raise InvalidRequest(
                        f"handler is not given, and {variant.uri} has none",
                        field="handler",
                        provider=PROVIDER,
                        hint="Name a Python file with load(model_dir) and predict(…)",
                    )
                if spec.image is not None:
                    return
            self._files.copy_folder(variant.uri, artifact, call)
        else:
            self._files.put_folder(artifact, local_path(variant.uri, "model"), call)
        if handler is not None:
            own = Path(handler)
            for name, file in {**siblings(own), "handler.py": own}.items():
                self._files.put_file(f"{artifact}/{name}", file, call)
        if spec.image is None:
            own = [] if spec.requirements is None else requirements.lines(spec.requirements)
            for name, data in travel.files(own).items():
                self._files.put(f"{artifact}/{travel.FOLDER}/{name}", data, call)

    def remove_all(self, name: str, call: Call, only: str | None = None) -> None:
        """Removes the Models of an endpoint; of one idempotency label where ``only`` names it."""
        wanted = f'labels.{wire.ENDPOINT_LABEL}="{name}"'
        if only is not None:
            wanted += f' AND labels.{common.KEY_LABEL}="{only}"'
        for model in list(self._models.list(wanted, call)):
            self.remove(model["name"], call)

    def discard(self, spec: Deployment, call: Call) -> None:
        """Removes all that was put there for one spec, by its idempotency key."""
        self.remove_all(spec.name, call, only=common.key_label(spec.idempotency_key or ""))
        for variant in spec.variants:
            artifact = self.artifact(spec, variant)
            if artifact.startswith(self.base(spec.name) + "/"):
                self._files.remove_folder(artifact, call)

    @contextmanager
    def undone(self, spec: Deployment, call: Call) -> Generator[None]:
        """Takes the Models and files of a deployment back when it is refused for good; what may
        still be, or be tried again, keeps them."""
        try:
            yield
        except CloudAIError as error:
            if not error.ambiguous and not error.retryable:
                with suppress(CloudAIError):
                    self.discard(spec, call)
            raise

    def remove(self, resource: str, call: Call) -> None:
        """Removes a Model and the files that cloudai made for it; harmless when it is gone."""
        with suppress(NotFound):
            found = self._models.get(resource, call)
            artifact = str(found.get("artifactUri") or "")
            label = found.get("labels", {}).get(wire.ENDPOINT_LABEL)
            # The Model first: one that is deployed is refused, and keeps its files.
            self._models.drop(resource, call)
            if label and artifact.startswith(self.base(label) + "/"):
                self._files.remove_folder(artifact, call)


def clear_endpoint(endpoints: Resources, resource: str, call: Call) -> None:
    """Undeploys all that an endpoint has, and removes it; harmless when it is gone."""
    for pause in pauses():
        try:
            endpoint = endpoints.get(resource, call)
            deployed = [one["id"] for one in endpoint.get("deployedModels", ())]
            if not deployed:
                endpoints.wait(endpoints.ask("DELETE", resource, None, call), call)
                return
            first, *rest = deployed
            split = wire.split(dict.fromkeys(rest, 1.0)) if rest else {}
            body = {"deployedModelId": first, "trafficSplit": split}
            made = endpoints.ask("POST", f"{resource}:undeployModel", body, call)
            endpoints.wait(made, call)
        except NotFound:
            return
        except Conflict:
            # A deployment under way has to end before it can be taken back.
            time.sleep(min(pause, call.remaining()))
