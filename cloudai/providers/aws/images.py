"""Container images of the frameworks, from the sagemaker SDK's own tables.

The tables are JSON files in the SDK; importing it costs more than a second, so that only the
files are read. A test holds the outcome against ``sagemaker.core.image_uris.retrieve``.
"""

from __future__ import annotations

import importlib.util
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from cloudai.errors import MissingExtra
from cloudai.providers.aws import catalog
from cloudai.types._base import invalid

Scope = Literal["training", "inference"]

FRAMEWORKS: Final = ("pytorch", "tensorflow", "huggingface")


SOON: Final = 90
"""Days before the end of an image's patches in which a plan tells of it."""

_PATCHED: Final[dict[tuple[str, str], dict[str, date]]] = {
    ("pytorch", "training"): {
        "2.10": date(2027, 1, 21),
        "2.9": date(2026, 10, 15),
        "2.8": date(2026, 8, 6),
    },
    ("pytorch", "inference"): {"2.6": date(2026, 6, 30)},
}
"""Until when AWS mends its images ("Framework Support Policy" of its Deep Learning Containers, read
2026-11-30). They can be pulled after that day, too."""


@lru_cache(maxsize=16)
def _table(framework: str) -> dict[str, Any]:
    try:
        spec = importlib.util.find_spec("sagemaker")
    except ModuleNotFoundError:
        spec = None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        file = Path(place) / "core" / "image_uri_config" / f"{framework}.json"
        if file.is_file():
            return msgspec.json.decode(file.read_bytes())
    raise MissingExtra("sagemaker", extra="aws", provider="aws")


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isdigit()]


def notes(framework: str, scope: Scope, today: date) -> tuple[str, ...]:
    """What a plan tells of an image that is not mended any more, or not for long. Parameters as
    of ``image``, which knows the framework."""
    name, _, version = framework.partition("==")
    name = name.strip().lower()
    ends = _PATCHED.get((name, scope))
    if ends is None:
        return ()
    version = version.strip() or max(_table(name)[scope]["versions"], key=_numbers)
    end = ends.get(".".join(version.split(".")[:2]))
    if end is None or (end - today).days > SOON:
        return ()
    return (f"AWS mends its {scope} image of {name} {version} until {end}",)


def image(
    framework: str,
    scope: Scope,
    region: str,
    *,
    chip: catalog.Chip,
    suffix: str = "amazonaws.com",
) -> str:
    """The image's URI.

    Parameters
    ----------
    framework: ``"pytorch"``, ``"tensorflow==2.19"``, ``"huggingface"``; without a version the
        newest of the tables.
    chip: of the machine. suffix: of AWS's domain names in this partition.

    Raises InvalidRequest for a framework, a version, a chip or a region that the tables lack.
    """
    name, _, version = framework.partition("==")
    name = name.strip().lower()
    if name not in FRAMEWORKS:
        raise invalid(
            "framework",
            framework,
            "has no image of SageMaker's own here",
            f"Use one of {', '.join(FRAMEWORKS)}, or name an image.",
        )
    whole = _table(name)
    config = whole.get(scope, whole)
    if chip in ("graviton", "neuron"):
        config = whole.get(f"{scope}_{chip}")
        if config is None:
            raise invalid(
                "resources",
                chip,
                f"is nothing that AWS has an image of {name} for {scope} made for",
                "Name an image that is made for it, or use another machine.",
            )
    versions: dict[str, Any] = config["versions"]
    asked = version.strip()
    chosen = (
        max(versions, key=_numbers) if not asked else config["version_aliases"].get(asked, asked)
    )
    if chosen not in versions:
        newest = sorted(versions, key=_numbers)[-5:]
        raise invalid(
            "framework",
            framework,
            "is a version that SageMaker has no image of",
            f"The last ones are {', '.join(newest)}; or name an image.",
        )
    row = versions[chosen]
    prefix = asked or chosen
    if name == "huggingface":
        bases = [key for key in row if key.startswith("pytorch")]
        if not bases:
            raise invalid("framework", framework, "has no image with PyTorch", "Name an image.")
        row = row[bases[-1]]
        prefix = f"{bases[-1].removeprefix('pytorch')}-transformers{chosen}"
    registry = row["registries"].get(region)
    if registry is None:
        raise invalid(
            "region",
            region,
            f"has no image of {framework}",
            "Use another region, or name an image.",
        )
    processor = "gpu" if chip == "gpu" else "cpu"
    container = row.get("container_version")
    runs_on = container or row.get("processors") or config.get("processors") or ["cpu", "gpu"]
    if processor not in runs_on:
        raise invalid(
            "resources", processor, f"is nothing that the image of {framework} runs on",
            "Ask for an accelerator, or name an image.",
        )  # fmt: skip
    parts = [row.get("tag_prefix", prefix), processor, (row.get("py_versions") or [None])[-1]]
    parts.append(container[processor] if container is not None else None)
    if chip == "graviton":
        parts.append("sagemaker")
    tag = "-".join(part for part in parts if part)
    return f"{registry}.dkr.ecr.{region}.{suffix}/{row['repository']}:{tag}"
