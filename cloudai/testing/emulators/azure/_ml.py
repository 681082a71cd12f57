"""Azure ML, emulated: assets, command jobs, online and batch endpoints of one workspace.

Longer than other modules: all its routes work on the one workspace's tables.
"""

from __future__ import annotations

import datetime
import json
import threading
import uuid
import warnings
from typing import Any, Final

from cloudai.testing.emulators.azure import _shapes
from cloudai.testing.emulators.azure._blobs import STORE
from cloudai.testing.emulators.azure._http import Refused, Request, Response, Routes
from cloudai.testing.emulators.azure._state import AzureState

API_VERSIONS: Final = {
    # Those that azure-ai-ml 1.35 sends, which are several, one an operation.
    "2022-02-01-preview",
    "2022-05-01",
    "2022-10-01",
    "2022-10-01-preview",
    "2023-02-01-preview",
    "2023-04-01",
    "2023-04-01-preview",
    "2023-06-01-preview",
    "2023-08-01-preview",
    "2023-10-01",
    "2024-01-01-preview",
    "2024-04-01-preview",
    "2024-07-01-preview",
    "2024-10-01",
    "2024-10-01-preview",
    "2025-01-01-preview",
    "2025-06-01",
    "2025-09-01",
    "2025-12-01",
}
CREATING: Final = 0.5
"""Seconds of the emulator's clock that endpoints and deployments take."""
_BATCH_JOB: Final = {
    "name", "inputData", "outputData", "properties", "compute", "dataset", "errorThreshold",
    "miniBatchSize", "outputDataset", "outputFileName", "retrySettings",
}  # fmt: skip
"""What azure-ai-ml 1.35 sends (``BatchJobSchema``)."""
_BATCH_NEEDS: Final = ("azureml-core", "azureml-dataset-runtime[fuse]")
_ENDED: Final = {"Completed", "Failed", "Canceled"}


class ModelError(Exception):
    """What a model's container answered, where that is not 200 (Troubleshoot online endpoints,
    "HTTP status codes", read 2025-08)."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        try:
            self.told: Any = json.loads(text)
        except ValueError:
            self.told = {"message": text}


class Running:
    """A job under way, as its executor sees it.

    Attributes
    ----------
    body: as it was asked for. cancelled: set when it is to stop.
    """

    def __init__(self, cloud_state: AzureState, name: str, body: dict[str, Any]) -> None:
        self.cloud_state = cloud_state
        self.name = name
        self.body = body
        self.cancelled = threading.Event()

    def log(self, text: str) -> None:
        """Adds to ``user_logs/std_log.txt``."""
        # Each process of a distributed job has its own.
        name = "std_log_process_0" if self.body["properties"].get("distribution") else "std_log"
        path = f"artifacts/ExperimentRun/dcid.{self.name}/user_logs/{name}.txt"
        with self.cloud_state.lock:
            self.cloud_state.blobs[path] = self.cloud_state.blobs.get(path, b"") + text.encode()

    def files(self, uri: str) -> dict[str, bytes]:
        """The blobs at or below a place, by what follows it."""
        path = blob_path(uri)
        with self.cloud_state.lock:
            if path in self.cloud_state.blobs:
                return {path.rpartition("/")[2]: self.cloud_state.blobs[path]}
            prefix = f"{path.rstrip('/')}/"
            return {
                n[len(prefix) :]: b
                for n, b in self.cloud_state.blobs.items()
                if n.startswith(prefix)
            }

    def put(self, uri: str, name: str, content: bytes) -> None:
        """Puts a blob below a place."""
        with self.cloud_state.lock:
            self.cloud_state.blobs[f"{blob_path(uri).rstrip('/')}/{name}"] = content

    def held(self, id: str) -> dict[str, Any]:
        """A resource by its id."""
        return self.cloud_state.ml[id.removeprefix(f"{self.cloud_state.workspace_id}/")]

    def asset(self, id: str, field: str) -> dict[str, bytes]:
        """The files of a code or model asset."""
        return self.files(self.held(id)["properties"][field])


def blob_path(uri: str) -> str:
    """Container and name of a blob's or folder's address."""
    if uri.startswith("azureml://datastores/"):
        return f"data/{uri.partition('/paths/')[2]}"
    return uri.partition(f"/{STORE}/")[2]


class MachineLearning:
    """``/subscriptions/…/workspaces/lab/…``, and the scoring addresses."""

    def __init__(self, cloud_state: AzureState) -> None:
        self._cloud_state = cloud_state
        self._running: dict[str, Running] = {}

    def routes(self, table: Routes) -> None:
        for method, pattern, handler in (
            ("GET", "", self._workspace),
            ("POST", "/{kind}/{name}/versions/{version}/startPendingUpload", self._pending),
            ("PUT", "/{kind}/{name}/versions/{version}", self._put_asset),
            ("GET", "/{kind}/{name}/versions/{version}", self._get_asset),
            ("GET", "/(?P<kind>codes|models|environments)", self._list_assets),
            ("GET", "/(?P<kind>codes|models|environments)/{name}/versions", self._list_versions),
            ("GET", "/datastores/{name}", self._datastore),
            ("POST", "/datastores/{name}/listSecrets", self._secrets),
            ("GET", "/computes/{name}", self._compute),
            ("GET", "/jobs", self._list_jobs),
            ("PUT", "/jobs/{name}", self._put_job),
            ("GET", "/jobs/{name}", self._get_job),
            ("DELETE", "/jobs/{name}", self._delete),
            ("POST", "/jobs/{name}/cancel", self._cancel),
            ("GET", "/(?P<kind>onlineEndpoints|batchEndpoints)", self._list_endpoints),
            ("PUT", "/(?P<kind>onlineEndpoints|batchEndpoints)/{name}", self._put_endpoint),
            ("GET", "/(?P<kind>onlineEndpoints|batchEndpoints)/{name}", self._get_endpoint),
            ("DELETE", "/(?P<kind>onlineEndpoints|batchEndpoints)/{name}", self._delete),
            ("POST", "/onlineEndpoints/{name}/listKeys", self._list_keys),
            ("GET", "/{kind}/{name}/deployments", self._list_deployments),
            ("PUT", "/{kind}/{name}/deployments/{deployment}", self._put_deployment),
            ("GET", "/{kind}/{name}/deployments/{deployment}", self._get_deployment),
            ("DELETE", "/{kind}/{name}/deployments/{deployment}", self._delete),
            ("POST", "/{kind}/{name}/deployments/{deployment}/getLogs", self._get_logs),
        ):
            table.add(
                method, f"{self._cloud_state.workspace_id}{pattern}", self._versioned(handler)
            )

    def _versioned(self, handler: Any) -> Any:
        def checked(request: Request) -> Response:
            if request.query.get("api-version") not in API_VERSIONS:
                raise Refused(400, "NoRegisteredProviderFound", "The api-version is not known.")
            return handler(request)

        return checked

    def _key(self, request: Request) -> str:
        return request.path.rstrip("/")[len(self._cloud_state.workspace_id) + 1 :]

    def _held(self, key: str) -> dict[str, Any]:
        found = self._cloud_state.ml.get(key)
        if found is None:
            raise Refused(404, "ResourceNotFound", f"The resource {key!r} was not found.")
        return found

    def _workspace(self, request: Request) -> Response:
        return Response(
            body={
                "id": self._cloud_state.workspace_id,
                "name": self._cloud_state.workspace,
                "location": self._cloud_state.location,
            }
        )

    def _compute(self, request: Request) -> Response:
        """The one cluster that is always there."""
        name = request.groups["name"]
        about = {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_DS3_v2"}}
        return Response(
            body={
                "id": f"{self._cloud_state.workspace_id}/computes/{name}",
                "name": name,
                "properties": about,
            }
        )

    # -- assets and storage --------------------------------------------------------------

    def _pending(self, request: Request) -> Response:
        name = request.groups["name"]
        uri = f"https://{request.host}/{STORE}/assets-{name}"
        sas = f"{uri}?sp=rcwl&sig={self._cloud_state.sas}"
        return Response(
            body={
                "pendingUploadType": "TemporaryBlobReference",
                "blobReferenceForConsumption": {
                    "blobUri": uri,
                    "credential": {"credentialType": "SAS", "sasUri": sas},
                },
            }
        )

    def _put_asset(self, request: Request) -> Response:
        kind = {
            "codes": "CodeVersion",
            "models": "ModelVersion",
            "environments": "EnvironmentVersion",
        }.get(request.groups["kind"])
        if kind is None:
            raise Refused(404, "404", "Resource not found")
        return self._keep(request, check(kind, request.json()))

    def _keep(self, request: Request, body: dict[str, Any], status: int = 201) -> Response:
        key = self._key(request)
        now = self._now()
        held = {
            **body,
            "id": f"{self._cloud_state.workspace_id}/{key}",
            "name": key.rpartition("/")[2],
            "systemData": {"createdAt": now, "lastModifiedAt": now},
        }
        with self._cloud_state.lock:
            self._cloud_state.ml[key] = held
        return Response(status=status, body=held)

    def _now(self) -> str:
        at = datetime.datetime.fromtimestamp(self._cloud_state.clock(), datetime.UTC)
        return at.isoformat()

    def _get_asset(self, request: Request) -> Response:
        return Response(body=self._held(self._key(request)))

    def _list_assets(self, request: Request) -> Response:
        kind = request.groups["kind"]
        with self._cloud_state.lock:
            names = {
                key.split("/")[1] for key in self._cloud_state.ml if key.startswith(f"{kind}/")
            }
        base = f"{self._cloud_state.workspace_id}/{kind}"
        items = [{"id": f"{base}/{n}", "name": n, "properties": {}} for n in sorted(names)]
        return Response(body={"value": items})

    def _list_versions(self, request: Request) -> Response:
        return self._listed(f"{self._key(request)}/")

    def _datastore(self, request: Request) -> Response:
        container = {"workspaceblobstore": "data", "workspaceartifactstore": "artifacts"}
        if request.groups["name"] not in container:
            raise Refused(404, "ResourceNotFound", "The datastore was not found.")
        return Response(
            body={
                "name": request.groups["name"],
                "properties": {
                    "datastoreType": "AzureBlob",
                    "accountName": STORE,
                    "containerName": container[request.groups["name"]],
                    "endpoint": request.host,
                    "protocol": "https",
                },
            }
        )

    def _secrets(self, request: Request) -> Response:
        token = f"sp=rcwdl&sig={self._cloud_state.sas}"
        return Response(body={"secretsType": "Sas", "sasToken": token})

    # -- jobs ----------------------------------------------------------------------------

    def _put_job(self, request: Request) -> Response:
        body = check("JobBase", request.json())
        properties, key = body["properties"], self._key(request)
        if properties.get("jobType") != "Command" or not properties.get("command"):
            raise Refused(400, "UserError", "Only command jobs, with a command, are served.")
        for field in ("environmentId",) + (("codeId",) if "codeId" in properties else ()):
            id = str(properties.get(field) or "")
            if id.startswith(self._cloud_state.workspace_id):
                self._held(id[len(self._cloud_state.workspace_id) + 1 :])
            elif not id.startswith("azureml://"):
                raise Refused(400, "UserError", f"{field} is required.")
        if "computeId" not in properties and not properties["resources"].get("instanceType"):
            raise Refused(400, "UserError", "Serverless compute needs an instanceType.")
        if key in self._cloud_state.ml:
            raise Refused(409, "Conflict", f"A job {key!r} exists.")
        properties["status"] = "NotStarted"
        response = self._keep(request, body)
        self._start(request.groups["name"], self._cloud_state.ml[key])
        return response

    def _start(self, name: str, held: dict[str, Any], of: str = "training") -> None:
        running = Running(self._cloud_state, name, held)
        self._running[name] = running
        fate = self._cloud_state.fate("jobs", "")
        told = self._cloud_state.told.take(of, "Azure ML")

        def run() -> None:
            held["properties"]["status"] = "Running"
            missing = self._missing(held)
            if missing:
                running.log(f"{missing}\n")
                ended = "Failed"
            elif told == "FAILED":  # it is not run
                running.log("emulated failure\n")
                ended = "Failed"
            else:
                try:
                    ended = self._cloud_state.executor.train(running)
                except BaseException as error:  # noqa: BLE001 - a script's sys.exit is the job's end
                    running.log(f"{type(error).__name__}: {error}\n")
                    ended = "Failed"
            if running.cancelled.is_set():
                ended = "Canceled"
            held["systemData"]["lastModifiedAt"] = self._now()
            held["properties"]["status"] = fate or ended

        threading.Thread(target=run, daemon=True).start()

    def _missing(self, job: dict[str, Any]) -> str:
        """What the log of a batch says whose environment lacks what batch deployments require; what
        an image has in it nobody looks at."""
        batch = job["properties"].get("batch")
        if batch is None:
            return ""
        id = str(batch["deployment"].get("environmentId"))
        held = self._cloud_state.ml.get(id.removeprefix(f"{self._cloud_state.workspace_id}/"), {})
        conda = held.get("properties", {}).get("condaFile")
        if conda is None or all(name in conda for name in _BATCH_NEEDS):
            return ""
        if _BATCH_NEEDS[0] not in conda:
            return "No module named 'azureml'"  # "Troubleshoot batch endpoints", read 2026-11
        # "Deploy models for scoring in batch endpoints", read 2026-11.
        return (
            "The packages azureml-core and azureml-dataset-runtime[fuse] are required by batch "
            "deployments and should be included in the environment dependencies."
        )

    def _list_jobs(self, request: Request) -> Response:
        return self._listed("jobs/")

    def _listed(self, prefix: str) -> Response:
        with self._cloud_state.lock:
            found = [
                item
                for key, item in self._cloud_state.ml.items()
                if key.startswith(prefix) and "/" not in key[len(prefix) :]
            ]
        return Response(body={"value": found})

    def _get_job(self, request: Request) -> Response:
        return Response(body=self._held(self._key(request)))

    def _cancel(self, request: Request) -> Response:
        name = request.groups["name"]
        held = self._held(f"jobs/{name}")
        if held["properties"]["status"] in _ENDED:
            raise Refused(400, "UserError", "The job has ended.")
        held["properties"]["status"] = "CancelRequested"
        self._running[name].cancelled.set()
        return Response(status=202)

    def _delete(self, request: Request) -> Response:
        key = self._key(request)
        with self._cloud_state.lock:
            if key not in self._cloud_state.ml:
                return Response(status=204)
            gone = [k for k in self._cloud_state.ml if k == key or k.startswith(f"{key}/")]
            for inner in gone:
                del self._cloud_state.ml[inner]
        for inner in gone:
            if inner.startswith("onlineEndpoints/") and inner.count("/") == 3:
                _, endpoint, _, deployment = inner.split("/")
                self._cloud_state.executor.unserve(endpoint, deployment)
        return Response(status=202)

    # -- endpoints -----------------------------------------------------------------------

    def _put_endpoint(self, request: Request) -> Response:
        online = request.groups["kind"].lower() == "onlineendpoints"
        kind = "OnlineEndpoint" if online else "BatchEndpoint"
        body = check(kind, request.json())
        if not body.get("location"):
            raise Refused(400, "LocationRequired", "The location property is required.")
        name, key = request.groups["name"], self._key(request)
        if not 3 <= len(name) <= 32:
            raise Refused(400, "UserError", "Endpoint names have 3 to 32 characters.")
        known = {
            k.rpartition("/")[2] for k in self._cloud_state.ml if k.startswith(f"{key}/deploy")
        }
        traffic: dict[str, int] = body["properties"].get("traffic") or {}
        if not set(traffic) <= known or sum(traffic.values()) not in {0, 100}:
            raise Refused(400, "UserError", f"The traffic {traffic} fits no deployments.")
        before = self._cloud_state.ml.get(key)
        path = "score" if online else "jobs"
        body["properties"]["scoringUri"] = f"https://{request.host}/{path}/{name}"
        ready = self._cloud_state.clock() + (0.0 if before else CREATING)
        body["properties"]["ready"] = ready
        response = self._keep(request, body, 200 if before else 201)
        return Response(status=response.status, body=self._shown(response.body))

    def _shown(self, held: dict[str, Any]) -> dict[str, Any]:
        properties = dict(held["properties"])
        ready = properties.pop("ready", 0.0)
        fate = properties.pop("fate", "Succeeded")
        young = ready > self._cloud_state.clock()
        properties["provisioningState"] = "Creating" if young else fate
        return {**held, "properties": properties}

    def _get_endpoint(self, request: Request) -> Response:
        return Response(body=self._shown(self._held(self._key(request))))

    _get_deployment = _get_endpoint

    def _list_endpoints(self, request: Request) -> Response:
        listed = self._listed(f"{request.groups['kind']}/")
        return Response(body={"value": [self._shown(item) for item in listed.body["value"]]})

    def _list_deployments(self, request: Request) -> Response:
        self._held(f"{request.groups['kind']}/{request.groups['name']}")
        listed = self._listed(f"{self._key(request)}/")
        return Response(body={"value": [self._shown(item) for item in listed.body["value"]]})

    def _put_deployment(self, request: Request) -> Response:
        online = request.groups["kind"].lower() == "onlineendpoints"
        kind = "OnlineDeployment" if online else "BatchDeployment"
        body = check(kind, request.json())
        self._held(f"{request.groups['kind']}/{request.groups['name']}")
        properties = body["properties"]
        model = properties["model"] if online else properties["model"]["assetId"]
        for id in (model, properties["environmentId"]):
            self._held(str(id)[len(self._cloud_state.workspace_id) + 1 :])
        self._check_server(properties, online=online)
        if online and not properties.get("instanceType"):
            raise Refused(400, "UserError", "instanceType is required.")
        if not online and not properties.get("compute"):
            raise Refused(400, "UserError", "compute is required.")
        if online and not properties.get("scaleSettings"):
            # The service shows it always: azure-ai-ml 1.35 reads it without asking.
            properties["scaleSettings"] = {"scaleType": "Default"}
        fate = self._cloud_state.fate("ml_deployments", "Succeeded")
        if online and self._cloud_state.told.take("endpoints", "Azure ML") == "FAILED":
            fate, properties["log"] = "Failed", "emulated failure\n"
        if online and fate == "Succeeded":
            problem = self._cloud_state.executor.serve(
                Running(self._cloud_state, "", body),
                request.groups["name"],
                request.groups["deployment"],
            )
            if problem is not None:
                fate, properties["log"] = "Failed", problem
        properties["fate"] = fate
        properties["ready"] = self._cloud_state.clock() + CREATING
        self._keep(request, body)
        return Response(status=201, body=self._shown(self._held(self._key(request))))

    def _check_server(self, properties: dict[str, Any], *, online: bool) -> None:
        """A scoring script, or an image that says where it is asked."""
        environment = self._cloud_state.ml[
            properties["environmentId"].removeprefix(f"{self._cloud_state.workspace_id}/")
        ]
        own = environment["properties"].get("inferenceConfig")
        if properties.get("codeConfiguration") is not None:
            self._held(
                str(properties["codeConfiguration"]["codeId"])[
                    len(self._cloud_state.workspace_id) + 1 :
                ]
            )
        elif not online or own is None:
            raise Refused(
                400,
                "BadRequest",
                "A deployment without codeConfiguration needs an environment with inferenceConfig.",
            )
        mount = properties.get("modelMountPath")
        if mount is not None and not mount.startswith("/"):
            raise Refused(400, "BadRequest", f"modelMountPath {mount!r} is no absolute path.")

    def _get_logs(self, request: Request) -> Response:
        held = self._held(self._key(request).removesuffix("/getLogs"))
        kept = held["properties"].get("log")  # why it did not come up
        if kept is None:
            name, deployment = request.groups["name"], request.groups["deployment"]
            kept = self._cloud_state.executor.log(name, deployment)
        return Response(body={"content": kept})

    def _list_keys(self, request: Request) -> Response:
        self._held(f"onlineEndpoints/{request.groups['name']}")
        return Response(
            body={"primaryKey": self._cloud_state.sas, "secondaryKey": self._cloud_state.sas}
        )


class Scoring:
    """``/score/ENDPOINT`` and ``/jobs/ENDPOINT``: where endpoints are asked."""

    def __init__(self, cloud_state: AzureState, ml: MachineLearning) -> None:
        self._cloud_state = cloud_state
        self._ml = ml
        self._asked = 0

    def routes(self, table: Routes) -> None:
        table.add("POST", "/score/{name}", self._score)
        table.add("POST", "/jobs/{name}", self._invoke)

    def admit(self, request: Request) -> None:
        """Raises Refused without the endpoint's key, or a token for a batch endpoint."""
        bearer = request.headers.get("authorization", "")
        if request.path.startswith("/score/"):
            fine = bearer == f"Bearer {self._cloud_state.sas}"
        else:
            # azure-ai-ml asks with a token for this, and no other.
            told = self._cloud_state.token_for(bearer) or ""
            fine = told.startswith("https://ml.azure.")
        if not fine:
            raise Refused(401, "key_auth_access_denied", "The key or token is wrong.")

    def _score(self, request: Request) -> Response:
        name = request.groups["name"]
        held = self._cloud_state.ml.get(f"onlineEndpoints/{name}")
        if held is None:
            raise Refused(404, "NotFound", "There is no such endpoint.")
        traffic: dict[str, int] = held["properties"].get("traffic") or {}
        chosen = request.headers.get("azureml-model-deployment")
        if chosen is None:
            chosen = self._by_traffic(traffic)
        headers = {"azureml-model-deployment": chosen}
        try:
            answer = self._cloud_state.executor.score(name, chosen, request.body.decode())
        except ModelError as error:
            headers["ms-azureml-model-error-statuscode"] = str(error.status)
            headers["ms-azureml-model-error-reason"] = "model_error"
            return Response(status=424, body=error.told, headers=headers)
        return Response(body=answer, headers=headers)

    def _by_traffic(self, traffic: dict[str, int]) -> str:
        self._asked += 37  # it goes through all hundred places in turn
        at = self._asked % 100
        for name, share in traffic.items():
            at -= share
            if at < 0:
                return name
        raise Refused(404, "NotFound", "No deployment has traffic.")

    def _invoke(self, request: Request) -> Response:
        name = request.groups["name"]
        deployment = self._cloud_state.ml.get(f"batchEndpoints/{name}/deployments/main")
        if deployment is None:
            raise Refused(404, "NotFound", "There is no such endpoint.")
        asked = request.json()["properties"]
        unknown = set(asked) - _BATCH_JOB
        if unknown:
            raise Refused(400, "UserError", f"Unknown fields of a batch job: {sorted(unknown)}.")
        job = str(asked.get("name") or f"batchjob-{uuid.uuid4()}")
        given = next(iter((asked.get("inputData") or {}).values()), None)
        made = next(iter((asked.get("outputData") or {}).values()), None)
        if given is None or "uri" not in given:
            raise Refused(400, "UserError", "inputData needs an entry with a uri.")
        output = (made or {}).get("uri") or (
            f"azureml://datastores/workspaceblobstore/paths/azureml/{job}/score"
        )
        with self._cloud_state.lock:
            if f"jobs/{job}" in self._cloud_state.ml:
                raise Refused(409, "Conflict", f"A job {job!r} exists.")
            now = self._ml._now()
            held: dict[str, Any] = {
                "id": f"{self._cloud_state.workspace_id}/jobs/{job}",
                "name": job,
                "systemData": {"createdAt": now, "lastModifiedAt": now},
                "properties": {
                    "jobType": "Pipeline",
                    "status": "NotStarted",
                    "displayName": job,
                    "batch": {
                        "deployment": deployment["properties"],
                        "input": given["uri"],
                        "output": output,
                    },
                },
            }
            self._cloud_state.ml[f"jobs/{job}"] = held
        self._ml._start(job, held, "batch")
        told = {"id": held["id"], "name": job, "type": "Microsoft.MachineLearningServices/jobs"}
        return Response(status=201, body={**told, "properties": {"status": "NotStarted"}})


def check(kind: str, body: Any) -> dict[str, Any]:
    """The body, where it is azure-ai-ml's own model of that name. Raises Refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK's own, at its import
        from azure.ai.ml._restclient.arm_ml_service import models

    return _shapes.check(body, getattr(models, kind))
