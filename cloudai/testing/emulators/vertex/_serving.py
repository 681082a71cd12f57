"""Models and endpoints: uploaded, deployed, given traffic."""

from __future__ import annotations

import re
from typing import Any

from cloudai.testing.emulators.vertex import _schema
from cloudai.testing.emulators.vertex._http import Refused, Request, Router
from cloudai.testing.emulators.vertex._identity import Logging
from cloudai.testing.emulators.vertex._jobs import Executor, check_labels
from cloudai.testing.emulators.vertex._operations import Operations
from cloudai.testing.emulators.vertex._state import VertexState, fits, page, stamp


class Serving:
    """The model and endpoint services.

    Attributes
    ----------
    upload_seconds, create_seconds, deploy_seconds: of the clock, that each takes.
    failures: pattern on a DeployedModel's display name → why it does not come up.
    """

    def __init__(self, cloud_state: VertexState, operations: Operations, logging: Logging) -> None:
        self._cloud_state = cloud_state
        self._operations = operations
        self._logging = logging
        self.executor: Executor | None = None
        self.models: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.failures: dict[str, str] = {}
        self.upload_seconds = 0.02
        self.create_seconds = 0.02
        self.deploy_seconds = 0.1

    def routes(self, router: Router) -> None:
        for version in ("v1", "v1beta1"):
            parent = f"/{version}/projects/{{project}}/locations/{{location}}"
            router.add("POST", f"{parent}/models:upload", self._upload)
            router.add("GET", f"{parent}/models", self._list_models)
            router.add("GET", f"{parent}/models/{{id}}", self._get_model)
            router.add("DELETE", f"{parent}/models/{{id}}", self._delete_model)
            router.add("POST", f"{parent}/endpoints", self._create)
            router.add("GET", f"{parent}/endpoints", self._list)
            one = f"{parent}/endpoints/{{id}}"
            router.add("GET", one, self._get)
            router.add("PATCH", one, self._patch)
            router.add("DELETE", one, self._delete)
            for method, handler in (
                ("deployModel", self._deploy),
                ("undeployModel", self._undeploy),
            ):
                router.add("POST", f"{one}:{method}", handler)

    # -- models ------------------------------------------------------------------------------

    def _upload(self, request: Request, project: str, location: str) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
        version = request.path.split("/")[1]
        whole = {**request.json, "parent": parent}
        body = _schema.checked(
            version, "UploadModelRequest", whole, ignored=self._cloud_state.ignored
        )
        model = body["model"]
        id = body.get("modelId") or self._cloud_state.number()
        if not re.fullmatch(r"[a-z0-9_-]{1,63}", id):
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid model_id: {id}")
        check_labels(model.get("labels", {}))
        container = model.get("containerSpec")
        if container is not None and not container.get("imageUri"):
            raise Refused(400, "INVALID_ARGUMENT", "model.container_spec.image_uri is required.")
        if model.get("artifactUri", "gs://").startswith("gs://") is False:
            raise Refused(400, "INVALID_ARGUMENT", "model.artifact_uri must be a gs:// directory.")
        name = f"{parent}/models/{id}"
        if name in self.models:
            raise Refused(409, "ALREADY_EXISTS", f'The Model "{name}" already exists.')
        now = stamp(self._cloud_state.clock.now())
        self.models[name] = {
            **model, "name": name, "versionId": "1", "createTime": now, "updateTime": now,
            "supportedDeploymentResourcesTypes": ["DEDICATED_RESOURCES"],
        }  # fmt: skip
        return self._operations.start(
            name,
            "UploadModelOperationMetadata",
            self.upload_seconds,
            lambda: ("UploadModelResponse", {"model": name, "modelVersionId": "1"}),
        )

    def model(self, name: str) -> dict[str, Any]:
        """A Model by its resource name, with or without a version."""
        bare = name.partition("@")[0]
        if bare not in self.models:
            raise Refused(404, "NOT_FOUND", f'The Model "{name}" does not exist.')
        return self.models[bare]

    def _get_model(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        return self.model(f"{self._cloud_state.parent(project, location)}/models/{id}")

    def _list_models(self, request: Request, project: str, location: str) -> dict[str, Any]:
        self._cloud_state.parent(project, location)
        wanted = request.query.get("filter", "")
        found = [model for model in self.models.values() if fits(model, wanted)]
        return page(found, request.query, "models")

    def _delete_model(
        self, request: Request, project: str, location: str, id: str
    ) -> dict[str, Any]:
        model = self.model(f"{self._cloud_state.parent(project, location)}/models/{id}")
        for endpoint in self.endpoints.values():
            if any(one["model"] == model["name"] for one in endpoint["deployedModels"]):
                raise Refused(
                    400,
                    "FAILED_PRECONDITION",
                    f'The Model "{model["name"]}" is deployed at "{endpoint["name"]}".',
                )

        def effect() -> tuple[str, dict[str, Any]]:
            self.models.pop(model["name"], None)
            if self.executor is not None:
                self.executor.on_delete(model)
            return "Empty", {}

        return self._operations.start(model["name"], "DeleteOperationMetadata", 0.0, effect)

    def tuned(self, parent: str, label: str, labels: dict[str, str]) -> tuple[str, str]:
        """A tuned model behind an endpoint of its own, as a tuning job makes them; their names."""
        now = stamp(self._cloud_state.clock.now())
        model = f"{parent}/models/{self._cloud_state.number()}"
        endpoint = f"{parent}/endpoints/{self._cloud_state.number()}"
        common: dict[str, Any] = {
            "displayName": label, "labels": labels, "createTime": now, "updateTime": now,
        }  # fmt: skip
        self.models[model] = {**common, "name": model, "versionId": "1"}
        own = self._cloud_state.number()
        self.endpoints[endpoint] = {
            **common, "name": endpoint, "etag": own, "trafficSplit": {own: 100},
            "deployedModels": [
                {"id": own, "model": model, "modelVersionId": "1", "displayName": label}
            ],
        }  # fmt: skip
        return model, endpoint

    # -- endpoints ---------------------------------------------------------------------------

    def _create(self, request: Request, project: str, location: str) -> dict[str, Any]:
        parent = self._cloud_state.parent(project, location)
        version = request.path.split("/")[1]
        body = _schema.checked(version, "Endpoint", request.json, ignored=self._cloud_state.ignored)
        id = request.query.get("endpointId") or self._cloud_state.number()
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?|[1-9][0-9]{0,9}", id):
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid endpoint_id: {id}")
        check_labels(body.get("labels", {}))
        name = f"{parent}/endpoints/{id}"
        if name in self.endpoints:
            raise Refused(409, "ALREADY_EXISTS", f'The Endpoint "{name}" already exists.')
        now = self._cloud_state.clock.now()
        made = {
            **body, "name": name, "createTime": stamp(now), "updateTime": stamp(now),
            "etag": self._cloud_state.number(), "deployedModels": [], "trafficSplit": {},
        }  # fmt: skip
        if body.get("dedicatedEndpointEnabled"):
            made["dedicatedEndpointDns"] = f"{id}.{location}-1.prediction.vertexai.goog"
        self.endpoints[name] = made
        return self._operations.start(
            name, "CreateEndpointOperationMetadata", self.create_seconds, lambda: ("Endpoint", made)
        )

    def endpoint(self, project: str, location: str, id: str) -> dict[str, Any]:
        """An Endpoint. Raises Refused where there is none."""
        name = f"{self._cloud_state.parent(project, location)}/endpoints/{id}"
        if name not in self.endpoints:
            raise Refused(404, "NOT_FOUND", f'The Endpoint "{name}" does not exist.')
        return self.endpoints[name]

    def _get(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        return self.endpoint(project, location, id)

    def _list(self, request: Request, project: str, location: str) -> dict[str, Any]:
        self._cloud_state.parent(project, location)
        wanted = request.query.get("filter", "")
        found = [one for one in self.endpoints.values() if fits(one, wanted)]
        return page(found, request.query, "endpoints")

    def _patch(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        endpoint = self.endpoint(project, location, id)
        version = request.path.split("/")[1]
        body = _schema.checked(
            version, "Endpoint", request.json, ignored=self._cloud_state.ignored, partial=True
        )
        mask = [name for name in request.query.get("updateMask", "").split(",") if name]
        if not mask:
            raise Refused(400, "INVALID_ARGUMENT", "update_mask is required.")
        if body.get("etag") and body["etag"] != endpoint["etag"]:
            raise Refused(409, "ABORTED", "The etag does not match the Endpoint's.")
        for name in mask:
            key = re.sub(r"_(\w)", lambda m: m[1].upper(), name)
            if key not in {"displayName", "description", "labels", "trafficSplit"}:
                raise Refused(400, "INVALID_ARGUMENT", f"Field {name} cannot be updated.")
            if key == "trafficSplit":
                self._check_split(
                    body.get(key, {}), {one["id"] for one in endpoint["deployedModels"]}
                )
            endpoint[key] = body.get(key, {} if key in {"labels", "trafficSplit"} else "")
        self._touch(endpoint)
        return endpoint

    def _touch(self, endpoint: dict[str, Any]) -> None:
        endpoint["etag"] = self._cloud_state.number()
        endpoint["updateTime"] = stamp(self._cloud_state.clock.now())

    def _check_split(self, split: dict[str, int], ids: set[str]) -> None:
        unknown = set(split) - ids
        if unknown:
            told = f"traffic_split names no DeployedModel: {sorted(unknown)}"
            raise Refused(400, "INVALID_ARGUMENT", told)
        if split and sum(split.values()) != 100:
            raise Refused(400, "INVALID_ARGUMENT", "The traffic_split must add up to 100.")

    def _busy(self, endpoint: dict[str, Any]) -> None:
        if self._operations.running(endpoint["name"]):
            raise Refused(
                400,
                "FAILED_PRECONDITION",
                "There are other operations running on the Endpoint. Try again later.",
            )

    def _deploy(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        endpoint = self.endpoint(project, location, id)
        version = request.path.split("/")[1]
        whole = {**request.json, "endpoint": endpoint["name"]}
        body = _schema.checked(
            version, "DeployModelRequest", whole, ignored=self._cloud_state.ignored
        )
        one = body["deployedModel"]
        if not one.get("model"):
            raise Refused(400, "INVALID_ARGUMENT", "deployed_model.model is required.")
        model = self.model(one["model"])
        if not {"dedicatedResources", "automaticResources", "sharedResources"} & set(one):
            raise Refused(400, "INVALID_ARGUMENT", "deployed_model: resources are required.")
        own = one.get("id") or self._cloud_state.number()[:10]
        if not re.fullmatch(r"[0-9]{1,10}", own):
            raise Refused(400, "INVALID_ARGUMENT", f"Invalid deployed_model.id: {own}")
        if any(other["id"] == own for other in endpoint["deployedModels"]):
            raise Refused(409, "ALREADY_EXISTS", f"The DeployedModel {own} already exists.")
        split = body.get("trafficSplit", {})
        self._check_split(split, {"0", *(other["id"] for other in endpoint["deployedModels"])})
        self._busy(endpoint)
        told = self._cloud_state.told.take("endpoints", "Vertex AI")

        label = one.get("displayName") or model["displayName"]
        fate = next((why for word, why in self.failures.items() if re.search(word, label)), None)
        if told == "FAILED":
            fate = "emulated failure"
        # What is told to fail is not loaded.
        executor = self.executor if fate is None and told != "CAPACITY" else None
        due = self._cloud_state.clock.now() + self.deploy_seconds

        def ready() -> bool:
            loads = executor is not None and executor.starting(model)
            return not loads and self._cloud_state.clock.now() >= due

        def effect() -> tuple[str, dict[str, Any]]:
            if told == "CAPACITY":
                raise Refused(
                    429,
                    "RESOURCE_EXHAUSTED",
                    "Resources are insufficient in region: no capacity. Machine type temporarily "
                    "unavailable, please deploy with a different machine type or retry.",
                )
            why = executor.on_deploy(model) if executor is not None else fate
            if why is not None:
                labels = {"endpoint_id": id, "deployed_model_id": own}
                for line in why.splitlines():
                    self._logging.write("aiplatform.googleapis.com/Endpoint", labels, line)
                raise Refused(
                    400,
                    "FAILED_PRECONDITION",
                    f"Model server never became ready. Please validate that your model file or "
                    f"container configuration are valid. {why}",
                )
            made = {
                **one, "id": own, "displayName": label, "modelVersionId": "1",
                "createTime": stamp(self._cloud_state.clock.now()),
            }  # fmt: skip
            resources = one.get("dedicatedResources")
            if resources:
                made["status"] = {"availableReplicaCount": resources.get("minReplicaCount", 1)}
            endpoint["deployedModels"].append(made)
            endpoint["trafficSplit"] = {
                (own if key == "0" else key): share for key, share in split.items()
            }
            self._touch(endpoint)
            return "DeployModelResponse", {"deployedModel": made}

        kind = "DeployModelOperationMetadata"
        return self._operations.start(endpoint["name"], kind, 0.0, effect, ready)

    def _undeploy(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        endpoint = self.endpoint(project, location, id)
        version = request.path.split("/")[1]
        whole = {**request.json, "endpoint": endpoint["name"]}
        body = _schema.checked(
            version, "UndeployModelRequest", whole, ignored=self._cloud_state.ignored
        )
        gone = body["deployedModelId"]
        rest = {one["id"] for one in endpoint["deployedModels"]} - {gone}
        if len(rest) == len(endpoint["deployedModels"]):
            raise Refused(404, "NOT_FOUND", f"The DeployedModel {gone} does not exist.")
        split = body.get("trafficSplit")
        if split is None:
            split = {key: value for key, value in endpoint["trafficSplit"].items() if key != gone}
        self._check_split(split, rest)
        self._busy(endpoint)

        def effect() -> tuple[str, dict[str, Any]]:
            endpoint["deployedModels"] = [
                one for one in endpoint["deployedModels"] if one["id"] != gone
            ]
            endpoint["trafficSplit"] = split
            self._touch(endpoint)
            return "UndeployModelResponse", {}

        return self._operations.start(
            endpoint["name"], "UndeployModelOperationMetadata", self.create_seconds, effect
        )

    def _delete(self, request: Request, project: str, location: str, id: str) -> dict[str, Any]:
        endpoint = self.endpoint(project, location, id)
        if endpoint["deployedModels"]:
            raise Refused(
                400,
                "FAILED_PRECONDITION",
                f'The Endpoint "{endpoint["name"]}" has deployed models. Undeploy them first.',
            )
        self._busy(endpoint)

        def effect() -> tuple[str, dict[str, Any]]:
            self.endpoints.pop(endpoint["name"], None)
            return "Empty", {}

        return self._operations.start(endpoint["name"], "DeleteOperationMetadata", 0.0, effect)

    def predictions(
        self, model: dict[str, Any], instances: list[Any], parameters: Any
    ) -> list[Any]:
        """The executor's answer, or the instances again."""
        found = None
        if self.executor is not None:
            found = self.executor.on_predict(model, instances, parameters)
        return instances if found is None else found
