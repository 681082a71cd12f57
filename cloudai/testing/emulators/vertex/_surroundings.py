"""What a custom job finds around it: Vertex AI's own variables, and buckets under ``/gcs``.

``AIP_MODEL_DIR``, ``AIP_CHECKPOINT_DIR`` and ``AIP_TENSORBOARD_LOG_DIR`` are gs:// URIs below the
job's base directory, and absent without one; ``CLOUD_ML_*`` say what and where it is (Vertex AI's
"Training code requirements" and "Environment variables for special Cloud Storage directories",
read 2026-11). Scripts reach gs:// by the storage client, as there.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Protocol

from cloudai._core.files import unpack
from cloudai.testing.emulators.vertex._state import Clock
from cloudai.testing.emulators.vertex._storage import Storage


class Cloud(Protocol):
    """What a job or a served model sees of the emulator around it."""

    @property
    def url(self) -> str: ...
    @property
    def env(self) -> dict[str, str]: ...

    @property
    def project(self) -> str: ...
    @property
    def location(self) -> str: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def logging(self) -> Any: ...


_MOUNTED: Final = re.compile(r"/gcs/[\w.-]+(?:/[^\s'\";:,]*)?")


def variables(cloud: Cloud, job: dict[str, Any]) -> dict[str, str]:
    """The variables that the service sets, and those that lead to the emulator."""
    base = job["jobSpec"].get("baseOutputDirectory", {}).get("outputUriPrefix", "").rstrip("/")
    made = {
        **cloud.env,
        "CLOUD_ML_JOB_ID": job["name"].rpartition("/")[2],
        "CLOUD_ML_PROJECT_ID": cloud.project,
        "CLOUD_ML_REGION": cloud.location,
    }
    if base:
        made |= {
            "AIP_MODEL_DIR": f"{base}/model/",
            "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
        }
    return made


class Mounts:
    """Folders in the place of ``/gcs/BUCKET/…``: the one path of a container that cannot be made
    here, so that a command's words and the variables name the folders instead.

    Parameters
    ----------
    root: where they lie.

    Attributes
    ----------
    outputs: folders whose files belong into a bucket → its URI.
    """

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self._cloud = cloud
        self._root = root
        self.outputs: dict[str, str] = {}

    def placed(self, text: str) -> str:
        """The text, with the folders in it; what the bucket holds there is laid out."""
        for found in _MOUNTED.findall(text):
            self.lay_out(found.replace("/gcs/", "gs://", 1))
        return _MOUNTED.sub(lambda match: str(self._root) + match[0][4:], text)

    def lay_out(self, uri: str) -> None:
        """Puts there what a bucket holds below a URI. As there, a folder is only where an object
        lies in it."""
        bucket, _, name = uri.removeprefix("gs://").partition("/")
        local, base = self._root / bucket, f"gs://{bucket}/"
        self.outputs[str(local)] = base
        storage = self._cloud.storage
        found = {
            one.removeprefix(base): storage.get(one) or b"" for one in storage.names(base + name)
        }
        unpack.lay_out(local, found, uri)
