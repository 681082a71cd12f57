"""A batch's lines on their way to AWS and back: prepared for the job, and its results put
together in the input's order.

The input is decoded here, so that every job gets plain JSON Lines; what cannot be decoded is not
sent. The output is made by the core's runner from the input's snapshot and the job's results, so
that formats, joins, keys and bad lines are the same as everywhere.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.assemble import Lookup, sendable, source_of
from cloudai._core.batches.formats import Source
from cloudai._core.files import paths
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    HandlerError,
    InvalidRequest,
    NotFound,
    ProviderError,
)
from cloudai.protocols import Call
from cloudai.providers.aws import s3
from cloudai.providers.aws.batch import wire
from cloudai.providers.aws.chat import converse, converse_reply
from cloudai.providers.aws.embeddings import wire as embed
from cloudai.providers.aws.endpoints.predict_wire import handler_error
from cloudai.providers.aws.session import session
from cloudai.types import BatchTransform


class Prepared(msgspec.Struct, kw_only=True):
    """Files of this machine: the input, and the parts that go to the job."""

    input: Path
    parts: list[Path]
    lines: int
    bad: int


def fetch(store: s3.Store, spec: BatchTransform, folder: Path, call: Call) -> Path:
    """The input as a file of this machine, by its own name."""
    path = paths.here(spec.input)
    if path is not None:
        return path
    target = folder / (spec.input.rpartition("/")[2] or "input")
    try:
        store.download(spec.input, target, call)
    except NotFound:
        raise InvalidRequest(
            f"input={spec.input!r} does not exist", field="input", value=spec.input
        ) from None
    return target


@contextmanager
def here(profile: Profile, spec: BatchTransform, folder: Path) -> Generator[BatchTransform]:
    """Objects in S3 as files in ``folder``, for a batch on the client's side, and its output
    back."""
    store, call = s3.Store(session(profile)), Call()
    paths: dict[str, str] = {}
    if s3.is_s3(spec.input):
        (folder / "in").mkdir(parents=True, exist_ok=True)
        paths["input"] = str(fetch(store, spec, folder / "in", call))
    if s3.is_s3(spec.output):
        paths["output"] = str(folder / "out" / spec.output.rpartition("/")[2])
    made = msgspec.structs.replace(spec, **paths)
    yield made
    for path, uri in ((made.output, spec.output), (made.errors_uri, spec.errors_uri)):
        if s3.is_s3(uri) and os.path.exists(path):
            store.upload(Path(path), uri, call)
    shutil.rmtree(folder, ignore_errors=True)


def prepare(
    spec: BatchTransform, path: Path, folder: Path, made: Callable[[int, Any], Any], size: int = 0
) -> Prepared:
    """Writes what the job gets: ``made`` gives the line for a record and its number; files of
    ``size`` lines at most, 0 puts all into one.

    Raises InvalidRequest for the first bad line, where ``on_error`` is ``fail``.
    """
    good = bad = 0
    whole = folder / "whole.jsonl"
    lines = sendable(
        spec, source_of(spec, path), lambda _, record: msgspec.json.encode(made(good, record))
    )
    with whole.open("wb") as out:
        for line in lines:
            if line is None:
                bad += 1
            else:
                out.write(line + b"\n")
                good += 1
    return Prepared(
        input=path, parts=_split(whole, folder, size, spec.max_payload), lines=good, bad=bad
    )


def _split(whole: Path, folder: Path, size: int, most: int) -> list[Path]:
    """The lines in files of ``size`` lines and ``most`` bytes, each the body of one request."""
    if not size:
        return [whole.rename(folder / "part-0000000.jsonl")]
    made: list[Path] = []
    with whole.open("rb") as source:
        line = source.readline()
        while line or not made:
            part = folder / f"part-{len(made):07d}.jsonl"
            with part.open("wb") as out:
                count = used = 0
                while line and count < size and (not count or used + len(line) <= most):
                    out.write(line)
                    count, used = count + 1, used + len(line)
                    line = source.readline()
            made.append(part)
    return made


class Answers(Lookup):
    """The job's results, in order: each an output, or the error in its stead."""

    def __init__(self, spec: BatchTransform, source: Source, results: Iterator[Any]) -> None:
        super().__init__(source)
        self._spec = spec
        self._results = results

    def answer(self, index: int, record: Any) -> Any:
        spec = self._spec
        if spec.model is None:
            wire.model_input(spec, record)  # a record that was not sent tells its own error
        found = next(self._results, None)
        if found is None:
            raise ProviderError("the job wrote fewer lines than it was given", provider="aws")
        if isinstance(found, CloudAIError):
            raise found
        if spec.chat is None and spec.embeddings is None:
            return found[0]
        try:
            return _said(spec, found) if spec.chat is not None else _vector(spec, found)
        except ProviderError as error:  # of this line alone: the others have their answers
            raise HandlerError(error.message, code="ModelError", provider="aws") from None


def _said(spec: BatchTransform, output: dict[str, Any]) -> dict[str, Any]:
    request = transforms.chat_request(spec.chat or "", spec.params)
    data, carrier = msgspec.json.encode(output), converse.schema_tool(request)
    return transforms.said(converse_reply.reply(data, request.model, None, carrier))


def _vector(spec: BatchTransform, output: Any) -> dict[str, Any]:
    vectors, _ = embed.reply(spec.embeddings or "", msgspec.json.encode(output), None, None)
    return {"embedding": vectors[0]}


def transform_results(store: s3.Store, base: str, folder: Path, call: Call) -> Iterator[Any]:
    """The lines of a transform job's outputs, in order."""
    bucket, _ = s3.parse(base)
    for key in sorted(store.keys(f"{base}/out/", call)):
        target = folder / os.path.basename(key)
        store.download(f"s3://{bucket}/{key}", target, call)
        with target.open("rb") as file:
            for line in file:
                if line.strip():
                    value = msgspec.json.decode(line)
                    yield handler_error(value) or (value,)  # None is an output too


def invocation_results(
    store: s3.Store, base: str, lines: int, folder: Path, call: Call
) -> Iterator[Any]:
    """The results of a model invocation job, put into order: Bedrock keeps none."""
    bucket, _ = s3.parse(base)
    found: dict[int, Any] = {}
    for key in store.keys(f"{base}/out/", call):
        if not key.endswith(".jsonl.out"):
            continue
        target = folder / os.path.basename(key)
        store.download(f"s3://{bucket}/{key}", target, call)
        with target.open("rb") as file:
            for line in file:
                row = msgspec.json.decode(line)
                found[int(row["recordId"])] = _outcome(row)
    for index in range(lines):
        yield found.get(index) or HandlerError(
            "the job gave no result for this line", code="NoResult", provider="aws"
        )


def _outcome(row: dict[str, Any]) -> Any:
    if "modelOutput" in row:
        return row["modelOutput"]
    told = row.get("error", {})
    return HandlerError(
        str(told.get("errorMessage", "the model gave no output")),
        code=str(told.get("errorCode", "ModelError")),
        provider="aws",
    )
