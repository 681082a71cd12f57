"""What a SageMaker training container runs: prepares, then becomes cloudai's bootstrap.

Standard library only. ``cloudai_job.json`` beside it says what to do: ``script`` (the entry and
its arguments), ``requirements`` (a file, or null), ``secrets`` (variables by reference), ``files``
(names of inputs that are one file), ``region`` and ``fabric`` (variables of the network, by
instance type). The values of the secrets go into the environment of the script and nowhere else.

cloudai's entrypoint stands in for SageMaker's training toolkit, so that the variables which the
toolkit sets (``SM_CHANNEL_TRAIN``, ``SM_MODEL_DIR``, …) are set here: scripts that were written
for it run unchanged. ``CLOUDAI_ML_ROOT`` takes the place of ``/opt/ml`` in tests.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any, NoReturn

ML = os.environ.get("CLOUDAI_ML_ROOT", "/opt/ml")


def fail(text: str) -> NoReturn:
    """Ends the job with a reason, which SageMaker shows as FailureReason."""
    os.makedirs(f"{ML}/output", exist_ok=True)
    with open(f"{ML}/output/failure", "w", encoding="utf-8") as file:
        file.write(text)
    sys.exit(text)


def secret(reference: dict[str, Any], region: str | None) -> str:
    """The value of a reference. boto3 is in SageMaker's own images; others have to bring it."""
    try:
        import boto3
    except ImportError:
        fail("cloudai: secrets need boto3 in the image; name it in requirements")
    # SageMaker sets AWS_REGION, which boto3 does not look at.
    region = os.environ.get("AWS_REGION") or region
    name, version = reference["name"], reference.get("version")
    if reference["store"] == "ssm":
        client = boto3.client("ssm", region_name=region)
        full = f"{name}:{version}" if version else name
        return client.get_parameter(Name=full, WithDecryption=True)["Parameter"]["Value"]
    name, _, field = name.partition("#")
    about = {}
    if version:
        # Stages are AWSCURRENT, AWSPREVIOUS, AWSPENDING or one's own; ids are UUIDs.
        about["VersionStage" if len(version) < 32 else "VersionId"] = version
    client = boto3.client("secretsmanager", region_name=region)
    found = client.get_secret_value(SecretId=name, **about)
    text = found.get("SecretString")
    value = found["SecretBinary"].decode() if text is None else text
    if not field:
        return value
    try:
        return str(json.loads(value)[field])
    except (ValueError, LookupError, TypeError):
        # What the secret holds stays out of the message.
        fail(f"cloudai: the secret {name!r} has no field {field!r}")


def read(name: str) -> dict[str, Any]:
    """One of the files that SageMaker describes the job with; empty where there is none."""
    try:
        with open(f"{ML}/input/config/{name}.json", encoding="utf-8") as file:
            return json.load(file)
    except OSError:
        return {}


def counted(command: list[str], start: str) -> int:
    """The lines of a command's output that begin so; 0 where there is no such command."""
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return 0
    return sum(line.startswith(start) for line in lines.splitlines())


def typed(text: Any) -> Any:
    """A hyperparameter: SageMaker carries them as texts, and cloudai sends JSON."""
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


def upper(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()


def toolkit(job: dict[str, Any]) -> dict[str, str]:
    """The variables of SageMaker's training toolkit (its ENVIRONMENT_VARIABLES.md, read
    2026-11)."""
    machines, inputs = read("resourceconfig"), read("inputdataconfig")
    inputs.pop("code", None)  # the source came as an input, which is none of the script's
    hyperparameters = {name: typed(text) for name, text in read("hyperparameters").items()}
    hosts = sorted(machines.get("hosts") or ["algo-1"])
    host = machines.get("current_host") or hosts[0]
    channels = {name: f"{ML}/input/data/{name}" for name in inputs}
    gpus = counted(["nvidia-smi", "--list-gpus"], "GPU ")
    entry, arguments = job["script"][0], job["script"][1:]
    training: dict[str, Any] = {
        "channel_input_dirs": channels,
        "current_host": host,
        "current_instance_type": machines.get("current_instance_type"),
        "hosts": hosts,
        "hyperparameters": hyperparameters,
        "input_data_config": inputs,
        "is_master": host == hosts[0],
        "job_name": os.environ.get("TRAINING_JOB_NAME"),
        "master_hostname": hosts[0],
        "model_dir": f"{ML}/model",
        "module_name": os.path.splitext(entry)[0],
        "network_interface_name": machines.get("network_interface_name"),
        "num_cpus": os.cpu_count(),
        "num_gpus": gpus,
        "output_data_dir": f"{ML}/output/data",
        "user_entry_point": entry,
    }
    made: dict[str, str] = {
        "SM_MODEL_DIR": training["model_dir"],
        "SM_OUTPUT_DIR": f"{ML}/output",
        "SM_OUTPUT_DATA_DIR": training["output_data_dir"],
        "SM_INPUT_DIR": f"{ML}/input",
        "SM_INPUT_CONFIG_DIR": f"{ML}/input/config",
        "SM_MODULE_DIR": os.getcwd(),
        "SM_MODULE_NAME": training["module_name"],
        "SM_USER_ENTRY_POINT": entry,
        "SM_USER_ARGS": json.dumps(arguments),
        "SM_CHANNELS": json.dumps(sorted(channels)),
        "SM_INPUT_DATA_CONFIG": json.dumps(inputs),
        "SM_HPS": json.dumps(hyperparameters),
        "SM_HOSTS": json.dumps(hosts),
        "SM_CURRENT_HOST": host,
        "SM_NUM_CPUS": str(training["num_cpus"]),
        "SM_NUM_GPUS": str(gpus),
        "SM_RESOURCE_CONFIG": json.dumps(machines),
        "SM_TRAINING_ENV": json.dumps(training),
    }
    for optional, key in (
        ("SM_CURRENT_INSTANCE_TYPE", "current_instance_type"),
        ("SM_NETWORK_INTERFACE_NAME", "network_interface_name"),
    ):
        if machines.get(key):
            made[optional] = machines[key]
    for name, path in channels.items():
        made[f"SM_CHANNEL_{upper(name)}"] = path
    for name, value in hyperparameters.items():
        made[f"SM_HP_{upper(name)}"] = value if isinstance(value, str) else json.dumps(value)
    return made


def network(job: dict[str, Any], env: dict[str, str]) -> dict[str, str]:
    """The variables that several machines need to speak to each other."""
    if len(json.loads(env["SM_HOSTS"])) == 1:
        return {}
    made = dict(job["fabric"].get(env.get("SM_CURRENT_INSTANCE_TYPE", ""), {}))
    interface = env.get("SM_NETWORK_INTERFACE_NAME")
    if interface:
        made |= {"NCCL_SOCKET_IFNAME": interface, "GLOO_SOCKET_IFNAME": interface}
    return made


def main() -> None:
    """Installs, resolves, and becomes the script."""
    here = os.path.dirname(os.path.abspath(__file__))
    os.chdir(here)
    with open("cloudai_job.json", encoding="utf-8") as file:
        job = json.load(file)
    if job["requirements"]:
        pip = [sys.executable, "-m", "pip", "install", "--no-input", "-r", job["requirements"]]
        done = subprocess.run(pip, check=False)
        if done.returncode:
            fail(f"cloudai: pip could not install {job['requirements']}")
    # What the job's own env says goes first.
    made = toolkit(job)
    os.environ.update({**made, **network(job, made), **os.environ})
    for name, reference in job["secrets"].items():
        try:
            os.environ[name] = secret(reference, job.get("region"))
        except Exception as error:  # noqa: BLE001 - botocore's are not known before its import
            fail(f"cloudai: the secret {reference['name']!r} of {name} could not be read: {error}")
    import cloudai_bootstrap  # pyright: ignore[reportMissingImports] - beside it, there

    derived = cloudai_bootstrap.derive(os.environ)
    derived.pop("CLOUDAI_INPUT_CODE", None)
    for name, file in job.get("files", {}).items():
        # An input that is one file: its path, and not its folder's.
        folder = f"{ML}/input/data/{name}"
        if os.path.isdir(folder) and os.listdir(folder) == [file]:
            derived[cloudai_bootstrap.variable("CLOUDAI_INPUT_", name)] = f"{folder}/{file}"
    os.environ.update(derived)
    cloudai_bootstrap.derive = lambda env, read=None: {}
    cloudai_bootstrap.main(job["script"])


if __name__ == "__main__":
    main()
