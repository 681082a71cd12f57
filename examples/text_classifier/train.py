"""Fine-tunes a text classifier with Hugging Face's Trainer: the script of a training job.

The channel ``base`` is a model's folder, ``train`` holds train.jsonl and validation.jsonl. It
evaluates and saves each epoch, keeps the best model, and goes on from the newest checkpoint when
it is started again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import disable_progress_bars, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint


def directory(default: str, *names: str) -> Path:
    """The first of these variables that is set, as a directory."""
    found = next((os.environ[name] for name in names if os.environ.get(name)), default)
    return Path(found.replace("gs://", "/gcs/"))


class Report(TrainerCallback):
    """Prints what the job's metrics are read from."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        names = {"loss": "loss", "eval_loss": "eval_loss", "eval_accuracy": "eval_accuracy"}
        told = " ".join(f"{name}={logs[key]:.4f}" for key, name in names.items() if key in logs)
        if told:
            print(f"epoch={state.epoch:.0f} step={state.global_step} {told}", flush=True)


def accuracy(predicted: Any) -> dict[str, float]:
    guesses = np.argmax(predicted.predictions, axis=-1)
    return {"accuracy": float((guesses == predicted.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--warmup", type=float, default=0.1, help="part of all steps")
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base = directory("base", "CLOUDAI_INPUT_BASE", "SM_CHANNEL_BASE")
    channel = directory("data/train", "CLOUDAI_INPUT_TRAIN", "SM_CHANNEL_TRAIN")
    model_dir = directory("model", "CLOUDAI_MODEL_DIR", "SM_MODEL_DIR", "AIP_MODEL_DIR")
    checkpoints = directory("checkpoints", "CLOUDAI_CHECKPOINT_DIR", "AIP_CHECKPOINT_DIR")

    disable_progress_bars()
    files = {part: str(channel / f"{part}.jsonl") for part in ("train", "validation")}
    data = load_dataset("json", data_files=files, cache_dir=str(checkpoints / "datasets"))
    labels = sorted(set(data["train"]["label"]))
    tokenizer = AutoTokenizer.from_pretrained(base)

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        encoded = tokenizer(batch["text"], truncation=True, max_length=128)
        return {**encoded, "labels": [labels.index(label) for label in batch["label"]]}

    encoded = data.map(encode, batched=True, remove_columns=["text", "label"])
    model = AutoModelForSequenceClassification.from_pretrained(
        base,
        num_labels=len(labels),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(checkpoints),
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
            per_device_eval_batch_size=64,
            learning_rate=options.lr,
            warmup_steps=options.warmup,
            weight_decay=options.weight_decay,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="accuracy",
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
            seed=options.seed,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
        ),
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=[Report()],
    )
    trainer.remove_callback(PrinterCallback)
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.save_model(str(model_dir))
    tokenizer.save_pretrained(str(model_dir))
    print(f"best accuracy {trainer.state.best_metric:.4f}; saved {model_dir}", flush=True)


if __name__ == "__main__":
    main()
