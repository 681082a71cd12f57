"""azure-ai-ml at the emulator, beside cloudai: what it makes itself, and what it finds.

Run by test_azure_sdk.py in a process of its own, with one JSON argument; its answer is the last
line.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from azure.ai.ml import Input, MLClient, command
from azure.ai.ml.entities import (
    BatchDeployment,
    BatchEndpoint,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
)
from azure.identity import ManagedIdentityCredential


def ended(client: MLClient, name: str) -> str:
    """The status of a job once it has ended."""
    end = time.monotonic() + 60
    while True:
        status = client.jobs.get(name).status
        told = str(getattr(status, "value", status))
        if told in {"Completed", "Failed", "Canceled"}:
            return told
        assert time.monotonic() < end, told
        time.sleep(0.2)


def train(client: MLClient, given: dict[str, Any]) -> dict[str, Any]:
    """A command of its own, and the job that cloudai made, with where its model is."""
    made = client.jobs.create_or_update(
        command(
            code=given["source"],
            command="python train.py --out ${{outputs.model}}",
            outputs={"model": {"type": "uri_folder", "mode": "rw_mount"}},
            environment="azureml://registries/azureml/environments/sklearn-1.5/versions/1",
            instance_type="Standard_DS3_v2",
        )
    )
    return {
        "made": made.name,
        "status": ended(client, made.name),
        "found": client.jobs.get(given["job"]).status,
        "listed": sorted(one.name for one in client.jobs.list()),
        "model": client.jobs.get(given["job"]).outputs["model"].path,
    }


def serve(client: MLClient, given: dict[str, Any]) -> dict[str, Any]:
    """The endpoint that cloudai made, and one of the same model, code and environment."""
    ours = client.online_endpoints.get(given["endpoint"])
    (deployed,) = client.online_deployments.list(given["endpoint"])
    endpoint = ManagedOnlineEndpoint(name="theirs", auth_mode="key")
    client.online_endpoints.begin_create_or_update(endpoint).result()
    client.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="blue",
            endpoint_name="theirs",
            model=deployed.model,
            environment=deployed.environment,
            code_configuration=deployed.code_configuration,
            environment_variables=deployed.environment_variables,
            instance_type=deployed.instance_type,
            instance_count=1,
        )
    ).result()
    endpoint.traffic = {"blue": 100}
    client.online_endpoints.begin_create_or_update(endpoint).result()
    request = given["request"]
    return {
        "traffic": ours.traffic,
        "machine": deployed.instance_type,
        "answers": [
            json.loads(client.online_endpoints.invoke(name, request_file=request))
            for name in (given["endpoint"], "theirs")
        ],
        "listed": sorted(one.name for one in client.online_endpoints.list()),
        "models": len(list(client.models.list())),
        "log": client.online_deployments.get_logs(deployed.name, given["endpoint"], lines=50),
    }


def batch(client: MLClient, given: dict[str, Any]) -> dict[str, Any]:
    """The batch endpoint that cloudai made, asked again (Z1: with this SDK's own token, fields and
    letters), and one of the same parts."""
    name = given["batch"]
    ours = client.batch_endpoints.get(name)
    deployed = client.batch_deployments.get("main", name)
    lines = Input(type="uri_folder", path=ours.properties["cloudai.input"])
    asked = client.batch_endpoints.invoke(
        endpoint_name=name, job_name="again", inputs={"input": lines}
    )
    client.batch_endpoints.begin_create_or_update(BatchEndpoint(name="theirs")).result()
    client.batch_deployments.begin_create_or_update(
        BatchDeployment(
            name="main",
            endpoint_name="theirs",
            model=deployed.model,
            environment=deployed.environment,
            code_configuration=deployed.code_configuration,
            environment_variables=deployed.environment_variables,
            compute=deployed.compute,
            instance_count=1,
            mini_batch_size=1,
            output_action="summary_only",
        )
    ).result()
    made = client.batch_endpoints.invoke(
        endpoint_name="theirs", deployment_name="main", inputs={"input": lines}
    )
    return {
        "asked": asked.name,
        "default": ours.defaults["deploymentName"],
        "again": ended(client, asked.name),
        "made": made.name,
        "status": ended(client, made.name),
        "listed": sorted(one.name for one in client.batch_endpoints.list()),
    }


def main() -> None:
    given = json.loads(Path(sys.argv[1]).read_text())
    client = MLClient(
        ManagedIdentityCredential(),
        os.environ["CLOUDAI_SUBSCRIPTION"],
        os.environ["CLOUDAI_RESOURCE_GROUP"],
        "lab",
        cloud=given["cloud"],
    )
    parts = {"training": train, "endpoint": serve, "batch": batch}
    found = {name: part(client, given) for name, part in parts.items()}
    print("\n" + json.dumps(found))  # the SDK prints dots before it


if __name__ == "__main__":
    main()
