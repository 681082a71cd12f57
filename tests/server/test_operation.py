"""Batching, back-pressure, deadlines, workers that die, draining, variants, metrics, secrets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from running_server import ECHO, Blocker, Running, Start, model


def many(server: Running, count: int, **body: Any) -> list[httpx.Response]:
    """The same request, ``count`` times at once."""
    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(lambda _: server.http.post("/predict", **body), range(count)))


def test_waiting_requests_become_one_call(start: Start, tmp_path: Path) -> None:
    server = start()
    blocker = Blocker(server, tmp_path, 1)
    with ThreadPoolExecutor(11) as threads:
        asked = [threads.submit(server.predict, 1, count=True) for _ in range(11)]
        blocker.let(11)
        blocker.release()
    assert [one.result().json()["outputs"] for one in asked] == [[11]] * 11
    assert server.metric("cloudai_batch_items_count") == 2


def test_a_quick_handler_gets_more_inputs_in_one_call(start: Start) -> None:
    server = start()
    slow = server.predict(*range(500), sleep=0.05, count=True).json()["outputs"]
    assert max(slow) == 64
    quick = (server.predict(*range(1000), count=True).json()["outputs"] for _ in range(50))
    assert any(max(outputs) == 256 for outputs in quick)


def test_one_bad_request_does_not_fail_its_neighbours(start: Start, tmp_path: Path) -> None:
    server = start()
    blocker = Blocker(server, tmp_path, 1)
    with ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(server.predict, value) for value in (1, 2, "bad", 4, 5)]
        blocker.let(5)
        assert blocker.release().status_code == 200
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 200, 200]
    assert answers[4].json() == {"outputs": [10]}
    assert "ValueError: not a number" in answers[2].json()["error"]["message"]


def test_a_full_queue_answers_429_and_a_deadline_504(start: Start, tmp_path: Path) -> None:
    server = start("--max-queue", "3", "--max-batch", "1")
    blocker = Blocker(server, tmp_path, 1)
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(server.predict, 1) for _ in range(3)]
        blocker.let(3)
        for _ in range(3):
            refused = server.predict(1)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
        assert blocker.release().status_code == 200
        assert [one.result().status_code for one in asked] == [200] * 3
    late = server.predict(1, headers={"x-cloudai-timeout": "0.2"}, sleep=3)
    assert late.status_code == 504
    assert server.predict(1).status_code == 200


def test_a_predict_that_hangs_is_ended(start: Start) -> None:
    server = start("--timeout", "0.5")
    assert server.predict(1, sleep=600).status_code == 504
    end = time.monotonic() + 60
    while server.predict(1).status_code != 200:
        assert time.monotonic() < end
    assert server.events("worker_hangs")


def test_clients_that_left_are_dropped(start: Start, tmp_path: Path) -> None:
    server = start("--max-batch", "1")
    blocker = Blocker(server, tmp_path, 1)
    gates = [tmp_path / f"left{number}" for number in range(3)]
    gone: list[socket.socket] = []
    for gate in gates:
        gate.touch()
        body = json.dumps({"inputs": [1], "params": {"gate": str(gate)}})
        head = "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        one = socket.create_connection(("127.0.0.1", server.port))
        one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        gone.append(one)
    blocker.let(3)
    for one in gone:
        one.close()
    for _ in range(3):  # what was asked later is answered later: the server has seen them go
        assert server.http.get("/livez").status_code == 200
    assert blocker.release().status_code == 200
    assert server.predict(1).status_code == 200
    assert not any(gate.with_name(f"{gate.name}.begun").exists() for gate in gates)


def test_kill_9_of_a_worker_under_load(start: Start) -> None:
    server = start("--workers", "2")
    until = time.monotonic() + 3
    pids = {server.predict(1, pid=True).json()["outputs"][0]}

    def ask(_: int) -> set[int]:
        seen: set[int] = set()
        while time.monotonic() < until:
            seen.add(server.predict(1, 2).status_code)
        return seen

    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(ask, n) for n in range(4)]
        for _ in range(3):
            time.sleep(0.5)
            os.kill(pids.pop(), signal.SIGKILL)
            pids = {server.predict(1, pid=True).json()["outputs"][0]}
        assert set[int]().union(*(one.result() for one in asked)) == {200}
    assert len(server.events("worker_died")) == 3


def test_a_request_that_kills_its_worker_spares_the_others(start: Start, tmp_path: Path) -> None:
    server = start()
    blocker = Blocker(server, tmp_path, 1)
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(server.predict, value) for value in (1, "die", 3)]
        blocker.let(3)
        assert blocker.release().status_code == 200
        answers = [one.result() for one in asked]
    assert [answer.status_code for answer in answers] == [200, 503, 200]
    assert "died over this request twice" in answers[1].json()["error"]["message"]


def test_sigterm_drains(start: Start, tmp_path: Path) -> None:
    server = start()
    blocker = Blocker(server, tmp_path, 21)
    server.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 60
    while True:  # until nobody new is let in
        try:
            httpx.get(f"http://127.0.0.1:{server.port}/livez")
        except httpx.ConnectError:
            break
        except httpx.TransportError:  # let in just before, and sent away
            pass
        assert time.monotonic() < end
    assert blocker.release().json() == {"outputs": [42]}
    assert server.process.wait(60) == 0


def test_readiness_and_liveness_while_loading(start: Start, tmp_path: Path) -> None:
    gate = tmp_path / "loads"
    wait = f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n    return 2"
    server = start(source=ECHO.replace("return 2", wait, 1), ready=False)
    server.wait("/livez")
    assert server.http.get("/ping").status_code == 503
    early = server.predict(1)
    assert (early.status_code, early.headers["retry-after"]) == (503, "1")
    gate.touch()
    server.wait()
    assert server.predict(1).status_code == 200


def test_a_model_that_cannot_load_ends_the_server(start: Start) -> None:
    source = "def load(d): raise OSError('no weights here')\ndef predict(m, i): 1\n"
    server = start(source=source, ready=False)
    assert server.process.wait(60) == 1
    assert "no weights here" in server.events("load_failed")[0]["error"]


def test_variants_sticky_and_shadow(start: Start, tmp_path: Path) -> None:
    places = {n: model(tmp_path / n, ECHO.replace("return 2", f"return {n[1:]}", 1))
              for n in ("m1", "m10", "m7")}  # fmt: skip
    variants = [
        {"name": "a", "path": str(places["m1"]), "weight": 1},
        {"name": "b", "path": str(places["m10"]), "weight": 1},
        {"name": "s", "path": str(places["m7"]), "shadow": True},
    ]
    config = tmp_path / "server.json"
    config.write_text(json.dumps({"models": [{"name": "m", "variants": variants}]}))
    server = start("--config", str(config))
    assert {server.predict(1).json()["outputs"][0] for _ in range(40)} == {1, 10}
    for user in ("x", "y", "z", "w"):
        headers = {"x-cloudai-sticky": user}
        assert len({server.predict(1, headers=headers).text for _ in range(10)}) == 1
    chosen = {"x-cloudai-variant": "b"}
    assert server.predict(1, headers=chosen).json() == {"outputs": [10]}
    text = server.http.get("/metrics").text
    assert 'cloudai_predictions_total{model="m",variant="s"' in text


def test_variants_by_argument(start: Start, tmp_path: Path) -> None:
    places = {n: model(tmp_path / n, ECHO.replace("return 2", f"return {n[1:]}", 1))
              for n in ("m1", "m10", "m7")}  # fmt: skip
    server = start(
        "--model", f"m={places['m1']}", "--weight", "0", "--variant", f"b:3={places['m10']}",
        "--shadow", f"s={places['m7']}",
    )  # fmt: skip
    assert {server.predict(1).json()["outputs"][0] for _ in range(10)} == {10}
    told = server.http.get("/models").json()["models"][0]["variants"]
    assert [(v["name"], v["weight"], v["shadow"]) for v in told] == [
        ("main", 0, False), ("b", 3, False), ("s", 0, True),
    ]  # fmt: skip
    refused = start("--variant", "b:x=models/b", ready=False)
    assert refused.process.wait(20) == 2
    assert "'b:x=models/b' is not a variant" in refused.log.read_text()


def test_metrics_and_warnings(start: Start) -> None:
    server = start()
    server.predict(0.2, 0.9, confidence=True)
    server.predict("x" * 1001, echo=True)
    server.predict("bad")
    assert server.metric("cloudai_low_confidence_total") == 1
    assert server.metric("cloudai_long_inputs_total") == 1
    assert server.metric("cloudai_confidence_count") == 2
    text = server.http.get("/metrics").text
    assert 'status="error"} 1' in text
    assert 'cloudai_http_requests_total{route="predict",status="422"} 1' in text
    assert "# TYPE cloudai_request_seconds histogram" in text
    (low,) = server.events("low_confidence")
    assert (low["low_confidence"], low["level"]) == (1, "warning")
    assert server.events("long_input")
    requests = [told for told in server.events("request") if told["route"] == "predict"]
    assert [told["items"] for told in requests] == [2, 1, 1]
    assert [told["status"] for told in requests] == [200, 200, 422]
    assert "xxxx" not in server.log.read_text()  # no inputs in the log


def test_error_rate_and_accuracy_by_version(start: Start) -> None:
    server = start()
    for value in (1, 2, 3, "bad"):
        server.predict(value)
    assert server.metric("cloudai_error_rate") == 0.25
    told = [
        {"prediction": 2, "label": 2},
        {"prediction": {"label": "cat", "confidence": 0.9}, "label": "cat", "variant": "main"},
        {"prediction": {"label": "cat"}, "label": "dog", "model": "model"},
        {"prediction": [1, 2], "label": [1, 2]},
    ]
    answer = server.http.post("/feedback", json={"feedback": told})
    assert answer.json() == {"counted": 4, "correct": 3}
    assert server.metric("cloudai_accuracy") == 0.75
    assert 'correct="false"} 1' in server.http.get("/metrics").text
    absent = [*told, {"prediction": 1, "label": 1, "variant": "none"}]
    assert server.http.post("/feedback", json={"feedback": absent}).status_code == 400
    assert server.http.post("/feedback", json={"feedback": [{"label": 1}]}).status_code == 400
    assert server.metric("cloudai_feedback_total") == 4  # all or none


def test_the_token_is_asked_for_and_told_nowhere(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cr3t-91f0\n")
    server = start(env={"CLOUDAI_SERVER_TOKEN_FILE": str(file)})
    assert server.predict(1).status_code == 401
    assert server.http.get("/metrics").status_code == 401
    assert server.http.get("/ping").status_code == 200
    right = {"authorization": "Bearer s3cr3t-91f0"}
    assert server.predict(1, headers=right).status_code == 200
    assert server.predict(1, headers={"authorization": "Bearer"}).status_code == 401
    assert "91f0" not in server.log.read_text()
    worker = server.predict(1, headers=right, pid=True).json()["outputs"][0]
    assert b"91f0" not in Path(f"/proc/{worker}/environ").read_bytes()


def test_a_handlers_traceback_stays_in_the_log_off_loopback(start: Start) -> None:
    source = ECHO.replace('"not a number"', 'f"{inputs[0]} is not a number"')
    server = start("--host", "0.0.0.0", source=source)
    message = server.predict("Ada's diagnosis").json()["error"]["message"]
    assert message == "predict raised ValueError: Ada's diagnosis is not a number"
    assert "in predict" in server.events("handler_error")[0]["error"]
    assert "diagnosis" not in server.log.read_text()


def test_an_answer_that_is_not_finite_is_an_error_and_a_warning(start: Start) -> None:
    server = start()
    answer = server.predict(1e308, 1e308)
    assert answer.status_code == 422
    assert "outputs[0]=inf" in answer.json()["error"]["message"]
    (warned,) = server.events("not_finite")
    assert (warned["level"], warned["model"]) == ("warning", "model")


def test_tls(start: Start, tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        capture_output=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl is not installed")
    server = start("--tls-cert", str(cert), "--tls-key", str(key), ready=False)
    import ssl

    server.http.close()
    server.http = httpx.Client(verify=ssl.create_default_context(cafile=str(cert)))
    server.wait()
    assert server.predict(1).json() == {"outputs": [2]}


def test_bad_arguments_are_named(start: Start, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"models": [], "modles": 1}')
    server = start("--config", str(tmp_path / "bad.json"), ready=False)
    assert server.process.wait(10) == 2
    assert "bad.json" in server.log.read_text()
    server = start("--model", str(tmp_path / "absent"), ready=False)
    assert server.process.wait(10) == 1
    assert "is not a directory" in server.log.read_text()
