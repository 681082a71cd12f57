"""A batch's lines on their way to AWS and back: prepared for the job, and its results put
together in the input's order.

The input is decoded here, so that every job gets plain JSON Lines; what cannot be decoded is not
sent. The output is made by the core's runner from the input's snapshot and the job's results, so
that formats, joins, keys and bad lines are the same as everywhere.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from cloudai._core.batches import transforms
from cloudai._core.batches.formats import Source, format_of
from cloudai._core.batches.runner import BatchResult, run_batch
from cloudai._core.profiles.config import Profile
from cloudai.errors import (
    CloudAIError,
    ContentFiltered,
    HandlerError,
    InvalidRequest,
    NotFound,
    ProviderError,
)
from cloudai.protocols import Call
from cloudai.providers.aws import s3
from cloudai.providers.aws.batch import wire
from cloudai.providers.aws.chat import converse_reply
from cloudai.providers.aws.embeddings import wire as embed
from cloudai.providers.aws.endpoints.predict_wire import handler_error
from cloudai.providers.aws.session import session
from cloudai.types import BatchTransform, ChatReply, ChatRequest, EmbeddingReply, EmbeddingRequest

_CHUNK: Final = 512


class Prepared(msgspec.Struct, kw_only=True):
    """Files of this machine: the input, and the parts that go to the job."""

    input: Path
    parts: list[Path]
    lines: int
    bad: int


def fetch(store: s3.Store, spec: BatchTransform, folder: Path, call: Call) -> Path:
    """The input as a file of this machine, by its own name."""
    path = s3.local(spec.input)
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
    source = Source(path, format_of(path, spec.format), spec.max_payload)
    good = bad = 0
    whole = folder / "whole.jsonl"
    with whole.open("wb") as out:
        for number, raw in source.records():
            try:
                line = msgspec.json.encode(made(good, source.decode(raw)))
            except InvalidRequest as error:
                if spec.on_error == "fail":
                    raise InvalidRequest(
                        f"line {number} of {path.name}: {error.message}",
                        field="input",
                        hint='Mend it, or pass on_error="skip"',
                    ) from error
                bad += 1
                continue
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


def collate(
    store: s3.Store, manifest: wire.Manifest, results: Iterator[Any], call: Call
) -> wire.Result:
    """Puts the output together and in its place. ``results`` are the job's, in order, each an
    output or the error in its stead."""
    spec = manifest.spec
    with tempfile.TemporaryDirectory(prefix="cloudai-") as name:
        folder = Path(name)
        snapshot = folder / manifest.original.rpartition("/")[2]
        store.download(manifest.original, snapshot, call)
        remote = s3.is_s3(spec.output)
        output = folder / "out" / spec.output.rpartition("/")[2] if remote else Path(spec.output)
        feed = _Feed(results)
        work = msgspec.structs.replace(
            spec,
            input=str(snapshot),
            output=str(output),
            format=format_of(Path(spec.input), spec.format),
            batch_size=1 if spec.chat is not None or spec.embeddings is not None else _CHUNK,
        )
        try:
            result = run_batch(
                work, _transform(spec, feed), identity=["aws", manifest.name], concurrency=1
            )
        except (HandlerError, InvalidRequest, ContentFiltered) as error:
            return wire.Result(
                state=wire.State.FAILED, lines=manifest.lines, reason=f"{error.message}"
            )
        return _placed(store, spec, result, remote, call)


def _placed(
    store: s3.Store, spec: BatchTransform, result: BatchResult, remote: bool, call: Call
) -> wire.Result:
    outputs = {"output": spec.output}
    if result.errors_file is not None:
        outputs["errors"] = spec.errors_uri
    if remote:
        store.upload(result.output, spec.output, call)
        if result.errors_file is not None:
            store.upload(result.errors_file, spec.errors_uri, call)
    reason = f"{result.errors} of {result.lines} lines failed" if result.errors else None
    return wire.Result(
        state=result.state,
        lines=result.lines,
        errors=result.errors,
        outputs=outputs,
        reason=reason,
    )


class _Feed:
    """The job's results, taken in order."""

    def __init__(self, results: Iterator[Any]) -> None:
        self._results = results
        self._ahead: list[Any] = []

    def peek(self, count: int) -> list[Any]:
        while len(self._ahead) < count:
            try:
                self._ahead.append(next(self._results))
            except StopIteration:
                raise ProviderError(
                    "the job wrote fewer lines than it was given", provider="aws"
                ) from None
        return self._ahead[:count]

    def take(self, count: int) -> None:
        del self._ahead[:count]

    def next(self) -> Any:
        (found,) = self.peek(1)
        self.take(1)
        if isinstance(found, CloudAIError):
            raise found
        return found


def _transform(spec: BatchTransform, feed: _Feed) -> Callable[[list[Any]], list[Any]]:
    """The runner's transform: takes the results in the place of the records."""
    if spec.chat is not None:
        model = spec.chat

        def create(request: ChatRequest, call: Call) -> ChatReply:
            body = msgspec.json.encode(feed.next())
            try:
                return converse_reply.reply(body, model, None, converse_carrier(request))
            except ProviderError as error:  # of this line alone: the others have their answers
                raise HandlerError(error.message, code="ModelError", provider="aws") from None

        return transforms.chat(create, model, spec.params)
    if spec.embeddings is not None:
        return transforms.embeddings(_Vectors(feed), spec.embeddings, spec.params)

    def outputs(records: list[Any]) -> list[Any]:
        found = feed.peek(len(records))
        failed = next((one for one in found if isinstance(one, CloudAIError)), None)
        if failed is None:
            feed.take(len(records))
            return found
        if len(records) == 1:
            feed.take(1)
        # The runner halves the chunk, in order, until the bad record stands alone.
        raise failed

    return outputs


def converse_carrier(request: ChatRequest) -> str | None:
    from cloudai.providers.aws.chat import converse

    return converse.schema_tool(request)


class _Vectors:
    """The embedding results, as an adapter gives them."""

    def __init__(self, feed: _Feed) -> None:
        self._feed = feed

    def embed(self, request: EmbeddingRequest, call: Call) -> EmbeddingReply:
        from cloudai.providers.aws.embeddings.adapter import floats

        data = msgspec.json.encode(self._feed.next())
        vectors, _ = embed.reply(request.model, data, None, None)
        return EmbeddingReply(
            data=floats(vectors), dim=len(vectors[0]), model=request.model, provider="aws"
        )


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
                    yield handler_error(value) or value


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
