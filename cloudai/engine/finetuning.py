"""Supervised fine-tuning of a causal language model, as a training job's script.

Reads ``CLOUDAI_INPUT_TRAIN`` (and ``CLOUDAI_INPUT_VALIDATION``): JSON Lines of
``{"messages": [{"role", "content"}, ...]}``, a file or a directory of ``*.jsonl``, as Azure OpenAI
takes them. The loss counts the assistant's words alone. Each epoch ends with a checkpoint, from
which a restarted job goes on; the result is a Hugging Face directory in ``CLOUDAI_MODEL_DIR``,
which chat loads by its path. With the hyperparameter ``lora_rank`` it is an adapter (LoRA, Hu et
al. 2021, by peft), which names its base.

Under torchrun each process takes its share of each batch, and the gradients are added up: the steps
are those of one process.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.state.disk import disk_errors, whole
from cloudai.errors import CloudAIError, ContextOverflow, InvalidRequest
from cloudai.types._base import met, shorten

EPOCHS: Final = 3
BATCH_SIZE: Final = 8
LEARNING_RATE: Final = 5e-5
LORA_RATE: Final = 2e-4
"""An adapter's, which begins at nothing and takes larger steps."""
WARMUP: Final = 0.1
IGNORED: Final = -100  # what torch's cross entropy leaves out


class Turn(msgspec.Struct, frozen=True):
    """One message of an example."""

    role: str
    content: str


class Example(msgspec.Struct, frozen=True):
    """One line of the training file."""

    messages: tuple[Turn, ...]


Tokens = tuple[list[int], list[int]]
"""The ids of an example, and the same with IGNORED wherever the assistant does not speak."""


def read_examples(path: Path) -> Iterator[tuple[str, Example]]:
    """The examples, each with its place. Raises InvalidRequest naming file and line."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise InvalidRequest(f"{path} holds no .jsonl file", field="inputs.train")
    for file in files:
        with file.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield (
                        f"{file.name}, line {number}",
                        _example(f"{file.name}, line {number}", line),
                    )


def _example(place: str, line: str) -> Example:
    try:
        example = msgspec.json.decode(line, type=met(Example))
    except msgspec.DecodeError as error:
        raise InvalidRequest(
            f"{place} is no example ({error}): {shorten(line.strip())}",
            field="inputs.train",
            hint='Each line is {"messages": [{"role": "user", "content": …}, …]}.',
        ) from None
    if not any(turn.role == "assistant" for turn in example.messages):
        raise InvalidRequest(
            f"{place} has no message of the assistant, so there is nothing to learn from it",
            field="inputs.train",
        )
    return example


def tokenise(tokenizer: Any, place: str, example: Example, limit: int | None) -> Tokens:
    """The example as the model's chat template writes it.

    Raises ContextOverflow naming both numbers, and InvalidRequest for a template that does not
    write a conversation's beginning as it writes the whole.
    """
    messages = _with_system(tokenizer, example)

    def render(count: int, prompt: bool) -> list[int]:
        text = tokenizer.apply_chat_template(
            messages[:count], add_generation_prompt=prompt, tokenize=False
        )
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    ids = render(len(messages), prompt=False)
    labels = [IGNORED] * len(ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, after = render(index, prompt=True), render(index + 1, prompt=False)
        if ids[: len(before)] != before or ids[: len(after)] != after:
            raise InvalidRequest(
                f"{place}: the model's chat template writes a part of this conversation in "
                "another way than the whole",
                field="inputs.train",
                hint="Split it into examples with one answer each.",
            )
        labels[len(before) : len(after)] = ids[len(before) : len(after)]
    if limit is not None and len(ids) > limit:
        raise ContextOverflow(
            f"{place} has {len(ids)} tokens, and the model takes {limit}",
            tokens=len(ids),
            limit=limit,
            hint="Shorten the example, or raise hyperparameters.max_length if that set it.",
        )
    return ids, labels


def _with_system(tokenizer: Any, example: Example) -> list[dict[str, str]]:
    """The messages as chat sends them: with the system message that it puts before those that
    have none, where the template knows system messages."""
    import jinja2

    from cloudai.engine.chat import SYSTEM

    messages = [{"role": turn.role, "content": turn.content} for turn in example.messages]
    if messages[0]["role"] == "system":
        return messages
    told = [{"role": "system", "content": SYSTEM}, *messages]
    try:
        tokenizer.apply_chat_template(told, tokenize=False)
    except jinja2.TemplateError:
        return messages
    return told


def collate(examples: Sequence[Tokens], pad: int, device: str) -> dict[str, Any]:
    """A padded batch."""
    import torch

    width = max(len(ids) for ids, _ in examples)
    rows = [(ids, labels, width - len(ids)) for ids, labels in examples]
    return {
        "input_ids": torch.tensor([ids + [pad] * gap for ids, _, gap in rows], device=device),
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * gap for ids, _, gap in rows], device=device
        ),
        "labels": torch.tensor(
            [labels + [IGNORED] * gap for _, labels, gap in rows], device=device
        ),
    }


class Trainer:
    """One fine-tuning run.

    Parameters
    ----------
    base: the base model's directory. device: None takes the first there is.
    hyperparameters: as the job gives them, checked there.
    """

    def __init__(self, base: Path, device: str | None, hyperparameters: dict[str, Any]) -> None:
        import torch

        from cloudai.engine import adapters, loading
        from cloudai.engine import device as _device
        from cloudai.engine.generation import _context as context_of

        self.epochs = int(hyperparameters.get("n_epochs", EPOCHS))
        self.batch_size = int(hyperparameters.get("batch_size", BATCH_SIZE))
        self.seed = int(hyperparameters.get("seed", 0))
        factor = float(hyperparameters.get("learning_rate_multiplier", 1.0))
        rank = hyperparameters.get("lora_rank")
        usual = LORA_RATE if rank else LEARNING_RATE
        self.rate = float(hyperparameters.get("learning_rate", usual)) * factor
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = _device.pick(device)
        if self.world > 1 and self.device.startswith("cuda"):
            self.device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(self.device)
        torch.manual_seed(self.seed)
        self.tokenizer = loading.tokenizer(base)
        if not self.tokenizer.chat_template:
            raise InvalidRequest(
                f"base_model={str(base)!r} has no chat template",
                field="base_model",
                hint="Take a model that was made for chat.",
            )
        # Weights are float32 while they learn: bfloat16 loses steps this small.
        self.model = loading.model(base, "chat", self.device, torch.float32)
        if rank:
            alpha = float(hyperparameters.get("lora_alpha", 2 * rank))
            self.model = adapters.learning(self.model, base, int(rank), alpha)
            self.model.train()
        else:
            self.model.train().requires_grad_(True)
        self.learns = [one for one in self.model.parameters() if one.requires_grad]
        # The type on disk, so that the result is not twice the size of its base.
        self.kept: Any = getattr(self.model.config, "dtype", None) or torch.float32
        limits = [context_of(self.model.config, self.tokenizer), hyperparameters.get("max_length")]
        self.limit = min((int(limit) for limit in limits if limit), default=None)
        self.pad = self.tokenizer.pad_token_id
        if self.pad is None:
            self.pad = self.tokenizer.eos_token_id or 0

    def load(self, path: Path) -> list[Tokens]:
        return [
            tokenise(self.tokenizer, place, example, self.limit)
            for place, example in read_examples(path)
        ]

    def batches(self, examples: Sequence[Tokens], epoch: int | None) -> Iterator[dict[str, Any]]:
        """The examples in batches; shuffled where an epoch is given, alike after a restart."""
        import torch

        order = list(range(len(examples)))
        if epoch is not None:
            dice = torch.Generator().manual_seed(self.seed + epoch)
            order = torch.randperm(len(order), generator=dice).tolist()
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            whole = [examples[index] for index in chosen]
            # The loss is the mean over all tokens of the batch, whoever reads them.
            count = sum(label != IGNORED for _, labels in whole for label in labels[1:])
            own = whole[self.rank :: self.world] if epoch is not None else whole
            yield {"count": count, **(collate(own, self.pad, self.device) if own else {})}

    def run(self, train: list[Tokens], valid: list[Tokens], checkpoints: Path) -> None:
        """Trains, from the newest checkpoint if there is one."""
        import torch

        steps = self.epochs * -(-len(train) // self.batch_size)
        optimizer = torch.optim.AdamW(self.learns, lr=self.rate, weight_decay=0.0)
        warm = max(1, round(steps * WARMUP))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warm, max(0.0, (steps - step) / max(1, steps - warm))),
        )
        file = checkpoints / "state.pt"
        first = 0
        if file.exists():
            state = torch.load(file, map_location=self.device, weights_only=True)
            self.model.load_state_dict(state["model"], strict=False)
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            first = state["epoch"] + 1
            self.tell(f"resumed at epoch {first}")
        step = first * -(-len(train) // self.batch_size)
        for epoch in range(first, self.epochs):
            started = time.monotonic()
            for batch in self.batches(train, epoch):
                loss = self._loss(batch)
                if loss.requires_grad:
                    loss.backward()
                loss = self._added_up(loss.detach())
                torch.nn.utils.clip_grad_norm_(self.learns, 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
                step += 1
                self.tell(f"epoch={epoch} step={step}/{steps} train_loss={loss.item():.6f}")
            seconds = time.monotonic() - started
            told = f" valid_loss={self.validate(valid):.6f}" if valid else ""
            learnt = {name for name, one in self.model.named_parameters() if one.requires_grad}
            state = {
                "model": {k: v for k, v in self.model.state_dict().items() if k in learnt},
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch,
            }
            if self.rank == 0:
                save(state, file)
            self.tell(f"epoch={epoch} done in {seconds:.1f} s{told}")

    def _loss(self, batch: dict[str, Any]) -> Any:
        """The loss of this process's examples, as its part of the mean over the batch."""
        import torch

        if "labels" not in batch:  # fewer examples than processes
            return torch.zeros((), device=self.device)
        half = self.device.startswith("cuda") and torch.cuda.is_bf16_supported()
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            scores = self.model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits
        return torch.nn.functional.cross_entropy(
            scores[:, :-1].flatten(0, 1).float(),
            batch["labels"][:, 1:].flatten(),
            ignore_index=IGNORED,
            reduction="sum",
        ) / max(1, batch["count"])

    def _added_up(self, loss: Any) -> Any:
        """Adds the gradients of all processes up, and gives their loss together."""
        if self.world == 1:
            return loss
        import torch
        from torch import distributed

        for one in self.learns:
            if one.grad is None:
                one.grad = torch.zeros_like(one)
        works: list[Any] = [distributed.all_reduce(one.grad, async_op=True) for one in self.learns]
        distributed.all_reduce(loss)
        for work in works:
            work.wait()
        return loss

    def validate(self, examples: list[Tokens]) -> float:
        """The mean loss of a batch, over all batches."""
        import torch

        self.model.eval()
        with torch.inference_mode():
            losses = [self._loss(batch).item() for batch in self.batches(examples, None)]
        self.model.train()
        return sum(losses) / len(losses)

    def write(self, folder: Path) -> None:
        """Writes the model as a Hugging Face directory, or the adapter as peft's."""
        with disk_errors(folder):
            self.model.to(self.kept).eval().save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)

    def tell(self, text: str) -> None:
        """A line of the job's log, told once."""
        if self.rank == 0:
            print(text, flush=True)  # noqa: T201


def save(state: dict[str, Any], file: Path) -> None:
    """Writes a checkpoint that is there whole or not at all."""
    import torch

    with disk_errors(file), whole(file, alone=True) as out:
        torch.save(state, out)


def _base(name: str, home: Path) -> Path:
    from cloudai.engine import catalog

    return catalog.chat_folder(catalog.find("chat", name, home=home), home)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-model", required=True)
    parser.add_argument("--home", required=True, type=Path)
    parser.add_argument("--device")
    options = parser.parse_args()
    from torch import distributed

    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1:
        backend = os.environ.get("CLOUDAI_BACKEND", "gloo")
        # The ranks meet at each step; one that died is not waited for much longer than that.
        distributed.init_process_group(backend, timeout=timedelta(minutes=10))
    try:
        trainer = Trainer(
            _base(options.base_model, options.home),
            options.device,
            msgspec.json.decode(os.environ["CLOUDAI_HPS"]),
        )
        train = trainer.load(Path(os.environ["CLOUDAI_INPUT_TRAIN"]))
        held = os.environ.get("CLOUDAI_INPUT_VALIDATION")
        valid = trainer.load(Path(held)) if held else []
        if not train:
            raise InvalidRequest("inputs.train holds no example", field="inputs.train")
        trainer.tell(f"{len(train)} examples, {sum(len(ids) for ids, _ in train)} tokens")
        trainer.run(train, valid, Path(os.environ["CLOUDAI_CHECKPOINT_DIR"]))
        if trainer.rank == 0:
            trainer.write(Path(os.environ["CLOUDAI_MODEL_DIR"]))
        if world > 1:
            distributed.barrier()
            distributed.destroy_process_group()
    except CloudAIError as error:
        sys.exit(f"{type(error).__name__}: {error}")
