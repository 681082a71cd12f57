"""Fine-tuning on this machine: what it learns, how it goes on, what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from _models_fixtures import llama, random_llama
from jobtools import CALL, ended, profile, run, supervisor, text, until

from cloudai.engine import finetuning
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.providers.local.chat import LocalChat
from cloudai.providers.local.training import LocalTraining
from cloudai.types import ChatRequest, Message, Resources, Retry, State, TrainingJob


@pytest.fixture
def training() -> LocalTraining:
    return LocalTraining(profile(device="cpu"))


def examples(path: Path, count: int = 8, answer: str = "blue") -> Path:
    said = [{"role": "user", "content": "sky?"}, {"role": "assistant", "content": answer}]
    path.write_text("\ufeff" + f"{json.dumps({'messages': said})}\n" * count)
    return path


def tuning(name: str, train: Path, **fields: Any) -> TrainingJob:
    fields.setdefault("base_model", str(random_llama()))
    # A second thread gains a model this small nothing, and waits under load.
    fields.setdefault("resources", Resources(cpus=1))
    fields.setdefault("hyperparameters", {"n_epochs": 12, "batch_size": 4, "learning_rate": 0.02})
    return TrainingJob(
        name=name,
        kind="finetune",
        inputs={"train": str(train)},
        idempotency_key=f"key-{name}",
        **fields,
    )


def answer(model: str) -> str:
    chat = LocalChat(profile(device="cpu"))
    request = ChatRequest(
        model=model, messages=(Message("user", "sky?"),), temperature=0.0, max_tokens=8
    )
    return chat.create(request, CALL).text


@pytest.mark.slow
def test_it_learns_and_chat_loads_the_result(training: LocalTraining, tmp_path: Path) -> None:
    status = run(training, tuning("tune", examples(tmp_path / "train.jsonl")))
    losses = [point.value for point in status.metrics["train_loss"]]
    assert len(losses) == 12 * 2
    assert losses[-1] < losses[0] / 10
    assert answer(str(random_llama())) != "blue"
    assert answer(status.outputs["model"]) == "blue"


@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(training: LocalTraining, tmp_path: Path) -> None:
    spec = tuning(
        "again",
        examples(tmp_path / "train.jsonl", 16),
        hyperparameters={"n_epochs": 15, "batch_size": 4},
        retry=Retry(max=1),
    )
    training.submit(spec, CALL)
    until(lambda: any("done in" in line for line in text(training, "again")), "an epoch", 90)
    (worker,) = psutil.Process(supervisor(training.home, "again")).children()
    os.kill(worker.pid, signal.SIGKILL)
    status = ended(training, "again", 120)
    assert (status.state, status.restarts) == (State.SUCCEEDED, 1)
    assert any(line.startswith("resumed at epoch ") for line in text(training, "again"))


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"base_model": "/does/not/exist"}, "base_model", "does not exist"),
    ({"hyperparameters": {"n_epoch": 1}}, "hyperparameters.n_epoch", "Did you mean 'n_epochs'"),
    ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "not a positive number"),
    ({"hyperparameters": {"batch_size": True}}, "hyperparameters.batch_size", "not a positive"),
    ({"hyperparameters": {"lora_rank": 0.5}}, "hyperparameters.lora_rank", "not a positive"),
]


@pytest.mark.parametrize(("fields", "field", "message"), BAD, ids=[b[1] for b in BAD])
def test_what_it_refuses(
    training: LocalTraining, tmp_path: Path, fields: dict[str, Any], field: str, message: str
) -> None:
    spec = tuning("bad", examples(tmp_path / "train.jsonl"), **fields)
    with pytest.raises(InvalidRequest, match=message) as caught:
        training.submit(spec, CALL)
    assert caught.value.field == field


def test_other_methods(training: LocalTraining, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedByProvider, match="method='supervised'"):
        training.submit(tuning("dpo", examples(tmp_path / "t.jsonl"), method="dpo"), CALL)


LINES = [
    ("not json", "line 1 is no example"),
    ('{"prompt": "x"}', "line 1 is no example"),
    ('{"messages": []}', "no message of the assistant"),
    ('{"messages": [{"role": "user", "content": "x"}]}', "no message of the assistant"),
]


@pytest.mark.parametrize(("line", "message"), LINES, ids=[message for _, message in LINES])
def test_bad_examples(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "train.jsonl").write_text(line + "\n")
    with pytest.raises(InvalidRequest, match=message):
        list(finetuning.read_examples(tmp_path))


def test_the_loss_counts_the_assistants_words_alone(tmp_path: Path) -> None:
    from cloudai.engine import loading

    tokenizer = loading.tokenizer(llama(tmp_path / "model"))
    turns = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    example = finetuning.Example(tuple(finetuning.Turn(*turn) for turn in turns))
    ids, labels = finetuning.tokenise(tokenizer, "here", example, None)
    learned = [label for label in labels if label != finetuning.IGNORED]
    assert tokenizer.decode(learned) == "a1<|im_end|>\na2<|im_end|>\n"
    assert tokenizer.decode(ids).count("<|im_start|>system") == 1
    with pytest.raises(InvalidRequest, match=f"here has {len(ids)} tokens, and the model takes 9"):
        finetuning.tokenise(tokenizer, "here", example, 9)


@pytest.mark.slow
def test_i15_6_two_processes_learn_what_one_does(training: LocalTraining, tmp_path: Path) -> None:
    """With an odd number of examples, of different lengths."""
    from safetensors.torch import load_file

    train = tmp_path / "train.jsonl"
    said = [[{"role": "user", "content": "sky?"}, {"role": "assistant", "content": "blue" * size}]
            for size in (1, 2, 3)]  # fmt: skip
    train.write_text("".join(f"{json.dumps({'messages': one})}\n" for one in said))
    made: list[dict[str, Any]] = []
    losses: list[list[float]] = []
    for nproc in (None, 2):
        spec = tuning(f"n{nproc}", train, resources=Resources(cpus=1, nproc=nproc),
                      hyperparameters={"n_epochs": 2, "batch_size": 3})  # fmt: skip
        status = run(training, spec)
        made.append(load_file(Path(status.outputs["model"]) / "model.safetensors"))
        losses.append([point.value for point in status.metrics["train_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert len(losses[0]) == 2
    for name, value in made[0].items():
        assert (made[1][name] - value).abs().max() < 1e-5, name
