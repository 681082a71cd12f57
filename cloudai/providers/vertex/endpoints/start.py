"""Starts the endpoint server in an image that does not have it.

Standard library only, and no import of cloudai: its text is the container's command
(``python3 -c``), its arguments are the server's. It fetches the model from where Vertex AI has put
it (``AIP_STORAGE_URI``), installs what travels beside the model, and becomes the server.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob

PYTHON = (3, 11)
TRIES = 5


def main(argv: list[str]) -> None:
    if sys.version_info < PYTHON:
        sys.exit(f"the server needs Python 3.11, and this image has {sys.version.split()[0]}")
    place = tempfile.mkdtemp(prefix="cloudai-")
    model, site = os.path.join(place, "model"), os.path.join(place, "site")
    fetch(os.environ["AIP_STORAGE_URI"], model)
    travels = os.path.join(place, "travels")
    shutil.move(os.path.join(model, ".cloudai"), travels)
    install("--require-hashes", "--no-deps", "--only-binary=:all:", "--target", site,
            "-r", os.path.join(travels, "server.txt"))  # fmt: skip
    for wheel in glob(os.path.join(travels, "*.whl")):
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(site)
    own = os.path.join(travels, "own.txt")
    if os.path.exists(own):
        install("-r", own)
    before = os.environ.get("PYTHONPATH")
    env = dict(os.environ, CLOUDAI_MODEL_DIR=model)
    env["PYTHONPATH"] = site + os.pathsep + before if before else site
    os.execve(sys.executable, [sys.executable, "-m", "cloudai.server", *argv], env)  # noqa: S606


def install(*what: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input"]
    done = subprocess.run([*command, "--disable-pip-version-check", *what], check=False)
    if done.returncode:
        sys.exit("pip could not install what the server needs")


def fetch(uri: str, folder: str) -> None:
    """Copies the objects below a gs:// URI."""
    bucket, _, prefix = uri.removeprefix("gs://").partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix else ""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "https://storage.googleapis.com").rstrip("/")
    place = f"storage/v1/b/{urllib.parse.quote(bucket, safe='')}/o"
    names: list[str] = []
    token = ""
    while True:
        query = urllib.parse.urlencode({"prefix": prefix, "pageToken": token})
        with ask(f"{host}/{place}?{query}") as answer:
            page = json.load(answer)
        names += [one["name"] for one in page.get("items", ()) if not one["name"].endswith("/")]
        token = page.get("nextPageToken", "")
        if not token:
            break

    def copy(name: str) -> None:
        target = os.path.normpath(os.path.join(folder, name[len(prefix) :]))
        if not target.startswith(folder + os.sep):
            sys.exit(f"the object {name!r} has a name that leads out of its folder")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        url = f"{host}/download/{place}/{urllib.parse.quote(name, safe='')}?alt=media"
        with ask(url) as answer, open(target, "wb") as out:
            shutil.copyfileobj(answer, out, 1 << 20)

    if not names:
        sys.exit("nothing lies at " + uri)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, names))


def ask(url: str):  # type: ignore[no-untyped-def]
    """An answer, as the machine's own account; what passes is tried again."""
    for count in range(1, TRIES + 1):
        try:
            headers = {}
            if "STORAGE_EMULATOR_HOST" not in os.environ:
                headers["Authorization"] = "Bearer " + token()
            request = urllib.request.Request(url, headers=headers)  # noqa: S310
            return urllib.request.urlopen(request, timeout=60)  # noqa: S310
        except urllib.error.HTTPError as error:
            if count == TRIES or error.code not in (408, 429, 500, 502, 503, 504):
                told = error.read(500).decode("utf-8", "replace")
                sys.exit(f"{url} answered {error.code}: {told}")
        except OSError as error:
            if count == TRIES:
                sys.exit(f"{url} cannot be reached: {error}")
        time.sleep(count)
    raise AssertionError


def token() -> str:
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{host}/computeMetadata/v1/instance/service-accounts/default/token",
        headers={"Metadata-Flavor": "Google"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(json.load(answer)["access_token"])


if __name__ == "__main__":
    main(sys.argv[1:])
