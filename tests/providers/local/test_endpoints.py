"""Local endpoints: real servers over loopback, and every way in which a deployment can fail."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from cloudai._core.profiles.config import Config
from cloudai.errors import (
    AuthenticationError,
    Conflict,
    EndpointError,
    HandlerError,
    InvalidRequest,
    NotFound,
    UnsupportedByProvider,
)
from cloudai.protocols import Call
from cloudai.providers.local.endpoints import LocalEndpoints
from cloudai.providers.local.serving.store import alive, holder
from cloudai.types import (
    Deployment,
    EndpointStatus,
    PredictRequest,
    Resources,
    Rollout,
    SecretRef,
    State,
    Variant,
)

CALL = Call()

DOUBLE = """
import os

def load(model_dir):
    return int((model_dir / "factor").read_text())

def predict(model, inputs, params):
    if inputs == ["env"]:
        names = ("PLAIN", "HIDDEN", "CLOUDAI_SERVER_TOKEN")
        return [{name: os.environ.get(name) for name in names}]
    if inputs == ["pid"]:
        return [os.getpid()]
    return [x * model + params.get("add", 0) for x in inputs]
"""


def model(folder: Path, factor: int = 2, source: str = DOUBLE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "handler.py").write_text(source)
    (folder / "factor").write_text(str(factor))
    return folder


def until(check: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def settled(endpoints: LocalEndpoints, name: str) -> EndpointStatus:
    until(lambda: endpoints.status(name, CALL).state not in {State.STARTING, State.STOPPING})
    return endpoints.status(name, CALL)


def running(pid: object) -> bool:
    """Whether the process computes: one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def endpoints(home: Path) -> Iterator[LocalEndpoints]:
    made = LocalEndpoints(Config(start=home.parent).profile(provider="local", home=str(home)))
    yield made
    for status in made.list(CALL):
        made.delete(status.id, CALL)
    made.close()


def spec(folder: Path, name: str = "double", **fields: object) -> Deployment:
    values = {"workers": 1, "variants": (Variant(model=str(folder)),), **fields}
    return Deployment(name=name, **values)  # type: ignore[arg-type]


def predict(
    endpoints: LocalEndpoints, name: str, *inputs: object, **params: object
) -> list[object]:
    return endpoints.predict(name, PredictRequest(inputs=inputs, params=params), CALL).outputs


def test_deploy_predict_attach_list_delete(
    endpoints: LocalEndpoints, home: Path, tmp_path: Path
) -> None:
    folder = model(tmp_path / "m")
    assert endpoints.deploy(spec(folder, idempotency_key="k"), CALL) == "double"
    status = settled(endpoints, "double")
    assert (status.state, status.reason) == (State.RUNNING, None), status.log_tail
    assert status.url is not None
    assert status.url.startswith("http://127.0.0.1:")
    assert [(v.name, v.share, v.ready) for v in status.variants] == [("main", 1.0, 1)]
    answer = endpoints.predict("double", PredictRequest(inputs=(1, 2), params={"add": 1}), CALL)
    assert answer.outputs == [3, 5]
    assert (answer.variant, answer.version) == ("main", status.variants[0].version)
    assert answer.request_id

    # Another process finds it, and the same key makes no second one.
    other = LocalEndpoints(Config(start=home.parent).profile(provider="local", home=str(home)))
    assert [found.id for found in other.list(CALL)] == ["double"]
    assert predict(other, "double", 4) == [8]
    assert other.find("k", CALL) == "double"
    assert other.deploy(spec(folder, idempotency_key="k"), CALL) == "double"
    with pytest.raises(Conflict, match="there is an endpoint 'double' already"):
        other.deploy(spec(folder, idempotency_key="another"), CALL)
    assert any("request" in line.text for line in other.logs("double", None, CALL).lines)

    pid = holder(home / "endpoints" / "double")
    other.delete("double", CALL)
    other.delete("double", CALL)  # gone already
    assert pid is not None
    until(lambda: not running(pid))
    assert not (home / "endpoints" / "double").exists()
    with pytest.raises(NotFound, match="there is no endpoint 'double'; there are: none"):
        endpoints.status("double", CALL)
    with pytest.raises(NotFound):
        predict(endpoints, "double", 1)


def test_the_server_outlives_the_process_that_deployed_it(home: Path, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    code = (
        "import os, signal, sys\n"
        "from cloudai._core.profiles.config import Config\n"
        "from cloudai.protocols import Call\n"
        "from cloudai.providers.local.endpoints import LocalEndpoints\n"
        "from cloudai.types import Deployment, Variant\n"
        f"e = LocalEndpoints(Config().profile(provider='local', home={str(home)!r}))\n"
        f"v = Variant(model={str(folder)!r})\n"
        "e.deploy(Deployment(name='double', workers=1, variants=(v,)), Call())\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -signal.SIGKILL
    endpoints = LocalEndpoints(Config(start=tmp_path).profile(provider="local", home=str(home)))
    try:
        assert settled(endpoints, "double").state is State.RUNNING
        assert predict(endpoints, "double", 21) == [42]
    finally:
        endpoints.delete("double", CALL)


def test_a_port_in_use_is_named(endpoints: LocalEndpoints, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {port} of 127.0.0.1 is in use"):
            endpoints.deploy(spec(model(tmp_path / "m"), port=port), CALL)
    assert endpoints.list(CALL) == []
    with pytest.raises(InvalidRequest, match="host="):
        endpoints.deploy(spec(tmp_path / "m", host="203.0.113.7"), CALL)


def test_what_is_refused_before_anything_starts(endpoints: LocalEndpoints, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"variants\[0\].model=.* is not a directory"):
        endpoints.deploy(spec(tmp_path / "nowhere"), CALL)
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(InvalidRequest, match=r"neither handler.py nor code/inference.py"):
        endpoints.deploy(spec(bare), CALL)
    with pytest.raises(InvalidRequest, match=r"absent.py.* is not a file"):
        endpoints.deploy(spec(bare, handler=str(tmp_path / "absent.py")), CALL)
    folder = model(tmp_path / "m")
    with pytest.raises(InvalidRequest, match="is not on this machine"):
        endpoints.deploy(spec(folder, variants=(Variant(model="s3://bucket/model"),)), CALL)
    for fields in ({"mode": "serverless"}, {"image": "x"}, {"requirements": "r.txt"}):
        with pytest.raises(UnsupportedByProvider):
            endpoints.deploy(spec(folder, **fields), CALL)
    wanted = Variant(model=str(folder), resources=Resources(accelerator="T4:64"))
    plan = endpoints.plan(spec(folder, variants=(wanted,)))
    assert [violation.field for violation in plan.violations] == [
        "variants[0].resources.accelerator"
    ]
    plan = endpoints.plan(spec(folder, port=8099))
    assert plan.ok
    assert plan.requests[0].body["models"][0]["variants"][0]["path"] == str(folder)
    assert endpoints.list(CALL) == []


PREDICT = "\ndef predict(m, i): 1"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def load(d): raise OSError('weights.pt is corrupt')", "weights.pt is corrupt"),
        ("import not_there_at_all\ndef load(d): 1", "No module named 'not_there_at_all'"),
        ("import os\ndef load(d): os._exit(3)", "exit code 3"),
        ("import os\ndef load(d): os.kill(os.getpid(), 11)", "signal SIGSEGV"),
    ],
)
def test_a_corrupt_model_ends_failed_with_its_own_words(
    endpoints: LocalEndpoints, tmp_path: Path, source: str, words: str
) -> None:
    endpoints.deploy(spec(model(tmp_path / "m", source=source + PREDICT)), CALL)
    status = settled(endpoints, "double")
    assert status.state is State.FAILED
    assert words in (status.reason or "")
    assert any(words in line for line in status.log_tail)
    with pytest.raises(EndpointError, match="is not running"):
        predict(endpoints, "double", 1)


def test_handler_errors_come_back_whole(endpoints: LocalEndpoints, tmp_path: Path) -> None:
    source = (
        "def load(d): return 1\n"
        "def predict(m, inputs):\n"
        "    if 'short' in inputs: return []\n"
        "    return [1 / x for x in inputs]\n"
    )
    endpoints.deploy(spec(model(tmp_path / "m", source=source)), CALL)
    settled(endpoints, "double")
    with pytest.raises(HandlerError, match="predict gave 0 outputs for 1 inputs"):
        predict(endpoints, "double", "short")
    with pytest.raises(HandlerError, match="ZeroDivisionError") as caught:
        predict(endpoints, "double", 0)
    assert "return [1 / x for x in inputs]" in str(caught.value)
    with pytest.raises(InvalidRequest, match=r"inputs\[0\]=nan is a number that JSON cannot hold"):
        predict(endpoints, "double", float("nan"))
    with pytest.raises(InvalidRequest, match="cannot be sent as JSON"):
        predict(endpoints, "double", object())
    with pytest.raises(InvalidRequest, match="variant='absent' is not one of main"):
        endpoints.predict("double", PredictRequest(inputs=(1,), variant="absent"), CALL)
    assert predict(endpoints, "double", 2) == [0.5]
    assert predict(endpoints, "double") == []


def test_token_env_and_secrets(
    endpoints: LocalEndpoints, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENDPOINT_TOKEN", "tok-5e57a2")
    monkeypatch.setenv("VAULT_OF_TEST", "hid-93b1c4")
    endpoints.deploy(
        spec(
            model(tmp_path / "m"),
            env={"PLAIN": "shown"},
            secrets={"HIDDEN": SecretRef(store="env", name="VAULT_OF_TEST")},
            token=SecretRef(store="env", name="ENDPOINT_TOKEN"),
        ),
        CALL,
    )
    status = settled(endpoints, "double")
    assert predict(endpoints, "double", "env") == [
        {"PLAIN": "shown", "HIDDEN": "hid-93b1c4", "CLOUDAI_SERVER_TOKEN": None}
    ]
    body = {"inputs": [1]}
    assert httpx.post(f"{status.url}/predict", json=body).status_code == 401
    wrong = {"Authorization": "Bearer tok-5e57a3"}
    assert httpx.post(f"{status.url}/predict", json=body, headers=wrong).status_code == 401
    right = {"Authorization": "Bearer tok-5e57a2"}
    assert httpx.post(f"{status.url}/predict", json=body, headers=right).json() == {"outputs": [2]}
    assert httpx.get(f"{status.url}/ping").status_code == 200
    pid = holder(home / "endpoints" / "double")
    assert b"5e57a2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    for file in home.rglob("*"):
        if file.is_file() and not file.is_socket():
            data = file.read_bytes()
            assert b"5e57a2" not in data, file
            assert b"93b1c4" not in data, file
    monkeypatch.setenv("ENDPOINT_TOKEN", "changed")
    fresh = LocalEndpoints(Config(start=tmp_path).profile(provider="local", home=str(home)))
    with pytest.raises(AuthenticationError):
        predict(fresh, "double", 1)
    fresh.close()


def test_weights_share_the_traffic_and_update_loses_no_request(
    endpoints: LocalEndpoints, tmp_path: Path
) -> None:
    one, ten, hundred = (model(tmp_path / str(n), n) for n in (1, 10, 100))
    both = (Variant(model=str(one), name="a", weight=3), Variant(model=str(ten), name="b"))
    endpoints.deploy(spec(one, variants=both), CALL)
    status = settled(endpoints, "double")
    assert [(v.name, v.share) for v in status.variants] == [("a", 0.75), ("b", 0.25)]
    counts = {1: 0, 10: 0}
    for _ in range(400):
        counts[predict(endpoints, "double", 1)[0]] += 1  # type: ignore[index]
    assert 240 < counts[1] < 360  # 300 ± 6.9 standard deviations of 8.7
    asked = endpoints.predict("double", PredictRequest(inputs=(1,), variant="b"), CALL)
    assert (asked.outputs, asked.variant) == ([10], "b")

    stop, answers, errors = threading.Event(), [], []

    def ask() -> None:
        while not stop.is_set():
            try:
                answers.extend(predict(endpoints, "double", 1))
            except Exception as error:
                errors.append(error)
        endpoints.close()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    # Weights alone keep the workers: the same process answers as before.
    worker = endpoints.predict("double", PredictRequest(inputs=("pid",), variant="b"), CALL).outputs
    moved = (Variant(model=str(one), name="a", weight=0), Variant(model=str(ten), name="b"))
    endpoints.update("double", spec(one, variants=moved), CALL)
    assert predict(endpoints, "double", 1) == [10]
    assert predict(endpoints, "double", "pid") == worker
    new = (Variant(model=str(hundred), name="c"),)
    endpoints.update("double", spec(one, variants=new), CALL)
    assert predict(endpoints, "double", 1) == [100]
    # New variants that do not come up change nothing.
    broken = model(
        tmp_path / "broken", source="def load(d): raise OSError('no weights')\ndef predict(m, i): 1"
    )
    with pytest.raises(EndpointError, match="stays as it was: .*no weights"):
        endpoints.update("double", spec(broken), CALL)
    assert predict(endpoints, "double", 1) == [100]
    with pytest.raises(UnsupportedByProvider, match="rollout.kind='linear'"):
        endpoints.update("double", spec(one, rollout=Rollout(kind="linear")), CALL)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(answers) == {1, 10, 100}
    assert settled(endpoints, "double").variants[0].name == "c"


def test_a_killed_server_is_told_with_its_log(
    endpoints: LocalEndpoints, home: Path, tmp_path: Path
) -> None:
    endpoints.deploy(spec(model(tmp_path / "m")), CALL)
    settled(endpoints, "double")
    (worker,) = predict(endpoints, "double", "pid")
    folder = home / "endpoints" / "double"
    pid = holder(folder)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(folder))
    with pytest.raises(EndpointError, match="the server's process is gone") as caught:
        predict(endpoints, "double", 1)
    assert any('"ready"' in line for line in caught.value.log_tail)
    assert endpoints.status("double", CALL).state is State.FAILED
    # No orphan: the worker ends with its server.
    until(lambda: not running(worker))


def test_a_killed_worker_is_replaced_and_nobody_hangs(
    endpoints: LocalEndpoints, tmp_path: Path
) -> None:
    endpoints.deploy(spec(model(tmp_path / "m")), CALL)
    settled(endpoints, "double")
    for _ in range(3):
        (worker,) = predict(endpoints, "double", "pid")
        assert isinstance(worker, int)
        os.kill(worker, signal.SIGKILL)
        assert predict(endpoints, "double", 3) == [6]
    assert any("worker_died" in line.text for line in endpoints.logs("double", None, CALL).lines)


def test_two_deploys_of_one_name_at_once(endpoints: LocalEndpoints, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    ends: list[object] = []

    def deploy() -> None:
        try:
            ends.append(endpoints.deploy(spec(folder), CALL))
        except Conflict as error:
            ends.append(error)

    threads = [threading.Thread(target=deploy) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(end == "double" for end in ends) == 1
    assert sum(isinstance(end, Conflict) for end in ends) == 3
    assert settled(endpoints, "double").state is State.RUNNING


def test_status_survives_a_broken_file(
    endpoints: LocalEndpoints, home: Path, tmp_path: Path
) -> None:
    endpoints.deploy(spec(model(tmp_path / "m")), CALL)
    settled(endpoints, "double")
    (home / "endpoints" / "double" / "status.json").write_bytes(b"{")
    assert endpoints.status("double", CALL).state is State.STARTING
    assert (
        msgspec.json.decode(httpx.get(f"{endpoints.status('double', CALL).url}/ping").content) == {}
    )
