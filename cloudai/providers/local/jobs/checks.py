"""What both kinds of local jobs check before they start anything, and what they lose here."""

from __future__ import annotations

import os
from typing import Final

from cloudai._core.profiles.secrets import fetch_plain
from cloudai.engine import hardware
from cloudai.errors import CloudAIError, InvalidRequest, NotFound, UnsupportedByProvider
from cloudai.types import Accelerator, BatchTransform, Resources, SecretRef, TrainingJob
from cloudai.types._base import invalid, shorten

PROVIDER: Final = "local"


def platform(image: str | None) -> list[CloudAIError]:
    problems: list[CloudAIError] = []
    if os.name != "posix":
        problems.append(
            UnsupportedByProvider(
                "a job on Windows",
                provider=PROVIDER,
                alternative="Run it under WSL, or on a cloud's profile.",
                field="kind",
            )
        )
    if image is not None:
        problems.append(
            UnsupportedByProvider(
                "a container image",
                provider=PROVIDER,
                alternative="Leave `image` out: the script runs in this Python, with "
                "`requirements` installed.",
                field="image",
                value=image,
            )
        )
    return problems


def accelerator(resources: Resources, device: str | None) -> list[CloudAIError]:
    """An accelerator that this machine lacks. Nothing smaller is taken in its place."""
    asked = resources.accelerator
    if asked is None or gpus_for(resources, device) is not None:
        return []
    here = hardware.gpus(device)
    candidates = sorted({gpu.name for gpu in here})
    return [
        invalid(
            "resources.accelerator",
            asked,
            f"is not here: this machine has {hardware.describe(here)}"
            + (f" under device={device!r}" if device else ""),
            f"Leave it out to use {', '.join(candidates) or 'the CPU'}, or use a profile of "
            "aws, azure or vertex.",
        )
    ]


def processes(resources: Resources, device: str | None) -> list[CloudAIError]:
    """More processes than cards: torchrun gives each process the card of its rank."""
    found = gpus_for(resources, device)
    cards = len(hardware.gpus(device)) if found is None else len(found)
    if not cards or (resources.nproc or 1) <= cards:
        return []
    return [
        invalid(
            "resources.nproc",
            resources.nproc,
            f"is more than the {cards} GPU{'s'[: cards != 1]} that the job would have",
            f"Use nproc={cards}, or a profile with device='cpu'.",
        )
    ]


def gpus_for(resources: Resources, device: str | None) -> list[int] | None:
    """The indices of GPUs that satisfy the spec; None where none were asked for or found.
    An empty list hides all GPUs, for device="cpu"."""
    if resources.accelerator is None:
        if device == "cpu":
            return []
        return [gpu.index for gpu in hardware.gpus(device)] if device else None
    here = hardware.gpus(device)
    for text in (resources.accelerator, *resources.any_of):
        asked = Accelerator.parse(text)
        found = hardware.matching(asked, here)
        if len(found) >= asked.count:
            return [gpu.index for gpu in found[: asked.count]]
    return None


def secrets(references: dict[str, SecretRef]) -> list[CloudAIError]:
    """A reference into this machine that leads nowhere is found before the start; a vault
    is asked only where the job runs."""
    problems: list[CloudAIError] = []
    for name, reference in references.items():
        if reference.store in {"env", "file"}:
            try:
                fetch_plain(reference)
            except NotFound as error:
                problems.append(
                    InvalidRequest(f"secrets.{name}: {error.message}", field=f"secrets.{name}")
                )
    return problems


def dropped(spec: TrainingJob | BatchTransform) -> list[str]:
    resources = spec.resources
    found: list[str] = []
    if resources.instance_type is not None:
        found.append(f"resources.instance_type={resources.instance_type!r}: this machine")
    if resources.memory is not None or resources.disk is not None:
        found.append("resources.memory and resources.disk are not enforced")
    if resources.cpus is not None:
        found.append(f"resources.cpus={resources.cpus} sets thread counts, and is no limit")
    others = sorted(set(spec.native) - {PROVIDER})
    found.extend(f"native.{name} is for another provider" for name in others)
    return found


def no_uri(field: str, value: str, alternative: str) -> UnsupportedByProvider:
    return UnsupportedByProvider(
        f"{field}={shorten(value)}: an object store",
        provider=PROVIDER,
        alternative=alternative,
        field=field,
        value=value,
    )
