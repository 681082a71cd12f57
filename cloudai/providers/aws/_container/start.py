"""What a SageMaker training container runs: prepares, then becomes cloudai's bootstrap.

Standard library only. ``cloudai_job.json`` beside it says what to do: ``script`` (the entry and
its arguments), ``requirements`` (a file, or null) and ``secrets`` (variables by reference). The
values of the secrets go into the environment of the script and nowhere else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any


def secret(reference: dict[str, Any]) -> str:
    """The value of a reference. boto3 is in SageMaker's own images; others have to bring it."""
    import boto3

    name, version = reference["name"], reference.get("version")
    if reference["store"] == "ssm":
        client = boto3.client("ssm")
        full = f"{name}:{version}" if version else name
        return client.get_parameter(Name=full, WithDecryption=True)["Parameter"]["Value"]
    about = {"VersionId": version} if version else {}
    found = boto3.client("secretsmanager").get_secret_value(SecretId=name, **about)
    return found.get("SecretString") or found["SecretBinary"].decode()


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
            sys.exit(f"cloudai: pip could not install {job['requirements']}")
    for name, reference in job["secrets"].items():
        os.environ[name] = secret(reference)
    # The source came as an input of its own, which is no input of the script's.
    os.environ.pop("SM_CHANNEL_CODE", None)
    import cloudai_bootstrap  # pyright: ignore[reportMissingImports] - beside it, there

    derived = cloudai_bootstrap.derive(os.environ)
    derived.pop("CLOUDAI_INPUT_CODE", None)
    os.environ.update(derived)
    cloudai_bootstrap.derive = lambda env, read=None: {}
    cloudai_bootstrap.main(job["script"])


if __name__ == "__main__":
    main()
