"""A deployment as this machine carries it: what it refuses, what it leaves out, and the server's
configuration that it becomes. Pure, but for looking at files and GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cloudai._core.files.paths import local_path
from cloudai._core.handlers.handler import PLACES, find_handler
from cloudai.engine import hardware
from cloudai.errors import InvalidRequest, UnsupportedByProvider
from cloudai.types import Accelerator, Deployment, Variant
from cloudai.types._base import invalid

NATIVE: Final = frozenset(
    {
        "access_log", "device", "dtype", "limits", "long_input", "low_confidence", "predictor",
        "shadow", "tls_cert", "tls_key",
    }
)  # fmt: skip
"""What ``native["local"]`` may hold: the server's own settings, and ``shadow``, the names of
variants that get a copy of the traffic and whose answers are dropped."""


def check(spec: Deployment, device: str | None) -> Iterator[InvalidRequest]:
    """All that this machine refuses about the deployment."""
    if spec.mode != "realtime":
        yield _unsupported(
            f"mode={spec.mode!r}",
            "Use mode='realtime', or a batch transform for results in files.",
        )
    if spec.image is not None:
        yield _unsupported(
            "an endpoint's image",
            "The server runs in this environment; `cloudai package` makes an image of it.",
        )
    if spec.requirements is not None:
        yield _unsupported(
            "an endpoint's requirements file",
            "Install the requirements into the environment that deploys it.",
        )
    for name in spec.native.get("local", {}):
        if name not in NATIVE:
            yield invalid("native.local", name, f"is not one of {', '.join(sorted(NATIVE))}")
    for index, variant in enumerate(spec.variants):
        yield from _check_variant(spec, variant, f"variants[{index}]", device)


def _check_variant(
    spec: Deployment, variant: Variant, field: str, device: str | None
) -> Iterator[InvalidRequest]:
    try:
        folder = model_dir(variant, f"{field}.model")
    except InvalidRequest as error:
        yield error
        return
    handler = variant.handler or spec.handler
    try:
        if handler is not None or any((folder / place).is_file() for place in PLACES):
            find_handler(folder, Path(handler).absolute() if handler is not None else None)
        elif not _text_model(folder):
            find_handler(folder)  # raises what is missing
    except InvalidRequest as error:
        yield error
    resources = variant.resources
    if resources.nodes > 1:
        yield invalid(f"{field}.resources.nodes", resources.nodes, "is more than one machine")
    if resources.accelerator is not None and not _chosen_gpus(variant, device):
        yield invalid(
            f"{field}.resources.accelerator",
            resources.accelerator,
            f"is not on this machine, which has {hardware.describe(hardware.gpus(device))}",
            "Leave it out to run on what there is.",
        )


def dropped(spec: Deployment) -> Iterator[str]:
    """What the deployment asks for and this machine does not carry."""
    for variant in spec.variants:
        if variant.max is not None and variant.max > variant.min:
            yield f"variant {variant.name}: no autoscaling to max={variant.max}; min workers run"
        if variant.resources.instance_type is not None:
            yield f"variant {variant.name}: instance_type; this machine is what it is"
        if variant.resources.memory is not None:
            yield f"variant {variant.name}: no limit of memory is enforced"
    if spec.tags:
        yield "tags: kept in cloudai's ledger only"


def server_config(spec: Deployment, port: int, device: str | None) -> dict[str, Any]:
    """The configuration file of the server (``cloudai.server.config.ServerConfig``)."""
    native = dict(spec.native.get("local", {}))
    shadow = set(native.pop("shadow", ()))
    predictor = native.pop("predictor", "auto")
    limits = {"batch": spec.max_batch, "queue": spec.max_queue, **native.pop("limits", {})}
    variants: list[dict[str, Any]] = []
    for variant in spec.variants:
        model = variant.model if not isinstance(variant.model, str) else None
        handler = variant.handler or spec.handler
        gpus = _chosen_gpus(variant, device)
        workers = spec.workers or variant.resources.cpus
        if variant.min > 1:
            workers = variant.min * (spec.workers or 1)
        variants.append(
            {
                "name": variant.name,
                "path": str(model_dir(variant)),
                "handler": str(Path(handler).absolute()) if handler is not None else None,
                "weight": variant.weight,
                "shadow": variant.name in shadow,
                "version": (model.version or (model.digest or "")[:12] or None) if model else None,
                "workers": workers,
                "predictor": predictor,
                "device": f"cuda:{gpus[0].index}" if gpus else None,
            }
        )
    return {
        "models": [{"name": spec.name, "variants": variants}],
        "host": spec.host,
        "port": port,
        "device": device,
        "limits": limits,
        **native,
    }


def model_dir(variant: Variant, field: str = "variants.model") -> Path:
    """The variant's model directory. Raises InvalidRequest for another kind of place."""
    uri = variant.uri
    folder = local_path(uri, field, "Download it, and give its directory.")
    if not folder.is_dir():
        raise invalid(field, uri, "is not a directory", "Give the directory of a trained model.")
    return folder


def _chosen_gpus(variant: Variant, device: str | None) -> tuple[hardware.Gpu, ...]:
    resources = variant.resources
    if resources.accelerator is None:
        return ()
    here = hardware.gpus(device)
    for text in (resources.accelerator, *resources.any_of):
        asked = Accelerator.parse(text)
        found = hardware.matching(asked, here)
        if len(found) >= asked.count:
            return found
    return ()


def _text_model(folder: Path) -> bool:
    """Whether the server runs the directory without a handler: a Hugging Face model."""
    return (folder / "config.json").is_file()


def _unsupported(feature: str, alternative: str) -> UnsupportedByProvider:
    return UnsupportedByProvider(feature, provider="local", alternative=alternative)
