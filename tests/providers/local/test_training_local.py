"""Local training jobs: the contract with the script, the log, what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from jobtools import CALL, ended, job, profile, run, script, text, until

from cloudai.engine import hardware
from cloudai.engine.hardware import Gpu, matching, parse
from cloudai.errors import Conflict, InvalidRequest, NotFound, UnsupportedByProvider
from cloudai.providers.local.jobs import checks, finetuning, logs
from cloudai.providers.local.training import LocalTraining
from cloudai.types import (
    Accelerator,
    Input,
    Metric,
    Outputs,
    Resources,
    SecretRef,
    Spot,
    State,
    TrainingJob,
)


@pytest.fixture
def training() -> LocalTraining:
    return LocalTraining(profile())


def test_contract_of_the_script(training: LocalTraining, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("hello")
    source = script(
        tmp_path / "src",
        """
        import json, os, pathlib, sys
        hps = json.loads(os.environ["CLOUDAI_HPS"])
        found = {
            "argv": sys.argv[1:], "hps": hps, "cwd": os.getcwd(),
            "input": (pathlib.Path(os.environ["CLOUDAI_INPUT_TRAIN"]) / "a.txt").read_text(),
            "mine": os.environ["MINE"],
        }
        pathlib.Path(os.environ["CLOUDAI_MODEL_DIR"], "found.json").write_text(json.dumps(found))
        pathlib.Path(os.environ["CLOUDAI_CHECKPOINT_DIR"], "c").touch()
        pathlib.Path(os.environ["CLOUDAI_OUTPUT_DIR"], "o").touch()
        """,
    )
    hyperparameters = {
        "epochs": 3,
        "lr": 0.5,
        "fast": True,
        "name": "a b",
        "sizes": [1, 2],
        "none": None,
    }
    status = run(
        training,
        job(
            "contract",
            source,
            args=("--first", "1"),
            hyperparameters=hyperparameters,
            inputs={"train": str(data)},
            env={"MINE": "yes"},
        ),
    )
    assert set(status.outputs) == {"model", "checkpoints", "output"}
    found = json.loads(Path(status.outputs["model"], "found.json").read_text())
    assert found["hps"] == hyperparameters
    assert found["argv"] == [
        *("--first", "1", "--epochs=3", "--lr=0.5", "--fast=true"),
        *("--name=a b", "--sizes=[1, 2]"),
    ]
    assert found["input"] == "hello"
    assert found["mine"] == "yes"
    assert found["cwd"].startswith(str(training.home))
    assert (status.exit_code, status.restarts, status.cost) == (0, 0, 0.0)
    times = [status.created_at, status.started_at, status.ended_at]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]


def test_hyperparameter_arguments_can_be_left_out(training: LocalTraining, tmp_path: Path) -> None:
    source = script(tmp_path / "src", "import sys; print(sys.argv[1:])")
    spec = job("noargs", source, hyperparameters={"a": 1}, hyperparameter_args=False)
    run(training, spec)
    assert text(training, "noargs") == ["[]"]


def test_sagemaker_script_runs_unchanged(training: LocalTraining, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("1,2\n3,4\n")
    source = script(
        tmp_path / "src",
        """
        import argparse, json, os
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=1)
        parser.add_argument("--learning-rate", type=float, default=0.1)
        parser.add_argument("--model-dir", default=os.environ["SM_MODEL_DIR"])
        parser.add_argument("--train", default=os.environ["SM_CHANNEL_TRAIN"])
        parser.add_argument("--output-data-dir", default=os.environ["SM_OUTPUT_DATA_DIR"])
        parser.add_argument("--hosts", type=list, default=json.loads(os.environ["SM_HOSTS"]))
        parser.add_argument("--current-host", default=os.environ["SM_CURRENT_HOST"])
        parser.add_argument("--num-gpus", type=int, default=os.environ["SM_NUM_GPUS"])
        args = parser.parse_args()
        assert args.current_host in args.hosts and args.epochs == 10
        assert json.loads(os.environ["SM_HPS"])["learning-rate"] == 0.25 == args.learning_rate
        assert os.environ["SM_HP_EPOCHS"] == "10"
        assert json.loads(os.environ["SM_CHANNELS"]) == ["train"]
        assert json.loads(os.environ["SM_TRAINING_ENV"])["channel_input_dirs"]["train"]
        (name,) = os.listdir(args.train)
        rows = open(os.path.join(args.train, name)).read().count("\\n")
        open(os.path.join(args.model_dir, "model.txt"), "w").write(f"{rows} rows")
        """,
    )
    status = run(
        training,
        job(
            "sm",
            source,
            hyperparameters={"epochs": 10, "learning-rate": 0.25},
            inputs={"train": Input(uri=str(tmp_path / "train.csv"))},
        ),
    )
    assert Path(status.outputs["model"], "model.txt").read_text() == "2 rows"


def test_vertex_script_runs_unchanged(training: LocalTraining, tmp_path: Path) -> None:
    source = script(
        tmp_path / "src",
        """
        import json, os
        model = os.environ["AIP_MODEL_DIR"].replace("gs://", "/gcs/")
        os.makedirs(model, exist_ok=True)
        os.makedirs(os.environ["AIP_TENSORBOARD_LOG_DIR"], exist_ok=True)
        assert os.path.isdir(os.environ["AIP_CHECKPOINT_DIR"])
        task = json.loads(os.environ["CLUSTER_SPEC"])["task"]
        assert task == {"type": "workerpool0", "index": 0}
        open(os.path.join(model, "saved_model"), "w").write("v")
        """,
    )
    status = run(training, job("aip", source))
    assert Path(status.outputs["model"], "saved_model").read_text() == "v"


def test_log_can_be_followed_while_it_runs(training: LocalTraining, tmp_path: Path) -> None:
    go = tmp_path / "go"
    source = script(
        tmp_path / "src",
        f"""
        import os, sys, time
        print("one"); print("two", file=sys.stderr)
        sys.stdout.write("10%\\r20%\\r30%\\nhalf a li")
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        print("ne"); sys.stdout.write("the end")
        """,
    )
    id = training.submit(job("follow", source), CALL)
    page = until(
        lambda: (p := training.logs(id, None, CALL)) and len(p.lines) >= 3 and p, "three lines"
    )
    assert [line.text for line in page.lines] == ["one", "two", "30%"]
    assert training.status(id, CALL).state is State.RUNNING
    assert training.logs(id, page.cursor, CALL).lines == ()
    go.touch()
    ended(training, id)
    rest = training.logs(id, page.cursor, CALL)
    assert [line.text for line in rest.lines] == ["half a line", "the end"]
    assert training.logs(id, rest.cursor, CALL).lines == ()
    times = [line.time for line in (*page.lines, *rest.lines)]
    assert None not in times
    assert times == sorted(times)  # type: ignore[type-var]
    assert times[-1] > times[0]  # type: ignore[operator]


def test_log_page_is_bounded_and_bad_cursors_are_told(
    training: LocalTraining, tmp_path: Path
) -> None:
    count = 3 * logs.PAGE // 100
    source = script(tmp_path / "src", f"print(('x' * 99 + '\\n') * {count}, end='')")
    run(training, job("long", source))
    cursor, lines, pages = None, 0, 0
    while (page := training.logs("long", cursor, CALL)).lines:
        assert sum(len(line.text) + 1 for line in page.lines) <= logs.PAGE
        cursor, lines, pages = page.cursor, lines + len(page.lines), pages + 1
    assert (lines, pages >= 3) == (count, True)
    for bad in ("x", "[]", '{"log": "x"}'):
        with pytest.raises(InvalidRequest, match="cursor"):
            training.logs("long", bad, CALL)


def test_metrics_are_read_while_it_runs(training: LocalTraining, tmp_path: Path) -> None:
    go = tmp_path / "go"
    source = script(
        tmp_path / "src",
        f"""
        import os, time
        print("epoch 1 loss=0.5 acc=0.25"); print("loss=oops")
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        print("epoch 2 loss=2.5e-1 acc=0.75")
        """,
    )
    metrics = (
        Metric(name="loss", regex=r"loss=(\S+)"),
        Metric(name="accuracy", regex=r"acc=([0-9.]+)"),
    )
    id = training.submit(job("metrics", source, metrics=metrics), CALL)
    until(lambda: training.status(id, CALL).metrics, "the first metric")
    assert training.status(id, CALL).state is State.RUNNING
    go.touch()
    ended(training, id)
    # Another client sees the same.
    found = LocalTraining(profile()).status(id, CALL).metrics
    assert [(p.value, p.step) for p in found["loss"]] == [(0.5, 0), (0.25, 1)]
    assert [(p.value, p.step) for p in found["accuracy"]] == [(0.25, 0), (0.75, 1)]
    assert found["loss"][0].time <= found["loss"][1].time


def test_failure_tells_exit_code_and_last_lines(training: LocalTraining, tmp_path: Path) -> None:
    source = script(
        tmp_path / "src",
        """
        import sys
        for i in range(30): print("line", i)
        sys.exit(7)
        """,
    )
    status = run(training, job("fails", source), State.FAILED)
    assert status.exit_code == 7
    assert status.reason == "the script ended with exit code 7"
    assert status.log_tail == tuple(f"line {i}" for i in range(10, 30))


def test_source_is_a_snapshot(training: LocalTraining, tmp_path: Path) -> None:
    go = tmp_path / "go"
    source = script(
        tmp_path / "src",
        f"""
        import os, time
        print(sorted(os.path.join(d, f)[2:] for d, _, fs in os.walk(".") for f in fs))
        while not os.path.exists({str(go)!r}): time.sleep(0.01)
        print(open("note.txt").read())
        """,
    )
    root = Path(source)
    for name in (".git/config", "data/big.bin", "pkg/__pycache__/m.pyc", "pkg/m.py", "x.ckpt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "note.txt").write_text("before")
    id = training.submit(job("snap", source, ignore=("data/", "*.ckpt")), CALL)
    (root / "note.txt").write_text("after")
    go.touch()
    assert ended(training, id).state is State.SUCCEEDED
    assert text(training, id) == ["['note.txt', 'pkg/m.py', 'train.py']", "before"]


def test_outputs_at_given_paths_and_files_are_private(
    training: LocalTraining, tmp_path: Path
) -> None:
    source = script(
        tmp_path / "src", "import os; open(os.environ['CLOUDAI_MODEL_DIR'] + '/m', 'w').close()"
    )
    status = run(
        training, job("given", source, outputs=Outputs(model=str(tmp_path / "deep" / "model")))
    )
    assert status.outputs == {"model": str(tmp_path / "deep" / "model")}
    for path in (training.home / "jobs" / "given", training.home / "local.db"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    training.delete("given", CALL)
    assert (tmp_path / "deep" / "model" / "m").exists()  # the user's own folder stays
    assert not (training.home / "jobs" / "given").exists()


def test_one_key_makes_one_job_and_a_taken_name_conflicts(
    training: LocalTraining, tmp_path: Path
) -> None:
    source = script(tmp_path / "src", "print(1)")
    spec = job("same", source)
    assert training.submit(spec, CALL) == training.submit(spec, CALL) == "same"
    assert training.find("key-same", CALL) == "same"
    assert training.find("another", CALL) is None
    with pytest.raises(Conflict, match="another key.*Use another name, or remove"):
        training.submit(job("same", source, idempotency_key="another"), CALL)
    ended(training, "same")
    assert [status.id for status in training.list(CALL)] == ["same"]
    assert training.status("same", CALL).idempotency_key == "key-same"
    training.delete("same", CALL)
    training.delete("same", CALL)
    assert training.list(CALL) == []
    with pytest.raises(NotFound, match="no training job 'same'"):
        training.status("same", CALL)


def test_secrets_are_resolved_where_it_runs_and_never_stored(
    training: LocalTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-value")
    (tmp_path / "key").write_text("from-file\n")
    source = script(
        tmp_path / "src",
        "import os; assert (os.environ['A'][::-1], os.environ['B'][::-1]) == "
        "('eulav-t3rc3s', 'elif-morf')",
    )
    secrets = {
        "A": SecretRef(store="env", name="MY_TOKEN"),
        "B": SecretRef(store="file", name=str(tmp_path / "key")),
    }
    run(training, job("secret", source, secrets=secrets))
    for path in training.home.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"s3cr3t-value" not in content, path
            assert b"from-file" not in content, path
    missing = {"A": SecretRef(store="env", name="NOT_SET_ANYWHERE")}
    with pytest.raises(InvalidRequest, match=r"secrets\.A: .*NOT_SET_ANYWHERE is not set"):
        training.submit(job("secret2", source, secrets=missing), CALL)


def test_requirements_that_are_here_need_no_network(
    training: LocalTraining, tmp_path: Path
) -> None:
    source = script(tmp_path / "src", "import msgspec, cloudai, sys; print(sys.prefix)")
    (Path(source) / "requirements.txt").write_text("msgspec>=0.18\n")
    run(training, job("reqs", source, requirements="requirements.txt"))
    lines = text(training, "reqs")
    assert any("already satisfied: msgspec" in line for line in lines)
    assert lines[-1] == str(training.home / "jobs" / "reqs" / "venv")


def test_requirements_that_cannot_be_installed_fail_the_job(
    training: LocalTraining, tmp_path: Path
) -> None:
    source = script(tmp_path / "src", "print('never')")
    (Path(source) / "requirements.txt").write_text("--no-index\nno-such-package-here==1\n")
    status = run(training, job("badreqs", source, requirements="requirements.txt"), State.FAILED)
    assert status.reason == (
        "the requirements could not be installed: the script ended with exit code 1"
    )
    assert "No matching distribution found" in status.log_tail[-1]


def test_plan_shows_the_process_and_no_secret(
    training: LocalTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-value")
    source = script(tmp_path / "src", "")
    spec = job(
        "planned",
        source,
        hyperparameters={"epochs": 2},
        secrets={"TOKEN": SecretRef(store="env", name="MY_TOKEN")},
        resources=Resources(nproc=2, instance_type="ml.m5.large"),
        spot=Spot(),
    )
    plan = training.plan(spec)
    assert plan.ok
    (request,) = plan.requests
    assert request.operation == "local:process"
    assert "torch.distributed.run" in request.body["argv"]
    assert request.body["argv"][-2:] == ["train.py", "--epochs=2"]
    assert {"TOKEN", "CLOUDAI_HPS", "SM_HPS", "OMP_NUM_THREADS"} <= set(request.body["env"])
    assert "s3cr3t-value" not in str(plan)
    assert any("instance_type" in loss for loss in plan.dropped)
    assert any("spot" in loss for loss in plan.dropped)
    assert plan.cost is not None
    assert plan.cost.high == 0.0
    assert not training.home.joinpath("local.db").exists()  # a plan leaves no trace


BAD = [
    ({"source": "/does/not/exist"}, "source", "is not a directory"),
    ({"entry": "missing.py"}, "entry", r"is not a file in source=.*train\.py"),
    ({"entry": "data.txt"}, "entry", r"neither a \.py nor a \.sh"),
    ({"requirements": "missing.txt"}, "requirements", "is not a file in source"),
    ({"inputs": {"train": "/does/not/exist"}}, "inputs.train", "does not exist"),
    ({"inputs": {"train": "s3://bucket/x"}}, "inputs.train", "Download it first"),
    ({"outputs": Outputs(model="gs://bucket/x")}, "outputs.model", "upload it afterwards"),
    ({"resources": Resources(nodes=2)}, "resources.nodes", r"use resources\.nproc"),
    ({"resources": Resources(accelerator="H9000-1GB:8")}, "resources.accelerator", "is not here"),
    ({"image": "pytorch:latest"}, "image", "Leave `image` out"),
]


@pytest.mark.parametrize(("fields", "field", "message"), BAD, ids=[b[1] for b in BAD])
def test_what_cannot_run_is_refused_before_anything_starts(
    training: LocalTraining, tmp_path: Path, fields: dict, field: str, message: str
) -> None:
    source = script(tmp_path / "src", "")
    (tmp_path / "src" / "data.txt").touch()
    spec = job("bad", **{"source": source, **fields})
    (violation, *_) = training.plan(spec).violations
    assert violation.field == field
    with pytest.raises(InvalidRequest, match=message) as caught:
        training.submit(spec, CALL)
    assert caught.value.field == field
    assert not (training.home / "jobs").exists()
    assert training.list(CALL) == []


def test_containers_are_refused_with_the_alternative(training: LocalTraining) -> None:
    spec = TrainingJob(name="c", kind="container", image="x", idempotency_key="c")
    with pytest.raises(UnsupportedByProvider, match="Use kind='script'"):
        training.submit(spec, CALL)


def test_a_hyperparameter_that_json_cannot_hold() -> None:
    with pytest.raises(InvalidRequest, match=r"hyperparameters\.x.*JSON cannot hold"):
        job("h", "src", hyperparameters={"x": object()})


def test_gpus_are_matched_by_name_and_memory() -> None:
    here = parse(
        "0, NVIDIA H100 80GB HBM3, 81559\n1, NVIDIA A100-SXM4-40GB, 40960\n2, Tesla T4, 15360\n"
    )
    assert here[2] == Gpu(2, "Tesla T4", 15.0)
    for asked, index in (("H100-80GB", 0), ("A100-40GB", 1), ("T4", 2)):
        assert [gpu.index for gpu in matching(Accelerator.parse(asked), here)] == [index]
    for asked in ("A100-80GB", "L4", "T40"):
        assert matching(Accelerator.parse(asked), here) == ()


def test_a_shell_script_runs(training: LocalTraining, tmp_path: Path) -> None:
    source = script(tmp_path / "src", 'echo "hps $CLOUDAI_HPS"', "run.sh")
    run(training, job("shell", source, entry="run.sh", hyperparameters={"a": 1}))
    assert text(training, "shell") == ['hps {"a": 1}']


def test_a_client_in_a_job_does_not_leak_its_own_variables(
    training: LocalTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "SM_CHANNEL_OLD", "CLOUDAI_INPUT_OLD"):
        monkeypatch.setenv(name, "1")
    source = script(
        tmp_path / "src",
        "import os; print([n for n in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'SM_CHANNEL_OLD', "
        "'CLOUDAI_INPUT_OLD', 'PATH') if n in os.environ])",
    )
    run(training, job("clean", source))
    assert text(training, "clean") == ["['PATH']"]
    assert os.environ["RANK"] == "1"


def test_l1_a_metric_that_is_no_number_is_a_point(training: LocalTraining, tmp_path: Path) -> None:
    source = script(
        tmp_path / "src", "for text in ('1.0', 'nan', 'inf', '0.9'): print(f'loss={text}')"
    )
    metric = Metric(name="loss", regex=r"loss=(\S+)")
    status = run(training, job("nan", source, metrics=(metric,)))
    assert [str(point.value) for point in status.metrics["loss"]] == ["1.0", "nan", "inf", "0.9"]
    assert [point.step for point in status.metrics["loss"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(("device", "nproc", "bad"), [
    (None, 3, True), (None, 2, False), ("cuda:1", 2, True), ("cpu", 8, False),
])  # fmt: skip
def test_l13_more_processes_than_cards_are_refused(
    device: str | None, nproc: int, bad: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, NVIDIA L4, 23034\\n1, NVIDIA L4, 23034\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    hardware._all.cache_clear()
    try:
        found = checks.processes(Resources(nproc=nproc), device)
    finally:
        monkeypatch.undo()
        hardware._all.cache_clear()
    assert bool(found) == bad
    if bad:
        cards = 1 if device else 2
        assert f"resources.nproc={nproc} is more than the {cards} GPU" in str(found[0])


def test_l12_the_hyperparameters_names_of_the_clouds(tmp_path: Path) -> None:
    def spec(**hyperparameters: object) -> TrainingJob:
        return TrainingJob(
            kind="finetune", base_model="b", inputs={"train": "t"},
            hyperparameters=hyperparameters,  # type: ignore[arg-type]
        )  # fmt: skip

    assert finetuning.named(spec(epochs=1, seed=2)) == {"n_epochs": 1, "seed": 2}
    fields = [one.field for one in finetuning.problems(spec(epochs=1), profile())]
    assert "hyperparameters.epochs" not in fields
    twice = finetuning.problems(spec(epochs=1, n_epochs=1), profile())
    assert any("is given as n_epochs too" in str(one) for one in twice)
