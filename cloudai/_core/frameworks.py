"""How a framework starts a training script on several processes and machines."""

from __future__ import annotations

from cloudai.types import TrainingJob, Violation


def check(spec: TrainingJob) -> list[Violation]:
    """What a framework does not do. TensorFlow has one process a machine, which sees all of its
    GPUs ("Distributed training with TensorFlow", read 2026-11)."""
    nproc = spec.resources.nproc
    if spec.kind != "script" or not spec.framework.startswith("tensorflow") or (nproc or 1) == 1:
        return []
    return [
        Violation(
            "resources.nproc",
            f"{nproc} processes a machine, and TensorFlow has one for all of its GPUs.",
            "Leave it out, and use tf.distribute.MirroredStrategy.",
        )
    ]
