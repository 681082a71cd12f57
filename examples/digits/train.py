"""Trains the digits network: the script of a training job.

It knows nothing of cloudai: it reads directories from the environment (CLOUDAI_*, else
SageMaker's SM_* or Vertex AI's AIP_*), hyperparameters from its arguments, and starts alone or
under torchrun. It writes a checkpoint each epoch and goes on from it when it is started again.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from handler import ABOUT, WEIGHTS, DigitsCNN
from torch import nn
from torch.nn.functional import cross_entropy

REPORT_EVERY = 100  # batches
SMOOTHING = 0.1  # of the labels: over eight seeds it halves the errors on held-out digits


def directory(default: str, *names: str) -> Path:
    """The first of these variables that is set, as a directory."""
    found = next((os.environ[name] for name in names if os.environ.get(name)), default)
    return Path(found.replace("gs://", "/gcs/"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64, help="of all processes together")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def read(channel: Path) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images of shape (n, 1, 8, 8), labels, and the labels' names."""
    file = channel if channel.is_file() else channel / "train.npz"
    with np.load(file, allow_pickle=False) as data:
        images = torch.from_numpy(data["images"].astype(np.float32)).unsqueeze(1)
        return images, torch.from_numpy(data["labels"].astype(np.int64)), data["names"].tolist()


def save(target: Path, value: object) -> None:
    """Writes a file that is whole at any moment, even when the machine dies."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".part")
    with draft.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, target)


class Report:
    """Loss and accuracy since the last line."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, device=device)  # loss, right ones, images

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        logits = logits.detach()
        loss = cross_entropy(logits, labels, reduction="sum")
        right = (logits.argmax(1) == labels).sum()
        self.sums += torch.stack([loss, right, right.new_tensor(len(labels))])

    def say(self, epoch: int, step: int, more: str = "") -> None:
        if dist.is_initialized():
            dist.all_reduce(self.sums)
        loss, right, count = self.sums.tolist()
        self.sums.zero_()
        if count and int(os.environ.get("RANK", "0")) == 0:
            print(
                f"epoch={epoch} step={step} loss={loss / count:.4f} "
                f"accuracy={right / count:.4f}{more}",
                flush=True,
            )


def main() -> None:
    options = arguments()
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if world > 1:
        # Without a timeout the others would wait for ever for one that died.
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=2)
        )
    torch.manual_seed(options.seed)
    channel = directory(
        "data/train", "CLOUDAI_INPUT_TRAIN", "SM_CHANNEL_TRAIN", "AIP_TRAINING_DATA_URI"
    )
    model_dir = directory("model", "CLOUDAI_MODEL_DIR", "SM_MODEL_DIR", "AIP_MODEL_DIR")
    checkpoints = directory("checkpoints", "CLOUDAI_CHECKPOINT_DIR", "AIP_CHECKPOINT_DIR")
    checkpoint = checkpoints / "checkpoint.pt"

    images, labels, names = read(channel)
    about = {"labels": names, "mean": images.mean().item(), "std": images.std().item()}
    network = DigitsCNN(len(names), about["mean"], about["std"])
    network = network.to(device, memory_format=torch.channels_last)
    images = images.to(device, memory_format=torch.channels_last)
    labels = labels.to(device)

    batch = max(options.batch_size // world, 1)
    steps = max(len(images) // (batch * world), 1)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.lr, weight_decay=options.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.lr, total_steps=options.epochs * steps + 1
    )
    first = 1
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"].cpu())
        first = state["epoch"] + 1
        if rank == 0:
            print(f"resumed after epoch {state['epoch']}", flush=True)
    model: nn.Module = network
    if world > 1:
        model = nn.parallel.DistributedDataParallel(network)

    report, whole = Report(device), Report(device)
    for epoch in range(first, options.epochs + 1):
        started = time.perf_counter()
        model.train()
        # The order follows from the epoch, so that a resumed run sees the same batches.
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(epoch))
        order = order.to(device)
        for index in range(steps):
            chosen = order[index * batch * world : (index + 1) * batch * world][rank::world]
            optimizer.zero_grad(set_to_none=True)
            logits = model(images[chosen])
            loss = cross_entropy(logits, labels[chosen], label_smoothing=SMOOTHING)
            loss.backward()
            optimizer.step()
            schedule.step()
            report.add(logits, labels[chosen])
            whole.add(logits, labels[chosen])
            step = (epoch - 1) * steps + index + 1
            if step % REPORT_EVERY == 0:
                report.say(epoch, step)
        whole.say(epoch, epoch * steps, f" seconds={time.perf_counter() - started:.2f}")
        if rank == 0:
            save(
                checkpoint,
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "rng": torch.get_rng_state(),
                    "epoch": epoch,
                },
            )
    if rank == 0:
        save(model_dir / WEIGHTS, network.state_dict())
        (model_dir / ABOUT).write_text(json.dumps(about))
        print(f"saved {model_dir / WEIGHTS}", flush=True)
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
