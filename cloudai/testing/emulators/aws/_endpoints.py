"""SageMaker's endpoints: coming up, updates and their rollbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cloudai.testing.emulators.aws import _named_fates, _stores
from cloudai.testing.emulators.aws._sagemaker import (
    existing,
    invalid,
    listed,
    looked,
    new,
    summary,
)
from cloudai.testing.emulators.aws._state import NO_PING, STATE, Echo


def create_endpoint(region: str, parameters: dict[str, Any]) -> Any:
    config = existing(region, "EndpointConfig", parameters["EndpointConfigName"])
    made = new(region, "Endpoint", parameters)
    made["Config"] = config
    made["Ready"] = STATE.now() + STATE.endpoint_seconds
    made["EndpointStatus"] = "Creating"
    made["Told"] = _named_fates.endpoint()
    made["Served"] = _serve(region, config, made["Told"])
    return {"EndpointArn": made["Arn"]}


def _serve(region: str, config: dict[str, Any], told: str | None) -> dict[str, Any]:
    """What serves each variant; nothing really does where it is told to fail."""
    served: dict[str, Any] = {}
    for variant in config["ProductionVariants"]:
        model = existing(region, "Model", variant["ModelName"])
        container = model.get("PrimaryContainer") or model["Containers"][0]
        served[variant["VariantName"]] = (
            STATE.executor.serve(container, STATE) if told is None else Echo(None, None)
        )
    return served


def _close(served: dict[str, Any], *, gently: bool = False) -> None:
    for one in served.values():
        one.close(gently=gently)


def settle(region: str, endpoint: dict[str, Any]) -> None:
    """Lets an endpoint come up, or fail, when its time has come."""
    if endpoint["EndpointStatus"] not in {"Creating", "Updating"}:
        return
    if STATE.now() < endpoint["Ready"]:
        return
    pending = endpoint.pop("Pending", None)
    if pending is not None:
        config, served, alarms, told = pending
        failed = (
            told is not None
            or bool(alarms & STATE.alarms)
            or any(one.problem() is not None for one in served.values())
        )
        if failed:
            _close(served)
        else:
            _close(endpoint["Served"], gently=True)
            endpoint["Config"], endpoint["Served"] = config, served
            endpoint["EndpointConfigName"] = config["EndpointConfigName"]
        endpoint["RolledBack"] = failed
        endpoint["EndpointStatus"] = "InService"
        return
    told = endpoint["Told"]
    if told is not None:
        name = next(iter(endpoint["Served"]))
        endpoint["EndpointStatus"] = "Failed"
        endpoint["FailureReason"] = told.format(variant=name)
        return
    for name, served in endpoint["Served"].items():
        problem = served.problem()
        if problem is not None:
            endpoint["EndpointStatus"] = "Failed"
            endpoint["FailureReason"] = NO_PING.format(variant=name)
            lines = [(STATE.now(), line) for line in problem.splitlines()]
            group = f"/aws/sagemaker/Endpoints/{endpoint['EndpointName']}"
            _stores.log(region, group, f"{name}/i-0123456789", lines, 0)
            return
    endpoint["EndpointStatus"] = "InService"


def describe_endpoint(region: str, parameters: dict[str, Any]) -> Any:
    endpoint = existing(region, "Endpoint", parameters["EndpointName"])
    settle(region, endpoint)
    config = endpoint["Config"]
    up = endpoint["EndpointStatus"] != "Creating"
    made: dict[str, Any] = {
        name: endpoint[name]
        for name in (
            "EndpointName", "EndpointArn", "EndpointConfigName", "EndpointStatus",
            "CreationTime", "LastModifiedTime", "FailureReason",
        )
        if name in endpoint
    }  # fmt: skip
    made["ProductionVariants"] = [
        {
            "VariantName": one["VariantName"],
            "CurrentWeight": one.get("InitialVariantWeight", 1.0),
            "DesiredWeight": one.get("InitialVariantWeight", 1.0),
            "CurrentInstanceCount": one.get("InitialInstanceCount", 0) if up else 0,
            "DesiredInstanceCount": one.get("InitialInstanceCount", 0),
            **(
                {"CurrentServerlessConfig": one["ServerlessConfig"]}
                if "ServerlessConfig" in one
                else {}
            ),
        }
        for one in config["ProductionVariants"]
    ]
    if "AsyncInferenceConfig" in config:
        made["AsyncInferenceConfig"] = config["AsyncInferenceConfig"]
    if "Pending" in endpoint:
        pending = endpoint["Pending"][0]
        made["PendingDeploymentSummary"] = {"EndpointConfigName": pending["EndpointConfigName"]}
    if "DeploymentConfig" in endpoint:
        made["LastDeploymentConfig"] = endpoint["DeploymentConfig"]
    return made


def update_endpoint(region: str, parameters: dict[str, Any]) -> Any:
    endpoint = existing(region, "Endpoint", parameters["EndpointName"])
    settle(region, endpoint)
    if endpoint["EndpointStatus"] != "InService":
        raise invalid(f'Cannot update in-progress endpoint "{endpoint["Arn"]}".')
    config = existing(region, "EndpointConfig", parameters["EndpointConfigName"])
    deployment = parameters.get("DeploymentConfig", {})
    alarms = deployment.get("AutoRollbackConfiguration", {}).get("Alarms", [])
    names = {alarm["AlarmName"] for alarm in alarms}
    told = _named_fates.endpoint()
    endpoint["Pending"] = (config, _serve(region, config, told), names, told)
    endpoint["DeploymentConfig"] = deployment or None
    endpoint["Ready"] = STATE.now() + STATE.endpoint_seconds
    endpoint["EndpointStatus"] = "Updating"
    return {"EndpointArn": endpoint["Arn"]}


def delete_endpoint(region: str, parameters: dict[str, Any]) -> Any:
    name = parameters["EndpointName"]
    endpoint = existing(region, "Endpoint", name)
    settle(region, endpoint)
    if endpoint["EndpointStatus"] == "Updating":
        raise invalid(f'Cannot update in-progress endpoint "{endpoint["Arn"]}".')
    _close(endpoint["Served"])
    STATE.drop(region, "Endpoint", name)


def list_endpoints(region: str, parameters: dict[str, Any]) -> Any:
    found: list[dict[str, Any]] = []
    for one in listed(region, "Endpoint", parameters):
        settle(region, one)
        found.append({**summary(one, "Endpoint"), "EndpointStatus": one["EndpointStatus"]})
    return {"Endpoints": found}


def tick(region: str) -> None:
    """Looks at every training job, so that its logs are written."""
    for job in STATE.of(region, "TrainingJob"):
        looked(region, job["TrainingJobName"])
    for endpoint in STATE.of(region, "Endpoint"):
        settle(region, endpoint)


OPERATIONS: Final[dict[str, Callable[[str, dict[str, Any]], Any]]] = {
    "CreateEndpoint": create_endpoint,
    "DescribeEndpoint": describe_endpoint,
    "UpdateEndpoint": update_endpoint,
    "DeleteEndpoint": delete_endpoint,
    "ListEndpoints": list_endpoints,
}
