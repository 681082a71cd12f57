"""SageMaker's training toolkit in small: what its own images do with a script.

Its contract (sagemaker-training's README and ENVIRONMENT_VARIABLES.md, read 2026-11): the
hyperparameter ``sagemaker_program`` names the script in the source that
``sagemaker_submit_directory`` points to; the others are its arguments, ``--name value``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from cloudai.providers.aws.container import start


def main() -> None:
    """Sets the variables, installs requirements.txt, and becomes the script. It runs in the
    source's folder."""
    given = start.read("hyperparameters")
    entry = str(start.typed(given["sagemaker_program"]))
    own = {name: text for name, text in given.items() if not name.startswith("sagemaker_")}
    arguments: list[str] = []
    for name, text in own.items():
        arguments += [f"--{name}", _argument(start.typed(text))]
    if os.path.exists("requirements.txt"):
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "-r", "requirements.txt"]
        if subprocess.run(pip, check=False).returncode:
            start.fail("InstallRequirementsError: requirements.txt could not be installed")
    start.read = lambda name: own if name == "hyperparameters" else _read(name)
    os.environ.update({**start.toolkit({"script": [entry, *arguments]}), **os.environ})
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    command = [sys.executable, entry, *arguments]
    if entry.endswith(".sh"):
        command = ["/bin/sh", entry, *arguments]
    print(f"Invoking script with the following command:\n\n{' '.join(command)}\n", flush=True)  # noqa: T201
    os.execvp(command[0], command)  # noqa: S606 - signals and the exit code are the script's own


_read = start.read


def _argument(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


if __name__ == "__main__":
    main()
