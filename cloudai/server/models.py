"""The models that the server holds: their variants, how traffic is shared, how an update takes
over without a lost request."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.handlers.handler import model_digest
from cloudai.errors import CloudAIError, NotFound, ServiceUnavailable
from cloudai.server.config import QUICK_BATCH, ModelConfig, ServerConfig, VariantConfig, cores
from cloudai.server.predictors.loading import kind_of
from cloudai.server.workers.pool import Group, worker_env
from cloudai.server.workers.wire import Options
from cloudai.types._base import invalid


class Variant:
    """A variant with its workers."""

    def __init__(self, config: VariantConfig, version: str, group: Group) -> None:
        self.config = config
        self.version = version
        self.group = group
        self.weight = 0.0 if config.shadow else config.weight

    @property
    def name(self) -> str:
        return self.config.name


class ServedModel:
    """A model by name."""

    def __init__(self, name: str, variants: list[Variant]) -> None:
        self.name = name
        self.variants = variants

    @property
    def ready(self) -> bool:
        return all(variant.group.ready for variant in self.variants if variant.weight > 0)

    @property
    def shadows(self) -> list[Variant]:
        return [variant for variant in self.variants if variant.config.shadow]

    def choose(self, wanted: str | None = None, sticky: str | None = None) -> Variant:
        """The variant for one request: the one that is asked for by name; else by weight, and
        for one ``sticky`` text always the same one."""
        if wanted is not None:
            for variant in self.variants:
                if variant.name == wanted:
                    return variant
            names = ", ".join(variant.name for variant in self.variants)
            raise invalid("variant", wanted, f"is not one of {names}")
        if len(self.variants) == 1:
            return self.variants[0]
        total = sum(variant.weight for variant in self.variants)
        if sticky is None:
            point = random.random() * total  # noqa: S311 (shares traffic, guards nothing)
        else:
            digest = hashlib.blake2b(sticky.encode(), digest_size=8).digest()
            point = int.from_bytes(digest) / 2**64 * total
        for variant in self.variants:
            point -= variant.weight
            if point < 0:
                return variant
        return next(variant for variant in reversed(self.variants) if variant.weight > 0)


class Models:
    """All models of a server.

    Parameters
    ----------
    config: the server's. on_batch: told model, variant, items and seconds of each batch.
    log: takes an event's name and its fields.
    """

    def __init__(
        self,
        config: ServerConfig,
        on_batch: Callable[[str, str, int, float], None],
        log: Callable[..., None],
    ) -> None:
        self.config = config
        self.served: dict[str, ServedModel] = {}
        self.generation = 0
        self._on_batch = on_batch
        self._log = log
        self._draining: set[asyncio.Task[None]] = set()
        self._env: dict[str, str] = {}

    @property
    def ready(self) -> bool:
        return bool(self.served) and all(model.ready for model in self.served.values())

    def get(self, name: str | None) -> ServedModel:
        """The model by name; None: the first. Raises NotFound naming what there is."""
        if not self.served:
            raise ServiceUnavailable("the model is not loaded yet", retry_after=1.0)
        if name is None:
            return next(iter(self.served.values()))
        found = self.served.get(name)
        if found is None:
            raise NotFound(f"there is no model {name!r}; there are: {', '.join(self.served)}")
        return found

    async def load(self, config: ServerConfig, env: dict[str, str] | None = None) -> None:
        """Loads all that the configuration names, then lets it take over the traffic; what was
        there before answers until then, and ends when its last request is answered. Variants
        that stay as they are keep their workers; only their weight changes.

        Raises the first error of a model that cannot be loaded; then all stays as it was.
        """
        keep = env is None or env == self._env
        made: list[Group] = []
        fresh: dict[str, ServedModel] = {}
        starts: list[asyncio.Task[None]] = []
        for model in config.models:
            variants: list[Variant] = []
            for wanted in model.variants:
                version = wanted.version or (await asyncio.to_thread(_version, wanted))
                old = self._same(model.name, wanted, version, config) if keep else None
                if old is not None:
                    variants.append(Variant(wanted, version, old.group))
                    continue
                group = self._group(config, model, wanted, env or self._env)
                made.append(group)
                variants.append(Variant(wanted, version, group))
                starts.append(asyncio.ensure_future(group.start()))
            fresh[model.name] = ServedModel(model.name, variants)
        ends = await asyncio.gather(*starts, return_exceptions=True)
        errors = [end for end in ends if isinstance(end, BaseException)]
        if errors:
            await asyncio.gather(*(group.stop(0) for group in made))
            raise errors[0]
        before = [v.group for model in self.served.values() for v in model.variants]
        self.served, self.config, self._env = fresh, config, env or self._env
        self.generation += 1
        kept = {id(v.group) for model in fresh.values() for v in model.variants}
        for group in before:
            if id(group) not in kept:
                task = asyncio.ensure_future(group.stop(config.limits.drain))
                self._draining.add(task)
                task.add_done_callback(self._draining.discard)

    async def stop(self) -> None:
        groups = [v.group for model in self.served.values() for v in model.variants]
        await asyncio.gather(
            *(group.stop(self.config.limits.drain) for group in groups), *self._draining
        )

    def _same(
        self, model: str, wanted: VariantConfig, version: str, config: ServerConfig
    ) -> Variant | None:
        """The variant that runs already as it is wanted, weights aside."""
        if model not in self.served or _kernel(config) != _kernel(self.config):
            return None
        for variant in self.served[model].variants:
            plain = msgspec.structs.replace(
                variant.config, weight=wanted.weight, shadow=wanted.shadow
            )
            if plain == wanted and variant.version == version and not variant.group.closing:
                return variant
        return None

    def _group(
        self, config: ServerConfig, model: ModelConfig, variant: VariantConfig, env: dict[str, str]
    ) -> Group:
        limits = config.limits
        devices = _devices(variant.device or config.device)
        on_cpu = devices == ("cpu",)
        count = variant.workers or config.workers or (cores() if on_cpu else len(devices))
        if on_cpu and not (variant.workers or config.workers) and _together(variant):
            count = 1
        threads = max(1, cores() // count)
        name, own = model.name, variant.name
        return Group(
            Options(
                path=variant.path,
                handler=variant.handler,
                predictor=variant.predictor,
                dtype=config.dtype,
                max_batch=limits.batch or QUICK_BATCH,
                long_input=config.long_input,
                pixels=limits.pixels,
            ),
            count,
            env={**worker_env(threads), **env},
            timeout=limits.timeout,
            queue=limits.queue,
            queue_bytes=limits.held,
            batch=limits.batch,
            batch_bytes=limits.batch_bytes,
            devices=devices,
            on_batch=lambda items, seconds: self._on_batch(name, own, items, seconds),
            log=lambda event, **fields: self._log(event, model=name, variant=own, **fields),
        )

    def gauge(self, read: Callable[[Group], float]) -> dict[tuple[str, ...], float]:
        """One number of each variant's group, by model and variant."""
        return {
            (model.name, variant.name): read(variant.group)
            for model in self.served.values()
            for variant in model.variants
        }

    def describe(self) -> list[dict[str, Any]]:
        """What is loaded, for status files and the page."""
        return [
            {
                "name": model.name,
                "variants": [
                    {
                        "name": variant.name,
                        "path": variant.config.path,
                        "version": variant.version,
                        "weight": variant.weight,
                        "shadow": variant.config.shadow,
                        "ready": variant.group.ready,
                        "workers": variant.group.count,
                        "predictor": variant.group.info.get("predictor"),
                        "streams": bool(variant.group.info.get("streams")),
                        "example": example(variant.group.info),
                    }
                    for variant in model.variants
                ],
            }
            for model in self.served.values()
        ]


def _together(variant: VariantConfig) -> bool:
    """Whether one worker answers all requests together, and uses every core for it."""
    try:
        kind = kind_of(Path(variant.path), variant.handler, variant.predictor)
    except CloudAIError:
        return False  # the worker tells why
    return kind == "chat"


def example(info: dict[str, Any]) -> Any:
    """One input to begin with: of the handler's WARMUP, else made from its INPUT_SCHEMA."""
    if info.get("example") is not None:
        return info["example"]
    if info.get("predictor") == "chat":
        return _TEXT
    try:
        return _made(info.get("input_schema"))
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, RecursionError):
        return 0  # the schema is none


_TEXT: Final = "The sky is blue."


def _made(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return 0
    for name in ("examples", "enum"):
        if schema.get(name):
            return schema[name][0]
    for name in ("default", "const"):
        if name in schema:
            return schema[name]
    for name in ("anyOf", "oneOf"):
        if schema.get(name):
            return _made(schema[name][0])
    kind = schema.get("type")
    if kind == "object":
        return {key: _made(inner) for key, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_made(schema.get("items"))] * max(1, min(8, schema.get("minItems", 1)))
    plain: dict[Any, Any] = {"string": _TEXT, "boolean": True, "null": None}
    return plain.get(kind, schema.get("minimum", 0))


def _kernel(config: ServerConfig) -> tuple[object, ...]:
    """What the workers of a server depend on, its models aside."""
    return config.workers, config.device, config.dtype, config.limits, config.long_input


# What CUDA_VISIBLE_DEVICES says for no device at all.
_NONE: Final = frozenset({"", "-1", "NoDevFiles", "none"})


def _devices(device: str | None) -> tuple[str, ...]:
    """The devices that workers are put on: the one asked for, else the GPUs, else the CPU.

    The driver's own files tell the GPUs, so that the front need not load torch.
    """
    if device is not None and device not in {"auto", "cuda"}:
        return (device,)
    count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        count = min(count, len([part for part in visible.split(",") if part.strip() not in _NONE]))
    if count:
        return tuple(f"cuda:{index}" for index in range(count))
    if device == "cuda":
        raise invalid("device", device, "is not on this machine", "Leave it out, or say cpu.")
    return ("cpu",)


def _version(config: VariantConfig) -> str:
    folder = Path(config.path)
    if not folder.is_dir():
        raise invalid("model", config.path, "is not a directory")
    try:
        return model_digest(folder)[:12]
    except OSError as error:
        raise CloudAIError(f"{folder} cannot be read ({error.strerror})") from error
