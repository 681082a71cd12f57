"""Hugging Face models that embed or classify texts, without a handler. Vectors come from the
engine of ``client.embeddings``, so that an endpoint answers as it does."""

from __future__ import annotations

import abc
import base64
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from cloudai.errors import CloudAIError, ContextOverflow, InvalidRequest
from cloudai.server.config import DEFAULT_BATCH
from cloudai.server.predictors.base import failure, is_long, to_npy
from cloudai.server.predictors.inputs import decode_inputs, decode_params
from cloudai.server.workers.wire import BASE64, Item, Options, Result
from cloudai.types._base import invalid

GPU_BATCH: Final = 1024
"""Texts that a GPU gets at once."""

_WARM_TEXTS: Final = ("a", "The quick brown fox jumps over the lazy dog.")


def texts_of(item: Item) -> list[str]:
    """The item's inputs as texts: each a text, an object with ``text``, or a row of one cell.

    Raises InvalidRequest for anything else.
    """
    texts: list[str] = []
    for at, value in enumerate(decode_inputs(item)):
        if isinstance(value, dict):
            value = value.get("text")
        elif isinstance(value, list) and len(value) == 1:
            value = value[0]
        if not isinstance(value, str):
            raise invalid(f"inputs[{at}]", value, "is neither a text nor an object with a text")
        if not value.strip():
            raise invalid(f"inputs[{at}]", value, "is empty", "Give it a word.")
        texts.append(value)
    return texts


class _TextBatch(abc.ABC):
    """What every predictor over texts does: the items' texts together, tokenised in one go, an item
    that cannot be read answered by itself."""

    def __init__(self, long_input: int) -> None:
        self._long = long_input
        self._encode = msgspec.json.Encoder().encode

    def _tokenized(
        self, items: Sequence[Item], results: list[Result | None]
    ) -> list[tuple[int, list[list[int]]]]:
        """Each readable item's position and its texts' tokens."""
        texts: list[str] = []
        spans: list[tuple[int, int, dict[str, Any]]] = []
        for index, item in enumerate(items):
            try:
                params = decode_params(item.params)
                own = texts_of(item)
                self._check(params)
            except CloudAIError as error:
                results[index] = failure(error)
                continue
            spans.append((index, len(own), params))
            texts += own
            results[index] = Result(long=sum(is_long(text, self._long) for text in own))
        ids = self._tokenize(texts) if texts else []
        found: list[tuple[int, list[list[int]]]] = []
        start = 0
        for index, count, params in spans:
            mine = ids[start : start + count]
            start += count
            try:
                found.append((index, self._fit(mine, bool(params.get("truncate")))))
            except CloudAIError as error:
                results[index] = failure(error)
        return found

    def _fit(self, ids: list[list[int]], truncate: bool) -> list[list[int]]:
        limit = self._limit()
        for at, one in enumerate(ids):
            if len(one) > limit and not truncate:
                raise ContextOverflow(
                    f"inputs[{at}] has {len(one)} tokens, and the model takes {limit}",
                    tokens=len(one),
                    limit=limit,
                    field=f"inputs[{at}]",
                    hint='Shorten it, or send "params": {"truncate": true}',
                )
        # The end token is kept, as a tokeniser that truncates keeps it.
        return [one if len(one) <= limit else [*one[: limit - 1], one[-1]] for one in ids]

    def _check(self, params: dict[str, Any]) -> None:
        for name in params:
            if name != "truncate":
                raise invalid(f"params.{name}", params[name], "is not known; truncate is")

    @abc.abstractmethod
    def _limit(self) -> int:
        """The most tokens of a text."""

    @abc.abstractmethod
    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Each text's tokens, special ones included, none cut."""

    def stream(self, item: Item, emit: Callable[[bytes], bool]) -> Result:
        return failure(invalid("stream", True, "is for chat models"))


class EmbeddingPredictor(_TextBatch):
    """Texts to vectors, packed without padding where the model allows it."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(options.long_input)
        from cloudai.engine import catalog
        from cloudai.engine import device as _device
        from cloudai.engine.embeddings import open_encoder, shortened

        dtype = "float32" if options.dtype == "auto" else options.dtype
        device = _device.pick(options.device)
        # Only GPUs gain from more; the encoder cuts what is too much for one forward.
        self._batch = GPU_BATCH if device.startswith("cuda") else DEFAULT_BATCH
        self._shortened = shortened
        self._encoder = open_encoder(catalog.Found(name=folder.name, path=folder), device, dtype)

    def info(self) -> dict[str, Any]:
        return {
            "predictor": "embeddings",
            "batch": self._batch,
            "dimensions": self._encoder.dim,
            "max_tokens": self._encoder.limit,
            "input_schema": _TEXT_SCHEMA,
            "output_schema": {"type": "array", "items": {"type": "number"}},
        }

    def warm(self) -> None:
        self._encoder.encode_ids(self._encoder.tokenize(list(_WARM_TEXTS)))

    def run(self, items: Sequence[Item]) -> list[Result]:
        results: list[Result | None] = [None] * len(items)
        found = self._tokenized(items, results)
        ids = [one for _, mine in found for one in mine]
        if ids:
            vectors = self._encoder.encode_ids(ids)
            start = 0
            for index, mine in found:
                result = results[index]
                assert result is not None  # noqa: S101 (for the type checker; made above)
                own = vectors[start : start + len(mine)]
                start += len(mine)
                cut = decode_params(items[index].params).get("dimensions")
                own = self._shortened(self._encoder, own, cut)
                if not math.isfinite(float(own.sum())):
                    results[index] = _not_finite("vector")
                    continue
                if items[index].accept == BASE64:
                    result.outputs = [
                        b'"%b"' % base64.b64encode(row) for row in own.astype("<f4", copy=False)
                    ]
                elif items[index].accept == "application/x-npy":
                    result.body, result.content_type = to_npy(own), items[index].accept
                else:
                    # As float32, whose digits are half as many as those of Python's floats.
                    result.outputs = [
                        orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in own
                    ]
                result.tokens = sum(map(len, mine))
        return [result or Result(500, error="no result") for result in results]

    def _check(self, params: dict[str, Any]) -> None:
        asked = params.pop("dimensions", None)
        if asked is not None and type(asked) is not int:
            raise invalid("dimensions", asked, "is not a whole number")
        if not self._encoder.config.fits(asked, self._encoder.dim):
            why = f"is not the model's {self._encoder.dim}, and it was not trained to be cut so"
            raise invalid("dimensions", asked, why)
        super()._check(params)

    def _limit(self) -> int:
        return self._encoder.limit

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self._encoder.tokenize(texts)


class ClassifierPredictor(_TextBatch):
    """Texts to labels: ``{"label", "confidence", "probabilities"}``, from a Hugging Face
    sequence classification model."""

    def __init__(self, folder: Path, options: Options) -> None:
        super().__init__(options.long_input)
        import torch
        from transformers import AutoModelForSequenceClassification

        from cloudai.engine import device as _device
        from cloudai.engine import loading

        self._torch = torch
        self._device = _device.pick(options.device)
        dtype = torch.float32 if options.dtype == "auto" else _device.dtype(options.dtype)
        self._tokenizer: Any = loading.tokenizer(folder)
        try:
            with loading.quiet():
                model: Any = AutoModelForSequenceClassification.from_pretrained(
                    str(folder),
                    local_files_only=True,
                    trust_remote_code=False,
                    weights_only=True,  # for .bin files: no pickled code
                    dtype=dtype,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidRequest(f"the model at {folder} cannot be loaded: {error}") from error
        self._model = model.to(self._device).eval()
        self._labels = [str(model.config.id2label[at]) for at in range(model.config.num_labels)]
        self._multi = model.config.problem_type == "multi_label_classification"
        sizes = (self._tokenizer.model_max_length, model.config.max_position_embeddings or 10**9)
        self._max = min(int(size) for size in sizes)

    def info(self) -> dict[str, Any]:
        return {
            "predictor": "classifier",
            "labels": self._labels,
            "max_tokens": self._max,
            "input_schema": _TEXT_SCHEMA,
            "output_schema": {
                "type": "object",
                "properties": {
                    "label": {"type": "string"},
                    "confidence": {"type": "number"},
                    "probabilities": {"type": "object"},
                },
                "required": ["label", "confidence", "probabilities"],
            },
        }

    def warm(self) -> None:
        self._probabilities(self._tokenize(list(_WARM_TEXTS)))

    def run(self, items: Sequence[Item]) -> list[Result]:
        results: list[Result | None] = [None] * len(items)
        found = self._tokenized(items, results)
        ids = [one for _, mine in found for one in mine]
        rows = self._probabilities(ids) if ids else []
        start = 0
        for index, mine in found:
            result = results[index]
            assert result is not None  # noqa: S101 (for the type checker; made above)
            own = rows[start : start + len(mine)]
            start += len(mine)
            if not all(map(math.isfinite, (value for row in own for value in row))):
                results[index] = _not_finite("probability")
                continue
            for row in own:
                best = max(range(len(row)), key=row.__getitem__)
                result.confidences.append(row[best])
                result.outputs.append(
                    self._encode(
                        {
                            "label": self._labels[best],
                            "confidence": row[best],
                            "probabilities": dict(zip(self._labels, row, strict=True)),
                        }
                    )
                )
            result.tokens = sum(map(len, mine))
        return [result or Result(500, error="no result") for result in results]

    def _probabilities(self, ids: list[list[int]]) -> list[list[float]]:
        from cloudai.engine.encoder import CPU_TOKENS, GPU_TOKENS, batches

        torch = self._torch
        rows: list[list[float]] = [[] for _ in ids]
        most = CPU_TOKENS if self._device == "cpu" else GPU_TOKENS
        for group in batches([len(one) for one in ids], most):
            padded = self._tokenizer.pad(
                {"input_ids": [ids[at] for at in group]}, return_tensors="pt"
            ).to(self._device)
            with torch.inference_mode():
                logits = self._model(**padded).logits.float()
            made = logits.sigmoid() if self._multi else logits.softmax(-1)
            for at, row in zip(group, made.cpu().tolist(), strict=True):
                rows[at] = row
        return rows

    def _limit(self) -> int:
        return self._max

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=True, truncation=False)["input_ids"]


def _not_finite(what: str) -> Result:
    """A null in a NaN's place would hide a broken model."""
    text = f"the model gave a {what} that is NaN or infinity"
    return Result(500, error=text, error_type="NotFinite")


_TEXT_SCHEMA: Final[dict[str, Any]] = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"text": {"type": "string", "minLength": 1}},
            "required": ["text"],
        },
    ]
}
